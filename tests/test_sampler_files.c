/* test_sampler_files.c - samplers on disk: saved, loaded and continued, or cut in parts and merged, a stream leaves
 * what it leaves undisturbed. A file is all that a sampler knows, so two are the same when their files are; updates are
 * whole numbers, so that sums of floating numbers are exact too, but for cells that are scaled. */
#include <unistd.h>

#include "io/file.h"
#include "sampler/tensor.h"
#include "test.h"

enum { ROWS1 = 40, ROWS2 = 30, DIM = 3, HEAD = ROWS2 * DIM + DIM * DIM, UPDATES = 600, DRAWS = 6, ROUNDS = 4 };

typedef struct bytes {
  unsigned char *at;
  size_t size;
} bytes;

typedef struct scratch_file {
  char path[32];
} scratch_file;

static scratch_file make_file(void) {
  scratch_file file = {"/tmp/pith-sampler-XXXXXX"};
  const int descriptor = mkstemp(file.path);
  assert_true(descriptor >= 0);
  close(descriptor);
  return file;
}

static bytes read_bytes(pith_context *context, const char *path) {
  pith_file *file = NULL;
  assert_ok(context, pith_file_open(context, path, &file));
  bytes out = {malloc(file->size), file->size};
  assert_non_null(out.at);
  memcpy(out.at, file->bytes, file->size);
  pith_file_close(file);
  return out;
}

static void assert_same_bytes(bytes a, bytes b) {
  assert_int_equal(a.size, b.size);
  assert_memory_equal(a.at, b.at, a.size);
}

/* ---- Tensor ---- */

static pith_tensor *create(pith_context *context, const pith_tensor_options *options) {
  pith_tensor *out = NULL;
  assert_ok(context, pith_tensor_create(context, options, &out));
  return out;
}

static pith_tensor_options options_of(pith_tensor_method method) {
  pith_tensor_options options;
  pith_tensor_options_init(&options);
  options.rows1 = ROWS1;
  options.rows2 = ROWS2;
  options.dim = DIM;
  options.draws = DRAWS;
  options.method = method;
  if (method != PITH_TENSOR_EXACT) options.buckets = 64;
  return options;
}

static pith_update random_update(const pith_stream *stream, uint64_t number, uint32_t kind, size_t rows) {
  return (pith_update){.kind = kind,
                       .row = pith_random_below(stream, 4 * number, rows),
                       .column = (uint32_t)pith_random_below(stream, 4 * number + 1, DIM),
                       .delta = (double)pith_random_below(stream, 4 * number + 2, 9) - 4};
}

/* All of A2 and X, then changes of A1 alone for sketches over pairs, of everything for the others. */
static void make_stream(pith_tensor_method method, uint64_t seed, pith_update *out) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 77);
  for (size_t i = 0; i < UPDATES; i++) {
    static const uint32_t kinds[] = {PITH_TENSOR_A1, PITH_TENSOR_A2, PITH_TENSOR_X};
    static const size_t rows[] = {ROWS1, ROWS2, DIM};
    size_t k = i < HEAD ? 1 + (i >= ROWS2 * DIM) : method == PITH_TENSOR_PAIRS ? 0 : i % 3;
    out[i] = random_update(&stream, i, kinds[k], rows[k]);
  }
}

static void feed(pith_context *context, pith_tensor *sampler, const pith_update *stream, size_t count) {
  size_t done = 0;
  assert_ok(context, pith_tensor_update(context, sampler, stream, count, &done));
  assert_int_equal(done, count);
}

static pith_tensor *through_file(pith_context *context, pith_tensor *sampler, const char *path) {
  pith_tensor *out = NULL;
  assert_ok(context, pith_tensor_save(context, sampler, path));
  pith_tensor_free(sampler);
  assert_ok(context, pith_tensor_load(context, path, &out));
  return out;
}

static bytes file_of(pith_context *context, const pith_tensor *sampler, const char *path) {
  assert_ok(context, pith_tensor_save(context, sampler, path));
  return read_bytes(context, path);
}

static void take(pith_context *context, pith_tensor *sampler, pith_pair *pairs) {
  size_t drawn = 0;
  assert_ok(context, pith_tensor_draw(context, sampler, DRAWS / 2, pairs, &drawn));
  assert_int_equal(drawn, DRAWS / 2);
}

static void assert_same_draws(pith_context *context, pith_tensor *a, pith_tensor *b) {
  pith_pair first[DRAWS / 2], second[DRAWS / 2];
  take(context, a, first);
  take(context, b, second);
  for (size_t i = 0; i < DRAWS / 2; i++) {
    assert_int_equal(first[i].row1, second[i].row1);
    assert_int_equal(first[i].row2, second[i].row2);
    assert_true(first[i].value == second[i].value);
  }
}

