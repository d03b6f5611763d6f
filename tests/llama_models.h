/* llama_models.h - small random models that llama.cpp loads as well: what its own logits are recorded for
 * (tests/data/llama_logits.h, made by tools/make-llama-logits). */
#ifndef PITH_TESTS_LLAMA_MODELS_H
#define PITH_TESTS_LLAMA_MODELS_H

#include "gguf_writer.h"

enum {
  LLAMA_VOCABULARY = 32,
  LLAMA_WIDTH = 256, /* one block of the largest kind */
  LLAMA_LAYERS = 2,
  LLAMA_INNER = 256,
  LLAMA_TOKENS = 24,
  LLAMA_MIDDLE = 9, /* logits are recorded after this token and after the last */
};

/* Every query head is one of a pair that shares keys. */
typedef struct llama_model {
  const char *name, *architecture;
  size_t query_heads, head_size;
  bool tied;
  pith_gguf_type embedding, matrices; /* types; the output matrix of a model that is not tied is one of the matrices */
} llama_model;

#define LLAMA_MODEL_OF(type)                                                                    \
  {#type " embedding", "llama", 4, 64, false, PITH_GGUF_TENSOR_##type, PITH_GGUF_TENSOR_F32}, { \
#type " matrices", "llama", 4, 64, false, PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_##type     \
  }

static const llama_model llama_models[] = {
    {"llama", "llama", 4, 64, false, PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_F32},
    {"qwen2", "qwen2", 4, 64, false, PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_F32},
    {"qwen2 tied", "qwen2", 8, 32, true, PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_F32},
    {"qwen3", "qwen3", 4, 128, false, PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_F32},
    {"qwen3 tied", "qwen3", 2, 128, true, PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_F32},
    LLAMA_MODEL_OF(F16),
    LLAMA_MODEL_OF(BF16),
    LLAMA_MODEL_OF(Q8_0),
    LLAMA_MODEL_OF(Q4_0),
    LLAMA_MODEL_OF(Q4_1),
    LLAMA_MODEL_OF(Q4_K),
    LLAMA_MODEL_OF(Q5_K),
    LLAMA_MODEL_OF(Q6_K),
};
enum { LLAMA_MODELS = sizeof llama_models / sizeof *llama_models };

static inline void llama_tokens(uint32_t tokens[LLAMA_TOKENS]) {
  for (uint32_t i = 0; i < LLAMA_TOKENS; i++) tokens[i] = (i * i + 5 * i + 3) % LLAMA_VOCABULARY;
}

/* How a type stores blocks, where its f16 scales are, and what its weights would deviate by if the first were one. */
typedef struct llama_block {
  pith_gguf_type type;
  size_t weights, bytes, scale;
  double offset; /* second scale, behind the first: this many times it, negative where it is added; 0: none */
  double deviation;
} llama_block;

static const llama_block llama_blocks[] = {
    {PITH_GGUF_TENSOR_Q8_0, 32, 34, 0, 0, 73.9},     {PITH_GGUF_TENSOR_Q4_0, 32, 18, 0, 0, 4.61},
    {PITH_GGUF_TENSOR_Q4_1, 32, 20, 0, -7.5, 4.61},  {PITH_GGUF_TENSOR_Q4_K, 256, 144, 0, 7.5, 258},
    {PITH_GGUF_TENSOR_Q5_K, 256, 176, 0, 15.5, 527}, {PITH_GGUF_TENSOR_Q6_K, 256, 210, 208, 0, 1365},
};

/* Random bytes, but scales that differ by a factor of three and give the weights about that deviation. */
static inline void llama_put_blocks(gguf_writer *w, const char *name, const llama_block *block, size_t rows,
                                    size_t columns, uint64_t seed, double deviation) {
  const size_t count = rows * columns / block->weights, size = count * block->bytes;
  const pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 3);
  unsigned char *bytes = malloc(size ? size : 1);
  assert_non_null(bytes);
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)pith_random_below(&stream, i, 256);
  for (size_t b = 0; b < count; b++) {
    const double factor = deviation / block->deviation * (0.5 + pith_random_uniform(&stream, size + b));
    const uint16_t scale = pith_f32_to_f16((float)factor), offset = pith_f32_to_f16((float)(factor * block->offset));
    unsigned char *at = bytes + b * block->bytes + block->scale;
    memcpy(at, &scale, 2);
    if (block->offset != 0) memcpy(at + 2, &offset, 2);
  }
  gguf_tensor(w, name, block->type, rows, columns, bytes, size);
  free(bytes);
}

