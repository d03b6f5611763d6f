/* llama_rewrite.c - heads of cells, and cells of heads. */
#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "io/llama_fill.h"
#include "kernels/kernels.h"

/* Caches of whole numbers keep rows turned by a Hadamard matrix, where heads are a multiple of this: keys by the
 * largest power of two that divides the head size, values by 64. (LLAMA_ATTN_ROT_DISABLE in the engine's environment
 * changes that, and the file does not say so.) */
enum { TURNED = 64 };

static size_t turn_width(pith_gguf_type type, size_t size, bool keys) {
  if (type != PITH_GGUF_TENSOR_Q8_0 || size % TURNED != 0) return 0;
  size_t width = TURNED;
  while (keys && size % (2 * width) == 0) width *= 2;
  return width;
}

/* Its own inverse. */
static void turn(pith_gguf_type type, size_t size, bool keys, float *numbers, size_t count) {
  const size_t width = turn_width(type, size, keys);
  if (width > 0) pith_turn(numbers, count / width, width);
}

/* ---- Rows of heads ---- */

static int by_position(const void *a, const void *b) {
  const int64_t first = *(const int64_t *)a, second = *(const int64_t *)b;
  return (first > second) - (first < second);
}

/* The cells in the order of their positions: position in the upper half, cell in the lower. */
static pith_status sort_cells(pith_context *context, const pith_llama_state *state, int64_t *order) {
  if (state->shared || state->sequences != 1)
    return pith_fail(context, PITH_E_FORMAT,
                     "%s: its cells belong to %zu sequences; save one sequence (llama_state_seq_save_file)",
                     state->file->name, state->sequences);
  for (size_t i = 0; i < state->cells; i++) order[i] = (int64_t)state->positions[i] << 32 | (int64_t)i;
  qsort(order, state->cells, sizeof *order, by_position);
  for (size_t i = 1; i < state->cells; i++)
    if (order[i] >> 32 == order[i - 1] >> 32)
      return pith_fail(context, PITH_E_FORMAT, "%s: two cells are at position %d", state->file->name,
                       (int)(order[i] >> 32));
  return PITH_OK;
}

static void copy_sorted(const float *numbers, const int64_t *order, size_t cells, size_t width, pith_dtype dtype,
                        unsigned char *out) {
  const pith_kernels *kernels = pith_kernels_active();
  const size_t size = width * pith_dtype_size(dtype);
  for (size_t i = 0; i < cells; i++) {
    const float *row = numbers + (size_t)(order[i] & UINT32_MAX) * width;
    if (dtype == PITH_F32)
      memcpy(out + i * size, row, size);
    else
      kernels->f32_to_f16(row, (uint16_t *)(void *)(out + i * size), width);
  }
}

static pith_array view(const unsigned char *data, pith_dtype dtype, size_t layers, size_t heads, size_t cells,
                       size_t size) {
  const ptrdiff_t number = (ptrdiff_t)pith_dtype_size(dtype), head = number * (ptrdiff_t)size,
                  row = head * (ptrdiff_t)heads;
  return (pith_array){.data = data,
                      .dtype = dtype,
                      .ndim = 4,
                      .shape = {layers, heads, cells, size},
                      .stride = {row * (ptrdiff_t)cells, head, row, number}};
}

/* Rows that were turned back are no halves any more. */
static bool all_f16(const pith_llama_state *state) {
  for (size_t i = 0; i < state->layers; i++)
    if (state->layer[i].key_type != PITH_GGUF_TENSOR_F16 || state->layer[i].value_type != PITH_GGUF_TENSOR_F16)
      return false;
  return true;
}

pith_status pith_llama_rows_open(pith_context *context, const pith_llama_state *state, const pith_llama_heads *heads,
                                 pith_llama_rows *out) {
  const pith_dtype dtype = all_f16(state) ? PITH_F16 : PITH_F32;
  const size_t n = state->cells, wide = heads->kv_heads * heads->key_size,
               wide_value = heads->kv_heads * heads->value_size;
  const size_t key_bytes = n * wide * pith_dtype_size(dtype), value_bytes = n * wide_value * pith_dtype_size(dtype);
  int64_t *order = pith_allocate(context, n, sizeof *order);
  float *keys = pith_allocate(context, n, (wide + wide_value) * sizeof *keys), *values = keys ? keys + n * wide : NULL;
  unsigned char *room = pith_allocate(context, state->layers, key_bytes + value_bytes);
  unsigned char *value_room = room ? room + state->layers * key_bytes : NULL;
  pith_status status = !order || !keys || !room ? PITH_E_MEMORY : sort_cells(context, state, order);
  for (size_t i = 0; i < state->layers && status >= 0; i++) {
    const pith_llama_layer *layer = &state->layer[i];
    status = pith_llama_state_read(context, state, i, keys, values);
    if (status < 0) break;
    turn(layer->key_type, heads->key_size, true, keys, n * wide);
    turn(layer->value_type, heads->value_size, false, values, n * wide_value);
    copy_sorted(keys, order, n, wide, dtype, room + i * key_bytes);
    copy_sorted(values, order, n, wide_value, dtype, value_room + i * value_bytes);
  }
  if (status >= 0)
    *out = (pith_llama_rows){.keys = view(room, dtype, state->layers, heads->kv_heads, n, heads->key_size),
                             .values = view(value_room, dtype, state->layers, heads->kv_heads, n, heads->value_size),
                             .length = (size_t)(order[n - 1] >> 32) + 1,
                             .room = room};
  else
    pith_release(context, room);
  pith_release(context, order);
  pith_release(context, keys);
  return status;
}

