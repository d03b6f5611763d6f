/* compute.c - pith_attention_compute: from strided arrays of any float type to jobs. */
#include <string.h>

#include "attention/attention.h"

void pith_attention_options_init(pith_attention_options *options) {
  memset(options, 0, sizeof *options);
  options->struct_size = sizeof *options;
}

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }

/* One job for each kv head, or for each query head where these have masks of their own. */
static pith_attend_job make_job(const pith_row_source *source, const pith_pattern *pattern, size_t index, size_t group,
                                size_t m, const float *query, float *out) {
  const bool apart = pattern->mask_count > 1;
  pith_attend_job job = {.rows = pith_row_source_head(source, apart ? index / group : index),
                         .heads = apart ? 1 : group,
                         .queries = m,
                         .mask = pattern->masks[apart ? index : 0]};
  job.query = query + index * job.heads * m * job.rows.d;
  job.out = out + index * job.heads * m * job.rows.dv;
  return job;
}

pith_status pith_attention_compute(pith_context *context, const pith_array *queries, const pith_array *keys,
                                   const pith_array *values, const pith_attention_options *options, float *out) {
  if (!queries) return pith_fail(context, PITH_E_ARGUMENT, "queries: no array was given");
  PITH_TRY(pith_check_shapes(context, queries, keys, values));
  size_t m = rows_of(queries), count = pith_array_layers(keys) * pith_array_heads(keys);
  size_t group = pith_array_heads(queries) / pith_array_heads(keys);
  if (!out && m > 0) return pith_fail(context, PITH_E_ARGUMENT, "out: the pointer is NULL for %zu queries", m);
  pith_pattern pattern;
  PITH_TRY(pith_pattern_open(context, options, queries, keys, &pattern));

  pith_row_source source = {0};
  size_t job_count = pattern.mask_count > 1 ? pattern.mask_count : count;
  float *query = pith_allocate(context, count * group * m, columns_of(queries) * sizeof *query);
  pith_attend_job *jobs = pith_allocate(context, job_count, sizeof *jobs);
  pith_status status = !query || !jobs ? PITH_E_MEMORY : pith_row_source_open(context, keys, values, &source);
  if (status == PITH_OK) status = pith_queries_to_f32(context, queries, pattern.options.scale, query);
  for (size_t i = 0; status == PITH_OK && i < job_count; i++)
    jobs[i] = make_job(&source, &pattern, i, group, m, query, out);
  if (status == PITH_OK) status = pith_attend_jobs(context, jobs, job_count);
  pith_release(context, jobs);
  pith_release(context, query);
  pith_row_source_close(context, &source);
  pith_pattern_close(context, &pattern);
  return status;
}

pith_status pith_attention_seen(pith_context *context, const pith_array *queries, const pith_array *keys,
                                const pith_attention_options *options, double *out) {
  if (!queries || !out) return pith_fail(context, PITH_E_ARGUMENT, "%s: NULL was given", out ? "queries" : "out");
  PITH_TRY(pith_check_shapes(context, queries, keys, keys));
  pith_pattern pattern;
  PITH_TRY(pith_pattern_open(context, options, queries, keys, &pattern));
  double sum = 0;
  size_t m = rows_of(queries);
  for (size_t i = 0; i < pattern.mask_count; i++)
    for (size_t row = 0; row < m; row++) sum += (double)pith_mask_count(&pattern.masks[i], row, rows_of(keys));
  *out = m ? sum / (double)m / (double)pattern.mask_count : 0;
  pith_pattern_close(context, &pattern);
  return PITH_OK;
}
