/* lm_recall.c - pith lm recall: are facts of a compressed prefix still found? */
#include <stdlib.h>
#include <string.h>

#include "lm.h"

enum { PREFIX, QUERY, ANSWER, PARTS };

typedef struct recall_case {
  lm_tokens part[PARTS];
} recall_case;

typedef struct recall {
  lm_run run;
  recall_case *list;
  size_t count, exact, answer_tokens;
  double nll;
} recall;

static int bad_line(const recall *r, size_t line, const char *what) {
  return session_error(r->run.session, EXIT_INPUT, "--cases %s: line %zu: %s", r->run.arguments->cases, line, what);
}

static int read_case(recall *r, const char *text, size_t size, size_t line) {
  static const char *const names[] = {"prefix", "query", "answer"};
  json_error_t why;
  json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
  if (!object) return bad_line(r, line, why.text);
  recall_case *added = &r->list[r->count++];
  size_t total = 0;
  int code = EXIT_DONE;
  for (size_t part = 0; part < PARTS && !code; part++) {
    json_t *value = json_object_get(object, names[part]);
    char what[64];
    snprintf(what, sizeof what, "no text \"%s\", or an empty one", names[part]);
    if (!json_is_string(value) || json_string_length(value) == 0) {
      code = bad_line(r, line, what);
      break;
    }
    int flags = LM_ENCODE_CONTROL | (part == PREFIX ? LM_ENCODE_BEGIN : 0);
    code = lm_encode(&r->run, json_string_value(value), json_string_length(value), flags, &added->part[part]);
    total += added->part[part].count;
  }
  json_decref(object);
  if (!code && total > r->run.info.context_length)
    code = session_error(r->run.session, EXIT_INPUT, "--cases %s: line %zu: %zu tokens; the model was made for %zu",
                         r->run.arguments->cases, line, total, r->run.info.context_length);
  return code;
}

static bool is_blank(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!strchr(" \t\r", text[i])) return false;
  return true;
}

/* All lines are read before the first case is run. */
static int read_cases(recall *r) {
  char *text = NULL;
  size_t size = 0, lines = 1;
  int code = lm_read_file(r->run.session, "--cases", r->run.arguments->cases, &text, &size);
  if (code) return code;
  for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
  r->list = allocate_zero(lines, sizeof *r->list);
  size_t number = 1;
  for (size_t at = 0; at < size && !code; number++) {
    const char *end = memchr(text + at, '\n', size - at);
    size_t length = end ? (size_t)(end - text) - at : size - at;
    if (!is_blank(text + at, length)) code = read_case(r, text + at, length, number);
    at += length + 1;
  }
  free(text);
  if (!code && r->count == 0)
    code = session_error(r->run.session, EXIT_INPUT, "--cases %s: no cases", r->run.arguments->cases);
  return code;
}

static int run_case(recall *r, const recall_case *one) {
  pith_context *context = r->run.session->context;
  const lm_tokens *query = &one->part[QUERY], *answer = &one->part[ANSWER];
  size_t vocabulary = r->run.info.vocabulary, fed = query->count + answer->count - 1;
  lm_compressed c;
  int code = lm_compress(&r->run, one->part[PREFIX].id, one->part[PREFIX].count, one->part[PREFIX].count + fed, &c);
  if (code) return code;
  uint32_t *tokens = allocate_zero(fed, sizeof *tokens);
  memcpy(tokens, query->id, query->count * sizeof *tokens);
  memcpy(tokens + query->count, answer->id, (answer->count - 1) * sizeof *tokens);
  float *logits = allocate_zero(answer->count * vocabulary, sizeof *logits);
  pith_status status = lm_session_read(context, c.after, tokens, fed, query->count - 1, logits);
  if (status >= 0) {
    bool exact = true;
    for (size_t i = 0; i < answer->count; i++) {
      const float *row = logits + i * vocabulary;
      exact = exact && lm_largest(row, vocabulary) == answer->id[i];
      r->nll += lm_log_mass(row, vocabulary) - row[answer->id[i]];
    }
    r->exact += exact;
    r->answer_tokens += answer->count;
  }
  free(logits);
  free(tokens);
  lm_compressed_free(&c);
  return status < 0 ? session_fail(r->run.session, status) : EXIT_DONE;
}

static void report(const recall *r) {
  cli_session *session = r->run.session;
  double nll = r->nll / (double)r->answer_tokens;
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "engine", json_string(lm_engine(r->run.arguments)));
    json_object_set_new(object, "cases", json_count(r->count));
    json_object_set_new(object, "exact", json_count(r->exact));
    json_object_set_new(object, "nll_mean", json_number(nll));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
  } else if (!session->common->quiet) {
    fprintf(session->out, "%zu of %zu answers exact, %.4f nats an answer token\n", r->exact, r->count, nll);
  }
}

int lm_recall(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->cases) return usage_error(session->command, "--cases F.jsonl is missing");
  if (!lm_is_compressed(arguments))
    return usage_error(session->command, "no size; give --ratio R, or --engine exact for the whole cache");
  recall r = {.count = 0};
  int code = lm_open(session, &r.run);
  if (code) return code;
  code = read_cases(&r);
  for (size_t i = 0; i < r.count && !code; i++) code = run_case(&r, &r.list[i]);
  if (!code) report(&r);
  for (size_t i = 0; i < r.count; i++)
    for (size_t part = 0; part < PARTS; part++) lm_tokens_free(session->context, &r.list[i].part[part]);
  free(r.list);
  lm_close(&r.run);
  return code;
}
