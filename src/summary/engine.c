/* engine.c - the list of engines, chosen points, and the ranking that simple engines share. */
#include "summary/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "linalg/linalg.h"

static const pith_engine *const engines[] = {
    &pith_engine_nystrom, &pith_engine_halving,     &pith_engine_exact,    &pith_engine_uniform, &pith_engine_recent,
    &pith_engine_heavy,   &pith_engine_accumulated, &pith_engine_expected, &pith_engine_balance,
};
enum { ENGINES = sizeof engines / sizeof engines[0] };

const char *pith_engine_name(size_t index) { return index < ENGINES ? engines[index]->name : NULL; }
const char *pith_engine_help(size_t index) { return index < ENGINES ? engines[index]->help : NULL; }

const pith_engine *pith_engine_find(const char *name) {
  for (size_t i = 0; i < ENGINES; i++)
    if (strcmp(engines[i]->name, name) == 0) return engines[i];
  return NULL;
}

/* ---- Points -------------------------------------------------------------------------------- */

pith_status pith_points_create(pith_context *context, size_t capacity, size_t d, size_t dv, pith_points **out) {
  pith_points *points = pith_allocate_zero(context, 1, sizeof *points);
  if (!points) return PITH_E_MEMORY;
  points->capacity = capacity;
  points->d = d;
  points->dv = dv;
  points->keys = pith_allocate(context, capacity, d * sizeof *points->keys);
  points->values = pith_allocate(context, capacity, dv * sizeof *points->values);
  points->log_weight = pith_allocate(context, capacity, sizeof *points->log_weight);
  points->index = pith_allocate(context, capacity, sizeof *points->index);
  if (!points->keys || !points->values || !points->log_weight || !points->index) {
    pith_points_free(context, points);
    return PITH_E_MEMORY;
  }
  *out = points;
  return PITH_OK;
}

void pith_points_free(pith_context *context, pith_points *points) {
  if (!points) return;
  pith_release(context, points->keys);
  pith_release(context, points->values);
  pith_release(context, points->log_weight);
  pith_release(context, points->index);
  pith_release(context, points);
}

void pith_points_append(pith_points *points, const pith_problem *problem, size_t row, double log_weight) {
  size_t at = points->count++;
  memcpy(points->keys + at * points->d, problem->keys + row * problem->d, problem->d * sizeof *points->keys);
  memcpy(points->values + at * points->dv, problem->values + row * problem->dv, problem->dv * sizeof *points->values);
  points->log_weight[at] = (float)log_weight;
  points->index[at] = (int64_t)row;
}

/* ---- Problems ------------------------------------------------------------------------------ */

double pith_problem_log_weight(const pith_problem *problem, size_t row) {
  return problem->log_weight ? problem->log_weight[row] : 0;
}

size_t *pith_problem_candidates(pith_context *context, const pith_problem *problem) {
  size_t *rows = pith_allocate(context, problem->candidates, sizeof *rows);
  if (!rows) return NULL;
  size_t count = 0;
  for (size_t i = 0; i < problem->n; i++)
    if (!problem->exact || !problem->exact[i]) rows[count++] = i;
  return rows;
}

/* ---- Ranking ------------------------------------------------------------------------------- */

typedef struct ranked {
  double score;
  size_t row;
} ranked;

static int compare_ranked(const void *left, const void *right) {
  const ranked *a = left, *b = right;
  if (a->score != b->score) return a->score > b->score ? -1 : 1;
  return a->row > b->row ? -1 : a->row < b->row;
}

pith_status pith_ranking_prepare(pith_context *context, const pith_problem *problem, const double *score,
                                 void **state) {
  ranked *ranking = pith_allocate(context, problem->candidates, sizeof *ranking);
  if (!ranking) return PITH_E_MEMORY;
  size_t count = 0;
  for (size_t i = 0; i < problem->n; i++)
    if (!problem->exact || !problem->exact[i]) ranking[count++] = (ranked){score[i], i};
  qsort(ranking, count, sizeof *ranking, compare_ranked);
  *state = ranking;
  return PITH_OK;
}

pith_status pith_ranking_take(pith_context *context, const pith_problem *problem, void *state, size_t count,
                              pith_points *points) {
  (void)context;
  const ranked *ranking = state;
  for (size_t i = 0; i < pith_min_size(count, problem->candidates); i++)
    pith_points_append(points, problem, ranking[i].row, pith_problem_log_weight(problem, ranking[i].row));
  return PITH_OK;
}

void pith_ranking_rows(const void *state, size_t count, size_t *rows) {
  const ranked *ranking = state;
  for (size_t i = 0; i < count; i++) rows[i] = ranking[i].row;
}

void pith_ranking_release(pith_context *context, void *state) { pith_release(context, state); }

/* ---- Attention received -------------------------------------------------------------------- */

enum { QUERY_BLOCK = 64, COLUMN_BLOCK = 512 };

typedef struct received {
  const pith_problem *problem;
  const pith_kernels *kernels;
  const size_t *position; /* of the first query of the block, or NULL */
  size_t queries;
  float *logits; /* (QUERY_BLOCK, n) */
  double *sum;
} received;

/* Logits of one query into attention weights. */
static void attend_row(void *argument, size_t row, int thread) {
  (void)thread;
  received *r = argument;
  size_t n = r->problem->n, seen = r->position ? pith_min_size(n, r->position[row] + 1) : n;
  float *logit = r->logits + row * n;
  if (r->problem->log_weight)
    for (size_t i = 0; i < seen; i++) logit[i] += r->problem->log_weight[i];
  float factor = 1 / r->kernels->exp_sum(logit, seen, -r->kernels->max(logit, seen));
  for (size_t i = 0; i < seen; i++) logit[i] *= factor;
  for (size_t i = seen; i < n; i++) logit[i] = 0;
}

static void add_columns(void *argument, size_t block, int thread) {
  (void)thread;
  received *r = argument;
  size_t n = r->problem->n, begin = block * COLUMN_BLOCK, end = pith_min_size(n, begin + COLUMN_BLOCK);
  for (size_t row = 0; row < r->queries; row++)
    for (size_t i = begin; i < end; i++) r->sum[i] += r->logits[row * n + i];
}

pith_status pith_attention_received(pith_context *context, const pith_problem *problem, const float *queries,
                                    const size_t *position, size_t count, double *sum) {
  size_t n = problem->n, d = problem->d;
  float *logits = pith_allocate(context, n, QUERY_BLOCK * sizeof *logits);
  if (!logits) return PITH_E_MEMORY;
  memset(sum, 0, n * sizeof *sum);
  for (size_t begin = 0; begin < count; begin += QUERY_BLOCK) {
    received r = {problem,
                  pith_kernels_active(),
                  position ? position + begin : NULL,
                  pith_min_size(QUERY_BLOCK, count - begin),
                  logits,
                  sum};
    pith_gemm_f32(context, PITH_PLAIN, PITH_TRANSPOSED, r.queries, n, d, 1, queries + begin * d, d, problem->keys, d, 0,
                  logits, n);
    pith_parallel_for(context, r.queries, attend_row, &r);
    pith_parallel_for(context, (n + COLUMN_BLOCK - 1) / COLUMN_BLOCK, add_columns, &r);
  }
  pith_release(context, logits);
  return PITH_OK;
}
