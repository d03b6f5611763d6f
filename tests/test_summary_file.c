/* test_summary_file.c - summaries to disk and back, and everything that may happen to them there. */
#define _GNU_SOURCE /* memmem */
#include <unistd.h>
#include <xxhash.h>

#include "io/file.h"
#include "summary/store.h"
#include "summary/summary.h"
#include "test.h"

static char folder[] = "/tmp/pith-summary-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  return rmdir(folder); /* fails if a test, or a failed write, left a file */
}

static const char *path_of(const char *name) {
  static char paths[2][256];
  static int turn;
  turn = !turn;
  (void)snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
  return paths[turn];
}

/* Every field set to something that is not its default; head i has 3 * i + first points. */
static pith_summary *make_summary(pith_context *context, size_t layers, size_t heads, pith_dtype store, size_t first) {
  enum { D = 4, DV = 3 };
  pith_summary *summary = NULL;
  assert_ok(context, pith_summary_create(context, layers, heads, &summary));
  for (size_t i = 0; i < layers * heads; i++) {
    size_t points = first + 3 * i;
    float *keys = test_gaussian(10 + i, points * D, 1), *values = test_gaussian(20 + i, points * DV, 1),
          *log_weight = test_gaussian(30 + i, points, 1);
    int64_t *index = malloc((points + 1) * sizeof *index);
    uint8_t *exact = malloc(points + 1);
    for (size_t row = 0; row < points; row++) {
      exact[row] = row % 3 == 0;
      index[row] = row % 3 == 1 ? -1 : (int64_t)(5 * row);
    }
    assert_ok(context, pith_summary_set_head(context, summary, i / heads, i % heads, points, D, DV, store, keys, values,
                                             log_weight, index, exact));
    pith_head_view *view = pith_summary_view(summary, i / heads, i % heads);
    view->source_rows = 5 * points + 7;
    view->probe_error = 0.1 / (double)(i + 1);
    view->ball = (pith_certificate){PITH_CERTIFICATE_BALL, INFINITY, 1, 2.0 / 3, 1.0 / 3, 0};
    view->probe = (pith_certificate){PITH_CERTIFICATE_PROBE, 0.1 + 1e-17 * (double)i, 0.9, 2.0 / 3, 0, 1};
    pith_head_bind(view, i % 2 ? PITH_CERTIFICATE_BALL : PITH_CERTIFICATE_PROBE);
    free(keys), free(values), free(log_weight), free(index), free(exact);
  }
  summary->info.other_bytes = 12345;
  summary->info.scale = 1 / sqrt(3);
  summary->info.seed = UINT64_MAX;
  summary->info.query_model = PITH_QUERIES_SAMPLES;
  strcpy(summary->info.engine, "nystrom");
  summary->rho = 1.0 / 3;
  return summary;
}

