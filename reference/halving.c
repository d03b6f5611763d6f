/* halving.c - the twin of src/summary/halving.c. */
#include "halving.h"

#include <math.h>

enum { MOST = 256 };
static const double LEAST_GAIN = 1e-5;

static double mean_of(const double *rows, const double *weight, size_t n, size_t d, size_t j) {
  double sum = 0, total = 0;
  for (size_t i = 0; i < n; i++) {
    sum += weight[i] * rows[i * d + j];
    total += weight[i];
  }
  return sum / total;
}

static double centred_product(const double *rows, const double *weight, size_t n, size_t d, size_t a, size_t b) {
  double sum = 0;
  for (size_t j = 0; j < d; j++) {
    double mean = mean_of(rows, weight, n, d, j);
    sum += (rows[a * d + j] - mean) * (rows[b * d + j] - mean);
  }
  return sum;
}

void reference_joint_kernel(const double *keys, const double *values, const double *weight, size_t n, size_t d,
                            size_t dv, double lambda2, double floor, double *kernel) {
  double square = 0, total = 0;
  for (size_t i = 0; i < n; i++) {
    square += weight[i] * centred_product(values, weight, n, dv, i, i);
    total += weight[i];
  }
  double b2 = square > 0 ? floor * square / total : 1;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++)
      kernel[i * n + j] = weight[i] * weight[j] * exp(lambda2 * centred_product(keys, weight, n, d, i, j)) *
                          (centred_product(values, weight, n, dv, i, j) + b2);
}

/* <D, phi_i> */
static double sum_at(const double *kernel, size_t n, const double *sign, size_t i) {
  double sum = 0;
  for (size_t j = 0; j < n; j++) sum += sign[j] * kernel[i * n + j];
  return sum;
}

/* |D|^2 that is saved when i and j exchange their signs. */
static double gain(const double *kernel, size_t n, const double *sign, size_t i, size_t j, double sum_i, double sum_j) {
  double t = sign[j] - sign[i];
  return -t * (2 * (sum_i - sum_j) + t * (kernel[i * n + i] + kernel[j * n + j] - 2 * kernel[i * n + j]));
}

void reference_halving_signs(const double *kernel, size_t n, size_t pairs, size_t passes, double *sign) {
  for (size_t i = 0; i < n; i++) sign[i] = 0;
  for (size_t p = 0; p < pairs; p++) {
    double first = sum_at(kernel, n, sign, 2 * p), second = sum_at(kernel, n, sign, 2 * p + 1);
    sign[2 * p] = first <= second ? 1 : -1;
    sign[2 * p + 1] = -sign[2 * p];
  }
  for (size_t pass = 0; pass < passes; pass++)
    for (size_t i = 0; i < n; i++) {
      if (sign[i] < 0) continue;
      double best = LEAST_GAIN * kernel[i * n + i], sum_i = sum_at(kernel, n, sign, i);
      size_t partner = i;
      for (size_t j = 0; j < n; j++) {
        double saved = gain(kernel, n, sign, i, j, sum_i, sum_at(kernel, n, sign, j));
        if (saved > best) {
          best = saved;
          partner = j;
        }
      }
      double keep = sign[i];
      sign[i] = sign[partner];
      sign[partner] = keep;
    }
}

void reference_halving(const double *keys, const double *values, const double *weight, size_t n, size_t d, size_t dv,
                       double lambda2, double floor, size_t count, const unsigned char *coins, size_t *row,
                       double *kept_weight) {
  static double all[MOST * MOST], kernel[MOST * MOST];
  size_t alive[MOST], left = n;
  double factor[MOST], sign[MOST];
  reference_joint_kernel(keys, values, weight, n, d, dv, lambda2, floor, all);
  for (size_t i = 0; i < n; i++) {
    alive[i] = i;
    factor[i] = 1;
  }
  for (size_t round = 0; left > count; round++) {
    size_t pairs = left / 2 < left - count ? left / 2 : left - count, kept = 0;
    for (size_t i = 0; i < left; i++)
      for (size_t j = 0; j < left; j++) kernel[i * left + j] = factor[i] * factor[j] * all[alive[i] * n + alive[j]];
    reference_halving_signs(kernel, left, pairs, 2, sign);
    for (size_t i = 0; i < left; i++) {
      double s = coins[round] ? -sign[i] : sign[i];
      if (s < 0) continue;
      alive[kept] = alive[i];
      factor[kept++] = factor[i] * (s > 0 ? 2 : 1);
    }
    left = kept;
  }
  for (size_t i = 0; i < left; i++) {
    row[i] = alive[i];
    kept_weight[i] = weight[alive[i]] * factor[i];
  }
}
