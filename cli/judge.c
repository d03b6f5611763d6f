/* judge.c - builds every engine at every size, and measures. */
#include "judge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- What is asked for ---- */

static const char *engine_name(const void *names, size_t index) {
  (void)names;
  return pith_engine_name(index);
}

/* The next element of a comma-separated list; false at the end. `out` holds it, cut where it is too long. */
static bool next_element(const char **text, char *out, size_t size) {
  if (!**text) return false;
  size_t length = strcspn(*text, ",");
  snprintf(out, size, "%.*s", (int)length, *text);
  *text += length + ((*text)[length] == ',');
  return true;
}

static const char *find_engine(const char *name) {
  for (size_t i = 0; pith_engine_name(i); i++)
    if (!strcmp(pith_engine_name(i), name)) return pith_engine_name(i);
  return NULL;
}

int judge_parse_engines(const cli_command *command, const char *text, judge_request *request) {
  request->engines = 0;
  if (!strcmp(text, "all")) {
    while (request->engines < MOST_ENGINES && pith_engine_name(request->engines)) {
      request->engine[request->engines] = pith_engine_name(request->engines);
      request->engines++;
    }
    return EXIT_DONE;
  }
  char name[32];
  while (next_element(&text, name, sizeof name)) {
    const char *found = find_engine(name), *near = nearest_name(name, engine_name, NULL);
    if (!found && near) return usage_error(command, "--engines: no engine '%s'; did you mean %s?", name, near);
    if (!found)
      return usage_error(command, "--engines: no engine '%s'; 'pith help compress' lists them, 'all' takes all", name);
    if (request->engines == MOST_ENGINES) return usage_error(command, "--engines: more than %d engines", MOST_ENGINES);
    request->engine[request->engines++] = found;
  }
  return EXIT_DONE;
}

int judge_parse_sizes(const cli_command *command, const char *text, judge_request *request) {
  request->sizes = 0;
  judge_size size = {.points = 0};
  while (next_element(&text, size.label, sizeof size.label)) {
    bool whole = strspn(size.label, "0123456789") == strlen(size.label);
    double value = 0;
    if (!number_parse(size.label, &value) || value <= 0 || value > 1e15)
      return usage_error(command,
                         "--sizes has '%s'; give ratios such as 1/4 or 0.25, or whole numbers of points, with commas "
                         "between them",
                         size.label);
    if (request->sizes == MOST_SIZES) return usage_error(command, "--sizes: more than %d sizes", MOST_SIZES);
    size.points = whole ? (size_t)value : 0;
    size.ratio = whole ? 0 : value;
    request->size[request->sizes++] = size;
  }
  return EXIT_DONE;
}

/* ---- Building and measuring ---- */

/* One engine at one size. A failure that lies in the engine's needs becomes a row that says so. */
static int judge_one(cli_session *session, const cli_trial *trial, const judge_request *request, judge_row *row) {
  pith_compress_options options = request->options;
  options.engine = row->engine;
  options.points = row->size.points ? row->size.points : PITH_UNSET;
  options.ratio = row->size.ratio;
  options.budget = PITH_BUDGET_EVEN; /* engines beside each other, at the same points in every head */
  char label[64];
  snprintf(label, sizeof label, "%s %s", row->engine, row->size.label);
  progress_label(&session->progress, label);
  pith_summary *summary = NULL;
  double started = seconds_now();
  pith_status status =
      pith_compress(session->context, &trial->keys, &trial->values, request->recorded, &options, &summary);
  row->seconds = seconds_now() - started;
  progress_label(&session->progress, NULL);
  if (status <= PITH_E_MEMORY) return session_fail(session, status);
  if (status < 0) {
    const char *message = pith_context_message(session->context);
    row->reason = allocate_zero(strlen(message) + 1, 1);
    memcpy(row->reason, message, strlen(message));
    return EXIT_DONE;
  }
  pith_summary_info info = pith_summary_describe(summary);
  row->points = info.points;
  row->bytes = info.bytes;
  row->ratio = info.ratio;
  row->certificate = info.certificate;
  int code = measure_summary(session, trial, summary, &row->measures);
  pith_summary_free(summary);
  return code;
}

int judge_run(cli_session *session, const cli_trial *trial, const judge_request *request, cli_judge *out) {
  out->row = allocate_zero(request->engines * request->sizes + 1, sizeof *out->row);
  for (size_t e = 0; e < request->engines; e++) {
    bool exact = !strcmp(request->engine[e], "exact"); /* has one size */
    for (size_t s = 0; s < (exact ? 1 : request->sizes); s++) {
      judge_row *row = &out->row[out->rows++];
      row->engine = request->engine[e];
      row->size = exact ? (judge_size){.points = trial->n, .label = "all"} : request->size[s];
      int code = judge_one(session, trial, request, row);
      if (code) return code;
    }
  }
  return EXIT_DONE;
}

void judge_free(cli_judge *judge) {
  for (size_t i = 0; i < judge->rows; i++) {
    free(judge->row[i].reason);
    measures_free(&judge->row[i].measures);
  }
  free(judge->row);
}

/* ---- Reports ---- */