void pith_llama_rows_close(pith_context *context, pith_llama_rows *rows) {
  pith_release(context, rows->room);
  *rows = (pith_llama_rows){0};
}

pith_array pith_llama_queries(const pith_llama_rows *rows, const pith_array *queries, size_t *query_start) {
  const size_t count = pith_min_size(queries->shape[queries->ndim - 2], rows->length);
  const size_t shift = pith_min_size(rows->length - rows->keys.shape[2], count);
  *query_start = 0;
  return pith_array_rows(queries, shift, count - shift);
}

/* ---- Cells ---- */

typedef struct rewriting {
  const pith_llama_state *state;
  const pith_llama_heads *heads;
  const pith_llama_rows *rows;
  const pith_summary *summary;
  const pith_array *queries;
  size_t query_start, horizon, sinks, cells;
  float **keys, **values; /* (layers) of (cells, width) */
  size_t filled;
} rewriting;

/* Heads with fewer points than there are cells are filled up by what is asked of them. */
static pith_status fill_up(pith_context *context, rewriting *w, size_t layer, size_t head, const pith_head_view *view,
                           float *keys, float *values) {
  const size_t points = view->points;
  if (points == w->cells) return PITH_OK;
  if (!w->queries || points == 0)
    return pith_fail(
        context, PITH_E_ARGUMENT,
        "layer %zu, head %zu: %zu points for %zu cells; without recorded queries heads cannot be filled up", layer,
        head, points, w->cells);
  w->filled += w->cells - points;
  const pith_llama_asked asked = {w->queries, w->query_start, w->rows->keys.shape[2], w->horizon, layer, head};
  return pith_llama_fill(context, w->heads, &asked, view->exact, points, w->cells, keys, values);
}

/* Where a cell stands among others: in the order of tokens, so that sinks and window are at positions of their own;
 * what is no single token, and what fills a head up, behind the sinks. */
static size_t rank_of(const pith_head_view *points, size_t cell, size_t sinks) {
  return cell < points->points && points->index[cell] >= 0 ? (size_t)points->index[cell] : sinks;
}

static void order_points(const pith_head_view *points, size_t cells, size_t sinks, size_t *order) {
  for (size_t i = 0; i < cells; i++) {
    const size_t rank = rank_of(points, i, sinks);
    size_t at = i;
    for (; at > 0 && rank_of(points, order[at - 1], sinks) > rank; at--) order[at] = order[at - 1];
    order[at] = i;
  }
}

