/* fold.c - old points and the rows that leave become new points, head by head. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "cache/cache.h"
#include "cache/promise.h"
#include "cache/work.h"
#include "summary/store.h"

enum { AT_ONCE = 16 }; /* heads */
/* A stepped fold is done when this part of the room that is left is used. Where more than FULL of the chunk is filled
 * when it begins, as by large blocks, it is done at once. */
static const double DONE_AT = 0.75, FULL = 0.8;

static double now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void close_work(pith_context *context, cache_work *w) {
  pith_cache_reduce_close(context, &w->reduction);
  pith_cache_queries_free(context, &w->queries);
  pith_points_free(context, w->points);
  pith_release(context, w->scores);
  pith_release(context, w->keys);
  pith_release(context, w->tokens);
  pith_release(context, w->exact);
}

/* Exact rows from..to-1 of the head, at row `at` of the work. */
static void read_rows(cache_work *w, size_t from, size_t to, size_t at, bool exact) {
  const pith_cache *cache = w->cache;
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, w->index);
  pith_store_read(cache->row_store, pith_cache_key(cache, w->index, from), NULL, to - from, o->d, w->keys + at * o->d);
  pith_store_read(cache->row_store, pith_cache_value(cache, w->index, from), NULL, to - from, o->dv,
                  w->values + at * o->dv);
  for (size_t i = from; i < to; i++, at++) {
    w->tokens[at] = (int64_t)(i < o->sinks ? o->start + i : head->folded + i - o->sinks);
    w->score[at] = *pith_cache_row_score(cache, w->index, i);
    w->log_weight[at] = 0;
    w->exact[at] = exact;
  }
}

static void read_points(cache_work *w, size_t at) {
  float *scores = NULL;
  pith_head_view view = pith_cache_points(w->cache, w->index, &scores);
  pith_head_to_f32(&view, w->keys + at * view.d, w->values + at * view.dv);
  for (size_t i = 0; i < view.points; i++, at++) {
    w->tokens[at] = view.index[i];
    w->score[at] = scores[i];
    w->log_weight[at] = view.log_weight[i];
    w->exact[at] = 0;
  }
}

/* Rows in the order of time: sinks, points, what leaves, the window as it was when the fold began. */
static pith_status open_work(pith_context *context, const pith_cache *cache, size_t index, cache_work *w) {
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, index);
  w->leaving = cache_of(cache)->fold_end - head->folded;
  size_t sinks = o->sinks, d = o->d, dv = o->dv, window = pith_min_size(o->window, head->rows - sinks - w->leaving);
  w->first = sinks + head->points;
  w->n = w->first + w->leaving + window;
  w->keys = pith_allocate(context, w->n, (d + dv + 2) * sizeof(float));
  w->tokens = pith_allocate(context, w->n, sizeof *w->tokens);
  w->exact = pith_allocate(context, w->n, 1);
  if (!w->keys || !w->tokens || !w->exact) return PITH_E_MEMORY;
  w->values = w->keys + w->n * d;
  w->log_weight = w->values + w->n * dv;
  w->score = w->log_weight + w->n;
  read_rows(w, 0, sinks, 0, true);
  read_points(w, sinks);
  read_rows(w, sinks, sinks + w->leaving, w->first, false);
  read_rows(w, sinks + w->leaving, sinks + w->leaving + window, w->first + w->leaving, true);
  PITH_TRY(pith_cache_queries_create(context, cache, index, w->leaving, w->first, &w->queries));
  cache_promise *promise = pith_cache_promise(cache, index);
  w->reduction = (cache_reduction){.cache = cache,
                                   .index = index,
                                   .problem = {.n = w->n,
                                               .d = d,
                                               .dv = dv,
                                               .keys = w->keys,
                                               .values = w->values,
                                               .log_weight = w->log_weight,
                                               .exact = w->exact,
                                               .candidates = head->points + w->leaving,
                                               .model = w->queries.model,
                                               .seed = o->seed,
                                               .object = (uint32_t)index},
                                   .tokens = w->tokens,
                                   .score = w->score,
                                   .promise = promise,
                                   .coins = head->coins};
  return PITH_OK;
}

