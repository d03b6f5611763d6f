/* accumulated.c - attention over the past (H2O): the weight that a row received from the recorded queries, in the mean
 * over those that saw it. A plain sum would drop what is new, since few queries have seen it yet; H2O itself keeps the
 * newest rows apart for that. */
#include "summary/engine.h"

enum { DRAWN = 256 }; /* queries where none were recorded */

/* Sums become means: query r saw rows 0 .. position[r]. */
static pith_status divide(pith_context *context, const pith_problem *problem, double *sum) {
  const pith_query_model *model = problem->model;
  size_t *ends = pith_allocate_zero(context, problem->n, sizeof *ends), seen = 0;
  if (!ends) return PITH_E_MEMORY;
  for (size_t r = 0; r < model->recorded_count; r++) ends[pith_min_size(model->position[r], problem->n - 1)]++;
  for (size_t i = problem->n; i-- > 0;) {
    seen += ends[i];
    if (seen > 0) sum[i] /= (double)seen;
  }
  pith_release(context, ends);
  return PITH_OK;
}

static pith_status receive(pith_context *context, const pith_problem *problem, double *sum) {
  const pith_query_model *model = problem->model;
  if (model->recorded_count > 0) {
    PITH_TRY(pith_attention_received(context, problem, model->recorded, model->position, model->recorded_count, sum));
    return divide(context, problem, sum);
  }
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

const pith_engine pith_engine_accumulated = {"accumulated", "mean attention from all queries that saw a row (H2O)",
                                             prepare, pith_ranking_take, pith_ranking_release};