static pith_status fill_head(pith_context *context, rewriting *w, size_t layer, size_t head, float *keys,
                             float *values) {
  const size_t d = w->heads->key_size, dv = w->heads->value_size, heads = w->heads->kv_heads;
  pith_head_view points;
  PITH_TRY(pith_summary_head(context, w->summary, layer, head, &points));
  for (size_t i = 0; i < points.points; i++)
    if (points.log_weight[i] != 0)
      return pith_fail(context, PITH_E_ARGUMENT,
                       "summary: layer %zu, head %zu has weights, which llama.cpp knows nothing of; fold them", layer,
                       head);
  size_t *order = pith_allocate(context, w->cells, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  order_points(&points, w->cells, w->sinks, order);
  pith_head_to_f32(&points, keys, values);
  pith_status status = fill_up(context, w, layer, head, &points, keys, values);
  for (size_t i = 0; i < w->cells && status >= 0; i++) {
    memcpy(w->keys[layer] + (i * heads + head) * d, keys + order[i] * d, d * sizeof *keys);
    memcpy(w->values[layer] + (i * heads + head) * dv, values + order[i] * dv, dv * sizeof *values);
  }
  pith_release(context, order);
  return status;
}

static pith_status fill(pith_context *context, rewriting *w) {
  const size_t heads = w->heads->kv_heads, d = w->heads->key_size, dv = w->heads->value_size;
  float *keys = pith_allocate(context, w->cells, (d + dv) * sizeof *keys), *values = keys ? keys + w->cells * d : NULL;
  pith_status status = keys ? PITH_OK : PITH_E_MEMORY;
  for (size_t layer = 0; layer < w->state->layers && status >= 0; layer++) {
    w->keys[layer] = pith_allocate(context, w->cells * heads, (d + dv) * sizeof(float));
    if (!w->keys[layer]) status = PITH_E_MEMORY;
    if (w->keys[layer]) w->values[layer] = w->keys[layer] + w->cells * heads * d;
    for (size_t head = 0; head < heads && status >= 0; head++)
      status = fill_head(context, w, layer, head, keys, values);
    if (status < 0) break;
    turn(w->state->layer[layer].key_type, d, true, w->keys[layer], w->cells * heads * d);
    turn(w->state->layer[layer].value_type, dv, false, w->values[layer], w->cells * heads * dv);
  }
  pith_release(context, keys);
  return status;
}

static pith_status find_cells(pith_context *context, rewriting *w) {
  const pith_summary_info info = pith_summary_describe(w->summary);
  if (info.layers != w->state->layers || info.heads != w->heads->kv_heads)
    return pith_fail(context, PITH_E_SHAPE, "summary: %zu layers of %zu heads; the state has %zu of %zu", info.layers,
                     info.heads, w->state->layers, w->heads->kv_heads);
  w->cells = info.points;
  if (w->cells > 0 && w->cells <= w->rows->length) return PITH_OK;
  return pith_fail(context, PITH_E_BUDGET, "summary: %zu points a head; cells can be 1 to %zu", w->cells,
                   w->rows->length);
}

pith_status pith_llama_rewrite(pith_context *context, const char *path, const pith_llama_state *state,
                               const pith_llama_heads *heads, const pith_llama_rows *rows, const pith_summary *summary,
                               const pith_array *queries, size_t query_start, size_t horizon, size_t sinks,
                               size_t *filled) {
  rewriting w = {.state = state,
                 .heads = heads,
                 .rows = rows,
                 .summary = summary,
                 .queries = queries,
                 .query_start = query_start,
                 .horizon = pith_max_size(1, horizon),
                 .sinks = sinks};
  PITH_TRY(find_cells(context, &w));
  int32_t *positions = pith_allocate(context, w.cells, sizeof *positions);
  w.keys = pith_allocate_zero(context, 2 * state->layers, sizeof *w.keys);
  w.values = w.keys ? w.keys + state->layers : NULL;
  pith_status status = !positions || !w.keys ? PITH_E_MEMORY : fill(context, &w);
  sinks = pith_min_size(sinks, w.cells - 1);
  for (size_t i = 0; i < w.cells && positions; i++)
    positions[i] = (int32_t)(i < sinks ? i : rows->length - w.cells + i);
  if (status >= 0) {
    const pith_llama_cells cells = {w.cells, positions, (const float *const *)w.keys, (const float *const *)w.values};
    status = pith_llama_state_write(context, path, state, &cells);
  }
  for (size_t layer = 0; w.keys && layer < state->layers; layer++) pith_release(context, w.keys[layer]);
  pith_release(context, w.keys);
  pith_release(context, positions);
  if (status >= 0 && filled) *filled = w.filled;
  return status;
}

pith_compress_options pith_llama_options(const pith_llama_heads *heads, const pith_compress_options *options,
                                         const pith_array *queries, size_t query_start) {
  pith_compress_options o = *options;
  o.store = PITH_F32;
  o.budget = PITH_BUDGET_EVEN;
  o.scale = heads->scale;
  o.fold_weights = queries != NULL;
  if (queries) {
    o.rope = heads->rope;
    o.rope_base = heads->rope_base;
    o.query_start = query_start;
  }
  return o;
}

pith_status pith_llama_compress(pith_context *context, const char *path, const pith_llama_state *state,
                                const pith_llama_heads *heads, const pith_llama_rows *rows, size_t cells,
                                const pith_array *queries, size_t query_start, const pith_compress_options *options,
                                pith_summary **summary, size_t *filled) {
  pith_compress_options o = pith_llama_options(heads, options, queries, query_start);
  if (cells == state->cells)
    o.engine = "exact";
  else
    o.points = cells;
  pith_summary *made = NULL;
  PITH_TRY(pith_compress(context, &rows->keys, &rows->values, queries, &o, &made));
  pith_status status =
      pith_llama_rewrite(context, path, state, heads, rows, made, queries, query_start, o.horizon, o.sinks, filled);
  if (status < 0)
    pith_summary_free(made);
  else
    *summary = made;
  return status;
}
