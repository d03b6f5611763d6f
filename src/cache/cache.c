/* cache.c - a cache made, described, shortened, copied. */
#include "cache/cache.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cache/promise.h"
#include "summary/store.h"

void pith_cache_options_init(pith_cache_options *options) {
  *options = (pith_cache_options){.struct_size = sizeof *options,
                                  .layers = 1,
                                  .kv_heads = 1,
                                  .query_heads = 1,
                                  .store = PITH_F16,
                                  .sinks = 4,
                                  .window = 64,
                                  .chunk = CACHE_MOST_CHUNK,
                                  .recent = 384,
                                  .older = 128,
                                  .horizon = 1024,
                                  .probes = 64,
                                  .confidence = 0.9,
                                  .delta = 0.01,
                                  .seed = 1};
}

/* ---- Options ---- */

static pith_status check_shape(pith_context *context, const pith_cache_options *o) {
  if (o->layers == 0 || o->kv_heads == 0 || o->query_heads == 0 || o->query_heads % o->kv_heads != 0)
    return pith_fail(context, PITH_E_SHAPE,
                     "cache: %zu layers, %zu kv heads, %zu query heads; at least one of each, and query heads a "
                     "multiple of kv heads",
                     o->layers, o->kv_heads, o->query_heads);
  if (o->d == 0 || o->dv == 0 || o->d > 512 || o->dv > 512)
    return pith_fail(context, PITH_E_SHAPE, "cache: keys of %zu and values of %zu numbers; 1 to 512 are possible", o->d,
                     o->dv);
  if (o->layers > CACHE_MOST_ROWS / o->query_heads || o->query_heads > CACHE_MOST_ROWS)
    return pith_fail(context, PITH_E_SHAPE, "cache: %zu layers of %zu query heads; %d in all are possible", o->layers,
                     o->query_heads, CACHE_MOST_ROWS);
  return PITH_OK;
}

static pith_status check_sizes(pith_context *context, const pith_cache_options *o) {
  if (o->chunk < CACHE_LEAST_CHUNK || o->chunk > CACHE_MOST_CHUNK)
    return pith_fail(context, PITH_E_ARGUMENT, "chunk: %zu tokens; %d to %d are possible", o->chunk, CACHE_LEAST_CHUNK,
                     CACHE_MOST_CHUNK);
  const size_t counts[] = {o->sinks, o->window, o->recent, o->older, o->probes};
  const char *names[] = {"sinks", "window", "recent", "older", "probes"};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    if (counts[i] > CACHE_MOST_ROWS)
      return pith_fail(context, PITH_E_ARGUMENT, "%s: %zu; at most %d are possible", names[i], counts[i],
                       CACHE_MOST_ROWS);
  if (o->start > SIZE_MAX / 4 || o->horizon > SIZE_MAX / 4 || o->refine > CACHE_MOST_ROWS)
    return pith_fail(context, PITH_E_ARGUMENT, "cache: start %zu, horizon %zu or refine %zu is out of range", o->start,
                     o->horizon, o->refine);
  return PITH_OK;
}

static pith_status check_numbers(pith_context *context, const pith_cache_options *o) {
  if (o->store != PITH_STORE_AUTO) PITH_TRY(pith_store_check(context, o->store, o->d, o->dv));
  if (!(o->confidence > 0 && o->confidence < 1) || !(o->delta > 0 && o->delta < 1))
    return pith_fail(context, PITH_E_ARGUMENT, "confidence is %g and delta is %g; both must lie between 0 and 1",
                     o->confidence, o->delta);
  if (!(o->scale > 0) || !isfinite(o->scale) || !(o->rho >= 0) || !isfinite(o->rho))
    return pith_fail(context, PITH_E_ARGUMENT,
                     "scale is %g and rho is %g; they must be finite, and positive or 0 for what is usual", o->scale,
                     o->rho);
  if (o->rope != PITH_ROPE_NONE && o->rope != PITH_ROPE_PAIRS && o->rope != PITH_ROPE_HALVES)
    return pith_fail(context, PITH_E_ARGUMENT, "rope: %d is neither none, pairs nor halves", (int)o->rope);
  if (o->rope != PITH_ROPE_NONE && (o->d % 2 != 0 || !(o->rope_base > 1) || !isfinite(o->rope_base)))
    return pith_fail(context, PITH_E_ARGUMENT,
                     "rope: the base is %g and keys have %zu numbers; the base must be above 1, the numbers even",
                     o->rope_base, o->d);
  if ((int)o->budget < PITH_BUDGET_AUTO || o->budget > PITH_BUDGET_SPREAD || (int)o->query_model < PITH_QUERIES_AUTO ||
      o->query_model > PITH_QUERIES_SAMPLES)
    return pith_fail(context, PITH_E_ARGUMENT, "budget %d or query model %d is not one of the known", (int)o->budget,
                     (int)o->query_model);
  return PITH_OK;
}

