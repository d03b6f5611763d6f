/* menu.c - what a head would err with other sizes and stores. */
#include <math.h>
#include <string.h>

#include "cache/work.h"
#include "summary/store.h"

/* Sizes that a menu tries: doubling from this many points. Points are chosen at most for half of the rows, and for
 * twice of what was there, beside what is wanted. */
enum { SMALLEST = 4, MOST_SIZES = 10, MOST_STORES = 3 };
/* Rounding is measured with so many held-out queries, and about so many rows: it is spread more evenly over both than
 * what points leave. */
enum { ROUNDING_QUERIES = 32, ROUNDING_ROWS = 512 };

/* Answers of rows that stand one behind the other, to the first of the queries held out. */
static pith_status answer(pith_context *context, const cache_work *w, size_t queries, const float *keys,
                          const float *values, const float *log_weight, size_t rows, float *out) {
  const pith_problem *p = &w->reduction.problem;
  pith_rows all = {.keys = keys,
                   .values = values,
                   .key_stride = (ptrdiff_t)(p->d * sizeof(float)),
                   .value_stride = (ptrdiff_t)(p->dv * sizeof(float)),
                   .dtype = PITH_F32,
                   .count = rows,
                   .d = p->d,
                   .dv = p->dv,
                   .log_weight = log_weight};
  return pith_attend_rows(context, &all, w->queries.held, queries, out);
}

/* rows (count, width) as they come back from a store. Only one of `every` goes through it; errors of rows add up in
 * squares, so that it stands for all when its own is enlarged by the root of that. */
static pith_status round_rows(pith_context *context, cache_trial *t, const char *name, pith_dtype store, size_t every,
                              const float *rows, size_t count, size_t width, float *out) {
  size_t some = (count + every - 1) / every;
  float larger = sqrtf((float)every);
  for (size_t i = 0; i < some; i++) memcpy(t->some + i * width, rows + i * every * width, width * sizeof *rows);
  PITH_TRY(pith_store_write(context, name, store, t->some, some, width, t->stored, t->scales));
  pith_store_read(store, t->stored, t->scales, some, width, t->some);
  memcpy(out, rows, count * width * sizeof *rows);
  for (size_t i = 0; i < some; i++) {
    float *row = out + i * every * width;
    for (size_t j = 0; j < width; j++) row[j] += larger * (t->some[i * width + j] - row[j]);
  }
  return PITH_OK;
}

static pith_status trial_open(pith_context *context, const cache_work *w, size_t room, size_t queries, cache_trial *t) {
  const pith_problem *p = &w->reduction.problem;
  size_t held = pith_min_size(queries, w->queries.held_count), rows = p->n - p->candidates + room,
         widest = pith_max_size(p->d, p->dv);
  *t = (cache_trial){.held = held};
  t->keys = pith_allocate(context, rows * (p->d + p->dv + 1) + 2 * held * p->dv + room * widest, sizeof(float));
  t->stored = pith_allocate(context, room * widest, 4);
  t->scales = pith_allocate(context, room, (widest / 32 + 1) * sizeof(uint16_t));
  if (!t->keys || !t->stored || !t->scales) return PITH_E_MEMORY;
  t->values = t->keys + rows * p->d;
  t->log_weight = t->values + rows * p->dv;
  t->true_answer = t->log_weight + rows;
  t->answer = t->true_answer + held * p->dv;
  t->some = t->answer + held * p->dv;
  for (size_t i = 0; i < p->n; i++) {
    if (!p->exact[i]) continue;
    memcpy(t->keys + t->exact * p->d, p->keys + i * p->d, p->d * sizeof(float));
    memcpy(t->values + t->exact * p->dv, p->values + i * p->dv, p->dv * sizeof(float));
    t->log_weight[t->exact++] = 0;
  }
  return answer(context, w, held, p->keys, p->values, p->log_weight, p->n, t->true_answer);
}

void pith_cache_trial_close(pith_context *context, cache_trial *t) {
  pith_release(context, t->keys);
  pith_release(context, t->stored);
  pith_release(context, t->scales);
}

/* Mean squared error of the points in a store, and its standard error on top: a few queries may see little of the
 * worst. */
static pith_status try_points(pith_context *context, const cache_work *w, cache_trial *t, const pith_points *points,
                              pith_dtype store, size_t every, double *cost) {
  size_t d = points->d, dv = points->dv, held = t->held, count = points->count;
  float *keys = t->keys + t->exact * d, *values = t->values + t->exact * dv;
  PITH_TRY(round_rows(context, t, "keys", store, every, points->keys, count, d, keys));
  PITH_TRY(round_rows(context, t, "values", store, every, points->values, count, dv, values));
  memcpy(t->log_weight + t->exact, points->log_weight, points->count * sizeof(float));
  PITH_TRY(answer(context, w, held, t->keys, t->values, t->log_weight, t->exact + points->count, t->answer));
  double sum = 0, squares = 0;
  for (size_t r = 0; r < held; r++) {
    double squared = pow(pith_error_measure(t->true_answer + r * dv, t->answer + r * dv, 1, dv).mean, 2);
    sum += squared / (double)held;
    squares += squared * squared / (double)held;
  }
  *cost = sum + sqrt(fmax(squares - sum * sum, 0) / (double)held);
  return PITH_OK;
}

static void add_option(cache_work *w, size_t points, pith_dtype store, double cost) {
  if (w->menu_count < CACHE_MENU) w->menu[w->menu_count++] = (cache_option){points, store, cost};
}

