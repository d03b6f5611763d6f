/* lm_stream.h - a model that runs on a cache of bounded bytes. */
#ifndef PITH_CLI_LM_STREAM_H
#define PITH_CLI_LM_STREAM_H

#include "lm.h"

typedef struct lm_stream {
  pith_cache *cache;
  lm_session *session; /* on the cache, of the model's context length */
} lm_stream;

/* Bytes of the keys and values of so many tokens in f16. */
size_t lm_full_bytes(const lm_run *run, size_t tokens);
/* An empty cache of `bytes` bytes at most, by the method's engine, budget and store; the method's ratio is not read. */
pith_status lm_stream_open(lm_run *run, const lm_method *method, double bytes, lm_stream *out);
/* Closing what a failure left is fine. Yields the bytes that the cache held, by the count of the context. */
size_t lm_stream_close(const lm_run *run, lm_stream *stream);

/* ---- Those of generate and chat: --cache-bytes, --load-cache, --save-cache. Yield exit codes. ---- */

/* Do the three fit together, and no --ratio with them? */
int lm_stream_check(const cli_session *session);
bool lm_stream_asked(const lm_arguments *arguments);
int lm_stream_start(lm_run *run, lm_stream *out);
int lm_stream_save(lm_run *run, const lm_stream *stream); /* nothing without --save-cache */

/* What a cache holds beside what attention reads, and what folding took: for JSON. */
void json_stream(json_t *object, const pith_cache_info *info);

#endif