/* ---- One head ---- */

/* Norms of what changed but for coins: everything, or what rounding did. */
static pith_status measure_change(pith_context *context, cache_work *w, const pith_points *points, pith_dtype store) {
  const cache_promise *promise = pith_cache_promise(w->cache, w->index);
  bool coins = w->cache->engine == &pith_engine_halving;
  const pith_problem *p = &w->reduction.problem;
  if (!promise || (coins && !pith_store_quantised(store))) return PITH_OK;
  size_t d = p->d, dv = p->dv, count = points->count;
  cache_trial t = {0};
  t.keys = pith_allocate(context, count, (d + dv) * sizeof(float));
  t.stored = pith_allocate(context, count * pith_max_size(d, dv), 4);
  t.scales = pith_allocate(context, count, (pith_max_size(d, dv) / 32 + 1) * sizeof(uint16_t));
  pith_status status = t.keys && t.stored && t.scales ? PITH_OK : PITH_E_MEMORY;
  double squared[CACHE_LAMBDAS] = {0};
  if (status == PITH_OK) status = pith_store_write(context, "keys", store, points->keys, count, d, t.stored, t.scales);
  if (status == PITH_OK) {
    pith_store_read(store, t.stored, t.scales, count, d, t.keys);
    status = pith_store_write(context, "values", store, points->values, count, dv, t.stored, t.scales);
  }
  if (status == PITH_OK) {
    pith_store_read(store, t.stored, t.scales, count, dv, t.keys + count * d);
    size_t first = w->cache->options.sinks; /* candidates lie one behind the other */
    pith_pairs rows = {p->candidates, d, dv, p->keys + first * d, p->values + first * dv, p->log_weight + first};
    pith_pairs chosen = {count, d, dv, points->keys, points->values, points->log_weight};
    pith_pairs kept = {count, d, dv, t.keys, t.keys + count * d, points->log_weight};
    status = pith_cache_distance(context, promise, coins ? &chosen : &rows, &kept, squared);
  }
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) w->sum[k] = sqrt(squared[k]);
  pith_cache_trial_close(context, &t);
  return status;
}

/* Points are condensed, else taken from an engine. */
static bool condenses(const cache_work *w) {
  return w->cache->engine == &pith_engine_nystrom && w->queries.model->kind == PITH_QUERIES_SAMPLES &&
         w->cache->options.refine == 0;
}

static pith_status measure(pith_context *context, cache_work *w) {
  if (w->queries.held_count == 0 || w->reduction.problem.candidates == 0) return PITH_OK;
  return condenses(w) ? pith_cache_try_sizes(context, w) : pith_cache_make_menu(context, w);
}

static pith_status reduce(pith_context *context, cache_work *w) {
  const pith_cache *cache = w->cache;
  const cache_head *head = cache_head_of(cache, w->index);
  size_t rows = w->reduction.problem.candidates, wanted = pith_min_size(head->wanted, rows);
  PITH_TRY(pith_cache_promise_begin(context, cache, w->index, w->queries.model, w->keys + w->first * cache->options.d,
                                    w->values + w->first * cache->options.dv, w->leaving));
  PITH_TRY(pith_points_create(context, wanted, cache->options.d, cache->options.dv, &w->points));
  w->scores = pith_allocate(context, wanted, sizeof *w->scores);
  if (!w->scores) return PITH_E_MEMORY;
  if (condenses(w)) {
    PITH_TRY(pith_cache_condense(context, w, wanted));
    pith_cache_reduce_name(&w->reduction, w->points, w->scores);
  } else {
    w->reduction.problem.refine = cache->options.refine;
    if (wanted > 0 && wanted < rows) PITH_TRY(pith_cache_reduce_prepare(context, &w->reduction, wanted));
    PITH_TRY(pith_cache_reduce_take(context, &w->reduction, wanted, w->points, w->scores));
  }
  return measure_change(context, w, w->points, (pith_dtype)head->wanted_store);
}

