/* lengths.h - lengths of f32 vectors in double, and how they are rounded up to f32. */
#ifndef PITH_SRC_SPARSITY_LENGTHS_H
#define PITH_SRC_SPARSITY_LENGTHS_H

#include <math.h>

#include "sparsity/index.h"

/* Not less than x >= 0, nor than what a few roundings made of it. */
static inline float pith_up(double x) { return (float)(x * (1 + 4 * PITH_UNIT)); }

static inline double pith_norm(const float *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
  return sqrt(sum);
}

static inline double pith_distance(const float *x, const float *y, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double difference = (double)x[i] - (double)y[i];
    sum += difference * difference;
  }
  return sqrt(sum);
}

/* x (rows, width) */
static inline void pith_mean_of(const float *x, size_t rows, size_t width, float *out) {
  for (size_t j = 0; j < width; j++) {
    double sum = 0;
    for (size_t i = 0; i < rows; i++) sum += (double)x[i * width + j];
    out[j] = (float)(sum / (double)rows);
  }
}

#endif
