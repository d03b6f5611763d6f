/* model.c - from a GGUF file to a model: what the metadata promise is looked for among the tensors and held
 * against the shapes. */
#include "lm/model.h"

#include <math.h>
#include <stdio.h>

/* What sets the architectures apart. */
typedef struct architecture {
  const char *name;
  pith_rope rope;
  bool bias;       /* on queries, keys and values */
  bool head_norms; /* on each head of queries and keys */
} architecture;

static const architecture architectures[] = {
    {"llama", PITH_ROPE_PAIRS, false, false},
    {"qwen2", PITH_ROPE_HALVES, true, false},
    {"qwen3", PITH_ROPE_HALVES, false, true},
};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };
enum { MOST = 1 << 20, MOST_LAYERS = 1024 }; /* no honest model is larger in any direction but the vocabulary */

typedef struct loader {
  pith_context *context;
  lm_model *model;
  const architecture *architecture;
  bool *used; /* per tensor: it has a place */
} loader;

/* ---- Metadata ---- */

static pith_status find_architecture(loader *l) {
  pith_gguf_text name;
  PITH_TRY(pith_gguf_string(l->context, l->model->gguf, "general.architecture", &name));
  for (size_t i = 0; i < ARCHITECTURES; i++)
    if (pith_gguf_text_is(name, architectures[i].name)) l->architecture = &architectures[i];
  if (l->architecture) return PITH_OK;
  return pith_fail(l->context, PITH_E_TYPE,
                   "%s: general.architecture: \"%s\" is not supported; llama, qwen2 and qwen3 are",
                   pith_gguf_name(l->model->gguf), pith_quote(name.text, name.length).text);
}

typedef struct key_name {
  char text[80];
} key_name;

static key_name key_of(const loader *l, const char *rest) {
  key_name key;
  (void)snprintf(key.text, sizeof key.text, "%s.%s", l->architecture->name, rest);
  return key;
}

static bool has(const loader *l, const char *rest) {
  return pith_gguf_find(l->model->gguf, key_of(l, rest).text) != NULL;
}

static pith_status read_count(loader *l, const char *rest, size_t most, size_t *out) {
  const key_name key = key_of(l, rest);
  size_t count = 0;
  PITH_TRY(pith_gguf_size(l->context, l->model->gguf, key.text, &count));
  if (count < 1 || count > most)
    return pith_fail(l->context, PITH_E_FORMAT, "%s: %s is %zu; 1 to %zu is supported", pith_gguf_name(l->model->gguf),
                     key.text, count, most);
  *out = count;
  return PITH_OK;
}

/* Head sizes that the metadata give must be the one that everything is laid out for. */
static pith_status check_head_size(loader *l, const char *rest) {
  size_t size = 0;
  if (!has(l, rest)) return PITH_OK;
  PITH_TRY(read_count(l, rest, MOST, &size));
  if (size == l->model->info.head_size) return PITH_OK;
  return pith_fail(l->context, PITH_E_TYPE, "%s: %s is %zu where heads have %zu; only equal sizes are supported",
                   pith_gguf_name(l->model->gguf), key_of(l, rest).text, size, l->model->info.head_size);
}

static pith_status read_heads(loader *l) {
  lm_model_info *info = &l->model->info;
  const char *name = pith_gguf_name(l->model->gguf);
  PITH_TRY(read_count(l, "attention.head_count", MOST, &info->query_heads));
  info->kv_heads = info->query_heads;
  if (has(l, "attention.head_count_kv"))
    PITH_TRY(read_count(l, "attention.head_count_kv", info->query_heads, &info->kv_heads));
  if (info->query_heads % info->kv_heads != 0)
    return pith_fail(l->context, PITH_E_SHAPE, "%s: %zu query heads cannot share %zu kv heads evenly", name,
                     info->query_heads, info->kv_heads);
  info->head_size = info->width / info->query_heads;
  if (has(l, "attention.key_length")) PITH_TRY(read_count(l, "attention.key_length", MOST, &info->head_size));
  PITH_TRY(check_head_size(l, "attention.value_length"));
  PITH_TRY(check_head_size(l, "rope.dimension_count"));
  if (info->head_size < 2 || info->head_size % 2 != 0 || info->head_size * info->query_heads > MOST)
    return pith_fail(l->context, PITH_E_SHAPE, "%s: heads of %zu numbers; an even count is needed", name,
                     info->head_size);
  return PITH_OK;
}

