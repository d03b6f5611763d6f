/* session.h - what a session holds, for the files of the runner. */
#ifndef PITH_LM_SESSION_H
#define PITH_LM_SESSION_H

#include "attention/attention.h"
#include "lm/model.h"

enum {
  LM_BLOCK = 512,        /* tokens that go through the layers together */
  LM_RESIDUAL_FIRST = 8, /* tokens left out of the mean residual: a sink's norm is a hundred times the others' */
};

/* Activations of a block of tokens: (tokens, ...), but queries by head. */
typedef struct lm_work {
  float *residual, *normed;   /* (tokens, width) */
  float *query, *key, *value; /* (tokens, heads of the kind * head size) */
  float *asked, *answer;      /* (query heads, tokens, head size) */
  float *gate, *up;           /* (tokens, feed forward) */
  float *cosine, *sine;       /* (tokens, head size / 2) */
  pith_attend_job *job;       /* (kv heads) */
} lm_work;

struct lm_session {
  pith_memory *memory;
  const lm_model *model;
  const pith_summary *summary;            /* stands for tokens 0 .. start-1; NULL: start is 0 */
  const lm_pattern *patterns;             /* (layers), or NULL */
  pith_cache *cache;                      /* holds all rows, in the place of the arrays below; NULL: they do */
  bool weighed;                           /* the cache has its head weights */
  size_t start, length, capacity;         /* positions */
  pith_dtype store;                       /* of the rows start .. length-1 */
  unsigned char *keys, *values, *queries; /* (layers, heads, capacity - start, head size) */
  double *residual_sum;                   /* (layers): of squared norms; then (layers): of the block being read */
  size_t residual_count;
  lm_work work;
  void *work_block;
  size_t block, work_bytes; /* block: tokens that fit the work memory */
};

static inline size_t lm_session_rows(const lm_session *session) { return session->capacity - session->start; }

/* Row `row` (position - start) of a head of a cache array. */
static inline unsigned char *lm_session_row(const lm_session *session, unsigned char *cache, size_t heads, size_t layer,
                                            size_t head, size_t row) {
  const size_t size = session->model->info.head_size * pith_dtype_size(session->store);
  return cache + ((layer * heads + head) * lm_session_rows(session) + row) * size;
}

/* pattern.c: the mask of a block that begins at token `first`; *blocks must live as long as it does. */
pith_mask lm_pattern_mask(const lm_pattern *pattern, size_t first, pith_block_mask *blocks);

/* cached.c: sessions on a cache. Does it fit the model and the other options? Were its heads weighed when it was
 * filled?
 */
pith_status lm_cached_check(pith_context *context, const lm_model *model, const lm_session_options *options);
bool lm_cached_is_weighed(const pith_cache *cache);
/* One layer of a block: keys, values and queries of the work memory are pushed, answers come back into it. */
pith_status lm_cached_attend(pith_context *context, lm_session *session, size_t layer, size_t count);
/* After all layers. */
pith_status lm_cached_finish(pith_context *context, lm_session *session);

/* forward.c: `count` <= block tokens through all layers; keys, values and queries go into the cache behind the
 * last token, which stays where it is. Logits (count - logits_from, vocabulary), or NULL. */
pith_status lm_forward(pith_context *context, lm_session *session, const uint32_t *tokens, size_t count,
                       size_t logits_from, float *logits);

#endif