static bool same_number(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static void assert_same_certificate(const pith_certificate *a, const pith_certificate *b) {
  assert_true(a->kind == b->kind && a->certified == b->certified);
  assert_true(same_number(a->bound, b->bound) && same_number(a->confidence, b->confidence) &&
              same_number(a->trivial, b->trivial) && same_number(a->rho, b->rho));
}

static void assert_same(pith_context *context, const pith_summary *a, const pith_summary *b) {
  pith_summary_info x = pith_summary_describe(a), y = pith_summary_describe(b);
  assert_true(x.layers == y.layers && x.heads == y.heads && x.points == y.points && x.bytes == y.bytes);
  assert_true(x.full_bytes == y.full_bytes && x.other_bytes == y.other_bytes && x.ratio == y.ratio);
  assert_true(x.scale == y.scale && x.seed == y.seed && x.folded == y.folded && x.query_model == y.query_model);
  assert_true(a->rho == b->rho);
  assert_string_equal(x.engine, y.engine);
  assert_same_certificate(&x.certificate, &y.certificate);
  for (size_t i = 0; i < x.layers * x.heads; i++) {
    pith_head_view p, q;
    assert_ok(context, pith_summary_head(context, a, i / x.heads, i % x.heads, &p));
    assert_ok(context, pith_summary_head(context, b, i / x.heads, i % x.heads, &q));
    assert_true(p.points == q.points && p.d == q.d && p.dv == q.dv && p.store == q.store && p.bytes == q.bytes);
    assert_true(p.source_rows == q.source_rows);
    size_t scale = pith_store_scales(p.store, p.d), value_scale = pith_store_scales(p.store, p.dv);
    if (p.points > 0) {
      assert_memory_equal(p.keys, q.keys, p.points * pith_store_row_bytes(p.store, p.d));
      assert_memory_equal(p.values, q.values, p.points * pith_store_row_bytes(p.store, p.dv));
      if (scale) assert_memory_equal(p.key_scales, q.key_scales, p.points * scale * sizeof(uint16_t));
      if (value_scale) assert_memory_equal(p.value_scales, q.value_scales, p.points * value_scale * sizeof(uint16_t));
      assert_memory_equal(p.log_weight, q.log_weight, p.points * sizeof(float));
      assert_memory_equal(p.index, q.index, p.points * sizeof(int64_t));
      assert_memory_equal(p.exact, q.exact, p.points);
    }
    assert_true(same_number(p.probe_error, q.probe_error) && same_number(p.fold_error, q.fold_error));
    assert_same_certificate(&p.binding, &q.binding);
    assert_same_certificate(&p.ball, &q.ball);
    assert_same_certificate(&p.gaussian, &q.gaussian);
    assert_same_certificate(&p.probe, &q.probe);
  }
}

typedef struct image {
  unsigned char *bytes;
  size_t size;
} image;

static image read_file(const char *path) {
  image read = {NULL, 0};
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  read.bytes = malloc(1 << 20);
  assert_non_null(read.bytes);
  read.size = fread(read.bytes, 1, 1 << 20, file);
  (void)fclose(file);
  return read;
}

/* Parses a copy of exactly `size` bytes, so that a sanitiser sees any read beyond them. */
static pith_status parse(pith_context *context, const unsigned char *bytes, size_t size, pith_summary **out) {
  unsigned char *exact = malloc(size ? size : 1);
  assert_non_null(exact);
  memcpy(exact, bytes, size);
  pith_file *file = NULL;
  assert_ok(context, pith_file_lend(context, exact, size, "lent.safetensors", &file));
  pith_status status = pith_summary_parse(context, file, out);
  pith_file_close(file);
  free(exact);
  return status;
}

/* ---- Good ---- */

static void test_round_trip(void **state) {
  (void)state;
  static const pith_dtype stores[] = {PITH_F32, PITH_F16, PITH_BF16, PITH_Q8, PITH_Q4};
  static const size_t shapes[][3] = {{1, 1, 7}, {1, 1, 0}, {2, 3, 0}, {3, 1, 1}};
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  for (size_t store = 0; store < 5; store++)
    for (size_t shape = 0; shape < 4; shape++) {
      pith_summary *saved = make_summary(context, shapes[shape][0], shapes[shape][1], stores[store], shapes[shape][2]);
      pith_summary *loaded = NULL;
      if (shape == 2) {
        saved->info.folded = 1;
        pith_summary_view(saved, 0, 1)->fold_error = -0.25;
        pith_summary_view(saved, 1, 1)->probe_error = NAN;
        pith_summary_view(saved, 1, 2)->gaussian = (pith_certificate){PITH_CERTIFICATE_GAUSSIAN, 0.125, 1, 0.5, 0, 1};
        pith_head_bind(pith_summary_view(saved, 1, 2), PITH_CERTIFICATE_GAUSSIAN);
        pith_head_bind(pith_summary_view(saved, 0, 0), PITH_CERTIFICATE_NONE);
      }
      assert_ok(context, pith_summary_save(context, saved, path_of("a")));
      assert_ok(context, pith_summary_save(context, saved, path_of("a"))); /* over the first */
      assert_ok(context, pith_summary_load(context, path_of("a"), &loaded));
      assert_same(context, saved, loaded);
      assert_ok(context, pith_summary_save(context, loaded, path_of("b")));
      image a = read_file(path_of("a")), b = read_file(path_of("b")); /* the same summary is the same file */
      assert_int_equal(a.size, b.size);
      assert_memory_equal(a.bytes, b.bytes, a.size);
      free(a.bytes), free(b.bytes);
      pith_summary_free(saved);
      pith_summary_free(loaded);
      assert_int_equal(unlink(path_of("a")), 0);
      assert_int_equal(unlink(path_of("b")), 0);
    }
  assert_int_equal(pith_context_bytes(context), held);
  test_context_free(context);
}

/* Heads of different stores and widths that are no multiple of 32 in one file. */
static pith_summary *make_mixed(pith_context *context, size_t d, size_t dv, size_t points) {
  static const pith_dtype stores[] = {PITH_Q4, PITH_F16, PITH_Q8, PITH_Q4};
  pith_summary *summary = make_summary(context, 2, 2, PITH_F32, points);
  for (size_t i = 0; i < 4; i++) {
    size_t count = i == 3 ? 0 : points + i;
    float *keys = test_gaussian(40 + i, count * d, 1), *values = test_gaussian(50 + i, count * dv, 1);
    assert_ok(context, pith_summary_set_head(context, summary, i / 2, i % 2, count, d, dv, stores[i], keys, values,
                                             NULL, NULL, NULL));
    free(keys), free(values);
  }
  return summary;
}

static void test_mixed(void **state) {
  (void)state;
  static const size_t shapes[][2] = {{64, 64}, {65, 31}, {1, 2}, {33, 128}};
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  for (size_t i = 0; i < 4; i++) {
    pith_summary *saved = make_mixed(context, shapes[i][0], shapes[i][1], 5), *loaded = NULL;
    assert_ok(context, pith_summary_save(context, saved, path_of("a")));
    assert_ok(context, pith_summary_load(context, path_of("a"), &loaded));
    assert_same(context, saved, loaded);
    pith_summary_free(saved);
    pith_summary_free(loaded);
    assert_int_equal(unlink(path_of("a")), 0);
  }
  assert_int_equal(pith_context_bytes(context), held);
  test_context_free(context);
}

/* Runs a script, which must not contain double quotes, over the file. */
static void run_python(const char *script, const char *path) {
  if (system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0) {
    printf("skipped: no NumPy on this machine\n");
    skip();
  }
  char command[8192];
  (void)snprintf(command, sizeof command, "/usr/bin/python3 -c \"%s\" %s", script, path);
  assert_int_equal(system(command), 0);
}

/* The reader of docs/format.md in Python; it is given the dequantised rows to compare with. */
static void test_numpy_quantised(void **state) {
  (void)state;
  static const char script[] =
      "import sys, json, struct, numpy as np\n"
      "def tensors(path):\n"
      "  b = open(path, 'rb').read(); n = struct.unpack('<Q', b[:8])[0]; h = json.loads(b[8:8+n])\n"
      "  types = dict(F32='<f4', F16='<f2', I64='<i8', U8='u1', I8='i1'); m = h.pop('__metadata__')\n"
      "  return m, {k: np.frombuffer(b[8+n+e['data_offsets'][0]:8+n+e['data_offsets'][1]], types[e['dtype']])"
      ".reshape(e['shape']) for k, e in h.items()}\n"
      "levels = np.array([-127, -100, -80, -62, -48, -34, -21, -9, 2, 14, 25, 36, 50, 65, 83, 108])\n"
      "def hadamard(n): return np.array([[1.]]) if n == 1 else np.kron([[1, 1], [1, -1]], hadamard(n // 2))\n"
      "def rows(x, scale, width):\n"
      "  if x.dtype == np.uint8:\n"
      "    x = levels[np.stack([x & 15, x >> 4], -1).reshape(len(x), -1)[:, :width]]\n"
      "  x = x * np.repeat(scale.astype(float), 32, 1)[:, :width]\n"
      "  return x @ hadamard(width) / width**0.5 if width & (width - 1) == 0 else x\n"
      "m, t = tensors(sys.argv[1]); w, plain = tensors(sys.argv[2])\n"
      "for head in ('0.0.', '1.0.'):\n"
      "  for part, width in (('keys', int(m['d'])), ('values', int(m['dv']))):\n"
      "    x = t[head + part]; assert x.dtype == (np.int8 if head == '1.0.' else np.uint8)\n"
      "    y = rows(x, t[head + part + '_scale'], width)\n"
      "    assert y.shape[0] >= 5 and abs(y - plain[head + part]).max() < 1e-5 and abs(y).max() > .5\n"
      "assert '0.1.keys_scale' not in t\n";
  pith_context *context = test_context(1);
  enum { D = 64, DV = 33 };
  pith_summary *summary = make_mixed(context, D, DV, 5), *plain = make_mixed(context, D, DV, 5);
  for (size_t i = 0; i < 4; i++) {
    pith_head_view view = *pith_summary_view(summary, i / 2, i % 2);
    float *rows = malloc((view.points * (D + DV) + 1) * sizeof *rows);
    pith_head_to_f32(&view, rows, rows + view.points * D);
    assert_ok(context, pith_summary_set_head(context, plain, i / 2, i % 2, view.points, D, DV, PITH_F32, rows,
                                             rows + view.points * D, NULL, NULL, NULL));
    free(rows);
  }
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  assert_ok(context, pith_summary_save(context, plain, path_of("b")));
  char both[512];
  (void)snprintf(both, sizeof both, "%s/a %s/b", folder, folder);
  run_python(script, both);
  assert_int_equal(unlink(path_of("a")), 0);
  assert_int_equal(unlink(path_of("b")), 0);
  pith_summary_free(summary);
  pith_summary_free(plain);
  test_context_free(context);
}

/* Someone who knows the format, JSON and NumPy, and nothing of pith. */
static void test_numpy(void **state) {
  (void)state;
  static const char script[] =
      "import sys, json, struct, numpy as np\n"
      "b = open(sys.argv[1], 'rb').read()\n"
      "n = struct.unpack('<Q', b[:8])[0]\n"
      "assert n % 8 == 0\n"
      "h = json.loads(b[8:8+n]); m = h.pop('__metadata__'); end = 0\n"
      "types = dict(F32='<f4', F16='<f2', I64='<i8', U8='u1')\n"
      "t = {}\n"
      "for name, e in h.items():\n"
      "  begin, stop = e['data_offsets']\n"
      "  assert begin == end; end = stop\n"
      "  dt = np.dtype(types[e['dtype']]); assert begin % dt.itemsize == 0\n"
      "  t[name] = np.frombuffer(b[8+n+begin:8+n+stop], dt).reshape(e['shape'])\n"
      "assert 8 + n + end == len(b) and all(type(v) is str for v in m.values())\n"
      "assert len(t) == 10 and t['0.1.keys'].shape == (5, 4) and t['0.1.values'].shape == (5, 3)\n"
      "assert t['0.1.keys'].dtype == np.float16 and abs(t['0.1.keys']).max() > 0.5\n"
      "assert list(t['0.1.exact']) == [1, 0, 0, 1, 0] and list(t['0.1.index']) == [0, -1, 10, 15, -1]\n"
      "assert m['engine'] == 'nystrom' and m['seed'] == str(2**64 - 1) and float(m['scale']) == 1 / np.sqrt(3)\n"
      "assert m['pith_format'] == '1' and m['0.1.source_rows'] == '32' and float(m['0.1.probe_error']) == 0.05\n"
      "kind, *c = m['0.1.certificate'].split()\n"
      "assert kind == 'ball' and [float(x) for x in c] == [np.inf, 1, 2 / 3, 1 / 3, 0]\n";
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 1, 2, PITH_F16, 2);
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  run_python(script, path_of("a"));
  assert_int_equal(unlink(path_of("a")), 0);
  pith_summary_free(summary);
  test_context_free(context);
}

