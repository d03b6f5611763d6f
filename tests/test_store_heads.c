/* test_store_heads.c - summaries with heads of different stores, and what quantised points cost real heads. */
#include "attention.h"
#include "pith/compress.h"
#include "pith/file.h"
#include "summary/store.h"
#include "summary/summary.h"
#include "test.h"

/* ---- Summaries ---- */

enum { LAYERS = 2, HEADS = 2, GROUP = 2, M = 9, LATER = 5 };

static pith_summary *make_summary(pith_context *context, const pith_dtype *stores, size_t d, size_t dv, uint64_t seed) {
  pith_summary *summary = NULL;
  assert_ok(context, pith_summary_create(context, LAYERS, HEADS, &summary));
  summary->info.scale = 1 / sqrt((double)d);
  strcpy(summary->info.engine, "nystrom");
  for (size_t i = 0; i < LAYERS * HEADS; i++) {
    size_t points = 20 + 3000 * (i == 1) + i;
    float *keys = test_gaussian(seed + i, points * d, 1.5), *values = test_gaussian(seed + 10 + i, points * dv, 1);
    float *log_weight = test_gaussian(seed + 20 + i, points, 1);
    assert_ok(context, pith_summary_set_head(context, summary, i / HEADS, i % HEADS, points, d, dv, stores[i], keys,
                                             values, log_weight, NULL, NULL));
    pith_summary_view(summary, i / HEADS, i % HEADS)->source_rows = 5 * points;
    free(keys), free(values), free(log_weight);
  }
  return summary;
}

/* The answers of head i in double: its points, then the later rows that each query sees. */
static void reference_answers(const pith_head_view *view, const float *queries, const float *later_keys,
                              const float *later_values, double scale, double *out) {
  size_t d = view->d, dv = view->dv, n = view->points, all = n + (later_keys ? LATER : 0);
  float *rows = malloc((n * (d + dv) + 1) * sizeof *rows);
  double *query64 = test_doubles(M * d), *key64 = test_doubles(all * d), *value64 = test_doubles(all * dv),
         *weight64 = test_doubles(all);
  unsigned char *mask = malloc(M * all + 1);
  pith_head_to_f32(view, rows, rows + n * d);
  for (size_t i = 0; i < M * d; i++) query64[i] = queries[i];
  for (size_t i = 0; i < all * d; i++) key64[i] = i < n * d ? rows[i] : later_keys[i - n * d];
  for (size_t i = 0; i < all * dv; i++) value64[i] = i < n * dv ? rows[n * d + i] : later_values[i - n * dv];
  for (size_t i = 0; i < n; i++) weight64[i] = view->log_weight[i];
  for (size_t r = 0; r < M; r++)
    for (size_t i = 0; i < all; i++) mask[r * all + i] = i < n || i - n + M <= LATER + r;
  reference_attention(query64, M, key64, value64, weight64, all, d, dv, scale, mask, out);
  void *blocks[] = {rows, query64, key64, value64, weight64, mask};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) free(blocks[i]);
}