/* Engines that a stream can use. */
static pith_status find_engine(pith_context *context, const char *name, const pith_engine **out) {
  static const pith_engine *const known[] = {&pith_engine_nystrom, &pith_engine_halving, &pith_engine_uniform,
                                             &pith_engine_recent,  &pith_engine_heavy,   &pith_engine_accumulated};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(known[i]->name, name) == 0) {
      *out = known[i];
      return PITH_OK;
    }
  return pith_fail(context, PITH_E_UNKNOWN,
                   "engine: \"%s\" does not stream; nystrom, halving, uniform, recent, heavy and accumulated do", name);
}

/* Options that were left open. */
static void complete(pith_cache_options *o) {
  if (o->dv == 0) o->dv = o->d;
  if (o->scale == 0 && o->d > 0) o->scale = 1 / sqrt((double)o->d);
}

/* ---- Layout ---- */

/* Adds an array to the layout; false where sizes overflow. */
static bool reserve(size_t *total, size_t *at, size_t count, size_t width, size_t size) {
  size_t bytes = 0;
  *at = *total;
  return !__builtin_mul_overflow(count, width, &bytes) && !__builtin_mul_overflow(bytes, size, &bytes) &&
         !__builtin_add_overflow(bytes, *total, &bytes) && !__builtin_add_overflow(bytes, (size_t)63, &bytes) &&
         (*total = bytes & ~(size_t)63, true);
}

static bool lay_out(pith_cache *cache) {
  const pith_cache_options *o = &cache->options;
  cache_layout *at = &cache->at;
  size_t row = pith_dtype_size(cache->row_store), heads = cache->heads, rows = cache->capacity;
  size_t samples = o->recent + o->older, sampled = cache->taken > 0 ? samples : 0;
  at->arena_bytes = pith_cache_arena_bytes(o, heads, cache->summary_bytes);
  return reserve(&at->bytes, &at->state, 1, 1, sizeof(cache_state)) &&
         reserve(&at->bytes, &at->heads, heads, 1, sizeof(cache_head)) &&
         reserve(&at->bytes, &at->order, heads, 1, sizeof(uint32_t)) &&
         reserve(&at->bytes, &at->weights, heads, 1, sizeof(float)) &&
         reserve(&at->bytes, &at->arena, at->arena_bytes, 1, 1) &&
         reserve(&at->bytes, &at->keys, heads * rows, o->d, row) &&
         reserve(&at->bytes, &at->values, heads * rows, o->dv, row) &&
         reserve(&at->bytes, &at->queries, heads * rows, cache->taken * o->d, row) &&
         reserve(&at->bytes, &at->row_scores, heads, rows, sizeof(float)) &&
         reserve(&at->bytes, &at->samples, heads * sampled, o->d, row) &&
         reserve(&at->bytes, &at->sample_positions, heads, sampled, sizeof(uint64_t)) &&
         reserve(&at->bytes, &at->probes, heads, o->probes, o->d * sizeof(float)) &&
         reserve(&at->bytes, &at->probe_states, heads, o->probes, (o->dv + 2) * sizeof(double)) &&
         reserve(&at->bytes, &at->promises, heads, 1, pith_cache_promise_bytes(o));
}

static pith_status check_bytes(pith_context *context, const pith_cache *cache) {
  const pith_cache_options *o = &cache->options;
  size_t exact = cache->heads * (o->sinks + o->window) * cache_row_bytes(cache);
  size_t point = pith_store_point_bytes(o->store == PITH_STORE_AUTO ? PITH_F16 : o->store, o->d, o->dv);
  size_t least = exact + cache->heads * point;
  if (o->bytes > SIZE_MAX / 64)
    return pith_fail(context, PITH_E_BUDGET, "bytes: %zu are more than memory can be", o->bytes);
  if (o->bytes >= least) return PITH_OK;
  return pith_fail(context, PITH_E_BUDGET,
                   "bytes: %zu are fewer than the %zu that %zu heads take for %zu sinks, a window of %zu and one point "
                   "each; give at least %zu, or smaller sinks and window",
                   o->bytes, least, cache->heads, o->sinks, o->window, least);
}