/* ---- Damage ---- */

static void flip_and_truncate(pith_dtype store) {
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 1, 1, store, 3), *out = NULL;
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  image file = read_file(path_of("a"));
  assert_int_equal(unlink(path_of("a")), 0);
  pith_summary_free(summary);
  size_t held = pith_context_bytes(context);
  for (size_t at = 0; at < file.size; at++)
    for (int bit = 0; bit < 8; bit++) {
      file.bytes[at] ^= (unsigned char)(1 << bit);
      pith_status status = parse(context, file.bytes, file.size, &out);
      if (status != PITH_E_CHECKSUM && status != PITH_E_FORMAT) fail_msg("byte %zu, bit %d: %d", at, bit, (int)status);
      file.bytes[at] ^= (unsigned char)(1 << bit);
    }
  for (size_t size = 0; size < file.size; size++) {
    pith_status status = parse(context, file.bytes, size, &out);
    if (status != PITH_E_CHECKSUM && status != PITH_E_FORMAT) fail_msg("%zu bytes: %d", size, (int)status);
  }
  file.bytes[file.size] = 0;
  assert_int_equal(parse(context, file.bytes, file.size + 1, &out), PITH_E_CHECKSUM);
  assert_null(out);
  assert_int_equal(pith_context_bytes(context), held);
  assert_ok(context, parse(context, file.bytes, file.size, &out)); /* the file itself is sound */
  pith_summary_free(out);
  free(file.bytes);
  test_context_free(context);
}

