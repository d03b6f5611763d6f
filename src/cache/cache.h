/* cache.h - what a cache holds. All that changes lies in one block of memory without pointers, laid out when the cache
 * is made: it cannot grow, a clone is a copy of it, and a file is the block written down.
 *
 * Of every kv head: the exact rows (sinks, then the last tokens, window and chunk in flight), the points that stand for
 * what lies between, and sampled queries. A head is folded when its leaving rows (those between sinks and window at the
 * moment the fold began) and its points have become new points. */
#ifndef PITH_SRC_CACHE_H
#define PITH_SRC_CACHE_H

#include "attention/attention.h"
#include "budget/menu.h"
#include "pith/cache.h"
#include "summary/engine.h"
#include "summary/summary.h"

enum {
  CACHE_MENU = 64,   /* options of a head's menu at most */
  CACHE_MODEL = 64,  /* bytes of a model's name, with its end */
  CACHE_LAMBDAS = 5, /* kernels that bounds are kept for (promise.h) */
  CACHE_LEAST_CHUNK = 16,
  CACHE_MOST_CHUNK = 512,
  CACHE_MOST_ROWS = 1 << 20, /* of window, samples, probes; and of heads */
};

/* One way to keep a head. */
typedef struct cache_option {
  uint64_t points, store;
  double cost; /* mean squared error, not yet times the head weight */
} cache_option;

typedef struct cache_head {
  uint64_t rows;                  /* exact ones */
  uint64_t folded;                /* the position before which tokens are sinks or in the points */
  uint64_t points, store, offset; /* offset: of its points in the arena, in bytes */
  uint64_t wanted, wanted_store;  /* points and store of the fold under way */
  uint64_t recent, older, passed; /* samples held; queries that have left the recent ones */
  uint64_t counted;               /* accumulated: queries before this position have been counted */
  uint64_t probes;                /* drawn */
  uint64_t coins;                 /* halving: compactions so far */
  uint64_t menu_count;
  cache_option menu[CACHE_MENU];
} cache_head;

typedef struct cache_state {
  uint64_t length;           /* the position behind the last token of a closed block */
  uint64_t block, layer;     /* tokens of the open block (0: none), and the layer that comes next */
  uint64_t folded, fold_end; /* positions; equal: no fold is under way */
  uint64_t measured;         /* heads that have a menu for this fold; all of them: the bytes are spent */
  uint64_t fold_done;        /* heads of `order` that are folded */
  uint64_t fold_in_flight;   /* tokens in flight when the fold began */
  uint64_t folds;
  uint64_t promised; /* centre, radii and probes are set */
  uint64_t queried;  /* pushes come with queries */
} cache_state;

/* Where things lie in the block, in bytes; and their sizes. */
typedef struct cache_layout {
  size_t state, heads, order, weights, arena, arena_bytes, keys, values, queries, row_scores, samples, sample_positions,
      probes, probe_states, promises, bytes;
} cache_layout;

struct pith_cache {
  pith_memory *memory;
  pith_cache_options options; /* complete: nothing is left to default */
  char engine_name[32];
  const pith_engine *engine;
  size_t heads, group;  /* layers * kv heads; query heads of each */
  size_t capacity;      /* exact rows of a head */
  size_t taken;         /* queries of a token that are recorded, of each kv head */
  size_t summary_bytes; /* of all points */
  pith_dtype row_store;
  cache_layout at;
  unsigned char *block;
  double max_step_seconds, fold_seconds;
};

static inline cache_state *cache_of(const pith_cache *cache) {
  return (cache_state *)(void *)(cache->block + cache->at.state);
}
static inline cache_head *cache_head_of(const pith_cache *cache, size_t index) {
  return (cache_head *)(void *)(cache->block + cache->at.heads) + index;
}
static inline uint32_t *cache_order(const pith_cache *cache) {
  return (uint32_t *)(void *)(cache->block + cache->at.order);
}
static inline float *cache_weights(const pith_cache *cache) {
  return (float *)(void *)(cache->block + cache->at.weights);
}
static inline size_t cache_row_bytes(const pith_cache *cache) {
  return (cache->options.d + cache->options.dv) * pith_dtype_size(cache->row_store);
}

/* ---- cache.c ---- */

/* Fills in what options leave open, and works out sizes; the block is zero. expected: bytes that the block must have,
 * or 0. */
pith_status pith_cache_make(pith_context *context, const pith_cache_options *options, size_t expected,
                            pith_cache **out);
/* The position behind the last token of a head. */
size_t pith_cache_end(const pith_cache *cache, size_t index);

/* check.c: fails with PITH_E_FORMAT where the block, which comes from a file, is not one that pushing and folding make.
 */
pith_status pith_cache_check(pith_context *context, const pith_cache *cache, const char *name);

/* ---- rows.c ---- */

