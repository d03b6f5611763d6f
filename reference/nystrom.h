/* nystrom.h - the query kernels, pivoted Cholesky, the refit and the refinement's loss, in double and plain. */
#ifndef PITH_REFERENCE_NYSTROM_H
#define PITH_REFERENCE_NYSTROM_H

#include <stddef.h>

/* Attention weights a (count, n) of `count` queries over n keys (log_weight may be NULL) and one lump of log mass
 * local[r] (NULL: none) that only enters the normaliser. */
void reference_attention_weights(const double *queries, size_t count, const double *keys, const double *log_weight,
                                 const double *local, size_t n, size_t d, double *a);

/* kernel (n, n) = (1/count) a^T a. */
void reference_sample_kernel(const double *a, size_t count, size_t n, double *kernel);

/* kernel (n, n): E_q[exp(<q, k_i - c>) exp(<q, k_j - c>)] for q ~ N(mean, covariance), c the mean key. */
void reference_gaussian_kernel(const double *keys, size_t n, size_t d, const double *mean, const double *covariance,
                               double *kernel);

/* kernel (n, n): exp(lambda2 <k_i - c, k_j - c>), c the mean key. */
void reference_ball_kernel(const double *keys, size_t n, size_t d, double lambda2, double *kernel);

/* What is left of sum_i importance_i K(i,i) after the given pivots. */
double reference_trace_left(const double *kernel, size_t n, const double *importance, const size_t *pivot,
                            size_t count);

/* Largest violation of (K_SS + ridge * diagonal of K_SS) fit = K_S,all coefficients (n, columns), each equation divided
 * by the sum of the sizes of its terms. */
double reference_fit_violation(const double *kernel, size_t n, const size_t *pivot, size_t count, double ridge,
                               const double *coefficients, size_t columns, const double *fit);

/* Mean over queries of phi(|answer - target|), where a query attends to `count` points beside one fixed lump of log
 * mass fixed_mass[r] and answer fixed_answer (queries, dv). phi(x) = x - soft ln(1 + x / soft); soft = 0: x. */
double reference_refine_loss(const double *queries, size_t query_count, const double *keys, const double *log_weight,
                             const double *values, size_t count, size_t d, size_t dv, const double *fixed_mass,
                             const double *fixed_answer, const double *target, double soft);

#endif