static void test_every_flip_and_truncation(void **state) {
  (void)state;
  flip_and_truncate(PITH_F16);
  flip_and_truncate(PITH_Q8);
  flip_and_truncate(PITH_Q4);
}

/* The rule of docs/format.md, followed to the letter. */
static void test_checksum_rule(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 2, 2, PITH_BF16, 3);
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  image file = read_file(path_of("a"));
  char digits[17] = {0}, expected[17];
  memcpy(digits, file.bytes + 37, 16);
  memset(file.bytes + 37, '0', 16);
  (void)snprintf(expected, sizeof expected, "%016llx", (unsigned long long)XXH64(file.bytes, file.size, 0));
  assert_string_equal(digits, expected);
  assert_int_equal(unlink(path_of("a")), 0);
  free(file.bytes);
  pith_summary_free(summary);
  test_context_free(context);
}

/* ---- Lies: a right checksum over wrong content ---- */

static void reseal(pith_context *context, image *file) {
  char digits[PITH_CHECKSUM_DIGITS + 1];
  size_t at = 0;
  pith_file *lent = NULL;
  assert_ok(context, pith_file_lend(context, file->bytes, file->size, "lent", &lent));
  assert_ok(context, pith_summary_checksum(context, lent, digits, &at));
  pith_file_close(lent);
  memcpy(file->bytes + at, digits, PITH_CHECKSUM_DIGITS);
}