static inline void llama_put(gguf_writer *w, const char *name, pith_gguf_type type, size_t rows, size_t columns,
                             double mean, double deviation) {
  const uint64_t seed = 1000 + w->tensor_count;
  for (size_t i = 0; i < sizeof llama_blocks / sizeof *llama_blocks; i++)
    if (llama_blocks[i].type == type) {
      llama_put_blocks(w, name, &llama_blocks[i], rows, columns, seed, deviation);
      return;
    }
  const size_t count = (rows ? rows : 1) * columns;
  float *data = test_gaussian(seed, count, deviation);
  uint16_t *halves = malloc(count ? count * sizeof *halves : 1);
  assert_non_null(halves);
  for (size_t i = 0; i < count; i++) {
    data[i] += (float)mean;
    halves[i] = type == PITH_GGUF_TENSOR_F16 ? pith_f32_to_f16(data[i]) : pith_f32_to_bf16(data[i]);
  }
  if (type == PITH_GGUF_TENSOR_F32)
    gguf_tensor(w, name, type, rows, columns, data, count * sizeof *data);
  else
    gguf_tensor(w, name, type, rows, columns, halves, count * sizeof *halves);
  free(data), free(halves);
}

/* rows 0: a vector, a norm or a bias. */
static inline void llama_put_layer(const llama_model *m, gguf_writer *w, int layer, const char *name, size_t rows,
                                   size_t columns) {
  char full[64];
  const bool norm = strstr(name, "norm") != NULL;
  (void)snprintf(full, sizeof full, "blk.%d.%s", layer, name);
  if (rows)
    llama_put(w, full, m->matrices, rows, columns, 0, 1 / sqrt((double)columns));
  else
    llama_put(w, full, PITH_GGUF_TENSOR_F32, 0, columns, norm ? 1 : 0, 0.3);
}

static inline void llama_put_key(const llama_model *m, gguf_writer *w, const char *rest, uint32_t value) {
  char key[80];
  (void)snprintf(key, sizeof key, "%s.%s", m->architecture, rest);
  gguf_u32(w, key, value);
}

static inline gguf_bytes llama_model_make(const llama_model *m) {
  gguf_writer w = {0};
  const size_t queries = m->query_heads * m->head_size, keys = queries / 2;
  char key[80];
  gguf_text(&w, "general.architecture", m->architecture);
  gguf_text(&w, "tokenizer.ggml.model", "none");
  llama_put_key(m, &w, "vocab_size", LLAMA_VOCABULARY);
  llama_put_key(m, &w, "block_count", LLAMA_LAYERS);
  llama_put_key(m, &w, "embedding_length", LLAMA_WIDTH);
  llama_put_key(m, &w, "feed_forward_length", LLAMA_INNER);
  llama_put_key(m, &w, "context_length", 64);
  llama_put_key(m, &w, "attention.head_count", (uint32_t)m->query_heads);
  llama_put_key(m, &w, "attention.head_count_kv", (uint32_t)m->query_heads / 2);
  llama_put_key(m, &w, "attention.key_length", (uint32_t)m->head_size);
  llama_put_key(m, &w, "attention.value_length", (uint32_t)m->head_size);
  llama_put_key(m, &w, "rope.dimension_count", (uint32_t)m->head_size);
  (void)snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", m->architecture);
  gguf_f32(&w, key, 1e-5f);
  (void)snprintf(key, sizeof key, "%s.rope.freq_base", m->architecture);
  gguf_f32(&w, key, 20000);

  llama_put(&w, "token_embd.weight", m->embedding, LLAMA_VOCABULARY, LLAMA_WIDTH, 0, m->tied ? 0.1 : 1);
  if (!m->tied) llama_put(&w, "output.weight", m->matrices, LLAMA_VOCABULARY, LLAMA_WIDTH, 0, 0.1);
  llama_put(&w, "output_norm.weight", PITH_GGUF_TENSOR_F32, 0, LLAMA_WIDTH, 1, 0.3);
  for (int i = 0; i < LLAMA_LAYERS; i++) {
    llama_put_layer(m, &w, i, "attn_norm.weight", 0, LLAMA_WIDTH);
    llama_put_layer(m, &w, i, "attn_q.weight", queries, LLAMA_WIDTH);
    llama_put_layer(m, &w, i, "attn_k.weight", keys, LLAMA_WIDTH);
    llama_put_layer(m, &w, i, "attn_v.weight", keys, LLAMA_WIDTH);
    if (strcmp(m->architecture, "qwen2") == 0) {
      llama_put_layer(m, &w, i, "attn_q.bias", 0, queries);
      llama_put_layer(m, &w, i, "attn_k.bias", 0, keys);
      llama_put_layer(m, &w, i, "attn_v.bias", 0, keys);
    }
    if (strcmp(m->architecture, "qwen3") == 0) {
      llama_put_layer(m, &w, i, "attn_q_norm.weight", 0, m->head_size);
      llama_put_layer(m, &w, i, "attn_k_norm.weight", 0, m->head_size);
    }
    llama_put_layer(m, &w, i, "attn_output.weight", LLAMA_WIDTH, queries);
    llama_put_layer(m, &w, i, "ffn_norm.weight", 0, LLAMA_WIDTH);
    llama_put_layer(m, &w, i, "ffn_gate.weight", LLAMA_INNER, LLAMA_WIDTH);
    llama_put_layer(m, &w, i, "ffn_up.weight", LLAMA_INNER, LLAMA_WIDTH);
    llama_put_layer(m, &w, i, "ffn_down.weight", LLAMA_WIDTH, LLAMA_INNER);
  }
  return gguf_finish(&w);
}

#endif
