/* attend.c - pith_sparse_attend: the index of all heads of a cache, and queries to it. */
#include <math.h>
#include <string.h>

#include "sparsity/sparse.h"

struct pith_sparse_index {
  pith_memory *memory;
  size_t layers, heads, d, dv;
  pith_dtype dtype; /* of the rows as they are read */
  pith_sparse_head head[];
};

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }
static size_t heads_of(const pith_sparse_index *index) { return index->layers * index->heads; }

/* ---- The index ---- */

static pith_status create(pith_context *context, const pith_array *keys, const pith_array *values,
                          pith_sparse_index **out) {
  size_t layers = pith_array_layers(keys), heads = pith_array_heads(keys);
  pith_memory *memory = pith_memory_share(context);
  pith_sparse_index *index =
      pith_memory_allocate(memory, 1, sizeof(pith_sparse_index) + layers * heads * sizeof(pith_sparse_head));
  if (!index) {
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for an index of %zu heads", layers * heads);
  }
  *index = (pith_sparse_index){
      .memory = memory, .layers = layers, .heads = heads, .d = columns_of(keys), .dv = columns_of(values)};
  for (size_t i = 0; i < layers * heads; i++) index->head[i] = (pith_sparse_head){.memory = memory};
  *out = index;
  return PITH_OK;
}

size_t pith_sparse_index_rows(const pith_sparse_index *index) {
  size_t rows = heads_of(index) ? index->head[0].rows : 0;
  for (size_t i = 1; i < heads_of(index); i++) rows = pith_min_size(rows, index->head[i].rows);
  return rows;
}

size_t pith_sparse_index_bytes(const pith_sparse_index *index) {
  size_t bytes = sizeof *index;
  for (size_t i = 0; i < heads_of(index); i++) bytes += sizeof index->head[i] + pith_sparse_head_bytes(&index->head[i]);
  return bytes;
}

void pith_sparse_index_free(pith_sparse_index *index) {
  if (!index) return;
  pith_memory *memory = index->memory;
  for (size_t i = 0; i < heads_of(index); i++) pith_sparse_head_free(&index->head[i]);
  pith_memory_release(memory, index);
  pith_memory_unshare(memory);
}

/* Fails unless the arrays are those of the index, with at least its rows. */
static pith_status check_index(pith_context *context, const pith_sparse_index *index, const pith_array *keys,
                               const pith_array *values, pith_dtype dtype) {
  if (pith_array_layers(keys) != index->layers || pith_array_heads(keys) != index->heads ||
      columns_of(keys) != index->d || columns_of(values) != index->dv)
    return pith_fail(
        context, PITH_E_SHAPE,
        "keys: %zu layers, %zu heads, %zu columns, %zu of values; the index was made for %zu, %zu, %zu, %zu",
        pith_array_layers(keys), pith_array_heads(keys), columns_of(keys), columns_of(values), index->layers,
        index->heads, index->d, index->dv);
  if (pith_sparse_index_rows(index) > 0 && dtype != index->dtype)
    return pith_fail(context, PITH_E_TYPE, "keys: rows are read as %s, but the index was made of %s",
                     pith_dtype_name(dtype), pith_dtype_name(index->dtype));
  if (rows_of(keys) < pith_sparse_index_rows(index))
    return pith_fail(context, PITH_E_SHAPE, "keys: %zu rows, but the index has seen %zu; give all rows of the cache",
                     rows_of(keys), pith_sparse_index_rows(index));
  return PITH_OK;
}

static pith_status append(pith_context *context, pith_sparse_index *index, const pith_array *keys,
                          const pith_array *values) {
  size_t first = pith_sparse_index_rows(index) / PITH_SPARSE_BLOCK * PITH_SPARSE_BLOCK, count = rows_of(keys);
  if (first > count) first = 0; /* the check below says so */
  pith_array new_keys = pith_array_rows(keys, first, count - first);
  pith_array new_values = pith_array_rows(values, first, count - first);
  pith_row_source source;
  PITH_TRY(pith_row_source_open(context, &new_keys, &new_values, &source));
  pith_status status = check_index(context, index, keys, values, source.keys.dtype);
  for (size_t i = 0; status == PITH_OK && i < heads_of(index); i++) {
    pith_rows rows = pith_row_source_head(&source, i);
    status = pith_sparse_head_append(context, &index->head[i], &rows, first);
  }
  if (status == PITH_OK) index->dtype = source.keys.dtype;
  pith_row_source_close(context, &source);
  return status;
}

pith_status pith_sparse_index_append(pith_context *context, pith_sparse_index **index, const pith_array *keys,
                                     const pith_array *values) {
  if (!index) return pith_fail(context, PITH_E_ARGUMENT, "index: the pointer is NULL");
  PITH_TRY(pith_check_shapes(context, NULL, keys, values));
  pith_sparse_index *made = *index;
  if (!made) PITH_TRY(create(context, keys, values, &made));
  pith_status status = append(context, made, keys, values);
  if (status < 0 && !*index)
    pith_sparse_index_free(made);
  else
    *index = made;
  return status;
}

