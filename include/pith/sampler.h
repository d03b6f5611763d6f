/* pith/sampler.h - draws from a matrix under inserts, edits and deletes (a turnstile stream).
 *
 * After "Sampling from attention under turnstile updates" (Song, Xie, Zhou, arXiv 2510.03678): for A (rows, dim) and
 * x (dim), both kept up to date by single updates, draws a row i with probability y_i^2 / |y|^2 where y = A x.
 *
 * Objects belong to one thread while they change; draws change them too (a sketch that was drawn from is spent). */
#ifndef PITH_SAMPLER_H
#define PITH_SAMPLER_H

#include "pith/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One change of the stream, as it also stands in .npy record files ('<u4', '<u4', '<u8', '<f8'). */
typedef enum pith_update_kind {
  PITH_UPDATE_A = 0,   /* A[row, column] += delta */
  PITH_UPDATE_X = 1,   /* x[column] += delta; row is not read */
  PITH_UPDATE_DRAW = 2 /* files of the command line only: `row` draws are wanted here */
} pith_update_kind;

typedef struct pith_update {
  uint32_t kind, column;
  uint64_t row;
  double delta; /* finite */
} pith_update;

/* What was drawn. */
typedef struct pith_draw {
  uint64_t row;
  double value;  /* of y at that row: exact, or estimated */
  double weight; /* of draws without replacement: one over the chance that the row is among them; else 1 */
} pith_draw;

typedef enum pith_method {
  PITH_METHOD_AUTO = 0,   /* exact where that fits into the memory allowed, else sketch */
  PITH_METHOD_SKETCH = 1, /* Poisson-scaled CountSketch: memory does not grow with the rows */
  PITH_METHOD_EXACT = 2   /* x fixed: y and a tree of sums of y^2; x free: A and a tree of Gram matrices */
} pith_method;

/* ---- The l2 sampler -------------------------------------------------------------------------- */

/* How the largest entries of a sketch are found. */
typedef enum pith_decode {
  PITH_DECODE_AUTO = 0,  /* scan for few rows, else bits where x is fixed and dyadic where it is free */
  PITH_DECODE_SCAN = 1,  /* look every row up: no memory, time grows with the rows */
  PITH_DECODE_BITS = 2,  /* every cell also keeps a sum for each bit of the index */
  PITH_DECODE_DYADIC = 3 /* sketches of groups of 32, 32^2, ... neighbours, searched from the top */
} pith_decode;

typedef enum pith_cells {
  PITH_CELLS_FIXED = 0, /* int64 multiples of `unit`: deletes cancel to the bit, merges know no order */
  PITH_CELLS_FLOAT = 1  /* double */
} pith_cells;

typedef struct pith_l2_options {
  size_t struct_size;
  size_t rows;     /* n, 1 .. 2^40 */
  size_t dim;      /* d, 1 .. 2^31; default 1 */
  const double *x; /* (dim), finite; NULL: ones where x is fixed, zeros where it is free */
  int free_x;      /* x may be updated: dim columns are kept instead of one */
  size_t draws;    /* most draws to be taken over the life of the sampler; default 1. A sketch serves `copies` of
                      them (one in strict mode). An exact sampler needs no limit */
  size_t distinct; /* most draws without replacement at a time; default 0 */
  pith_method method;
  pith_decode decode;
  pith_cells cells;
  double unit;    /* of fixed cells, a power of two; default 2^-20 */
  int strict;     /* a sketch that cannot tell its two largest entries apart fails instead of choosing */
  size_t copies;  /* K, 1 .. 8: points of the Poisson process per row, and draws per sketch; default 3 */
  size_t depth;   /* R, odd, 1 .. 15: rows of a CountSketch; default 5 */
  size_t buckets; /* W, a power of two, 16 .. 2^24; 0: 1024, or more where eps or distinct ask for it */
  double eps;     /* relative error of the estimated value of a drawn row, for two draws of three or more;
                     0: not asked for (about 0.06) */
  size_t memory;  /* bytes allowed; default 1 GiB */
  uint64_t seed;  /* default 1 */
} pith_l2_options;

