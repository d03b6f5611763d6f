/* lm_cases.c - recall cases: lines of JSON, and whether a cache still knows the answers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lm_score.h"

static int bad_line(const lm_run *run, size_t line, const char *what) {
  return session_error(run->session, EXIT_INPUT, "--cases %s: line %zu: %s", run->arguments->cases, line, what);
}

static int read_parts(lm_run *run, const json_t *object, size_t line, lm_case *out) {
  static const char *const names[] = {"prefix", "query", "answer"};
  lm_tokens *const parts[] = {&out->prefix, &out->query, &out->answer};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    const json_t *value = json_object_get(object, names[i]);
    char what[64];
    snprintf(what, sizeof what, "no text \"%s\", or an empty one", names[i]);
    if (!json_is_string(value) || json_string_length(value) == 0) return bad_line(run, line, what);
    int flags = LM_ENCODE_CONTROL | (i == 0 ? LM_ENCODE_BEGIN : 0);
    int code = lm_encode(run, json_string_value(value), json_string_length(value), flags, parts[i]);
    if (code) return code;
  }
  return EXIT_DONE;
}

static int read_case(lm_run *run, const char *text, size_t size, size_t line, lm_case *out) {
  json_error_t why;
  json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
  if (!object) return bad_line(run, line, why.text);
  int code = read_parts(run, object, line, out);
  json_decref(object);
  size_t total = out->prefix.count + out->query.count + out->answer.count;
  if (!code && total > run->info.context_length)
    code = session_error(run->session, EXIT_INPUT, "--cases %s: line %zu: %zu tokens; the model was made for %zu",
                         run->arguments->cases, line, total, run->info.context_length);
  return code;
}

static bool is_blank(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!strchr(" \t\r", text[i])) return false;
  return true;
}

/* All lines are read before the first case is run. */
int lm_cases_read(lm_run *run, lm_cases *out) {
  char *text = NULL;
  size_t size = 0, lines = 1;
  *out = (lm_cases){0};
  int code = lm_read_file(run->session, "--cases", run->arguments->cases, &text, &size);
  if (code) return code;
  for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
  out->list = allocate_zero(lines, sizeof *out->list);
  size_t number = 1;
  for (size_t at = 0; at < size && !code; number++) {
    const char *end = memchr(text + at, '\n', size - at);
    size_t length = end ? (size_t)(end - text) - at : size - at;
    if (!is_blank(text + at, length)) code = read_case(run, text + at, length, number, &out->list[out->count++]);
    at += length + 1;
  }
  free(text);
  if (!code && out->count == 0)
    code = session_error(run->session, EXIT_INPUT, "--cases %s: no cases", run->arguments->cases);
  if (code) lm_cases_free(run, out);
  return code;
}

void lm_cases_free(lm_run *run, lm_cases *cases) {
  pith_context *context = run->session->context;
  for (size_t i = 0; i < cases->count; i++) {
    lm_tokens_free(context, &cases->list[i].prefix);
    lm_tokens_free(context, &cases->list[i].query);
    lm_tokens_free(context, &cases->list[i].answer);
  }
  free(cases->list);
  *cases = (lm_cases){0};
}

size_t lm_case_fed(const lm_case *one) { return one->query.count + one->answer.count - 1; }

pith_status lm_case_ask(lm_run *run, const lm_case *one, lm_session *after, lm_recall_score *score) {
  const lm_tokens *query = &one->query, *answer = &one->answer;
  size_t vocabulary = run->info.vocabulary, fed = lm_case_fed(one);
  uint32_t *tokens = allocate_zero(fed, sizeof *tokens);
  memcpy(tokens, query->id, query->count * sizeof *tokens);
  memcpy(tokens + query->count, answer->id, (answer->count - 1) * sizeof *tokens);
  float *logits = allocate_zero(answer->count * vocabulary, sizeof *logits);
  pith_status status = lm_session_read(run->session->context, after, tokens, fed, query->count - 1, logits);
  bool exact = true;
  for (size_t i = 0; i < answer->count && status >= 0; i++) {
    const float *row = logits + i * vocabulary;
    exact = exact && lm_largest(row, vocabulary) == answer->id[i];
    score->nll += lm_log_mass(row, vocabulary) - row[answer->id[i]];
  }
  if (status >= 0) {
    score->cases++;
    score->exact += exact;
    score->answer_tokens += answer->count;
  }
  free(logits);
  free(tokens);
  return status;
}

pith_status lm_case_stream(lm_run *run, const lm_case *one, const lm_method *method, lm_stream *out) {
  const size_t full_bytes = lm_full_bytes(run, one->prefix.count + lm_case_fed(one));
  pith_status status = lm_stream_open(run, method, method->ratio * (double)full_bytes, out);
  if (status < 0) return status;
  return lm_session_read(run->session->context, out->session, one->prefix.id, one->prefix.count, one->prefix.count,
                         NULL);
}