static pith_status work_out(pith_context *context, void *argument, size_t number) {
  cache_work *w = &((cache_work *)argument)[number];
  double begun = now();
  const pith_cache *cache = w->cache;
  PITH_TRY(open_work(context, cache, w->index, w));
  PITH_TRY(w->menu_only ? measure(context, w) : reduce(context, w));
  pith_cache_reduce_close(context, &w->reduction);
  w->seconds = now() - begun;
  return PITH_OK;
}

/* Nothing can fail once the points are in their place. */
static pith_status apply(pith_context *context, pith_cache *cache, cache_work *w) {
  cache_head *head = cache_head_of(cache, w->index);
  const pith_cache_options *o = &cache->options;
  if (w->queries.count > 0 || w->queries.gone_count > 0)
    PITH_TRY(pith_cache_sample(context, cache, w->index, &w->queries));
  pith_cache_probes_begin(cache, w->index, &w->queries, head->folded + w->leaving + o->window);
  pith_cache_probes_see(cache, w->index, w->keys + w->first * o->d, w->values + w->first * o->dv, w->leaving);
  pith_cache_promise_count(cache, w->index, w->keys + w->first * o->d, w->values + w->first * o->dv, w->leaving);
  cache_promise *promise = pith_cache_promise(cache, w->index);
  for (size_t k = 0; promise && k < CACHE_LAMBDAS; k++) {
    promise->change[k] += w->reduction.change[k];
    promise->sum[k] += w->sum[k];
  }
  size_t window = w->n - w->first - w->leaving;
  for (size_t i = 0; i < window; i++)
    *pith_cache_row_score(cache, w->index, o->sinks + w->leaving + i) = w->score[w->first + w->leaving + i];
  pith_cache_drop_rows(cache, w->index, w->leaving);
  head->folded += w->leaving;
  head->counted = head->folded + window;
  head->coins = w->reduction.coins;
  return PITH_OK;
}

pith_status pith_cache_refold(pith_context *context, const pith_cache *from, pith_cache *to, size_t index) {
  cache_work w = {.cache = from, .index = index};
  pith_dtype store = (pith_dtype)cache_head_of(from, index)->wanted_store;
  cache_head *head = cache_head_of(to, index);
  pith_status status = work_out(context, &w, 0);
  if (status == PITH_OK) status = pith_cache_place(context, to, index, w.points, w.scores, store);
  if (status == PITH_OK) head->coins = w.reduction.coins;
  close_work(context, &w);
  return status;
}

/* ---- Folds: menus of all heads, then the bytes are spent, then the heads are folded ---- */

static bool folding(const cache_state *state) { return state->fold_end > state->folded; }

static pith_status begin_fold(pith_context *context, pith_cache *cache) {
  cache_state *state = cache_of(cache);
  state->fold_end = state->length - cache->options.window;
  state->measured = pith_cache_measures(cache) ? 0 : cache->heads;
  state->fold_in_flight = state->fold_end - state->folded;
  state->fold_done = 0;
  pith_status status = state->measured == cache->heads ? pith_cache_spend(context, cache) : PITH_OK;
  if (status < 0) state->fold_end = state->folded;
  return status;
}

static size_t steps_left(const pith_cache *cache) {
  const cache_state *state = cache_of(cache);
  return 2 * cache->heads - state->measured - state->fold_done;
}

static void take_menu(pith_cache *cache, const cache_work *w) {
  cache_head *head = cache_head_of(cache, w->index);
  memcpy(head->menu, w->menu, sizeof w->menu);
  head->menu_count = w->menu_count;
}