/* Replaces text in the header by other text of any length. */
static void replace(image *file, const char *old, const char *new) {
  uint64_t length = 0;
  memcpy(&length, file->bytes, 8);
  unsigned char *at = memmem(file->bytes + 8, length, old, strlen(old));
  if (!at) fail_msg("no %s in the header", old);
  size_t rest = file->size - (size_t)(at - file->bytes) - strlen(old);
  memmove(at + strlen(new), at + strlen(old), rest);
  memcpy(at, new, strlen(new));
  file->size += strlen(new) - strlen(old);
  length += strlen(new) - strlen(old);
  memcpy(file->bytes, &length, 8);
}

static void test_lying_headers(void **state) {
  (void)state;
  static const struct {
    const char *old, *new;
    pith_status status;
    const char *says;
  } cases[] = {
      {"\"pith_format\":\"1\"", "\"pith_format\":\"2\"", PITH_E_VERSION, "pith_format"},
      {"\"pith_format\":\"1\",", "", PITH_E_FORMAT, "pith_format is missing"},
      {"\"engine\":\"nystrom\",", "", PITH_E_FORMAT, "engine is missing"},
      {"\"engine\":\"nystrom\"", "\"engine\":\"\"", PITH_E_FORMAT, "engine"},
      {"\"engine\":\"nystrom\"", "\"engine\":\"ny strom\"", PITH_E_FORMAT, "engine"},
      {"\"engine\":\"nystrom\"", "\"engine\":\"nystromnystromnystromnystromnystromnystrom\"", PITH_E_FORMAT, "engine"},
      {"\"query_model\":\"samples\"", "\"query_model\":\"guess\"", PITH_E_FORMAT, "guess"},
      {"\"seed\":\"18446744073709551615\"", "\"seed\":\"18446744073709551616\"", PITH_E_FORMAT, "seed"},
      {"\"seed\":\"18446744073709551615\"", "\"seed\":\"-1\"", PITH_E_FORMAT, "seed"},
      {"\"seed\":\"18446744073709551615\"", "\"seed\":\"01\"", PITH_E_FORMAT, "seed"},
      {"\"seed\":\"18446744073709551615\"", "\"seed\":\"\"", PITH_E_FORMAT, "seed"},
      {"\"scale\":\"", "\"scale\":\"-", PITH_E_FORMAT, "scale"},
      {"\"scale\":\"", "\"scale\":\"x", PITH_E_FORMAT, "scale"},
      {"\"rho\":\"", "\"rho\":\"-", PITH_E_FORMAT, "rho"},
      {"\"folded\":\"0\"", "\"folded\":\"2\"", PITH_E_FORMAT, "folded"},
      {"\"layers\":\"1\"", "\"layers\":\"2\"", PITH_E_FORMAT, "2 layers"},
      {"\"layers\":\"1\"", "\"layers\":\"0\"", PITH_E_FORMAT, "0 layers"},
      {"\"heads\":\"1\"", "\"heads\":\"18446744073709551615\"", PITH_E_FORMAT, "heads"},
      {"\"source_rows\":\"22\"", "\"source_rows\":\"10\"", PITH_E_FORMAT, "index: row 2 is 10"},
      {"\"source_rows\":\"22\"", "\"source_rows\":\"1099511627777\"", PITH_E_FORMAT, "source_rows"},
      {"\"source_rows\":\"22\",", "", PITH_E_FORMAT, "source_rows is missing"},
      {"\"probe_error\":\"", "\"probe_error\":\"-", PITH_E_FORMAT, "probe_error"},
      {"\"probe_error\":\"", "\"probe_error\":\"nan", PITH_E_FORMAT, "probe_error"},
      {"\"certificate\":\"probe", "\"certificate\":\"tail", PITH_E_FORMAT, "certificate"},
      {"\"certificate\":\"probe", "\"certificate\":\"sure", PITH_E_FORMAT, "certificate"},
      {"\"certificate\":\"probe ", "\"certificate\":\"probe -", PITH_E_FORMAT, "certificate"},
      {"\"certificate\":\"probe ", "\"certificate\":\"probe 1 ", PITH_E_FORMAT, "certificate"},
      {"\"certificate\":\"probe ", "\"certificate\":\"probe  ", PITH_E_FORMAT, "certificate"},
      {"\"certificate.ball\":\"ball inf 1.0 ", "\"certificate.ball\":\"ball inf 2.0 ", PITH_E_FORMAT,
       "certificate.ball"},
      {"\"certificate.ball\":\"ball inf 1.0 ", "\"certificate.ball\":\"ball inf ", PITH_E_FORMAT, "certificate.ball"},
      {"\"certificate.ball\":\"ball", "\"certificate.ball\":\"probe", PITH_E_FORMAT, "certificate.ball"},
      {"\"keys\":{\"dtype\":\"F16\",\"shape\":[3,4]", "\"keys\":{\"dtype\":\"BF16\",\"shape\":[3,4]", PITH_E_FORMAT,
       "values"},
      {"\"keys\":{\"dtype\":\"F16\",\"shape\":[3,4]", "\"keys\":{\"dtype\":\"F16\",\"shape\":[4,3]", PITH_E_FORMAT,
       "values"},
      {"\"keys\":{\"dtype\":\"F16\",\"shape\":[3,4]", "\"keys\":{\"dtype\":\"F16\",\"shape\":[12]", PITH_E_FORMAT,
       "dimensions"},
      {"\"exact\":{\"dtype\":\"U8\"", "\"exact\":{\"dtype\":\"I8\"", PITH_E_FORMAT, "exact"},
      {"\"index\":{", "\"indices\":{", PITH_E_FORMAT, "index"},
      {"\"exact\":{", "\"more\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[78,78]},\"exact\":{", PITH_E_FORMAT,
       "6 tensors"},
  };
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 1, 1, PITH_F16, 3), *out = NULL;
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  pith_summary_free(summary);
  size_t held = pith_context_bytes(context);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    image file = read_file(path_of("a"));
    replace(&file, cases[i].old, cases[i].new);
    reseal(context, &file);
    pith_status status = parse(context, file.bytes, file.size, &out);
    if (status != cases[i].status || !strstr(pith_context_message(context), cases[i].says))
      fail_msg("%s -> %s: %s: %s", cases[i].old, cases[i].new, pith_status_name(status), pith_context_message(context));
    assert_non_null(strstr(pith_context_message(context), "lent.safetensors"));
    free(file.bytes);
  }
  assert_null(out);
  assert_int_equal(pith_context_bytes(context), held);
  assert_int_equal(unlink(path_of("a")), 0);
  test_context_free(context);
}

