/* heads.c - the index of all heads of a cache, or of a summary: made, grown, checked. */
#include "sparsity/heads.h"

#include "summary/summary.h"

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }

pith_status pith_sparse_index_create(pith_context *context, size_t layers, size_t heads, size_t d, size_t dv,
                                     pith_sparse_index **out) {
  pith_memory *memory = pith_memory_share(context);
  pith_sparse_index *index =
      pith_memory_allocate(memory, 1, sizeof(pith_sparse_index) + layers * heads * sizeof(pith_sparse_head));
  if (!index) {
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for an index of %zu heads", layers * heads);
  }
  *index = (pith_sparse_index){.memory = memory, .layers = layers, .heads = heads, .d = d, .dv = dv};
  for (size_t i = 0; i < layers * heads; i++) index->head[i] = (pith_sparse_head){.memory = memory};
  *out = index;
  return PITH_OK;
}

size_t pith_sparse_index_rows(const pith_sparse_index *index) {
  size_t rows = pith_sparse_heads(index) ? index->head[0].rows : 0;
  for (size_t i = 1; i < pith_sparse_heads(index); i++) rows = pith_min_size(rows, index->head[i].rows);
  return rows;
}

size_t pith_sparse_index_bytes(const pith_sparse_index *index) {
  size_t bytes = sizeof *index;
  for (size_t i = 0; i < pith_sparse_heads(index); i++)
    bytes += sizeof index->head[i] + pith_sparse_head_bytes(&index->head[i]);
  return bytes;
}

void pith_sparse_index_free(pith_sparse_index *index) {
  if (!index) return;
  pith_memory *memory = index->memory;
  for (size_t i = 0; i < pith_sparse_heads(index); i++) pith_sparse_head_free(&index->head[i]);
  pith_memory_release(memory, index);
  pith_memory_unshare(memory);
}

/* ---- Is it the index of these rows? ---- */

/* rows: of any head; more may follow. */
static pith_status check_like(pith_context *context, const pith_sparse_index *index, const pith_rows *rows,
                              size_t layers, size_t heads) {
  if (layers != index->layers || heads != index->heads || rows->d != index->d || rows->dv != index->dv)
    return pith_fail(
        context, PITH_E_SHAPE,
        "keys: %zu layers, %zu heads, %zu columns, %zu of values; the index was made for %zu, %zu, %zu, %zu", layers,
        heads, rows->d, rows->dv, index->layers, index->heads, index->d, index->dv);
  return PITH_OK;
}

static pith_status check_type(pith_context *context, const pith_sparse_head *head, const pith_rows *rows) {
  if (head->rows == 0 || rows->dtype == head->dtype) return PITH_OK;
  return pith_fail(context, PITH_E_TYPE, "keys: rows are read as %s, but the index was made of %s",
                   pith_dtype_name(rows->dtype), pith_dtype_name(head->dtype));
}

pith_status pith_sparse_index_check(pith_context *context, const pith_sparse_index *index, const pith_rows *rows,
                                    size_t layers, size_t heads) {
  for (size_t i = 0; i < layers * heads; i++) PITH_TRY(check_like(context, index, &rows[i], layers, heads));
  for (size_t i = 0; i < layers * heads; i++) {
    PITH_TRY(check_type(context, &index->head[i], &rows[i]));
    if (rows[i].count != index->head[i].rows)
      return pith_fail(context, PITH_E_SHAPE, "keys: %zu rows, but the index has seen %zu; append them first",
                       rows[i].count, index->head[i].rows);
  }
  return PITH_OK;
}

/* ---- Of arrays ---- */

