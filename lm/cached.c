/* cached.c - sessions on a pith_cache: it is fitted to a model, fed and asked layer by layer, and folded in time. */
#include <stdio.h>
#include <xxhash.h>

#include "lm/session.h"

/* Head weights are set once, from this many tokens on: they hardly change with the text. */
enum { WEIGH_TOKENS = 64 };

pith_cache_options lm_cache_options(const lm_model *model) {
  const lm_model_info *info = &model->info;
  pith_cache_options options;
  pith_cache_options_init(&options);
  options.layers = info->layers;
  options.kv_heads = info->kv_heads;
  options.query_heads = info->query_heads;
  options.d = options.dv = info->head_size;
  options.rope = info->rope;
  options.rope_base = info->rope_base;
  return options;
}

/* ---- The model's name ---- */

void lm_model_fingerprint(const lm_model *model, char out[LM_FINGERPRINT]) {
  const pith_gguf *gguf = model->gguf;
  XXH64_hash_t hash = 0;
  for (size_t i = 0; i < pith_gguf_tensor_count(gguf); i++) {
    const pith_gguf_tensor *tensor = pith_gguf_tensor_at(gguf, i);
    hash = XXH3_64bits_withSeed(tensor->name.text, tensor->name.length, hash);
    hash = XXH3_64bits_withSeed(tensor->data, tensor->bytes, hash);
  }
  snprintf(out, LM_FINGERPRINT, "%.32s %016llx", model->info.architecture, (unsigned long long)hash);
}

/* ---- A session's cache ---- */

pith_status lm_cached_check(pith_context *context, const lm_model *model, const lm_session_options *options) {
  const lm_model_info *want = &model->info;
  const pith_cache_info have = pith_cache_describe(options->cache);
  if (options->patterns || options->record_queries)
    return pith_fail(context, PITH_E_ARGUMENT, "%s: not in a session on a cache",
                     options->patterns ? "patterns" : "record_queries");
  if (have.layers != want->layers || have.kv_heads != want->kv_heads || have.query_heads != want->query_heads ||
      have.d != want->head_size || have.dv != want->head_size)
    return pith_fail(
        context, PITH_E_SHAPE,
        "cache: %zu layers of %zu heads asked by %zu, keys of %zu and values of %zu numbers; the model has "
        "%zu layers of %zu heads asked by %zu, of %zu",
        have.layers, have.kv_heads, have.query_heads, have.d, have.dv, want->layers, want->kv_heads, want->query_heads,
        want->head_size);
  if (have.start != 0)
    return pith_fail(context, PITH_E_ARGUMENT, "cache: begins at token %zu; a session needs one from 0 on", have.start);
  return PITH_OK;
}

/* (heads, tokens, head size) of what lies in memory as (tokens, heads * head size). */
static pith_array by_head(const lm_session *session, const float *rows, size_t heads, size_t count) {
  const size_t size = session->model->info.head_size;
  return (pith_array){
      .data = rows,
      .dtype = PITH_F32,
      .ndim = 3,
      .shape = {heads, count, size},
      .stride = {(ptrdiff_t)(size * sizeof *rows), (ptrdiff_t)(heads * size * sizeof *rows), (ptrdiff_t)sizeof *rows}};
}

pith_status lm_cached_attend(pith_context *context, lm_session *session, size_t layer, size_t count) {
  const lm_model_info *info = &session->model->info;
  const pith_array keys = by_head(session, session->work.key, info->kv_heads, count);
  const pith_array values = by_head(session, session->work.value, info->kv_heads, count);
  const pith_array queries = by_head(session, session->work.query, info->query_heads, count);
  PITH_TRY(pith_cache_push(context, session->cache, layer, &keys, &values, &queries));
  return pith_cache_attend(context, session->cache, layer, &queries, session->work.answer, NULL);
}

static pith_status weigh_heads(pith_context *context, lm_session *session) {
  const lm_model_info *info = &session->model->info;
  float *weights = pith_allocate(context, info->layers * info->kv_heads, sizeof *weights);
  if (!weights) return PITH_E_MEMORY;
  pith_status status = lm_head_weights(context, session, weights);
  const pith_array matrix = pith_array_matrix(weights, PITH_F32, info->layers, info->kv_heads);
  if (status >= 0) status = pith_cache_set_head_weights(context, session->cache, &matrix);
  pith_release(context, weights);
  session->weighed = status >= 0;
  return status;
}

pith_status lm_cached_finish(pith_context *context, lm_session *session) {
  if (!session->weighed && session->residual_count >= WEIGH_TOKENS) PITH_TRY(weigh_heads(context, session));
  return pith_cache_fold(context, session->cache, PITH_CACHE_DUE);
}

bool lm_cached_is_weighed(const pith_cache *cache) {
  return pith_cache_describe(cache).length >= WEIGH_TOKENS + LM_RESIDUAL_FIRST;
}
