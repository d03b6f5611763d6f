/* candidates.c - rows in the order of what they contribute, and points fitted to the least of them. */
#include "summary/candidates.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "linalg/linalg.h"

enum { BALANCE_QUERIES = 64, REFITS = 2 };
/* Points that stand for less than this many tokens are dropped for the next pivots. */
static const double LEAST_WEIGHT = 1e-3;
/* Where the fit is ill-posed, a value may come out anywhere: at most so many times as far from the mean as the farthest
 * of a token, so that every store can hold it. */
static const double FARTHEST = 16;

/* ---- Candidates ---- */

static double weight_of(const pith_candidates *c, size_t row) { return exp(pith_problem_log_weight(c->problem, row)); }

static void find_mean(pith_candidates *c) {
  const pith_problem *p = c->problem;
  double total = 0;
  for (size_t i = 0; i < c->rows; i++) {
    double weight = weight_of(c, c->row[i]);
    const float *value = p->values + c->row[i] * p->dv;
    total += weight;
    for (size_t j = 0; j < p->dv; j++) c->mean[j] += weight * value[j];
  }
  for (size_t j = 0; j < p->dv; j++) c->mean[j] /= total > 0 ? total : 1;
}

/* Root mean square of what all rows move an answer away from the mean value by; without fit queries, of the values
 * themselves. */
static pith_status find_balance(pith_context *context, pith_candidates *c) {
  const pith_problem *p = c->problem;
  const pith_kernel *k = c->kernel;
  size_t n = p->n, dv = p->dv, queries = pith_min_size(k->features, BALANCE_QUERIES);
  float *weighted = pith_allocate(context, n + queries, dv * sizeof *weighted);
  if (!weighted) return PITH_E_MEMORY;
  float *answer = weighted + n * dv;
  for (size_t i = 0; i < n; i++) {
    float weight = (float)weight_of(c, i);
    for (size_t j = 0; j < dv; j++) weighted[i * dv + j] = weight * (float)(p->values[i * dv + j] - c->mean[j]);
  }
  double sum = 0;
  if (queries == 0) {
    for (size_t i = 0; i < n * dv; i++) sum += (double)weighted[i] * weighted[i] / (double)n;
  } else {
    pith_gemm_f32(context, PITH_TRANSPOSED, PITH_PLAIN, queries, dv, n, sqrtf((float)k->features), k->feature,
                  k->features, weighted, dv, 0, answer, dv);
    for (size_t i = 0; i < queries * dv; i++) sum += (double)answer[i] * answer[i] / (double)queries;
  }
  c->balance = sum > 0 ? sqrt(sum) : 1;
  pith_release(context, weighted);
  return PITH_OK;
}

typedef struct scored {
  double share, importance;
  size_t row;
} scored;

static int compare_scored(const void *left, const void *right) {
  const scored *a = left, *b = right;
  if (a->share != b->share) return a->share < b->share ? -1 : 1;
  return (a->row > b->row) - (a->row < b->row);
}

/* What a row contributes is known of all queries, also where the kernel is of some. */
static double diagonal_of(const pith_kernel *kernel, size_t row) {
  return kernel->all_diagonal ? kernel->all_diagonal[row] : kernel->diagonal[row];
}

static double squared_distance(const pith_candidates *c, size_t row) {
  double sum = 0;
  for (size_t j = 0; j < c->problem->dv; j++) {
    double x = c->problem->values[row * c->problem->dv + j] - c->mean[j];
    sum += x * x;
  }
  return sum;
}

