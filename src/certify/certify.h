/* certify.h - what can be promised of one head's summary (theory: docs/theory.md, section 5). */
#ifndef PITH_SRC_CERTIFY_H
#define PITH_SRC_CERTIFY_H

#include "pith/summary.h"
#include "query/model.h"

/* Two weighted sets of pairs in original coordinates; log-weights may be NULL (all weights 1). */
typedef struct pith_pairs {
  size_t n, d, dv;
  const float *keys, *values, *log_weight;
} pith_pairs;

/* Ball: for every |q| <= rho (q after scaling), |Attn(q, full) - Attn(q, summary)| <= bound.
 * Hilbert-Schmidt and split-operator norm, the better of the two, best of a grid over lambda; rows common
 * to both sets (the exact ones) cancel. In double, no n x n matrix is stored. Infinity where rho times the
 * key radius is so large that no bound can be below the trivial one. Time O((n+m)^2 (d+dv)) a lambda. */
pith_status pith_certify_ball(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                              pith_certificate *out);

/* Gaussian: root mean square of |Attn - Attn'| over q ~ N(mean, covariance), from the closed form of
 * E|N' - N - ...|^2 and Jensen's bound on Z (theory 5.3). numerator_rms, if not NULL, receives the exact
 * closed form of sqrt(E |[N'-N ; b(Z'-Z)]|^2) / n in centred coordinates, to be checked by sampling. */
pith_status pith_certify_gaussian(pith_context *context, const pith_pairs *full, const pith_pairs *summary,
                                  const double *mean, const double *covariance, pith_certificate *out,
                                  double *numerator_rms);

/* Probe: errors[count] of held-out queries; the ceil(confidence (count+1))-th smallest, infinity when that
 * is more than there are. */
pith_status pith_certify_probe(pith_context *context, const double *errors, size_t count, double confidence,
                               pith_certificate *out);

/* The trivial bound: diameter of the values (an upper bound of it, at most 2 times the radius around the mean). */
double pith_value_diameter(const float *values, size_t n, size_t dv);

/* Largest error found inside the ball by projected gradient ascent (see pith_worst_query). */
pith_status pith_ascend(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                        size_t starts, uint64_t seed, double *error, float *query);

#endif
