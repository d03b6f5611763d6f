/* condense.c - see condense.h. */
#include "condense.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nystrom.h"

/* As in src/cache/condense.c and src/query/kernel.c. */
enum { BALANCE_QUERIES = 64 };
static const double RIDGE = 1e-4, LEAST_WEIGHT = 1e-3, FARTHEST = 16, UNSEEN = 1e-3;

static double weight_of(const reference_condense *c, size_t i) { return exp(c->log_weight[i]); }

static double squared_distance(const double *a, const double *b, size_t d) {
  double sum = 0;
  for (size_t j = 0; j < d; j++) sum += (a[j] - b[j]) * (a[j] - b[j]);
  return sum;
}

/* The kernel of queries, and a wide radial one on top, of UNSEEN of its mean diagonal. */
static void make_kernel(reference_condense *c) {
  size_t n = c->n, d = c->d;
  double *a = malloc(c->queries * n * sizeof *a), *centre = calloc(d, sizeof *centre);
  double total = 0, spread = 0, diagonal = 0;
  reference_attention_weights(c->query, c->queries, c->keys, c->log_weight, NULL, n, d, a);
  reference_sample_kernel(a, c->queries, n, c->kernel);
  for (size_t i = 0; i < n; i++) {
    total += weight_of(c, i);
    diagonal += c->kernel[i * n + i] / (double)n;
    for (size_t j = 0; j < d; j++) centre[j] += weight_of(c, i) * c->keys[i * d + j];
  }
  for (size_t j = 0; j < d; j++) centre[j] /= total;
  for (size_t i = 0; i < n; i++) spread += squared_distance(c->keys + i * d, centre, d) / (double)n;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++)
      c->kernel[i * n + j] +=
          UNSEEN * diagonal * exp(-squared_distance(c->keys + i * d, c->keys + j * d, d) / (2 * spread));
  free(a);
  free(centre);
}

static void find_mean(reference_condense *c) {
  double total = 0;
  for (size_t i = 0; i < c->n; i++) {
    if (c->exact[i]) continue;
    total += weight_of(c, i);
    for (size_t j = 0; j < c->dv; j++) c->mean[j] += weight_of(c, i) * c->values[i * c->dv + j];
  }
  for (size_t j = 0; j < c->dv; j++) c->mean[j] /= total;
}

static void find_balance(reference_condense *c) {
  size_t n = c->n, queries = c->queries < BALANCE_QUERIES ? c->queries : BALANCE_QUERIES;
  double *a = malloc(queries * n * sizeof *a), sum = 0;
  reference_attention_weights(c->query, queries, c->keys, c->log_weight, NULL, n, c->d, a);
  for (size_t r = 0; r < queries; r++)
    for (size_t j = 0; j < c->dv; j++) {
      double x = 0;
      for (size_t i = 0; i < n; i++) x += a[r * n + i] * weight_of(c, i) * (c->values[i * c->dv + j] - c->mean[j]);
      sum += x * x / (double)queries;
    }
  c->balance = sqrt(sum);
  free(a);
}

void reference_condense_open(reference_condense *c) {
  c->mean = calloc(c->dv, sizeof *c->mean);
  c->kernel = malloc(c->n * c->n * sizeof *c->kernel);
  c->share = calloc(c->n, sizeof *c->share);
  c->farthest = 0;
  find_mean(c);
  find_balance(c);
  make_kernel(c);
  for (size_t i = 0; i < c->n; i++) {
    double distance = squared_distance(c->values + i * c->dv, c->mean, c->dv);
    if (c->exact[i]) continue;
    c->farthest = fmax(c->farthest, sqrt(distance));
    c->share[i] = weight_of(c, i) * weight_of(c, i) * (distance + c->balance * c->balance) * c->kernel[i * c->n + i];
  }
}

void reference_condense_close(reference_condense *c) {
  free(c->mean);
  free(c->kernel);
  free(c->share);
}

