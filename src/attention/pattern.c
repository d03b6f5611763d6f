/* pattern.c - from the options of a caller to the masks of jobs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/attention.h"

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

static int ascending(const void *a, const void *b) {
  size_t x = *(const size_t *)a, y = *(const size_t *)b;
  return (x > y) - (x < y);
}

static pith_status take_globals(pith_context *context, size_t n, pith_pattern *pattern) {
  const pith_attention_options *options = &pattern->options;
  size_t count = options->global_count;
  if (count == 0) return PITH_OK;
  if (!options->globals)
    return pith_fail(context, PITH_E_ARGUMENT, "globals: the pointer is NULL for %zu positions", count);
  pattern->globals = pith_allocate(context, count, sizeof *pattern->globals);
  if (!pattern->globals) return PITH_E_MEMORY;
  memcpy(pattern->globals, options->globals, count * sizeof *pattern->globals);
  qsort(pattern->globals, count, sizeof *pattern->globals, ascending);
  if (pattern->globals[count - 1] >= n)
    return pith_fail(context, PITH_E_ARGUMENT, "globals: position %zu, but there are %zu keys; give positions below",
                     pattern->globals[count - 1], n);
  return PITH_OK;
}

static size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

/* Queries or keys of one block, when `blocks` of them are to cover `rows`. */
static pith_status block_size(pith_context *context, const char *what, const char *axis, size_t rows, size_t blocks,
                              size_t block, size_t *out) {
  if (block > 0 && divide_up(rows, block) != blocks)
    return pith_fail(context, PITH_E_SHAPE, "block-mask: %zu %s, but %zu %s in blocks of %zu need %zu", blocks, axis,
                     rows, what, block, divide_up(rows, block));
  if (block == 0 && (blocks == 0 ? rows > 0 : rows % blocks != 0 || rows == 0))
    return pith_fail(context, PITH_E_SHAPE, "block-mask: %zu %s do not divide %zu %s evenly; give the size of a block",
                     blocks, axis, rows, what);
  *out = block > 0 ? block : pith_max_size(1, blocks ? rows / blocks : 1);
  return PITH_OK;
}

static pith_status take_blocks(pith_context *context, const pith_array *queries, size_t n, pith_pattern *pattern) {
  const pith_array *array = pattern->options.block_mask;
  if (array->ndim < 2 || array->ndim > 4)
    return pith_fail(context, PITH_E_SHAPE, "block-mask: %zu dimensions; it takes (blocks of queries, blocks of keys)",
                     array->ndim);
  if (array->dtype != PITH_U8 && array->dtype != PITH_I8)
    return pith_fail(context, PITH_E_TYPE, "block-mask: elements are %s; it takes true and false, u8 or i8",
                     pith_dtype_name(array->dtype));
  size_t layers = pith_array_layers(queries), heads = pith_array_heads(queries);
  if (array->ndim > 2 && (pith_array_layers(array) != layers || pith_array_heads(array) != heads))
    return pith_fail(
        context, PITH_E_SHAPE,
        "block-mask: %zu layers and %zu heads, but queries have %zu and %zu; leave them out for one mask of "
        "all heads",
        pith_array_layers(array), pith_array_heads(array), layers, heads);
  pith_block_mask blocks = {.rows = rows_of(array), .columns = columns_of(array)};
  const size_t m = rows_of(queries), count = array->ndim > 2 ? layers * heads : 1;
  PITH_TRY(block_size(context, "queries", "rows", m, blocks.rows, pattern->options.block, &blocks.query_block));
  PITH_TRY(block_size(context, "keys", "columns", n, blocks.columns, pattern->options.block, &blocks.key_block));
  blocks.first = (ptrdiff_t)n - (ptrdiff_t)m;
  const size_t size = blocks.rows * blocks.columns;
  if (!array->data && size > 0)
    return pith_fail(context, PITH_E_ARGUMENT, "block-mask: the data pointer is NULL for %zu elements", size);
  pattern->mask_count = count;
  pattern->blocks = pith_allocate(context, count, sizeof *pattern->blocks);
  pattern->seen = pith_allocate(context, count, size);
  if (!pattern->blocks || !pattern->seen) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++) {
    pith_array head = pith_array_head(array, count > 1 ? i / heads : 0, count > 1 ? i % heads : 0);
    blocks.seen = pattern->seen + i * size;
    pattern->blocks[i] = blocks;
    for (size_t j = 0; j < size; j++) {
      const unsigned char *at = head.data;
      at += (ptrdiff_t)(j / blocks.columns) * head.stride[0] + (ptrdiff_t)(j % blocks.columns) * head.stride[1];
      pattern->seen[i * size + j] = *at != 0;
    }
  }
  return PITH_OK;
}

pith_status pith_pattern_open(pith_context *context, const pith_attention_options *options, const pith_array *queries,
                              const pith_array *keys, pith_pattern *pattern) {
  *pattern = (pith_pattern){.mask_count = 1};
  const size_t n = rows_of(keys);
  pith_status status = read_options(context, options, columns_of(keys), &pattern->options);
  if (status == PITH_OK) status = take_globals(context, n, pattern);
  if (status == PITH_OK && pattern->options.block_mask) status = take_blocks(context, queries, n, pattern);
  if (status == PITH_OK) {
    pattern->masks = pith_allocate(context, pattern->mask_count, sizeof *pattern->masks);
    if (!pattern->masks) status = PITH_E_MEMORY;
  }
  for (size_t i = 0; status == PITH_OK && i < pattern->mask_count; i++)
    pattern->masks[i] = (pith_mask){.causal = pattern->options.causal != 0,
                                    .window = pattern->options.window,
                                    .first = (ptrdiff_t)n - (ptrdiff_t)rows_of(queries),
                                    .globals = pattern->globals,
                                    .global_count = pattern->options.global_count,
                                    .blocks = pattern->blocks ? &pattern->blocks[i] : NULL};
  if (status < 0) pith_pattern_close(context, pattern);
  return status;
}

void pith_pattern_close(pith_context *context, pith_pattern *pattern) {
  pith_release(context, pattern->seen);
  pith_release(context, pattern->blocks);
  pith_release(context, pattern->globals);
  pith_release(context, pattern->masks);
  *pattern = (pith_pattern){0};
}