static pith_status order_rows(pith_context *context, pith_candidates *c, size_t first_token) {
  const pith_problem *p = c->problem;
  scored *order = pith_allocate(context, c->rows, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  for (size_t i = 0; i < c->rows; i++) {
    size_t row = c->row[i];
    double weight = weight_of(c, row), distance = squared_distance(c, row);
    if (row >= first_token) c->farthest = fmax(c->farthest, sqrt(distance));
    double importance = weight * weight * (distance + c->balance * c->balance);
    order[i] = (scored){importance * diagonal_of(c->kernel, row), importance, row};
  }
  qsort(order, c->rows, sizeof *order, compare_scored);
  for (size_t i = 0; i < c->rows; i++) {
    size_t row = c->row[i] = order[i].row;
    float weight = (float)weight_of(c, row), *out = c->coefficients + i * c->columns;
    for (size_t j = 0; j < p->dv; j++) out[j] = weight * (float)(p->values[row * p->dv + j] - c->mean[j]);
    out[p->dv] = weight * (float)c->balance;
    c->share[i] = order[i].share;
    c->importance[i] = order[i].importance;
  }
  pith_release(context, order);
  return PITH_OK;
}

pith_status pith_candidates_open(pith_context *context, const pith_problem *problem, pith_kernel *kernel,
                                 size_t first_token, pith_candidates *c) {
  const pith_problem *p = problem;
  *c = (pith_candidates){.problem = p, .kernel = kernel, .columns = p->dv + 1};
  c->mean = pith_allocate_zero(context, p->dv, sizeof *c->mean);
  c->row = pith_problem_candidates(context, p);
  c->coefficients = pith_allocate(context, p->candidates, c->columns * sizeof *c->coefficients);
  c->importance = pith_allocate(context, p->candidates, 2 * sizeof *c->importance);
  if (!c->mean || !c->row || !c->coefficients || !c->importance) return PITH_E_MEMORY;
  c->share = c->importance + p->candidates;
  c->rows = p->candidates;
  find_mean(c);
  PITH_TRY(find_balance(context, c));
  return order_rows(context, c, first_token);
}

void pith_candidates_close(pith_context *context, pith_candidates *c) {
  pith_kernel_free(context, c->kernel);
  pith_release(context, c->mean);
  pith_release(context, c->row);
  pith_release(context, c->coefficients);
  pith_release(context, c->importance);
}

/* ---- Parts ---- */

void pith_part_close(pith_context *context, pith_part *t) {
  pith_pivots_free(context, t->pivots);
  pith_release(context, t->kernel.feature);
  pith_release(context, t->kernel.mapped);
  pith_release(context, t->kernel.log_scale);
  pith_release(context, t->kernel.diagonal);
  pith_release(context, t->coefficients);
  pith_release(context, t->importance);
  pith_release(context, t->place);
}

pith_status pith_part_gather(pith_context *context, const pith_candidates *c, const size_t *place, size_t count,
                             pith_part *t) {
  const pith_kernel *from = c->kernel;
  *t = (pith_part){.count = count, .kernel = *from};
  pith_kernel *k = &t->kernel;
  k->n = count;
  k->feature = pith_allocate(context, count, k->features * sizeof(float));
  k->mapped = pith_allocate(context, count, k->d * sizeof(float));
  k->log_scale = pith_allocate(context, count, sizeof(float));
  k->diagonal = pith_allocate(context, count, sizeof(float));
  t->coefficients = pith_allocate(context, count, c->columns * sizeof(float));
  t->importance = pith_allocate(context, count, sizeof(double));
  t->place = pith_allocate(context, count, sizeof *t->place);
  if (!k->feature || !k->mapped || !k->log_scale || !k->diagonal || !t->coefficients || !t->importance || !t->place)
    return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++) {
    size_t at = t->place[i] = place ? place[i] : i, row = c->row[at];
    if (k->features > 0)
      memcpy(k->feature + i * k->features, from->feature + row * k->features, k->features * sizeof(float));
    memcpy(k->mapped + i * k->d, from->mapped + row * k->d, k->d * sizeof(float));
    memcpy(t->coefficients + i * c->columns, c->coefficients + at * c->columns, c->columns * sizeof(float));
    k->log_scale[i] = from->log_scale[row];
    k->diagonal[i] = from->diagonal[row];
    t->importance[i] = c->importance[at];
  }
  return PITH_OK;
}

pith_status pith_part_choose(pith_context *context, const pith_candidates *c, size_t count, size_t most, pith_part *t) {
  pith_kernel first = t->kernel;
  first.n = count;
  pith_pivots_free(context, t->pivots);
  t->pivots = NULL;
  return pith_pivots_choose(context, &first, t->importance, t->coefficients, c->columns, pith_min_size(most, count),
                            c->problem->seed, c->problem->object, &t->pivots);
}

/* ---- Points ---- */

void pith_candidates_append(const pith_candidates *c, size_t first, pith_points *points) {
  for (size_t i = first; i < c->rows; i++)
    pith_points_append(points, c->problem, c->row[i], pith_problem_log_weight(c->problem, c->row[i]));
}

static void append_fitted(const pith_candidates *c, const double *fit, size_t place, pith_points *points) {
  size_t dv = c->problem->dv;
  double squares = 0, weight = fmax(fit[dv] / c->balance, LEAST_WEIGHT);
  for (size_t j = 0; j < dv; j++) squares += fit[j] * fit[j];
  if (c->farthest > 0) weight = fmax(weight, sqrt(squares) / (FARTHEST * c->farthest));
  float *value = points->values + points->count * dv;
  pith_points_append(points, c->problem, c->row[place], log(weight));
  for (size_t j = 0; j < dv; j++) value[j] = (float)(fit[j] / weight + c->mean[j]);
}

pith_status pith_part_take(pith_context *context, const pith_candidates *c, const pith_part *t, size_t count,
                           pith_points *points) {
  const pith_pivots *v = t->pivots;
  if (!v) return PITH_E_MEMORY; /* there is no part without pivots */
  size_t *active = pith_allocate(context, count, sizeof *active);
  double *fit = pith_allocate(context, count, c->columns * sizeof *fit);
  pith_status status = PITH_E_MEMORY;
  if (active && fit) status = pith_pivots_fit(context, v, LEAST_WEIGHT * c->balance, REFITS, &count, active, fit);
  for (size_t a = 0; status == PITH_OK && a < count; a++)
    append_fitted(c, fit + a * c->columns, t->place[v->row[active[a]]], points);
  pith_release(context, active);
  pith_release(context, fit);
  return status;
}

size_t pith_pivots_wanted(size_t points) { return points + points / 8 + 8; }