static const pith_tensor_method methods[] = {PITH_TENSOR_EXACT, PITH_TENSOR_PAIRS, PITH_TENSOR_SKETCH};
enum { METHODS = sizeof methods / sizeof *methods };

/* Saved and loaded at two random moments, drawn from in between. */
static void test_tensor_continues(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  scratch_file file = make_file();
  for (size_t m = 0; m < METHODS; m++)
    for (uint64_t round = 0; round < ROUNDS; round++) {
      pith_update stream[UPDATES];
      make_stream(methods[m], round, stream);
      pith_stream random = pith_stream_make(round, PITH_STREAM_TEST, 78);
      const size_t first = pith_random_below(&random, 0, UPDATES / 2),
                   second = UPDATES / 2 + pith_random_below(&random, 1, UPDATES / 2);
      pith_tensor_options options = options_of(methods[m]);
      options.seed = 5 + round;
      pith_tensor *undisturbed = create(context, &options), *saved = create(context, &options);
      feed(context, undisturbed, stream, second);
      feed(context, saved, stream, first);
      saved = through_file(context, saved, file.path);
      feed(context, saved, stream + first, second - first);
      assert_same_draws(context, undisturbed, saved);
      saved = through_file(context, saved, file.path);
      feed(context, undisturbed, stream + second, UPDATES - second);
      feed(context, saved, stream + second, UPDATES - second);
      bytes one = file_of(context, undisturbed, file.path), two = file_of(context, saved, file.path);
      assert_same_bytes(one, two);
      assert_same_draws(context, undisturbed, saved);
      free(two.at);
      free(one.at);
      pith_tensor_free(saved);
      pith_tensor_free(undisturbed);
    }
  unlink(file.path);
  test_context_free(context);
}

/* Parts of a stream, merged in both orders, are the whole. */
static void test_tensor_parts(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  scratch_file file = make_file();
  for (size_t m = 0; m < METHODS; m++)
    for (int turned = 0; turned < 2; turned++) {
      pith_update stream[UPDATES];
      make_stream(methods[m], 9, stream);
      const pith_tensor_options options = options_of(methods[m]);
      pith_tensor *whole = create(context, &options), *part[2];
      feed(context, whole, stream, UPDATES);
      for (size_t p = 0; p < 2; p++) {
        part[p] = create(context, &options);
        if (p == 0 || methods[m] == PITH_TENSOR_PAIRS) feed(context, part[p], stream, HEAD);
        for (size_t i = HEAD; i < UPDATES; i++)
          if (stream[i].row % 2 == p) feed(context, part[p], stream + i, 1);
        part[p] = through_file(context, part[p], file.path);
      }
      assert_ok(context, pith_tensor_merge(context, part[turned], part[!turned]));
      bytes one = file_of(context, whole, file.path), two = file_of(context, part[turned], file.path);
      if (methods[m] != PITH_TENSOR_SKETCH) assert_same_bytes(one, two);
      double norm[2];
      assert_ok(context, pith_tensor_norm(context, whole, &norm[0]));
      assert_ok(context, pith_tensor_norm(context, part[turned], &norm[1]));
      assert_true(norm[0] > 0 && fabs(norm[0] - norm[1]) <= 1e-12 * norm[0]);
      if (methods[m] != PITH_TENSOR_SKETCH) assert_same_draws(context, whole, part[turned]);
      free(two.at);
      free(one.at);
      for (size_t p = 0; p < 2; p++) pith_tensor_free(part[p]);
      pith_tensor_free(whole);
    }
  unlink(file.path);
  test_context_free(context);
}

/* ---- What is refused ---- */

static void expect_refusal(pith_context *context, const pith_tensor_options *options, const char *word) {
  const pith_tensor_options usual = options_of(PITH_TENSOR_PAIRS);
  pith_tensor *sampler = create(context, &usual), *other = create(context, options);
  assert_int_equal(pith_tensor_merge(context, sampler, other), PITH_E_ARGUMENT);
  if (!strstr(pith_context_message(context), word)) fail_msg("'%s' in: %s", word, pith_context_message(context));
  pith_tensor_free(other);
  pith_tensor_free(sampler);
}

