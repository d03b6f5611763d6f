/* fold.c - weights written into keys, for engines that know none (theory 4.8). */
#include "linalg/linalg.h"
#include "query/model.h"

static const double RIDGE = 1e-3;

/* u = (Q^T Q + ridge)^-1 Q^T 1, scaled so that the mean of <q, u> is 1. */
static pith_status find_direction(pith_context *context, const pith_query_model *model, double *u) {
  size_t d = model->d, count = model->fit_count;
  double *gram = pith_allocate_zero(context, d * d, sizeof *gram);
  if (!gram) return PITH_E_MEMORY;
  double trace = 0;
  for (size_t i = 0; i < d; i++) {
    u[i] = (double)count * model->mean[i];
    for (size_t j = 0; j < d; j++)
      gram[i * d + j] = (double)count * (model->covariance[i * d + j] + model->mean[i] * model->mean[j]);
    trace += gram[i * d + i];
  }
  for (size_t i = 0; i < d; i++) gram[i * d + i] += RIDGE * trace / (double)d;
  pith_status status = pith_cholesky_f64(context, gram, d, d);
  if (status == PITH_OK) pith_cholesky_solve_f64(gram, d, d, u, 1, 1);
  pith_release(context, gram);
  PITH_TRY(status);
  double mean = 0;
  for (size_t i = 0; i < d; i++) mean += u[i] * model->mean[i];
  if (!(mean > 0))
    return pith_fail(context, PITH_E_NUMERIC,
                     "fold_weights: the recorded queries have no common direction; keep the weights beside the keys");
  for (size_t i = 0; i < d; i++) u[i] /= mean;
  return PITH_OK;
}

pith_status pith_fold_weights(pith_context *context, const pith_query_model *model, float *keys, float *log_weight,
                              size_t points) {
  if (model->fit_count == 0)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "fold_weights: the direction to fold along comes from recorded queries; give queries");
  double *u = pith_allocate(context, model->d, sizeof *u);
  if (!u) return PITH_E_MEMORY;
  pith_status status = find_direction(context, model, u);
  for (size_t s = 0; status == PITH_OK && s < points; s++) {
    for (size_t i = 0; i < model->d; i++) keys[s * model->d + i] += (float)(log_weight[s] * u[i]);
    log_weight[s] = 0;
  }
  pith_release(context, u);
  return status;
}
