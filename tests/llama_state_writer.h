/* llama_state_writer.h - states as llama.cpp saves them, of random numbers, in memory. */
#ifndef PITH_TESTS_LLAMA_STATE_WRITER_H
#define PITH_TESTS_LLAMA_STATE_WRITER_H

#include "gguf_writer.h"
#include "io/llama_cells.h"

typedef struct state_shape {
  bool session, transposed;
  uint32_t version, tokens, streams, stream, cells, layers, key_type, value_type;
  uint32_t sequences; /* a cell belongs to */
  int32_t sequence;
  size_t key_width, value_width;
  size_t extra;   /* bytes behind the values */
  bool valueless; /* ends after the keys */
} state_shape;

static inline void state_numbers(gguf_bytes *to, uint32_t type, size_t count, uint64_t seed) {
  float *numbers = test_gaussian(seed, count, 1);
  const size_t size = pith_llama_row_bytes((pith_gguf_type)type, count);
  unsigned char *bytes = malloc(size);
  assert_non_null(bytes);
  assert_true(pith_llama_encode((pith_gguf_type)type, numbers, count, bytes));
  gguf_put(to, bytes, size);
  free(bytes);
  free(numbers);
}

/* Position of a cell: a permutation, so that cells are not in order. */
static inline uint32_t state_position(const state_shape *s, uint32_t cell) {
  return s->cells % 7 == 0 ? cell : cell * 7 % s->cells;
}

static inline gguf_bytes state_make(const state_shape *s) {
  gguf_bytes b = {0};
  const uint32_t none = 0;
  gguf_put_u32(&b, s->session ? 0x6767736e : 0x67677371);
  gguf_put_u32(&b, s->version ? s->version : s->session ? 10 : 3);
  gguf_put_u32(&b, s->tokens);
  for (uint32_t i = 0; i < s->tokens; i++) gguf_put_u32(&b, i * 31 % 256);
  if (s->session) {
    gguf_put_u32(&b, 5);
    gguf_put(&b, "llama", 5);
  }
  gguf_put_u32(&b, s->streams);
  for (uint32_t i = 0; i < s->stream; i++) gguf_put_u32(&b, none);
  gguf_put_u32(&b, s->cells);
  for (uint32_t i = 0; i < s->cells; i++) {
    gguf_put_u32(&b, state_position(s, i));
    gguf_put_u32(&b, s->sequences);
    for (uint32_t j = 0; j < s->sequences; j++) gguf_put_u32(&b, (uint32_t)s->sequence + j);
  }
  gguf_put_u32(&b, s->transposed);
  gguf_put_u32(&b, s->layers);
  for (uint32_t i = 0; i < s->layers; i++) {
    gguf_put_u32(&b, s->key_type);
    gguf_put_u64(&b, pith_llama_row_bytes((pith_gguf_type)s->key_type, s->key_width));
    state_numbers(&b, s->key_type, s->cells * s->key_width, 2 * i + 1);
  }
  for (uint32_t i = 0; i < s->layers && !s->valueless; i++) {
    gguf_put_u32(&b, s->value_type);
    if (s->transposed) {
      gguf_put_u32(&b, (uint32_t)pith_llama_row_bytes((pith_gguf_type)s->value_type, 1));
      gguf_put_u32(&b, (uint32_t)s->value_width);
    } else {
      gguf_put_u64(&b, pith_llama_row_bytes((pith_gguf_type)s->value_type, s->value_width));
    }
    state_numbers(&b, s->value_type, s->cells * s->value_width, 2 * i + 2);
  }
  for (uint32_t i = s->stream + 1; i < s->streams && !s->valueless; i++) gguf_put_u32(&b, none);
  for (size_t i = 0; i < s->extra; i++) gguf_put(&b, "", 1);
  return b;
}

/* Parses exactly these bytes; `room` is to be freed after the state was closed. */
static inline pith_status state_read(pith_context *context, const void *bytes, size_t size, void **room,
                                     pith_llama_state **state) {
  pith_file *file = NULL;
  *room = malloc(size ? size : 1);
  assert_non_null(*room);
  if (size > 0) memcpy(*room, bytes, size);
  assert_ok(context, pith_file_lend(context, *room, size, "test.state", &file));
  return pith_llama_state_parse(context, file, state);
}

#endif
