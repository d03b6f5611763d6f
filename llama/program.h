/* program.h - what the programs here share: models, texts, and an end when something fails. */
#ifndef PITH_LLAMA_PROGRAM_H
#define PITH_LLAMA_PROGRAM_H

#include <ggml-backend.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>

static _Noreturn inline void stop(const char *what) {
  (void)fprintf(stderr, "%s\n", what);
  exit(1);
}

static inline void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) stop("no memory");
  return memory;
}

static inline void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) (void)fputs(text, stderr);
}

/* BACKENDS is the folder of llama.cpp's libraries. */
static inline struct llama_model *open_model(const char *backends, const char *path) {
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(backends);
  struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
  if (!model) stop(path);
  return model;
}

/* The first tokens of a text, as many as there are up to `most`. */
static inline llama_token *read_tokens(const struct llama_model *model, const char *path, size_t most, size_t *count) {
  enum { BYTES_A_TOKEN = 16 };
  const size_t room = most * BYTES_A_TOKEN;
  FILE *file = fopen(path, "rb");
  if (!file) stop(path);
  char *text = allocate(room, 1);
  const size_t size = fread(text, 1, room, file);
  (void)fclose(file);
  llama_token *tokens = allocate(size + 2, sizeof *tokens);
  const int32_t found =
      llama_tokenize(llama_model_get_vocab(model), text, (int32_t)size, tokens, (int32_t)size + 2, true, false);
  if (found < 1) stop("the text has no tokens");
  *count = (size_t)found < most ? (size_t)found : most;
  free(text);
  return tokens;
}

static inline llama_token likeliest(const float *logits, int32_t count) {
  llama_token best = 0;
  for (llama_token i = 1; i < count; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

static inline void write_token(const struct llama_model *model, llama_token token) {
  char piece[64];
  const int32_t length = llama_token_to_piece(llama_model_get_vocab(model), token, piece, sizeof piece, 0, false);
  for (int32_t i = 0; i < length; i++) putchar(piece[i]);
}

#endif
