/* accumulated.c - attention summed over the past (H2O): each recorded query's attention weights, over the
 * rows that it saw, added up and not normalised further. */
#include "summary/engine.h"

enum { DRAWN = 256 }; /* queries where none were recorded */

static pith_status receive(pith_context *context, const pith_problem *problem, double *sum) {
  const pith_query_model *model = problem->model;
  if (model->recorded_count > 0)
    return pith_attention_received(context, problem, model->recorded, model->position, model->recorded_count, sum);
  float *queries = pith_allocate(context, DRAWN, model->d * sizeof *queries);
  if (!queries) return PITH_E_MEMORY;
  pith_status status = pith_query_model_draw(context, model, DRAWN, problem->seed, problem->object, queries);
  if (status >= 0) status = pith_attention_received(context, problem, queries, NULL, DRAWN, sum);
  pith_release(context, queries);
  return status;
}

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  double *score = pith_allocate(context, problem->n, sizeof *score);
  if (!score) return PITH_E_MEMORY;
  pith_status status = receive(context, problem, score);
  if (status >= 0) status = pith_ranking_prepare(context, problem, score, state);
  pith_release(context, score);
  return status;
}

const pith_engine pith_engine_accumulated = {"accumulated", "attention summed over the past (H2O)", prepare,
                                             pith_ranking_take, pith_ranking_release};
