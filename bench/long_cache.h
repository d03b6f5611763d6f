/* long_cache.h - long caches of one key head, and what a group of queries costs on them: exact attention and sparse
 * attention in turns. */
#ifndef PITH_BENCH_LONG_CACHE_H
#define PITH_BENCH_LONG_CACHE_H

#include <math.h>
#include <string.h>

#include "bench.h"
#include "sparsity/sparse.h"
#include "summary/store.h"

/* How the keys lie: in topics that a query asks one of, in one Gaussian cloud with sharp queries (heavy tails, no
 * neighbourhoods), or with queries so short that all keys count. */
typedef enum shape { TOPICS, SHARP, FLAT, SHAPES } shape;
static const char *const shape_names[SHAPES] = {"topics", "sharp", "flat"};

enum { GROUP = 8, TOPIC = 512, MOST_WIDTH = 128 };

static inline double now(void) { return seconds(CLOCK_THREAD_CPUTIME_ID); }

static inline void *take(size_t count, size_t size) {
  void *out = aligned_alloc(64, (count * size + 64) / 64 * 64);
  if (!out) exit(1);
  memset(out, 0, count * size);
  return out;
}

static inline void make_keys(shape kind, size_t n, size_t d, float *keys, float *queries) {
  pith_stream stream = pith_stream_make(7, PITH_STREAM_TEST, (uint32_t)kind), centres = stream;
  centres.object += 100;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < d; j++) {
      float x = (float)pith_random_gaussian(&stream, i * d + j);
      if (kind == TOPICS) x = 0.4F * x + (float)pith_random_gaussian(&centres, i / TOPIC * d + j);
      keys[i * d + j] = x;
    }
  /* Logits deviate by `sigma`. */
  const double sigma = kind == FLAT ? 0.5 : kind == SHARP ? 4 : 6;
  for (size_t q = 0; q < GROUP; q++)
    for (size_t j = 0; j < d; j++) {
      double own = pith_random_gaussian(&stream, (n + q) * d + j) / sqrt((double)d);
      double common = pith_random_gaussian(&stream, (n + GROUP) * d + j) / sqrt((double)d);
      queries[q * d + j] = (float)(sigma * (0.5 * own + sqrt(0.75) * common));
    }
}

typedef struct long_cache {
  size_t n, d, asked; /* asked: rows of GROUP queries, beside each other */
  pith_rows rows;
  char *keys, *values;
  uint16_t *key_scales, *value_scales;
  float *queries, *exact, *sparse; /* (GROUP, asked, d) */
  pith_sparse_head head;
  double built;                 /* seconds of making the index */
  double eps;                   /* 1 % of the mean norm of the answers */
  pith_sparse_account *account; /* (GROUP, asked) */
} long_cache;

/* Seconds of one turn. */
static inline double long_cache_exact(pith_context *context, const long_cache *c) {
  const pith_attend_job job = {
      .rows = c->rows, .heads = GROUP, .queries = c->asked, .query = c->queries, .out = c->exact};
  double start = now();
  check(pith_attend_jobs(context, &job, 1), context, "exact");
  return now() - start;
}

static inline long_cache long_cache_make(pith_context *context, pith_dtype dtype, shape kind, size_t n, size_t d,
                                         size_t asked) {
  const size_t row = pith_store_row_bytes(dtype, d), scales = pith_store_scales(dtype, d);
  long_cache c = {.n = n, .d = d, .asked = asked, .keys = take(n, row), .values = take(n, row)};
  float *random = take(n * d, sizeof *random);
  c.queries = take(asked * GROUP * d, sizeof *c.queries);
  c.exact = take(asked * GROUP * d, sizeof *c.exact);
  c.sparse = take(asked * GROUP * d, sizeof *c.sparse);
  c.key_scales = take(n * scales + 1, sizeof *c.key_scales);
  c.value_scales = take(n * scales + 1, sizeof *c.value_scales);
  c.account = take(asked * GROUP, sizeof *c.account);
  float first[GROUP * MOST_WIDTH]; /* the others are these with their numbers moved on */
  make_keys(kind, n, d, random, first);
  for (size_t i = 0; i < asked * GROUP * d; i++)
    c.queries[i] = first[i / d / asked * d + (i % d + i / d % asked * 7) % d];
  check(pith_store_write(context, "keys", dtype, random, n, d, c.keys, c.key_scales), context, "keys");
  pith_stream stream = pith_stream_make(8, PITH_STREAM_TEST, 0);
  for (size_t i = 0; i < n * d; i++)
    random[i] =
        (float)(pith_random_gaussian(&stream, i) + pith_random_gaussian(&stream, n * d + i / (d * 64) * d + i % d));
  check(pith_store_write(context, "values", dtype, random, n, d, c.values, c.value_scales), context, "values");
  free(random);
  c.rows = (pith_rows){.keys = c.keys,
                       .values = c.values,
                       .key_stride = (ptrdiff_t)row,
                       .value_stride = (ptrdiff_t)row,
                       .dtype = dtype,
                       .count = n,
                       .d = d,
                       .dv = d,
                       .key_scales = scales ? c.key_scales : NULL,
                       .value_scales = scales ? c.value_scales : NULL};
  c.head = (pith_sparse_head){.memory = pith_memory_share(context)};
  double start = now();
  check(pith_sparse_head_append(context, &c.head, &c.rows, 0), context, "index");
  c.built = now() - start;
  (void)long_cache_exact(context, &c);
  for (size_t q = 0; q < asked * GROUP; q++) {
    double square = 0;
    for (size_t j = 0; j < d; j++) square += (double)c.exact[q * d + j] * (double)c.exact[q * d + j];
    c.eps += 0.01 * sqrt(square) / (double)(asked * GROUP);
  }
  return c;
}

static inline void long_cache_free(long_cache *c) {
  pith_sparse_head_free(&c->head);
  pith_memory_unshare(c->head.memory);
  free(c->keys);
  free(c->values);
  free(c->key_scales);
  free(c->value_scales);
  free(c->queries);
  free(c->exact);
  free(c->sparse);
  free(c->account);
}

/* The same. */
static inline double long_cache_sparse(pith_context *context, long_cache *c) {
  const pith_sparse_job job = {.rows = c->rows,
                               .head = &c->head,
                               .heads = GROUP,
                               .queries = c->asked,
                               .query = c->queries,
                               .eps = c->eps,
                               .fine = pith_sparse_fine_pays(c->rows.dtype),
                               .out = c->sparse,
                               .account = c->account};
  double start = now();
  check(pith_sparse_jobs(context, &job, 1), context, "sparse");
  return now() - start;
}

#endif
