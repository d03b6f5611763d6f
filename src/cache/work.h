/* work.h - one head on its way from old points and leaving rows to new points. */
#ifndef PITH_SRC_CACHE_WORK_H
#define PITH_SRC_CACHE_WORK_H

#include "cache/cache.h"

/* One head's fold: worked out from the cache as it is, then put in its place. */
typedef struct cache_work {
  const pith_cache *cache;
  size_t index, n, leaving, first; /* rows; those that leave; the first of them */
  float *keys, *values, *log_weight, *score;
  int64_t *tokens;
  uint8_t *exact;
  cache_queries queries;
  cache_reduction reduction;
  pith_points *points;
  float *scores;  /* (points) */
  bool menu_only; /* it is measured before the bytes are spent */
  cache_option menu[CACHE_MENU];
  size_t menu_count;
  double sum[CACHE_LAMBDAS]; /* norms of what changed other than by coins */
  double seconds;
} cache_work;

/* condense.c: points for sampled queries into work->points, which has room for `wanted`. */
pith_status pith_cache_condense(pith_context *context, cache_work *work, size_t wanted);

/* trials.c: the menu of a head whose points are condensed. */
pith_status pith_cache_try_sizes(pith_context *context, cache_work *work);

/* menu.c */

/* Errors by the number of points, before they are rounded to a store. */
typedef struct pith_cache_sizes {
  size_t count, points[CACHE_MENU];
  double cost[CACHE_MENU];
} pith_cache_sizes;

void pith_cache_menu_size(pith_cache_sizes *sizes, size_t points, double cost);
/* The menu: these sizes and all rows, in every store there is to choose from. */
pith_status pith_cache_fill_menu(pith_context *context, cache_work *work, const pith_cache_sizes *sizes);

/* Memory of one trial: exact rows, and behind them points as they come back from a store. */
typedef struct cache_trial {
  size_t exact, held; /* exact rows; queries held out that are asked */
  float *keys, *values, *log_weight, *true_answer, *answer, *some;
  unsigned char *stored;
  uint16_t *scales;
} cache_trial;

void pith_cache_trial_close(pith_context *context, cache_trial *trial);
/* Fills the menu by reducing the head to every size. */
pith_status pith_cache_make_menu(pith_context *context, cache_work *work);

#endif
