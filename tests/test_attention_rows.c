/* test_attention_rows.c - attention over stored rows: invariances, log-weights, jobs, states, error measure. */
#include "attention.h"
#include "attention/attention.h"
#include "test.h"

static void *take(size_t count, size_t size) {
  void *out = calloc(count + 1, size);
  assert_non_null(out);
  return out;
}

/* ---- What must not change anything: shifts and order ---- */

static double distance(const float *a, const float *b, size_t count) {
  double gap = 0, norm = 0;
  for (size_t i = 0; i < count; i++) {
    gap += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    norm += (double)a[i] * a[i];
  }
  return sqrt(gap / norm);
}

static void test_invariance(void **state) {
  (void)state;
  enum { M = 9, N = 3000, D = 64 };
  pith_context *context = test_context(2);
  float *query = test_gaussian(31, M * D, .25), *key = test_gaussian(32, N * D, 1),
        *value = test_gaussian(33, N * D, 1);
  float *key2 = take(N * D, sizeof *key2), *value2 = take(N * D, sizeof *value2);
  static float plain[M * D], other[M * D];
  pith_rows rows = {.keys = key,
                    .values = value,
                    .key_stride = D * 4,
                    .value_stride = D * 4,
                    .dtype = PITH_F32,
                    .count = N,
                    .d = D,
                    .dv = D};
  assert_ok(context, pith_attend_rows(context, &rows, query, M, plain));

  /* One vector added to all keys. */
  for (size_t i = 0; i < N * D; i++) key2[i] = key[i] + (float)(i % D % 5) * .25f;
  rows.keys = key2;
  assert_ok(context, pith_attend_rows(context, &rows, query, M, other));
  assert_true(distance(plain, other, M * D) <= 1e-5);

  /* One vector added to all values moves the answers by it. */
  rows.keys = key;
  for (size_t i = 0; i < N * D; i++) value2[i] = value[i] + (float)(i % D % 5) * .25f;
  rows.values = value2;
  assert_ok(context, pith_attend_rows(context, &rows, query, M, other));
  for (size_t i = 0; i < M * D; i++) other[i] -= (float)(i % D % 5) * .25f;
  assert_true(distance(plain, other, M * D) <= 1e-5);

  /* Another order of the rows. */
  static size_t permutation[N];
  pith_stream stream = pith_stream_make(34, PITH_STREAM_TEST, 0);
  pith_random_permutation(&stream, permutation, N);
  for (size_t i = 0; i < N; i++) {
    memcpy(key2 + i * D, key + permutation[i] * D, D * sizeof *key);
    memcpy(value2 + i * D, value + permutation[i] * D, D * sizeof *value);
  }
  rows.keys = key2;
  assert_ok(context, pith_attend_rows(context, &rows, query, M, other));
  assert_true(distance(plain, other, M * D) <= 1e-5);

  /* The measure sees a difference where there is one. */
  rows.values = value;
  assert_ok(context, pith_attend_rows(context, &rows, query, M, other));
  assert_true(distance(plain, other, M * D) > .1);

  free(query);
  free(key);
  free(value);
  free(key2);
  free(value2);
  test_context_free(context);
}

/* ---- Rows with weights, many jobs, states ---- */

static void test_log_weights(void **state) {
  (void)state;
  const size_t counts[] = {1, 50, 5000}, queries[] = {1, 8, 70, 4200};
  for (size_t c = 0; c < 3; c++)
    for (size_t t = 0; t < 4; t++) {
      size_t n = counts[c], m = queries[t], d = 8, dv = 11;
      if (n * m > 1000000) continue;
      float *query = test_gaussian(41, m * d, .5), *key = test_gaussian(42, n * d, 1);
      float *value = test_gaussian(43, n * dv, 1), *weight = test_gaussian(44, n, 2);
      double *query64 = take(m * d, 8), *key64 = take(n * d, 8), *value64 = take(n * dv, 8), *weight64 = take(n, 8);
      double *exact = take(m * dv, 8);
      float *found[2] = {take(m * dv, 4), take(m * dv, 4)};
      for (size_t i = 0; i < m * d; i++) query64[i] = query[i];
      for (size_t i = 0; i < n * d; i++) key64[i] = key[i];
      for (size_t i = 0; i < n * dv; i++) value64[i] = value[i];
      for (size_t i = 0; i < n; i++) weight64[i] = weight[i];
      reference_attention(query64, m, key64, value64, weight64, n, d, dv, 1, NULL, exact);
      pith_rows rows = {.keys = key,
                        .values = value,
                        .key_stride = (ptrdiff_t)(d * 4),
                        .value_stride = (ptrdiff_t)(dv * 4),
                        .dtype = PITH_F32,
                        .count = n,
                        .d = d,
                        .dv = dv,
                        .log_weight = weight};
      for (int threads = 1; threads <= 2; threads++) {
        pith_context *context = test_context(threads);
        assert_ok(context, pith_attend_rows(context, &rows, query, m, found[threads - 1]));
        size_t held = pith_context_peak_bytes(context);
        assert_ok(context, pith_attend_rows(context, &rows, query, m, found[threads - 1]));
        assert_int_equal(pith_context_peak_bytes(context), held); /* the second time allocates nothing */
        test_context_free(context);
      }
      assert_memory_equal(found[0], found[1], m * dv * 4);
      for (size_t i = 0; i < m * dv; i++) assert_true(fabs(found[0][i] - exact[i]) <= 2e-6);
      void *all[] = {query, key, value, weight, query64, key64, value64, weight64, exact, found[0], found[1]};
      for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    }
}

