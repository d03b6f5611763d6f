/* tiny_model.h - small random models, as a GGUF file and as the reference sees them. */
#ifndef PITH_TESTS_TINY_MODEL_H
#define PITH_TESTS_TINY_MODEL_H

#include <unistd.h>

#include "gguf_writer.h"
#include "lm.h" /* reference */

enum { TINY_VOCABULARY = 50, TINY_WIDTH = 24, TINY_LAYERS = 2, TINY_INNER = 40, TINY_CONTEXT = 100 };

typedef struct tiny_model {
  const char *architecture;
  size_t query_heads, kv_heads, head_size;
  bool tied, rope_factors;
  reference_lm reference;
  reference_lm_layer layer[TINY_LAYERS];
  float *made[64]; /* to be freed */
  size_t made_count;
} tiny_model;

static inline const float *tiny_tensor(tiny_model *m, gguf_writer *w, const char *name, size_t rows, size_t columns,
                                       double mean, double deviation) {
  const size_t count = (rows ? rows : 1) * columns;
  float *data = test_gaussian(m->made_count + 1, count, deviation);
  for (size_t i = 0; i < count; i++) data[i] += (float)mean;
  gguf_tensor(w, name, PITH_GGUF_TENSOR_F32, rows, columns, data, count * sizeof *data);
  assert_true(m->made_count < sizeof m->made / sizeof *m->made);
  return m->made[m->made_count++] = data;
}

static inline const float *tiny_layer_tensor(tiny_model *m, gguf_writer *w, int layer, const char *name, size_t rows,
                                             size_t columns) {
  char full[64];
  const bool norm = strstr(name, "norm") != NULL;
  (void)snprintf(full, sizeof full, "blk.%d.%s", layer, name);
  return tiny_tensor(m, w, full, rows, columns, norm ? 1 : 0, norm ? 0.2 : 1.5 / sqrt((double)columns));
}

static inline void tiny_key(const tiny_model *m, gguf_writer *w, const char *rest, uint32_t value) {
  char key[80];
  (void)snprintf(key, sizeof key, "%s.%s", m->architecture, rest);
  gguf_u32(w, key, value);
}

static inline void tiny_metadata(const tiny_model *m, gguf_writer *w) {
  char key[80];
  gguf_text(w, "general.architecture", m->architecture);
  tiny_key(m, w, "block_count", TINY_LAYERS);
  tiny_key(m, w, "embedding_length", TINY_WIDTH);
  tiny_key(m, w, "feed_forward_length", TINY_INNER);
  tiny_key(m, w, "context_length", TINY_CONTEXT);
  tiny_key(m, w, "attention.head_count", (uint32_t)m->query_heads);
  tiny_key(m, w, "attention.head_count_kv", (uint32_t)m->kv_heads);
  if (m->head_size * m->query_heads != TINY_WIDTH) {
    tiny_key(m, w, "attention.key_length", (uint32_t)m->head_size);
    tiny_key(m, w, "attention.value_length", (uint32_t)m->head_size);
  }
  (void)snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", m->architecture);
  gguf_f32(w, key, 1e-5f);
  (void)snprintf(key, sizeof key, "%s.rope.freq_base", m->architecture);
  gguf_f32(w, key, 5000);
}

/* Fills m->reference and gives the file. Set architecture, heads, tied and rope_factors before. */
static inline gguf_bytes tiny_model_make(tiny_model *m) {
  gguf_writer w = {0};
  const bool qwen2 = strcmp(m->architecture, "qwen2") == 0, qwen3 = strcmp(m->architecture, "qwen3") == 0;
  const size_t width = TINY_WIDTH, d = m->head_size, queries = m->query_heads * d, keys = m->kv_heads * d;
  reference_lm *r = &m->reference;
  *r = (reference_lm){.vocabulary = TINY_VOCABULARY,
                      .width = width,
                      .layers = TINY_LAYERS,
                      .query_heads = m->query_heads,
                      .kv_heads = m->kv_heads,
                      .head_size = d,
                      .feed_forward = TINY_INNER,
                      .halves = qwen2 || qwen3,
                      .base = 5000,
                      .epsilon = (double)1e-5f,
                      .layer = m->layer};
  tiny_metadata(m, &w);
  r->embedding = r->unembedding = tiny_tensor(m, &w, "token_embd.weight", TINY_VOCABULARY, width, 0, 1);
  if (!m->tied) r->unembedding = tiny_tensor(m, &w, "output.weight", TINY_VOCABULARY, width, 0, 0.3);
  r->output_norm = tiny_tensor(m, &w, "output_norm.weight", 0, width, 1, 0.2);
  if (m->rope_factors) r->rope_factors = tiny_tensor(m, &w, "rope_freqs.weight", 0, d / 2, 4, 0.5);
  for (int i = 0; i < TINY_LAYERS; i++) {
    reference_lm_layer *l = &m->layer[i];
    *l = (reference_lm_layer){
        .attention_norm = tiny_layer_tensor(m, &w, i, "attn_norm.weight", 0, width),
        .query = tiny_layer_tensor(m, &w, i, "attn_q.weight", queries, width),
        .key = tiny_layer_tensor(m, &w, i, "attn_k.weight", keys, width),
        .value = tiny_layer_tensor(m, &w, i, "attn_v.weight", keys, width),
        .output = tiny_layer_tensor(m, &w, i, "attn_output.weight", width, queries),
        .feed_forward_norm = tiny_layer_tensor(m, &w, i, "ffn_norm.weight", 0, width),
        .gate = tiny_layer_tensor(m, &w, i, "ffn_gate.weight", TINY_INNER, width),
        .up = tiny_layer_tensor(m, &w, i, "ffn_up.weight", TINY_INNER, width),
    };
    if (qwen2) {
      l->query_bias = tiny_layer_tensor(m, &w, i, "attn_q.bias", 0, queries);
      l->key_bias = tiny_layer_tensor(m, &w, i, "attn_k.bias", 0, keys);
      l->value_bias = tiny_layer_tensor(m, &w, i, "attn_v.bias", 0, keys);
    }
    if (qwen3) {
      l->query_norm = tiny_layer_tensor(m, &w, i, "attn_q_norm.weight", 0, d);
      l->key_norm = tiny_layer_tensor(m, &w, i, "attn_k_norm.weight", 0, d);
    }
    l->down = tiny_layer_tensor(m, &w, i, "ffn_down.weight", width, TINY_INNER); /* ends without padding */
  }
  return gguf_finish(&w);
}

static inline void tiny_model_free(tiny_model *m) {
  for (size_t i = 0; i < m->made_count; i++) free(m->made[i]);
  m->made_count = 0;
}

/* A temporary file with these bytes; its name is in `path`. */
static inline void tiny_model_save(const gguf_bytes *file, char path[32]) {
  (void)strcpy(path, "/tmp/pith-test-XXXXXX");
  const int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  assert_true(write(descriptor, file->bytes, file->size) == (ssize_t)file->size);
  assert_int_equal(close(descriptor), 0);
}

#endif
