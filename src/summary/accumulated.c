/* accumulated.c - attention over the past (H2O): half of the points are the newest rows, since few queries have seen
 * those yet; the others received most weight from the recorded queries, in the mean over the queries that saw them. */
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

/* Puts rows in the order newest, best, newest, best of what is left ..., so that half of any prefix is new. */
pith_status pith_accumulated_rank(pith_context *context, const pith_problem *problem, const double *score,
                                  void **state) {
  size_t count = problem->candidates, newest = count, best = 0;
  size_t *rows = pith_problem_candidates(context, problem), *sorted = pith_allocate(context, count, sizeof *sorted);
  double *rank = pith_allocate_zero(context, problem->n, sizeof *rank);
  void *by_score = NULL;
  pith_status status =
      rows && sorted && rank ? pith_ranking_prepare(context, problem, score, &by_score) : PITH_E_MEMORY;
  if (status == PITH_OK) pith_ranking_rows(by_score, count, sorted);
  for (size_t i = 0; status == PITH_OK && i < count; i++) {
    size_t row = 0;
    if (i % 2 == 0) {
      while (rank[row = rows[--newest]] > 0) {
      }
    } else {
      while (rank[row = sorted[best++]] > 0) {
      }
    }
    rank[row] = (double)(count - i);
  }
  if (status == PITH_OK) status = pith_ranking_prepare(context, problem, rank, state);
  pith_ranking_release(context, by_score);
  pith_release(context, rows);
  pith_release(context, sorted);
  pith_release(context, rank);
  return status;
}

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  double *score = pith_allocate(context, problem->n, sizeof *score);
  if (!score) return PITH_E_MEMORY;
  pith_status status = receive(context, problem, score);
  if (status >= 0) status = pith_accumulated_rank(context, problem, score, state);
  pith_release(context, score);
  return status;
}

const pith_engine pith_engine_accumulated = {
    .name = "accumulated",
    .help = "half the newest rows, half those with most attention from all queries (H2O)",
    .prepare = prepare,
    .take = pith_ranking_take,
    .release = pith_ranking_release,
};
