/* llama_state.c - reading llama.cpp's saved states. */
#include "io/llama_state.h"

#include "io/llama_cells.h"

enum {
  MAGIC_SESSION = 0x6767736e,  /* ggsn */
  MAGIC_SEQUENCE = 0x67677371, /* ggsq */
  STREAMS_MOST = 256,          /* the engine's own limit, of streams and of sequences */
  CELL_BYTES = 8,              /* position and number of sequences; the sequences follow */
  NAME_MOST = 256
};

const char *pith_llama_type_name(pith_gguf_type type) {
  return type == PITH_GGUF_TENSOR_F32 ? "F32" : type == PITH_GGUF_TENSOR_F16 ? "F16" : "Q8_0";
}

size_t pith_llama_row_bytes(pith_gguf_type type, size_t width) {
  return type == PITH_GGUF_TENSOR_F32   ? 4 * width
         : type == PITH_GGUF_TENSOR_F16 ? 2 * width
                                        : width / PITH_LLAMA_BLOCK * PITH_LLAMA_BLOCK_BYTES;
}

/* ---- A cursor that never leaves the file ---- */

typedef struct cursor {
  pith_context *context;
  const pith_file *file;
  size_t at;
} cursor;

static size_t left(const cursor *c) { return c->file->size - c->at; }

static pith_status take(cursor *c, const char *what, size_t count, size_t size, const unsigned char **out) {
  if (count > left(c) / size)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: cut short: %s are %zu times %zu bytes at byte %zu, %zu are left",
                     c->file->name, what, count, size, c->at, left(c));
  *out = c->file->bytes + c->at;
  c->at += count * size;
  return PITH_OK;
}

static pith_status take_u32(cursor *c, const char *what, uint32_t *out) {
  const unsigned char *bytes = NULL;
  PITH_TRY(take(c, what, 1, sizeof *out, &bytes));
  memcpy(out, bytes, sizeof *out);
  return PITH_OK;
}

static pith_status take_u64(cursor *c, const char *what, uint64_t *out) {
  const unsigned char *bytes = NULL;
  PITH_TRY(take(c, what, 1, sizeof *out, &bytes));
  memcpy(out, bytes, sizeof *out);
  return PITH_OK;
}

/* ---- The head ---- */

static pith_status take_kind(cursor *c, pith_llama_state *state) {
  uint32_t magic = 0, version = 0;
  PITH_TRY(take_u32(c, "its magic", &magic));
  if (magic != MAGIC_SEQUENCE && magic != MAGIC_SESSION)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: begins with %08x; neither a sequence state (%08x) nor a session (%08x) of llama.cpp",
                     c->file->name, magic, MAGIC_SEQUENCE, MAGIC_SESSION);
  state->kind = magic == MAGIC_SEQUENCE ? PITH_LLAMA_SEQUENCE : PITH_LLAMA_SESSION;
  PITH_TRY(take_u32(c, "its version", &version));
  const uint32_t known = state->kind == PITH_LLAMA_SEQUENCE ? PITH_LLAMA_SEQUENCE_VERSION : PITH_LLAMA_SESSION_VERSION;
  if (version == known) return PITH_OK;
  return pith_fail(c->context, PITH_E_VERSION,
                   "%s: %s version %u; this pith reads version %u, that of llama.cpp v0.5.0; save it with such a one",
                   c->file->name, state->kind == PITH_LLAMA_SEQUENCE ? "sequence state" : "session", version, known);
}

static pith_status take_head(cursor *c, pith_llama_state *state) {
  uint32_t count = 0;
  const unsigned char *name = NULL;
  PITH_TRY(take_kind(c, state));
  PITH_TRY(take_u32(c, "the number of tokens", &count));
  state->token_count = count;
  PITH_TRY(take(c, "tokens", count, sizeof(int32_t), &state->tokens));
  if (state->kind == PITH_LLAMA_SEQUENCE) return PITH_OK;
  PITH_TRY(take_u32(c, "the length of the architecture's name", &count));
  if (count > NAME_MOST)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: the architecture's name has %u letters", c->file->name, count);
  PITH_TRY(take(c, "the architecture's name", count, 1, &name));
  state->architecture = (pith_gguf_text){(const char *)name, count};
  return PITH_OK;
}

/* ---- Cells ---- */

