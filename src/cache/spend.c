/* spend.c - bytes spent over heads, by the menus that were measured at the beginning of the fold. */
#include <math.h>
#include <stdlib.h>

#include "cache/cache.h"
#include "summary/store.h"

/* What is left goes to heads that cost most, up to this part of what they have. */
static const double FILL = 0.5;

bool pith_cache_spreads(const pith_cache *cache) {
  const pith_cache_options *o = &cache->options;
  if (o->budget != PITH_BUDGET_AUTO) return o->budget == PITH_BUDGET_SPREAD;
  return cache->engine == &pith_engine_nystrom && cache->heads > 1 && pith_cache_model(cache) == PITH_QUERIES_SAMPLES;
}

bool pith_cache_measures(const pith_cache *cache) {
  return pith_cache_spreads(cache) || cache->options.store == PITH_STORE_AUTO;
}

static size_t point_bytes(const pith_cache *cache, pith_dtype store) {
  return pith_store_point_bytes(store, cache->options.d, cache->options.dv);
}

/* Rows that a head's next fold has to choose from. */
static size_t candidates(const pith_cache *cache, size_t index) {
  const cache_head *head = cache_head_of(cache, index);
  return head->points + (cache_of(cache)->fold_end - head->folded);
}

static void spend_evenly(const pith_cache *cache) {
  pith_dtype store = cache->options.store == PITH_STORE_AUTO ? PITH_F16 : cache->options.store;
  size_t most = cache->summary_bytes / pith_max_size(1, cache->heads) / point_bytes(cache, store);
  for (size_t i = 0; i < cache->heads; i++) {
    cache_head *head = cache_head_of(cache, i);
    head->wanted = pith_min_size(most, candidates(cache, i));
    head->wanted_store = store;
  }
}

/* The options of a head as bytes and costs, in room for CACHE_MENU. */
static pith_menu menu_of(const pith_cache *cache, size_t index, pith_option *room) {
  const cache_head *head = cache_head_of(cache, index);
  double weight = (double)cache_weights(cache)[index] * (double)cache->group;
  size_t rows = candidates(cache, index);
  for (size_t i = 0; i < head->menu_count; i++) {
    const cache_option *option = &head->menu[i];
    pith_dtype store = (pith_dtype)option->store;
    size_t points = pith_min_size(rows, option->points);
    room[i] = (pith_option){
        .points = points, .store = store, .bytes = points * point_bytes(cache, store), .cost = weight * option->cost};
  }
  pith_menu menu = {head->menu_count, room};
  pith_menu_hull(&menu);
  return menu;
}

typedef struct ordered {
  double key;
  size_t index;
} ordered;

static int compare_ordered(const void *left, const void *right) {
  const ordered *a = left, *b = right;
  if (a->key != b->key) return a->key < b->key ? -1 : 1;
  return (a->index > b->index) - (a->index < b->index);
}

static void fill_up(const pith_cache *cache, const pith_menu *menus, const size_t *chosen, ordered *order) {
  size_t left = cache->summary_bytes;
  for (size_t i = 0; i < cache->heads; i++) {
    const pith_option *option = &menus[i].option[chosen[i]];
    order[i] = (ordered){-option->cost, i};
    left -= option->bytes;
  }
  qsort(order, cache->heads, sizeof *order, compare_ordered);
  for (size_t k = 0; k < cache->heads; k++) {
    size_t i = order[k].index, rows = candidates(cache, i);
    cache_head *head = cache_head_of(cache, i);
    const pith_option *option = &menus[i].option[chosen[i]];
    size_t size = point_bytes(cache, option->store), more = (size_t)(FILL * (double)option->points);
    more = pith_min_size(pith_min_size(more, left / size), rows - option->points);
    left -= more * size;
    head->wanted = option->points + more;
    head->wanted_store = option->store;
  }
}

static pith_status spend_over_heads(pith_context *context, const pith_cache *cache) {
  size_t heads = cache->heads;
  pith_option *room = pith_allocate(context, heads, CACHE_MENU * sizeof *room);
  pith_menu *menus = pith_allocate(context, heads, sizeof *menus);
  size_t *chosen = pith_allocate_zero(context, heads, sizeof *chosen);
  ordered *order = pith_allocate(context, heads, sizeof *order);
  pith_status status = room && menus && chosen && order ? PITH_OK : PITH_E_MEMORY;
  for (size_t i = 0; status == PITH_OK && i < heads; i++) menus[i] = menu_of(cache, i, room + i * CACHE_MENU);
  if (status == PITH_OK && pith_cache_spreads(cache))
    status = pith_spend(context, menus, heads, cache->summary_bytes, chosen);
  for (size_t i = 0; status == PITH_OK && i < heads && !pith_cache_spreads(cache); i++)
    status = pith_spend(context, &menus[i], 1, cache->summary_bytes / heads, &chosen[i]);
  if (status == PITH_OK) fill_up(cache, menus, chosen, order);
  pith_release(context, room);
  pith_release(context, menus);
  pith_release(context, chosen);
  pith_release(context, order);
  return status;
}

/* Heads that shrink come first: what is held on the way is then never more than before or after. */
static pith_status put_in_order(pith_context *context, const pith_cache *cache) {
  ordered *order = pith_allocate(context, cache->heads, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  for (size_t i = 0; i < cache->heads; i++) {
    const cache_head *head = cache_head_of(cache, i);
    double now = (double)pith_cache_place_bytes(cache, (pith_dtype)head->store, head->points);
    order[i] = (ordered){(double)pith_cache_place_bytes(cache, (pith_dtype)head->wanted_store, head->wanted) - now, i};
  }
  qsort(order, cache->heads, sizeof *order, compare_ordered);
  for (size_t i = 0; i < cache->heads; i++) cache_order(cache)[i] = (uint32_t)order[i].index;
  pith_release(context, order);
  return PITH_OK;
}

pith_status pith_cache_spend(pith_context *context, pith_cache *cache) {
  bool menus = pith_cache_measures(cache);
  for (size_t i = 0; i < cache->heads; i++) menus &= cache_head_of(cache, i)->menu_count > 0;
  if (menus)
    PITH_TRY(spend_over_heads(context, cache));
  else
    spend_evenly(cache);
  return put_in_order(context, cache);
}
