/* llama_state.h - what llama.cpp saves of a context: sequence-state files (llama_state_seq_save_file, version 3) and
 * session files (llama_state_save_file, version 10; the tool's --prompt-cache).
 *
 * A file is: magic, version, tokens; of a session the architecture's name; then one memory: cells with positions and
 * sequences, and for each layer the keys of all cells and the values of all cells, these transposed where the engine
 * runs without flash attention. A cell is one row for all kv heads of a layer. Every length is checked against the file
 * before it is used; what is found points into the file, not aligned. */
#ifndef PITH_SRC_LLAMA_STATE_H
#define PITH_SRC_LLAMA_STATE_H

#include "io/gguf.h"

enum { PITH_LLAMA_SEQUENCE_VERSION = 3, PITH_LLAMA_SESSION_VERSION = 10 };

typedef enum pith_llama_kind { PITH_LLAMA_SEQUENCE = 1, PITH_LLAMA_SESSION = 2 } pith_llama_kind;

typedef struct pith_llama_layer {
  pith_gguf_type key_type, value_type; /* F32, F16 or Q8_0 */
  size_t key_width, value_width;       /* numbers of a cell: kv heads times head size */
  const unsigned char *keys;           /* (cells, key_width) */
  const unsigned char *values;         /* (cells, value_width); transposed: (value_width, cells) */
} pith_llama_layer;

typedef struct pith_llama_state {
  pith_memory *memory;
  pith_file *file;
  pith_llama_kind kind;
  pith_gguf_text architecture; /* session only */
  const unsigned char *tokens; /* (token_count) of 32 bits; what llama-server saves there are no plain tokens */
  size_t token_count;
  size_t streams, stream; /* all cells are in this one of the streams */
  size_t cells;
  int32_t *positions; /* (cells) */
  size_t sequences;   /* to which cells belong */
  int32_t sequence;   /* the first cell's */
  bool shared;        /* some cell belongs to more or less than one sequence */
  bool transposed;
  size_t layers;
  pith_llama_layer *layer;
} pith_llama_state;

pith_status pith_llama_state_open(pith_context *context, const char *path, pith_llama_state **out);
/* Takes the file over, also when it fails. */
pith_status pith_llama_state_parse(pith_context *context, pith_file *file, pith_llama_state **out);
void pith_llama_state_close(pith_llama_state *state); /* NULL is fine */

const char *pith_llama_type_name(pith_gguf_type type); /* "F16" */
size_t pith_llama_row_bytes(pith_gguf_type type, size_t width);
static inline int32_t pith_llama_token(const pith_llama_state *state, size_t index) {
  int32_t token;
  memcpy(&token, state->tokens + index * sizeof token, sizeof token);
  return token;
}

/* Keys and values of a layer as f32, C-ordered (cells, width), as they stand in the file. */
pith_status pith_llama_state_read(pith_context *context, const pith_llama_state *state, size_t layer, float *keys,
                                  float *values);

/* What another state has in place of the cells of a state. */
typedef struct pith_llama_cells {
  size_t count;
  const int32_t *positions;   /* (count) */
  const float *const *keys;   /* (layers) of (count, key_width) */
  const float *const *values; /* (layers) of (count, value_width) */
} pith_llama_cells;

/* A file like that of `state`: the same kind, tokens, types and order of values. Refuses what is not finite in the
 * type that it is stored in. */
pith_status pith_llama_state_write(pith_context *context, const char *path, const pith_llama_state *state,
                                   const pith_llama_cells *cells);
/* Bytes of such a file. */
size_t pith_llama_state_bytes(const pith_llama_state *state, size_t cells);

#endif
