/* rows.c - exact rows of a cache: tokens pushed, queries answered. */
#include <stdio.h>
#include <string.h>

#include "cache/cache.h"
#include "cache/promise.h"
#include "summary/store.h"

enum { SCRATCH_QUERIES = 0, SCRATCH_JOBS = 1, SCRATCH_ROWS = 2 }; /* attention has its own slot */

unsigned char *pith_cache_key(const pith_cache *cache, size_t index, size_t row) {
  size_t size = cache->options.d * pith_dtype_size(cache->row_store);
  return cache->block + cache->at.keys + (index * cache->capacity + row) * size;
}

unsigned char *pith_cache_value(const pith_cache *cache, size_t index, size_t row) {
  size_t size = cache->options.dv * pith_dtype_size(cache->row_store);
  return cache->block + cache->at.values + (index * cache->capacity + row) * size;
}

unsigned char *pith_cache_query(const pith_cache *cache, size_t index, size_t row) {
  size_t size = cache->taken * cache->options.d * pith_dtype_size(cache->row_store);
  return cache->block + cache->at.queries + (index * cache->capacity + row) * size;
}

float *pith_cache_row_score(const pith_cache *cache, size_t index, size_t row) {
  return (float *)(void *)(cache->block + cache->at.row_scores) + index * cache->capacity + row;
}

pith_rows pith_cache_exact_rows(const pith_cache *cache, size_t index) {
  const pith_cache_options *o = &cache->options;
  return (pith_rows){.keys = pith_cache_key(cache, index, 0),
                     .values = pith_cache_value(cache, index, 0),
                     .key_stride = (ptrdiff_t)(o->d * pith_dtype_size(cache->row_store)),
                     .value_stride = (ptrdiff_t)(o->dv * pith_dtype_size(cache->row_store)),
                     .dtype = cache->row_store,
                     .count = cache_head_of(cache, index)->rows,
                     .d = o->d,
                     .dv = o->dv};
}

void pith_cache_drop_rows(pith_cache *cache, size_t index, size_t count) {
  cache_head *head = cache_head_of(cache, index);
  size_t to = cache->options.sinks, from = to + count, left = head->rows - from;
  memmove(pith_cache_key(cache, index, to), pith_cache_key(cache, index, from),
          (size_t)(pith_cache_key(cache, index, left) - pith_cache_key(cache, index, 0)));
  memmove(pith_cache_value(cache, index, to), pith_cache_value(cache, index, from),
          (size_t)(pith_cache_value(cache, index, left) - pith_cache_value(cache, index, 0)));
  memmove(pith_cache_query(cache, index, to), pith_cache_query(cache, index, from),
          (size_t)(pith_cache_query(cache, index, left) - pith_cache_query(cache, index, 0)));
  memmove(pith_cache_row_score(cache, index, to), pith_cache_row_score(cache, index, from), left * sizeof(float));
  head->rows -= count;
}

/* ---- Pushing ---- */

static pith_status check_part(pith_context *context, const pith_array *part, const char *what, size_t heads,
                              size_t count, size_t width) {
  bool fits = part->ndim >= 2 && part->ndim <= 3 && pith_array_heads(part) == heads &&
              part->shape[part->ndim - 1] == width && (count == 0 || part->shape[part->ndim - 2] == count);
  if (fits) return PITH_OK;
  char rows[32] = "any number of";
  if (count > 0) (void)snprintf(rows, sizeof rows, "%zu", count);
  return pith_fail(context, PITH_E_SHAPE,
                   "%s: %zu dimensions, %zu heads, rows of %zu numbers; the cache takes %zu heads with %s rows of %zu",
                   what, part->ndim, part->ndim >= 2 ? pith_array_heads(part) : 1,
                   part->ndim > 0 ? part->shape[part->ndim - 1] : 0, heads, rows, width);
}