typedef struct pith_l2 pith_l2;

PITH_API void pith_l2_options_init(pith_l2_options *options);

/* A sampler of A = 0. PITH_E_BUDGET where it does not fit into `memory`: the message names the most draws that do. */
PITH_API PITH_CHECK pith_status pith_l2_create(pith_context *context, const pith_l2_options *options, pith_l2 **out);
PITH_API void pith_l2_free(pith_l2 *sampler); /* NULL is fine */

/* Applies updates in their order. *done (may be NULL): how many were applied; on failure the first bad one is number
 * *done, those before it stand and nothing of it does. PITH_E_ARGUMENT: an index out of range, or an update of a fixed
 * x; PITH_E_VALUE: a delta that is not finite, or a cell that would overflow. Time per update of A: copies * depth
 * cells for every sketch, whatever n; of x: one addition. Sketches are spread over the threads of the context. */
PITH_API PITH_CHECK pith_status pith_l2_update(pith_context *context, pith_l2 *sampler, const pith_update *updates,
                                               size_t count, size_t *done);
/* A[row, :] += factor * values (dim): inserts a row with 1, deletes it with -1. All or nothing. */
PITH_API PITH_CHECK pith_status pith_l2_update_row(pith_context *context, pith_l2 *sampler, uint64_t row,
                                                   const double *values, double factor);

/* Takes `count` independent draws with fresh sketches. *drawn: how many came out: fewer than `count` in strict mode,
 * where sketches may fail, and none where y = 0. PITH_E_BUDGET where more are asked for than are left. */
PITH_API PITH_CHECK pith_status pith_l2_draw(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws,
                                             size_t *drawn);
/* Takes up to `count` different rows from one fresh sketch, in the order of successive draws without replacement. For
 * any f, sum of weight * f(row) estimates the sum of f over the rows with y_i != 0 without bias (Horvitz-Thompson with
 * a conditional threshold; Cohen, Pagh, Woodruff, "WOR and p's", 2020). */
PITH_API PITH_CHECK pith_status pith_l2_draw_distinct(pith_context *context, pith_l2 *sampler, size_t count,
                                                      pith_draw *draws, size_t *drawn);
/* |y|: exact, or estimated from a CountSketch of y within a few hundredths. */
PITH_API PITH_CHECK pith_status pith_l2_norm(pith_context *context, const pith_l2 *sampler, double *norm);

/* Adds the stream that `other` has seen to what `sampler` has seen. Both must have been created with the same
 * options, seed and x: PITH_E_ARGUMENT names what differs. Updates of a free x add up too. What either has spent is
 * spent. */
PITH_API PITH_CHECK pith_status pith_l2_merge(pith_context *context, pith_l2 *sampler, const pith_l2 *other);

/* Sketches as files of their own kind, checksummed (docs/format.md). Exact samplers are not saved. */
PITH_API PITH_CHECK pith_status pith_l2_save(pith_context *context, const pith_l2 *sampler, const char *path);
PITH_API PITH_CHECK pith_status pith_l2_load(pith_context *context, const char *path, pith_l2 **out);

typedef struct pith_l2_info {
  size_t rows, dim;
  int free_x, strict;
  pith_method method; /* as chosen */
  pith_decode decode; /* as chosen; PITH_DECODE_AUTO where the method is exact */
  pith_cells cells;
  double unit;
  size_t copies, depth, buckets;
  size_t sketches, spent; /* how many there are, and were drawn from */
  size_t failures;        /* of the spent ones */
  size_t words;           /* of eight bytes, all that is kept */
  uint64_t seed;
} pith_l2_info;