static pith_status set_up(pith_context *context, pith_cache *cache, size_t expected) {
  pith_cache_options *o = &cache->options;
  const char *name = o->engine ? o->engine : "nystrom";
  PITH_TRY(find_engine(context, name, &cache->engine));
  (void)snprintf(cache->engine_name, sizeof cache->engine_name, "%s", cache->engine->name);
  o->engine = cache->engine_name;
  complete(o);
  PITH_TRY(check_shape(context, o));
  PITH_TRY(check_sizes(context, o));
  PITH_TRY(check_numbers(context, o));
  cache->heads = o->layers * o->kv_heads;
  cache->group = o->query_heads / o->kv_heads;
  cache->capacity = o->sinks + o->window + o->chunk;
  cache->row_store = o->store == PITH_F32 || o->store == PITH_BF16 ? o->store : PITH_F16;
  PITH_TRY(check_bytes(context, cache));
  cache->summary_bytes = o->bytes - cache->heads * (o->sinks + o->window) * cache_row_bytes(cache);
  bool records = pith_cache_records(cache);
  cache->taken = !records ? 0 : pith_min_size(cache->group, (o->recent + o->chunk - 1) / o->chunk);
  if (records && cache->taken == 0) cache->taken = 1;
  if (!lay_out(cache))
    return pith_fail(context, PITH_E_SHAPE, "cache: %zu bytes with these shapes are more than memory can be", o->bytes);
  if (expected != 0 && expected != cache->at.bytes)
    return pith_fail(context, PITH_E_FORMAT, "cache: %zu bytes are there, its options ask for %zu", expected,
                     cache->at.bytes);
  cache->block = pith_memory_allocate(cache->memory, cache->at.bytes, 1);
  if (!cache->block)
    return pith_fail(context, PITH_E_MEMORY, "cache: no memory for %zu bytes (%zu of them for attention)",
                     cache->at.bytes, o->bytes);
  memset(cache->block, 0, cache->at.bytes);
  return PITH_OK;
}

pith_status pith_cache_make(pith_context *context, const pith_cache_options *options, size_t expected,
                            pith_cache **out) {
  pith_cache *cache = pith_allocate_zero(context, 1, sizeof *cache);
  if (!cache) return PITH_E_MEMORY;
  cache->memory = pith_memory_share(context);
  cache->options = *options;
  pith_status status = set_up(context, cache, expected);
  if (status < 0)
    pith_cache_free(cache);
  else
    *out = cache;
  return status;
}

pith_status pith_cache_create(pith_context *context, const pith_cache_options *options, pith_cache **out) {
  pith_cache_options o;
  pith_cache_options_init(&o);
  if (options->struct_size > sizeof o)
    return pith_fail(context, PITH_E_ARGUMENT, "options are of a newer version: %zu bytes, this library knows %zu",
                     options->struct_size, sizeof o);
  memcpy(&o, options, options->struct_size);
  o.struct_size = sizeof o;
  pith_cache *cache = NULL;
  PITH_TRY(pith_cache_make(context, &o, 0, &cache));
  cache_state *state = cache_of(cache);
  state->length = o.start;
  state->folded = state->fold_end = o.start + o.sinks;
  for (size_t i = 0; i < cache->heads; i++) {
    cache_head *head = cache_head_of(cache, i);
    head->folded = head->counted = state->folded;
    head->store = o.store == PITH_STORE_AUTO ? PITH_F16 : o.store;
    cache_weights(cache)[i] = 1;
    cache_order(cache)[i] = (uint32_t)i;
  }
  *out = cache;
  return PITH_OK;
}

void pith_cache_free(pith_cache *cache) {
  if (!cache) return;
  pith_memory *memory = cache->memory;
  pith_memory_release(memory, cache->block);
  pith_memory_release(memory, cache);
  pith_memory_unshare(memory);
}

pith_status pith_cache_clone(pith_context *context, const pith_cache *cache, pith_cache **out) {
  pith_cache *copy = NULL;
  PITH_TRY(pith_cache_make(context, &cache->options, 0, &copy));
  memcpy(copy->block, cache->block, cache->at.bytes);
  copy->max_step_seconds = cache->max_step_seconds;
  copy->fold_seconds = cache->fold_seconds;
  *out = copy;
  return PITH_OK;
}

/* ---- Looking ---- */

