/* tokenizer_inside.h - what a tokenizer is made of. */
#ifndef PITH_LM_TOKENIZER_INSIDE_H
#define PITH_LM_TOKENIZER_INSIDE_H

#include "io/gguf.h"
#include "lm/tokenizer.h"
#include "lm/tokenizer_split.h"

typedef enum token_type { /* by the numbers of tokenizer.ggml.token_type */
                          TOKEN_NORMAL = 1,
                          TOKEN_UNKNOWN = 2,
                          TOKEN_CONTROL = 3,
                          TOKEN_USER_DEFINED = 4,
                          TOKEN_UNUSED = 5,
                          TOKEN_BYTE = 6
} token_type;

typedef struct merge {
  int32_t left, right, joined;
} merge;

/* Open addressing: a slot holds an index + 1, or 0. */
typedef struct index_table {
  uint32_t *slot;
  size_t mask;
} index_table;

enum { NO_TOKEN = -1 };

struct lm_tokenizer {
  pith_memory *memory;
  size_t count, longest;
  unsigned char *bytes; /* of all tokens, one after another, as they stand in a text */
  size_t *begin;        /* (count + 1) */
  uint8_t *type;        /* (count) */
  index_table texts;    /* tokens that merging may arrive at, by their bytes */
  int32_t byte_token[256];
  int32_t opening, ending, turn_ending, unknown;
  bool opens;       /* texts begin with the opening token */
  int32_t *special; /* control and user defined tokens, longest first */
  size_t special_count;

  /* gpt2 */
  lm_split_rule rule;
  bool whole_words; /* a piece that is a token stays whole, whatever merges would make of it */
  merge *merges;    /* best first; NULL: SentencePiece */
  size_t merge_count;
  index_table pairs; /* merges, by left and right */

  /* llama */
  bool sentencepiece, leading_space;
  float *score; /* (count) */
};

/* tokenizer.c: the token of these bytes, NO_TOKEN: none. */
int32_t tokenizer_find(const lm_tokenizer *tokenizer, const unsigned char *text, size_t size);
/* Index of the merge of two tokens, SIZE_MAX: none. */
size_t tokenizer_find_merge(const lm_tokenizer *tokenizer, int32_t left, int32_t right);
static inline size_t token_size(const lm_tokenizer *tokenizer, int32_t token) {
  return tokenizer->begin[token + 1] - tokenizer->begin[token];
}

#endif
