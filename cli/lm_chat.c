/* lm_chat.c - pith lm chat: several turns, a line each, in one cache.
 *
 * Models whose template is ChatML are spoken to in that; others read the lines as they are, and write on. */
#define _GNU_SOURCE /* memmem */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/gguf.h"
#include "lm_stream.h"
#include "lm_write.h"

typedef struct chat {
  lm_run run;
  lm_stream stream;    /* its session answers; or, where the cache is not bounded, */
  lm_session *session; /* this one */
  lm_writer writer;
  bool chatml, begun, terminal;
  lm_tokens turn; /* what is read next */
  json_t *turns;
} chat;

static bool speaks_chatml(const lm_run *run) {
  static const char opening[] = "<|im_start|>";
  pith_gguf_text template = {NULL, 0};
  const pith_gguf *model = lm_model_gguf(run->model);
  const pith_gguf_value *value = pith_gguf_find(model, "tokenizer.chat_template");
  if (value && value->kind == PITH_GGUF_TEXT && !value->array) template = value->texts[0];
  return template.length && memmem(template.text, template.length, opening, sizeof opening - 1);
}

/* ---- What is read ---- */

/* Tokens of the template: control tokens count. */
static int add_template(chat *c, const char *text) {
  int begin = c->begun ? 0 : LM_ENCODE_BEGIN;
  c->begun = true;
  return lm_encode(&c->run, text, strlen(text), LM_ENCODE_CONTROL | begin, &c->turn);
}

/* Tokens of someone's words: control tokens written in them are plain text. */
static int add_words(chat *c, const char *text) {
  int begin = c->begun ? 0 : LM_ENCODE_BEGIN;
  c->begun = true;
  return lm_encode(&c->run, text, strlen(text), begin, &c->turn);
}

static int add_turn(chat *c, const char *role, const char *words) {
  if (!c->chatml) {
    int code = add_words(c, words);
    return code ? code : add_words(c, "\n");
  }
  char opening[64];
  snprintf(opening, sizeof opening, "<|im_start|>%s\n", role);
  int code = add_template(c, opening);
  if (!code) code = add_words(c, words);
  return code ? code : add_template(c, "<|im_end|>\n");
}

/* ---- Turns ---- */

/* The next line without its end; NULL: there is none. To be freed. */
static char *read_line(const chat *c) {
  if (c->terminal && !c->run.session->common->quiet) fputs("> ", stderr);
  char *line = NULL;
  size_t capacity = 0;
  ssize_t length = getline(&line, &capacity, stdin);
  while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) line[--length] = '\0';
  if (length >= 0) return line;
  free(line);
  return NULL;
}

static void report_turn(chat *c, size_t read, size_t written, double seconds) {
  cli_session *session = c->run.session;
  lm_writer *writer = &c->writer;
  size_t cache = lm_session_bytes(c->session).cache_bytes;
  double speed = (double)written / seconds;
  if (session->common->json) {
    json_t *turn = json_object(), *text = json_stringn(writer->text ? writer->text : "", writer->text_size);
    json_object_set_new(turn, "prompt_tokens", json_count(read));
    json_object_set_new(turn, "tokens", json_count(written));
    json_object_set_new(turn, "text", text ? text : json_null()); /* null: not UTF-8 */
    json_object_set_new(turn, "cache_bytes", json_count(cache));
    json_object_set_new(turn, "tokens_per_second", json_number(speed));
    json_array_append_new(c->turns, turn);
    writer->text_size = 0;
    return;
  }
  fputc('\n', session->out);
  fflush(session->out);
  if (isatty(STDERR_FILENO) && !session->common->quiet)
    fprintf(stderr, "cache %s for %zu tokens, %.0f tokens/s\n", text_bytes(cache).at, lm_session_length(c->session),
            speed);
}