/* Solves a x = b, (n, n) and (n, columns), by elimination with the largest pivot; both are lost, x is in b. */
static void solve(double *a, double *b, size_t n, size_t columns) {
  for (size_t k = 0; k < n; k++) {
    size_t best = k;
    for (size_t i = k + 1; i < n; i++)
      if (fabs(a[i * n + k]) > fabs(a[best * n + k])) best = i;
    for (size_t j = 0; j < n; j++) {
      double x = a[k * n + j];
      a[k * n + j] = a[best * n + j];
      a[best * n + j] = x;
    }
    for (size_t j = 0; j < columns; j++) {
      double x = b[k * columns + j];
      b[k * columns + j] = b[best * columns + j];
      b[best * columns + j] = x;
    }
    for (size_t i = 0; i < n; i++) {
      if (i == k) continue;
      double factor = a[i * n + k] / a[k * n + k];
      for (size_t j = k; j < n; j++) a[i * n + j] -= factor * a[k * n + j];
      for (size_t j = 0; j < columns; j++) b[i * columns + j] -= factor * b[k * columns + j];
    }
  }
  for (size_t k = 0; k < n; k++)
    for (size_t j = 0; j < columns; j++) b[k * columns + j] /= a[k * n + k];
}

void reference_condense_fit(const reference_condense *c, const bool *part, const size_t *pivot, size_t count,
                            double *weight, double *value) {
  size_t n = c->n, dv = c->dv, columns = dv + 1;
  double *a = malloc(count * count * sizeof *a), *b = calloc(count * columns, sizeof *b);
  for (size_t s = 0; s < count; s++) {
    for (size_t t = 0; t < count; t++) a[s * count + t] = c->kernel[pivot[s] * n + pivot[t]] * (s == t ? 1 + RIDGE : 1);
    for (size_t i = 0; i < n; i++) {
      if (!part[i]) continue;
      double factor = c->kernel[pivot[s] * n + i] * weight_of(c, i);
      for (size_t j = 0; j < dv; j++) b[s * columns + j] += factor * (c->values[i * dv + j] - c->mean[j]);
      b[s * columns + dv] += factor * c->balance;
    }
  }
  solve(a, b, count, columns);
  for (size_t s = 0; s < count; s++) {
    double squares = 0;
    for (size_t j = 0; j < dv; j++) squares += b[s * columns + j] * b[s * columns + j];
    weight[s] = fmax(b[s * columns + dv] / c->balance, LEAST_WEIGHT);
    weight[s] = fmax(weight[s], sqrt(squares) / (FARTHEST * c->farthest));
    for (size_t j = 0; j < dv; j++) value[s * dv + j] = b[s * columns + j] / weight[s] + c->mean[j];
  }
  free(a);
  free(b);
}

/* sum += exp(<q, k> + log weight) (v, 1). */
static void add(const double *q, const double *key, const double *value, double log_weight, size_t d, size_t dv,
                double *sum) {
  double logit = log_weight;
  for (size_t j = 0; j < d; j++) logit += q[j] * key[j];
  for (size_t j = 0; j < dv; j++) sum[j] += exp(logit) * value[j];
  sum[dv] += exp(logit);
}

double reference_condense_error(const reference_condense *c, const double *held, size_t held_count, const double *keys,
                                const double *values, const double *log_weight, size_t count) {
  size_t d = c->d, dv = c->dv;
  double *wanted = malloc((dv + 1) * sizeof *wanted), *got = malloc((dv + 1) * sizeof *got), sum = 0, squares = 0;
  for (size_t r = 0; r < held_count; r++) {
    const double *q = held + r * d;
    memset(wanted, 0, (dv + 1) * sizeof *wanted);
    memset(got, 0, (dv + 1) * sizeof *got);
    for (size_t i = 0; i < c->n; i++) {
      add(q, c->keys + i * d, c->values + i * dv, c->log_weight[i], d, dv, wanted);
      if (c->exact[i]) add(q, c->keys + i * d, c->values + i * dv, c->log_weight[i], d, dv, got);
    }
    for (size_t i = 0; i < count; i++) add(q, keys + i * d, values + i * dv, log_weight[i], d, dv, got);
    double squared = 0;
    for (size_t j = 0; j < dv; j++) {
      double x = wanted[j] / wanted[dv] - got[j] / got[dv];
      squared += x * x;
    }
    sum += squared / (double)held_count;
    squares += squared * squared / (double)held_count;
  }
  free(wanted);
  free(got);
  return sum + sqrt(fmax(squares - sum * sum, 0) / (double)held_count);
}