PITH_API pith_l2_info pith_l2_describe(const pith_l2 *sampler);
PITH_API const char *pith_method_name(pith_method method); /* "sketch", ... */
PITH_API const char *pith_decode_name(pith_decode decode); /* "bits", ... */

/* ---- The tensor sampler ----------------------------------------------------------------------
 *
 * Draws a pair (i1, i2) with probability Y[i1, i2]^2 / |Y|_F^2 where Y = A1 X A2^T, for A1 (rows1, dim), A2 (rows2,
 * dim) and X (dim, dim) under updates of single entries: in the paper's words, of the coordinates of (A1 (x) A2)
 * vec(X). Neither time nor memory ever grows as rows1 * rows2. */

typedef enum pith_tensor_method {
  PITH_TENSOR_AUTO = 0,  /* exact where that fits into the memory allowed, else sketch */
  PITH_TENSOR_EXACT = 1, /* two Gram trees: the exact law, 2 (rows1 + rows2) dim words, updates in O(dim log rows) */
  PITH_TENSOR_PAIRS = 2, /* the paper's: a sketch over pairs. A2 and X come before A1 and are then fixed; rows2 dim
                            words and sketches, O(rows2) per update of A1 */
  PITH_TENSOR_SKETCH = 3 /* sketches of the rows of A1 and of A2: words do not grow with the rows. The law is off by
                          what collisions blur, a part that falls as 1 / sqrt(buckets); a draw looks all rows up */
} pith_tensor_method;

typedef enum pith_tensor_part { /* the kind of a pith_update here */
                                PITH_TENSOR_A1 = 0,
                                PITH_TENSOR_A2 = 1,
                                PITH_TENSOR_X = 3 /* 2 is PITH_UPDATE_DRAW in files */
} pith_tensor_part;

typedef struct pith_tensor_options {
  size_t struct_size;
  size_t rows1, rows2; /* 1 .. 2^40 each; with pairs, rows1 * rows2 at most 2^40 */
  size_t dim;          /* 1 .. 1024 */
  size_t draws;        /* most draws over the life of the sampler; default 1. Exact samplers need no limit */
  pith_tensor_method method;
  size_t buckets; /* sketch, pairs: a power of two, 16 .. 2^24; 0: 1024 */
  size_t memory;  /* bytes allowed; default 1 GiB */
  uint64_t seed;  /* default 1 */
} pith_tensor_options;

typedef struct pith_pair {
  uint64_t row1, row2;
  double value; /* Y[row1, row2]: exact, or estimated */
} pith_pair;

typedef struct pith_tensor pith_tensor;

PITH_API void pith_tensor_options_init(pith_tensor_options *options);

/* A sampler of A1 = A2 = X = 0. PITH_E_BUDGET where it does not fit into `memory`. */
PITH_API PITH_CHECK pith_status pith_tensor_create(pith_context *context, const pith_tensor_options *options,
                                                   pith_tensor **out);
PITH_API void pith_tensor_free(pith_tensor *sampler); /* NULL is fine */

/* Applies updates in their order, as pith_l2_update does; a kind is a pith_tensor_part. PITH_E_ARGUMENT also for a
 * change of A2 or X that comes after A1 to a sketch over pairs; PITH_E_VALUE also for entries beyond 1e40. */
PITH_API PITH_CHECK pith_status pith_tensor_update(pith_context *context, pith_tensor *sampler,
                                                   const pith_update *updates, size_t count, size_t *done);
/* Takes `count` independent draws. *drawn: fewer where sketches failed, none where Y = 0. PITH_E_BUDGET where a sketch
 * has fewer left. */
PITH_API PITH_CHECK pith_status pith_tensor_draw(pith_context *context, pith_tensor *sampler, size_t count,
                                                 pith_pair *pairs, size_t *drawn);
/* |Y|_F: exact, tr(A1^T A1 X A2^T A2 X^T)^(1/2), in O(dim^3); or estimated from the sketches. */
PITH_API PITH_CHECK pith_status pith_tensor_norm(pith_context *context, const pith_tensor *sampler, double *norm);