/* All cells are in one stream; streams behind it are read after it, by end_streams. */
static pith_status take_streams(cursor *c, pith_llama_state *state) {
  uint32_t streams = 0, cells = 0;
  PITH_TRY(take_u32(c, "the number of streams", &streams));
  if (streams < 1 || streams > STREAMS_MOST)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: %u streams; 1 to %d can be (recurrent and hybrid models save other things, which are not "
                     "supported)",
                     c->file->name, streams, STREAMS_MOST);
  state->streams = streams;
  for (state->stream = 0; state->stream < streams; state->stream++) {
    PITH_TRY(take_u32(c, "the number of cells", &cells));
    if (cells > 0) break;
  }
  state->cells = cells;
  if (cells == 0) return pith_fail(c->context, PITH_E_FORMAT, "%s: no cells; nothing was read yet", c->file->name);
  if (cells <= left(c) / CELL_BYTES) return PITH_OK;
  return pith_fail(c->context, PITH_E_FORMAT, "%s: %u cells, more than the %zu bytes left can hold", c->file->name,
                   cells, left(c));
}

static pith_status take_cell(cursor *c, pith_llama_state *state, size_t cell, bool seen[STREAMS_MOST]) {
  uint32_t position = 0, count = 0, sequence = 0;
  PITH_TRY(take_u32(c, "a position", &position));
  PITH_TRY(take_u32(c, "a number of sequences", &count));
  if (position > INT32_MAX || count > STREAMS_MOST)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: cell %zu is at position %d in %u sequences (models with positions of several dimensions, "
                     "M-RoPE, save more about a cell and are not supported)",
                     c->file->name, cell, (int)position, count);
  state->positions[cell] = (int32_t)position;
  state->shared |= count != 1;
  for (uint32_t i = 0; i < count; i++) {
    PITH_TRY(take_u32(c, "a sequence", &sequence));
    if (sequence >= STREAMS_MOST)
      return pith_fail(c->context, PITH_E_FORMAT,
                       "%s: cell %zu is in sequence %d (models with positions of several dimensions, M-RoPE, save more "
                       "about a cell and are not supported)",
                       c->file->name, cell, (int)sequence);
    if (state->sequences == 0) state->sequence = (int32_t)sequence;
    state->sequences += !seen[sequence];
    seen[sequence] = true;
  }
  return PITH_OK;
}

static pith_status take_cells(cursor *c, pith_llama_state *state) {
  bool seen[STREAMS_MOST] = {false};
  state->positions = pith_memory_allocate(state->memory, state->cells, sizeof *state->positions);
  if (!state->positions)
    return pith_fail(c->context, PITH_E_MEMORY, "%s: no memory for the positions of %zu cells", c->file->name,
                     state->cells);
  for (size_t cell = 0; cell < state->cells; cell++) PITH_TRY(take_cell(c, state, cell, seen));
  return PITH_OK;
}

/* ---- Layers ---- */

static pith_status take_type(cursor *c, const char *what, size_t layer, pith_gguf_type *out) {
  uint32_t type = 0;
  PITH_TRY(take_u32(c, what, &type));
  *out = (pith_gguf_type)type;
  if (type == PITH_GGUF_TENSOR_F32 || type == PITH_GGUF_TENSOR_F16 || type == PITH_GGUF_TENSOR_Q8_0) return PITH_OK;
  return pith_fail(c->context, PITH_E_TYPE,
                   "%s: %s of layer %zu is number %u; F32 (0), F16 (1) and Q8_0 (8) are supported: start llama.cpp "
                   "with --cache-type-k and --cache-type-v of these",
                   c->file->name, what, layer, type);
}

static pith_status take_row(cursor *c, const char *what, size_t layer, pith_gguf_type type, size_t *width) {
  uint64_t bytes = 0;
  PITH_TRY(take_u64(c, what, &bytes));
  const size_t unit = type == PITH_GGUF_TENSOR_Q8_0 ? PITH_LLAMA_BLOCK_BYTES : pith_llama_row_bytes(type, 1);
  if (bytes == 0 || bytes % unit != 0 || bytes > left(c))
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: %s of layer %zu has %llu bytes; %s has %zu a number or block, and "
                     "%zu bytes are left",
                     c->file->name, what, layer, (unsigned long long)bytes, pith_llama_type_name(type), unit, left(c));
  *width = (size_t)bytes / unit * (type == PITH_GGUF_TENSOR_Q8_0 ? PITH_LLAMA_BLOCK : 1);
  return PITH_OK;
}

static pith_status take_keys(cursor *c, const pith_llama_state *state, size_t index) {
  pith_llama_layer *layer = &state->layer[index];
  PITH_TRY(take_type(c, "the type of keys", index, &layer->key_type));
  PITH_TRY(take_row(c, "a row of keys", index, layer->key_type, &layer->key_width));
  return take(c, "keys", state->cells, pith_llama_row_bytes(layer->key_type, layer->key_width), &layer->keys);
}