static pith_status append(pith_context *context, pith_sparse_index *index, const pith_array *keys,
                          const pith_array *values) {
  const size_t seen = pith_sparse_index_rows(index), count = rows_of(keys);
  size_t first = pith_min_size(seen, count) / PITH_SPARSE_BLOCK * PITH_SPARSE_BLOCK;
  pith_array new_keys = pith_array_rows(keys, first, count - first);
  pith_array new_values = pith_array_rows(values, first, count - first);
  pith_row_source source;
  PITH_TRY(pith_row_source_open(context, &new_keys, &new_values, &source));
  pith_status status = PITH_OK;
  for (size_t i = 0; status == PITH_OK && i < pith_array_layers(keys) * pith_array_heads(keys); i++) {
    pith_rows rows = pith_row_source_head(&source, i);
    status = check_like(context, index, &rows, pith_array_layers(keys), pith_array_heads(keys));
    if (status == PITH_OK) status = check_type(context, &index->head[i], &rows);
    if (status == PITH_OK && count < seen)
      status = pith_fail(context, PITH_E_SHAPE,
                         "keys: %zu rows, but the index has seen %zu; give all rows of the cache", count, seen);
    if (status == PITH_OK) status = pith_sparse_head_append(context, &index->head[i], &rows, first);
  }
  pith_row_source_close(context, &source);
  return status;
}

pith_status pith_sparse_index_append(pith_context *context, pith_sparse_index **index, const pith_array *keys,
                                     const pith_array *values) {
  if (!index) return pith_fail(context, PITH_E_ARGUMENT, "index: the pointer is NULL");
  PITH_TRY(pith_check_shapes(context, NULL, keys, values));
  pith_sparse_index *made = *index;
  if (!made)
    PITH_TRY(pith_sparse_index_create(context, pith_array_layers(keys), pith_array_heads(keys), columns_of(keys),
                                      columns_of(values), &made));
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
  const size_t count = pith_array_layers(keys) * pith_array_heads(keys);
  pith_row_source source;
  PITH_TRY(pith_row_source_reopen(context, keys, values, &source));
  pith_rows *rows = pith_allocate(context, count, sizeof *rows);
  pith_status status = rows ? PITH_OK : PITH_E_MEMORY;
  for (size_t i = 0; rows && i < count; i++) rows[i] = pith_row_source_head(&source, i);
  if (status == PITH_OK)
    status = pith_sparse_index_check(context, index, rows, pith_array_layers(keys), pith_array_heads(keys));
  for (size_t i = 0; status == PITH_OK && i < count; i++)
    status = pith_sparse_head_cluster(context, &index->head[i], &rows[i]);
  pith_release(context, rows);
  pith_row_source_close(context, &source);
  return status;
}

/* ---- Of a summary ---- */

pith_rows pith_sparse_points(const pith_summary *summary, size_t i) {
  pith_rows rows = pith_summary_rows(summary, i);
  bool weighted = false;
  for (size_t row = 0; row < rows.count && rows.log_weight; row++) weighted = weighted || rows.log_weight[row] != 0;
  if (!weighted) rows.log_weight = NULL;
  return rows;
}

pith_status pith_sparse_index_summary(pith_context *context, const pith_summary *summary, pith_sparse_index **out) {
  if (!summary || !out) return pith_fail(context, PITH_E_ARGUMENT, "%s: NULL was given", summary ? "out" : "summary");
  const pith_summary_info info = pith_summary_describe(summary);
  const pith_rows first = pith_sparse_points(summary, 0);
  pith_sparse_index *made = NULL;
  PITH_TRY(pith_sparse_index_create(context, info.layers, info.heads, first.d, first.dv, &made));
  pith_status status = PITH_OK;
  for (size_t i = 0; status == PITH_OK && i < info.layers * info.heads; i++) {
    const pith_rows rows = pith_sparse_points(summary, i);
    status = check_like(context, made, &rows, info.layers, info.heads);
    if (status == PITH_OK) status = pith_sparse_head_append(context, &made->head[i], &rows, 0);
  }
  if (status == PITH_OK)
    *out = made;
  else
    pith_sparse_index_free(made);
  return status;
}
