/* lm_judge_request.c - what is asked of pith lm judge: lists of methods and ratios, and published figures. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lm_judge.h"

/* ---- Lists ---- */

/* The next element of a list; false at the end. `out` holds it, cut where it is too long. */
static bool next_element(const char **text, char separator, char *out, size_t size) {
  if (!**text) return false;
  const char separators[] = {separator, '\0'};
  size_t length = strcspn(*text, separators);
  snprintf(out, size, "%.*s", (int)length, *text);
  *text += length + ((*text)[length] == separator);
  return true;
}

static const char *engine_name(const void *names, size_t index) {
  (void)names;
  return pith_engine_name(index);
}

static const char *find_engine(const char *name) {
  for (size_t i = 0; pith_engine_name(i); i++)
    if (!strcmp(pith_engine_name(i), name)) return pith_engine_name(i);
  return NULL;
}

static const struct {
  const char *name;
  bool budget;
  int value;
} words[] = {{"even", true, PITH_BUDGET_EVEN}, {"spread", true, PITH_BUDGET_SPREAD}, {"f32", false, PITH_F32},
             {"f16", false, PITH_F16},         {"bf16", false, PITH_BF16},           {"q8", false, PITH_Q8},
             {"q4", false, PITH_Q4},           {"auto", false, PITH_STORE_AUTO}};

/* Budget or store of a method. */
static bool set_word(const char *word, lm_method *method) {
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (!strcmp(words[i].name, word)) {
      *(words[i].budget ? &method->budget : &method->store) = words[i].value;
      return true;
    }
  return false;
}

static int add(const cli_command *command, lm_request *request, lm_method method) {
  for (size_t i = 0; i < request->methods; i++) {
    const lm_method *old = &request->method[i];
    if (old->engine == method.engine && old->budget == method.budget && old->store == method.store) return EXIT_DONE;
  }
  if (request->methods == MOST_METHODS) return usage_error(command, "--engines: more than %d methods", MOST_METHODS);
  request->method[request->methods++] = method;
  return EXIT_DONE;
}

/* Whole caches in the types that are stored; nystrom both ways, and with stores chosen where bytes are spread; the
 * others as they were published. */
static int add_suiting(const cli_command *command, lm_request *request, lm_method method) {
  static const struct {
    const char *engine;
    int budget, store;
  } suiting[] = {{"exact", PITH_BUDGET_EVEN, PITH_F16},     {"exact", PITH_BUDGET_EVEN, PITH_Q8},
                 {"exact", PITH_BUDGET_EVEN, PITH_Q4},      {"nystrom", PITH_BUDGET_EVEN, PITH_F16},
                 {"nystrom", PITH_BUDGET_SPREAD, PITH_F16}, {"nystrom", PITH_BUDGET_SPREAD, PITH_STORE_AUTO},
                 {"", PITH_BUDGET_EVEN, PITH_F16}};
  bool known = !strcmp(method.engine, "exact") || !strcmp(method.engine, "nystrom"), added = false;
  for (size_t i = 0; i < sizeof suiting / sizeof *suiting; i++) {
    if (strcmp(suiting[i].engine, known ? method.engine : "") != 0) continue;
    if (method.budget != UNSET_CHOICE && method.budget != suiting[i].budget) continue;
    if (method.store != UNSET_CHOICE && method.store != suiting[i].store) continue;
    int code = add(command, request, (lm_method){method.engine, suiting[i].budget, suiting[i].store, 0});
    if (code) return code;
    added = true;
  }
  if (added) return EXIT_DONE;
  if (method.budget == UNSET_CHOICE) method.budget = PITH_BUDGET_EVEN;
  if (method.store == UNSET_CHOICE) method.store = PITH_F16;
  return add(command, request, method);
}

