/* lm_judge_report.c - what pith lm judge found: a table, JSON, KL against bytes, and errors of heads. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "lm_judge.h"

judged_piece judged_mean(const judged_row *row) {
  judged_piece out = {.figures = lm_score_figures(&row->score), .predicted_kl = NAN, .attention_error = NAN};
  double count = (double)row->pieces;
  if (!row->pieces) return out;
  out.predicted_kl = out.attention_error = 0;
  for (size_t i = 0; i < row->pieces; i++) {
    const judged_piece *piece = &row->piece[i];
    out.predicted_kl += piece->predicted_kl / count;
    out.attention_error += piece->attention_error / count;
    out.compress_seconds += piece->compress_seconds / count;
    out.max_step_seconds = fmax(out.max_step_seconds, piece->max_step_seconds);
    out.bytes += piece->bytes; /* pieces are equally long: the mean is exact enough in whole bytes */
    out.full_bytes += piece->full_bytes;
    out.other_bytes += piece->other_bytes;
    out.held_bytes += piece->held_bytes;
  }
  out.bytes /= row->pieces;
  out.full_bytes /= row->pieces;
  out.other_bytes /= row->pieces;
  out.held_bytes /= row->pieces;
  return out;
}

static double share(const judged_piece *piece) { return (double)piece->bytes / (double)piece->full_bytes; }

static bool is_exact(const judged_row *row) { return !strcmp(row->method.engine, "exact"); }

/* Something of it was run, or cannot be. */
static bool is_known(const judged_row *row) {
  return row->pieces || row->recall.cases || row->reason || row->recall_reason;
}

static const char *budget_name(const judged_row *row) {
  return is_exact(row) ? "-" : row->method.budget == PITH_BUDGET_SPREAD ? "spread" : "even";
}

static const char *store_name(const judged_row *row) {
  return row->method.store == PITH_STORE_AUTO ? "auto" : pith_dtype_name((pith_dtype)row->method.store);
}

static double prefill_seconds(const lm_judgement *judgement) {
  double sum = 0;
  for (size_t i = 0; i < judgement->texts_done; i++) sum += judgement->text[i].prefill_seconds;
  return sum / (double)judgement->texts_done;
}

/* ---- The table ---- */

static cli_text small(double value) {
  cli_text out = {"-"};
  if (!isnan(value)) snprintf(out.at, sizeof out.at, "%.2g", value);
  return out;
}

static void add_text_cells(cli_table *table, const judged_row *row, bool stream) {
  const judged_piece mean = judged_mean(row);
  table_add(table, "%.4f", share(&mean));
  table_add(table, "%s", small(mean.figures.kl_mean).at);
  table_add(table, "%s", small(mean.figures.kl_p99).at);
  table_add(table, "%s", text_share(mean.figures.top1_agreement).at);
  if (stream) {
    table_add(table, "%.1f", 1e3 * mean.max_step_seconds);
  } else {
    table_add(table, "%.4f", mean.attention_error);
    table_add(table, "%s", small(mean.predicted_kl).at);
  }
  table_add(table, "%s", text_bytes(mean.held_bytes).at);
  table_add(table, "%.2f", mean.compress_seconds);
}

static void add_row(cli_table *table, const judged_row *row, bool stream) {
  enum { TEXT_CELLS = 8, STREAM_CELLS = 7 };
  table_add(table, "%s", row->method.engine);
  table_add(table, "%s", budget_name(row));
  table_add(table, "%s", store_name(row));
  table_add(table, "%s", row->ratio);
  if (row->pieces)
    add_text_cells(table, row, stream);
  else
    for (int i = 0; i < (stream ? STREAM_CELLS : TEXT_CELLS); i++) table_add(table, "-");
  if (row->recall.cases)
    table_add(table, "%zu of %zu", row->recall.exact, row->recall.cases);
  else
    table_add(table, "-");
  table_add(table, "%s", row->reason ? row->reason : row->recall_reason ? row->recall_reason : "");
}

static void print_legend(const lm_judgement *judgement, FILE *out) {
  const bool stream = judgement_streams(judgement);
  fprintf(out, "%zu of %zu texts of %zu tokens, %s %zu %s, %.2f s to read them.\n", judgement->texts_done,
          judgement->texts, judgement->context, stream ? "scored after" : "the first", judgement->prefix,
          stream ? "of them" : "compressed", prefill_seconds(judgement));
  if (stream)
    fprintf(
        out,
        "KL in nats a token against the full cache. bytes: what attention reads after every fold, share of the f16\n"
        "bytes of all tokens; held: memory of the cache by the allocator's count. step: longest step of a fold.\n");
  else
    fprintf(out,
            "KL in nats a token against the full cache. error: L2 difference from exact attention over its norm, mean\n"
            "over heads. held: memory of the compressed cache by the allocator's count; bytes: what attention reads,\n"
            "share of the f16 bytes.\n");
}