static void test_lying_tensors(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 1, 1, PITH_F16, 3), *out = NULL;
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  pith_summary_free(summary);
  image file = read_file(path_of("a"));
  assert_int_equal(unlink(path_of("a")), 0);
  /* From the end: exact (3), values (18), keys (24), log_weight (12), index (24). */
  static const struct {
    size_t back, size;
    unsigned char bytes[8];
    pith_status status;
    const char *says;
  } cases[] = {
      {1, 1, {2}, PITH_E_FORMAT, "exact: row 2 is 2"},
      {3 + 18, 2, {0x00, 0x7c}, PITH_E_VALUE, "values: number 0"},
      {3 + 18 + 2, 2, {0x00, 0xfe}, PITH_E_VALUE, "keys: number 11"},
      {3 + 18 + 24 + 4, 4, {0, 0, 0x80, 0xff}, PITH_E_VALUE, "log_weight: number 2"},
      {3 + 18 + 24 + 12 + 24, 8, {22}, PITH_E_FORMAT, "index: row 0 is 22"},
      {3 + 18 + 24 + 12 + 8, 8, {254, 255, 255, 255, 255, 255, 255, 255}, PITH_E_FORMAT, "index: row 2 is -2"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    unsigned char keep[8], *at = file.bytes + file.size - cases[i].back;
    memcpy(keep, at, cases[i].size);
    memcpy(at, cases[i].bytes, cases[i].size);
    reseal(context, &file);
    pith_status status = parse(context, file.bytes, file.size, &out);
    if (status != cases[i].status || !strstr(pith_context_message(context), cases[i].says))
      fail_msg("case %zu: %s: %s", i, pith_status_name(status), pith_context_message(context));
    memcpy(at, keep, cases[i].size);
  }
  reseal(context, &file);
  assert_ok(context, parse(context, file.bytes, file.size, &out));
  pith_summary_free(out);
  free(file.bytes);
  test_context_free(context);
}

