/* tokenizer.h - between text and token ids, as the metadata of a GGUF model says.
 *
 * Known are `gpt2` (byte-level byte-pair encoding; a vocabulary of the 256 bytes without merges is its simplest
 * case) with the rules of tokenizer_split.h, and `llama` (SentencePiece: scores, bytes for what has no token). */
#ifndef PITH_LM_TOKENIZER_H
#define PITH_LM_TOKENIZER_H

#include <stdbool.h>

#include "pith.h"

typedef struct pith_gguf pith_gguf;       /* src/io/gguf.h */
typedef struct lm_tokenizer lm_tokenizer; /* keeps nothing of the file; may be read by many threads */

/* `vocabulary`: rows of the model's embedding, which must be as many as there are tokens; 0: not checked. */
PITH_CHECK pith_status lm_tokenizer_create(pith_context *context, const pith_gguf *model, size_t vocabulary,
                                           lm_tokenizer **out);
void lm_tokenizer_free(lm_tokenizer *tokenizer); /* NULL is fine */

size_t lm_tokenizer_count(const lm_tokenizer *tokenizer);
/* The model takes this token for the end of a text or of a turn. */
bool lm_tokenizer_ends(const lm_tokenizer *tokenizer, uint32_t token);

typedef struct lm_tokens {
  uint32_t *id;
  size_t count, capacity;
} lm_tokens;
void lm_tokens_free(pith_context *context, lm_tokens *tokens);

enum {
  LM_ENCODE_BEGIN = 1,  /* the text begins here: the token that opens a text, and SentencePiece's leading space,
                             where the model was trained with them */
  LM_ENCODE_CONTROL = 2 /* control tokens written in the text, such as <|im_end|>, are recognised. Without it they
                             are plain text; user defined tokens are recognised always */
};

/* Appends the tokens of text[0 .. size-1]. Bytes that are not UTF-8 are encoded too. */
PITH_CHECK pith_status lm_tokenizer_encode(pith_context *context, const lm_tokenizer *tokenizer, const char *text,
                                           size_t size, int flags, lm_tokens *tokens);

/* ---- Decoding, token by token: bytes of a character that is not complete yet are held back. ---- */

typedef struct lm_decoder lm_decoder;

/* LM_ENCODE_BEGIN: the leading space that encoding put in is taken out again. LM_ENCODE_CONTROL: control tokens
 * are written out; without it they are left out. */
PITH_CHECK pith_status lm_decoder_create(pith_context *context, const lm_tokenizer *tokenizer, int flags,
                                         lm_decoder **out);
void lm_decoder_free(pith_context *context, lm_decoder *decoder);
/* Bytes of text that the token completes, in *text until the next call. Ids out of range give none. */
size_t lm_decoder_next(lm_decoder *decoder, uint32_t token, const char **text);
/* What is still held back. */
size_t lm_decoder_end(lm_decoder *decoder, const char **text);

#endif
