/* gemm.c - matrix products over fixed panels. */
#include <cblas.h>

#include "linalg/linalg.h"

/* Panels of C: fixed, so that the bytes of the result do not depend on who computes which. */
enum { PANEL = 384 };

typedef struct product {
  CBLAS_TRANSPOSE ta, tb;
  size_t m, n, k, lda, ldb, ldc;
  bool by_rows, is_double;
  double alpha, beta;
  const char *a, *b;
  char *c;
} product;

static void multiply_panel(void *argument, size_t index, int thread) {
  (void)thread;
  const product *p = argument;
  size_t total = p->by_rows ? p->m : p->n, begin = index * PANEL;
  size_t count = pith_min_size(PANEL, total - begin), size = p->is_double ? sizeof(double) : sizeof(float);
  size_t m = p->by_rows ? count : p->m, n = p->by_rows ? p->n : count;
  size_t a_offset = !p->by_rows ? 0 : p->ta == CblasTrans ? begin : begin * p->lda;
  size_t b_offset = p->by_rows ? 0 : p->tb == CblasTrans ? begin * p->ldb : begin;
  size_t c_offset = p->by_rows ? begin * p->ldc : begin;
  const void *a = p->a + a_offset * size, *b = p->b + b_offset * size;
  void *c = p->c + c_offset * size;
  if (p->is_double)
    cblas_dgemm(CblasRowMajor, p->ta, p->tb, (int)m, (int)n, (int)p->k, p->alpha, a, (int)p->lda, b, (int)p->ldb,
                p->beta, c, (int)p->ldc);
  else
    cblas_sgemm(CblasRowMajor, p->ta, p->tb, (int)m, (int)n, (int)p->k, (float)p->alpha, a, (int)p->lda, b, (int)p->ldb,
                (float)p->beta, c, (int)p->ldc);
}

static void multiply(pith_context *context, product *p) {
  if (p->m == 0 || p->n == 0) return;
  p->by_rows = p->m >= p->n;
  pith_parallel_for(context, ((p->by_rows ? p->m : p->n) + PANEL - 1) / PANEL, multiply_panel, p);
}

/* The two calls differ in the type of the numbers alone. */
#define PRODUCT(double_precision)                                                                                   \
  &(product) {                                                                                                      \
    .ta = ta ? CblasTrans : CblasNoTrans, .tb = tb ? CblasTrans : CblasNoTrans, .m = m, .n = n, .k = k, .lda = lda, \
    .ldb = ldb, .ldc = ldc, .is_double = (double_precision), .alpha = alpha, .beta = beta, .a = (const char *)a,    \
    .b = (const char *)b, .c = (char *)c                                                                            \
  }

void pith_gemm_f32(pith_context *context, pith_transpose ta, pith_transpose tb, size_t m, size_t n, size_t k,
                   float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c,
                   size_t ldc) {
  multiply(context, PRODUCT(false));
}

void pith_gemm_f64(pith_context *context, pith_transpose ta, pith_transpose tb, size_t m, size_t n, size_t k,
                   double alpha, const double *a, size_t lda, const double *b, size_t ldb, double beta, double *c,
                   size_t ldc) {
  multiply(context, PRODUCT(true));
}

void pith_gemm_f32_alone(pith_transpose ta, pith_transpose tb, size_t m, size_t n, size_t k, float alpha,
                         const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
  if (m == 0 || n == 0) return;
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k,
              alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}