pith_status pith_sparse_index_cluster(pith_context *context, pith_sparse_index *index, const pith_array *keys,
                                      const pith_array *values) {
  if (!index) return pith_fail(context, PITH_E_ARGUMENT, "index: NULL was given; call pith_sparse_index_append first");
  PITH_TRY(pith_check_shapes(context, NULL, keys, values));
  pith_row_source source;
  PITH_TRY(pith_row_source_reopen(context, keys, values, &source));
  pith_status status = check_index(context, index, keys, values, source.keys.dtype);
  if (status == PITH_OK && rows_of(keys) != pith_sparse_index_rows(index))
    status = pith_fail(context, PITH_E_SHAPE, "keys: %zu rows, but the index has seen %zu; append them first",
                       rows_of(keys), pith_sparse_index_rows(index));
  for (size_t i = 0; status == PITH_OK && i < heads_of(index); i++) {
    pith_rows rows = pith_row_source_head(&source, i);
    status = pith_sparse_head_cluster(context, &index->head[i], &rows);
  }
  pith_row_source_close(context, &source);
  return status;
}

/* ---- Queries ---- */

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

static pith_status attend(pith_context *context, const pith_sparse_index *index, const pith_pattern *pattern,
                          const pith_row_source *source, const pith_array *queries, const pith_sparse_options *options,
                          float *out, pith_sparse_account *accounts) {
  const size_t group = pith_array_heads(queries) / index->heads, m = rows_of(queries), heads = heads_of(index);
  const bool apart = pattern->mask_count > 1; /* query heads with masks of their own choose for themselves */
  const size_t each = apart ? 1 : group, count = heads * group / each;
  pith_sparse_job *jobs = pith_allocate(context, count, sizeof *jobs);
  float *query = pith_allocate(context, heads * group * m, index->d * sizeof *query);
  pith_status status =
      jobs && query ? pith_queries_to_f32(context, queries, pattern->options.scale, query) : PITH_E_MEMORY;
  for (size_t i = 0; status == PITH_OK && i < count; i++)
    jobs[i] = (pith_sparse_job){.rows = pith_row_source_head(source, apart ? i / group : i),
                                .head = &index->head[apart ? i / group : i],
                                .heads = each,
                                .queries = m,
                                .query = query + i * each * m * index->d,
                                .mask = pattern->masks[apart ? i : 0],
                                .eps = options->eps,
                                .each = options->each != 0,
                                .always = options->always != 0,
                                .fine = options->always != 0,
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

pith_status pith_sparse_attend(pith_context *context, const pith_sparse_index *index, const pith_array *queries,
                               const pith_array *keys, const pith_array *values, const pith_sparse_options *options,
                               float *out, pith_sparse_account *accounts, pith_sparse_report *report) {
  if (!queries) return pith_fail(context, PITH_E_ARGUMENT, "queries: no array was given");
  PITH_TRY(pith_check_shapes(context, queries, keys, values));
  pith_sparse_options chosen;
  PITH_TRY(read_options(context, options, &chosen));
  const size_t count = pith_array_layers(queries) * pith_array_heads(queries) * rows_of(queries);
  if (!out && count > 0) return pith_fail(context, PITH_E_ARGUMENT, "out: the pointer is NULL for %zu queries", count);

  pith_sparse_index *own = NULL;
  pith_pattern pattern;
  PITH_TRY(pith_pattern_open(context, &chosen.attention, queries, keys, &pattern));
  pith_row_source source = {0};
  pith_sparse_account *all = accounts ? accounts : pith_allocate(context, count, sizeof *all);
  pith_status status = all ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK && !index) {
    status = pith_sparse_index_append(context, &own, keys, values);
    index = own;
  }
  if (status == PITH_OK) status = pith_row_source_reopen(context, keys, values, &source);
  if (status == PITH_OK) status = check_index(context, index, keys, values, source.keys.dtype);
  if (status == PITH_OK && rows_of(keys) != pith_sparse_index_rows(index))
    status = pith_fail(context, PITH_E_SHAPE, "keys: %zu rows, but the index has seen %zu; append them first",
                       rows_of(keys), pith_sparse_index_rows(index));
  if (status == PITH_OK) status = attend(context, index, &pattern, &source, queries, &chosen, out, all);
  if (status == PITH_OK) {
    pith_sparse_report found = summarise(all, count);
    for (size_t i = 0; i < heads_of(index); i++)
      found.trivial = fmax(found.trivial, 2 * (double)index->head[i].most_value);
    if (report) *report = found;
    if (found.bound > chosen.eps)
      status = pith_fail(context, PITH_NOT_CERTIFIED,
                         "eps: an answer is known to within %g only, which is above %g; a larger eps is needed",
                         found.bound, chosen.eps);
  }
  if (all != accounts) pith_release(context, all);
  pith_row_source_close(context, &source);
  pith_sparse_index_free(own);
  pith_pattern_close(context, &pattern);
  return status;
}