static pith_status read_rope(loader *l) {
  lm_model_info *info = &l->model->info;
  const char *name = pith_gguf_name(l->model->gguf);
  const key_name base = key_of(l, "rope.freq_base"), type = key_of(l, "rope.scaling.type");
  info->rope = l->architecture->rope;
  info->rope_base = 10000;
  if (has(l, "rope.freq_base")) PITH_TRY(pith_gguf_number(l->context, l->model->gguf, base.text, &info->rope_base));
  if (!(info->rope_base > 1))
    return pith_fail(l->context, PITH_E_VALUE, "%s: %s is %g; more than 1 is needed", name, base.text, info->rope_base);
  if (has(l, "rope.scaling.type")) {
    pith_gguf_text scaling;
    PITH_TRY(pith_gguf_string(l->context, l->model->gguf, type.text, &scaling));
    if (!pith_gguf_text_is(scaling, "none"))
      return pith_fail(l->context, PITH_E_TYPE, "%s: %s: \"%s\" is not supported", name, type.text,
                       pith_quote(scaling.text, scaling.length).text);
  }
  return PITH_OK;
}

static pith_status read_metadata(loader *l) {
  lm_model_info *info = &l->model->info;
  double epsilon = 0;
  info->architecture = l->architecture->name;
  PITH_TRY(read_count(l, "block_count", MOST_LAYERS, &info->layers));
  PITH_TRY(read_count(l, "embedding_length", MOST, &info->width));
  PITH_TRY(read_count(l, "feed_forward_length", MOST, &info->feed_forward));
  PITH_TRY(read_count(l, "context_length", INT32_MAX, &info->context_length));
  PITH_TRY(read_heads(l));
  PITH_TRY(read_rope(l));
  const key_name key = key_of(l, "attention.layer_norm_rms_epsilon");
  PITH_TRY(pith_gguf_number(l->context, l->model->gguf, key.text, &epsilon));
  if (epsilon < 0)
    return pith_fail(l->context, PITH_E_VALUE, "%s: %s is %g; it cannot be negative", pith_gguf_name(l->model->gguf),
                     key.text, epsilon);
  l->model->epsilon = (float)epsilon;
  return PITH_OK;
}

/* ---- Tensors ---- */

/* The tensor NAME or, where layer >= 0, blk.LAYER.NAME; NULL in *out where it is absent and may be. */
static pith_status find_tensor(loader *l, int layer, const char *name, bool needed, const pith_gguf_tensor **out) {
  char full[80];
  if (layer >= 0)
    (void)snprintf(full, sizeof full, "blk.%d.%s", layer, name);
  else
    (void)snprintf(full, sizeof full, "%s", name);
  *out = pith_gguf_tensor_find(l->model->gguf, full);
  if (!*out && needed)
    return pith_fail(l->context, PITH_E_FORMAT, "%s: tensor %s is missing", pith_gguf_name(l->model->gguf), full);
  if (!*out) return PITH_OK;
  l->used[*out - pith_gguf_tensor_at(l->model->gguf, 0)] = true;
  l->model->info.weight_bytes += (*out)->bytes;
  return PITH_OK;
}

static pith_status check_shape(loader *l, const pith_gguf_tensor *tensor, size_t rows, size_t columns) {
  if (tensor->shape[0] == columns && tensor->shape[1] == rows && tensor->ndim <= 2) return PITH_OK;
  return pith_fail(l->context, PITH_E_SHAPE, "%s: tensor %s is %zu x %zu; the metadata ask for %zu x %zu",
                   pith_gguf_name(l->model->gguf), pith_quote(tensor->name.text, tensor->name.length).text,
                   tensor->shape[1], tensor->shape[0], rows, columns);
}