/* All sizes up to `most`, in each store; between two sizes the mean of both. */
static pith_status try_sizes(pith_context *context, cache_work *w, size_t most, pith_points *points, float *scores,
                             cache_trial *t) {
  static const pith_dtype several[MOST_STORES] = {PITH_F16, PITH_Q8, PITH_Q4};
  bool automatic = w->cache->options.store == PITH_STORE_AUTO;
  const pith_dtype *store = automatic ? several + 1 : &w->cache->options.store;
  size_t stores = automatic ? 2 : 1, rows = w->reduction.problem.candidates, before = 0, size = 0;
  double last[MOST_STORES] = {0};
  for (size_t tried = 0; tried < MOST_SIZES && size <= most; tried++) {
    PITH_TRY(pith_cache_reduce_take(context, &w->reduction, size, points, scores));
    for (size_t j = 0; j < stores; j++) {
      double cost = 0;
      PITH_TRY(try_points(context, w, t, points, store[j], 1, &cost));
      if (before > 0 && !automatic)
        add_option(w, (size_t)sqrt((double)before * (double)size), store[j], sqrt(last[j] * cost));
      add_option(w, size, store[j], cost);
      last[j] = cost;
    }
    before = size;
    size = size == 0 ? pith_min_size(SMALLEST, most) : size < most ? pith_min_size(2 * size, most) : most + 1;
    if (most < SMALLEST) break;
  }
  PITH_TRY(pith_cache_reduce_take(context, &w->reduction, rows, points, scores));
  for (size_t j = 0; j < (automatic ? MOST_STORES : 1U); j++) {
    double cost = 0;
    PITH_TRY(try_points(context, w, t, points, automatic ? several[j] : *store, 1, &cost));
    add_option(w, rows, automatic ? several[j] : *store, cost);
  }
  return PITH_OK;
}

/* Sizes go up to half of the rows, as far as the head may come to want them. */
pith_status pith_cache_make_menu(pith_context *context, cache_work *w) {
  size_t rows = w->reduction.problem.candidates, held = cache_head_of(w->cache, w->index)->points;
  size_t most = pith_min_size(pith_max_size(held + held / 2, rows / 4), rows / 2);
  if (most > 0) PITH_TRY(pith_cache_reduce_prepare(context, &w->reduction, most));
  pith_points *points = NULL;
  cache_trial t = {0};
  float *scores = pith_allocate(context, rows, sizeof *scores);
  pith_status status =
      scores ? pith_points_create(context, rows, w->cache->options.d, w->cache->options.dv, &points) : PITH_E_MEMORY;
  if (status == PITH_OK) status = trial_open(context, w, rows, w->queries.held_count, &t);
  if (status == PITH_OK) status = try_sizes(context, w, most, points, scores, &t);
  pith_cache_trial_close(context, &t);
  pith_points_free(context, points);
  pith_release(context, scores);
  return status;
}

/* ---- From sizes that were measured already ---- */

/* Else what rounding adds is far below what points leave. */
static bool rounds(pith_dtype store) { return store != PITH_F32 && store != PITH_F16; }

void pith_cache_menu_size(pith_cache_sizes *sizes, size_t points, double cost) {
  if (sizes->count == CACHE_MENU) return;
  sizes->points[sizes->count] = points;
  sizes->cost[sizes->count++] = cost;
}

/* All sizes in each store. What rounding adds to the error of all rows is taken for all sizes: what stays of them are
 * those that contribute most. */
static pith_status fill_menu(pith_context *context, cache_work *w, const pith_cache_sizes *sizes, pith_points *all,
                             cache_trial *t) {
  static const pith_dtype several[MOST_STORES] = {PITH_F16, PITH_Q8, PITH_Q4};
  bool automatic = w->cache->options.store == PITH_STORE_AUTO;
  const pith_problem *p = &w->reduction.problem;
  for (size_t i = 0; i < p->n; i++)
    if (!p->exact[i]) pith_points_append(all, p, i, pith_problem_log_weight(p, i));
  size_t every = pith_max_size(1, all->count / ROUNDING_ROWS);
  for (size_t j = 0; j < (automatic ? MOST_STORES : 1U); j++) {
    pith_dtype store = automatic ? several[j] : w->cache->options.store;
    double rounding = 0;
    if (rounds(store)) PITH_TRY(try_points(context, w, t, all, store, every, &rounding));
    add_option(w, p->candidates, store, rounding);
    for (size_t i = automatic && j == 0 ? sizes->count : 0; i < sizes->count; i++)
      add_option(w, sizes->points[i], store, sizes->cost[i] + rounding);
  }
  return PITH_OK;
}

pith_status pith_cache_fill_menu(pith_context *context, cache_work *w, const pith_cache_sizes *sizes) {
  const pith_cache_options *o = &w->cache->options;
  size_t rows = w->reduction.problem.candidates;
  pith_points *all = NULL;
  cache_trial t = {0};
  pith_status status = pith_points_create(context, rows, o->d, o->dv, &all);
  if (status == PITH_OK && rounds(o->store)) status = trial_open(context, w, rows, ROUNDING_QUERIES, &t);
  if (status == PITH_OK) status = fill_menu(context, w, sizes, all, &t);
  pith_cache_trial_close(context, &t);
  pith_points_free(context, all);
  return status;
}
