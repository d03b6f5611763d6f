/* recent.c - the last rows (with the sinks that the caller keeps: StreamingLLM). */
#include "summary/engine.h"

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  double *score = pith_allocate(context, problem->n, sizeof *score);
  if (!score) return PITH_E_MEMORY;
  for (size_t i = 0; i < problem->n; i++) score[i] = (double)i;
  pith_status status = pith_ranking_prepare(context, problem, score, state);
  pith_release(context, score);
  return status;
}

const pith_engine pith_engine_recent = {
    .name = "recent",
    .help = "sinks and the most recent rows (StreamingLLM)",
    .prepare = prepare,
    .take = pith_ranking_take,
    .release = pith_ranking_release,
};
