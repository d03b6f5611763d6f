/* llama_model.c - heads from the metadata of a GGUF file. */
#include "io/llama_model.h"

#include <math.h>
#include <stdio.h>

/* Architectures with one plain cache of all tokens, and how positions turn their vectors. */
static const struct {
  const char *name;
  pith_rope rope;
} architectures[] = {
    {"llama", PITH_ROPE_PAIRS},       {"granite", PITH_ROPE_PAIRS}, {"internlm2", PITH_ROPE_PAIRS},
    {"qwen2", PITH_ROPE_HALVES},      {"qwen3", PITH_ROPE_HALVES},  {"qwen2moe", PITH_ROPE_HALVES},
    {"qwen3moe", PITH_ROPE_HALVES},   {"gemma", PITH_ROPE_HALVES},  {"phi3", PITH_ROPE_HALVES},
    {"starcoder2", PITH_ROPE_HALVES}, {"olmo2", PITH_ROPE_HALVES},
};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* A model that says one of these keeps something else than keys and values of all tokens, or attends in another way. */
static const struct {
  const char *key, *what;
} refused[] = {
    {"attention.sliding_window", "layers with a sliding window"},
    {"attention.kv_lora_rank", "latent keys without values (MLA)"},
    {"attention.shared_kv_layers", "layers that share keys and values"},
    {"attention.max_alibi_bias", "a bias by distance (ALiBi)"},
    {"attn_logit_softcapping", "logits that are capped"},
    {"rope.dimension_sections", "positions of several dimensions (M-RoPE)"},
    {"ssm.state_size", "recurrent layers"},
    {"ssm.conv_kernel", "recurrent layers"},
    {"wkv.head_size", "recurrent layers"},
};
enum { REFUSED = sizeof refused / sizeof *refused };

typedef struct model_key {
  char text[128];
} model_key;

static model_key key_of(const pith_llama_heads *heads, const char *rest) {
  model_key key;
  (void)snprintf(key.text, sizeof key.text, "%.*s.%s", (int)heads->architecture.length, heads->architecture.text, rest);
  return key;
}

static const pith_gguf_value *find(const pith_gguf *model, const pith_llama_heads *heads, const char *rest) {
  const model_key key = key_of(heads, rest);
  return pith_gguf_find(model, key.text);
}

static pith_status find_architecture(pith_context *context, const pith_gguf *model, pith_llama_heads *heads) {
  PITH_TRY(pith_gguf_string(context, model, "general.architecture", &heads->architecture));
  size_t i = 0;
  while (i < ARCHITECTURES && !pith_gguf_text_is(heads->architecture, architectures[i].name)) i++;
  if (i == ARCHITECTURES)
    return pith_fail(context, PITH_E_UNKNOWN,
                     "%s: states of the architecture %s cannot be rewritten; those of llama, granite, internlm2, "
                     "qwen2, qwen3, qwen2moe, qwen3moe, gemma, phi3, starcoder2 and olmo2 can",
                     pith_gguf_name(model), pith_quote(heads->architecture.text, heads->architecture.length).text);
  heads->rope = architectures[i].rope;
  for (i = 0; i < REFUSED; i++) {
    if (!find(model, heads, refused[i].key)) continue;
    const model_key key = key_of(heads, refused[i].key);
    size_t value = 1;
    if (pith_gguf_size(context, model, key.text, &value) >= 0 && value == 0) continue; /* said to be absent */
    return pith_fail(context, PITH_E_UNKNOWN, "%s: %s: the model has %s, and its states cannot be rewritten",
                     pith_gguf_name(model), key.text, refused[i].what);
  }
  return PITH_OK;
}

static pith_status take_size(pith_context *context, const pith_gguf *model, const pith_llama_heads *heads,
                             const char *rest, size_t otherwise, size_t *out) {
  enum { MOST = 1 << 20 };
  const model_key key = key_of(heads, rest);
  *out = otherwise;
  if (otherwise == 0 || pith_gguf_find(model, key.text)) PITH_TRY(pith_gguf_size(context, model, key.text, out));
  if (*out > 0 && *out <= MOST) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT, "%s: %s is %zu", pith_gguf_name(model), key.text, *out);
}