static void test_ragged_jobs(void **state) {
  (void)state;
  enum { JOBS = 4, MOST = 5000, D = 8 };
  const size_t counts[JOBS] = {5000, 3, 0, 2500}, queries[JOBS] = {3, 100, 2, 1};
  float *key = test_gaussian(51, MOST * D, 1), *value = test_gaussian(52, MOST * D, 1),
        *query = test_gaussian(53, 800, 1);
  static float together[JOBS][800], alone[800];
  pith_attend_job jobs[JOBS];
  pith_context *context = test_context(2);
  for (size_t i = 0; i < JOBS; i++)
    jobs[i] = (pith_attend_job){.rows = {.keys = key,
                                         .values = value,
                                         .key_stride = D * 4,
                                         .value_stride = D * 4,
                                         .dtype = PITH_F32,
                                         .count = counts[i],
                                         .d = D,
                                         .dv = D},
                                .heads = 1,
                                .queries = queries[i],
                                .query = query,
                                .out = together[i]};
  assert_ok(context, pith_attend_jobs(context, jobs, JOBS));
  for (size_t i = 0; i < JOBS; i++) {
    assert_ok(context, pith_attend_rows(context, &jobs[i].rows, query, queries[i], alone));
    assert_memory_equal(together[i], alone, queries[i] * D * sizeof(float));
  }
  assert_ok(context, pith_attend_jobs(context, jobs, 0));
  test_context_free(context);
  free(key);
  free(value);
  free(query);
}

static void test_state_merge(void **state) {
  (void)state;
  float largest = -INFINITY, sum = 0, output[2] = {0};
  const float a[2] = {2, 4}, b[2] = {1, -1};
  pith_attention_state_merge(&largest, &sum, output, -INFINITY, 0, b, 2);
  assert_true(largest == -INFINITY && sum == 0 && output[0] == 0);
  pith_attention_state_merge(&largest, &sum, output, 3, 2, a, 2);
  assert_true(largest == 3 && sum == 2 && output[1] == 4);
  pith_attention_state_merge(&largest, &sum, output, -INFINITY, 0, b, 2);
  assert_true(largest == 3 && sum == 2 && output[1] == 4);
  pith_attention_state_merge(&largest, &sum, output, 4, 1, b, 2);
  assert_true(largest == 4);
  assert_float_equal(sum, 2 * exp(-1) + 1, 1e-6);
  assert_float_equal(output[1], 4 * exp(-1) - 1, 1e-6);
}

/* ---- The error measure ---- */

static void test_error_measure(void **state) {
  (void)state;
  const float exact[6] = {3, 4, 0, 0, 0, 2}, near[6] = {3, 4, 3, 4, 0, 1};
  pith_error error = pith_error_measure(exact, near, 3, 2);
  assert_float_equal(error.mean, 2, 1e-12);
  assert_float_equal(error.max, 5, 1e-12);
  assert_float_equal(error.rms, sqrt(26 / 3.), 1e-6);
  assert_float_equal(error.relative, 6 / 7., 1e-6);
  assert_int_equal(error.worst, 1);
  error = pith_error_measure(exact, exact, 3, 2);
  assert_true(error.mean == 0 && error.max == 0 && error.relative == 0);
  error = pith_error_measure(NULL, NULL, 0, 2);
  assert_true(error.mean == 0 && error.rms == 0 && error.relative == 0);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_invariance),  cmocka_unit_test(test_log_weights),   cmocka_unit_test(test_ragged_jobs),
      cmocka_unit_test(test_state_merge), cmocka_unit_test(test_error_measure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