static pith_status check_push(pith_context *context, const pith_cache *cache, size_t layer, const pith_array *keys,
                              const pith_array *values, const pith_array *queries, size_t *count) {
  const pith_cache_options *o = &cache->options;
  const cache_state *state = cache_of(cache);
  if (layer != state->layer)
    return pith_fail(context, PITH_E_ARGUMENT, "layer: %zu; the cache has %zu layers, and %zu comes next", layer,
                     o->layers, (size_t)state->layer);
  PITH_TRY(check_part(context, keys, "keys", o->kv_heads, state->block, o->d));
  *count = keys->shape[keys->ndim - 2];
  if (*count == 0 || *count > o->chunk)
    return pith_fail(context, PITH_E_SHAPE, "keys: a block of %zu tokens; 1 to %zu (the chunk) can be pushed at once",
                     *count, o->chunk);
  PITH_TRY(check_part(context, values, "values", o->kv_heads, *count, o->dv));
  if (queries) PITH_TRY(check_part(context, queries, "queries", o->query_heads, *count, o->d));
  if (!queries && pith_cache_demands(cache))
    return pith_fail(context, PITH_E_ARGUMENT,
                     "queries: none; %s chooses by the queries of the past. Give them, or use the query model ball",
                     cache->engine->name);
  return PITH_OK;
}

/* One head of an array into rows of the cache; each of them `stride` bytes behind the one before. */
static pith_status write_rows(pith_context *context, const pith_cache *cache, const pith_array *array, size_t head,
                              const char *what, size_t width, unsigned char *to, size_t stride) {
  pith_array view = pith_array_head(array, 0, head);
  size_t count = view.shape[0], size = width * pith_dtype_size(cache->row_store);
  float *rows = pith_scratch(context, SCRATCH_ROWS, CACHE_MOST_CHUNK * width * sizeof *rows);
  if (!rows) return PITH_E_MEMORY;
  PITH_TRY(pith_array_to_f32(context, &view, what, 1, rows));
  if (stride == size) return pith_store_write(context, what, cache->row_store, rows, count, width, to, NULL);
  for (size_t i = 0; i < count; i++)
    PITH_TRY(pith_store_write(context, what, cache->row_store, rows + i * width, 1, width, to + i * stride, NULL));
  return PITH_OK;
}

/* Which query heads of a group are recorded changes from token to token: the others get their turn. */
static pith_status write_queries(pith_context *context, const pith_cache *cache, const pith_array *queries,
                                 size_t index, size_t kv_head, size_t row, size_t position) {
  size_t d = cache->options.d, size = d * pith_dtype_size(cache->row_store), stride = cache->taken * size;
  size_t count = queries->shape[queries->ndim - 2];
  float *rows = pith_scratch(context, SCRATCH_ROWS, CACHE_MOST_CHUNK * d * sizeof *rows);
  if (!rows) return PITH_E_MEMORY;
  for (size_t member = 0; member < cache->group; member++) {
    pith_array view = pith_array_head(queries, 0, kv_head * cache->group + member);
    PITH_TRY(pith_array_to_f32(context, &view, "queries", 1, rows));
    for (size_t i = 0; i < count; i++) {
      size_t slot = (member + cache->group - (position + i) * cache->taken % cache->group) % cache->group;
      if (slot < cache->taken)
        PITH_TRY(pith_store_write(context, "queries", cache->row_store, rows + i * d, 1, d,
                                  pith_cache_query(cache, index, row) + i * stride + slot * size, NULL));
    }
  }
  return PITH_OK;
}

/* Rows behind those that a head has: nothing is seen of them until all of a layer are written. */
static pith_status write_layer(pith_context *context, const pith_cache *cache, size_t layer, const pith_array *keys,
                               const pith_array *values, const pith_array *queries, size_t count) {
  const pith_cache_options *o = &cache->options;
  size_t row_size = pith_dtype_size(cache->row_store);
  for (size_t h = 0; h < o->kv_heads; h++) {
    size_t index = layer * o->kv_heads + h, row = cache_head_of(cache, index)->rows;
    PITH_TRY(write_rows(context, cache, keys, h, "keys", o->d, pith_cache_key(cache, index, row), o->d * row_size));
    PITH_TRY(
        write_rows(context, cache, values, h, "values", o->dv, pith_cache_value(cache, index, row), o->dv * row_size));
    if (queries && cache->taken > 0)
      PITH_TRY(write_queries(context, cache, queries, index, h, row, cache_of(cache)->length));
    for (size_t i = 0; i < count; i++) *pith_cache_row_score(cache, index, row + i) = 0;
  }
  return PITH_OK;
}

/* Whether `count` more tokens fit into every head. */
static bool has_room(const pith_cache *cache, size_t count) {
  for (size_t i = 0; i < cache->heads; i++)
    if (cache_head_of(cache, i)->rows + count > cache->capacity) return false;
  return true;
}

