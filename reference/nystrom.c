/* nystrom.c - see nystrom.h. */
#include "nystrom.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const double *a, const double *b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

void reference_attention_weights(const double *queries, size_t count, const double *keys, const double *log_weight,
                                 const double *local, size_t n, size_t d, double *a) {
  for (size_t r = 0; r < count; r++) {
    double largest = local ? local[r] : -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
      a[r * n + i] = dot(queries + r * d, keys + i * d, d);
      largest = fmax(largest, a[r * n + i] + (log_weight ? log_weight[i] : 0));
    }
    for (size_t i = 0; i < n; i++) sum += exp(a[r * n + i] + (log_weight ? log_weight[i] : 0) - largest);
    if (local) sum += exp(local[r] - largest);
    for (size_t i = 0; i < n; i++) a[r * n + i] = exp(a[r * n + i] - largest) / sum;
  }
}

void reference_sample_kernel(const double *a, size_t count, size_t n, double *kernel) {
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) {
      double sum = 0;
      for (size_t r = 0; r < count; r++) sum += a[r * n + i] * a[r * n + j];
      kernel[i * n + j] = sum / (double)count;
    }
}

static double *centred(const double *keys, size_t n, size_t d) {
  double *out = malloc(n * d * sizeof *out);
  for (size_t j = 0; j < d; j++) {
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += keys[i * d + j] / (double)n;
    for (size_t i = 0; i < n; i++) out[i * d + j] = keys[i * d + j] - mean;
  }
  return out;
}

void reference_gaussian_kernel(const double *keys, size_t n, size_t d, const double *mean, const double *covariance,
                               double *kernel) {
  double *k = centred(keys, n, d), *sum = malloc(d * sizeof *sum);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) {
      double exponent = 0;
      for (size_t e = 0; e < d; e++) sum[e] = k[i * d + e] + k[j * d + e];
      for (size_t e = 0; e < d; e++) exponent += mean[e] * sum[e] + 0.5 * sum[e] * dot(covariance + e * d, sum, d);
      kernel[i * n + j] = exp(exponent);
    }
  free(k);
  free(sum);
}

void reference_ball_kernel(const double *keys, size_t n, size_t d, double lambda2, double *kernel) {
  double *k = centred(keys, n, d);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) kernel[i * n + j] = exp(lambda2 * dot(k + i * d, k + j * d, d));
  free(k);
}

double reference_trace_left(const double *kernel, size_t n, const double *importance, const size_t *pivot,
                            size_t count) {
  double *left = malloc(n * n * sizeof *left), trace = 0;
  memcpy(left, kernel, n * n * sizeof *left);
  for (size_t s = 0; s < count; s++) {
    size_t p = pivot[s];
    double diagonal = left[p * n + p];
    if (diagonal <= 0) continue;
    double *column = malloc(n * sizeof *column);
    for (size_t i = 0; i < n; i++) column[i] = left[i * n + p] / sqrt(diagonal);
    for (size_t i = 0; i < n; i++)
      for (size_t j = 0; j < n; j++) left[i * n + j] -= column[i] * column[j];
    free(column);
  }
  for (size_t i = 0; i < n; i++) trace += importance[i] * left[i * n + i];
  free(left);
  return trace;
}

double reference_fit_violation(const double *kernel, size_t n, const size_t *pivot, size_t count, double ridge,
                               const double *coefficients, size_t columns, const double *fit) {
  double largest = 0;
  for (size_t a = 0; a < count; a++)
    for (size_t j = 0; j < columns; j++) {
      double left = 0, size = 0;
      for (size_t b = 0; b < count; b++) {
        double term = kernel[pivot[a] * n + pivot[b]] * (a == b ? 1 + ridge : 1) * fit[b * columns + j];
        left += term;
        size += fabs(term);
      }
      for (size_t i = 0; i < n; i++) {
        left -= kernel[pivot[a] * n + i] * coefficients[i * columns + j];
        size += fabs(kernel[pivot[a] * n + i] * coefficients[i * columns + j]);
      }
      largest = fmax(largest, fabs(left) / size);
    }
  return largest;
}

double reference_refine_loss(const double *queries, size_t query_count, const double *keys, const double *log_weight,
                             const double *values, size_t count, size_t d, size_t dv, const double *fixed_mass,
                             const double *fixed_answer, const double *target, double soft) {
  double loss = 0, *weight = malloc(count * sizeof *weight);
  for (size_t r = 0; r < query_count; r++) {
    double largest = fixed_mass[r], sum, squares = 0;
    for (size_t s = 0; s < count; s++) {
      weight[s] = dot(queries + r * d, keys + s * d, d) + log_weight[s];
      largest = fmax(largest, weight[s]);
    }
    sum = exp(fixed_mass[r] - largest);
    double share = sum;
    for (size_t s = 0; s < count; s++) sum += weight[s] = exp(weight[s] - largest);
    for (size_t j = 0; j < dv; j++) {
      double answer = share * fixed_answer[r * dv + j];
      for (size_t s = 0; s < count; s++) answer += weight[s] * values[s * dv + j];
      squares += (answer / sum - target[r * dv + j]) * (answer / sum - target[r * dv + j]);
    }
    double x = sqrt(squares);
    loss += (soft > 0 ? x - soft * log1p(x / soft) : x) / (double)query_count;
  }
  free(weight);
  return loss;
}
