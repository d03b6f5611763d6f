/* worst.c - the public face of the search in ascent.c: one head of a summary against its input. */
#include <math.h>

#include "certify/certify.h"

static pith_status check(pith_context *context, const pith_array *keys, const pith_array *values,
                         const pith_head_view *head, double scale) {
  if (keys->ndim != 2 || values->ndim != 2 || keys->shape[0] != values->shape[0])
    return pith_fail(context, PITH_E_SHAPE,
                     "keys and values must be one head: two matrices with as many rows (pith_array_head takes one)");
  if (keys->shape[1] != head->d || values->shape[1] != head->dv)
    return pith_fail(context, PITH_E_SHAPE, "keys and values have %zu and %zu columns, the summary %zu and %zu",
                     keys->shape[1], values->shape[1], head->d, head->dv);
  if (!(scale >= 0) || !isfinite(scale))
    return pith_fail(context, PITH_E_ARGUMENT, "scale is %g; it must be a number of at least 0 (0: 1/sqrt(d))", scale);
  return PITH_OK;
}

pith_status pith_worst_query(pith_context *context, const pith_array *keys, const pith_array *values,
                             const pith_head_view *head, double scale, double rho, size_t starts, uint64_t seed,
                             double *error, float *query) {
  PITH_TRY(check(context, keys, values, head, scale));
  size_t n = keys->shape[0], d = head->d, dv = head->dv;
  if (scale == 0) scale = 1 / sqrt((double)d);
  float *block = pith_allocate(context, (n + head->points) * (d + dv) + d, sizeof *block);
  if (!block) return PITH_E_MEMORY;
  pith_pairs full = {n, d, dv, block, block + n * d, NULL};
  float *summary_keys = block + n * (d + dv), *summary_values = summary_keys + head->points * d;
  pith_pairs summary = {head->points, d, dv, summary_keys, summary_values, head->log_weight};
  float *found = summary_values + head->points * dv;
  double largest = 0;
  pith_status status = PITH_OK;
  PITH_TRY_GOTO(pith_array_to_f32(context, keys, "keys", 1, block), status, done);
  PITH_TRY_GOTO(pith_array_to_f32(context, values, "values", 1, block + n * d), status, done);
  pith_head_to_f32(head, summary_keys, summary_values);
  PITH_TRY_GOTO(pith_ascend(context, &full, &summary, rho, starts, seed, &largest, found), status, done);
  *error = largest;
  for (size_t j = 0; query && j < d; j++) query[j] = (float)(found[j] / scale);
done:
  pith_release(context, block);
  return status;
}
