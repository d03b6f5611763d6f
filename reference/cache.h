/* cache.h - a cache that does not grow, of one head, for the rules that keep rows as they are; slow and obvious. */
#ifndef PITH_REFERENCE_CACHE_H
#define PITH_REFERENCE_CACHE_H

#include <stddef.h>

typedef enum reference_rule {
  REFERENCE_RECENT,     /* the newest */
  REFERENCE_UNIFORM,    /* those of the smallest numbers, each standing for as many tokens as the others */
  REFERENCE_HEAVY,      /* most attention from the last 64 tokens, largest of 7 rows around */
  REFERENCE_ACCUMULATED /* in turn the newest, and most attention in the mean over the tokens since */
} reference_rule;

/* The whole stream is at hand: token t has keys + t * d, values + t * dv, queries + t * d (before scaling). */
typedef struct reference_cache {
  reference_rule rule;
  size_t d, dv, sinks, window, points, most; /* most: tokens of the stream */
  const float *keys, *values, *queries;
  const double *number; /* (most): for uniform */
  double scale;
  size_t length, counted; /* tokens pushed; those whose queries have been counted */
  unsigned char *kept;    /* (most) */
  double *weight, *received;
} reference_cache;

/* Fields down to `scale` are set; the others are made. */
void reference_cache_open(reference_cache *cache);
void reference_cache_close(reference_cache *cache);
void reference_cache_push(reference_cache *cache, size_t count);
/* Everything between sinks and window becomes `points` rows. */
void reference_cache_fold(reference_cache *cache);
/* The answer to the query of token t, which sees what is kept of tokens 0 .. t. */
void reference_cache_answer(const reference_cache *cache, size_t t, double *out);

#endif
