/* chi_square.h - does a histogram follow a law? Pearson's statistic, and its distribution. */
#ifndef PITH_TEST_CHI_SQUARE_H
#define PITH_TEST_CHI_SQUARE_H

#include "test.h"

/* Chance that a chi-square variable of `freedom` degrees exceeds `statistic`: the upper regularised incomplete gamma
 * function Q(freedom / 2, statistic / 2), by its series below the mean and its continued fraction above. */
static inline double chi_square_tail(double statistic, double freedom) {
  double a = freedom / 2, x = statistic / 2;
  if (x <= 0) return 1;
  double front = exp(a * log(x) - x - lgamma(a));
  if (x < a + 1) {
    double term = 1 / a, sum = term;
    for (double k = 1; k < 100000 && term > 1e-17 * sum; k++) sum += term *= x / (a + k);
    return 1 - front * sum;
  }
  double b = x + 1 - a, c = 1e300, d = 1 / b, fraction = d;
  for (double k = 1; k < 100000; k++) {
    double step = -k * (k - a);
    b += 2;
    d = 1 / (step * d + b);
    c = b + step / c;
    fraction *= d * c;
    if (fabs(d * c - 1) < 1e-15) break;
  }
  return front * fraction;
}

/* p-value of `counts` (cells) under weights `law` (cells, not negative, of any sum). Neighbouring cells are pooled
 * until at least eight draws are expected. A draw where the law is 0 gives 0. */
static inline double chi_square_p(const size_t *counts, const double *law, size_t cells) {
  double total = 0, draws = 0, statistic = 0, expected = 0, seen = 0, bins = 0;
  double last_expected = 0, last_seen = 0;
  for (size_t i = 0; i < cells; i++) total += law[i];
  for (size_t i = 0; i < cells; i++) draws += (double)counts[i];
  for (size_t i = 0; i < cells; i++)
    if (counts[i] && !(law[i] > 0)) return 0;
  for (size_t i = 0; i < cells; i++) {
    expected += draws * law[i] / total;
    seen += (double)counts[i];
    if (expected < 8) continue;
    statistic += (seen - expected) * (seen - expected) / expected;
    bins++;
    last_expected = expected;
    last_seen = seen;
    expected = seen = 0;
  }
  if (expected > 0 && bins > 0) { /* what is left joins the last bin */
    statistic -= (last_seen - last_expected) * (last_seen - last_expected) / last_expected;
    last_seen += seen;
    last_expected += expected;
    statistic += (last_seen - last_expected) * (last_seen - last_expected) / last_expected;
  }
  return bins > 1 ? chi_square_tail(statistic, bins - 1) : 1;
}

/* Half the sum of |share - law|. */
static inline double total_variation(const size_t *counts, const double *law, size_t cells) {
  double total = 0, draws = 0, sum = 0;
  for (size_t i = 0; i < cells; i++) total += law[i];
  for (size_t i = 0; i < cells; i++) draws += (double)counts[i];
  for (size_t i = 0; i < cells; i++) sum += fabs((double)counts[i] / draws - law[i] / total);
  return sum / 2;
}

#endif
