/* test_summary.c - the summary object: filled, looked at, asked and merged. */
#include "attention.h"
#include "summary/summary.h"
#include "test.h"

enum { D = 8, DV = 5, KV_HEADS = 2, QUERY_HEADS = 4, LAYERS = 2, M = 3 };

/* Head i has `first` + 2 i points, made from `seed`; rows come from 3 rows of the input each. */
static pith_summary *make_summary(pith_context *context, uint64_t seed, pith_dtype store, size_t first) {
  pith_summary *summary = NULL;
  assert_ok(context, pith_summary_create(context, LAYERS, KV_HEADS, &summary));
  for (size_t i = 0; i < LAYERS * KV_HEADS; i++) {
    size_t points = first + 2 * i;
    float *keys = test_gaussian(seed + 3 * i, points * D, 1), *values = test_gaussian(seed + 3 * i + 1, points * DV, 1),
          *log_weight = test_gaussian(seed + 3 * i + 2, points, 2);
    int64_t *index = malloc((points + 1) * sizeof *index);
    uint8_t *exact = malloc(points + 1);
    assert_true(index && exact);
    for (size_t row = 0; row < points; row++) {
      index[row] = row % 2 ? -1 : (int64_t)(3 * row);
      exact[row] = row == 0;
    }
    assert_ok(context, pith_summary_set_head(context, summary, i / KV_HEADS, i % KV_HEADS, points, D, DV, store, keys,
                                             values, log_weight, index, exact));
    pith_summary_view(summary, i / KV_HEADS, i % KV_HEADS)->source_rows = 3 * points;
    free(keys), free(values), free(log_weight), free(index), free(exact);
  }
  summary->info.scale = 0.3;
  strcpy(summary->info.engine, "nystrom");
  return summary;
}

static double *widen(const void *data, pith_dtype dtype, size_t count) {
  double *out = malloc((count + 1) * sizeof *out);
  assert_non_null(out);
  for (size_t i = 0; i < count; i++)
    out[i] = dtype == PITH_F32   ? (double)((const float *)data)[i]
             : dtype == PITH_F16 ? (double)pith_f16_to_f32(((const uint16_t *)data)[i])
                                 : (double)pith_bf16_to_f32(((const uint16_t *)data)[i]);
  return out;
}

/* Largest difference between answers and the reference over the points of `count` summaries put side by side. */
static double distance(pith_context *context, const pith_summary *const *parts, size_t count, const float *queries,
                       double scale, bool weighted, const float *answers) {
  double largest = 0;
  for (size_t i = 0; i < LAYERS * QUERY_HEADS; i++) {
    double keys[64 * D], values[64 * DV], log_weight[64], expected[M * DV];
    size_t points = 0, layer = i / QUERY_HEADS, head = i % QUERY_HEADS / (QUERY_HEADS / KV_HEADS);
    for (size_t part = 0; part < count; part++) {
      pith_head_view view;
      assert_ok(context, pith_summary_head(context, parts[part], layer, head, &view));
      assert_true(points + view.points <= 64);
      double *k = widen(view.keys, view.store, view.points * D), *v = widen(view.values, view.store, view.points * DV);
      double *w = widen(view.log_weight, PITH_F32, view.points);
      memcpy(keys + points * D, k, view.points * D * sizeof *k);
      memcpy(values + points * DV, v, view.points * DV * sizeof *v);
      memcpy(log_weight + points, w, view.points * sizeof *w);
      points += view.points;
      free(k), free(v), free(w);
    }
    double *q = widen(queries + i * M * D, PITH_F32, M * D);
    reference_attention(q, M, keys, values, weighted ? log_weight : NULL, points, D, DV, scale, NULL, expected);
    free(q);
    for (size_t j = 0; j < M * DV; j++) largest = fmax(largest, fabs(expected[j] - (double)answers[i * M * DV + j]));
  }
  return largest;
}

