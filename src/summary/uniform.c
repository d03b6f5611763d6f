/* uniform.c - a uniform random subset, weighted up to the total: what random choice alone achieves. */
#include <math.h>

#include "summary/engine.h"

/* Rows ranked by independent uniform numbers: every prefix is a uniform subset. */
static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  double *score = pith_allocate(context, problem->n, sizeof *score);
  if (!score) return PITH_E_MEMORY;
  pith_stream stream = pith_stream_make(problem->seed, PITH_STREAM_PIVOTS, problem->object);
  for (size_t i = 0; i < problem->n; i++) score[i] = pith_random_uniform(&stream, i);
  pith_status status = pith_ranking_prepare(context, problem, score, state);
  pith_release(context, score);
  return status;
}

static pith_status take(pith_context *context, const pith_problem *problem, void *state, size_t count,
                        pith_points *points) {
  size_t first = points->count;
  PITH_TRY(pith_ranking_take(context, problem, state, count, points));
  double total = 0, chosen = 0;
  for (size_t i = 0; i < problem->n; i++)
    if (!problem->exact || !problem->exact[i]) total += exp(pith_problem_log_weight(problem, i));
  for (size_t i = first; i < points->count; i++) chosen += exp(points->log_weight[i]);
  for (size_t i = first; i < points->count; i++) points->log_weight[i] += (float)log(total / chosen);
  return PITH_OK;
}

const pith_engine pith_engine_uniform = {
    .name = "uniform",
    .help = "a uniform random subset, weighted up to the total",
    .prepare = prepare,
    .take = take,
    .release = pith_ranking_release,
};