/* Adds what `other` was told to what `sampler` was: entries of A1, A2 and X add up, so that what only one part of a
 * stream holds may stand in any of them. Sketches over pairs: every part holds the same A2 and X, or none has begun
 * with A1. PITH_E_ARGUMENT names what else differs; nothing has then changed. What either has spent is spent. */
PITH_API PITH_CHECK pith_status pith_tensor_merge(pith_context *context, pith_tensor *sampler,
                                                  const pith_tensor *other);

/* Samplers of all methods as files, checksummed (docs/format.md). Of an exact one A1, A2 and X are saved, and its trees
 * summed anew. */
PITH_API PITH_CHECK pith_status pith_tensor_save(pith_context *context, const pith_tensor *sampler, const char *path);
PITH_API PITH_CHECK pith_status pith_tensor_load(pith_context *context, const char *path, pith_tensor **out);

typedef struct pith_tensor_info {
  size_t rows1, rows2, dim;
  pith_tensor_method method; /* as chosen */
  size_t buckets;            /* 0 where exact */
  size_t draws, spent;       /* most draws, and taken so far */
  size_t left; /* that may still be taken at one moment; SIZE_MAX where exact. Pairs: a sketch serves three */
  size_t failures;
  size_t words; /* of eight bytes, all that is kept */
  uint64_t seed;
} pith_tensor_info;

PITH_API pith_tensor_info pith_tensor_describe(const pith_tensor *sampler);
PITH_API const char *pith_tensor_method_name(pith_tensor_method method); /* "exact", ... */

/* ---- Draws of keys by the laws of attention -------------------------------------------------- */

typedef enum pith_key_law {
  PITH_LAW_POWER = 0,  /* key i with probability y_i^2 / |y|^2 where y_i = <q, k_i>^power */
  PITH_LAW_SOFTMAX = 1 /* key i with probability exp(z_i) / sum_j exp(z_j) where z_i = scale <q, k_i> */
} pith_key_law;

typedef enum pith_key_method {
  PITH_KEYS_AUTO = 0, /* for every query what should cost less of the two; the law is exact either way */
  PITH_KEYS_SCAN = 1, /* all weights of a query, then its draws: O(n d) */
  PITH_KEYS_TREE = 2  /* a Gram tree over features of the keys: O(features^2 log n) a draw. Exact for powers 1 and 2
                         (d and d (d + 1) / 2 features); above, TensorSketch (Pham and Pagh, KDD 2013), approximate.
                         Softmax: proposals with weight (b + z / 2m)^2m, m = power, that are accepted with the
                         probability that makes the law exact */
} pith_key_method;

typedef struct pith_key_options {
  size_t struct_size;
  pith_key_law law;
  size_t power; /* power law: 1 .. 8; softmax: degree m of the proposals, 1 or 2; default 1 */
  double scale; /* of softmax; 0: 1 / sqrt(d) */
  pith_key_method method;
  size_t features; /* power 3 and above with the tree: length of the TensorSketch, even, 16 .. 4096; default 1024 */
  size_t memory;   /* bytes allowed; default 1 GiB */
  uint64_t seed;   /* default 1 */
} pith_key_options;

typedef struct pith_key_sampler pith_key_sampler;

PITH_API void pith_key_options_init(pith_key_options *options);
/* A sampler over keys (n, d), f16, bf16, f32 or f64, which are copied as f32. PITH_E_BUDGET where a tree was asked for
 * and does not fit into `memory`. */
PITH_API PITH_CHECK pith_status pith_key_sampler_create(pith_context *context, const pith_array *keys,
                                                        const pith_key_options *options, pith_key_sampler **out);
PITH_API void pith_key_sampler_free(pith_key_sampler *sampler); /* NULL is fine */

/* Replaces key `row` by `key` (d), or takes it out (NULL) until it is set again: whole rows, since features of degree
 * two and more are not linear in a key. */