static pith_array query_array(const float *queries) {
  return (pith_array){.data = queries,
                      .dtype = PITH_F32,
                      .ndim = 4,
                      .shape = {LAYERS, QUERY_HEADS, M, D},
                      .stride = {QUERY_HEADS * M * D * 4, M * D * 4, D * 4, 4}};
}

static void test_attend(void **state) {
  (void)state;
  static const pith_dtype stores[] = {PITH_F32, PITH_F16, PITH_BF16};
  pith_context *context = test_context(2);
  float *queries = test_gaussian(99, LAYERS * QUERY_HEADS * M * D, 1), answers[LAYERS * QUERY_HEADS * M * DV];
  pith_array array = query_array(queries);
  for (size_t i = 0; i < 3; i++)
    for (size_t first = 0; first < 9; first += 4) { /* 0: a head without points answers zeros */
      pith_summary *summary = make_summary(context, 7, stores[i], first);
      const pith_summary *parts[1] = {summary};
      assert_ok(context, pith_summary_attend(context, summary, &array, 0, answers));
      assert_true(distance(context, parts, 1, queries, 0.3, true, answers) < 1e-5);
      assert_true(distance(context, parts, 1, queries, 0.3, false, answers) > 1e-2); /* weights are seen */
      assert_ok(context, pith_summary_attend(context, summary, &array, 0.9, answers));
      assert_true(distance(context, parts, 1, queries, 0.9, true, answers) < 1e-5);
      size_t peak = pith_context_peak_bytes(context);
      assert_ok(context, pith_summary_attend(context, summary, &array, 0.9, answers));
      assert_int_equal(pith_context_peak_bytes(context), peak);
      pith_summary_free(summary);
    }
  free(queries);
  test_context_free(context);
}

static void test_attend_refuses(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float *queries = test_gaussian(99, LAYERS * QUERY_HEADS * M * D, 1), answers[LAYERS * QUERY_HEADS * M * DV] = {0};
  pith_summary *summary = make_summary(context, 7, PITH_F16, 4);
  pith_array array = query_array(queries), bad = array;
  bad.shape[3] = D - 1;
  assert_int_equal(pith_summary_attend(context, summary, &bad, 0, answers), PITH_E_SHAPE);
  bad = array, bad.shape[1] = 3; /* not a multiple of 2 */
  assert_int_equal(pith_summary_attend(context, summary, &bad, 0, answers), PITH_E_SHAPE);
  bad = array, bad.shape[0] = 1;
  assert_int_equal(pith_summary_attend(context, summary, &bad, 0, answers), PITH_E_SHAPE);
  bad = array, bad.dtype = PITH_I64;
  assert_int_equal(pith_summary_attend(context, summary, &bad, 0, answers), PITH_E_TYPE);
  assert_int_equal(pith_summary_attend(context, summary, &array, NAN, answers), PITH_E_ARGUMENT);
  queries[LAYERS * QUERY_HEADS * M * D - 1] = NAN; /* the last number of all */
  assert_int_equal(pith_summary_attend(context, summary, &array, 0, answers), PITH_E_VALUE);
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) assert_true(answers[i] == 0);
  pith_head_view view;
  assert_int_equal(pith_summary_head(context, summary, LAYERS, 0, &view), PITH_E_ARGUMENT);
  assert_int_equal(pith_summary_head(context, summary, 0, KV_HEADS, &view), PITH_E_ARGUMENT);
  pith_summary_free(summary);
  free(queries);
  test_context_free(context);
}

