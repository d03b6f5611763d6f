/* source.c - keys and values as the kernels read them: in place where they can be, else as f32 copies. */
#include <stdio.h>
#include <string.h>

#include "attention/attention.h"

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }
static size_t heads_in_all(const pith_array *array) { return pith_array_layers(array) * pith_array_heads(array); }

/* "queries" or "queries, layer 0, head 2". */
static void head_label(char label[96], const char *what, const pith_array *array, size_t layer, size_t head) {
  if (array->ndim == 4)
    (void)snprintf(label, 96, "%s, layer %zu, head %zu", what, layer, head);
  else if (array->ndim == 3)
    (void)snprintf(label, 96, "%s, head %zu", what, head);
  else
    (void)snprintf(label, 96, "%s", what);
}

/* Head number `index` as C-ordered f32, times `factor`. */
static pith_status convert_head(pith_context *context, const pith_array *array, const char *what, size_t index,
                                double factor, float *out) {
  size_t heads = pith_array_heads(array);
  char label[96];
  head_label(label, what, array, index / heads, index % heads);
  pith_array head = pith_array_head(array, index / heads, index % heads);
  return pith_array_to_f32(context, &head, label, factor, out);
}

/* All heads; *out is allocated. */
static pith_status convert(pith_context *context, const pith_array *array, const char *what, double factor,
                           float **out) {
  size_t count = heads_in_all(array), rows = rows_of(array), columns = columns_of(array);
  *out = pith_allocate(context, count * rows, columns * sizeof **out);
  if (!*out) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++) PITH_TRY(convert_head(context, array, what, i, factor, *out + i * rows * columns));
  return PITH_OK;
}

/* ---- Not a number, infinity: looked for in stored rows, which are read as they are. ---- */

static bool rows_finite(const pith_array *rows) {
  uint32_t bad = 0;
  for (size_t row = 0; row < rows->shape[0]; row++) {
    const char *at = (const char *)rows->data + (ptrdiff_t)row * rows->stride[0];
    if (rows->dtype == PITH_F32) {
      for (size_t i = 0; i < rows->shape[1]; i++) {
        uint32_t bits; /* copied out: files may hold rows at any address */
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
      }
    } else {
      const uint16_t exponent = rows->dtype == PITH_F16 ? 0x7c00u : 0x7f80u;
      uint16_t found = 0;
      for (size_t i = 0; i < rows->shape[1]; i++) {
        uint16_t bits;
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        found |= (bits & exponent) == exponent;
      }
      bad |= found;
    }
  }
  return bad == 0;
}

enum { CHECKED_ROWS = 4096 }; /* by one call of the loop body */

typedef struct finite_check {
  const pith_array *array;
  size_t heads, rows, slices; /* slices: of each head */
  int bad;                    /* atomic */
} finite_check;

static void check_slice(void *argument, size_t index, int thread) {
  (void)thread;
  finite_check *check = argument;
  size_t head_index = index / check->slices, begin = index % check->slices * CHECKED_ROWS;
  pith_array head = pith_array_head(check->array, head_index / check->heads, head_index % check->heads);
  head = pith_array_rows(&head, begin, pith_min_size(CHECKED_ROWS, check->rows - begin));
  if (!rows_finite(&head)) __atomic_store_n(&check->bad, 1, __ATOMIC_RELAXED);
}

static pith_status check_finite(pith_context *context, const pith_array *array, const char *what) {
  size_t count = heads_in_all(array), rows = rows_of(array), columns = columns_of(array);
  finite_check check = {.array = array, .heads = pith_array_heads(array), .rows = rows};
  check.slices = (rows + CHECKED_ROWS - 1) / CHECKED_ROWS;
  pith_parallel_for(context, count * check.slices, check_slice, &check);
  if (!check.bad) return PITH_OK;

  float *copy = pith_allocate(context, rows, columns * sizeof *copy); /* converting refuses, and says where */
  pith_status status = copy ? PITH_OK : PITH_E_MEMORY;
  for (size_t i = 0; status == PITH_OK && i < count; i++) status = convert_head(context, array, what, i, 1, copy);
  pith_release(context, copy);
  return status;
}

static bool readable_in_place(const pith_array *keys, const pith_array *values) {
  return keys->dtype == values->dtype && keys->dtype != PITH_F64 && pith_array_rows_contiguous(keys) &&
         pith_array_rows_contiguous(values);
}

/* A C-ordered f32 array (layers, heads, rows, columns) in place of `array`. */
static pith_array f32_view(const pith_array *array, const float *data) {
  ptrdiff_t row = (ptrdiff_t)(columns_of(array) * sizeof *data), head = (ptrdiff_t)rows_of(array) * row;
  ptrdiff_t layer = (ptrdiff_t)pith_array_heads(array) * head;
  return (pith_array){.data = data,
                      .dtype = PITH_F32,
                      .ndim = 4,
                      .shape = {pith_array_layers(array), pith_array_heads(array), rows_of(array), columns_of(array)},
                      .stride = {layer, head, row, (ptrdiff_t)sizeof *data}};
}

pith_status pith_row_source_reopen(pith_context *context, const pith_array *keys, const pith_array *values,
                                   pith_row_source *source) {
  *source = (pith_row_source){.keys = *keys, .values = *values};
  if (readable_in_place(keys, values)) return PITH_OK;
  pith_status status = convert(context, keys, "keys", 1, &source->key_copy);
  if (status == PITH_OK) status = convert(context, values, "values", 1, &source->value_copy);
  if (status < 0) {
    pith_row_source_close(context, source);
    return status;
  }
  source->keys = f32_view(keys, source->key_copy);
  source->values = f32_view(values, source->value_copy);
  return PITH_OK;
}

pith_status pith_row_source_open(pith_context *context, const pith_array *keys, const pith_array *values,
                                 pith_row_source *source) {
  if (readable_in_place(keys, values)) { /* converting would look for itself */
    PITH_TRY(check_finite(context, keys, "keys"));
    PITH_TRY(check_finite(context, values, "values"));
  }
  return pith_row_source_reopen(context, keys, values, source);
}

void pith_row_source_close(pith_context *context, pith_row_source *source) {
  pith_release(context, source->key_copy);
  pith_release(context, source->value_copy);
  *source = (pith_row_source){0};
}

pith_rows pith_row_source_head(const pith_row_source *source, size_t index) {
  size_t heads = pith_array_heads(&source->keys);
  pith_array key = pith_array_head(&source->keys, index / heads, index % heads);
  pith_array value = pith_array_head(&source->values, index / heads, index % heads);
  return (pith_rows){.keys = key.data,
                     .values = value.data,
                     .key_stride = key.stride[0],
                     .value_stride = value.stride[0],
                     .dtype = key.dtype,
                     .count = key.shape[0],
                     .d = key.shape[1],
                     .dv = value.shape[1]};
}

pith_status pith_queries_to_f32(pith_context *context, const pith_array *queries, double scale, float *out) {
  size_t size = rows_of(queries) * columns_of(queries);
  for (size_t i = 0; i < heads_in_all(queries); i++)
    PITH_TRY(convert_head(context, queries, "queries", i, scale, out + i * size));
  return PITH_OK;
}
