/* attention_estimate.c - attention outputs from draws of keys, with an interval. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "pith/sampler.h"

static pith_status check(pith_context *context, const pith_array *values, const pith_draw *draws, size_t queries,
                         size_t count, double confidence) {
  if (values->ndim != 2 || values->shape[0] == 0 || values->shape[1] == 0)
    return pith_fail(context, PITH_E_SHAPE, "values must be (n, dv) with n and dv at least 1");
  if (count < 2) return pith_fail(context, PITH_E_ARGUMENT, "count is %zu; an interval needs 2 draws or more", count);
  if (!(confidence > 0 && confidence < 1))
    return pith_fail(context, PITH_E_ARGUMENT, "confidence is %g; it must be above 0 and below 1", confidence);
  for (size_t i = 0; i < queries * count; i++)
    if (draws[i].row >= values->shape[0])
      return pith_fail(context, PITH_E_ARGUMENT, "draw %zu names row %llu of %zu values", i,
                       (unsigned long long)draws[i].row, values->shape[0]);
  return PITH_OK;
}

/* Mean and, in `square`, the sample variance of one query's draws; by column. */
static void moments(const float *values, size_t dv, const pith_draw *draws, size_t count, double *mean,
                    double *square) {
  memset(mean, 0, dv * sizeof *mean);
  memset(square, 0, dv * sizeof *square);
  for (size_t t = 0; t < count; t++)
    for (size_t j = 0; j < dv; j++) mean[j] += values[draws[t].row * dv + j] / (double)count;
  for (size_t t = 0; t < count; t++)
    for (size_t j = 0; j < dv; j++) {
      double off = values[draws[t].row * dv + j] - mean[j];
      square[j] += off * off / (double)(count - 1);
    }
}

pith_status pith_draws_attend(pith_context *context, const pith_array *values, const pith_draw *draws, size_t queries,
                              size_t count, double confidence, double *mean, double *half_width) {
  PITH_TRY(check(context, values, draws, queries, count, confidence));
  size_t n = values->shape[0], dv = values->shape[1];
  float *rows = pith_allocate(context, n * dv, sizeof *rows);
  double *range = pith_allocate_zero(context, dv, sizeof *range);
  pith_status status = rows && range ? pith_array_to_f32(context, values, "values", 1, rows) : PITH_E_MEMORY;
  if (status >= 0) {
    for (size_t j = 0; j < dv; j++) {
      double low = INFINITY, high = -INFINITY;
      for (size_t i = 0; i < n; i++) {
        low = fmin(low, rows[i * dv + j]);
        high = fmax(high, rows[i * dv + j]);
      }
      range[j] = high - low;
    }
    /* 2 dv bounds, each of which fails with (1 - confidence) / (2 dv) at most. */
    double t = (double)count, logarithm = log(4 * (double)dv / (1 - confidence));
    for (size_t i = 0; i < queries; i++) {
      double *width = half_width + i * dv;
      moments(rows, dv, draws + i * count, count, mean + i * dv, width);
      for (size_t j = 0; j < dv; j++)
        width[j] = fmin(sqrt(2 * width[j] * logarithm / t) + 7 * range[j] * logarithm / (3 * (t - 1)), range[j]);
    }
  }
  pith_release(context, range);
  pith_release(context, rows);
  return status;
}
