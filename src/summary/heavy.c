/* heavy.c - what the last queries looked at (SnapKV): attention of the last 64 recorded positions,
 * averaged over queries, largest of 7 neighbouring rows. */
#include "summary/engine.h"

enum { POSITIONS = 64, POOL = 7 };

/* First of the recorded queries that lie in the last POSITIONS distinct positions. */
static size_t first_recorded(const pith_query_model *model) {
  size_t first = model->recorded_count, distinct = 0;
  while (first > 0) {
    bool known = first < model->recorded_count && model->position[first - 1] == model->position[first];
    if (!known && distinct++ == POSITIONS) break;
    first--;
  }
  return first;
}

static pith_status receive(pith_context *context, const pith_problem *problem, double *sum) {
  const pith_query_model *model = problem->model;
  if (model->recorded_count > 0) {
    size_t first = first_recorded(model);
    return pith_attention_received(context, problem, model->recorded + first * model->d, model->position + first,
                                   model->recorded_count - first, sum);
  }
  float *queries = pith_allocate(context, POSITIONS, model->d * sizeof *queries);
  if (!queries) return PITH_E_MEMORY;
  pith_status status = pith_query_model_draw(context, model, POSITIONS, problem->seed, problem->object, queries);
  if (status >= 0) status = pith_attention_received(context, problem, queries, NULL, POSITIONS, sum);
  pith_release(context, queries);
  return status;
}

/* Rows kept anyway do not recommend their neighbours, as in SnapKV, which pools the prefix without its window. */
static void pool(const pith_problem *problem, const double *sum, double *score) {
  for (size_t i = 0; i < problem->n; i++) {
    score[i] = 0;
    size_t begin = i > POOL / 2 ? i - POOL / 2 : 0, end = pith_min_size(problem->n, i + POOL / 2 + 1);
    for (size_t j = begin; j < end; j++)
      if ((!problem->exact || !problem->exact[j]) && sum[j] > score[i]) score[i] = sum[j];
  }
}

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  double *sum = pith_allocate(context, problem->n, 2 * sizeof *sum);
  if (!sum) return PITH_E_MEMORY;
  double *score = sum + problem->n;
  pith_status status = receive(context, problem, sum);
  if (status >= 0) {
    pool(problem, sum, score);
    status = pith_ranking_prepare(context, problem, score, state);
  }
  pith_release(context, sum);
  return status;
}

const pith_engine pith_engine_heavy = {
    .name = "heavy",
    .help = "what the last 64 positions attended to, pooled (SnapKV)",
    .prepare = prepare,
    .take = pith_ranking_take,
    .release = pith_ranking_release,
};
