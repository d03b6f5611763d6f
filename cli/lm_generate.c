/* lm_generate.c - pith lm generate: text that goes on from a prompt, on a full or a compressed cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lm_stream.h"
#include "lm_write.h"

typedef struct generation {
  lm_run run;
  lm_tokens prompt;
  lm_prefix prefix; /* of a prompt that is compressed, or of one that is not */
  lm_compressed compressed;
  lm_stream stream; /* or a cache of bounded bytes */
  lm_writer writer;
} generation;

static int read_prompt(generation *g) {
  cli_session *session = g->run.session;
  const lm_arguments *arguments = session->arguments;
  char *text = NULL;
  size_t size = arguments->prompt ? strlen(arguments->prompt) : 0;
  int code = EXIT_DONE;
  if (arguments->text) code = lm_read_file(session, "--text", arguments->text, &text, &size);
  int flags = LM_ENCODE_CONTROL | (arguments->load_cache ? 0 : LM_ENCODE_BEGIN);
  if (!code) code = lm_encode(&g->run, text ? text : arguments->prompt, size, flags, &g->prompt);
  free(text);
  if (!code && g->prompt.count == 0) code = session_error(session, EXIT_INPUT, "the prompt is empty");
  return code;
}

static int check_length(const generation *g, size_t before) {
  size_t limit = g->run.info.context_length, all = before + g->prompt.count, more = g->run.arguments->tokens;
  if (all <= limit && more <= limit - all) return EXIT_DONE;
  return session_error(g->run.session, EXIT_INPUT, "a prompt of %zu tokens and %zu more; the model was made for %zu",
                       all, more, limit);
}

/* A session that has read the first *read tokens of the prompt: all but the last, where they are compressed. */
static pith_status open_cache(generation *g, lm_session **out, size_t *read) {
  const lm_arguments *arguments = g->run.arguments;
  pith_context *context = g->run.session->context;
  size_t capacity = g->prompt.count + arguments->tokens;
  *read = 0;
  if (lm_is_compressed(arguments) && g->prompt.count > 1) {
    *read = g->prompt.count - 1;
    lm_method method = lm_chosen(arguments);
    pith_status status = lm_prefix_read(&g->run, g->prompt.id, *read, capacity, &g->prefix);
    if (status >= 0) status = lm_compress(&g->run, &g->prefix, &method, &g->compressed);
    *out = g->compressed.after;
    return status;
  }
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = capacity;
  pith_status status = lm_session_create(context, g->run.model, &options, &g->prefix.session);
  *out = g->prefix.session;
  return status;
}

static void report(const generation *g) {
  cli_session *session = g->run.session;
  const lm_writer *writer = &g->writer;
  size_t cache = lm_session_bytes(writer->session).cache_bytes;
  double speed = writer->written ? (double)writer->written / writer->seconds : NAN;
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "prompt_tokens", json_count(g->prompt.count));
    json_object_set_new(object, "tokens", json_count(writer->written));
    json_t *text = json_stringn(writer->text ? writer->text : "", writer->text_size);
    json_object_set_new(object, "text", text ? text : json_null()); /* null: not UTF-8 */
    json_object_set_new(object, "length", json_count(lm_session_length(writer->session)));
    json_object_set_new(object, "cache_bytes", json_count(cache));
    if (g->stream.cache) {
      const pith_cache_info info = pith_cache_describe(g->stream.cache);
      json_stream(object, &info);
    }
    json_object_set_new(object, "tokens_per_second", json_number(speed));
    json_object_set_new(object, "longest_pause_seconds", json_number(writer->pause));
    json_object_set_new(object, "seed", json_count(session->common->seed));
    json_print(object, session->out);
    return;
  }
  if (writer->written) fputc('\n', session->out);
  if (!isatty(STDERR_FILENO) || session->common->quiet || !writer->written) return;
  fprintf(stderr, "cache %s, %.0f tokens/s, longest pause %.0f ms", text_bytes(cache).at, speed, 1e3 * writer->pause);
  if (g->stream.cache)
    fprintf(stderr, ", longest step of a fold %.0f ms", 1e3 * pith_cache_describe(g->stream.cache).max_step_seconds);
  fputc('\n', stderr);
}

static int generate(generation *g) {
  lm_session *session = NULL;
  size_t read = 0;
  int code = read_prompt(g);
  if (!code && lm_stream_asked(g->run.arguments)) {
    code = lm_stream_start(&g->run, &g->stream);
    session = g->stream.session;
  }
  if (!code) code = check_length(g, session ? lm_session_length(session) : 0);
  if (!code && !session) {
    pith_status status = open_cache(g, &session, &read);
    if (status < 0) return session_fail(g->run.session, status);
  }
  if (!code) code = lm_writer_open(&g->run, session, &g->writer);
  if (!code) code = lm_writer_read(&g->writer, g->prompt.id + read, g->prompt.count - read);
  if (!code) code = lm_stream_save(&g->run, &g->stream);
  if (!code) code = lm_writer_write(&g->writer, g->run.arguments->tokens);
  if (!code) report(g);
  return code;
}

int lm_generate(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->prompt && !arguments->text)
    return usage_error(session->command, "no prompt; give --prompt TEXT or --text FILE");
  if (arguments->prompt && arguments->text)
    return usage_error(session->command, "--prompt together with --text; give one or the other");
  if (!arguments->tokens && !arguments->save_cache)
    return usage_error(session->command, "--tokens 0 writes nothing; it is meant for --save-cache F");
  int code = lm_stream_check(session);
  if (code) return code;
  generation g = {.prompt = {0}};
  code = lm_open(session, &g.run);
  if (code) return code;
  code = generate(&g);
  lm_writer_close(&g.writer);
  lm_stream_close(&g.run, &g.stream);
  lm_compressed_free(&g.compressed);
  lm_prefix_free(&g.prefix);
  lm_tokens_free(session->context, &g.prompt);
  lm_close(&g.run);
  return code;
}