pith_status pith_cache_push(pith_context *context, pith_cache *cache, size_t layer, const pith_array *keys,
                            const pith_array *values, const pith_array *queries) {
  cache_state *state = cache_of(cache);
  size_t count = 0;
  PITH_TRY(check_push(context, cache, layer, keys, values, queries, &count));
  if (state->block == 0) {
    if (!has_room(cache, count)) PITH_TRY(pith_cache_fold(context, cache, PITH_CACHE_ALL));
    if (state->length == cache->options.start) state->queried = queries != NULL;
  }
  if (state->queried != (queries != NULL))
    return pith_fail(
        context, PITH_E_ARGUMENT, "queries: %s; either all pushes have them or none",
        queries ? "given, but the first tokens came without" : "none, but the first tokens came with them");
  PITH_TRY(write_layer(context, cache, layer, keys, values, queries, count));
  for (size_t h = 0; h < cache->options.kv_heads; h++)
    cache_head_of(cache, layer * cache->options.kv_heads + h)->rows += count;
  state->block = count;
  if (++state->layer == cache->options.layers) {
    state->length += count;
    state->block = state->layer = 0;
  }
  return PITH_OK;
}

/* ---- Asking ---- */

static pith_status check_asked(pith_context *context, const pith_cache *cache, size_t layer,
                               const pith_array *queries) {
  const pith_cache_options *o = &cache->options;
  if (layer >= o->layers) return pith_fail(context, PITH_E_ARGUMENT, "layer: %zu; the cache has %zu", layer, o->layers);
  PITH_TRY(check_part(context, queries, "queries", o->query_heads, 0, o->d));
  size_t m = queries->shape[queries->ndim - 2];
  for (size_t h = 0; h < o->kv_heads; h++) {
    const cache_head *head = cache_head_of(cache, layer * o->kv_heads + h);
    size_t recent = head->points > 0 ? head->rows - pith_min_size(head->rows, o->sinks) : head->rows;
    if (m > recent)
      return pith_fail(context, PITH_E_SHAPE,
                       "queries: %zu rows; the last %zu tokens of layer %zu are kept exactly, and only those can ask",
                       m, recent, layer);
  }
  return PITH_OK;
}

pith_status pith_cache_attend(pith_context *context, const pith_cache *cache, size_t layer, const pith_array *queries,
                              float *out, pith_certificate *certificates) {
  const pith_cache_options *o = &cache->options;
  PITH_TRY(check_asked(context, cache, layer, queries));
  size_t m = queries->shape[queries->ndim - 2], asked = cache->group * m;
  float *scaled = pith_scratch(context, SCRATCH_QUERIES, o->query_heads * m * o->d * sizeof *scaled);
  pith_attend_job *jobs = pith_scratch(context, SCRATCH_JOBS, o->kv_heads * sizeof *jobs);
  if (!scaled || !jobs) return PITH_E_MEMORY;
  PITH_TRY(pith_queries_to_f32(context, queries, o->scale, scaled));
  for (size_t h = 0; h < o->kv_heads; h++) {
    size_t index = layer * o->kv_heads + h;
    pith_rows exact = pith_cache_exact_rows(cache, index);
    pith_mask causal = {.causal = true, .first = (ptrdiff_t)exact.count - (ptrdiff_t)m};
    jobs[h] = (pith_attend_job){
        .heads = cache->group, .queries = m, .query = scaled + h * asked * o->d, .out = out + h * asked * o->dv};
    if (cache_head_of(cache, index)->points > 0) {
      pith_head_view view = pith_cache_points(cache, index, NULL);
      jobs[h].rows = pith_head_rows(&view);
      jobs[h].later = exact;
      jobs[h].later_mask = causal;
    } else {
      jobs[h].rows = exact;
      jobs[h].mask = causal;
    }
  }
  PITH_TRY(pith_attend_jobs(context, jobs, o->kv_heads));
  for (size_t h = 0; certificates && h < o->kv_heads; h++)
    PITH_TRY(pith_cache_promise_answers(context, cache, layer * o->kv_heads + h, scaled + h * asked * o->d,
                                        out + h * asked * o->dv, m, certificates + h * asked));
  return PITH_OK;
}
