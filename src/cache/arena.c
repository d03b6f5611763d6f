/* arena.c - the points of all heads, one behind the other, in memory of a fixed size. */
#include <string.h>

#include "cache/cache.h"
#include "kernels/kernels.h"
#include "summary/store.h"

enum { ALIGNMENT = 64 };

/* Where the arrays of `points` points lie, from the first byte of a head. */
typedef struct sections {
  size_t keys, values, key_scales, value_scales, log_weight, index, score, end;
} sections;

static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static sections sections_of(const pith_cache_options *o, pith_dtype store, size_t points) {
  sections s = {0};
  s.values = s.keys + aligned(points * pith_store_row_bytes(store, o->d));
  s.key_scales = s.values + aligned(points * pith_store_row_bytes(store, o->dv));
  s.value_scales = s.key_scales + aligned(points * pith_store_scales(store, o->d) * sizeof(uint16_t));
  s.log_weight = s.value_scales + aligned(points * pith_store_scales(store, o->dv) * sizeof(uint16_t));
  s.index = s.log_weight + aligned(points * sizeof(float));
  s.score = s.index + aligned(points * sizeof(int64_t));
  s.end = s.score + aligned(points * sizeof(float));
  return s;
}

size_t pith_cache_arena_bytes(const pith_cache_options *options, size_t heads, size_t summary_bytes) {
  enum { SECTIONS = 7 };
  pith_dtype store = options->store == PITH_STORE_AUTO ? PITH_Q4 : options->store;
  size_t points = summary_bytes / pith_store_point_bytes(store, options->d, options->dv);
  return summary_bytes + points * (sizeof(int64_t) + sizeof(float)) + heads * SECTIONS * ALIGNMENT;
}

size_t pith_cache_place_bytes(const pith_cache *cache, pith_dtype store, size_t points) {
  return sections_of(&cache->options, store, points).end;
}

pith_head_view pith_cache_points(const pith_cache *cache, size_t index, float **scores) {
  const cache_head *head = cache_head_of(cache, index);
  const pith_cache_options *o = &cache->options;
  pith_dtype store = (pith_dtype)head->store;
  sections s = sections_of(o, store, head->points);
  unsigned char *base = cache->block + cache->at.arena + head->offset;
  if (scores) *scores = (float *)(void *)(base + s.score);
  bool scaled = pith_store_quantised(store);
  return (pith_head_view){.points = head->points,
                          .d = o->d,
                          .dv = o->dv,
                          .store = store,
                          .keys = base + s.keys,
                          .values = base + s.values,
                          .key_scales = scaled ? (uint16_t *)(void *)(base + s.key_scales) : NULL,
                          .value_scales = scaled ? (uint16_t *)(void *)(base + s.value_scales) : NULL,
                          .log_weight = (float *)(void *)(base + s.log_weight),
                          .index = (int64_t *)(void *)(base + s.index),
                          .bytes = head->points * pith_store_point_bytes(store, o->d, o->dv)};
}

/* Makes room for other points of a head; those behind it move. */
static pith_status resize(pith_context *context, pith_cache *cache, size_t index, size_t points, pith_dtype store) {
  cache_head *head = cache_head_of(cache, index);
  unsigned char *arena = cache->block + cache->at.arena;
  size_t old = sections_of(&cache->options, (pith_dtype)head->store, head->points).end;
  size_t new = sections_of(&cache->options, store, points).end, end = 0;
  for (size_t i = 0; i < cache->heads; i++) {
    const cache_head *other = cache_head_of(cache, i);
    end = pith_max_size(end, other->offset + sections_of(&cache->options, (pith_dtype)other->store, other->points).end);
  }
  if (end - old + new > cache->at.arena_bytes)
    return pith_fail(context, PITH_E_BUDGET, "cache: %zu points of head %zu do not fit beside those of the others",
                     points, index);
  size_t from = head->offset + old;
  memmove(arena + head->offset + new, arena + from, end - from);
  for (size_t i = 0; i < cache->heads; i++) {
    cache_head *other = cache_head_of(cache, i);
    if (i != index && other->offset >= from) other->offset = other->offset - old + new;
  }
  head->points = points;
  head->store = store;
  return PITH_OK;
}

pith_status pith_cache_place(pith_context *context, pith_cache *cache, size_t index, const pith_points *points,
                             const float *scores, pith_dtype store) {
  size_t d = points->d, dv = points->dv, count = points->count;
  sections s = sections_of(&cache->options, store, count);
  unsigned char *written = pith_allocate_zero(context, s.end, 1);
  if (!written) return PITH_E_MEMORY;
  pith_status status = pith_store_write(context, "keys", store, points->keys, count, d, written + s.keys,
                                        (uint16_t *)(void *)(written + s.key_scales));
  if (status == PITH_OK)
    status = pith_store_write(context, "values", store, points->values, count, dv, written + s.values,
                              (uint16_t *)(void *)(written + s.value_scales));
  memcpy(written + s.log_weight, points->log_weight, count * sizeof(float));
  memcpy(written + s.index, points->index, count * sizeof(int64_t));
  memcpy(written + s.score, scores, count * sizeof(float));
  if (status == PITH_OK) status = resize(context, cache, index, count, store);
  if (status == PITH_OK) memcpy(cache->block + cache->at.arena + cache_head_of(cache, index)->offset, written, s.end);
  pith_release(context, written);
  return status;
}
