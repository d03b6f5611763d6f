/* test_linalg.c - products, factors and solves against plain loops; the same bytes at any thread count. */
#include "linalg/linalg.h"
#include "test.h"

static void check_product(pith_context *context, int ta, int tb, size_t m, size_t n, size_t k) {
  float *a = test_gaussian(1, m * k + 1, 1), *b = test_gaussian(2, k * n + 1, 1), *c = test_gaussian(3, m * n + 1, 1);
  float *old = malloc((m * n + 1) * sizeof *old);
  double *a64 = malloc((m * k + 1) * sizeof *a64), *b64 = malloc((k * n + 1) * sizeof *b64),
         *c64 = malloc((m * n + 1) * sizeof *c64);
  memcpy(old, c, m * n * sizeof *old);
  for (size_t i = 0; i < m * k; i++) a64[i] = a[i];
  for (size_t i = 0; i < k * n; i++) b64[i] = b[i];
  for (size_t i = 0; i < m * n; i++) c64[i] = c[i];
  size_t lda = ta ? m : k, ldb = tb ? k : n;
  pith_gemm_f32(context, ta, tb, m, n, k, 0.5f, a, lda, b, ldb, 2, c, n);
  pith_gemm_f64(context, ta, tb, m, n, k, 0.5, a64, lda, b64, ldb, 2, c64, n);
  for (size_t i = 0; i < m; i++)
    for (size_t j = 0; j < n; j++) {
      double sum = 0;
      for (size_t l = 0; l < k; l++)
        sum += (double)(ta ? a[l * m + i] : a[i * k + l]) * (tb ? b[j * k + l] : b[l * n + j]);
      double expected = 0.5 * sum + 2.0 * old[i * n + j];
      assert_float_equal(c[i * n + j], expected, 1e-4);
      assert_true(fabs(c64[i * n + j] - expected) < 1e-11 * (double)(k + 1));
    }
  free(a);
  free(b);
  free(c);
  free(old);
  free(a64);
  free(b64);
  free(c64);
}

static void test_products(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  for (int ta = 0; ta < 2; ta++)
    for (int tb = 0; tb < 2; tb++) {
      check_product(context, ta, tb, 7, 5, 3);
      check_product(context, ta, tb, 801, 33, 17);
      check_product(context, ta, tb, 31, 790, 40);
      check_product(context, ta, tb, 0, 5, 3);
    }
  pith_context_free(context);
}

/* A = B B^T + I of an order that spans several blocks. */
static void test_cholesky(void **state) {
  (void)state;
  enum { N = 600 };
  pith_context *context = test_context(2);
  float *b = test_gaussian(4, N * N, 0.05);
  double *a = calloc(N * N, sizeof *a), *factor = malloc(N * N * sizeof *factor);
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < N; j++) {
      a[i * N + j] = i == j;
      for (size_t k = 0; k < N; k++) a[i * N + j] += (double)b[i * N + k] * b[j * N + k];
    }
  memcpy(factor, a, N * N * sizeof *a);
  assert_ok(context, pith_cholesky_f64(context, factor, N, N));
  for (size_t i = 0; i < N; i += 13)
    for (size_t j = 0; j <= i; j += 7) {
      double sum = 0;
      for (size_t k = 0; k <= j; k++) sum += factor[i * N + k] * factor[j * N + k];
      assert_true(fabs(sum - a[i * N + j]) < 1e-10);
    }
  double *x = malloc(N * 2 * sizeof *x), *right = malloc(N * 2 * sizeof *right);
  for (size_t i = 0; i < N * 2; i++) x[i] = right[i] = b[i];
  pith_cholesky_solve_f64(factor, N, N, x, 2, 2);
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < 2; j++) {
      double sum = 0;
      for (size_t k = 0; k < N; k++) sum += a[i * N + k] * x[k * 2 + j];
      assert_true(fabs(sum - right[i * 2 + j]) < 1e-9);
    }
  a[5 * N + 5] = -1;
  assert_int_equal(pith_cholesky_f64(context, a, N, N), PITH_E_NUMERIC);
  assert_non_null(strstr(pith_context_message(context), "not positive definite"));
  free(a);
  free(b);
  free(factor);
  free(x);
  free(right);
  pith_context_free(context);
}

static void test_eigenvalues(void **state) {
  (void)state;
  enum { N = 20 };
  pith_context *context = test_context(1);
  float *b = test_gaussian(5, N * N, 1);
  double a[N * N], values[N], vectors[N * N];
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < N; j++) a[i * N + j] = (double)b[i * N + j] + b[j * N + i];
  assert_ok(context, pith_eigen_symmetric_f64(context, a, N, values, vectors));
  for (size_t e = 0; e < N; e++) {
    if (e) assert_true(values[e] >= values[e - 1]);
    for (size_t i = 0; i < N; i++) {
      double sum = 0;
      for (size_t j = 0; j < N; j++) sum += a[i * N + j] * vectors[e * N + j];
      assert_true(fabs(sum - values[e] * vectors[e * N + i]) < 1e-11 * N);
    }
  }
  free(b);
  pith_context_free(context);
}

static void test_threads_same_bytes(void **state) {
  (void)state;
  enum { M = 1000, N = 300, K = 70 };
  float *a = test_gaussian(6, M * K, 1), *b = test_gaussian(7, N * K, 1), *c[2];
  for (int i = 0; i < 2; i++) {
    pith_context *context = test_context(i + 1);
    c[i] = calloc(M * N, sizeof(float));
    pith_gemm_f32(context, PITH_PLAIN, PITH_TRANSPOSED, M, N, K, 1, a, K, b, K, 0, c[i], N);
    pith_context_free(context);
  }
  assert_memory_equal(c[0], c[1], M * N * sizeof(float));
  free(a);
  free(b);
  free(c[0]);
  free(c[1]);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_cholesky),
                                     cmocka_unit_test(test_eigenvalues), cmocka_unit_test(test_threads_same_bytes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