static void test_set_and_describe(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_summary *summary = NULL;
  assert_int_equal(pith_summary_create(context, 0, 1, &summary), PITH_E_SHAPE);
  assert_int_equal(pith_summary_create(context, SIZE_MAX, 2, &summary), PITH_E_SHAPE);
  assert_null(summary);
  assert_ok(context, pith_summary_create(context, 1, 2, &summary));
  float keys[4] = {1, 2, 1e5f, 4}, values[2] = {1, 2}, log_weight[2] = {0, 0};
  /* Two points of (2 + 1) numbers. 1e5 is beyond f16, not beyond bf16. */
  assert_int_equal(
      pith_summary_set_head(context, summary, 0, 0, 2, 2, 1, PITH_F16, keys, values, log_weight, NULL, NULL),
      PITH_E_VALUE);
  assert_non_null(strstr(pith_context_message(context), "keys: row 1, column 0 is 100000"));
  assert_ok(context,
            pith_summary_set_head(context, summary, 0, 0, 2, 2, 1, PITH_BF16, keys, values, log_weight, NULL, NULL));
  assert_ok(context, pith_summary_set_head(context, summary, 0, 1, 2, 2, 1, PITH_F32, keys, values, NULL, NULL, NULL));
  values[1] = INFINITY;
  assert_int_equal(pith_summary_set_head(context, summary, 0, 0, 2, 2, 1, PITH_F32, keys, values, NULL, NULL, NULL),
                   PITH_E_VALUE);
  values[1] = 2, log_weight[1] = -INFINITY; /* a weight of zero */
  assert_int_equal(
      pith_summary_set_head(context, summary, 0, 0, 2, 2, 1, PITH_F32, keys, values, log_weight, NULL, NULL),
      PITH_E_VALUE);
  assert_int_equal(pith_summary_set_head(context, summary, 0, 0, 2, 2, 1, PITH_U8, keys, values, NULL, NULL, NULL),
                   PITH_E_TYPE);
  keys[2] = 3;
  assert_ok(context, pith_summary_set_head(context, summary, 0, 0, 2, 2, 1, PITH_F16, keys, values, NULL, NULL, NULL));
  pith_summary_view(summary, 0, 0)->source_rows = 10;
  pith_summary_view(summary, 0, 1)->source_rows = 30;
  pith_summary_info info = pith_summary_describe(summary);
  assert_int_equal(info.points, 2);
  assert_int_equal(info.bytes, 2 * 3 * 2 + 2 * 4 + 2 * 3 * 4 + 2 * 4);
  assert_int_equal(info.full_bytes, 40 * 3 * 2);
  assert_true(fabs(info.ratio - 52.0 / 240) < 1e-12);
  assert_int_equal(info.certificate.kind, PITH_CERTIFICATE_NONE);

  /* The worst head: the larger bound, but before all one that is not certified. */
  pith_head_view *a = pith_summary_view(summary, 0, 0), *b = pith_summary_view(summary, 0, 1);
  a->ball = (pith_certificate){PITH_CERTIFICATE_BALL, 0.5, 1, 2, 1, 1};
  b->ball = (pith_certificate){PITH_CERTIFICATE_BALL, 0.7, 1, 2, 1, 1};
  pith_head_bind(a, PITH_CERTIFICATE_BALL), pith_head_bind(b, PITH_CERTIFICATE_BALL);
  assert_true(pith_summary_describe(summary).certificate.bound == 0.7);
  a->binding.certified = 0;
  assert_true(pith_summary_describe(summary).certificate.bound == 0.5);
  pith_summary_free(summary);
  test_context_free(context);
}