static int add_method(const cli_command *command, const char *text, lm_request *request) {
  char word[32];
  const char *rest = text;
  if (!next_element(&rest, ':', word, sizeof word)) return usage_error(command, "--engines: an empty name");
  lm_method method = {find_engine(word), UNSET_CHOICE, UNSET_CHOICE, 0};
  const char *near = nearest_name(word, engine_name, NULL);
  if (!method.engine && near) return usage_error(command, "--engines: no engine '%s'; did you mean %s?", word, near);
  if (!method.engine)
    return usage_error(command, "--engines: no engine '%s'; 'pith help compress' lists them, 'all' takes all", word);
  while (next_element(&rest, ':', word, sizeof word))
    if (!set_word(word, &method))
      return usage_error(command,
                         "--engines: '%s' in '%s' is no budget (even, spread) and no store (f32, f16, bf16, "
                         "q8, q4, auto)",
                         word, text);
  if (!strcmp(method.engine, "exact") && (method.budget == PITH_BUDGET_SPREAD || method.store == PITH_STORE_AUTO))
    return usage_error(command, "--engines: '%s': whole caches have nothing to spread or to choose; name a store",
                       text);
  return add_suiting(command, request, method);
}

/* Engines that fold a stream. */
static bool streams(const char *engine) {
  static const char *const names[] = {"nystrom", "halving", "uniform", "recent", "heavy", "accumulated"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strcmp(names[i], engine)) return true;
  return false;
}

int lm_request_methods(const cli_command *command, const char *text, bool stream, lm_request *request) {
  char element[64];
  int code = EXIT_DONE;
  bool all = !strcmp(text, "all");
  for (size_t i = 0; all && pith_engine_name(i) && !code; i++)
    if (!stream || streams(pith_engine_name(i))) code = add_method(command, pith_engine_name(i), request);
  while (!all && !code && next_element(&text, ',', element, sizeof element))
    code = add_method(command, element, request);
  for (size_t m = 0; stream && m < request->methods && !code; m++)
    if (!streams(request->method[m].engine))
      code = usage_error(command,
                         "--engines: %s does not stream; nystrom, halving, uniform, recent, heavy and accumulated do",
                         request->method[m].engine);
  return code;
}

int lm_request_ratios(const cli_command *command, const char *text, lm_request *request) {
  lm_ratio ratio;
  while (next_element(&text, ',', ratio.label, sizeof ratio.label)) {
    if (!number_parse(ratio.label, &ratio.value) || !(ratio.value > 0) || ratio.value > 1)
      return usage_error(command,
                         "--ratios has '%s'; give shares of the f16 bytes above 0 and up to 1, such as 1/4 or 0.25, "
                         "with commas between them",
                         ratio.label);
    if (request->ratios == MOST_RATIOS) return usage_error(command, "--ratios: more than %d", MOST_RATIOS);
    request->ratio[request->ratios++] = ratio;
  }
  return EXIT_DONE;
}

/* ---- Published figures ---- */

static bool read_mark(const json_t *row, lm_mark *out, const char **missing) {
  const json_t *method = json_object_get(row, "method"), *ratio = json_object_get(row, "bytes_ratio"),
               *kl = json_object_get(row, "kl_mean");
  *missing = !json_is_string(method)                                     ? "no text \"method\""
             : !json_is_number(ratio) || !(json_number_value(ratio) > 0) ? "no number \"bytes_ratio\" above zero"
             : !json_is_number(kl) || !(json_number_value(kl) >= 0)      ? "no number \"kl_mean\", zero or more"
                                                                         : NULL;
  if (*missing) return false;
  snprintf(out->method, sizeof out->method, "%s", json_string_value(method));
  out->ratio = json_number_value(ratio);
  out->kl = json_number_value(kl);
  return true;
}

static int read_rows(cli_session *session, const char *path, const json_t *rows, lm_marks *out) {
  if (!json_is_array(rows)) return session_error(session, EXIT_INPUT, "--marks %s: no list \"rows\"", path);
  out->list = allocate_zero(json_array_size(rows), sizeof *out->list);
  for (size_t i = 0; i < json_array_size(rows); i++) {
    const char *missing = NULL;
    if (!read_mark(json_array_get(rows, i), &out->list[out->count], &missing))
      return session_error(session, EXIT_INPUT, "--marks %s: row %zu: %s", path, i + 1, missing);
    out->count++;
  }
  return EXIT_DONE;
}

int lm_marks_read(cli_session *session, const char *path, lm_marks *out) {
  char *text = NULL;
  size_t size = 0;
  int code = lm_read_file(session, "--marks", path, &text, &size);
  if (code) return code;
  json_error_t why;
  json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
  free(text);
  if (!root) return session_error(session, EXIT_INPUT, "--marks %s: line %d: %s", path, why.line, why.text);
  code = read_rows(session, path, json_object_get(root, "rows"), out);
  json_decref(root);
  return code;
}
