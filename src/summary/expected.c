/* expected.c - mean attention of the queries to come, under their Gaussian moments, times the norm of the
 * value (ExpectedAttention): exp(<mu, k> + k' S k / 2) |v|. As published, with epsilon 0: then the
 * normalisation over keys does not change the order, and logarithms are ranked as they are. */
#include <math.h>

#include "linalg/linalg.h"
#include "summary/engine.h"

enum { ROW_BLOCK = 1024 };

/* The model's moments as f32; those of the ball (mean 0, covariance rho^2/d I) without recorded queries. */
static void moments(const pith_query_model *model, float *mean, float *covariance) {
  size_t d = model->d;
  for (size_t i = 0; i < d; i++) {
    mean[i] = model->mean ? (float)model->mean[i] : 0;
    for (size_t j = 0; j < d; j++) {
      double ball = i == j ? model->rho * model->rho / (double)d : 0;
      covariance[i * d + j] = (float)(model->covariance ? model->covariance[i * d + j] : ball);
    }
  }
}

static double log_norm(const float *value, size_t dv) {
  double square = 0;
  for (size_t j = 0; j < dv; j++) square += (double)value[j] * value[j];
  return 0.5 * log(square);
}

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  size_t n = problem->n, d = problem->d;
  double *score = pith_allocate(context, n, sizeof *score);
  float *mean = pith_allocate(context, d + d * d + ROW_BLOCK * d, sizeof *mean);
  pith_status status = score && mean ? PITH_OK : PITH_E_MEMORY;
  if (status < 0) goto done;
  float *covariance = mean + d, *product = covariance + d * d;
  moments(problem->model, mean, covariance);
  for (size_t begin = 0; begin < n; begin += ROW_BLOCK) {
    size_t rows = pith_min_size(ROW_BLOCK, n - begin);
    const float *keys = problem->keys + begin * d;
    pith_gemm_f32(context, PITH_PLAIN, PITH_PLAIN, rows, d, d, 1, keys, d, covariance, d, 0, product, d);
    for (size_t i = 0; i < rows; i++) {
      double logit = pith_problem_log_weight(problem, begin + i);
      for (size_t j = 0; j < d; j++) logit += (mean[j] + 0.5 * product[i * d + j]) * keys[i * d + j];
      score[begin + i] = logit + log_norm(problem->values + (begin + i) * problem->dv, problem->dv);
    }
  }
  status = pith_ranking_prepare(context, problem, score, state);
done:
  pith_release(context, score);
  pith_release(context, mean);
  return status;
}

const pith_engine pith_engine_expected = {
    .name = "expected",
    .help = "expected attention of the queries to come times value norm (ExpectedAttention)",
    .prepare = prepare,
    .take = pith_ranking_take,
    .release = pith_ranking_release,
};
