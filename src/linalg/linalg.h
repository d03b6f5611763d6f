/* linalg.h - the few dense operations, on OpenBLAS and LAPACK.
 *
 * All matrices are C-ordered. Products are cut into fixed panels that the context's threads share, and
 * BLAS runs one thread inside each: the bytes do not depend on the number of threads. */
#ifndef PITH_SRC_LINALG_H
#define PITH_SRC_LINALG_H

#include "base/base.h"

typedef enum pith_transpose { PITH_PLAIN = 0, PITH_TRANSPOSED = 1 } pith_transpose;

/* C (m x n) = alpha * op(A) op(B) + beta * C, op(A) m x k, op(B) k x n. */
void pith_gemm_f32(pith_context *context, pith_transpose ta, pith_transpose tb, size_t m, size_t n, size_t k,
                   float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c,
                   size_t ldc);
/* The same by the calling thread alone, for the bodies of parallel loops. */
void pith_gemm_f32_alone(pith_transpose ta, pith_transpose tb, size_t m, size_t n, size_t k, float alpha,
                         const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
void pith_gemm_f64(pith_context *context, pith_transpose ta, pith_transpose tb, size_t m, size_t n, size_t k,
                   double alpha, const double *a, size_t lda, const double *b, size_t ldb, double beta, double *c,
                   size_t ldc);

/* Lower Cholesky factor in place (n x n, row stride lda; the upper triangle is left alone).
 * PITH_E_NUMERIC if not positive definite. */
pith_status pith_cholesky_f64(pith_context *context, double *a, size_t n, size_t lda);

/* Solves L L^T X = B in place, B n x columns. */
void pith_cholesky_solve_f64(const double *l, size_t n, size_t lda, double *b, size_t columns, size_t ldb);

/* Solves L X = B, or L^T X = B (PITH_TRANSPOSED), in place. */
void pith_triangular_solve_f64(const double *l, size_t n, size_t lda, pith_transpose transpose, double *b,
                               size_t columns, size_t ldb);

/* Solves A x = b for a positive definite A (n x n, lost) in place of b; false if it is not. For bodies of parallel
 * loops. */
bool pith_solve_definite_f64(double *a, size_t n, double *b);

/* Eigenvalues ascending and eigenvectors (row i of `vectors` belongs to values[i]) of a symmetric matrix. */
pith_status pith_eigen_symmetric_f64(pith_context *context, const double *a, size_t n, double *values, double *vectors);

#endif
