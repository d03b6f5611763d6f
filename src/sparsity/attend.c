/* attend.c - pith_sparse_attend: queries to a cache, or to the points of a summary, over its index. */
#include <math.h>
#include <string.h>

#include "sparsity/heads.h"
#include "sparsity/sparse.h"
#include "summary/summary.h"

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }

void pith_sparse_options_init(pith_sparse_options *options) {
  memset(options, 0, sizeof *options);
  options->struct_size = sizeof *options;
  pith_attention_options_init(&options->attention);
}

static pith_status read_options(pith_context *context, const pith_sparse_options *options,
                                pith_sparse_options *chosen) {
  pith_sparse_options_init(chosen);
  if (!options) return pith_fail(context, PITH_E_ARGUMENT, "options: NULL was given; eps has no default");
  if (options->struct_size > sizeof *chosen)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "options: struct_size is %zu, this library knows %zu; call pith_sparse_options_init",
                     options->struct_size, sizeof *chosen);
  memcpy(chosen, options, options->struct_size);
  if (!(chosen->eps > 0) || !isfinite(chosen->eps))
    return pith_fail(context, PITH_E_ARGUMENT,
                     "eps: %g; it must be above 0 and finite: the largest error of an answer that is allowed",
                     chosen->eps);
  if (!(chosen->confidence >= 0 && chosen->confidence < 1))
    return pith_fail(context, PITH_E_ARGUMENT, "confidence: %g; it must be in (0, 1), or 0 for bounds that are certain",
                     chosen->confidence);
  return PITH_OK;
}

static pith_sparse_report summarise(const pith_sparse_account *accounts, size_t count) {
  pith_sparse_report report = {.queries = count};
  for (size_t i = 0; i < count; i++) {
    report.exact += accounts[i].exact != 0;
    report.drawn += accounts[i].drawn > 0;
    report.bound = fmax(report.bound, accounts[i].bound);
    report.mean_bound += accounts[i].bound;
    if (accounts[i].seen > 0) report.fraction_read += (double)accounts[i].read / (double)accounts[i].seen;
  }
  report.mean_bound /= (double)pith_max_size(count, 1);
  report.fraction_read /= (double)pith_max_size(count, 1);
  return report;
}

/* rows: of each head of the index. */
static pith_status attend(pith_context *context, const pith_sparse_index *index, const pith_pattern *pattern,
                          const pith_rows *rows, const pith_array *queries, const pith_sparse_options *options,
                          float *out, pith_sparse_account *accounts) {
  const size_t group = pith_array_heads(queries) / index->heads, m = rows_of(queries), heads = pith_sparse_heads(index);
  const bool apart = pattern->mask_count > 1; /* query heads with masks of their own choose for themselves */
  const size_t each = apart ? 1 : group, count = heads * group / each;
  pith_sparse_job *jobs = pith_allocate(context, count, sizeof *jobs);
  float *query = pith_allocate(context, heads * group * m, index->d * sizeof *query);
  pith_status status =
      jobs && query ? pith_queries_to_f32(context, queries, pattern->options.scale, query) : PITH_E_MEMORY;
  for (size_t i = 0; status == PITH_OK && i < count; i++)
    jobs[i] = (pith_sparse_job){.rows = rows[apart ? i / group : i],
                                .head = &index->head[apart ? i / group : i],
                                .heads = each,
                                .queries = m,
                                .query = query + i * each * m * index->d,
                                .mask = pattern->masks[apart ? i : 0],
                                .eps = options->eps,
                                .each = options->each != 0,
                                .always = options->always != 0,
                                .fine = options->always != 0 || pith_sparse_fine_pays(rows[0].dtype),
                                .confidence = options->confidence,
                                .seed = options->seed,
                                .number = (uint32_t)i,
                                .out = out + i * each * m * index->dv,
                                .account = accounts + i * each * m};
  if (status == PITH_OK) status = pith_sparse_jobs(context, jobs, count);
  pith_release(context, query);
  pith_release(context, jobs);
  return status;
}

/* What both ways to ask have in common once rows and masks are known. */
static pith_status answer(pith_context *context, const pith_sparse_index *index, const pith_pattern *pattern,
                          const pith_rows *rows, const pith_array *queries, const pith_sparse_options *options,
                          float *out, pith_sparse_account *accounts, pith_sparse_report *report) {
  const size_t count = pith_array_layers(queries) * pith_array_heads(queries) * rows_of(queries);
  pith_sparse_account *all = accounts ? accounts : pith_allocate(context, count, sizeof *all);
  if (!all) return PITH_E_MEMORY;
  pith_status status = attend(context, index, pattern, rows, queries, options, out, all);
  if (status == PITH_OK) {
    pith_sparse_report found = summarise(all, count);
    for (size_t i = 0; i < pith_sparse_heads(index); i++)
      found.trivial = fmax(found.trivial, 2 * (double)index->head[i].most_value);
    if (report) *report = found;
    if (found.bound > options->eps)
      status = pith_fail(context, PITH_NOT_CERTIFIED,
                         "eps: an answer is known to within %g only, which is above %g; a larger eps is needed",
                         found.bound, options->eps);
  }
  if (all != accounts) pith_release(context, all);
  return status;
}

