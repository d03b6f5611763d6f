/* sampler_l2.c - see sampler_l2.h. */
#include "sampler_l2.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t base_of(const reference_l2 *sketch, uint64_t point) {
  return mix(point * UINT64_C(0x9e3779b97f4a7c15) + sketch->key);
}

double reference_l2_gamma(const reference_l2 *sketch, uint64_t row, size_t copy) {
  double gamma = 0;
  for (size_t k = 0; k <= copy; k++) {
    uint64_t word = mix(base_of(sketch, row * sketch->copies + k) ^ sketch->exponential_key);
    gamma -= log(((double)(word >> 12) + 0.5) * 0x1p-52);
  }
  return fmax(gamma, 0x1p-40);
}

/* Bucket and sign: the topmost bits of base times multiplier. */
static size_t bucket_of(const reference_l2 *sketch, uint64_t point, size_t r, double *sign) {
  uint64_t word = base_of(sketch, point) * sketch->multiplier[r];
  size_t twice = (size_t)(word / (UINT64_MAX / (2 * sketch->buckets) + 1));
  *sign = twice % 2 && !sketch->no_signs ? -1 : 1;
  return twice / 2;
}

void reference_l2_table(const reference_l2 *sketch, const double *y, double *out) {
  memset(out, 0, sketch->depth * sketch->buckets * sizeof *out);
  for (uint64_t i = 0; i < sketch->rows; i++) {
    if (y[i] == 0) continue;
    for (size_t k = 0; k < sketch->copies; k++) {
      double z = y[i] / sqrt(reference_l2_gamma(sketch, i, k)), sign = 0;
      for (size_t r = 0; r < sketch->depth; r++) {
        size_t bucket = bucket_of(sketch, i * sketch->copies + k, r, &sign);
        out[r * sketch->buckets + bucket] += sign * z;
      }
    }
  }
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double reference_l2_estimate(const reference_l2 *sketch, const double *table, uint64_t point) {
  double value[16], sign = 0;
  for (size_t r = 0; r < sketch->depth; r++) {
    size_t bucket = bucket_of(sketch, point, r, &sign);
    value[r] = sign * table[r * sketch->buckets + bucket];
  }
  qsort(value, sketch->depth, sizeof *value, ascending);
  return value[sketch->depth / 2];
}

void reference_l2_largest(const reference_l2 *sketch, const double *table, size_t count, uint64_t *point) {
  double best[16];
  for (size_t i = 0; i < count; i++) best[i] = -1;
  for (uint64_t p = 0; p < sketch->rows * sketch->copies; p++) {
    double size = fabs(reference_l2_estimate(sketch, table, p));
    if (size <= best[count - 1]) continue;
    size_t at = count - 1;
    for (; at > 0 && best[at - 1] < size; at--) {
      best[at] = best[at - 1];
      point[at] = point[at - 1];
    }
    best[at] = size;
    point[at] = p;
  }
}
