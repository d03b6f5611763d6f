/* describe.c - a summary, for people and for programs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "summary/summary.h"

static size_t exact_rows(const pith_head_view *head) {
  size_t count = 0;
  for (size_t i = 0; i < head->points; i++) count += head->exact[i] != 0;
  return count;
}

static json_t *json_head(size_t layer, size_t number, const pith_head_view *head) {
  json_t *object = json_object();
  json_object_set_new(object, "layer", json_count(layer));
  json_object_set_new(object, "head", json_count(number));
  json_object_set_new(object, "points", json_count(head->points));
  json_object_set_new(object, "exact", json_count(exact_rows(head)));
  json_object_set_new(object, "source_rows", json_count(head->source_rows));
  json_object_set_new(object, "store", json_string(pith_dtype_name(head->store)));
  json_object_set_new(object, "bytes", json_count(head->bytes));
  json_object_set_new(object, "probe_error", json_number(head->probe_error));
  if (!isnan(head->fold_error)) json_object_set_new(object, "fold_error", json_number(head->fold_error));
  json_object_set_new(object, "certificate", json_certificate(&head->binding));
  return object;
}

json_t *json_summary(cli_session *session, const pith_summary *summary) {
  pith_summary_info info = pith_summary_describe(summary);
  json_t *report = json_report(), *heads = json_array();
  json_object_set_new(report, "engine", json_string(info.engine));
  json_object_set_new(report, "query_model", json_string(pith_query_kind_name(info.query_model)));
  json_object_set_new(report, "seed", json_count(info.seed));
  json_object_set_new(report, "scale", json_number(info.scale));
  json_object_set_new(report, "layers", json_count(info.layers));
  json_object_set_new(report, "kv_heads", json_count(info.heads));
  json_object_set_new(report, "points", json_count(info.points));
  json_object_set_new(report, "bytes", json_count(info.bytes));
  json_object_set_new(report, "full_bytes", json_count(info.full_bytes));
  json_object_set_new(report, "other_bytes", json_count(info.other_bytes));
  json_object_set_new(report, "ratio", json_number(info.ratio));
  json_object_set_new(report, "predicted_kl", json_number(info.predicted_kl));
  json_object_set_new(report, "folded", json_boolean(info.folded));
  json_object_set_new(report, "certificate", json_certificate(&info.certificate));
  json_object_set_new(report, "heads", heads);
  for (size_t layer = 0; layer < info.layers; layer++)
    for (size_t number = 0; number < info.heads; number++) {
      pith_head_view head;
      if (pith_summary_head(session->context, summary, layer, number, &head) == PITH_OK)
        json_array_append_new(heads, json_head(layer, number, &head));
    }
  return report;
}

int print_heads(cli_session *session, const pith_summary *summary) {
  static const char *const headings[] = {"layer", "head",  "rows",        "points",      "exact",
                                         "store", "bytes", "probe error", "<certificate"};
  pith_summary_info info = pith_summary_describe(summary);
  cli_table *table = table_create(headings, sizeof headings / sizeof *headings);
  for (size_t layer = 0; layer < info.layers; layer++)
    for (size_t number = 0; number < info.heads; number++) {
      pith_head_view head;
      pith_status status = pith_summary_head(session->context, summary, layer, number, &head);
      if (status != PITH_OK) {
        table_free(table);
        return session_fail(session, status);
      }
      table_add(table, "%zu", layer);
      table_add(table, "%zu", number);
      table_add(table, "%zu", head.source_rows);
      table_add(table, "%zu", head.points);
      table_add(table, "%zu", exact_rows(&head));
      table_add(table, "%s", pith_dtype_name(head.store));
      table_add(table, "%s", text_bytes(head.bytes).at);
      table_add(table, "%s", text_error(head.probe_error).at);
      table_add(table, "%s", text_certificate(&head.binding).at);
    }
  table_print(table, session->out);
  table_free(table);
  return EXIT_DONE;
}

void print_totals(cli_session *session, const pith_summary_info *info) {
  size_t heads = info->layers * info->heads;
  fprintf(session->out, "%zu head%s (%zu layer%s x %zu), engine %s, query model %s, seed %llu%s\n", heads,
          heads == 1 ? "" : "s", info->layers, info->layers == 1 ? "" : "s", info->heads, info->engine,
          pith_query_kind_name(info->query_model), (unsigned long long)info->seed,
          info->folded ? ", weights folded into the keys" : "");
  fprintf(session->out, "%zu points a head at most, %s of %s, ratio %.4f of all keys and values in f16\n", info->points,
          text_bytes(info->bytes).at, text_bytes(info->full_bytes).at, info->ratio);
  if (!isnan(info->predicted_kl)) fprintf(session->out, "predicted KL: %.3g nats a token\n", info->predicted_kl);
  fprintf(session->out, "certificate of the worst head: %s\n", text_certificate(&info->certificate).at);
}

void print_map(cli_session *session, const char *title, const double *value, size_t layers, size_t heads) {
  static const char shades[] = " .:-=+*#%@";
  double most = 0;
  for (size_t i = 0; i < layers * heads; i++)
    if (value[i] > most) most = value[i];
  fprintf(session->out, "%s, layers down, heads across; @ is %.4g\n", title, most);
  for (size_t layer = 0; layer < layers; layer++) {
    fprintf(session->out, "%5zu |", layer);
    for (size_t head = 0; head < heads; head++) {
      double part = most > 0 ? value[layer * heads + head] / most : 0;
      fputc(shades[(size_t)(part * (sizeof shades - 2) + 0.5)], session->out);
    }
    fputs("|\n", session->out);
  }
}

static char store_mark(pith_dtype store) {
  switch (store) {
    case PITH_F32: return 'f';
    case PITH_BF16: return 'b';
    case PITH_Q8: return '8';
    case PITH_Q4: return '4';
    default: return 'h';
  }
}

static void print_stores(cli_session *session, const char *mark, size_t layers, size_t heads) {
  fputs("store: 8 q8, 4 q4, h f16, b bf16, f f32\n", session->out);
  for (size_t layer = 0; layer < layers; layer++)
    fprintf(session->out, "%5zu |%.*s|\n", layer, (int)heads, mark + layer * heads);
}

void print_heat_map(cli_session *session, const pith_summary *summary) {
  pith_summary_info info = pith_summary_describe(summary);
  size_t count = info.layers * info.heads;
  double *points = allocate_zero(2 * count, sizeof *points), *error = points + count;
  char *store = allocate_zero(count, 1);
  bool probed = true;
  for (size_t i = 0; i < count; i++) {
    pith_head_view head;
    if (pith_summary_head(session->context, summary, i / info.heads, i % info.heads, &head) != PITH_OK) continue;
    points[i] = (double)head.points;
    error[i] = head.probe_error;
    store[i] = store_mark(head.store);
    probed = probed && isfinite(head.probe_error);
  }
  print_map(session, "points", points, info.layers, info.heads);
  print_stores(session, store, info.layers, info.heads);
  if (probed) print_map(session, "probe error", error, info.layers, info.heads);
  free(store);
  free(points);
}
