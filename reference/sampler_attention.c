/* sampler_attention.c - see sampler_attention.h. */
#include "sampler_attention.h"

#include <math.h>

static double product(const float *keys, const float *query, size_t i, size_t d) {
  double sum = 0;
  for (size_t j = 0; j < d; j++) sum += (double)keys[i * d + j] * query[j];
  return sum;
}

static void normalise(double *law, size_t n) {
  double total = 0;
  for (size_t i = 0; i < n; i++) total += law[i];
  for (size_t i = 0; i < n; i++) law[i] /= total;
}

void reference_key_law(const float *keys, const float *query, size_t n, size_t d, size_t power, double scale,
                       double *law) {
  for (size_t i = 0; i < n; i++) {
    double y = product(keys, query, i, d);
    law[i] = power ? pow(y, 2 * (double)power) : exp(scale * y);
  }
  normalise(law, n);
}

void reference_proposal_law(const float *keys, const float *query, size_t n, size_t d, double scale, double *law) {
  for (size_t i = 0; i < n; i++) law[i] = pow(1 + scale * product(keys, query, i, d) / 2, 2);
  normalise(law, n);
}

void reference_tensor_sketch(const double *x, size_t d, size_t degree, const unsigned *cell, const int *sign,
                             size_t length, double *out) {
  size_t tuples = 1;
  for (size_t p = 0; p < degree; p++) tuples *= d;
  for (size_t i = 0; i < length; i++) out[i] = 0;
  for (size_t t = 0; t < tuples; t++) {
    double value = 1;
    size_t at = 0, rest = t;
    for (size_t p = 0; p < degree; p++, rest /= d) {
      size_t j = rest % d;
      value *= sign[p * d + j] * x[j];
      at += cell[p * d + j];
    }
    out[at % length] += value;
  }
}