static pith_status load_vector(loader *l, int layer, const char *name, bool needed, size_t length, const float **out) {
  const pith_gguf_tensor *tensor = NULL;
  PITH_TRY(find_tensor(l, layer, name, needed, &tensor));
  if (!tensor) return PITH_OK;
  PITH_TRY(check_shape(l, tensor, 1, length));
  if (tensor->type != PITH_GGUF_TENSOR_F32)
    return pith_fail(l->context, PITH_E_TYPE, "%s: tensor %s is of type %s; F32 is needed",
                     pith_gguf_name(l->model->gguf), pith_quote(tensor->name.text, tensor->name.length).text,
                     tensor->type_name);
  *out = (const float *)(const void *)tensor->data;
  return PITH_OK;
}

/* rows 0: as many as the tensor has. */
static pith_status load_matrix(loader *l, int layer, const char *name, bool needed, size_t rows, size_t columns,
                               lm_matrix *out) {
  const pith_gguf_tensor *tensor = NULL;
  PITH_TRY(find_tensor(l, layer, name, needed, &tensor));
  if (!tensor) return PITH_OK;
  PITH_TRY(check_shape(l, tensor, rows ? rows : tensor->shape[1], columns));
  const lm_weight_type *type = lm_weight_type_of(tensor->type);
  if (!type)
    return pith_fail(l->context, PITH_E_TYPE,
                     "%s: tensor %s is of type %s; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K and Q6_K are supported",
                     pith_gguf_name(l->model->gguf), pith_quote(tensor->name.text, tensor->name.length).text,
                     tensor->type_name);
  *out = (lm_matrix){
      .type = type, .data = tensor->data, .rows = tensor->shape[1], .columns = columns, .row_bytes = tensor->row_bytes};
  return PITH_OK;
}

static pith_status load_layer(loader *l, int index) {
  const lm_model_info *info = &l->model->info;
  const architecture *a = l->architecture;
  lm_layer *layer = &l->model->layer[index];
  const size_t width = info->width, inner = info->feed_forward, size = info->head_size;
  const size_t queries = info->query_heads * size, keys = info->kv_heads * size;
  PITH_TRY(load_vector(l, index, "attn_norm.weight", true, width, &layer->attention_norm));
  PITH_TRY(load_matrix(l, index, "attn_q.weight", true, queries, width, &layer->query));
  PITH_TRY(load_matrix(l, index, "attn_k.weight", true, keys, width, &layer->key));
  PITH_TRY(load_matrix(l, index, "attn_v.weight", true, keys, width, &layer->value));
  if (a->bias) {
    PITH_TRY(load_vector(l, index, "attn_q.bias", true, queries, &layer->query_bias));
    PITH_TRY(load_vector(l, index, "attn_k.bias", true, keys, &layer->key_bias));
    PITH_TRY(load_vector(l, index, "attn_v.bias", true, keys, &layer->value_bias));
  }
  if (a->head_norms) {
    PITH_TRY(load_vector(l, index, "attn_q_norm.weight", true, size, &layer->query_norm));
    PITH_TRY(load_vector(l, index, "attn_k_norm.weight", true, size, &layer->key_norm));
  }
  PITH_TRY(load_matrix(l, index, "attn_output.weight", true, width, queries, &layer->output));
  PITH_TRY(load_vector(l, index, "ffn_norm.weight", true, width, &layer->feed_forward_norm));
  PITH_TRY(load_matrix(l, index, "ffn_gate.weight", true, inner, width, &layer->gate));
  PITH_TRY(load_matrix(l, index, "ffn_up.weight", true, inner, width, &layer->up));
  return load_matrix(l, index, "ffn_down.weight", true, width, inner, &layer->down);
}

