/* pith/cache.h - a cache of keys and values that does not grow: tokens are pushed, queries are answered.
 *
 * A cache stands for the keys and values of a whole model (layers x kv heads) or of one head (1 x 1). What attention
 * reads is bounded in bytes: the first rows (sinks) and the last rows (window) as they are, and a summary of all
 * between. Tokens that have left the window wait in the chunk in flight until they are folded: old summary and chunk
 * together become the new summary, and the bytes are spent anew over the heads.
 *
 * Tokens come in blocks of one or more, layer by layer, as a transformer makes them:
 *
 *   for each block of tokens
 *     for each layer: pith_cache_push(layer, keys, values, queries), pith_cache_attend(layer, queries)
 *     pith_cache_fold(PITH_CACHE_DUE), or PITH_CACHE_ALL
 *
 * All memory is taken when the cache is made; pushing and answering allocate nothing once the context has seen the same
 * shapes, folding gives back what it takes. What a cache holds depends on what was pushed, on the calls and on the
 * seed, not on the number of threads nor on time. A failed call leaves the cache as it was. */
#ifndef PITH_CACHE_H
#define PITH_CACHE_H

#include "pith/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pith_cache pith_cache;

#define PITH_CACHE_DUE ((size_t)0) /* the steps that are due: done in time when called after every block */
#define PITH_CACHE_ALL SIZE_MAX    /* everything that has left the window */

typedef struct pith_cache_options {
  size_t struct_size;
  size_t layers, kv_heads; /* default 1, 1 */
  size_t query_heads;      /* of a layer; default 1. Query head j belongs to kv head j / (query heads / kv heads) */
  size_t d, dv;            /* of a key, of a value; dv 0: as d */
  size_t bytes;            /* of all heads: what attention reads after every fold */
  const char *engine; /* NULL: "nystrom"; or halving, uniform, recent, heavy, accumulated. Those of them that look at
                         queries (nystrom with samples or gaussian, heavy, accumulated) need them in every push */
  pith_budget budget; /* auto: spread for nystrom with samples and several heads, else even */
  pith_dtype store;   /* of the summary: f32, f16 (default), bf16, q8, q4, or PITH_STORE_AUTO. Sinks, window and chunk
                         are kept in f32 or bf16 where that is the store, else in f16 */
  size_t sinks;       /* default 4 */
  size_t window;      /* default 64: also how far truncation is always possible */
  size_t chunk;       /* tokens in flight at most, 16 to 512; default 512. Stepped folding begins at half of it */
  size_t start;       /* position of the first token; default 0 */

  pith_query_kind query_model; /* auto: samples with queries, else ball */
  size_t recent, older; /* sampled queries of each kv head: of the last tokens, of those before; default 384, 128 */
  pith_rope rope;       /* how positions turn queries; default PITH_ROPE_NONE */
  double rope_base;
  size_t horizon; /* queries are expected from the next so many positions; default 1024 */
  double scale;   /* softmax scale; 0: 1/sqrt(d) */
  double rho;     /* ball: largest query norm after scaling; 0: the largest seen before the first fold, or 2 */
  size_t refine;  /* nystrom with samples: gradient steps when folding; default 0 */

  int certify;       /* ball and Gaussian bounds are kept up: a fold then takes time quadratic in its rows. Default 0 */
  size_t probes;     /* held-out queries of each kv head, drawn before the first fold, for the probe certificate and
                        menus; their exact answers are kept up. Default 64 */
  double confidence; /* of the probe certificate; default 0.9 */
  double delta;      /* ball bound of halving: the chance that it does not hold at some time; default 0.01 */
  uint64_t seed;     /* default 1 */
} pith_cache_options;

PITH_API void pith_cache_options_init(pith_cache_options *options);

/* PITH_E_BUDGET when the bytes are fewer than sinks, window and one point a head take; the message has the least. */
PITH_API PITH_CHECK pith_status pith_cache_create(pith_context *context, const pith_cache_options *options,
                                                  pith_cache **out);
PITH_API void pith_cache_free(pith_cache *cache); /* NULL is fine */

/* Puts tokens behind those of this layer: keys (kv heads, count, d), values (kv heads, count, dv), queries (query
 * heads, count, d) as the tokens ask them, before scaling; NULL: none known. Keys and queries are as attention uses
 * them: with rotary embeddings, turned by their own positions. With one head (rows, columns) will do. Layer 0 opens a
 * block of `count` <= chunk tokens, all other layers must follow in order with as many; the last closes it. Where there
 * is no room for a block, layer 0 first folds. Refuses NaN and infinities; the layer can then be pushed again, or the
 * block be given up with pith_cache_truncate. */
PITH_API PITH_CHECK pith_status pith_cache_push(pith_context *context, pith_cache *cache, size_t layer,
                                                const pith_array *keys, const pith_array *values,
                                                const pith_array *queries);

