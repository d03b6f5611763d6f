/* certify.h - certificates as they are written down: double precision, every sum taken in full. */
#ifndef PITH_REFERENCE_CERTIFY_H
#define PITH_REFERENCE_CERTIFY_H

#include <stddef.h>

typedef struct reference_pairs {
  size_t n, d, dv;
  const double *keys, *values, *weight; /* (n, d), (n, dv), (n) */
} reference_pairs;

/* |Attn(q, full) - Attn(q, summary)|. */
double reference_error(const reference_pairs *full, const reference_pairs *summary, const double *query);

/* exp(rho^2 / 2 lambda^2) (|M_N| + r |M_Z|) / W with the Hilbert-Schmidt norms of
 * M = sum_summary - sum_full of phi(lambda (k - c)) (x) (v - v-bar), and of the same without v; c and v-bar the
 * weighted means of the full set, r the largest norm of the summary's centred values, W the full weight. */
double reference_kernel_bound(const reference_pairs *full, const reference_pairs *summary, double rho, double lambda2);

/* The same with one norm for every degree t < 60 of the exponential, sum_t rho^t / t! (|T_t| + r |T'_t|) / W. */
double reference_degree_bound(const reference_pairs *full, const reference_pairs *summary, double rho);

/* sqrt(E |[N' - N ; r (Z' - Z)]|^2) / Z(mean) for q ~ N(mean, covariance), centred at the means of the full set
 * under the weights w exp(<mean, k>). */
double reference_gaussian_rms(const reference_pairs *full, const reference_pairs *summary, const double *mean,
                              const double *covariance);

/* The k-th smallest of errors[count]; infinity for k > count. */
double reference_order_statistic(const double *errors, size_t count, size_t k);

#endif