static pith_status check_out(pith_context *context, const pith_array *queries, const float *out) {
  const size_t count = pith_array_layers(queries) * pith_array_heads(queries) * rows_of(queries);
  if (!out && count > 0) return pith_fail(context, PITH_E_ARGUMENT, "out: the pointer is NULL for %zu queries", count);
  return PITH_OK;
}

pith_status pith_sparse_attend(pith_context *context, const pith_sparse_index *index, const pith_array *queries,
                               const pith_array *keys, const pith_array *values, const pith_sparse_options *options,
                               float *out, pith_sparse_account *accounts, pith_sparse_report *report) {
  if (!queries) return pith_fail(context, PITH_E_ARGUMENT, "queries: no array was given");
  PITH_TRY(pith_check_shapes(context, queries, keys, values));
  pith_sparse_options chosen;
  PITH_TRY(read_options(context, options, &chosen));
  PITH_TRY(check_out(context, queries, out));
  const size_t layers = pith_array_layers(keys), heads = pith_array_heads(keys);
  pith_pattern pattern;
  PITH_TRY(pith_pattern_open(context, &chosen.attention, queries, keys, &pattern));
  pith_row_source source = {0};
  pith_sparse_index *own = NULL;
  pith_status status = index ? PITH_OK : pith_sparse_index_append(context, &own, keys, values);
  if (status == PITH_OK) status = pith_row_source_reopen(context, keys, values, &source);
  pith_rows *rows = status == PITH_OK ? pith_allocate(context, layers * heads, sizeof *rows) : NULL;
  if (status == PITH_OK && !rows) status = PITH_E_MEMORY;
  for (size_t i = 0; rows && i < layers * heads; i++) rows[i] = pith_row_source_head(&source, i);
  if (index && status == PITH_OK) status = pith_sparse_index_check(context, index, rows, layers, heads);
  chosen.attention = pattern.options;
  if (status == PITH_OK)
    status = answer(context, index ? index : own, &pattern, rows, queries, &chosen, out, accounts, report);
  pith_release(context, rows);
  pith_row_source_close(context, &source);
  pith_sparse_index_free(own);
  pith_pattern_close(context, &pattern);
  return status;
}

/* A summary has no masks. */
static pith_status whole_pattern(pith_context *context, const pith_sparse_options *options, double own_scale,
                                 pith_mask *mask, pith_pattern *out) {
  const pith_attention_options *asked = &options->attention;
  if (asked->causal || asked->window || asked->global_count || asked->block_mask)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "attention: a mask was given, but the points of a summary stand at no positions; leave it out");
  if (!isfinite(asked->scale)) return pith_fail(context, PITH_E_ARGUMENT, "scale: %g is not finite", asked->scale);
  *mask = (pith_mask){0};
  *out = (pith_pattern){.options = *asked, .mask_count = 1, .masks = mask};
  if (asked->scale == 0) out->options.scale = own_scale;
  return PITH_OK;
}

pith_status pith_sparse_attend_summary(pith_context *context, const pith_sparse_index *index,
                                       const pith_summary *summary, const pith_array *queries,
                                       const pith_sparse_options *options, float *out, pith_sparse_account *accounts,
                                       pith_sparse_report *report) {
  if (!summary || !queries)
    return pith_fail(context, PITH_E_ARGUMENT, "%s: NULL was given", summary ? "queries" : "summary");
  PITH_TRY(pith_summary_check_queries(context, summary, queries));
  pith_sparse_options chosen;
  PITH_TRY(read_options(context, options, &chosen));
  PITH_TRY(check_out(context, queries, out));
  const pith_summary_info info = pith_summary_describe(summary);
  pith_mask mask;
  pith_pattern pattern;
  PITH_TRY(whole_pattern(context, &chosen, info.scale, &mask, &pattern));
  pith_rows *rows = pith_allocate(context, info.layers * info.heads, sizeof *rows);
  if (!rows) return PITH_E_MEMORY;
  for (size_t i = 0; i < info.layers * info.heads; i++) rows[i] = pith_sparse_points(summary, i);
  pith_sparse_index *own = NULL;
  pith_status status = index ? pith_sparse_index_check(context, index, rows, info.layers, info.heads)
                             : pith_sparse_index_summary(context, summary, &own);
  if (status == PITH_OK)
    status = answer(context, index ? index : own, &pattern, rows, queries, &chosen, out, accounts, report);
  pith_sparse_index_free(own);
  pith_release(context, rows);
  return status;
}
