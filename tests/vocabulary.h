/* vocabulary.h - made-up vocabularies in GGUF files of metadata alone, and what tests ask of tokenizers. */
#ifndef PITH_TESTS_VOCABULARY_H
#define PITH_TESTS_VOCABULARY_H

#include "gguf_writer.h"
#include "lm/tokenizer.h"

/* ---- Files ---- */

static inline gguf_writer vocabulary_begin(const char *model, const char *pre) {
  gguf_writer w = {0};
  gguf_text(&w, "tokenizer.ggml.model", model);
  if (pre) gguf_text(&w, "tokenizer.ggml.pre", pre);
  return w;
}

static inline void vocabulary_texts(gguf_writer *w, const char *key, const char *const *texts, size_t count) {
  gguf_array(w, key, PITH_GGUF_TEXT, count);
  for (size_t i = 0; i < count; i++) gguf_put_text(&w->values, texts[i]);
}

static inline void vocabulary_tokens(gguf_writer *w, const char *const *tokens, size_t count) {
  vocabulary_texts(w, "tokenizer.ggml.tokens", tokens, count);
}

static inline void vocabulary_merges(gguf_writer *w, const char *const *merges, size_t count) {
  vocabulary_texts(w, "tokenizer.ggml.merges", merges, count);
}

static inline void vocabulary_types(gguf_writer *w, const int32_t *types, size_t count) {
  gguf_array(w, "tokenizer.ggml.token_type", PITH_GGUF_I32, count);
  gguf_put(&w->values, types, count * sizeof *types);
}

static inline void vocabulary_scores(gguf_writer *w, const float *scores, size_t count) {
  gguf_array(w, "tokenizer.ggml.scores", PITH_GGUF_F32, count);
  gguf_put(&w->values, scores, count * sizeof *scores);
}

static inline void vocabulary_flag(gguf_writer *w, const char *key, bool value) {
  gguf_key(w, key, PITH_GGUF_BOOL);
  gguf_put(&w->values, &(unsigned char){value}, 1);
}

/* Ends the writing. What the vocabulary is taken for; the message stays in the context. */
static inline pith_status vocabulary_load(pith_context *context, gguf_writer *w, size_t vocabulary,
                                          lm_tokenizer **out) {
  gguf_bytes file = gguf_finish(w);
  void *room = NULL;
  pith_gguf *gguf = NULL;
  assert_ok(context, gguf_read(context, file.bytes, file.size, &room, &gguf));
  const pith_status status = lm_tokenizer_create(context, gguf, vocabulary, out);
  pith_gguf_close(gguf);
  free(room);
  free(file.bytes);
  return status;
}

static inline lm_tokenizer *vocabulary_loaded(pith_context *context, gguf_writer *w) {
  lm_tokenizer *tokenizer = NULL;
  assert_ok(context, vocabulary_load(context, w, 0, &tokenizer));
  return tokenizer;
}

/* ---- The 256 bytes in the alphabet of byte-level vocabularies ---- */

static char alphabet[256][3];

static inline void make_alphabet(void) {
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; byte++) {
    bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    unsigned code = printable ? byte : next++;
    if (code < 128) {
      alphabet[byte][0] = (char)code;
      alphabet[byte][1] = '\0';
    } else {
      alphabet[byte][0] = (char)(0xc0 | code >> 6);
      alphabet[byte][1] = (char)(0x80 | (code & 63));
      alphabet[byte][2] = '\0';
    }
  }
}

/* tokens[0 .. 255] are the bytes. */
static inline void list_bytes(const char **tokens) {
  for (size_t i = 0; i < 256; i++) tokens[i] = alphabet[i];
}

/* One token for each byte, and no merges. */
static inline lm_tokenizer *byte_tokenizer(pith_context *context) {
  const char *tokens[256];
  list_bytes(tokens);
  gguf_writer w = vocabulary_begin("gpt2", "gpt-2");
  vocabulary_tokens(&w, tokens, 256);
  vocabulary_merges(&w, tokens, 0);
  return vocabulary_loaded(context, &w);
}

/* ---- Tokens as text: "3 17 4" ---- */

static inline void assert_tokens(pith_context *context, const lm_tokenizer *tokenizer, const char *text, int flags,
                                 const char *expected) {
  lm_tokens tokens = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, text, strlen(text), flags, &tokens));
  char got[512] = "";
  size_t length = 0;
  for (size_t i = 0; i < tokens.count; i++)
    length += (size_t)snprintf(got + length, sizeof got - length, "%s%u", i ? " " : "", tokens.id[i]);
  assert_string_equal(got, expected);
  lm_tokens_free(context, &tokens);
}

/* Decodes token by token into out; every part handed out but the last ends with a whole character. */
static inline size_t decode(pith_context *context, const lm_tokenizer *tokenizer, const lm_tokens *tokens, int flags,
                            char *out) {
  lm_decoder *decoder = NULL;
  assert_ok(context, lm_decoder_create(context, tokenizer, flags, &decoder));
  size_t size = 0;
  const char *part = NULL;
  for (size_t i = 0; i < tokens->count; i++) {
    size_t length = lm_decoder_next(decoder, tokens->id[i], &part);
    memcpy(out + size, part, length);
    size += length;
  }
  size_t length = lm_decoder_end(decoder, &part);
  memcpy(out + size, part, length);
  lm_decoder_free(context, decoder);
  return size + length;
}

static inline void assert_round_trip(pith_context *context, const lm_tokenizer *tokenizer, const char *text,
                                     size_t size, int flags) {
  lm_tokens tokens = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, text, size, flags, &tokens));
  char *back = malloc(8 * size + 8);
  assert_non_null(back);
  assert_int_equal(decode(context, tokenizer, &tokens, flags, back), size);
  assert_memory_equal(back, text, size);
  free(back);
  lm_tokens_free(context, &tokens);
}

#endif
