/* lm_generate.c - pith lm generate: text that goes on from a prompt, on a full or a compressed cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "lm.h"

enum { STREAM_TOKENS = 300 }; /* purpose of the random numbers here */

typedef struct generation {
  lm_run run;
  lm_prefix prefix;
  lm_compressed compressed;
  lm_session *session; /* the one that writes */
  lm_decoder *decoder;
  float *logits;
  float *sorted; /* scratch of the size of the vocabulary */
  char *text;    /* what was written, for JSON */
  size_t text_size, text_capacity, written;
  double seconds;
} generation;

static int descending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

static uint32_t draw(const generation *g) {
  const lm_arguments *arguments = g->run.arguments;
  size_t vocabulary = g->run.info.vocabulary;
  if (arguments->temperature <= 0) return lm_largest(g->logits, vocabulary);
  float least = -INFINITY;
  if (arguments->top_k && arguments->top_k < vocabulary) {
    memcpy(g->sorted, g->logits, vocabulary * sizeof *g->sorted);
    qsort(g->sorted, vocabulary, sizeof *g->sorted, descending);
    least = g->sorted[arguments->top_k - 1];
  }
  double largest = g->logits[lm_largest(g->logits, vocabulary)], mass = 0;
  for (int pass = 0; pass < 2; pass++) {
    pith_stream stream = pith_stream_make(g->run.session->common->seed, STREAM_TOKENS, 0);
    double left = pass ? mass * pith_random_uniform(&stream, g->written) : 0;
    for (size_t i = 0; i < vocabulary; i++) {
      if (g->logits[i] < least) continue;
      double weight = exp((g->logits[i] - largest) / arguments->temperature);
      if (!pass)
        mass += weight;
      else if ((left -= weight) <= 0)
        return (uint32_t)i;
    }
  }
  return lm_largest(g->logits, vocabulary); /* rounding left a rest */
}

static void put_out(generation *g, const char *part, size_t size) {
  if (!g->run.session->common->json) {
    fwrite(part, 1, size, g->run.session->out);
    fflush(g->run.session->out);
    return;
  }
  while (g->text_size + size > g->text_capacity) {
    g->text_capacity = 2 * g->text_capacity + 1024;
    char *grown = allocate_zero(g->text_capacity, 1);
    if (g->text_size) memcpy(grown, g->text, g->text_size);
    free(g->text);
    g->text = grown;
  }
  memcpy(g->text + g->text_size, part, size);
  g->text_size += size;
}

/* Reads the prompt, compressed but for its last token where that is asked for. */
static int read_prompt(generation *g, const lm_tokens *prompt) {
  const lm_arguments *arguments = g->run.arguments;
  cli_session *session = g->run.session;
  size_t capacity = prompt->count + arguments->tokens;
  if (capacity > g->run.info.context_length)
    return session_error(session, EXIT_INPUT, "a prompt of %zu tokens and %zu more; the model was made for %zu",
                         prompt->count, arguments->tokens, g->run.info.context_length);
  size_t read = 0;
  if (lm_is_compressed(arguments) && prompt->count > 1) {
    read = prompt->count - 1;
    lm_method method = lm_chosen(arguments);
    pith_status status = lm_prefix_read(&g->run, prompt->id, read, capacity, &g->prefix);
    if (status >= 0) status = lm_compress(&g->run, &g->prefix, &method, &g->compressed);
    if (status < 0) return session_fail(session, status);
    g->session = g->compressed.after;
  } else {
    lm_session_options options;
    lm_session_options_init(&options);
    options.capacity = capacity;
    pith_status status = lm_session_create(session->context, g->run.model, &options, &g->prefix.session);
    if (status < 0) return session_fail(session, status);
    g->session = g->prefix.session;
  }
  pith_status status = lm_session_read(session->context, g->session, prompt->id + read, prompt->count - read,
                                       prompt->count - read - 1, g->logits);
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

static int write_on(generation *g) {
  cli_session *session = g->run.session;
  const char *part = NULL;
  pith_status status = PITH_OK;
  double started = seconds_now();
  while (g->written < g->run.arguments->tokens && status >= 0) {
    uint32_t token = draw(g);
    g->written++;
    if (lm_tokenizer_ends(g->run.tokenizer, token)) break;
    size_t size = lm_decoder_next(g->decoder, token, &part);
    put_out(g, part, size);
    if (interrupted()) status = PITH_E_CANCELLED;
    if (status >= 0) status = lm_session_read(session->context, g->session, &token, 1, 0, g->logits);
  }
  size_t size = lm_decoder_end(g->decoder, &part);
  put_out(g, part, size);
  g->seconds = seconds_now() - started;
  if (status == PITH_E_CANCELLED) return session_error(session, EXIT_INTERRUPTED, "interrupted");
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

static void report(const generation *g, size_t prompt) {
  cli_session *session = g->run.session;
  size_t cache = lm_session_bytes(g->session).cache_bytes;
  double speed = (double)g->written / g->seconds;
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "prompt_tokens", json_count(prompt));
    json_object_set_new(object, "tokens", json_count(g->written));
    json_t *text = json_stringn(g->text ? g->text : "", g->text_size);
    json_object_set_new(object, "text", text ? text : json_null()); /* null: not UTF-8 */
    json_object_set_new(object, "cache_bytes", json_count(cache));
    json_object_set_new(object, "tokens_per_second", json_number(speed));
    json_object_set_new(object, "seed", json_count(session->common->seed));
    json_print(object, session->out);
    return;
  }
  fputc('\n', session->out);
  if (isatty(STDERR_FILENO) && !session->common->quiet)
    fprintf(stderr, "cache %s, %.0f tokens/s\n", text_bytes(cache).at, speed);
}

static int generate(generation *g) {
  cli_session *session = g->run.session;
  const lm_arguments *arguments = g->run.arguments;
  char *text = NULL;
  size_t size = arguments->prompt ? strlen(arguments->prompt) : 0;
  int code = EXIT_DONE;
  if (arguments->text) code = lm_read_file(session, "--text", arguments->text, &text, &size);
  lm_tokens prompt = {0};
  if (!code)
    code = lm_encode(&g->run, text ? text : arguments->prompt, size, LM_ENCODE_BEGIN | LM_ENCODE_CONTROL, &prompt);
  free(text);
  if (!code && prompt.count == 0) code = session_error(session, EXIT_INPUT, "the prompt is empty");
  pith_status status = code ? PITH_OK : lm_decoder_create(session->context, g->run.tokenizer, 0, &g->decoder);
  if (status < 0) code = session_fail(session, status);
  g->logits = allocate_zero(g->run.info.vocabulary, sizeof *g->logits);
  g->sorted = allocate_zero(g->run.info.vocabulary, sizeof *g->sorted);
  if (!code) code = read_prompt(g, &prompt);
  if (!code) code = write_on(g);
  if (!code) report(g, prompt.count);
  free(g->sorted);
  free(g->logits);
  lm_tokens_free(session->context, &prompt);
  return code;
}

int lm_generate(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->prompt && !arguments->text)
    return usage_error(session->command, "no prompt; give --prompt TEXT or --text FILE");
  if (arguments->prompt && arguments->text)
    return usage_error(session->command, "--prompt together with --text; give one or the other");
  generation g = {.written = 0};
  int code = lm_open(session, &g.run);
  if (code) return code;
  code = generate(&g);
  lm_decoder_free(session->context, g.decoder);
  lm_compressed_free(&g.compressed);
  lm_prefix_free(&g.prefix);
  free(g.text);
  lm_close(&g.run);
  return code;
}