static void test_tensor_mismatch(void **state) {
  (void)state;
  pith_context *context = test_context(1);
#define REFUSE(change, word)                                     \
  do {                                                           \
    pith_tensor_options options = options_of(PITH_TENSOR_PAIRS); \
    options.change;                                              \
    expect_refusal(context, &options, word);                     \
  } while (0)
  REFUSE(seed = 2, "seed");
  REFUSE(rows1 = 41, "rows1");
  REFUSE(rows2 = 31, "rows2");
  REFUSE(dim = 2, "dim");
  REFUSE(draws = 7, "draws");
  REFUSE(buckets = 128, "buckets");
  REFUSE(method = PITH_TENSOR_SKETCH, "methods");
#undef REFUSE
  /* Other factors under a sketch over pairs; entries that grow too large: both samplers stay as they are. */
  scratch_file file = make_file();
  const pith_tensor_options pairs = options_of(PITH_TENSOR_PAIRS), exact = options_of(PITH_TENSOR_EXACT);
  pith_tensor *a = create(context, &pairs), *b = create(context, &pairs), *c = create(context, &exact);
  const pith_update begin[] = {{PITH_TENSOR_A2, 0, 0, 1}, {PITH_TENSOR_X, 0, 0, 1}, {PITH_TENSOR_A1, 0, 0, 1}};
  const pith_update large = {PITH_TENSOR_A1, 0, 0, 9e39};
  feed(context, a, begin, 3);
  feed(context, b, begin, 2);
  bytes one = file_of(context, a, file.path);
  assert_int_equal(pith_tensor_merge(context, a, b), PITH_E_ARGUMENT);
  feed(context, b, begin, 3);
  assert_int_equal(pith_tensor_merge(context, a, b), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "A2 or X"));
  bytes two = file_of(context, a, file.path);
  assert_same_bytes(one, two);
  feed(context, c, &large, 1);
  assert_int_equal(pith_tensor_merge(context, c, c), PITH_E_VALUE);
  feed(context, c, &begin[2], 1);
  free(two.at);
  free(one.at);
  pith_tensor_free(c);
  pith_tensor_free(b);
  pith_tensor_free(a);
  unlink(file.path);
  test_context_free(context);
}

static pith_status parse(pith_context *context, const void *at, size_t size) {
  pith_file *file = NULL;
  pith_tensor *loaded = NULL;
  assert_ok(context, pith_file_lend(context, at, size, "this", &file));
  pith_status status = pith_tensor_parse(context, file, &loaded);
  pith_file_close(file);
  pith_tensor_free(loaded);
  return status;
}

/* A file with the number at `place` replaced, and its checksum put right, so that what lies behind it is reached. */
static pith_status parse_with(pith_context *context, bytes file, size_t place, const void *number) {
  unsigned char *changed = malloc(file.size);
  assert_non_null(changed);
  memcpy(changed, file.at, file.size);
  memcpy(changed + place, number, 8);
  pith_file *lent = NULL;
  uint64_t checksum = 0;
  size_t at = 0;
  assert_ok(context, pith_file_lend(context, changed, file.size, "this", &lent));
  assert_ok(context, pith_sketch_checksum(context, lent, &checksum, &at));
  memcpy(changed + at, &checksum, sizeof checksum);
  pith_file_close(lent);
  pith_status status = parse(context, changed, file.size);
  free(changed);
  return status;
}

static void test_tensor_bad_files(void **state) {
  (void)state;
  enum { FIELDS = 32, NUMBERS = FIELDS + 96 };
  pith_context *context = test_context(1);
  scratch_file path = make_file();
  for (size_t m = 0; m < METHODS; m++) {
    pith_update stream[UPDATES];
    make_stream(methods[m], 3, stream);
    const pith_tensor_options options = options_of(methods[m]);
    pith_tensor *sampler = create(context, &options);
    feed(context, sampler, stream, UPDATES);
    bytes file = file_of(context, sampler, path.path);
    pith_tensor_free(sampler);
    for (size_t at = 0; at < file.size; at += at < 200 ? 1 : 4999) { /* any byte changed, any cut */
      file.at[at] ^= 0x40;
      assert_true(parse(context, file.at, file.size) < 0);
      assert_non_null(strstr(pith_context_message(context), "this"));
      file.at[at] ^= 0x40;
      assert_int_equal(parse(context, file.at, at), PITH_E_FORMAT);
    }
    const double none = NAN, endless = INFINITY;
    const uint64_t huge = UINT64_MAX, fine = options.seed;
    for (size_t at = FIELDS; at < NUMBERS; at += 8)
      assert_int_equal(parse_with(context, file, at, &huge), at == FIELDS + 6 * 8 ? PITH_OK : PITH_E_FORMAT);
    assert_int_equal(parse_with(context, file, FIELDS + 6 * 8, &fine), PITH_OK);
    assert_int_equal(parse_with(context, file, NUMBERS, &none), PITH_E_FORMAT);
    assert_int_equal(parse_with(context, file, NUMBERS + 8 * (DIM * DIM + 1), &endless), PITH_E_FORMAT);
    pith_l2 *l2 = NULL;
    assert_ok(context, pith_tensor_save(context, sampler = create(context, &options), path.path));
    assert_int_equal(pith_l2_load(context, path.path, &l2), PITH_E_FORMAT);
    assert_non_null(strstr(pith_context_message(context), "a tensor sampler"));
    pith_tensor_free(sampler);
    free(file.at);
  }
  unlink(path.path);
  test_context_free(context);
}

