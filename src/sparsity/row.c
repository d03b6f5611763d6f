/* row.c - the weights of one query: sorted, counted; and a power law through counts. */
#include <math.h>
#include <stdlib.h>

#include "sparsity/profile.h"

size_t pith_entries_for(const double *sorted, size_t n, double eps) {
  double tail = 0; /* from the small end, where rounding loses nothing */
  size_t k = n;
  while (k > 1 && tail + sorted[k - 1] <= eps) tail += sorted[--k];
  return k;
}

void pith_row_profile_count(const double *logits, size_t n, double eps, size_t sinks, double *sorted,
                            pith_row_profile *out) {
  *out = (pith_row_profile){.keys = n};
  double mass = 0;
  out->top_logit = -INFINITY;
  for (size_t j = 0; j < n; j++) {
    out->mean += logits[j] / (double)n;
    out->top_logit = fmax(out->top_logit, logits[j]);
  }
  for (size_t j = 0; j < n; j++) {
    out->variance += (logits[j] - out->mean) * (logits[j] - out->mean) / (double)n;
    sorted[j] = exp(logits[j] - out->top_logit);
    if (j < sinks) out->sink_mass += sorted[j];
  }
  pith_sort_f64(sorted, n);
  for (size_t j = 0; j < n; j++) mass += sorted[j];
  out->sink_mass /= mass;
  for (size_t i = 0, j = n - 1; i < j; i++, j--) {
    double swapped = sorted[i];
    sorted[i] = sorted[j];
    sorted[j] = swapped;
  }
  double squares = 0;
  for (size_t j = n; j-- > 0;) {
    sorted[j] /= mass;
    squares += sorted[j] * sorted[j];
    out->above_eps += sorted[j] >= eps;
  }
  double tail = 0;
  int level = PITH_PROFILE_TAILS - 1;
  for (size_t j = n; j-- > 0;) { /* tail: the weights behind entry j */
    while (level > 0 && (size_t)1 << level > j + 1) level--;
    if ((size_t)1 << level == j + 1) out->tail[level] = tail;
    tail += sorted[j];
  }
  out->mass = mass;
  out->participation = 1 / squares;
  out->k50 = (double)pith_entries_for(sorted, n, 0.5);
  out->k90 = (double)pith_entries_for(sorted, n, 0.1);
  out->k99 = (double)pith_entries_for(sorted, n, 0.01);
  out->k999 = (double)pith_entries_for(sorted, n, 0.001);
  out->k_eps = (double)pith_entries_for(sorted, n, eps);
}

/* Half width of a 95 % interval in standard errors: Student's quantile, by Cornish and Fisher's series, which is within
 * 1 % from 3 degrees of freedom on; below, the exact values. */
static double half_width(size_t freedom) {
  if (freedom == 1) return 12.706;
  if (freedom == 2) return 4.303;
  const double z = 1.959964, f = (double)freedom, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
  return z + (z3 + z) / (4 * f) + (5 * z5 + 16 * z3 + 3 * z) / (96 * f * f) +
         (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * f * f * f);
}

pith_power_law pith_power_law_fit(const double *n, const double *k, const size_t *group, size_t count) {
  pith_power_law law = {NAN, NAN, NAN, NAN};
  double mean_x = 0, mean_y = 0, xx = 0, xy = 0;
  for (size_t i = 0; i < count; i++) {
    mean_x += log(n[i]) / (double)count;
    mean_y += log(k[i]) / (double)count;
  }
  for (size_t i = 0; i < count; i++) {
    double x = log(n[i]) - mean_x;
    xx += x * x;
    xy += x * (log(k[i]) - mean_y);
  }
  if (!(xx > 1e-9 * (double)count)) return law;
  law.exponent = xy / xx;
  law.alpha = exp(mean_y - law.exponent * mean_x);

  double spread = 0;
  size_t groups = 0;
  for (size_t i = 0; i < count; groups++) {
    double score = 0;
    size_t own = group[i];
    for (; i < count && group[i] == own; i++)
      score += (log(n[i]) - mean_x) * (log(k[i]) - mean_y - law.exponent * (log(n[i]) - mean_x));
    spread += score * score;
  }
  if (groups < 2) return law;
  double error = sqrt(spread * (double)groups / (double)(groups - 1)) / xx;
  law.low = law.exponent - half_width(groups - 1) * error;
  law.high = law.exponent + half_width(groups - 1) * error;
  return law;
}