static void test_merge(void **state) {
  (void)state;
  static const pith_dtype stores[][3] = {{PITH_F32, PITH_F32, PITH_F32}, /* of two parts and the result */
                                         {PITH_F16, PITH_F16, PITH_F16},
                                         {PITH_BF16, PITH_F16, PITH_F32},
                                         {PITH_F16, PITH_F32, PITH_F32}};
  float *queries = test_gaussian(99, LAYERS * QUERY_HEADS * M * D, 1), answers[LAYERS * QUERY_HEADS * M * DV];
  pith_array array = query_array(queries);
  for (size_t i = 0; i < 4; i++)
    for (size_t first = 0; first < 5; first += 4) {
      pith_context *maker = test_context(1), *context = test_context(1);
      pith_summary *a = make_summary(maker, 7, stores[i][0], first), *b = make_summary(maker, 70, stores[i][1], 3);
      const pith_summary *parts[2] = {a, b};
      pith_summary *merged = NULL;
      pith_head_bind(pith_summary_view(a, 0, 0), PITH_CERTIFICATE_BALL);
      a->rho = 3, b->rho = 2, a->info.other_bytes = 5, b->info.other_bytes = 6;
      assert_ok(maker, pith_summary_merge(maker, parts, 2, &merged));
      pith_context_free(maker); /* all three outlive it */
      assert_ok(context, pith_summary_attend(context, merged, &array, 0, answers));
      assert_true(distance(context, parts, 2, queries, 0.3, true, answers) < 1e-5);
      assert_true(distance(context, parts, 1, queries, 0.3, true, answers) > 1e-2); /* both parts are seen */
      for (size_t head = 0; head < LAYERS * KV_HEADS; head++) {
        const pith_head_view *x = pith_summary_view(a, head / KV_HEADS, head % KV_HEADS),
                             *y = pith_summary_view(b, head / KV_HEADS, head % KV_HEADS),
                             *z = pith_summary_view(merged, head / KV_HEADS, head % KV_HEADS);
        assert_int_equal(z->store, stores[i][2]);
        assert_int_equal(z->points, x->points + y->points);
        assert_int_equal(z->source_rows, x->source_rows + y->source_rows);
        for (size_t row = 0; row < z->points; row++) {
          bool later = row >= x->points;
          const pith_head_view *from = later ? y : x;
          size_t at = later ? row - x->points : row;
          assert_int_equal(z->exact[row], from->exact[at]);
          assert_int_equal(z->index[row],
                           from->index[at] < 0 ? -1 : from->index[at] + (later ? (int64_t)x->source_rows : 0));
        }
      }
      pith_summary_info info = pith_summary_describe(merged);
      assert_string_equal(info.engine, "nystrom");
      assert_int_equal(info.other_bytes, 11);
      assert_true(merged->rho == 2);
      assert_true(info.certificate.kind == PITH_CERTIFICATE_NONE && !info.certificate.certified);
      pith_summary_free(a), pith_summary_free(b), pith_summary_free(merged);
      test_context_free(context);
    }
  free(queries);
}

static void test_merge_refuses(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_summary *a = make_summary(context, 7, PITH_F16, 4), *b = make_summary(context, 8, PITH_F16, 4), *other = NULL,
               *merged = NULL;
  const pith_summary *parts[2] = {a, b};
  size_t held = pith_context_bytes(context);
  assert_int_equal(pith_summary_merge(context, parts, 0, &merged), PITH_E_ARGUMENT);
  b->info.folded = 1;
  assert_int_equal(pith_summary_merge(context, parts, 2, &merged), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "folded"));
  b->info.folded = 0, b->info.scale = 0.4;
  assert_int_equal(pith_summary_merge(context, parts, 2, &merged), PITH_E_ARGUMENT);
  b->info.scale = 0.3;
  float number = 1;
  assert_ok(context, pith_summary_set_head(context, b, 1, 1, 1, 1, 1, PITH_F32, &number, &number, NULL, NULL, NULL));
  assert_int_equal(pith_summary_merge(context, parts, 2, &merged), PITH_E_SHAPE);
  assert_ok(context, pith_summary_create(context, 1, 1, &other));
  other->info.scale = 0.3;
  parts[1] = other;
  assert_int_equal(pith_summary_merge(context, parts, 2, &merged), PITH_E_SHAPE);
  assert_null(merged);
  pith_summary_free(other);
  assert_true(pith_context_bytes(context) <= held); /* the head that was set again is smaller */
  pith_summary_free(a), pith_summary_free(b);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_attend), cmocka_unit_test(test_attend_refuses), cmocka_unit_test(test_set_and_describe),
      cmocka_unit_test(test_merge),  cmocka_unit_test(test_merge_refuses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
