/* bounded.c - text without end from a cache of a fixed number of cells: whenever they are full, they are compressed to
 * a part of them. Positions go on; the model must have been made for as many.
 *
 * usage: bounded BACKENDS MODEL TEXT CELLS TOKENS
 *   reads TEXT (a file) and writes TOKENS tokens with at most CELLS cells; BACKENDS is the folder of llama.cpp's
 *   libraries */
#include "pith_llama.h"
#include "program.h"

enum { BATCH = 64, MOST_TEXT = 1 << 16, SHRUNK = 4 }; /* tokens; cells are shrunk to one in SHRUNK */

typedef struct reader {
  pith_context *context;
  pith_llama *recorder;
  struct llama_context *llama;
  size_t cells, used, position, shrinks;
} reader;

/* Makes room for `count` tokens, then reads them; logits are those of the last. */
static void read_on(reader *r, llama_token *tokens, size_t count) {
  if (r->used + count > r->cells) {
    if (pith_llama_shrink(r->context, r->recorder, r->llama, 0, r->cells / SHRUNK, NULL) < 0)
      stop(pith_context_message(r->context));
    r->used = r->cells / SHRUNK;
    r->shrinks++;
  }
  if (llama_decode(r->llama, llama_batch_get_one(tokens, (int32_t)count)) != 0) stop("llama_decode failed");
  r->used += count;
  r->position += count;
}

int main(int count, char **arguments) {
  if (count != 6) stop("usage: bounded BACKENDS MODEL TEXT CELLS TOKENS");
  reader r = {.cells = strtoul(arguments[4], NULL, 10)};
  const size_t wanted = strtoul(arguments[5], NULL, 10);
  if (r.cells < (size_t)2 * BATCH) stop("CELLS: at least 128");
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = 2;
  if (pith_context_create(&options, &r.context) < 0) stop("no memory");
  if (pith_llama_open(r.context, arguments[2], r.cells, &r.recorder) < 0) stop(pith_context_message(r.context));
  struct llama_model *model = open_model(arguments[1], arguments[2]);
  struct llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = (uint32_t)r.cells;
  parameters.n_batch = BATCH;
  parameters.n_threads = parameters.n_threads_batch = 1;
  parameters.cb_eval = pith_llama_observe;
  parameters.cb_eval_user_data = r.recorder;
  r.llama = llama_init_from_model(model, parameters);
  if (!r.llama) stop("no context");

  size_t length = 0;
  llama_token *tokens = read_tokens(model, arguments[3], MOST_TEXT, &length);
  for (size_t i = 0; i < length; i += BATCH) read_on(&r, tokens + i, length - i < BATCH ? length - i : BATCH);
  const int32_t words = llama_vocab_n_tokens(llama_model_get_vocab(model));
  for (size_t i = 0; i < wanted; i++) {
    llama_token token = likeliest(llama_get_logits_ith(r.llama, -1), words);
    write_token(model, token);
    read_on(&r, &token, 1);
  }
  printf("\n");
  (void)fprintf(stderr, "%zu tokens in %zu cells, compressed %zu times\n", r.position, r.cells, r.shrinks);
  llama_free(r.llama);
  llama_model_free(model);
  pith_llama_close(r.context, r.recorder);
  pith_context_free(r.context);
  free(tokens);
  return 0;
}