static pith_status take_values(cursor *c, const pith_llama_state *state, size_t index) {
  pith_llama_layer *layer = &state->layer[index];
  PITH_TRY(take_type(c, "the type of values", index, &layer->value_type));
  if (!state->transposed) {
    PITH_TRY(take_row(c, "a row of values", index, layer->value_type, &layer->value_width));
    return take(c, "values", state->cells, pith_llama_row_bytes(layer->value_type, layer->value_width), &layer->values);
  }
  uint32_t size = 0, width = 0;
  PITH_TRY(take_u32(c, "the size of a value", &size));
  PITH_TRY(take_u32(c, "the width of values", &width));
  if (layer->value_type == PITH_GGUF_TENSOR_Q8_0 || size != pith_llama_row_bytes(layer->value_type, 1) || width == 0)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: layer %zu has transposed values of type %s, %u bytes each, %u wide", c->file->name, index,
                     pith_llama_type_name(layer->value_type), size, width);
  layer->value_width = width;
  return take(c, "values", state->cells, (size_t)size * width, &layer->values);
}

static pith_status take_layers(cursor *c, pith_llama_state *state) {
  uint32_t transposed = 0, layers = 0;
  PITH_TRY(take_u32(c, "the order of values", &transposed));
  PITH_TRY(take_u32(c, "the number of layers", &layers));
  if (transposed > 1)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: the order of values is %u, neither rows (0) nor transposed (1) (models with positions of "
                     "several dimensions, M-RoPE, save more about a cell and are not supported)",
                     c->file->name, transposed);
  state->transposed = transposed;
  const size_t least = sizeof(uint32_t) + sizeof(uint64_t);
  if (layers == 0 || layers > left(c) / least)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: %u layers in the %zu bytes left", c->file->name, layers, left(c));
  state->layers = layers;
  state->layer = pith_memory_allocate(state->memory, layers, sizeof *state->layer);
  if (!state->layer) return pith_fail(c->context, PITH_E_MEMORY, "%s: no memory for its layers", c->file->name);
  for (size_t i = 0; i < layers; i++) PITH_TRY(take_keys(c, state, i));
  if (left(c) == 0)
    return pith_fail(
        c->context, PITH_E_FORMAT,
        "%s: ends after the keys: a model that keeps no values (MLA), which is not supported, or cut short",
        c->file->name);
  for (size_t i = 0; i < layers; i++) PITH_TRY(take_values(c, state, i));
  return PITH_OK;
}

static pith_status end_streams(cursor *c, const pith_llama_state *state) {
  uint32_t cells = 0;
  for (size_t stream = state->stream + 1; stream < state->streams; stream++) {
    PITH_TRY(take_u32(c, "the number of cells", &cells));
    if (cells > 0)
      return pith_fail(c->context, PITH_E_FORMAT,
                       "%s: cells in several streams; save one sequence (llama_state_seq_save_file), or give the "
                       "context a unified cache",
                       c->file->name);
  }
  if (left(c) == 0) return PITH_OK;
  return pith_fail(c->context, PITH_E_FORMAT,
                   "%s: %zu bytes follow the values: those of a second memory (sliding-window, hybrid and recurrent "
                   "models have one), which is not supported",
                   c->file->name, left(c));
}

/* ---- All of it ---- */

pith_status pith_llama_state_parse(pith_context *context, pith_file *file, pith_llama_state **out) {
  pith_llama_state *state = pith_allocate_zero(context, 1, sizeof *state);
  if (!state) {
    pith_file_close(file);
    return PITH_E_MEMORY;
  }
  state->memory = pith_memory_share(context);
  state->file = file;
  cursor c = {context, file, 0};
  pith_status status = take_head(&c, state);
  if (status >= 0) status = take_streams(&c, state);
  if (status >= 0) status = take_cells(&c, state);
  if (status >= 0) status = take_layers(&c, state);
  if (status >= 0) status = end_streams(&c, state);
  if (status < 0)
    pith_llama_state_close(state);
  else
    *out = state;
  return status;
}

pith_status pith_llama_state_open(pith_context *context, const char *path, pith_llama_state **out) {
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  return pith_llama_state_parse(context, file, out);
}

void pith_llama_state_close(pith_llama_state *state) {
  if (!state) return;
  pith_memory *memory = state->memory;
  pith_file_close(state->file);
  pith_memory_release(memory, state->positions);
  pith_memory_release(memory, state->layer);
  pith_memory_release(memory, state);
  pith_memory_unshare(memory);
}
