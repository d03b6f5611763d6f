/* certify.c - certificates as they are written down. */
#include "certify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"

static void *take(size_t count, size_t size) {
  void *block = calloc(count ? count : 1, size);
  if (!block) abort();
  return block;
}

double reference_error(const reference_pairs *full, const reference_pairs *summary, const double *query) {
  const reference_pairs *sides[2] = {full, summary};
  double *answers = take(2 * full->dv, sizeof *answers), square = 0;
  for (int k = 0; k < 2; k++) {
    double *log_weight = take(sides[k]->n, sizeof *log_weight);
    for (size_t i = 0; i < sides[k]->n; i++) log_weight[i] = log(sides[k]->weight[i]);
    reference_attention(query, 1, sides[k]->keys, sides[k]->values, log_weight, sides[k]->n, full->d, full->dv, 1, NULL,
                        answers + (size_t)k * full->dv);
    free(log_weight);
  }
  for (size_t j = 0; j < full->dv; j++) square += pow(answers[j] - answers[full->dv + j], 2);
  free(answers);
  return sqrt(square);
}

/* Both sets behind each other, centred under the tilted weights of the full set, which sum to 1. */
typedef struct joined {
  size_t n, d, dv;
  double *x, *v, *s; /* s: + in the summary, - in the full set */
  double radius;
} joined;

static joined join(const reference_pairs *full, const reference_pairs *summary, const double *tilt) {
  joined out = {.n = full->n + summary->n, .d = full->d, .dv = full->dv};
  out.x = take(out.n * out.d, sizeof(double));
  out.v = take(out.n * out.dv, sizeof(double));
  out.s = take(out.n, sizeof(double));
  memcpy(out.x, full->keys, full->n * out.d * sizeof(double));
  memcpy(out.x + full->n * out.d, summary->keys, summary->n * out.d * sizeof(double));
  memcpy(out.v, full->values, full->n * out.dv * sizeof(double));
  memcpy(out.v + full->n * out.dv, summary->values, summary->n * out.dv * sizeof(double));
  double total = 0;
  for (size_t i = 0; i < out.n; i++) {
    double exponent = 0;
    for (size_t j = 0; j < out.d; j++) exponent += tilt ? tilt[j] * out.x[i * out.d + j] : 0;
    double weight = i < full->n ? full->weight[i] : summary->weight[i - full->n];
    out.s[i] = (i < full->n ? -1 : 1) * weight * exp(exponent);
    if (i < full->n) total -= out.s[i];
  }
  for (size_t i = 0; i < out.n; i++) out.s[i] /= total;
  for (size_t j = 0; j < out.d + out.dv; j++) {
    double *column = j < out.d ? out.x + j : out.v + (j - out.d), mean = 0;
    size_t stride = j < out.d ? out.d : out.dv;
    for (size_t i = 0; i < full->n; i++) mean -= out.s[i] * column[i * stride];
    for (size_t i = 0; i < out.n; i++) column[i * stride] -= mean;
  }
  for (size_t i = full->n; i < out.n; i++) {
    double square = 0;
    for (size_t j = 0; j < out.dv; j++) square += out.v[i * out.dv + j] * out.v[i * out.dv + j];
    out.radius = fmax(out.radius, sqrt(square));
  }
  return out;
}

static void leave(joined *set) {
  free(set->x);
  free(set->v);
  free(set->s);
}

static double inner(const double *a, const double *b, size_t n) {
  double sum = 0;
  for (size_t j = 0; j < n; j++) sum += a[j] * b[j];
  return sum;
}

/* sqrt(sum_ij s_i s_j f(<x_i,x_j>) c_ij), c = <v_i,v_j> or 1; f(g) = g^degree, or exp(lambda2 g) for degree < 0. */
static double norm(const joined *set, int degree, double lambda2, int with_values) {
  double sum = 0;
  for (size_t i = 0; i < set->n; i++)
    for (size_t j = 0; j < set->n; j++) {
      double gram = inner(set->x + i * set->d, set->x + j * set->d, set->d);
      double values = with_values ? inner(set->v + i * set->dv, set->v + j * set->dv, set->dv) : 1;
      sum += set->s[i] * set->s[j] * values * (degree < 0 ? exp(lambda2 * gram) : pow(gram, degree));
    }
  return sqrt(fmax(sum, 0));
}

double reference_kernel_bound(const reference_pairs *full, const reference_pairs *summary, double rho, double lambda2) {
  joined set = join(full, summary, NULL);
  double bound =
      exp(rho * rho / (2 * lambda2)) * (norm(&set, -1, lambda2, 1) + set.radius * norm(&set, -1, lambda2, 0));
  leave(&set);
  return bound;
}

double reference_degree_bound(const reference_pairs *full, const reference_pairs *summary, double rho) {
  joined set = join(full, summary, NULL);
  double bound = 0, factor = 1;
  for (int t = 0; t < 60; t++) {
    bound += factor * (norm(&set, t, 0, 1) + set.radius * norm(&set, t, 0, 0));
    factor *= rho / (t + 1);
  }
  leave(&set);
  return bound;
}

double reference_gaussian_rms(const reference_pairs *full, const reference_pairs *summary, const double *mean,
                              const double *covariance) {
  joined set = join(full, summary, mean);
  double sum = 0, *y = take(set.d, sizeof *y);
  for (size_t i = 0; i < set.n; i++)
    for (size_t j = 0; j < set.n; j++) {
      double exponent = 0;
      for (size_t k = 0; k < set.d; k++) y[k] = set.x[i * set.d + k] + set.x[j * set.d + k];
      for (size_t k = 0; k < set.d; k++) exponent += y[k] * inner(covariance + k * set.d, y, set.d) / 2;
      double values = inner(set.v + i * set.dv, set.v + j * set.dv, set.dv) + set.radius * set.radius;
      sum += set.s[i] * set.s[j] * values * exp(exponent);
    }
  free(y);
  leave(&set);
  return sqrt(fmax(sum, 0));
}

double reference_order_statistic(const double *errors, size_t count, size_t k) {
  for (size_t i = 0; i < count; i++) {
    size_t below = 0, equal = 0;
    for (size_t j = 0; j < count; j++) {
      below += errors[j] < errors[i];
      equal += errors[j] == errors[i];
    }
    if (below < k && k <= below + equal) return errors[i];
  }
  return INFINITY;
}
