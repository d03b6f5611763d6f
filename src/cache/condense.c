/* condense.c - points for sampled queries, at a bounded cost (theory 4.8).
 *
 * What nystrom.c does to a whole head takes time n * m^2 for m points, too long for heads that hold thousands. Here the
 * rows that contribute most to answers stay as they are, and all others become at most CONDENSE_PIVOTS refitted points.
 */
#include "cache/condense.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "linalg/linalg.h"

enum { BALANCE_QUERIES = 64, REFITS = 2 };
/* As in nystrom.c: least weight of a point, largest distance of a value from the mean in parts of the largest there
 * was.
 */
static const double LEAST_WEIGHT = 1e-3, FARTHEST = 16;

/* ---- Candidates ---- */

/* So many of the queries to fit, evenly from the list. */
static pith_status create_kernel(pith_context *context, condensing *c, size_t queries) {
  const pith_query_model *all = c->p->model;
  size_t count = pith_min_size(queries, all->fit_count);
  pith_query_model some = *all;
  float *fit = pith_allocate(context, count, all->d * sizeof *fit);
  if (!fit) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++)
    memcpy(fit + i * all->d, all->fit + i * all->fit_count / count * all->d, all->d * sizeof *fit);
  some.fit = fit;
  some.fit_count = count;
  pith_status status = pith_kernel_create(context, &some, c->p->keys, c->p->log_weight, c->p->n, &c->kernel);
  pith_release(context, fit);
  return status;
}

static double weight_of(const condensing *c, size_t row) { return exp(pith_problem_log_weight(c->p, row)); }

static void find_mean(condensing *c) {
  const pith_problem *p = c->p;
  double total = 0;
  for (size_t i = 0; i < c->rows; i++) {
    double weight = weight_of(c, c->row[i]);
    const float *value = p->values + c->row[i] * p->dv;
    total += weight;
    for (size_t j = 0; j < p->dv; j++) c->mean[j] += weight * value[j];
  }
  for (size_t j = 0; j < p->dv; j++) c->mean[j] /= total > 0 ? total : 1;
}

