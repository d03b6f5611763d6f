/* llama_cells.c - the numbers of cells, and writing states. */
#include "io/llama_cells.h"

#include <math.h>

/* ---- Numbers ---- */

static void decode_block(const unsigned char *in, float *out) {
  uint16_t scale;
  memcpy(&scale, in, sizeof scale);
  const float factor = pith_f16_to_f32(scale);
  for (size_t i = 0; i < PITH_LLAMA_BLOCK; i++) out[i] = factor * (float)(int8_t)in[sizeof scale + i];
}

void pith_llama_decode(pith_gguf_type type, const unsigned char *in, size_t count, float *out) {
  if (type == PITH_GGUF_TENSOR_F32) {
    memcpy(out, in, count * sizeof *out);
  } else if (type == PITH_GGUF_TENSOR_F16) {
    for (size_t i = 0; i < count; i++) {
      uint16_t half;
      memcpy(&half, in + i * sizeof half, sizeof half);
      out[i] = pith_f16_to_f32(half);
    }
  } else {
    for (size_t i = 0; i < count; i += PITH_LLAMA_BLOCK, in += PITH_LLAMA_BLOCK_BYTES) decode_block(in, out + i);
  }
}

static bool encode_block(const float *in, unsigned char *out) {
  enum { LEVELS = 127 };
  float largest = 0;
  for (size_t i = 0; i < PITH_LLAMA_BLOCK; i++) {
    if (!isfinite(in[i])) return false;
    largest = fmaxf(largest, fabsf(in[i]));
  }
  const float exact = largest / LEVELS, inverse = exact > 0 ? 1 / exact : 0;
  const uint16_t scale = pith_f32_to_f16(exact);
  memcpy(out, &scale, sizeof scale);
  for (size_t i = 0; i < PITH_LLAMA_BLOCK; i++) {
    const int8_t level = (int8_t)lrintf(in[i] * inverse);
    memcpy(out + sizeof scale + i, &level, 1);
  }
  return isfinite(pith_f16_to_f32(scale));
}

bool pith_llama_encode(pith_gguf_type type, const float *in, size_t count, unsigned char *out) {
  bool finite = true;
  if (type == PITH_GGUF_TENSOR_Q8_0) {
    for (size_t i = 0; i < count; i += PITH_LLAMA_BLOCK, out += PITH_LLAMA_BLOCK_BYTES)
      finite &= encode_block(in + i, out);
    return finite;
  }
  for (size_t i = 0; i < count; i++) {
    const uint16_t half = pith_f32_to_f16(in[i]);
    if (type == PITH_GGUF_TENSOR_F16) memcpy(out + i * sizeof half, &half, sizeof half);
    finite &= isfinite(type == PITH_GGUF_TENSOR_F16 ? pith_f16_to_f32(half) : in[i]);
  }
  if (type == PITH_GGUF_TENSOR_F32) memcpy(out, in, count * sizeof *in);
  return finite;
}

/* (rows, columns) from (columns, rows). */
static void transpose(const float *in, size_t rows, size_t columns, float *out) {
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) out[i * columns + j] = in[j * rows + i];
}

pith_status pith_llama_state_read(pith_context *context, const pith_llama_state *state, size_t layer, float *keys,
                                  float *values) {
  const pith_llama_layer *l = &state->layer[layer];
  pith_llama_decode(l->key_type, l->keys, state->cells * l->key_width, keys);
  if (!state->transposed) {
    pith_llama_decode(l->value_type, l->values, state->cells * l->value_width, values);
    return PITH_OK;
  }
  float *columns = pith_allocate(context, state->cells, l->value_width * sizeof *columns);
  if (!columns) return PITH_E_MEMORY;
  pith_llama_decode(l->value_type, l->values, state->cells * l->value_width, columns);
  transpose(columns, state->cells, l->value_width, values);
  pith_release(context, columns);
  return PITH_OK;
}

/* ---- Writing ---- */

static size_t layer_bytes(const pith_llama_state *state, const pith_llama_layer *l, size_t cells) {
  const size_t value_head = state->transposed ? 3 * sizeof(uint32_t) : sizeof(uint32_t) + sizeof(uint64_t);
  return sizeof(uint32_t) + sizeof(uint64_t) + value_head +
         cells *
             (pith_llama_row_bytes(l->key_type, l->key_width) + pith_llama_row_bytes(l->value_type, l->value_width));
}

size_t pith_llama_state_bytes(const pith_llama_state *state, size_t cells) {
  size_t bytes = (3 + state->token_count + 1 + state->streams + 2 + 3 * cells) * sizeof(uint32_t);
  if (state->kind == PITH_LLAMA_SESSION) bytes += sizeof(uint32_t) + state->architecture.length;
  for (size_t i = 0; i < state->layers; i++) bytes += layer_bytes(state, &state->layer[i], cells);
  return bytes;
}