PITH_API PITH_CHECK pith_status pith_key_sampler_set(pith_context *context, pith_key_sampler *sampler, size_t row,
                                                     const float *key);

typedef struct pith_key_report {
  size_t proposals, accepted; /* by the tree, over all queries */
  size_t scanned;             /* queries that were answered by a scan, or ended by one (acceptance below 1/64) */
  double distance;            /* total variation between the law drawn from and the law, estimated from the draws;
                                 0 where it is exact */
  size_t words;               /* of eight bytes, all that is kept */
} pith_key_report;

/* `count` independent draws for each of the queries (m, d): draws (m, count) with value y_i, or z_i for softmax, and
 * weight 1. A query whose weights are all 0 has none: drawn[j] is then 0, else `count`. Calls with one sampler draw
 * afresh; the result does not depend on the number of threads. norms (m), or NULL: |y|, and for softmax log sum_j
 * exp(z_j): exact from a scan and for powers 1 and 2, else estimated (TensorSketch; the mean chance of proposals). */
PITH_API PITH_CHECK pith_status pith_key_sampler_draw(pith_context *context, pith_key_sampler *sampler,
                                                      const pith_array *queries, size_t count, pith_draw *draws,
                                                      size_t *drawn, double *norms, pith_key_report *report);

/* Softmax draws for queries that are known before the keys come: `count` reservoirs for each query keep the key with
 * the largest z_i + G_i, G_i Gumbel, which follows the law exactly when every key comes once. O(1) words a draw; no
 * deletes (theory forbids them: see `pith sample lower-bound`). */
typedef struct pith_reservoirs pith_reservoirs;

/* queries (m, d); scale 0: 1 / sqrt(d). */
PITH_API PITH_CHECK pith_status pith_reservoirs_create(pith_context *context, const pith_array *queries, size_t count,
                                                       double scale, uint64_t seed, pith_reservoirs **out);
PITH_API void pith_reservoirs_free(pith_reservoirs *reservoirs); /* NULL is fine */
/* Keys (n, d) with the indices first .. first + n - 1, each of which may come once, in any order. */
PITH_API PITH_CHECK pith_status pith_reservoirs_push(pith_context *context, pith_reservoirs *reservoirs,
                                                     const pith_array *keys, uint64_t first);
/* What `reservoirs` would be had it seen the keys of `other` too. Queries, count, scale and seed must be the same. */
PITH_API PITH_CHECK pith_status pith_reservoirs_merge(pith_context *context, pith_reservoirs *reservoirs,
                                                      const pith_reservoirs *other);
/* draws (m, count): value z_i, weight 1. 0 before the first key, else 1. */
PITH_API int pith_reservoirs_draws(const pith_reservoirs *reservoirs, pith_draw *draws);
/* norms (m): log sum_j exp(z_j) over the keys so far, estimated from the largest z + G, which are Gumbel variables
 * about it: within 1.28 / sqrt(count) (standard deviation). -infinity before the first key. */
PITH_API void pith_reservoirs_norms(const pith_reservoirs *reservoirs, double *norms);
PITH_API size_t pith_reservoirs_words(const pith_reservoirs *reservoirs);

/* Attention outputs from draws: mean (m, dv) over the `count` draws of each of m queries of the rows of values (n, dv)
 * that they name. half_width (m, dv): all dv true outputs of a query lie within it with probability `confidence`
 * (empirical Bernstein bound, Maurer and Pontil, COLT 2009, Theorem 4, on both sides of every coordinate, with the
 * ranges of the columns of values; never more than the range, which says nothing). count >= 2. Only for draws whose law
 * is exact. */
PITH_API PITH_CHECK pith_status pith_draws_attend(pith_context *context, const pith_array *values,
                                                  const pith_draw *draws, size_t queries, size_t count,
                                                  double confidence, double *mean, double *half_width);

#ifdef __cplusplus
}
#endif
#endif
