/* promise.h - what can be said of a cache's errors while tokens go by: the ball bound of theory 5.2 with one number for
 * each kernel, the root mean square under a Gaussian law of queries (5.3) with one more, and held-out probes with their
 * exact answers kept up (5.4). */
#ifndef PITH_SRC_CACHE_PROMISE_H
#define PITH_SRC_CACHE_PROMISE_H

#include <math.h>

#include "cache/cache.h"
#include "certify/certify.h"

/* Of the kernels, the first are those of balls; the last is that of a Gaussian law of queries. */
enum { CACHE_BALLS = CACHE_LAMBDAS - 1, CACHE_LAW = CACHE_BALLS };

/* Of one head. Behind it lie numbers that the functions below name. Set by the first fold and fixed from then on, but
 * for what is summed. */
typedef struct cache_promise {
  double set;                  /* 1: all below is there */
  double rho, balance, tokens; /* tokens: that are folded */
  double reach;                /* largest distance of a folded value from the centre */
  double lambda2[CACHE_BALLS];
  double change[CACHE_LAMBDAS]; /* halving: sum of squared norms of what fair coins decided */
  double sum[CACHE_LAMBDAS];    /* sum of norms of all other changes */
  double first;                 /* v0 of the mixture */
  double lawful, mass;          /* 1: there is a law; sum of exp(<mean, key - centre of the law>) over folded keys */
  double d, dv;
} cache_promise;

static inline double *key_centre(const cache_promise *p) { return (double *)(p + 1); }              /* (d) */
static inline double *value_centre(const cache_promise *p) { return key_centre(p) + (size_t)p->d; } /* (dv) */
static inline double *key_sum(const cache_promise *p) { return value_centre(p) + (size_t)p->dv; }   /* (d): centred */
/* The law of queries is N(mean, F F^T), F lower triangular. */
static inline double *law_mean(const cache_promise *p) { return key_sum(p) + (size_t)p->d; }    /* (d) */
static inline double *law_centre(const cache_promise *p) { return law_mean(p) + (size_t)p->d; } /* (d): of keys */
static inline double *law_sum(const cache_promise *p) { return law_centre(p) + (size_t)p->d; }  /* (d): as mass */
static inline double *law_factor(const cache_promise *p) { return law_sum(p) + (size_t)p->d; }  /* (d, d): F */

static inline double pith_squared_distance(const float *a, const double *b, size_t count) {
  double sum = 0;
  for (size_t j = 0; j < count; j++) sum += (a[j] - b[j]) * (a[j] - b[j]);
  return sum;
}
static inline double pith_dot_centred(const double *query, const float *key, const double *centre, size_t d) {
  double sum = 0;
  for (size_t j = 0; j < d; j++) sum += query[j] * (key[j] - centre[j]);
  return sum;
}
/* The weight that the mean query of the law gives to a key; times the centred key it is added to `sum` (d). */
static inline double pith_law_add(const cache_promise *p, const float *key, double *sum) {
  size_t d = (size_t)p->d;
  double weight = exp(pith_dot_centred(law_mean(p), key, law_centre(p), d));
  for (size_t j = 0; j < d; j++) sum[j] += weight * (key[j] - law_centre(p)[j]);
  return weight;
}

size_t pith_cache_promise_bytes(const pith_cache_options *options);
cache_promise *pith_cache_promise(const pith_cache *cache, size_t index); /* NULL: none are kept */
double pith_cache_rho(const pith_cache *cache);

/* |sum over `after` - sum over `before`|^2 in the joint kernel of each lambda, rounding included. Infinite where a
 * kernel leaves the range of numbers. */
pith_status pith_cache_distance(pith_context *context, const cache_promise *promise, const pith_pairs *before,
                                const pith_pairs *after, double squared[CACHE_LAMBDAS]);

/* At the first fold: centres and kernels from the rows that leave, the law from the sampled queries. */
pith_status pith_cache_promise_begin(pith_context *context, const pith_cache *cache, size_t index,
                                     const pith_query_model *model, const float *keys, const float *values,
                                     size_t count);
/* Rows that leave become part of what the promise is about. */
void pith_cache_promise_count(const pith_cache *cache, size_t index, const float *keys, const float *values,
                              size_t count);

/* Probes are set at the first fold; from then on they see all rows that leave. */
void pith_cache_probes_begin(const pith_cache *cache, size_t index, const cache_queries *queries, size_t now);
void pith_cache_probes_see(const pith_cache *cache, size_t index, const float *keys, const float *values, size_t count);
/* Their errors, if they were asked now; `exact` are the head's exact rows. */
pith_status pith_cache_probe_errors(pith_context *context, const pith_cache *cache, size_t index,
                                    const pith_pairs *exact, double *errors);

/* Certificates of `m` answers of each query head of a kv head; queries are scaled. */
pith_status pith_cache_promise_answers(pith_context *context, const pith_cache *cache, size_t index,
                                       const float *queries, const float *answers, size_t m,
                                       pith_certificate *certificates);

#endif