static pith_status put_u32(pith_writer *writer, uint32_t value) {
  return pith_writer_put(writer, &value, sizeof value);
}

/* Everything before the streams is as it was. */
static pith_status put_head(pith_writer *writer, const pith_llama_state *state, const pith_llama_cells *cells) {
  const unsigned char *begin = state->file->bytes, *end = state->tokens + state->token_count * sizeof(int32_t);
  if (state->kind == PITH_LLAMA_SESSION)
    end = (const unsigned char *)state->architecture.text + state->architecture.length;
  PITH_TRY(pith_writer_put(writer, begin, (size_t)(end - begin)));
  PITH_TRY(put_u32(writer, (uint32_t)state->streams));
  for (size_t i = 0; i < state->stream; i++) PITH_TRY(put_u32(writer, 0));
  PITH_TRY(put_u32(writer, (uint32_t)cells->count));
  for (size_t i = 0; i < cells->count; i++) {
    PITH_TRY(put_u32(writer, (uint32_t)cells->positions[i]));
    PITH_TRY(put_u32(writer, 1));
    PITH_TRY(put_u32(writer, (uint32_t)state->sequence));
  }
  PITH_TRY(put_u32(writer, state->transposed));
  return put_u32(writer, (uint32_t)state->layers);
}

static pith_status put_numbers(pith_writer *writer, const pith_llama_state *state, const char *what, size_t layer,
                               pith_gguf_type type, const float *numbers, size_t count) {
  const size_t bytes = pith_llama_row_bytes(type, count);
  unsigned char *encoded = pith_allocate(writer->context, bytes, 1);
  if (!encoded) return PITH_E_MEMORY;
  pith_status status = PITH_OK;
  if (!pith_llama_encode(type, numbers, count, encoded))
    status = pith_fail(writer->context, PITH_E_VALUE,
                       "%s: %s of layer %zu have a number that %s cannot hold; save the state with a cache of F32",
                       state->file->name, what, layer, pith_llama_type_name(type));
  if (status >= 0) status = pith_writer_put(writer, encoded, bytes);
  pith_release(writer->context, encoded);
  return status;
}

static pith_status put_keys(pith_writer *writer, const pith_llama_state *state, const pith_llama_cells *cells,
                            size_t layer) {
  const pith_llama_layer *l = &state->layer[layer];
  const uint64_t row = pith_llama_row_bytes(l->key_type, l->key_width);
  PITH_TRY(put_u32(writer, l->key_type));
  PITH_TRY(pith_writer_put(writer, &row, sizeof row));
  return put_numbers(writer, state, "keys", layer, l->key_type, cells->keys[layer], cells->count * l->key_width);
}

static pith_status put_values(pith_writer *writer, const pith_llama_state *state, const pith_llama_cells *cells,
                              size_t layer) {
  const pith_llama_layer *l = &state->layer[layer];
  const size_t count = cells->count * l->value_width;
  PITH_TRY(put_u32(writer, l->value_type));
  if (!state->transposed) {
    const uint64_t row = pith_llama_row_bytes(l->value_type, l->value_width);
    PITH_TRY(pith_writer_put(writer, &row, sizeof row));
    return put_numbers(writer, state, "values", layer, l->value_type, cells->values[layer], count);
  }
  PITH_TRY(put_u32(writer, (uint32_t)pith_llama_row_bytes(l->value_type, 1)));
  PITH_TRY(put_u32(writer, (uint32_t)l->value_width));
  float *columns = pith_allocate(writer->context, count, sizeof *columns);
  if (!columns) return PITH_E_MEMORY;
  transpose(cells->values[layer], l->value_width, cells->count, columns);
  pith_status status = put_numbers(writer, state, "values", layer, l->value_type, columns, count);
  pith_release(writer->context, columns);
  return status;
}

static pith_status put_all(pith_writer *writer, const pith_llama_state *state, const pith_llama_cells *cells) {
  PITH_TRY(put_head(writer, state, cells));
  for (size_t i = 0; i < state->layers; i++) PITH_TRY(put_keys(writer, state, cells, i));
  for (size_t i = 0; i < state->layers; i++) PITH_TRY(put_values(writer, state, cells, i));
  for (size_t i = state->stream + 1; i < state->streams; i++) PITH_TRY(put_u32(writer, 0));
  return PITH_OK;
}

pith_status pith_llama_state_write(pith_context *context, const char *path, const pith_llama_state *state,
                                   const pith_llama_cells *cells) {
  pith_writer writer;
  PITH_TRY(pith_writer_open(context, path, &writer));
  return pith_writer_close(&writer, put_all(&writer, state, cells));
}
