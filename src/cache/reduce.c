/* reduce.c - engines in a stream: what each needs beside rows and queries. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache.h"

static bool ranks(const pith_engine *engine) {
  return engine != &pith_engine_nystrom && engine != &pith_engine_halving;
}

/* Every token has a number of its own; the smallest stay. So what is left is a uniform sample at any time, and two
 * caches can be merged. */
static void rank_uniformly(const cache_reduction *r, double *rank) {
  pith_stream stream = pith_stream_make(r->problem.seed, PITH_STREAM_RESERVOIR, (uint32_t)r->index);
  for (size_t i = 0; i < r->problem.n; i++)
    rank[i] = r->tokens[i] < 0 ? 0 : -pith_random_uniform(&stream, (uint64_t)r->tokens[i]);
}

/* Attention that rows received from the queries since the last fold is added to what they had; they are ranked by the
 * mean over the positions that have asked since they came. */
static pith_status rank_by_attention(pith_context *context, cache_reduction *r, double *rank) {
  const pith_query_model *m = r->problem.model;
  size_t n = r->problem.n;
  PITH_TRY(pith_attention_received(context, &r->problem, m->recorded, m->position, m->recorded_count, rank));
  for (size_t i = 0; i < n; i++) {
    r->score[i] = (float)(r->score[i] + rank[i]);
    rank[i] = r->score[i] / (double)(r->tokens[n - 1] + 1 - r->tokens[i]);
  }
  return PITH_OK;
}

static pith_status rank_rows(pith_context *context, cache_reduction *r) {
  const pith_engine *engine = r->cache->engine;
  if (engine == &pith_engine_heavy || engine == &pith_engine_recent)
    return engine->prepare(context, &r->problem, r->problem.candidates, &r->state);
  double *rank = pith_allocate(context, r->problem.n, sizeof *rank);
  if (!rank) return PITH_E_MEMORY;
  pith_status status = PITH_OK;
  if (engine == &pith_engine_uniform) {
    rank_uniformly(r, rank);
    status = pith_ranking_prepare(context, &r->problem, rank, &r->state);
  } else {
    status = rank_by_attention(context, r, rank);
    if (status == PITH_OK) status = pith_accumulated_rank(context, &r->problem, rank, &r->state);
  }
  pith_release(context, rank);
  return status;
}

pith_status pith_cache_reduce_prepare(pith_context *context, cache_reduction *r, size_t most) {
  pith_cache_reduce_close(context, r);
  if (ranks(r->cache->engine)) return rank_rows(context, r);
  if (r->cache->engine == &pith_engine_halving || most == 0) return PITH_OK;
  return pith_engine_nystrom.prepare(context, &r->problem, most, &r->state);
}

static int compare_rows(const void *left, const void *right) {
  int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return (a > b) - (a < b);
}

/* Points in the order of time. A uniform sample stands for all rows alike. */
static void put_in_order(const cache_reduction *r, pith_points *points) {
  size_t count = points->count;
  double total = 0;
  qsort(points->index, count, sizeof *points->index, compare_rows);
  for (size_t i = 0; i < r->problem.n; i++)
    if (!r->problem.exact[i]) total += exp(pith_problem_log_weight(&r->problem, i));
  double even = log(total / (double)(count ? count : 1));
  points->count = 0;
  for (size_t i = 0; i < count; i++) {
    size_t row = (size_t)points->index[i];
    bool uniform = r->cache->engine == &pith_engine_uniform;
    pith_points_append(points, &r->problem, row, uniform ? even : pith_problem_log_weight(&r->problem, row));
  }
}

static pith_status take_all(const cache_reduction *r, pith_points *points) {
  for (size_t i = 0; i < r->problem.n; i++)
    if (!r->problem.exact[i]) pith_points_append(points, &r->problem, i, pith_problem_log_weight(&r->problem, i));
  return PITH_OK;
}

pith_status pith_cache_reduce_take(pith_context *context, cache_reduction *r, size_t count, pith_points *points,
                                   float *scores) {
  const pith_engine *engine = r->cache->engine;
  points->count = 0;
  memset(r->change, 0, sizeof r->change);
  if (count >= r->problem.candidates) {
    /* what asks now counts for rows that are chosen from later */
    if (engine == &pith_engine_accumulated && !r->state) PITH_TRY(pith_cache_reduce_prepare(context, r, count));
    PITH_TRY(take_all(r, points));
  } else if (engine == &pith_engine_halving) {
    PITH_TRY(pith_cache_compact(context, r, count, points));
  } else if (engine == &pith_engine_nystrom) {
    if (count > 0) PITH_TRY(engine->take(context, &r->problem, r->state, count, points));
  } else {
    PITH_TRY(pith_ranking_take(context, &r->problem, r->state, count, points));
    put_in_order(r, points);
  }
  pith_cache_reduce_name(r, points, scores);
  return PITH_OK;
}

void pith_cache_reduce_name(const cache_reduction *r, pith_points *points, float *scores) {
  for (size_t i = 0; i < points->count; i++) {
    int64_t row = points->index[i];
    scores[i] = row < 0 ? 0 : r->score[row];
    points->index[i] = row < 0 ? -1 : r->tokens[row];
  }
}

void pith_cache_reduce_close(pith_context *context, cache_reduction *r) {
  if (!r->state) return;
  if (r->cache->engine == &pith_engine_nystrom)
    pith_engine_nystrom.release(context, r->state);
  else
    pith_ranking_release(context, r->state);
  r->state = NULL;
}
