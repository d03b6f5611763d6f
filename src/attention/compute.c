/* compute.c - pith_attention_compute: from strided arrays of any float type to jobs. */
#include <math.h>
#include <string.h>

#include "attention/attention.h"

void pith_attention_options_init(pith_attention_options *options) {
  memset(options, 0, sizeof *options);
  options->struct_size = sizeof *options;
}

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }

static pith_status read_options(pith_context *context, const pith_attention_options *options, size_t d,
                                pith_attention_options *chosen) {
  pith_attention_options_init(chosen);
  if (options) {
    if (options->struct_size > sizeof *chosen)
      return pith_fail(context, PITH_E_ARGUMENT,
                       "options: struct_size is %zu, this library knows %zu; call pith_attention_options_init",
                       options->struct_size, sizeof *chosen);
    memcpy(chosen, options, options->struct_size);
  }
  if (!isfinite(chosen->scale))
    return pith_fail(context, PITH_E_ARGUMENT, "scale: %g; it must be finite, 0 means 1/sqrt(d)", chosen->scale);
  if (chosen->scale == 0) chosen->scale = 1 / sqrt((double)d);
  return PITH_OK;
}

pith_status pith_attention_compute(pith_context *context, const pith_array *queries, const pith_array *keys,
                                   const pith_array *values, const pith_attention_options *options, float *out) {
  if (!queries) return pith_fail(context, PITH_E_ARGUMENT, "queries: no array was given");
  PITH_TRY(pith_check_shapes(context, queries, keys, values));
  pith_attention_options chosen;
  PITH_TRY(read_options(context, options, columns_of(keys), &chosen));
  size_t m = rows_of(queries), n = rows_of(keys), count = pith_array_layers(keys) * pith_array_heads(keys);
  size_t group = pith_array_heads(queries) / pith_array_heads(keys);
  if (!out && m > 0) return pith_fail(context, PITH_E_ARGUMENT, "out: the pointer is NULL for %zu queries", m);

  pith_row_source source;
  PITH_TRY(pith_row_source_open(context, keys, values, &source));
  float *query = pith_allocate(context, count * group * m, columns_of(queries) * sizeof *query);
  pith_attend_job *jobs = pith_allocate(context, count, sizeof *jobs);
  pith_status status = !query || !jobs ? PITH_E_MEMORY : pith_queries_to_f32(context, queries, chosen.scale, query);
  for (size_t i = 0; status == PITH_OK && i < count; i++)
    jobs[i] = (pith_attend_job){
        .rows = pith_row_source_head(&source, i),
        .heads = group,
        .queries = m,
        .query = query + i * group * m * columns_of(queries),
        .mask = {.causal = chosen.causal != 0, .window = chosen.window, .first = (ptrdiff_t)n - (ptrdiff_t)m},
        .out = out + i * group * m * columns_of(values),
    };
  if (status == PITH_OK) status = pith_attend_jobs(context, jobs, count);
  pith_release(context, jobs);
  pith_release(context, query);
  pith_row_source_close(context, &source);
  return status;
}