void judgement_print(const lm_judgement *judgement, FILE *out) {
  static const char *const oneshot[] = {"<engine", "<budget", "<store",    "size", "bytes",      "KL mean", "KL p99",
                                        "top-1",   "error",   "predicted", "held", "compress s", "recall",  "<"};
  static const char *const streamed[] = {"<engine", "<budget", "<store", "size",   "bytes",  "KL mean", "KL p99",
                                         "top-1",   "step ms", "held",   "fold s", "recall", "<"};
  const bool stream = judgement_streams(judgement);
  cli_table *table = stream ? table_create(streamed, sizeof streamed / sizeof *streamed)
                            : table_create(oneshot, sizeof oneshot / sizeof *oneshot);
  for (size_t i = 0; i < judgement->rows; i++)
    if (is_known(&judgement->row[i])) add_row(table, &judgement->row[i], stream);
  table_print(table, out);
  table_free(table);
  if (judgement->texts_done) print_legend(judgement, out);
  if (judgement->cases.count)
    fprintf(out, "recall: answers exact, of %zu cases (%zu run).\n", judgement->cases.count, judgement->cases_done);
}

/* ---- JSON ---- */

static void json_piece(json_t *object, const judged_piece *piece, bool stream) {
  json_object_set_new(object, "ratio", json_number(share(piece)));
  json_figures(object, &piece->figures);
  json_object_set_new(object, "predicted_kl", json_number(piece->predicted_kl));
  json_object_set_new(object, "attention_error", json_number(piece->attention_error));
  json_object_set_new(object, "cache_bytes", json_count(piece->bytes));
  json_object_set_new(object, "full_cache_bytes", json_count(piece->full_bytes));
  json_object_set_new(object, "other_bytes", json_count(piece->other_bytes));
  json_object_set_new(object, "held_bytes", json_count(piece->held_bytes));
  json_object_set_new(object, "compress_seconds", json_number(piece->compress_seconds));
  if (stream) json_object_set_new(object, "max_step_seconds", json_number(piece->max_step_seconds));
}

/* One list for each layer. */
static json_t *json_head_errors(const lm_judgement *judgement, const judged_row *row) {
  size_t heads = judgement->run.info.kv_heads;
  json_t *layers = json_array();
  for (size_t layer = 0; layer < judgement->run.info.layers; layer++) {
    json_t *list = json_array();
    for (size_t head = 0; head < heads; head++)
      json_array_append_new(list, json_number(row->head_error[layer * heads + head] / (double)row->pieces));
    json_array_append_new(layers, list);
  }
  return layers;
}

static json_t *json_row(const lm_judgement *judgement, const judged_row *row) {
  json_t *object = json_object(), *pieces = json_array();
  const bool stream = judgement_streams(judgement);
  json_object_set_new(object, "engine", json_string(row->method.engine));
  json_object_set_new(object, "budget", is_exact(row) ? json_null() : json_string(budget_name(row)));
  json_object_set_new(object, "store", json_string(store_name(row)));
  json_object_set_new(object, "size", json_string(row->ratio));
  if (row->reason) json_object_set_new(object, "reason", json_string(row->reason));
  if (row->pieces) {
    judged_piece mean = judged_mean(row);
    json_piece(object, &mean, stream);
    if (!stream) json_object_set_new(object, "head_errors", json_head_errors(judgement, row));
  }
  for (size_t i = 0; i < row->pieces; i++) {
    json_t *piece = json_object();
    json_piece(piece, &row->piece[i], stream);
    json_array_append_new(pieces, piece);
  }
  json_object_set_new(object, "texts", pieces);
  const lm_recall_score *recall = &row->recall;
  if (row->recall_reason) json_object_set_new(object, "recall_reason", json_string(row->recall_reason));
  if (recall->cases)
    json_object_set_new(object, "recall",
                        json_pack("{s:I, s:I, s:f}", "cases", (json_int_t)recall->cases, "exact",
                                  (json_int_t)recall->exact, "nll_mean", recall->nll / (double)recall->answer_tokens));
  return object;
}

json_t *judgement_json(const lm_judgement *judgement) {
  json_t *object = json_report(), *texts = json_array(), *rows = json_array();
  const lm_model_info *info = &judgement->run.info;
  json_object_set_new(object, "complete", json_boolean(judgement->complete));
  json_object_set_new(object, "mode", json_string(judgement_streams(judgement) ? "stream" : "oneshot"));
  json_object_set_new(object, "layers", json_count(info->layers));
  json_object_set_new(object, "kv_heads", json_count(info->kv_heads));
  json_object_set_new(object, "context", json_count(judgement->context));
  json_object_set_new(object, "prefix", json_count(judgement->prefix));
  json_object_set_new(object, "cases", json_count(judgement->cases.count));
  json_object_set_new(object, "seed", json_count(judgement->run.session->common->seed));
  for (size_t i = 0; i < judgement->texts_done; i++) {
    json_t *text = json_object();
    const char *from = judgement->text[i].from;
    json_t *words = from ? json_string(from) : NULL;
    json_object_set_new(text, "from", words ? words : json_null());
    json_object_set_new(text, "prefill_seconds", json_number(judgement->text[i].prefill_seconds));
    json_array_append_new(texts, text);
  }
  for (size_t i = 0; i < judgement->rows; i++)
    if (is_known(&judgement->row[i])) json_array_append_new(rows, json_row(judgement, &judgement->row[i]));
  json_object_set_new(object, "texts", texts);
  json_object_set_new(object, "rows", rows);
  json_object_set_new(object, "seconds", json_number(session_seconds(judgement->run.session)));
  return object;
}

