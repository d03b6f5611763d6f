/* check.c - a block that was read from a file: everything that is used as a size, an index or a number. */
#include <math.h>

#include "cache/cache.h"
#include "cache/promise.h"
#include "summary/store.h"

static bool store_fits(const pith_cache *cache, uint64_t store) {
  if (cache->options.store != PITH_STORE_AUTO) return store == cache->options.store;
  return store == PITH_F16 || store == PITH_Q8 || store == PITH_Q4;
}

static bool finite_f32(const float *x, size_t count) {
  bool finite = true;
  for (size_t i = 0; i < count; i++) finite &= isfinite(x[i]) != 0;
  return finite;
}

static bool finite_f64(const double *x, size_t count) {
  bool finite = true;
  for (size_t i = 0; i < count; i++) finite &= isfinite(x[i]) != 0;
  return finite;
}

/* `count` rows of `width` numbers, each at most 512. */
static bool finite_rows(pith_dtype store, const void *rows, const uint16_t *scales, size_t count, size_t width) {
  float row[512];
  size_t bytes = pith_store_row_bytes(store, width), each = pith_store_scales(store, width);
  bool finite = true;
  for (size_t i = 0; i < count && finite; i++) {
    pith_store_read(store, (const unsigned char *)rows + i * bytes, each ? scales + i * each : NULL, 1, width, row);
    finite = finite_f32(row, width);
  }
  return finite;
}

static bool state_fits(const pith_cache *cache) {
  const cache_state *s = cache_of(cache);
  const pith_cache_options *o = &cache->options;
  const uint64_t most = SIZE_MAX / 4, first = o->start + o->sinks;
  if (s->length < o->start || s->length > most || s->block > o->chunk || s->layer >= o->layers) return false;
  if ((s->block > 0) != (s->layer > 0) || s->folded < first || s->fold_end < s->folded) return false;
  if (s->fold_end > first && s->fold_end > s->length) return false;
  bool folding = s->fold_end > s->folded;
  return s->fold_done <= cache->heads - (folding && cache->heads > 0) && s->fold_in_flight <= o->chunk &&
         s->measured <= cache->heads && (s->measured == cache->heads || s->fold_done == 0) && s->queried <= 1;
}

static bool head_fits(const pith_cache *cache, size_t index) {
  const cache_head *head = cache_head_of(cache, index);
  const cache_state *s = cache_of(cache);
  const pith_cache_options *o = &cache->options;
  uint64_t end = pith_cache_end(cache, index), rows = end - o->start;
  if (end > head->folded) rows = o->sinks + end - head->folded;
  if (head->folded > o->start + o->sinks && head->folded > end) return false;
  if ((head->folded != s->folded && head->folded != s->fold_end) || head->rows != rows || rows > cache->capacity)
    return false;
  if (!store_fits(cache, head->store) || head->points > cache->at.arena_bytes || head->offset > cache->at.arena_bytes ||
      head->offset % 64 != 0)
    return false;
  if (pith_cache_place_bytes(cache, (pith_dtype)head->store, head->points) > cache->at.arena_bytes - head->offset)
    return false;
  bool sampled = cache->taken > 0 && s->queried;
  if (head->recent > (sampled ? o->recent : 0) || head->older > (sampled ? o->older : 0) ||
      head->passed < head->older || head->probes > o->probes || head->counted < head->folded ||
      head->passed > SIZE_MAX / 4)
    return false;
  bool spent = s->fold_end > s->folded && s->measured == cache->heads;
  if (spent && (!store_fits(cache, head->wanted_store) || head->wanted > cache->at.arena_bytes)) return false;
  if (head->menu_count > CACHE_MENU) return false;
  for (size_t i = 0; i < head->menu_count; i++) {
    const cache_option *option = &head->menu[i];
    if (option->points > cache->at.arena_bytes + cache->capacity || !(option->cost >= 0) || !isfinite(option->cost) ||
        !store_fits(cache, option->store))
      return false;
  }
  return true;
}

/* The order is one of all heads, and those that come first have been folded. */
static bool order_fits(pith_context *context, const pith_cache *cache, bool *fits) {
  const cache_state *s = cache_of(cache);
  bool *seen = pith_allocate_zero(context, cache->heads, sizeof *seen);
  if (!seen) return false;
  *fits = true;
  for (size_t i = 0; *fits && i < cache->heads; i++) {
    size_t index = cache_order(cache)[i];
    *fits = index < cache->heads && !seen[index];
    if (!*fits) break;
    seen[index] = true;
    if (s->fold_end > s->folded)
      *fits = cache_head_of(cache, index)->folded == (i < s->fold_done ? s->fold_end : s->folded);
  }
  pith_release(context, seen);
  return true;
}