/* Reads what was said, and answers. */
static int answer(chat *c) {
  cli_session *session = c->run.session;
  size_t length = lm_session_length(c->session), capacity = lm_session_capacity(c->session);
  if (c->turn.count >= capacity - length)
    return session_error(session, EXIT_INPUT,
                         "the chat has %zu tokens and this turn %zu more; the model was made for %zu", length,
                         c->turn.count, capacity);
  size_t left = capacity - length - c->turn.count, tokens = c->run.arguments->tokens;
  int code = lm_writer_read(&c->writer, c->turn.id, c->turn.count);
  size_t read = c->turn.count, before = c->writer.written;
  double seconds = c->writer.seconds;
  c->turn.count = 0;
  if (!code) code = lm_writer_write(&c->writer, tokens < left ? tokens : left);
  if (!code) report_turn(c, read, c->writer.written - before, c->writer.seconds - seconds);
  if (!code) code = c->chatml ? add_template(c, "<|im_end|>\n") : add_words(c, "\n");
  return code;
}

static int take_turns(chat *c) {
  int code = EXIT_DONE;
  char *line = NULL;
  if (c->run.arguments->prompt) code = add_turn(c, "system", c->run.arguments->prompt);
  while (!code && !interrupted() && (line = read_line(c))) {
    if (*line) {
      code = add_turn(c, "user", line);
      if (!code && c->chatml) code = add_template(c, "<|im_start|>assistant\n");
      if (!code) code = answer(c);
    }
    free(line);
  }
  return code;
}

static int open_session(chat *c) {
  if (lm_stream_asked(c->run.arguments)) {
    int code = lm_stream_start(&c->run, &c->stream);
    c->session = c->stream.session;
    c->begun = c->session && lm_session_length(c->session) > 0;
    return code;
  }
  lm_session_options options;
  lm_session_options_init(&options);
  pith_status status = lm_session_create(c->run.session->context, c->run.model, &options, &c->session);
  return status < 0 ? session_fail(c->run.session, status) : EXIT_DONE;
}

/* What is read already of the next turn is the end of the last one. */
static int save(chat *c) {
  if (!c->run.arguments->save_cache) return EXIT_DONE;
  int code = c->turn.count ? lm_writer_read(&c->writer, c->turn.id, c->turn.count) : EXIT_DONE;
  c->turn.count = 0;
  return code ? code : lm_stream_save(&c->run, &c->stream);
}

static void report(const chat *c) {
  cli_session *session = c->run.session;
  if (!session->common->json) return;
  json_t *object = json_report();
  json_object_set_new(object, "template", json_string(c->chatml ? "chatml" : "plain"));
  json_object_set(object, "turns", c->turns);
  json_object_set_new(object, "length", json_count(lm_session_length(c->session)));
  json_object_set_new(object, "cache_bytes", json_count(lm_session_bytes(c->session).cache_bytes));
  json_object_set_new(object, "longest_pause_seconds", json_number(c->writer.pause));
  if (c->stream.cache) {
    const pith_cache_info info = pith_cache_describe(c->stream.cache);
    json_stream(object, &info);
  }
  json_object_set_new(object, "seed", json_count(session->common->seed));
  json_print(object, session->out);
}

int lm_chat(cli_session *session) {
  int code = lm_stream_check(session);
  if (code) return code;
  chat c = {.terminal = isatty(STDIN_FILENO) != 0};
  code = lm_open(session, &c.run);
  if (code) return code;
  c.turns = json_array();
  c.chatml = speaks_chatml(&c.run);
  code = open_session(&c);
  if (!code) code = lm_writer_open(&c.run, c.session, &c.writer);
  if (!code) code = take_turns(&c);
  if (!code && !interrupted()) code = save(&c);
  if (!code) report(&c);
  if (!code && interrupted()) code = EXIT_INTERRUPTED;
  lm_writer_close(&c.writer);
  if (c.stream.cache)
    lm_stream_close(&c.run, &c.stream);
  else
    lm_session_free(c.session);
  lm_tokens_free(session->context, &c.turn);
  json_decref(c.turns);
  lm_close(&c.run);
  return code;
}
