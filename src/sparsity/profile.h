/* profile.h - the weights of one query, sorted and counted. */
#ifndef PITH_SRC_SPARSITY_PROFILE_H
#define PITH_SRC_SPARSITY_PROFILE_H

#include "base/base.h"
#include "pith/sparsity.h"

double pith_normal_tail(double x);     /* Phi^c(x) */
double pith_normal_quantile(double p); /* Phi^-1(p), 0 < p < 1 */

/* Of one query; the fields are those of pith_head_profile. */
typedef struct pith_row_profile {
  size_t keys;
  double mean, variance, above_eps, k50, k90, k99, k999, k_eps, participation, sink_mass;
  double top_logit, mass; /* weight j is exp(logit j - top_logit) / mass */
  double tail[PITH_PROFILE_TAILS];
} pith_row_profile;

/* Counts the weights of n >= 1 finite logits. `sorted` (n) is work space and holds the weights afterwards, descending,
 * summing to 1. */
void pith_row_profile_count(const double *logits, size_t n, double eps, size_t sinks, double *sorted,
                            pith_row_profile *out);

/* Fewest of the n descending weights with at least 1 - eps of their sum. */
size_t pith_entries_for(const double *sorted, size_t n, double eps);

/* A power law k = alpha n^C fitted to points that come in groups. */
typedef struct pith_power_law {
  double exponent, alpha, low, high; /* low .. high: 95 % of the exponent, from residuals summed within groups */
} pith_power_law;
/* group (count): ascending numbers. NaN where the n are all the same; low, high NaN with fewer than two groups. */
pith_power_law pith_power_law_fit(const double *n, const double *k, const size_t *group, size_t count);

#endif
