/* measure.c - errors of a summary against exact attention. */
#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/attention.h"

/* ---- Answers ---- */

static pith_status attend_exactly(cli_session *session, const cli_trial *trial) {
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.scale = trial->scale;
  options.causal = trial->later > 0;
  return pith_attention_compute(session->context, &trial->queries, trial->later ? &trial->all_keys : &trial->keys,
                                trial->later ? &trial->all_values : &trial->values, &options, trial->exact);
}

static pith_status attend_summary(cli_session *session, const cli_trial *trial, const pith_summary *summary) {
  if (!trial->later)
    return pith_summary_attend(session->context, summary, &trial->queries, trial->scale, trial->answer);
  pith_array later_keys = pith_array_rows(&trial->all_keys, trial->n, trial->later);
  pith_array later_values = pith_array_rows(&trial->all_values, trial->n, trial->later);
  return pith_summary_attend_beside(session->context, summary, &trial->queries, &later_keys, &later_values,
                                    trial->scale, trial->answer);
}

int trial_open(cli_session *session, cli_trial *trial) {
  pith_status status = pith_check_shapes(session->context, &trial->queries, &trial->keys, &trial->values);
  if (status < 0) return session_fail(session, status);
  const pith_array *queries = &trial->queries;
  trial->layers = pith_array_layers(&trial->keys);
  trial->kv_heads = pith_array_heads(&trial->keys);
  trial->query_heads = pith_array_heads(queries);
  trial->rows = queries->shape[queries->ndim - 2];
  trial->d = queries->shape[queries->ndim - 1];
  trial->n = trial->keys.shape[trial->keys.ndim - 2];
  trial->dv = trial->values.shape[trial->values.ndim - 1];
  if (!(trial->scale > 0)) trial->scale = 1 / sqrt((double)trial->d);
  size_t count = trial->layers * trial->query_heads * trial->rows * trial->dv;
  trial->exact = allocate_zero(count, sizeof *trial->exact);
  trial->answer = allocate_zero(count, sizeof *trial->answer);
  status = attend_exactly(session, trial);
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

void trial_close(cli_trial *trial) {
  free(trial->exact);
  free(trial->answer);
}

double trial_rho(cli_session *session, const cli_trial *trial) {
  double largest = 0;
  float *row = allocate_zero(trial->d, sizeof *row);
  for (size_t i = 0; i < trial->layers * trial->query_heads; i++)
    for (size_t r = 0; r < trial->rows; r++) {
      pith_array head = pith_array_head(&trial->queries, i / trial->query_heads, i % trial->query_heads);
      pith_array view = pith_array_rows(&head, r, 1);
      if (pith_array_to_f32(session->context, &view, "queries", trial->scale, row) != PITH_OK)
        continue; /* refused before, by attention */
      double square = 0;
      for (size_t j = 0; j < trial->d; j++) square += (double)row[j] * row[j];
      largest = fmax(largest, sqrt(square));
    }
  free(row);
  return largest;
}

/* ---- One head ---- */

static size_t count_within(const cli_trial *trial, const float *exact, const float *answer, double bound) {
  size_t within = 0;
  for (size_t r = 0; r < trial->rows; r++)
    within += pith_error_measure(exact + r * trial->dv, answer + r * trial->dv, 1, trial->dv).max <= bound;
  return within;
}

/* Query heads of a group are read in one go: they follow each other in the answers. */
static cli_measure measure_head(const cli_trial *trial, size_t head, double probe_bound) {
  size_t group = trial->query_heads / trial->kv_heads, within = 0;
  size_t layer = head / trial->kv_heads, first = head % trial->kv_heads * group;
  cli_measure out = {.worst = NAN};
  for (size_t j = 0; j < group; j++) {
    size_t at = (layer * trial->query_heads + first + j) * trial->rows * trial->dv;
    pith_error error = pith_error_measure(trial->exact + at, trial->answer + at, trial->rows, trial->dv);
    out.mean += error.mean / (double)group;
    out.rms += error.rms * error.rms / (double)group;
    out.relative += error.relative / (double)group;
    out.max = fmax(out.max, error.max);
    within += count_within(trial, trial->exact + at, trial->answer + at, probe_bound);
  }
  out.rms = sqrt(out.rms);
  out.within = isfinite(probe_bound) ? (double)within / (double)(group * trial->rows) : NAN;
  return out;
}

static void add_up(cli_measures *out) {
  cli_measure *all = &out->all;
  double heads = (double)out->heads;
  *all = (cli_measure){.worst = NAN};
  for (size_t i = 0; i < out->heads; i++) {
    const cli_measure *head = &out->head[i];
    all->mean += head->mean / heads;
    all->rms += head->rms * head->rms / heads;
    all->relative += head->relative / heads;
    all->within += head->within / heads;
    all->max = fmax(all->max, head->max);
    all->worst = fmax(all->worst, head->worst);
    if (head->relative > out->head[out->worst].relative) out->worst = i;
  }
  all->rms = sqrt(all->rms);
}

static double meaningful_bound(const pith_certificate *certificate) {
  return certificate->kind != PITH_CERTIFICATE_NONE && certificate->bound < certificate->trivial ? certificate->bound
                                                                                                 : INFINITY;
}

static pith_status measure_heads(cli_session *session, const cli_trial *trial, const pith_summary *summary,
                                 cli_measures *out) {
  pith_summary_info info = pith_summary_describe(summary);
  if (info.layers != trial->layers || info.heads != trial->kv_heads)
    return pith_fail(
        session->context, PITH_E_SHAPE,
        "the summary has %zu layers x %zu heads, the keys have %zu x %zu; compare it with the keys that it "
        "was made from",
        info.layers, info.heads, trial->layers, trial->kv_heads);
  for (size_t i = 0; i < out->heads; i++) {
    pith_head_view head;
    PITH_TRY(pith_summary_head(session->context, summary, i / info.heads, i % info.heads, &head));
    if (head.d != trial->d || head.dv != trial->dv)
      return pith_fail(session->context, PITH_E_SHAPE,
                       "the summary has keys of %zu columns and values of %zu, the arrays have %zu and %zu; compare it "
                       "with the keys that it was made from",
                       head.d, head.dv, trial->d, trial->dv);
    out->probe_bound[i] = meaningful_bound(&head.probe);
    out->ball_bound[i] = meaningful_bound(&head.ball);
  }
  PITH_TRY(attend_summary(session, trial, summary));
  for (size_t i = 0; i < out->heads; i++) out->head[i] = measure_head(trial, i, out->probe_bound[i]);
  return PITH_OK;
}

int measure_summary(cli_session *session, const cli_trial *trial, const pith_summary *summary, cli_measures *out) {
  size_t heads = trial->layers * trial->kv_heads;
  *out = (cli_measures){.heads = heads,
                        .probe_bound = allocate_zero(heads, sizeof *out->probe_bound),
                        .ball_bound = allocate_zero(heads, sizeof *out->ball_bound),
                        .head = allocate_zero(heads, sizeof *out->head)};
  pith_status status = measure_heads(session, trial, summary, out);
  if (status < 0) return session_fail(session, status);
  add_up(out);
  return EXIT_DONE;
}

void measures_free(cli_measures *measures) {
  free(measures->probe_bound);
  free(measures->ball_bound);
  free(measures->head);
  *measures = (cli_measures){.heads = 0};
}

int search_worst(cli_session *session, const cli_trial *trial, const pith_summary *summary, size_t head, double rho,
                 size_t starts, cli_measures *measures) {
  size_t layer = head / trial->kv_heads, number = head % trial->kv_heads;
  pith_array keys = pith_array_head(&trial->keys, layer, number),
             values = pith_array_head(&trial->values, layer, number);
  pith_head_view view;
  pith_status status = pith_summary_head(session->context, summary, layer, number, &view);
  if (status == PITH_OK)
    status = pith_worst_query(session->context, &keys, &values, &view, trial->scale, rho, starts, session->common->seed,
                              &measures->head[head].worst, NULL);
  if (status < 0) return session_fail(session, status);
  measures->all.worst = fmax(measures->all.worst, measures->head[head].worst);
  return EXIT_DONE;
}

void json_measure(json_t *object, const cli_measure *measure) {
  json_object_set_new(object, "mean_error", json_number(measure->mean));
  json_object_set_new(object, "max_error", json_number(measure->max));
  json_object_set_new(object, "rms_error", json_number(measure->rms));
  json_object_set_new(object, "relative_error", json_number(measure->relative));
  json_object_set_new(object, "probe_share", json_number(measure->within));
}
