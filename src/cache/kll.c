/* kll.c - halving in levels: points of level l weigh 2^l. Where there are too many, points of the lowest level that is
 * over its share are halved into the next (Karnin, Lang, Liberty 2016): shares fall by two thirds from level to level
 * downwards, since errors of light points cost little. Each halving is unbiased by a coin of its own. */
#include <math.h>
#include <string.h>

#include "cache/cache.h"
#include "cache/promise.h"

enum { LEVELS = 64, LEAST_SHARE = 8 };

typedef struct levels {
  size_t count[LEVELS], total, top;
  unsigned char *level; /* (n); LEVELS: not a candidate, or halved away */
} levels;

static void count_levels(levels *l, size_t n) {
  memset(l->count, 0, sizeof l->count);
  l->total = l->top = 0;
  for (size_t i = 0; i < n; i++) {
    if (l->level[i] == LEVELS) continue;
    l->count[l->level[i]]++;
    l->total++;
    l->top = pith_max_size(l->top, l->level[i]);
  }
}

/* The lowest level over its share of `room` points; where none is, the lowest with a pair; where all have one point,
 * the lowest two: doubled weights are unbiased whatever they were. */
static void find_fullest(const levels *l, size_t room, size_t *low, size_t *high) {
  for (size_t i = 0; i <= l->top; i++) {
    double share = fmax(LEAST_SHARE, (double)room / 3 * pow(2.0 / 3, (double)(l->top - i)));
    *low = *high = i;
    if ((double)l->count[i] >= share && l->count[i] > 1) return;
  }
  for (size_t i = 0; i <= l->top; i++) {
    *low = *high = i;
    if (l->count[i] > 1) return;
  }
  *low = 0;
  while (l->count[*low] == 0) ++*low;
  *high = *low + 1;
  while (l->count[*high] == 0) ++*high;
}

/* The rows of some levels as a problem of their own. */
static void gather(const pith_problem *p, const levels *l, size_t low, size_t high, float *keys, float *values,
                   float *log_weight, size_t *row) {
  size_t at = 0;
  for (size_t i = 0; i < p->n; i++) {
    if (l->level[i] < low || l->level[i] > high) continue;
    memcpy(keys + at * p->d, p->keys + i * p->d, p->d * sizeof *keys);
    memcpy(values + at * p->dv, p->values + i * p->dv, p->dv * sizeof *values);
    log_weight[at] = (float)(l->level[i] * log(2));
    row[at++] = i;
  }
}

/* Adds |D|^2 for every kernel of the promise: D is what `kept`, at their new weights, are more than all were. */
static pith_status measure(pith_context *context, cache_reduction *r, const pith_problem *part,
                           const pith_points *kept) {
  if (!r->promise) return PITH_OK;
  pith_pairs before = {part->n, part->d, part->dv, part->keys, part->values, part->log_weight};
  pith_pairs after = {kept->count, kept->d, kept->dv, kept->keys, kept->values, kept->log_weight};
  double squared[CACHE_LAMBDAS];
  PITH_TRY(pith_cache_distance(context, r->promise, &before, &after, squared));
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) r->change[k] += squared[k];
  return PITH_OK;
}

static pith_status compact(pith_context *context, cache_reduction *r, levels *l, size_t low, size_t high, size_t left) {
  const pith_problem *p = &r->problem;
  size_t count = l->count[low] + (high > low ? l->count[high] : 0), keep = count - pith_min_size(count / 2, left);
  float *keys = pith_allocate(context, count, (p->d + p->dv + 1) * sizeof *keys);
  size_t *row = pith_allocate(context, count, sizeof *row);
  pith_points *kept = NULL;
  void *state = NULL;
  pith_status status = keys && row ? pith_points_create(context, count, p->d, p->dv, &kept) : PITH_E_MEMORY;
  if (status < 0) goto done;
  float *values = keys + count * p->d, *log_weight = values + count * p->dv;
  gather(p, l, low, high, keys, values, log_weight, row);
  pith_problem part = {.n = count,
                       .d = p->d,
                       .dv = p->dv,
                       .keys = keys,
                       .values = values,
                       .log_weight = log_weight,
                       .candidates = count,
                       .model = p->model,
                       .seed = p->seed + 0x9e3779b97f4a7c15U * ++r->coins,
                       .object = p->object};
  PITH_TRY_GOTO(pith_engine_halving.prepare(context, &part, keep, &state), status, done);
  PITH_TRY_GOTO(pith_engine_halving.take(context, &part, state, keep, kept), status, done);
  PITH_TRY_GOTO(measure(context, r, &part, kept), status, done);
  for (size_t i = 0; i < count; i++) l->level[row[i]] = LEVELS;
  for (size_t i = 0; i < kept->count; i++)
    l->level[row[kept->index[i]]] = (unsigned char)lround(kept->log_weight[i] / log(2));
done:
  if (state) pith_engine_halving.release(context, state);
  pith_points_free(context, kept);
  pith_release(context, keys);
  pith_release(context, row);
  return status;
}

pith_status pith_cache_compact(pith_context *context, cache_reduction *r, size_t count, pith_points *points) {
  const pith_problem *p = &r->problem;
  levels l = {.level = pith_allocate(context, p->n, 1)};
  if (!l.level) return PITH_E_MEMORY;
  for (size_t i = 0; i < p->n; i++) {
    double level = fmax(0, round(pith_problem_log_weight(p, i) / log(2)));
    l.level[i] = p->exact[i] ? LEVELS : (unsigned char)fmin(level, LEVELS - 2);
  }
  count_levels(&l, p->n);
  pith_status status = PITH_OK;
  while (status == PITH_OK && l.total > pith_max_size(count, 1)) {
    size_t low, high;
    find_fullest(&l, count, &low, &high);
    status = compact(context, r, &l, low, high, l.total - count);
    count_levels(&l, p->n);
  }
  for (size_t i = 0; status == PITH_OK && i < p->n; i++)
    if (l.level[i] != LEVELS) pith_points_append(points, p, i, l.level[i] * log(2));
  pith_release(context, l.level);
  return status;
}
