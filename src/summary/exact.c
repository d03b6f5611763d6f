/* exact.c - keeps every row: the upper end of each comparison. Taken short, it gives the first rows. */
#include "summary/engine.h"

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  *state = pith_problem_candidates(context, problem);
  return *state ? PITH_OK : PITH_E_MEMORY;
}

static pith_status take(pith_context *context, const pith_problem *problem, void *state, size_t count,
                        pith_points *points) {
  (void)context;
  const size_t *rows = state;
  for (size_t i = 0; i < pith_min_size(count, problem->candidates); i++)
    pith_points_append(points, problem, rows[i], pith_problem_log_weight(problem, rows[i]));
  return PITH_OK;
}

const pith_engine pith_engine_exact = {
    .name = "exact",
    .help = "all rows, in any storage type",
    .prepare = prepare,
    .take = take,
    .release = pith_release,
};