static bool numbers_fit(const pith_cache *cache, size_t index) {
  const cache_head *head = cache_head_of(cache, index);
  const pith_cache_options *o = &cache->options;
  float *scores = NULL;
  pith_head_view view = pith_cache_points(cache, index, &scores);
  size_t samples = o->recent + o->older, row = pith_dtype_size(cache->row_store);
  const unsigned char *at = cache->block + cache->at.samples + index * samples * o->d * row;
  for (size_t i = 0; i < view.points; i++)
    if (view.index[i] < -1 || fabsf(view.log_weight[i]) > 100) return false;
  if (!finite_rows(view.store, view.keys, view.key_scales, view.points, view.d) ||
      !finite_rows(view.store, view.values, view.value_scales, view.points, view.dv) ||
      !finite_f32(view.log_weight, view.points) || !finite_f32(scores, view.points) ||
      !finite_rows(cache->row_store, pith_cache_key(cache, index, 0), NULL, head->rows, o->d) ||
      !finite_rows(cache->row_store, pith_cache_value(cache, index, 0), NULL, head->rows, o->dv) ||
      !finite_rows(cache->row_store, pith_cache_query(cache, index, 0), NULL, head->rows * cache->taken, o->d) ||
      !finite_f32(pith_cache_row_score(cache, index, 0), head->rows) || !isfinite(cache_weights(cache)[index]) ||
      cache_weights(cache)[index] < 0)
    return false;
  if (cache->taken > 0 && (!finite_rows(cache->row_store, at, NULL, head->recent, o->d) ||
                           !finite_rows(cache->row_store, at + o->recent * o->d * row, NULL, head->older, o->d)))
    return false;
  const float *probes = (const float *)(const void *)(cache->block + cache->at.probes) + index * o->probes * o->d;
  const double *states =
      (const double *)(const void *)(cache->block + cache->at.probe_states) + index * o->probes * (o->dv + 2);
  return finite_f32(probes, head->probes * o->d) && finite_f64(states, head->probes * (o->dv + 2));
}

static bool promise_fits(const pith_cache *cache, size_t index) {
  const cache_promise *p = pith_cache_promise(cache, index);
  if (!p || p->set == 0) return true;
  bool fits = p->set == 1 && p->d == (double)cache->options.d && p->dv == (double)cache->options.dv && p->rho > 0 &&
              isfinite(p->rho) && p->balance > 0 && isfinite(p->balance) && p->tokens >= 0 && p->first > 0 &&
              p->reach >= 0 && (p->lawful == 0 || p->lawful == 1) && p->mass >= 0 &&
              finite_f64((const double *)(p + 1), 4 * cache->options.d + cache->options.dv);
  for (size_t k = 0; k < CACHE_BALLS; k++) fits = fits && p->lambda2[k] > 0 && isfinite(p->lambda2[k]);
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) fits = fits && p->change[k] >= 0 && p->sum[k] >= 0;
  return fits;
}

pith_status pith_cache_check(pith_context *context, const pith_cache *cache, const char *name) {
  bool ordered = false;
  size_t bytes = 0;
  if (!state_fits(cache)) return pith_fail(context, PITH_E_FORMAT, "%s: its counts are not those of a cache", name);
  if (!order_fits(context, cache, &ordered)) return PITH_E_MEMORY;
  if (!ordered) return pith_fail(context, PITH_E_FORMAT, "%s: the order of its heads is none", name);
  for (size_t i = 0; i < cache->heads; i++) {
    if (!head_fits(cache, i))
      return pith_fail(context, PITH_E_FORMAT, "%s: the counts of head %zu are not those of a cache", name, i);
    if (!numbers_fit(cache, i) || !promise_fits(cache, i))
      return pith_fail(context, PITH_E_FORMAT, "%s: a number of head %zu is out of range", name, i);
    bytes += pith_cache_place_bytes(cache, (pith_dtype)cache_head_of(cache, i)->store, cache_head_of(cache, i)->points);
  }
  if (bytes > cache->at.arena_bytes)
    return pith_fail(context, PITH_E_FORMAT, "%s: its points take %zu bytes, there is room for %zu", name, bytes,
                     cache->at.arena_bytes);
  return PITH_OK;
}