/* Heads of different stores, alone and with later rows, which are not turned. */
static void test_attend(void **state) {
  (void)state;
  static const pith_dtype stores[] = {PITH_Q8, PITH_Q4, PITH_F16, PITH_Q4};
  static const size_t shapes[][2] = {{64, 64}, {64, 33}, {33, 64}, {80, 48}};
  pith_context *context = test_context(2);
  for (size_t shape = 0; shape < 4; shape++) {
    size_t d = shapes[shape][0], dv = shapes[shape][1], count = LAYERS * HEADS * GROUP * M * dv;
    pith_summary *summary = make_summary(context, stores, d, dv, 50);
    float *queries = test_gaussian(1, LAYERS * HEADS * GROUP * M * d, 1.5), *out = malloc(count * sizeof *out);
    float *later_keys = test_gaussian(2, LAYERS * HEADS * LATER * d, 1.5);
    float *later_values = test_gaussian(3, LAYERS * HEADS * LATER * dv, 1);
    pith_array q = {queries, PITH_F32, 4, {LAYERS, HEADS * GROUP, M, d}, {0}};
    pith_array k = {later_keys, PITH_F32, 4, {LAYERS, HEADS, LATER, d}, {0}};
    pith_array v = {later_values, PITH_F32, 4, {LAYERS, HEADS, LATER, dv}, {0}};
    for (pith_array *array = &q; array; array = array == &q ? &k : array == &k ? &v : NULL) {
      ptrdiff_t stride = sizeof(float);
      for (size_t i = 4; i-- > 0; stride *= (ptrdiff_t)array->shape[i]) array->stride[i] = stride;
    }
    double *exact = test_doubles(M * dv);
    for (int beside = 0; beside < 2; beside++) {
      if (beside)
        assert_ok(context, pith_summary_attend_beside(context, summary, &q, &k, &v, 0, out));
      else
        assert_ok(context, pith_summary_attend(context, summary, &q, 0, out));
      for (size_t j = 0; j < LAYERS * HEADS * GROUP; j++) {
        size_t i = j / GROUP;
        pith_head_view view;
        assert_ok(context, pith_summary_head(context, summary, i / HEADS, i % HEADS, &view));
        assert_int_equal(view.store, stores[i]);
        assert_int_equal(view.bytes, view.points * pith_store_point_bytes(stores[i], d, dv));
        reference_answers(&view, queries + j * M * d, beside ? later_keys + i * LATER * d : NULL,
                          later_values + i * LATER * dv, summary->info.scale, exact);
        for (size_t e = 0; e < M * dv; e++)
          if (!(fabs(out[j * M * dv + e] - exact[e]) <= 3e-6))
            fail_msg("%zu by %zu, head %zu, beside %d: %g, not %g", d, dv, j, beside, (double)out[j * M * dv + e],
                     exact[e]);
      }
    }
    pith_summary_free(summary);
    free(queries), free(out), free(later_keys), free(later_values), free(exact);
  }
  test_context_free(context);
}

static void test_merge(void **state) {
  (void)state;
  static const pith_dtype stores[2][4] = {{PITH_Q8, PITH_Q4, PITH_Q4, PITH_F16}, {PITH_Q8, PITH_Q4, PITH_Q8, PITH_Q4}};
  pith_context *context = test_context(1);
  enum { D = 48, DV = 32 };
  pith_summary *part[2] = {make_summary(context, stores[0], D, DV, 50), make_summary(context, stores[1], D, DV, 90)};
  pith_summary *merged = NULL;
  assert_ok(context, pith_summary_merge(context, (const pith_summary *const *)part, 2, &merged));
  for (size_t i = 0; i < LAYERS * HEADS; i++) {
    pith_head_view from[2], view;
    assert_ok(context, pith_summary_head(context, merged, i / HEADS, i % HEADS, &view));
    assert_int_equal(view.store, i < 2 ? stores[0][i] : PITH_F32);
    float *all = malloc(view.points * (D + DV) * sizeof *all), *one = malloc(view.points * (D + DV) * sizeof *one);
    pith_head_to_f32(&view, all, all + view.points * D);
    size_t at = 0;
    for (size_t p = 0; p < 2; p++) {
      assert_ok(context, pith_summary_head(context, part[p], i / HEADS, i % HEADS, &from[p]));
      pith_head_to_f32(&from[p], one, one + from[p].points * D);
      assert_memory_equal(all + at * D, one, from[p].points * D * sizeof *one);
      assert_memory_equal(all + view.points * D + at * DV, one + from[p].points * D, from[p].points * DV * sizeof *one);
      at += from[p].points;
    }
    assert_int_equal(at, view.points);
    free(all), free(one);
  }
  for (size_t p = 0; p < 2; p++) pith_summary_free(part[p]);
  pith_summary_free(merged);
  test_context_free(context);
}

/* ---- Real heads: the demonstration arrays, the first rows kept, asked by the later queries with the later rows
 * beside them, as a model does ---- */

enum { PREFIX = 1536, ASKED = 512 };

typedef struct real_heads {
  pith_file *file[3];
  pith_array queries, keys, values;           /* of the prefix, two layers */
  pith_array asked, later_keys, later_values; /* behind it */
  size_t rows;                                /* answers */
  float *exact;
} real_heads;

static pith_array open_array(pith_context *context, const char *name, pith_file **file) {
  char path[1024];
  pith_array array;
  (void)snprintf(path, sizeof path, PITH_ROOT "/examples/data/text-%s.npy", name);
  assert_ok(context, pith_npy_open(context, path, file, &array));
  array.shape[0] = 2;
  return array;
}