/* ---- l2 ---- */

static void save_l2(pith_context *context, pith_l2 **sampler, const char *path, bytes *file) {
  assert_ok(context, pith_l2_save(context, *sampler, path));
  *file = read_bytes(context, path);
  pith_l2_free(*sampler);
  assert_ok(context, pith_l2_load(context, path, sampler));
}

static void feed_l2(pith_context *context, pith_l2 *sampler, const pith_update *stream, size_t count) {
  assert_ok(context, pith_l2_update(context, sampler, stream, count, NULL));
}

/* The same of l2 sketches, of every decoder and both kinds of cells: continued, and merged. */
static void test_l2(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  scratch_file path = make_file();
  for (int decode = PITH_DECODE_SCAN; decode <= PITH_DECODE_DYADIC; decode++)
    for (int floating = 0; floating < 2; floating++)
      for (int free_x = 0; free_x < 2; free_x++) {
        pith_l2_options options;
        pith_l2_options_init(&options);
        options.method = PITH_METHOD_SKETCH;
        options.rows = ROWS1;
        options.dim = DIM;
        options.free_x = free_x;
        options.draws = DRAWS;
        options.buckets = 64;
        options.decode = (pith_decode)decode;
        options.cells = (pith_cells)floating;
        pith_update stream[UPDATES];
        pith_stream random = pith_stream_make((uint64_t)decode, PITH_STREAM_TEST, 79);
        for (size_t i = 0; i < UPDATES; i++)
          stream[i] = random_update(&random, i, free_x && i % 5 == 0 ? PITH_UPDATE_X : PITH_UPDATE_A, ROWS1);
        pith_l2 *sampler[4]; /* undisturbed, saved in the middle, two parts */
        for (size_t s = 0; s < 4; s++) assert_ok(context, pith_l2_create(context, &options, &sampler[s]));
        bytes file[4];
        const size_t middle = pith_random_below(&random, 4 * UPDATES, UPDATES);
        feed_l2(context, sampler[0], stream, UPDATES);
        feed_l2(context, sampler[1], stream, middle);
        save_l2(context, &sampler[1], path.path, &file[1]);
        free(file[1].at);
        feed_l2(context, sampler[1], stream + middle, UPDATES - middle);
        for (size_t i = UPDATES; i-- > 0;) feed_l2(context, sampler[2 + i % 2], stream + i, 1);
        for (size_t s = 0; s < 4; s++) save_l2(context, &sampler[s], path.path, &file[s]);
        if (!floating) assert_same_bytes(file[0], file[1]); /* whose order of sums is that of the calls */
        assert_ok(context, pith_l2_merge(context, sampler[2], sampler[3]));
        free(file[2].at);
        save_l2(context, &sampler[2], path.path, &file[2]);
        if (!floating) assert_same_bytes(file[0], file[2]);
        pith_draw draws[2][DRAWS];
        size_t drawn[2];
        for (size_t s = 0; s < 2; s++)
          assert_ok(context, pith_l2_draw(context, sampler[s], DRAWS, draws[s], &drawn[s]));
        assert_int_equal(drawn[0], DRAWS);
        assert_int_equal(drawn[1], DRAWS);
        for (size_t i = 0; i < DRAWS; i++) {
          assert_int_equal(draws[0][i].row, draws[1][i].row);
          double apart = fabs(draws[0][i].value - draws[1][i].value);
          assert_true(apart <= (floating ? 1e-9 * fabs(draws[0][i].value) : 0));
        }
        for (size_t s = 0; s < 4; s++) {
          free(file[s].at);
          pith_l2_free(sampler[s]);
        }
      }
  unlink(path.path);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_tensor_continues), cmocka_unit_test(test_tensor_parts),
                                     cmocka_unit_test(test_tensor_mismatch), cmocka_unit_test(test_tensor_bad_files),
                                     cmocka_unit_test(test_l2)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
