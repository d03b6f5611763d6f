/* factor.c - Cholesky, triangular solves, symmetric eigenvalues. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"

enum { BLOCK = 256 };

/* Right-looking by blocks, so that the large part is the parallel product. */
pith_status pith_cholesky_f64(pith_context *context, double *a, size_t n, size_t lda) {
  for (size_t begin = 0; begin < n; begin += BLOCK) {
    size_t size = pith_min_size(BLOCK, n - begin), below = n - begin - size;
    double *corner = a + begin * lda + begin, *panel = corner + size * lda;
    /* Our lower triangle is the upper one of a column-major reader: nothing is copied. */
    lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)size, corner, (lapack_int)lda);
    if (info != 0)
      return pith_fail(context, PITH_E_NUMERIC,
                       "Cholesky factor: the matrix of order %zu is not positive definite at "
                       "row %zu",
                       n, begin + (size_t)(info > 0 ? info - 1 : 0));
    if (below == 0) continue;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (int)below, (int)size, 1, corner,
                (int)lda, panel, (int)lda);
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, below, below, size, -1, panel, lda, panel, lda, 1, panel + size,
                  lda);
  }
  return PITH_OK;
}

void pith_triangular_solve_f64(const double *l, size_t n, size_t lda, pith_transpose transpose, double *b,
                               size_t columns, size_t ldb) {
  if (n == 0 || columns == 0) return;
  cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, transpose ? CblasTrans : CblasNoTrans, CblasNonUnit, (int)n,
              (int)columns, 1, l, (int)lda, b, (int)ldb);
}

void pith_cholesky_solve_f64(const double *l, size_t n, size_t lda, double *b, size_t columns, size_t ldb) {
  pith_triangular_solve_f64(l, n, lda, PITH_PLAIN, b, columns, ldb);
  pith_triangular_solve_f64(l, n, lda, PITH_TRANSPOSED, b, columns, ldb);
}

bool pith_solve_definite_f64(double *a, size_t n, double *b) {
  return LAPACKE_dposv_work(LAPACK_COL_MAJOR, 'U', (lapack_int)n, 1, a, (lapack_int)n, b, (lapack_int)n) == 0;
}

pith_status pith_eigen_symmetric_f64(pith_context *context, const double *a, size_t n, double *values,
                                     double *vectors) {
  if (n == 0) return PITH_OK;
  memcpy(vectors, a, n * n * sizeof *a);
  /* Column-major on a symmetric matrix: eigenvectors come out as our rows. */
  lapack_int info = LAPACKE_dsyev(LAPACK_COL_MAJOR, 'V', 'L', (lapack_int)n, vectors, (lapack_int)n, values);
  if (info != 0) return pith_fail(context, PITH_E_NUMERIC, "eigenvalues of a matrix of order %zu did not converge", n);
  return PITH_OK;
}
