/* profile.c - the weights of one query, counted and cut as they are defined. */
#include "profile.h"

#include <math.h>
#include <stdlib.h>

void reference_weights(const double *logits, size_t n, double *weights) {
  double largest = -INFINITY, sum = 0;
  for (size_t j = 0; j < n; j++) largest = fmax(largest, logits[j]);
  for (size_t j = 0; j < n; j++) sum += weights[j] = exp(logits[j] - largest);
  for (size_t j = 0; j < n; j++) weights[j] /= sum;
}

/* How many keys come before key j: those of larger weight, and earlier ones of the same. */
static size_t rank_of(const double *weights, size_t n, size_t j) {
  size_t before = 0;
  for (size_t i = 0; i < n; i++) before += weights[i] > weights[j] || (weights[i] == weights[j] && i < j);
  return before;
}

size_t reference_entries_for(const double *weights, size_t n, double eps) {
  double *sorted = calloc(n, sizeof *sorted);
  for (size_t j = 0; j < n; j++) sorted[rank_of(weights, n, j)] = weights[j];
  size_t k = 1;
  for (; k < n; k++) {
    double tail = 0;
    for (size_t j = n; j-- > k;) tail += sorted[j];
    if (tail <= eps) break;
  }
  free(sorted);
  return k;
}

size_t reference_entries_above(const double *weights, size_t n, double eps) {
  size_t count = 0;
  for (size_t j = 0; j < n; j++) count += weights[j] >= eps;
  return count;
}

double reference_participation(const double *weights, size_t n) {
  double squares = 0;
  for (size_t j = 0; j < n; j++) squares += weights[j] * weights[j];
  return 1 / squares;
}

void reference_top_k(const double *weights, const double *values, size_t n, size_t dv, size_t k, reference_cut *out) {
  double head = 0;
  out->tail = 0;
  for (size_t i = 0; i < dv; i++) out->head_mean[i] = out->tail_mean[i] = 0;
  for (size_t j = 0; j < n; j++) {
    const int kept = rank_of(weights, n, j) < k;
    *(kept ? &head : &out->tail) += weights[j];
    for (size_t i = 0; i < dv; i++) (kept ? out->head_mean : out->tail_mean)[i] += weights[j] * values[j * dv + i];
  }
  for (size_t i = 0; i < dv; i++) {
    out->head_mean[i] /= head;
    if (k < n) out->tail_mean[i] /= out->tail;
  }
}