void judge_print(cli_session *session, const cli_trial *trial, const cli_judge *judge) {
  static const char *const headings[] = {"<engine", "size",     "points", "bytes",   "ratio",      "mean error",  "max",
                                         "rms",     "relative", "within", "build s", "worst head", "<certificate"};
  cli_table *table = table_create(headings, sizeof headings / sizeof *headings);
  for (size_t i = 0; i < judge->rows; i++) {
    const judge_row *row = &judge->row[i];
    const cli_measure *all = &row->measures.all;
    table_add(table, "%s", row->engine);
    table_add(table, "%s", row->size.label);
    if (row->reason) {
      for (int column = 2; column < 12; column++) table_add(table, "-");
      table_add(table, "%s", row->reason);
      continue;
    }
    table_add(table, "%zu", row->points);
    table_add(table, "%s", text_bytes(row->bytes).at);
    table_add(table, "%.4f", row->ratio);
    table_add(table, "%s", text_error(all->mean).at);
    table_add(table, "%s", text_error(all->max).at);
    table_add(table, "%s", text_error(all->rms).at);
    table_add(table, "%.4f", all->relative);
    table_add(table, "%s", text_share(all->within).at);
    table_add(table, "%.2f", row->seconds);
    table_add(table, "%zu.%zu %.3f", row->measures.worst / trial->kv_heads, row->measures.worst % trial->kv_heads,
              row->measures.head[row->measures.worst].relative);
    table_add(table, "%s", text_certificate(&row->certificate).at);
  }
  table_print(table, session->out);
  table_free(table);
  fprintf(
      session->out,
      "Errors are L2 norms of the difference from exact attention; relative: to the norm of the exact answer, mean\n"
      "over heads. within: share of queries below the probe bound of their head. worst head: layer.head, relative.\n");
}

void judge_print_heads(cli_session *session, const cli_trial *trial, const cli_judge *judge) {
  const char **heading = allocate_zero(judge->rows + 2, sizeof *heading);
  char(*name)[48] = allocate_zero(judge->rows + 1, sizeof *name);
  size_t columns = 0;
  heading[columns++] = "layer";
  heading[columns++] = "head";
  for (size_t i = 0; i < judge->rows; i++) {
    if (judge->row[i].reason) continue;
    snprintf(name[i], sizeof name[i], "%s %s", judge->row[i].engine, judge->row[i].size.label);
    heading[columns++] = name[i];
  }
  cli_table *table = table_create(heading, columns);
  for (size_t head = 0; head < trial->layers * trial->kv_heads; head++) {
    table_add(table, "%zu", head / trial->kv_heads);
    table_add(table, "%zu", head % trial->kv_heads);
    for (size_t i = 0; i < judge->rows; i++)
      if (!judge->row[i].reason) table_add(table, "%.4f", judge->row[i].measures.head[head].relative);
  }
  fprintf(session->out, "\nRelative error of every head:\n");
  table_print(table, session->out);
  table_free(table);
  free(name);
  free(heading);
}

static json_t *json_heads(const cli_trial *trial, const cli_measures *measures) {
  json_t *heads = json_array();
  for (size_t i = 0; i < measures->heads; i++) {
    json_t *head = json_object();
    json_object_set_new(head, "layer", json_count(i / trial->kv_heads));
    json_object_set_new(head, "head", json_count(i % trial->kv_heads));
    json_measure(head, &measures->head[i]);
    json_array_append_new(heads, head);
  }
  return heads;
}

json_t *judge_json(const cli_trial *trial, const cli_judge *judge, bool per_head) {
  json_t *rows = json_array();
  for (size_t i = 0; i < judge->rows; i++) {
    const judge_row *row = &judge->row[i];
    json_t *object = json_object();
    json_array_append_new(rows, object);
    json_object_set_new(object, "engine", json_string(row->engine));
    json_object_set_new(object, "size", json_string(row->size.label));
    if (row->reason) {
      json_object_set_new(object, "reason", json_string(row->reason));
      continue;
    }
    json_object_set_new(object, "points", json_count(row->points));
    json_object_set_new(object, "bytes", json_count(row->bytes));
    json_object_set_new(object, "ratio", json_number(row->ratio));
    json_measure(object, &row->measures.all);
    json_object_set_new(object, "certificate", json_certificate(&row->certificate));
    json_object_set_new(object, "seconds", json_number(row->seconds));
    size_t worst = row->measures.worst;
    json_object_set_new(
        object, "worst_head",
        json_pack("{s:I, s:I, s:f}", "layer", (json_int_t)(worst / trial->kv_heads), "head",
                  (json_int_t)(worst % trial->kv_heads), "relative_error", row->measures.head[worst].relative));
    if (per_head) json_object_set_new(object, "heads", json_heads(trial, &row->measures));
  }
  return rows;
}

/* ---- The picture ---- */

static double mean_of(const double *value, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += value[i];
  return sum / (double)count;
}

typedef double (*row_value)(const judge_row *row);
static double mean_error(const judge_row *row) { return row->measures.all.mean; }
/* Infinite, and so not drawn, where one head has no bound. */
static double probe_bound(const judge_row *row) { return mean_of(row->measures.probe_bound, row->measures.heads); }
static double ball_bound(const judge_row *row) { return mean_of(row->measures.ball_bound, row->measures.heads); }

static void plot_rows(const cli_judge *judge, const char *engine, row_value value, const char *title, bool dashed,
                      cli_plot *plot) {
  plot_line(plot, title, dashed);
  for (size_t i = 0; i < judge->rows; i++)
    if (!judge->row[i].reason && !strcmp(judge->row[i].engine, engine))
      plot_point(plot, (double)judge->row[i].points, value(&judge->row[i]));
}

void judge_plot(const cli_judge *judge, cli_plot *plot) {
  const char *before = "";
  for (size_t i = 0; i < judge->rows; i++) {
    const char *engine = judge->row[i].engine;
    /* exact has nothing to trade: its one point, near no error at all, would only stretch the axes. */
    if (strcmp(engine, before) != 0 && strcmp(engine, "exact") != 0)
      plot_rows(judge, engine, mean_error, engine, false, plot);
    before = engine;
  }
  plot_rows(judge, "nystrom", probe_bound, "nystrom, probe bound", true, plot);
  plot_rows(judge, "nystrom", ball_bound, "nystrom, ball bound", true, plot);
}
