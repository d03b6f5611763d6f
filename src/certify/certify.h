/* certify.h - what can be promised of one head's summary (theory: docs/theory.md, section 5). */
#ifndef PITH_SRC_CERTIFY_H
#define PITH_SRC_CERTIFY_H

#include "pith/summary.h"
#include "query/model.h"

/* A weighted set of pairs in original coordinates; log-weights may be NULL (all weights 1). `certified` below means
 * bound < trivial, or bound 0. */
typedef struct pith_pairs {
  size_t n, d, dv;
  const float *keys, *values, *log_weight;
} pith_pairs;

/* Ball: for every |q| <= rho (q after scaling), |Attn(q, full) - Attn(q, summary)| <= bound, in exact arithmetic on
 * the numbers given. Norms are taken degree by degree of the exponential (degrees.h): never worse than the kernel
 * bound at any lambda. Rows common to both sets (the exact ones) cancel; a common factor of the summary's weights
 * does not matter. In double, no n x n matrix is stored, and rounding is part of the bound. Infinity where rho
 * times the key radius is so large that the bound could not be below the trivial one; that costs O((n+m)(d+dv)).
 * Else time O((n+m)^2 (d+dv)) for each of about 6 to 12 degrees; above 8192 distinct rows only Hilbert-Schmidt
 * norms are taken from degree 2 on (a looser bound, one pass). */
pith_status pith_certify_ball(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                              pith_certificate *out);

/* Gaussian: root mean square of |Attn - Attn'| over q ~ N(mean, covariance), from closed forms and Jensen's bound on
 * Z (theory 5.3), centred at the means under the weights w_i exp(<mean, k_i>). numerator_rms, if not NULL, receives
 * sqrt(E |[N'-N ; b(Z'-Z)]|^2) / Z(mean) in these coordinates, b the largest norm of the summary's centred values:
 * it is exact, and can be checked by sampling. Time O((n+m)^2 (d+dv)). */
pith_status pith_certify_gaussian(pith_context *context, const pith_pairs *full, const pith_pairs *summary,
                                  const double *mean, const double *covariance, pith_certificate *out,
                                  double *numerator_rms);

/* Probe: errors[count] of held-out queries; the ceil(confidence (count+1))-th smallest, infinity when that
 * is more than there are. */
pith_status pith_certify_probe(pith_context *context, const double *errors, size_t count, double confidence,
                               pith_certificate *out);

/* The trivial bound: diameter of the values (an upper bound of it: twice the radius around the mean, or the
 * diagonal of the bounding box). */
double pith_value_diameter(const float *values, size_t n, size_t dv);

/* Largest error found inside the ball by projected gradient ascent (see pith_worst_query). */
pith_status pith_ascend(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                        size_t starts, uint64_t seed, double *error, float *query);

#endif