/* Answers queries (query heads, m, d) of one layer, which stand at its last m positions: the last sees all tokens, the
 * one before it all but the last. m is at most the tokens in window and chunk. `out` is C-ordered f32 (query heads, m,
 * dv). certificates, if not NULL, is (query heads, m) and receives for every answer the certificate that binds, or one
 * of kind none; an answer from exact rows alone has bound 0. Concurrent calls need their own contexts, and no other
 * call may change the cache meanwhile. */
PITH_API PITH_CHECK pith_status pith_cache_attend(pith_context *context, const pith_cache *cache, size_t layer,
                                                  const pith_array *queries, float *out,
                                                  pith_certificate *certificates);

/* Takes up to `steps` steps: a step measures what one head would err with other sizes (where bytes are spent over heads
 * or stores chosen), or folds one head. PITH_CACHE_DUE: begins when half of the chunk is filled, and then takes as many
 * steps at each call as are needed to be done before the chunk is full. PITH_CACHE_ALL: finishes what is under way and
 * folds all that has left the window. Between blocks only. A fold that is under way changes nothing in what may be
 * pushed and asked. */
PITH_API PITH_CHECK pith_status pith_cache_fold(pith_context *context, pith_cache *cache, size_t steps);

/* Head weights (layers, kv heads): what one unit of squared error in a query head costs, for spending the bytes from
 * the next fold on. All 1 until they are set. */
PITH_API PITH_CHECK pith_status pith_cache_set_head_weights(pith_context *context, pith_cache *cache,
                                                            const pith_array *weights);

/* Forgets the tokens from `length` on, and a block that is open. Possible down to info.least_length: at least the
 * window can always be taken back. */
PITH_API PITH_CHECK pith_status pith_cache_truncate(pith_context *context, pith_cache *cache, size_t length);

/* The same cache once more, at any moment: both go on alike, to the bit. */
PITH_API PITH_CHECK pith_status pith_cache_clone(pith_context *context, const pith_cache *cache, pith_cache **out);

/* A new cache, with the options of `first`, for the tokens of both; `second` must have been begun where `first` ends
 * (options.start), and agree with it in shapes, scale and engine. Both must be between blocks. Without certificates: a
 * part bounds the error of its own answers, not of the weight with which they enter the common one. */
PITH_API PITH_CHECK pith_status pith_cache_merge(pith_context *context, const pith_cache *first,
                                                 const pith_cache *second, pith_cache **out);

/* A cache on disk, at any moment; `model` is a name of at most 63 bytes for what pushes the tokens ("": none), which
 * loading demands again. A loaded cache goes on to the bit as the saved one. Written and read as all files of pith
 * (pith/file.h): a changed byte is refused. PITH_E_ARGUMENT where the model is another. */
PITH_API PITH_CHECK pith_status pith_cache_save(pith_context *context, const pith_cache *cache, const char *model,
                                                const char *path);
PITH_API PITH_CHECK pith_status pith_cache_load(pith_context *context, const char *model, const char *path,
                                                pith_cache **out);

typedef struct pith_cache_info {
  size_t layers, kv_heads, query_heads, d, dv;
  size_t start, length; /* positions start .. length-1 are answered for (tokens pushed: length - start) */
  size_t least_length;  /* what the cache can be truncated to */
  size_t in_flight;     /* tokens between window and what is folded */
  size_t limit_bytes;   /* options.bytes */
  size_t bytes;         /* what attention reads, without the tokens in flight: never above limit_bytes */
  size_t full_bytes;    /* all pushed keys and values in f16 */
  size_t chunk_bytes;   /* room of the tokens in flight */
  size_t sample_bytes;  /* sampled queries, those of the tokens in flight among them */
  size_t probe_bytes;
  size_t other_bytes;   /* menus, indices, counters, and what the summaries do not fill of their bytes */
  size_t held_bytes;    /* all of it: the same from the first token to the last */
  size_t folds;         /* that are finished */
  size_t heads_to_fold; /* in the fold that is under way */
  double max_step_seconds, fold_seconds; /* longest step; all folding */
  double rho;                            /* of the ball certificate */
  pith_query_kind query_model;
  char engine[32];
} pith_cache_info;

PITH_API pith_cache_info pith_cache_describe(const pith_cache *cache);

/* The certificates of one head for a query asked now, as pith_head_view has them. `errors`, if not NULL, receives the
 * errors at the probes (options.probes numbers; NaN behind the last probe there is). */
typedef struct pith_cache_head {
  size_t points; /* of the summary, without sinks, window and chunk */
  pith_dtype store;
  size_t bytes;
  double probe_error; /* mean over the probes; NaN without */
  pith_certificate binding, ball, gaussian, probe;
} pith_cache_head;

PITH_API PITH_CHECK pith_status pith_cache_look(pith_context *context, const pith_cache *cache, size_t layer,
                                                size_t head, pith_cache_head *out, double *errors);

/* What attention reads, as a summary of all pushed tokens: to look into, to compare, to save for others. */
PITH_API PITH_CHECK pith_status pith_cache_summarize(pith_context *context, const pith_cache *cache,
                                                     pith_summary **out);

#ifdef __cplusplus
}
#endif
#endif
