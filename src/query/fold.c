/* fold.c - weights written into keys, for engines that know none (theory 4.8).
 *
 * k' = k + log(w) u with <q, u> near 1 for the queries that attend to this point: a direction common to all queries
 * to start from, and for each point the correction that its own queries ask for. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "linalg/linalg.h"
#include "query/model.h"

static const double RIDGE = 1e-3, OWN_RIDGE = 1e-2;
enum { QUERIES = 1024 };

/* u = (Q^T Q + ridge)^-1 Q^T 1, scaled so that the mean of <q, u> is 1. */
static pith_status find_common(pith_context *context, const pith_query_model *model, double *u) {
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

pith_status pith_fold_spread(pith_context *context, const pith_query_model *model, double *spread) {
  size_t d = model->d;
  double *u = pith_allocate(context, d, sizeof *u), sum = 0;
  if (!u) return PITH_E_MEMORY;
  pith_status status = find_common(context, model, u);
  for (size_t i = 0; status == PITH_OK && i < d; i++)
    for (size_t j = 0; j < d; j++) sum += u[i] * u[j] * model->covariance[i * d + j];
  *spread = sqrt(fmax(sum, 0));
  pith_release(context, u);
  return status;
}

typedef struct fold_work {
  size_t d, points, count; /* count: queries */
  const float *query;      /* (count, d) */
  const float *weight;     /* (count, points): attention weights */
  const double *common;
  float *keys, *log_weight;
  float *single; /* (threads, count + d, d): scaled queries, and their Gram matrix */
  double *gram;  /* (threads, d + 1, d): the matrix, and the right-hand side */
} fold_work;

/* (Q^T A^2 Q + ridge) u = Q^T A^2 1 + ridge * common, A the weights that the queries give to this point. */
static void fold_point(void *argument, size_t s, int thread) {
  const fold_work *w = argument;
  size_t d = w->d;
  if (w->log_weight[s] == 0) return;
  float *scaled = w->single + (size_t)thread * (w->count + d) * d, *product = scaled + w->count * d;
  double *gram = w->gram + (size_t)thread * (d + 1) * d, *u = gram + d * d, trace = 0;
  memset(u, 0, d * sizeof *u);
  for (size_t r = 0; r < w->count; r++) {
    float a = w->weight[r * w->points + s];
    for (size_t j = 0; j < d; j++) {
      scaled[r * d + j] = a * w->query[r * d + j];
      u[j] += (double)a * scaled[r * d + j];
    }
  }
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)d, (int)d, (int)w->count, 1, scaled, (int)d, scaled, (int)d,
              0, product, (int)d);
  for (size_t i = 0; i < d; i++) trace += product[i * d + i];
  double ridge = OWN_RIDGE * trace / (double)d + 1e-30;
  for (size_t i = 0; i < d * d; i++) gram[i] = product[i];
  for (size_t i = 0; i < d; i++) {
    gram[i * d + i] += ridge;
    u[i] += ridge * w->common[i];
  }
  if (!pith_solve_definite_f64(gram, d, u)) memcpy(u, w->common, d * sizeof *u);
  for (size_t i = 0; i < d; i++) w->keys[s * d + i] += (float)(w->log_weight[s] * u[i]);
  w->log_weight[s] = 0;
}

/* weight (count, points): softmax over the points themselves. */
static void attend(pith_context *context, const fold_work *w, float *weight) {
  const pith_kernels *kernels = pith_kernels_active();
  pith_gemm_f32(context, PITH_PLAIN, PITH_TRANSPOSED, w->count, w->points, w->d, 1, w->query, w->d, w->keys, w->d, 0,
                weight, w->points);
  for (size_t r = 0; r < w->count; r++) {
    float *row = weight + r * w->points;
    kernels->axpy(1, w->log_weight, row, w->points);
    float factor = 1 / kernels->exp_sum(row, w->points, -kernels->max(row, w->points));
    for (size_t s = 0; s < w->points; s++) row[s] *= factor;
  }
}

pith_status pith_fold_weights(pith_context *context, const pith_query_model *model, float *keys, float *log_weight,
                              size_t points) {
  if (model->fit_count == 0)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "fold_weights: the direction to fold along comes from recorded queries; give queries");
  bool weighted = false;
  for (size_t s = 0; s < points; s++) weighted |= log_weight[s] != 0;
  if (!weighted) return PITH_OK;
  size_t d = model->d, count = pith_min_size(QUERIES, model->fit_count), threads = (size_t)pith_threads(context);
  double *common = pith_allocate(context, d + threads * (d + 1) * d, sizeof *common);
  float *weight = pith_allocate(context, count * points, sizeof *weight);
  float *single = pith_allocate(context, threads * (count + d) * d, sizeof *single);
  pith_status status = !common || !weight || !single ? PITH_E_MEMORY : find_common(context, model, common);
  if (status == PITH_OK) {
    fold_work work = {.d = d,
                      .points = points,
                      .count = count,
                      .query = model->fit,
                      .weight = weight,
                      .common = common,
                      .keys = keys,
                      .log_weight = log_weight,
                      .single = single,
                      .gram = common + d};
    attend(context, &work, weight);
    pith_parallel_for(context, points, fold_point, &work);
  }
  pith_release(context, common);
  pith_release(context, weight);
  pith_release(context, single);
  return status;
}