/* Quantised heads: keys of 5 and values of 3 numbers in q4, so that rows end in half a byte. */
static void test_lying_quantised(void **state) {
  (void)state;
  static const struct {
    const char *old, *new;
    pith_status status;
    const char *says;
  } cases[] = {
      {"\"d\":\"5\"", "\"d\":\"7\"", PITH_E_FORMAT, "tensor \"keys\""},
      {"\"d\":\"5\"", "\"d\":\"0\"", PITH_E_FORMAT, "tensor \"keys\""},
      {"\"d\":\"5\"", "\"d\":\"18446744073709551615\"", PITH_E_FORMAT, "d"},
      {"\"d\":\"5\",", "", PITH_E_FORMAT, "d is missing"},
      {"\"dv\":\"3\"", "\"dv\":\"33\"", PITH_E_FORMAT, "tensor \"values\""},
      {"\"keys_scale\":{\"dtype\":\"F16\"", "\"keys_scale\":{\"dtype\":\"BF16\"", PITH_E_FORMAT, "keys_scale"},
      {"\"keys_scale\":{\"dtype\":\"F16\",\"shape\":[3,1]", "\"keys_scale\":{\"dtype\":\"F16\",\"shape\":[1,3]",
       PITH_E_FORMAT, "keys_scale"},
      {"\"keys_scale\":{\"dtype\":\"F16\",\"shape\":[3,1]", "\"keys_scale\":{\"dtype\":\"F16\",\"shape\":[3]",
       PITH_E_FORMAT, "dimensions"},
      {"\"values_scale\":{", "\"values_scales\":{", PITH_E_FORMAT, "values_scale"},
      {"\"values\":{\"dtype\":\"U8\"", "\"values\":{\"dtype\":\"I8\"", PITH_E_FORMAT, "values"},
      {"\"keys\":{\"dtype\":\"U8\"", "\"keys\":{\"dtype\":\"I8\"", PITH_E_FORMAT, "values"},
  };
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 1, 1, PITH_F32, 3), *out = NULL;
  float *keys = test_gaussian(1, 15, 1), *values = test_gaussian(2, 9, 1);
  assert_ok(context, pith_summary_set_head(context, summary, 0, 0, 3, 5, 3, PITH_Q4, keys, values, NULL, NULL, NULL));
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    image file = read_file(path_of("a"));
    replace(&file, cases[i].old, cases[i].new);
    reseal(context, &file);
    pith_status status = parse(context, file.bytes, file.size, &out);
    if (status != cases[i].status || !strstr(pith_context_message(context), cases[i].says))
      fail_msg("%s -> %s: %s: %s", cases[i].old, cases[i].new, pith_status_name(status), pith_context_message(context));
    free(file.bytes);
  }
  /* From the end: exact (3), values (6), keys (9), values_scale (6), keys_scale (6). */
  static const struct {
    size_t back;
    unsigned char bytes[2];
    size_t size;
    const char *says;
  } lies[] = {{3 + 6 + 1, {0x10}, 1, "keys: number 15"},
              {3 + 1, {0x1f}, 1, "values: number 9"},
              {3 + 6 + 9 + 6, {0x00, 0x7c}, 2, "values: number 0"},
              {3 + 6 + 9 + 6 + 2, {0x01, 0xfe}, 2, "keys: number 10"}};
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    image file = read_file(path_of("a"));
    memcpy(file.bytes + file.size - lies[i].back, lies[i].bytes, lies[i].size);
    reseal(context, &file);
    assert_int_equal(parse(context, file.bytes, file.size, &out), PITH_E_VALUE);
    if (!strstr(pith_context_message(context), lies[i].says)) fail_msg("%s", pith_context_message(context));
    free(file.bytes);
  }
  /* q8 has no -128. */
  assert_ok(context, pith_summary_set_head(context, summary, 0, 0, 3, 5, 3, PITH_Q8, keys, values, NULL, NULL, NULL));
  ((int8_t *)(uintptr_t)pith_summary_view(summary, 0, 0)->keys)[7] = INT8_MIN;
  assert_int_equal(pith_summary_save(context, summary, path_of("a")), PITH_E_VALUE);
  assert_non_null(strstr(pith_context_message(context), "keys: number 7"));
  assert_int_equal(unlink(path_of("a")), 0);
  free(keys), free(values);
  pith_summary_free(summary);
  test_context_free(context);
}

