/* promise.h - what can be said of a cache's errors while tokens go by: the ball bound of theory 5.2 with one number for
 * each kernel, and held-out probes with their exact answers kept up (5.4). */
#ifndef PITH_SRC_CACHE_PROMISE_H
#define PITH_SRC_CACHE_PROMISE_H

#include "cache/cache.h"
#include "certify/certify.h"

/* Of one head, behind it d + dv + d numbers: the centre of keys, that of values, and the sum of all folded keys minus
 * the centre. Set by the first fold and fixed from then on, but for what is summed. */
typedef struct cache_promise {
  double set;                  /* 1: all below is there */
  double rho, balance, tokens; /* tokens: that are folded */
  double lambda2[CACHE_LAMBDAS];
  double change[CACHE_LAMBDAS]; /* halving: sum of squared norms of what fair coins decided */
  double sum[CACHE_LAMBDAS];    /* sum of norms of all other changes */
  double first;                 /* v0 of the mixture */
  double d, dv;
} cache_promise;

size_t pith_cache_promise_bytes(const pith_cache_options *options);
cache_promise *pith_cache_promise(const pith_cache *cache, size_t index); /* NULL: none are kept */
double pith_cache_rho(const pith_cache *cache);

/* |sum over `after` - sum over `before`|^2 in the joint kernel of each lambda, rounding included. Infinite where a
 * kernel leaves the range of numbers. */
pith_status pith_cache_distance(pith_context *context, const cache_promise *promise, const pith_pairs *before,
                                const pith_pairs *after, double squared[CACHE_LAMBDAS]);

/* At the first fold: centres and kernels from the rows that leave. */
void pith_cache_promise_begin(const pith_cache *cache, size_t index, const pith_query_model *model, const float *keys,
                              const float *values, size_t count);
/* Rows that leave become part of what the promise is about. */
void pith_cache_promise_count(const pith_cache *cache, size_t index, const float *keys, size_t count);

/* Probes are set at the first fold; from then on they see all rows that leave. */
void pith_cache_probes_begin(const pith_cache *cache, size_t index, const cache_queries *queries, size_t now);
void pith_cache_probes_see(const pith_cache *cache, size_t index, const float *keys, const float *values, size_t count);

/* Certificates of `m` answers of each query head of a kv head; queries are scaled. */
pith_status pith_cache_promise_answers(pith_context *context, const pith_cache *cache, size_t index,
                                       const float *queries, const float *answers, size_t m,
                                       pith_certificate *certificates);

#endif