/* Pair i turns by base^(-2 i / head size) a position, divided by a factor of its own where the model has them. */
static pith_status load_frequencies(loader *l) {
  lm_model *model = l->model;
  const size_t pairs = model->info.head_size / 2;
  const float *factor = NULL;
  PITH_TRY(load_vector(l, -1, "rope_freqs.weight", false, pairs, &factor));
  model->frequency = pith_allocate(l->context, pairs, sizeof *model->frequency);
  if (!model->frequency) return PITH_E_MEMORY;
  for (size_t i = 0; i < pairs; i++) {
    if (factor && !(isfinite(factor[i]) && factor[i] > 0))
      return pith_fail(l->context, PITH_E_VALUE, "%s: tensor rope_freqs.weight: number %zu is %g; it must be positive",
                       pith_gguf_name(model->gguf), i, (double)factor[i]);
    model->frequency[i] = pow(model->info.rope_base, -(double)i / (double)pairs) / (factor ? (double)factor[i] : 1);
  }
  model->info.rope_scaled = factor != NULL;
  return PITH_OK;
}

/* A tensor without a place means that the file needs more than this runner does: better no answer than a wrong one. */
static pith_status refuse_strangers(loader *l) {
  const pith_gguf *gguf = l->model->gguf;
  for (size_t i = 0; i < pith_gguf_tensor_count(gguf); i++) {
    const pith_gguf_text name = pith_gguf_tensor_at(gguf, i)->name;
    if (!l->used[i])
      return pith_fail(l->context, PITH_E_TYPE, "%s: tensor %s: architecture %s has no place for it",
                       pith_gguf_name(gguf), pith_quote(name.text, name.length).text, l->architecture->name);
  }
  return PITH_OK;
}

static pith_status load_tensors(loader *l) {
  lm_model *model = l->model;
  PITH_TRY(load_matrix(l, -1, "token_embd.weight", true, 0, model->info.width, &model->embedding));
  model->info.vocabulary = model->embedding.rows;
  model->unembedding = model->embedding; /* tied, unless the file has the other */
  PITH_TRY(load_matrix(l, -1, "output.weight", false, model->info.vocabulary, model->info.width, &model->unembedding));
  PITH_TRY(load_vector(l, -1, "output_norm.weight", true, model->info.width, &model->output_norm));
  PITH_TRY(load_frequencies(l));
  model->layer = pith_allocate_zero(l->context, model->info.layers, sizeof *model->layer);
  if (!model->layer) return PITH_E_MEMORY;
  for (size_t i = 0; i < model->info.layers; i++) PITH_TRY(load_layer(l, (int)i));
  return refuse_strangers(l);
}

/* ---- The whole ---- */

pith_status lm_model_load(pith_context *context, const char *path, lm_model **out) {
  pith_gguf *gguf = NULL;
  PITH_TRY(pith_gguf_open(context, path, &gguf));
  lm_model *model = pith_allocate_zero(context, 1, sizeof *model);
  if (!model) {
    pith_gguf_close(gguf);
    return PITH_E_MEMORY;
  }
  model->memory = pith_memory_share(context);
  model->gguf = gguf;
  loader l = {.context = context, .model = model};
  l.used = pith_allocate_zero(context, pith_gguf_tensor_count(gguf), sizeof *l.used);
  pith_status status = l.used ? find_architecture(&l) : PITH_E_MEMORY;
  if (status >= 0) status = read_metadata(&l);
  if (status >= 0) status = load_tensors(&l);
  pith_release(context, l.used);
  if (status < 0) {
    lm_model_free(model);
    return status;
  }
  *out = model;
  return PITH_OK;
}

void lm_model_free(lm_model *model) {
  if (!model) return;
  pith_memory *memory = model->memory;
  pith_gguf_close(model->gguf);
  pith_memory_release(memory, model->frequency);
  pith_memory_release(memory, model->layer);
  pith_memory_release(memory, model);
  pith_memory_unshare(memory);
}

lm_model_info lm_model_describe(const lm_model *model) { return model->info; }

const pith_gguf *lm_model_gguf(const lm_model *model) { return model->gguf; }