static pith_status take_number(pith_context *context, const pith_gguf *model, const pith_llama_heads *heads,
                               const char *rest, double otherwise, double *out) {
  const model_key key = key_of(heads, rest);
  *out = otherwise;
  if (pith_gguf_find(model, key.text)) PITH_TRY(pith_gguf_number(context, model, key.text, out));
  if (*out > 0 && isfinite(*out)) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT, "%s: %s is %g", pith_gguf_name(model), key.text, *out);
}

pith_status pith_llama_heads_of(pith_context *context, const pith_gguf *model, pith_llama_heads *out) {
  pith_llama_heads h = {0};
  size_t width = 0, turned = 0;
  PITH_TRY(find_architecture(context, model, &h));
  PITH_TRY(take_size(context, model, &h, "block_count", 0, &h.layers));
  PITH_TRY(take_size(context, model, &h, "embedding_length", 0, &width));
  PITH_TRY(take_size(context, model, &h, "attention.head_count", 0, &h.query_heads));
  PITH_TRY(take_size(context, model, &h, "attention.head_count_kv", h.query_heads, &h.kv_heads));
  const size_t size = pith_max_size(1, width / h.query_heads);
  PITH_TRY(take_size(context, model, &h, "attention.key_length", size, &h.key_size));
  PITH_TRY(take_size(context, model, &h, "attention.value_length", size, &h.value_size));
  PITH_TRY(take_size(context, model, &h, "rope.dimension_count", h.key_size, &turned));
  PITH_TRY(take_number(context, model, &h, "rope.freq_base", 10000, &h.rope_base));
  PITH_TRY(take_number(context, model, &h, "attention.scale", 1 / sqrt((double)h.key_size), &h.scale));
  if (h.query_heads % h.kv_heads != 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: %zu query heads cannot share %zu kv heads", pith_gguf_name(model),
                     h.query_heads, h.kv_heads);
  if (turned != h.key_size || h.key_size % 2 != 0)
    return pith_fail(context, PITH_E_UNKNOWN,
                     "%s: positions turn %zu of the %zu numbers of a key; only whole keys are supported",
                     pith_gguf_name(model), turned, h.key_size);
  h.rope_scaled = find(model, &h, "rope.scaling.type") != NULL || pith_gguf_tensor_find(model, "rope_freqs.weight") ||
                  pith_gguf_tensor_find(model, "rope_factors_long.weight");
  *out = h;
  return PITH_OK;
}

pith_status pith_llama_state_fits(pith_context *context, const pith_llama_state *state, const pith_gguf *model,
                                  const pith_llama_heads *heads) {
  const char *file = state->file->name, *name = pith_gguf_name(model);
  if (state->kind == PITH_LLAMA_SESSION &&
      (state->architecture.length != heads->architecture.length ||
       memcmp(state->architecture.text, heads->architecture.text, heads->architecture.length) != 0))
    return pith_fail(context, PITH_E_SHAPE, "%s: of a model of the architecture %s; %s is another", file,
                     pith_quote(state->architecture.text, state->architecture.length).text, name);
  if (state->layers != heads->layers)
    return pith_fail(context, PITH_E_SHAPE, "%s: %zu layers; the model %s has %zu", file, state->layers, name,
                     heads->layers);
  const size_t keys = heads->kv_heads * heads->key_size, values = heads->kv_heads * heads->value_size;
  for (size_t i = 0; i < state->layers; i++)
    if (state->layer[i].key_width != keys || state->layer[i].value_width != values)
      return pith_fail(
          context, PITH_E_SHAPE,
          "%s: layer %zu has keys of %zu and values of %zu numbers; those of the model %s have %zu and %zu", file, i,
          state->layer[i].key_width, state->layer[i].value_width, name, keys, values);
  return PITH_OK;
}