unsigned char *pith_cache_key(const pith_cache *cache, size_t index, size_t row);
unsigned char *pith_cache_value(const pith_cache *cache, size_t index, size_t row);
unsigned char *pith_cache_query(const pith_cache *cache, size_t index, size_t row); /* (taken, d) */
float *pith_cache_row_score(const pith_cache *cache, size_t index, size_t row);
pith_rows pith_cache_exact_rows(const pith_cache *cache, size_t index);
/* Forgets `count` rows behind the sinks, and moves the others up. */
void pith_cache_drop_rows(pith_cache *cache, size_t index, size_t count);

/* ---- arena.c: the points of all heads, one behind the other ---- */

size_t pith_cache_arena_bytes(const pith_cache_options *options, size_t heads, size_t summary_bytes);
/* Room that points take in the arena. */
size_t pith_cache_place_bytes(const pith_cache *cache, pith_dtype store, size_t points);
/* The points of a head as a view; *scores: (points). */
pith_head_view pith_cache_points(const pith_cache *cache, size_t index, float **scores);
/* Puts new points in the place of the old. Refuses what is not finite in the store, and then changes nothing. */
pith_status pith_cache_place(pith_context *context, pith_cache *cache, size_t index, const pith_points *points,
                             const float *scores, pith_dtype store);

/* ---- samples.c: recorded queries ---- */

/* What is known of the queries: samples, gaussian or ball. Auto is settled by the first push. */
pith_query_kind pith_cache_model(const pith_cache *cache);
/* The engine cannot do without recorded queries; it may have use for them. */
bool pith_cache_demands(const pith_cache *cache);
bool pith_cache_records(const pith_cache *cache);

typedef struct cache_query {
  const unsigned char *at; /* (d), in the store of rows */
  uint64_t position;
} cache_query;

/* The queries that a head's fold works with. */
typedef struct cache_queries {
  cache_query *list; /* the new samples: recent ones first, then older ones */
  size_t recent, count;
  cache_query *gone; /* recent ones so far that are so no more */
  size_t gone_count;
  cache_query *probe; /* drawn to be probes: never among the others */
  size_t probe_count;
  pith_query_model *model;
  float *held; /* (held_count, d): turned, scaled, not among those to fit: to choose sizes by */
  size_t held_count;
} cache_queries;

/* `first`: index of the first leaving row among the rows of the problem. */
pith_status pith_cache_queries_create(pith_context *context, const pith_cache *cache, size_t index, size_t leaving,
                                      size_t first, cache_queries *out);
void pith_cache_queries_free(pith_context *context, cache_queries *queries);
/* Makes the list the samples of the head. */
pith_status pith_cache_sample(pith_context *context, pith_cache *cache, size_t index, const cache_queries *queries);
/* The samples that a head holds, recent ones first, older ones behind the room for those. */
unsigned char *pith_cache_sample_at(const pith_cache *cache, size_t index, size_t slot);
uint64_t *pith_cache_sample_position(const pith_cache *cache, size_t index, size_t slot);
cache_query pith_cache_sample_of(const pith_cache *cache, size_t index, size_t slot);
/* A recorded query as f32, scaled, and turned to `position`. */
void pith_cache_read_query(const pith_cache *cache, const cache_query *query, double position, float *out);

/* ---- reduce.c: engines in a stream ---- */

typedef struct cache_reduction {
  const pith_cache *cache;
  size_t index;                        /* of the head */
  pith_problem problem;                /* in the order of time: sinks, points, leaving rows, window */
  const int64_t *tokens;               /* (n): position of each row's token; -1: no single token */
  float *score;                        /* (n): attention received so far; accumulated adds to it */
  const struct cache_promise *promise; /* NULL: changes are not measured */

  void *state;                  /* of the engine, or of a ranking */
  uint64_t coins;               /* halving: compactions so far, with those of the last take */
  double change[CACHE_LAMBDAS]; /* halving: squared norms of what the compactions of the last take changed */
} cache_reduction;

pith_status pith_cache_reduce_prepare(pith_context *context, cache_reduction *r, size_t most);
/* At most `count` points, with the positions of their tokens as indices; scores: room as in points. */
pith_status pith_cache_reduce_take(pith_context *context, cache_reduction *r, size_t count, pith_points *points,
                                   float *scores);
/* Indices are rows of the problem, and become the positions of their tokens. */
void pith_cache_reduce_name(const cache_reduction *r, pith_points *points, float *scores);
void pith_cache_reduce_close(pith_context *context, cache_reduction *r);
/* Halving by levels: kll.c. */
pith_status pith_cache_compact(pith_context *context, cache_reduction *r, size_t count, pith_points *points);

/* ---- fold.c ---- */

/* Makes the points of a head of `to` from those of `from`, as many as that head wants. */
pith_status pith_cache_refold(pith_context *context, const pith_cache *from, pith_cache *to, size_t index);

/* ---- spend.c ---- */

/* Sets what every head is to be folded to, and the order of heads: those that shrink first. */
pith_status pith_cache_spend(pith_context *context, pith_cache *cache);
/* Whether bytes are spent over heads; whether heads get menus first. */
bool pith_cache_spreads(const pith_cache *cache);
bool pith_cache_measures(const pith_cache *cache);

#endif
