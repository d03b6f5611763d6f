/* calibrate.c - the queries of a text, recorded while llama.cpp reads it: a calibration file for models that pith's own
 * runner does not know.
 *
 * usage: calibrate BACKENDS MODEL TEXT TOKENS OUT.npy
 *   reads at most TOKENS tokens of TEXT; BACKENDS is the folder of llama.cpp's libraries */
#include "pith_llama.h"
#include "program.h"

enum { BATCH = 512 };

int main(int count, char **arguments) {
  if (count != 6) stop("usage: calibrate BACKENDS MODEL TEXT TOKENS OUT.npy");
  struct llama_model *model = open_model(arguments[1], arguments[2]);
  size_t length = 0;
  llama_token *tokens = read_tokens(model, arguments[3], strtoul(arguments[4], NULL, 10), &length);
  pith_context *context = NULL;
  pith_llama *recorder = NULL;
  if (pith_context_create(NULL, &context) < 0) stop("no memory");
  if (pith_llama_open(context, arguments[2], length, &recorder) < 0) stop(pith_context_message(context));
  struct llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = (uint32_t)length;
  parameters.n_batch = BATCH;
  parameters.n_threads = parameters.n_threads_batch = 1;
  parameters.cb_eval = pith_llama_observe;
  parameters.cb_eval_user_data = recorder;
  struct llama_context *llama = llama_init_from_model(model, parameters);
  if (!llama) stop("no context");
  for (size_t i = 0; i < length; i += BATCH) {
    const size_t some = length - i < BATCH ? length - i : BATCH;
    if (llama_decode(llama, llama_batch_get_one(tokens + i, (int32_t)some)) != 0) stop("llama_decode failed");
  }
  if (pith_llama_save_queries(context, recorder, length, arguments[5]) < 0) stop(pith_context_message(context));
  printf("queries of %zu tokens; %s\n", length, arguments[5]);
  llama_free(llama);
  llama_model_free(model);
  pith_llama_close(context, recorder);
  pith_context_free(context);
  free(tokens);
  return 0;
}
