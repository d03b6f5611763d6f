/* lm.h - a language model read from a GGUF file, and sessions that read tokens with it.
 *
 * A session holds the keys and values of the tokens it has read: the cache. Any prefix of a session can be
 * compressed (lm_session_arrays, pith_compress) and another session be started on the summary in its place
 * (lm_session_after): attention then sees the summary's points and, exactly, the tokens read since.
 * Positions go on from the true length. Or a session keeps its keys and values in a pith_cache, which does not grow.
 *
 * Calls report as all of pith does: a status, and a sentence in the context. */
#ifndef PITH_LM_H
#define PITH_LM_H

#include <stdbool.h>

#include "pith.h"

typedef struct pith_gguf pith_gguf; /* src/io/gguf.h */
typedef struct lm_model lm_model;
typedef struct lm_session lm_session;

/* ---- Models ---- */

typedef struct lm_model_info {
  const char *architecture; /* "llama", "qwen2", "qwen3" */
  size_t vocabulary, context_length, layers, width, feed_forward;
  size_t query_heads, kv_heads, head_size;
  pith_rope rope; /* how positions turn queries and keys */
  double rope_base;
  bool rope_scaled; /* frequencies are divided by factors of the model's own: rope_base is not the whole truth */
  size_t weight_bytes;
} lm_model_info;

/* Architectures llama, qwen2, qwen3; tensors F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K. Anything else is
 * refused by name, as is a tensor that the architecture has no place for. Weights stay in the mapped file. */
PITH_CHECK pith_status lm_model_load(pith_context *context, const char *path, lm_model **out);
void lm_model_free(lm_model *model); /* NULL is fine; sessions must be gone */
lm_model_info lm_model_describe(const lm_model *model);
const pith_gguf *lm_model_gguf(const lm_model *model); /* for the tokenizer */

/* A name for the model that no other weights have: architecture and hash of all tensors. Reads the whole file. */
enum { LM_FINGERPRINT = 64 };
void lm_model_fingerprint(const lm_model *model, char out[LM_FINGERPRINT]);

/* Defaults, and the shapes and rotary embedding of the model: what is missing are bytes and engine. */
pith_cache_options lm_cache_options(const lm_model *model);

/* ---- Sessions ---- */

/* Which tokens those of one layer see, themselves and earlier ones; all zero: all. As in pith_attention_options: a
 * token must pass the window and the blocks; global positions pierce both. */
typedef struct lm_pattern {
  size_t window;         /* 0: none */
  const size_t *globals; /* (global_count), ascending */
  size_t global_count;
  const unsigned char *seen; /* (block_count, block_count), 0 or 1: blocks of tokens by blocks they see; NULL: all */
  size_t block, block_count; /* block: tokens of one */
} lm_pattern;

/* Tokens that tokens first .. last-1 see, in the mean. */
double lm_pattern_seen(const lm_pattern *pattern, size_t first, size_t last);

typedef struct lm_session_options {
  size_t capacity;            /* tokens, at most the model's context length; 0: that */
  pith_dtype store;           /* of keys, values and recorded queries: PITH_F16 (default) or PITH_F32 */
  bool record_queries;        /* keep the queries of every token, after rotary embedding */
  const lm_pattern *patterns; /* (layers), which must outlive the session; NULL: all layers see all. Not on a summary */
  pith_cache *cache; /* of the model's shapes, from token 0 on: the session reads on where it ends, keeps all keys and
                        values there and nowhere else, sets its head weights and folds it in time. Nobody else may
                        change it meanwhile, and it must outlive the session. NULL: the session has arrays of its own */
} lm_session_options;

void lm_session_options_init(lm_session_options *options);

PITH_CHECK pith_status lm_session_create(pith_context *context, const lm_model *model,
                                         const lm_session_options *options, lm_session **out);
void lm_session_free(lm_session *session); /* NULL is fine */

/* A new session whose past is `summary`, which stands for all tokens that `before` has read. The summary must
 * have one head per layer and kv head and must outlive the new session; `before` may be freed. Capacity
 * counts the tokens before as well. */
PITH_CHECK pith_status lm_session_after(pith_context *context, const lm_session *before, const pith_summary *summary,
                                        const lm_session_options *options, lm_session **out);

/* Reads `count` tokens after those read so far. Logits, where wanted, are those after tokens logits_from ..
 * count-1 of this call: C-ordered (count - logits_from, vocabulary); NULL: none. On failure nothing was read; on a
 * cache the blocks of up to 512 tokens that were finished stay read. */
PITH_CHECK pith_status lm_session_read(pith_context *context, lm_session *session, const uint32_t *tokens, size_t count,
                                       size_t logits_from, float *logits);

size_t lm_session_length(const lm_session *session);   /* tokens read: the position of the next one */
size_t lm_session_capacity(const lm_session *session); /* tokens that fit */

/* Forgets all tokens from position `length` on; those that a summary stands for stay. On a cache: as
 * pith_cache_truncate. */
PITH_CHECK pith_status lm_session_truncate(pith_context *context, lm_session *session, size_t length);

/* Views (layers, heads, length, head size) of what is held exactly, good until the session reads, is
 * truncated or freed. Queries are not yet scaled; they are there if recorded. queries may be NULL. Not on a cache:
 * see pith_cache_summarize. */
PITH_CHECK pith_status lm_session_arrays(pith_context *context, const lm_session *session, pith_array *keys,
                                         pith_array *values, pith_array *queries);

typedef struct lm_session_memory {
  size_t cache_bytes;   /* what attention reads: the summary, and the exact rows read so far; on a cache its bytes,
                           without the tokens in flight */
  size_t other_bytes;   /* other bytes of the summary or the cache, room for tokens to come, recorded queries */
  size_t working_bytes; /* activations, however many tokens */
} lm_session_memory;
lm_session_memory lm_session_bytes(const lm_session *session);

/* What a unit of squared output error costs in each head, (layers, kv heads): the squared Frobenius norm of a
 * query head's slice of the output projection, averaged over the group, divided by head size and by the mean
 * squared norm of the residual stream right after the layer's attention was added, in this session (tokens 0..7 left
 * out). That is where an error is first seen, by the norm before the feed-forward network. */
PITH_CHECK pith_status lm_head_weights(pith_context *context, const lm_session *session, float *out);

#endif
