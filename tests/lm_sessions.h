/* lm_sessions.h - models and sessions for the tests of the runner. */
#ifndef PITH_TESTS_LM_SESSIONS_H
#define PITH_TESTS_LM_SESSIONS_H

#include "lm/lm.h"
#include "tiny_model.h"

enum { SHIPPED_VOCABULARY = 256 };

static const tiny_model tiny_shapes[] = {
    {.architecture = "llama", .query_heads = 4, .kv_heads = 2, .head_size = 6, .tied = true},
    {.architecture = "llama", .query_heads = 3, .kv_heads = 1, .head_size = 8, .rope_factors = true},
    {.architecture = "qwen2", .query_heads = 4, .kv_heads = 2, .head_size = 6},
    {.architecture = "qwen3", .query_heads = 4, .kv_heads = 2, .head_size = 16, .tied = true},
};
enum { TINY_SHAPES = sizeof tiny_shapes / sizeof *tiny_shapes };

static inline lm_model *shipped_model(pith_context *context) {
  lm_model *model = NULL;
  assert_ok(context, lm_model_load(context, PITH_ROOT "/models/byte-lm-3m-f16.gguf", &model));
  return model;
}

/* The model of a file in memory. */
static inline lm_model *model_of(pith_context *context, const gguf_bytes *file) {
  char path[32];
  lm_model *model = NULL;
  tiny_model_save(file, path);
  assert_ok(context, lm_model_load(context, path, &model));
  assert_int_equal(unlink(path), 0);
  return model;
}

static inline lm_session *session_of(pith_context *context, const lm_model *model, pith_dtype store, bool record) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.store = store;
  options.record_queries = record;
  lm_session *session = NULL;
  assert_ok(context, lm_session_create(context, model, &options, &session));
  return session;
}

/* Mean KL of rows of logits over `vocabulary` tokens, from p to q. */
static inline double divergence(const float *p, const float *q, size_t rows, size_t vocabulary) {
  double kl = 0;
  for (size_t t = 0; t < rows; t++, p += vocabulary, q += vocabulary) {
    double p_sum = 0, q_sum = 0;
    for (size_t i = 0; i < vocabulary; i++) p_sum += exp((double)p[i]), q_sum += exp((double)q[i]);
    for (size_t i = 0; i < vocabulary; i++)
      kl += exp((double)p[i]) / p_sum * ((double)p[i] - log(p_sum) - (double)q[i] + log(q_sum)) / (double)rows;
  }
  return kl;
}

#endif
