/* draw.c - queries drawn from a model, for engines that look at queries one by one. */
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "query/model.h"

static void draw_sphere(const pith_stream *stream, size_t count, size_t d, double rho, float *out) {
  for (size_t r = 0; r < count; r++) {
    double sum = 0;
    for (size_t i = 0; i < d; i++) {
      double x = pith_random_gaussian(stream, r * d + i);
      sum += x * x;
    }
    for (size_t i = 0; i < d; i++) out[r * d + i] = (float)(rho * pith_random_gaussian(stream, r * d + i) / sqrt(sum));
  }
}

/* x = mean + sum_e sqrt(lambda_e) g_e vector_e. */
static pith_status draw_gaussian(pith_context *context, const pith_query_model *model, const pith_stream *stream,
                                 size_t count, float *out) {
  size_t d = model->d;
  double *values = pith_allocate(context, d + d * d, sizeof *values);
  if (!values) return PITH_E_MEMORY;
  double *vectors = values + d;
  pith_status status = pith_eigen_symmetric_f64(context, model->covariance, d, values, vectors);
  for (size_t r = 0; status == PITH_OK && r < count; r++)
    for (size_t i = 0; i < d; i++) {
      double x = model->mean[i];
      for (size_t e = 0; e < d; e++)
        x += sqrt(fmax(values[e], 0)) * pith_random_gaussian(stream, r * d + e) * vectors[e * d + i];
      out[r * d + i] = (float)x;
    }
  pith_release(context, values);
  return status;
}

static pith_status draw_samples(pith_context *context, const pith_query_model *model, const pith_stream *stream,
                                size_t count, float *out) {
  size_t d = model->d, *order = pith_allocate(context, model->fit_count, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  pith_random_permutation(stream, order, model->fit_count);
  for (size_t r = 0; r < count; r++)
    memcpy(out + r * d, model->fit + order[r % model->fit_count] * d, d * sizeof(float));
  pith_release(context, order);
  return PITH_OK;
}

pith_status pith_query_model_draw(pith_context *context, const pith_query_model *model, size_t count, uint64_t seed,
                                  uint32_t object, float *out) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_QUERIES, object);
  if (model->kind == PITH_QUERIES_GAUSSIAN) return draw_gaussian(context, model, &stream, count, out);
  if (model->kind == PITH_QUERIES_SAMPLES) return draw_samples(context, model, &stream, count, out);
  draw_sphere(&stream, count, model->d, model->rho, out);
  return PITH_OK;
}