static void open_heads(pith_context *context, real_heads *heads) {
  pith_array queries = open_array(context, "queries", &heads->file[0]);
  pith_array keys = open_array(context, "keys", &heads->file[1]);
  pith_array values = open_array(context, "values", &heads->file[2]);
  heads->queries = pith_array_rows(&queries, 0, PREFIX);
  heads->keys = pith_array_rows(&keys, 0, PREFIX);
  heads->values = pith_array_rows(&values, 0, PREFIX);
  heads->asked = pith_array_rows(&queries, PREFIX, ASKED);
  heads->later_keys = pith_array_rows(&keys, PREFIX, ASKED);
  heads->later_values = pith_array_rows(&values, PREFIX, ASKED);
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.causal = 1;
  heads->rows = pith_array_layers(&queries) * pith_array_heads(&queries) * ASKED;
  heads->exact = malloc(heads->rows * 64 * sizeof(float));
  assert_ok(context, pith_attention_compute(context, &heads->asked, &keys, &values, &options, heads->exact));
}

static void close_heads(real_heads *heads) {
  for (size_t i = 0; i < 3; i++) pith_file_close(heads->file[i]);
  free(heads->exact);
}

static pith_error error_of(pith_context *context, const real_heads *heads, const char *engine, pith_dtype store,
                           double *ratio) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  options.store = store;
  options.rope = PITH_ROPE_PAIRS;
  options.rope_base = 10000;
  options.samples = 768;
  options.probes = 0;
  options.refine = 0;
  if (strcmp(engine, "exact") != 0) options.points = PREFIX / 8;
  pith_summary *summary = NULL;
  float *out = malloc(heads->rows * 64 * sizeof *out);
  assert_ok(context, pith_compress(context, &heads->keys, &heads->values, &heads->queries, &options, &summary));
  assert_ok(context, pith_summary_attend_beside(context, summary, &heads->asked, &heads->later_keys,
                                                &heads->later_values, 0, out));
  *ratio = pith_summary_describe(summary).ratio;
  pith_error error = pith_error_measure(heads->exact, out, heads->rows, 64);
  pith_summary_free(summary);
  free(out);
  return error;
}

/* Points in q8 err as those in f32; those in q4, the negative control, do not. */
static void test_real_points(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  real_heads heads;
  double ratio = 0;
  open_heads(context, &heads);
  double plain = error_of(context, &heads, "nystrom", PITH_F32, &ratio).relative;
  double q8 = error_of(context, &heads, "nystrom", PITH_Q8, &ratio).relative;
  printf("nystrom, 1/8 of the points: relative error %.5f in f32, %.5f in q8 (ratio %.4f)", plain, q8, ratio);
  assert_true(fabs(q8 - plain) < 0.01 * plain);
  double q4 = error_of(context, &heads, "nystrom", PITH_Q4, &ratio).relative;
  printf(", %.5f in q4 (ratio %.4f)\n", q4, ratio);
  assert_true(q4 > 1.01 * plain && q4 < 2.5 * plain);
  close_heads(&heads);
  test_context_free(context);
}

static void test_whole_caches(void **state) {
  (void)state;
  static const struct {
    pith_dtype store;
    double ratio, most;
  } cases[] = {{PITH_F16, 260.0 / 256, 1e-5}, {PITH_Q8, 140.0 / 256, 6e-4}, {PITH_Q4, 76.0 / 256, 8e-3}};
  pith_context *context = test_context(2);
  real_heads heads;
  open_heads(context, &heads);
  for (size_t i = 0; i < 3; i++) {
    double ratio = 0, error = error_of(context, &heads, "exact", cases[i].store, &ratio).relative;
    printf("whole cache in %s: ratio %.4f, relative attention error %.5f\n", pith_dtype_name(cases[i].store), ratio,
           error);
    assert_true(fabs(ratio - cases[i].ratio) < 1e-9);
    assert_true(error < cases[i].most);
  }
  close_heads(&heads);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_attend),
      cmocka_unit_test(test_merge),
      cmocka_unit_test(test_real_points),
      cmocka_unit_test(test_whole_caches),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