/* ---- Pictures ---- */

/* Published figures stand beside the first text only: they are those of its tokens. */
static judged_piece drawn(const lm_judgement *judgement, const judged_row *row) {
  return judgement->marks.count && row->pieces ? row->piece[0] : judged_mean(row);
}

static bool same_method(const judged_row *a, const judged_row *b) {
  return a->method.engine == b->method.engine && a->method.budget == b->method.budget &&
         a->method.store == b->method.store;
}

/* The best published figure near its bytes is named. */
static bool is_best(const lm_marks *marks, const lm_mark *mark) {
  for (size_t i = 0; i < marks->count; i++)
    if (fabs(marks->list[i].ratio / mark->ratio - 1) < 0.2 && marks->list[i].kl < mark->kl) return false;
  return true;
}

/* False: there is nothing to draw. */
static bool draw_lines(const lm_judgement *judgement, cli_plot *plot) {
  bool any = false;
  for (size_t i = 0; i < judgement->rows; i++) {
    const judged_row *row = &judgement->row[i];
    if (is_exact(row) && row->method.store == PITH_F16) continue; /* the full cache itself loses nothing */
    if (i == 0 || !same_method(row, row - 1)) {
      char title[80];
      snprintf(title, sizeof title, "%s %s%s%s", row->method.engine, is_exact(row) ? "" : budget_name(row),
               is_exact(row) ? "" : " ", store_name(row));
      plot_line(plot, title, false);
    }
    judged_piece piece = drawn(judgement, row);
    if (!row->pieces) continue;
    plot_point(plot, share(&piece), piece.figures.kl_mean);
    any = any || piece.figures.kl_mean > 0;
  }
  if (!any || !judgement->marks.count) return any;
  plot_marks_title(plot, "published methods");
  for (size_t i = 0; i < judgement->marks.count; i++) {
    const lm_mark *mark = &judgement->marks.list[i];
    plot_mark(plot, mark->ratio, mark->kl, is_best(&judgement->marks, mark) ? mark->method : NULL);
  }
  return true;
}

static int write_heads(const lm_judgement *judgement, const char *path) {
  const lm_model_info *info = &judgement->run.info;
  const judged_row *row = &judgement->row[judgement->heat_map];
  double *value = allocate_zero(info->layers * info->kv_heads, sizeof *value);
  for (size_t i = 0; i < info->layers * info->kv_heads; i++) value[i] = row->head_error[i] / (double)row->pieces;
  cli_heat_map map = {.title = row->label,
                      .x_label = "kv head",
                      .y_label = "layer",
                      .value_label = "relative attention error",
                      .rows = info->layers,
                      .columns = info->kv_heads,
                      .value = value};
  int code = heat_map_write(judgement->run.session, &map, path);
  free(value);
  return code;
}

/* ---- Files ---- */

static int write_text(const lm_judgement *judgement, const char *path, const char *text, size_t size) {
  pith_context *context = judgement->run.session->context;
  pith_writer writer;
  pith_status status = pith_writer_open(context, path, &writer);
  if (status >= 0) status = pith_writer_close(&writer, pith_writer_put(&writer, text, size));
  return status < 0 ? session_fail(judgement->run.session, status) : EXIT_DONE;
}

/* `json` or a table. */
static int write_report(const lm_judgement *judgement, const char *path, bool json) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out) return session_error(judgement->run.session, EXIT_IO, "%s: %s", path, strerror(errno));
  if (json)
    json_print(judgement_json(judgement), out);
  else
    judgement_print(judgement, out);
  fclose(out);
  int code = write_text(judgement, path, text, size);
  free(text);
  return code;
}

int judgement_write(const lm_judgement *judgement, const char *folder, cli_plot *plot) {
  char path[4096];
  snprintf(path, sizeof path, "%s/judge.json", folder);
  int code = write_report(judgement, path, true);
  if (code || !plot) return code;
  snprintf(path, sizeof path, "%s/judge.txt", folder);
  code = write_report(judgement, path, false);
  snprintf(path, sizeof path, "%s/kl.svg", folder);
  if (!code && draw_lines(judgement, plot)) code = plot_write(judgement->run.session, plot, path);
  snprintf(path, sizeof path, "%s/heads.svg", folder);
  if (!code && judgement->row[judgement->heat_map].pieces && !judgement_streams(judgement))
    code = write_heads(judgement, path);
  return code;
}