/* Root mean square distance of an answer from the mean value. */
static pith_status find_balance(pith_context *context, condensing *c) {
  const pith_problem *p = c->p;
  const pith_kernel *k = c->kernel;
  size_t queries = pith_min_size(k->features, BALANCE_QUERIES);
  float *weighted = pith_allocate(context, p->n + queries, p->dv * sizeof *weighted);
  if (!weighted) return PITH_E_MEMORY;
  float *answer = weighted + p->n * p->dv;
  for (size_t i = 0; i < p->n; i++) {
    float weight = (float)weight_of(c, i);
    for (size_t j = 0; j < p->dv; j++)
      weighted[i * p->dv + j] = weight * (float)(p->values[i * p->dv + j] - c->mean[j]);
  }
  pith_gemm_f32(context, PITH_TRANSPOSED, PITH_PLAIN, queries, p->dv, p->n, sqrtf((float)k->features), k->feature,
                k->features, weighted, p->dv, 0, answer, p->dv);
  double sum = 0;
  for (size_t i = 0; i < queries * p->dv; i++) sum += (double)answer[i] * answer[i] / (double)queries;
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

static double squared_distance(const condensing *c, size_t row) {
  double sum = 0;
  for (size_t j = 0; j < c->p->dv; j++) {
    double x = c->p->values[row * c->p->dv + j] - c->mean[j];
    sum += x * x;
  }
  return sum;
}

static pith_status order_rows(pith_context *context, condensing *c) {
  scored *order = pith_allocate(context, c->rows, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  for (size_t i = 0; i < c->rows; i++) {
    size_t row = c->row[i];
    double weight = weight_of(c, row), distance = squared_distance(c, row);
    bool token = row >= c->w->first || c->w->leaving == 0; /* not a point that was fitted itself */
    if (token) c->farthest = fmax(c->farthest, sqrt(distance));
    double importance = weight * weight * (distance + c->balance * c->balance);
    order[i] = (scored){importance * c->kernel->diagonal[row], importance, row};
  }
  qsort(order, c->rows, sizeof *order, compare_scored);
  for (size_t i = 0; i < c->rows; i++) {
    size_t row = c->row[i] = order[i].row;
    float weight = (float)weight_of(c, row), *out = c->coefficients + i * c->columns;
    for (size_t j = 0; j < c->p->dv; j++) out[j] = weight * (float)(c->p->values[row * c->p->dv + j] - c->mean[j]);
    out[c->p->dv] = weight * (float)c->balance;
    c->share[i] = order[i].share;
    c->importance[i] = order[i].importance;
  }
  pith_release(context, order);
  return PITH_OK;
}

pith_status pith_condensing_open(pith_context *context, const cache_work *w, size_t queries, condensing *c) {
  const pith_problem *p = &w->reduction.problem;
  *c = (condensing){.w = w, .p = p, .columns = p->dv + 1};
  c->mean = pith_allocate_zero(context, p->dv, sizeof *c->mean);
  c->row = pith_allocate(context, p->candidates, sizeof *c->row);
  c->coefficients = pith_allocate(context, p->candidates, c->columns * sizeof *c->coefficients);
  c->importance = pith_allocate(context, p->candidates, 2 * sizeof *c->importance);
  if (!c->mean || !c->row || !c->coefficients || !c->importance) return PITH_E_MEMORY;
  c->share = c->importance + p->candidates;
  for (size_t i = 0; i < p->n; i++)
    if (!p->exact[i]) c->row[c->rows++] = i;
  find_mean(c);
  PITH_TRY(create_kernel(context, c, queries));
  PITH_TRY(find_balance(context, c));
  return order_rows(context, c);
}

void pith_condensing_close(pith_context *context, condensing *c) {
  pith_kernel_free(context, c->kernel);
  pith_release(context, c->mean);
  pith_release(context, c->row);
  pith_release(context, c->coefficients);
  pith_release(context, c->importance);
}

/* ---- Parts ---- */

void pith_condense_part_close(pith_context *context, condense_part *t) {
  pith_pivots_free(context, t->pivots);
  pith_release(context, t->kernel.feature);
  pith_release(context, t->kernel.mapped);
  pith_release(context, t->kernel.log_scale);
  pith_release(context, t->kernel.diagonal);
  pith_release(context, t->coefficients);
  pith_release(context, t->importance);
  pith_release(context, t->place);
}

pith_status pith_condense_gather(pith_context *context, const condensing *c, const size_t *place, size_t count,
                                 condense_part *t) {
  const pith_kernel *from = c->kernel;
  *t = (condense_part){.count = count, .kernel = *from};
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
  memcpy(t->place, place, count * sizeof *place);
  for (size_t i = 0; i < count; i++) {
    size_t at = place[i], row = c->row[at];
    memcpy(k->feature + i * k->features, from->feature + row * k->features, k->features * sizeof(float));
    memcpy(k->mapped + i * k->d, from->mapped + row * k->d, k->d * sizeof(float));
    memcpy(t->coefficients + i * c->columns, c->coefficients + at * c->columns, c->columns * sizeof(float));
    k->log_scale[i] = from->log_scale[row];
    k->diagonal[i] = from->diagonal[row];
    t->importance[i] = c->importance[at];
  }
  return PITH_OK;
}

pith_status pith_condense_choose(pith_context *context, const condensing *c, size_t most, condense_part *t) {
  return pith_pivots_choose(context, &t->kernel, t->importance, t->coefficients, c->columns,
                            pith_min_size(most, t->count), c->p->seed, c->p->object, &t->pivots);
}

/* ---- Points ---- */

static void append_row(const condensing *c, size_t place, pith_points *points) {
  pith_points_append(points, c->p, c->row[place], pith_problem_log_weight(c->p, c->row[place]));
}

static void append_fitted(const condensing *c, const double *fit, size_t place, pith_points *points) {
  size_t dv = c->p->dv;
  double squares = 0, weight = fmax(fit[dv] / c->balance, LEAST_WEIGHT);
  for (size_t j = 0; j < dv; j++) squares += fit[j] * fit[j];
  if (c->farthest > 0) weight = fmax(weight, sqrt(squares) / (FARTHEST * c->farthest));
  float *value = points->values + points->count * dv;
  pith_points_append(points, c->p, c->row[place], log(weight));
  for (size_t j = 0; j < dv; j++) value[j] = (float)(fit[j] / weight + c->mean[j]);
}

/* Appends the candidates from place `first` on as they are, and up to `count` points at the pivots of the part. */
static pith_status take(pith_context *context, const condensing *c, const condense_part *t, size_t first, size_t count,
                        pith_points *points) {
  const pith_pivots *v = t->pivots;
  if (!v) return PITH_E_MEMORY; /* there is no part without pivots */
  size_t *active = pith_allocate(context, count, sizeof *active);
  double *fit = pith_allocate(context, count, c->columns * sizeof *fit);
  pith_status status = PITH_E_MEMORY;
  if (active && fit) status = pith_pivots_fit(context, v, LEAST_WEIGHT * c->balance, REFITS, &count, active, fit);
  for (size_t i = first; status == PITH_OK && i < c->rows; i++) append_row(c, i, points);
  for (size_t a = 0; status == PITH_OK && a < count; a++)
    append_fitted(c, fit + a * c->columns, t->place[v->row[active[a]]], points);
  pith_release(context, active);
  pith_release(context, fit);
  return status;
}

static pith_status condense(pith_context *context, const condensing *c, size_t wanted, pith_points *points) {
  size_t pivots = pith_min_size(wanted, CONDENSE_PIVOTS), stay = wanted - pivots, count = c->rows - stay;
  size_t *place = pith_allocate(context, count, sizeof *place);
  if (!place) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++) place[i] = i;
  condense_part part;
  pith_status status = pith_condense_gather(context, c, place, count, &part);
  if (status == PITH_OK) status = pith_condense_choose(context, c, pivots + pivots / 8 + 8, &part);
  if (status == PITH_OK) status = pith_pivots_factor(context, part.pivots);
  if (status == PITH_OK) status = take(context, c, &part, count, pivots, points);
  pith_condense_part_close(context, &part);
  pith_release(context, place);
  return status;
}

pith_status pith_cache_condense(pith_context *context, cache_work *w, size_t wanted) {
  const pith_problem *p = &w->reduction.problem;
  if (wanted >= p->candidates) {
    for (size_t i = 0; i < p->n; i++)
      if (!p->exact[i]) pith_points_append(w->points, p, i, pith_problem_log_weight(p, i));
    return PITH_OK;
  }
  if (wanted == 0) return PITH_OK;
  condensing c;
  pith_status status = pith_condensing_open(context, w, SIZE_MAX, &c); /* which rows matter takes all queries to tell */
  if (status == PITH_OK) status = condense(context, &c, wanted, w->points);
  pith_condensing_close(context, &c);
  return status;
}