static pith_status put_in_place(pith_context *context, pith_cache *cache, cache_work *w) {
  PITH_TRY(pith_cache_place(context, cache, w->index, w->points, w->scores,
                            (pith_dtype)cache_head_of(cache, w->index)->wanted_store));
  return apply(context, cache, w);
}

/* The next menus of the fold under way, or the next heads: as many as work side by side. *count: how many there may be,
 * and are. */
static pith_status take_steps(pith_context *context, pith_cache *cache, size_t *count) {
  cache_state *state = cache_of(cache);
  cache_work works[AT_ONCE];
  bool measures = state->measured < cache->heads;
  uint64_t *done = measures ? &state->measured : &state->fold_done;
  size_t batch = *count = pith_min_size(pith_min_size(*count, AT_ONCE), cache->heads - *done);
  for (size_t i = 0; i < batch; i++)
    works[i] = (cache_work){
        .cache = cache, .index = measures ? *done + i : cache_order(cache)[*done + i], .menu_only = measures};
  pith_status status =
      pith_parallel_tasks(context, measures ? "measuring heads" : "folding heads", batch, work_out, works);
  for (size_t i = 0; status == PITH_OK && i < batch; i++) {
    cache->max_step_seconds = fmax(cache->max_step_seconds, works[i].seconds);
    if (measures)
      take_menu(cache, &works[i]);
    else
      status = put_in_place(context, cache, &works[i]);
    if (status == PITH_OK) (*done)++;
  }
  for (size_t i = 0; i < batch; i++) close_work(context, &works[i]);
  if (status == PITH_OK && measures && *done == cache->heads) {
    status = pith_cache_spend(context, cache);
    if (status < 0) (*done)--; /* the last menu is measured again */
  }
  return status;
}

/* Up to `steps` steps of the fold under way. */
static pith_status go_on(pith_context *context, pith_cache *cache, size_t steps) {
  cache_state *state = cache_of(cache);
  double begun = now();
  pith_status status = PITH_OK;
  while (status == PITH_OK && steps > 0 && state->fold_done < cache->heads) {
    size_t count = steps;
    status = take_steps(context, cache, &count);
    steps -= count;
  }
  cache->fold_seconds += now() - begun;
  if (status == PITH_OK && state->fold_done == cache->heads) {
    state->folded = state->fold_end;
    state->folds++;
  }
  return status;
}

/* How many steps should have been taken by now. */
static size_t due(const pith_cache *cache) {
  const cache_state *state = cache_of(cache);
  double flying = (double)(state->length - cache->options.window - state->folded);
  double begun = (double)state->fold_in_flight, room = (double)cache->options.chunk - begun;
  bool full = begun > FULL * (double)cache->options.chunk;
  double part = full ? 1 : fmin(1, (flying - begun) / (room * DONE_AT));
  size_t all = pith_cache_measures(cache) ? 2 * cache->heads : cache->heads;
  size_t left = steps_left(cache), wanted = (size_t)ceil(part * (double)all);
  return wanted > all - left ? wanted - (all - left) : 0;
}

pith_status pith_cache_fold(pith_context *context, pith_cache *cache, size_t steps) {
  const cache_state *state = cache_of(cache);
  const pith_cache_options *o = &cache->options;
  if (state->block > 0)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "fold: a block is open at layer %zu; push all layers, or give it up with pith_cache_truncate",
                     (size_t)state->layer);
  bool all = steps == PITH_CACHE_ALL, due_only = steps == PITH_CACHE_DUE;
  if (all && folding(state)) PITH_TRY(go_on(context, cache, steps));
  if (!folding(state)) {
    size_t ready = state->length > state->folded + o->window ? state->length - o->window - state->folded : 0;
    if (ready == 0 || (!all && ready < (o->chunk + 1) / 2)) return PITH_OK;
    PITH_TRY(begin_fold(context, cache));
  }
  return go_on(context, cache, due_only ? due(cache) : steps);
}
