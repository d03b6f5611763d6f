/* attention.c - softmax attention as it is written down. */
#include "attention.h"

#include <math.h>

static double logit(const double *query, const double *key, size_t d, double scale, const double *log_weight,
                    size_t i) {
  double product = 0;
  for (size_t j = 0; j < d; j++) product += query[j] * key[j];
  return scale * product + (log_weight ? log_weight[i] : 0);
}

void reference_attention(const double *queries, size_t m, const double *keys, const double *values,
                         const double *log_weight, size_t n, size_t d, size_t dv, double scale,
                         const unsigned char *mask, double *out) {
  for (size_t r = 0; r < m; r++) {
    const double *query = queries + r * d;
    double largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
      if (!mask || mask[r * n + i]) largest = fmax(largest, logit(query, keys + i * d, d, scale, log_weight, i));
    for (size_t j = 0; j < dv; j++) out[r * dv + j] = 0;
    for (size_t i = 0; i < n; i++) {
      if (mask && !mask[r * n + i]) continue;
      double weight = exp(logit(query, keys + i * d, d, scale, log_weight, i) - largest);
      sum += weight;
      for (size_t j = 0; j < dv; j++) out[r * dv + j] += weight * values[i * dv + j];
    }
    for (size_t j = 0; j < dv && sum > 0; j++) out[r * dv + j] /= sum;
  }
}
