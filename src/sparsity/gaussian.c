/* gaussian.c - what Gaussian logits would do. */
#include <math.h>

#include "sparsity/profile.h"

double pith_normal_tail(double x) { return 0.5 * erfc(x / sqrt(2)); }

/* Bisection on the tail, which is exact enough far out; 200 halvings of a range of 80. */
double pith_normal_quantile(double p) {
  double low = -40, high = 40;
  for (int i = 0; i < 200 && low < high; i++) {
    double middle = low + (high - low) / 2;
    if (pith_normal_tail(-middle) < p)
      low = middle;
    else
      high = middle;
  }
  return low + (high - low) / 2;
}

static bool is_share(double eps) { return eps > 0 && eps < 1; }

double pith_gaussian_entries(double n, double sigma, double eps) {
  if (!is_share(eps) || !(sigma >= 0)) return NAN;
  return n * pith_normal_tail(sigma + pith_normal_quantile(eps));
}

double pith_gaussian_above(double n, double sigma, double eps) {
  if (!is_share(eps) || !(sigma >= 0)) return NAN;
  if (!(n > 0)) return 0;
  if (sigma == 0) return eps * n <= 1 ? n : 0;
  return n * pith_normal_tail((log(eps * n) + sigma * sigma / 2) / sigma);
}

double pith_gaussian_above_bound(double n, double sigma, double eps, double delta) {
  if (!is_share(eps) || !is_share(delta) || !(sigma >= 0)) return NAN;
  if (!(n > 1)) return n > 0 ? n : 0;
  /* sigma sqrt(ln(n m / delta)) - ln m < ln eps rules m entries out. Its slope in ln m changes sign once, from + to -,
   * so that once it holds beyond the top it holds for all that is larger: the largest m that it allows is wanted. */
  double low = 0, high = log(n);
  if (sigma * sqrt(log(n * n / delta)) - high >= log(eps)) return n;
  for (int i = 0; i < 200; i++) {
    double middle = low + (high - low) / 2;
    if (sigma * sqrt(log(n / delta) + middle) - middle >= log(eps))
      low = middle;
    else
      high = middle;
  }
  return exp(high);
}