/* ---- Writing that is refused ---- */

static void test_unwritable(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_summary *summary = make_summary(context, 1, 1, PITH_F32, 3), *out = NULL;
  size_t held = pith_context_bytes(context);
  assert_int_equal(pith_summary_save(context, summary, path_of("absent/a")), PITH_E_IO);
  assert_non_null(strstr(pith_context_message(context), "absent/a"));
  assert_int_equal(pith_summary_save(context, summary, folder), PITH_E_IO);
  assert_int_equal(pith_summary_load(context, path_of("absent"), &out), PITH_E_IO);
  if (access("/dev/full", W_OK) == 0) assert_int_equal(pith_summary_save(context, summary, "/dev/full"), PITH_E_IO);

  /* What could not be loaded is not saved, and the file that is there stays. */
  assert_ok(context, pith_summary_save(context, summary, path_of("a")));
  image before = read_file(path_of("a"));
  pith_head_view *view = pith_summary_view(summary, 0, 0);
  ((float *)(uintptr_t)view->keys)[5] = NAN;
  assert_int_equal(pith_summary_save(context, summary, path_of("a")), PITH_E_VALUE);
  ((float *)(uintptr_t)view->keys)[5] = 0;
  view->ball.bound = NAN;
  assert_int_equal(pith_summary_save(context, summary, path_of("a")), PITH_E_FORMAT);
  view->ball.bound = 1;
  summary->info.scale = 0;
  assert_int_equal(pith_summary_save(context, summary, path_of("a")), PITH_E_FORMAT);
  image after = read_file(path_of("a"));
  assert_int_equal(before.size, after.size);
  assert_memory_equal(before.bytes, after.bytes, before.size);
  assert_int_equal(unlink(path_of("a")), 0);
  assert_int_equal(pith_context_bytes(context), held);
  free(before.bytes), free(after.bytes);
  pith_summary_free(summary);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_mixed),
      cmocka_unit_test(test_numpy),
      cmocka_unit_test(test_numpy_quantised),
      cmocka_unit_test(test_every_flip_and_truncation),
      cmocka_unit_test(test_checksum_rule),
      cmocka_unit_test(test_lying_headers),
      cmocka_unit_test(test_lying_tensors),
      cmocka_unit_test(test_lying_quantised),
      cmocka_unit_test(test_unwritable),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