size_t pith_cache_end(const pith_cache *cache, size_t index) {
  const cache_state *state = cache_of(cache);
  return state->length + (index / cache->options.kv_heads < state->layer ? state->block : 0);
}

static size_t least_length(const pith_cache *cache) {
  size_t least = cache->options.start;
  for (size_t i = 0; i < cache->heads; i++) {
    const cache_head *head = cache_head_of(cache, i);
    if (head->folded > cache->options.start + cache->options.sinks) least = pith_max_size(least, head->folded);
  }
  return least;
}

pith_cache_info pith_cache_describe(const pith_cache *cache) {
  const pith_cache_options *o = &cache->options;
  const cache_state *state = cache_of(cache);
  const cache_layout *at = &cache->at;
  size_t tokens = state->length - o->start, behind = state->folded + o->window, points = 0;
  size_t exact = pith_min_size(tokens, o->sinks + o->window) * cache->heads * cache_row_bytes(cache);
  for (size_t i = 0; i < cache->heads; i++) points += pith_cache_points(cache, i, NULL).bytes;
  pith_cache_info info = {.layers = o->layers,
                          .kv_heads = o->kv_heads,
                          .query_heads = o->query_heads,
                          .d = o->d,
                          .dv = o->dv,
                          .start = o->start,
                          .length = state->length,
                          .least_length = least_length(cache),
                          .in_flight = state->length > behind ? state->length - behind : 0,
                          .limit_bytes = o->bytes,
                          .bytes = points + exact,
                          .full_bytes = 2 * (o->d + o->dv) * tokens * cache->heads,
                          .chunk_bytes = cache->heads * o->chunk * cache_row_bytes(cache),
                          .sample_bytes = at->row_scores - at->queries + at->probes - at->samples,
                          .probe_bytes = at->promises - at->probes,
                          .held_bytes = at->bytes + sizeof *cache,
                          .folds = state->folds,
                          .heads_to_fold = state->fold_end > state->folded ? cache->heads - state->fold_done : 0,
                          .max_step_seconds = cache->max_step_seconds,
                          .fold_seconds = cache->fold_seconds,
                          .rho = pith_cache_rho(cache),
                          .query_model = pith_cache_model(cache)};
  info.other_bytes = info.held_bytes - info.bytes - info.chunk_bytes - info.sample_bytes - info.probe_bytes;
  (void)snprintf(info.engine, sizeof info.engine, "%s", cache->engine->name);
  return info;
}

/* ---- Changing ---- */

pith_status pith_cache_set_head_weights(pith_context *context, pith_cache *cache, const pith_array *weights) {
  const pith_cache_options *o = &cache->options;
  if (weights->ndim != 2 || weights->shape[0] != o->layers || weights->shape[1] != o->kv_heads)
    return pith_fail(context, PITH_E_SHAPE,
                     "head weights: %zu dimensions, (%zu, %zu); %zu layers of %zu kv heads need (%zu, %zu)",
                     weights->ndim, weights->shape[0], weights->ndim > 1 ? weights->shape[1] : 1, o->layers,
                     o->kv_heads, o->layers, o->kv_heads);
  float *copy = pith_scratch(context, 2, cache->heads * sizeof *copy);
  if (!copy) return PITH_E_MEMORY;
  PITH_TRY(pith_array_to_f32(context, weights, "head weights", 1, copy));
  for (size_t i = 0; i < cache->heads; i++)
    if (copy[i] < 0)
      return pith_fail(context, PITH_E_VALUE, "head weights: layer %zu, head %zu is %g; none may be negative",
                       i / o->kv_heads, i % o->kv_heads, (double)copy[i]);
  memcpy(cache_weights(cache), copy, cache->heads * sizeof *copy);
  return PITH_OK;
}

pith_status pith_cache_truncate(pith_context *context, pith_cache *cache, size_t length) {
  cache_state *state = cache_of(cache);
  size_t least = least_length(cache);
  if (length < least || length > state->length)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "length: %zu; %zu to %zu is possible, what came before is folded into the summary", length, least,
                     (size_t)state->length);
  for (size_t i = 0; i < cache->heads; i++) {
    cache_head *head = cache_head_of(cache, i);
    head->rows -= pith_cache_end(cache, i) - length;
    if (head->counted > length) head->counted = pith_max_size(length, head->folded);
  }
  state->length = length;
  state->block = state->layer = 0;
  /* A fold that has not touched any head and whose rows are gone is no fold any more. */
  if (state->fold_end > state->length) state->fold_end = state->folded;
  return PITH_OK;
}
