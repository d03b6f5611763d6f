/* compress.c - from arrays and options to a summary: budgets in the user's words become points per head. */
#include "pith/compress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attention/attention.h"
#include "budget/job.h"
#include "summary/store.h"

void pith_compress_options_init(pith_compress_options *options) {
  *options = (pith_compress_options){.struct_size = sizeof *options,
                                     .points = PITH_UNSET,
                                     .store = PITH_F16,
                                     .sinks = 4,
                                     .window = 16,
                                     .seed = 1,
                                     .confidence = 0.9,
                                     .query_start = PITH_UNSET,
                                     .horizon = 1024,
                                     .probes = 192,
                                     .refine = 300};
}

/* ---- Checks ---- */

static pith_status check_numbers(pith_context *context, const pith_compress_options *o) {
  if (o->store != PITH_STORE_AUTO) PITH_TRY(pith_store_check(context, o->store, 1, 1));
  if (!(o->confidence > 0 && o->confidence < 1))
    return pith_fail(context, PITH_E_ARGUMENT, "confidence is %g; it must lie between 0 and 1", o->confidence);
  if (!(o->scale >= 0) || !isfinite(o->scale))
    return pith_fail(context, PITH_E_ARGUMENT, "scale is %g; it must be positive, or 0 for 1/sqrt(d)", o->scale);
  if (!(o->eps >= 0) || !(o->ratio >= 0) || !isfinite(o->eps) || !isfinite(o->ratio))
    return pith_fail(context, PITH_E_ARGUMENT, "eps is %g and ratio is %g; neither may be negative or infinite", o->eps,
                     o->ratio);
  return PITH_OK;
}

static pith_status read_options(pith_context *context, const pith_compress_options *given, pith_compress_options *o,
                                const pith_engine **engine) {
  pith_compress_options_init(o);
  if (given) {
    if (given->struct_size > sizeof *o)
      return pith_fail(context, PITH_E_ARGUMENT, "options are of a newer version: %zu bytes, this library knows %zu",
                       given->struct_size, sizeof *o);
    memcpy(o, given, given->struct_size);
  }
  const char *name = o->engine ? o->engine : "nystrom";
  *engine = pith_engine_find(name);
  if (!*engine)
    return pith_fail(context, PITH_E_UNKNOWN, "engine: there is none called \"%s\"; pith_engine_name() lists them",
                     name);
  return check_numbers(context, o);
}

static pith_status check_budget(pith_context *context, const pith_compress_options *o) {
  int given = (o->points != PITH_UNSET) + (o->ratio > 0) + (o->bytes > 0) + (o->eps > 0);
  bool exact = o->engine && strcmp(o->engine, "exact") == 0;
  if (given > 1)
    return pith_fail(context, PITH_E_ARGUMENT, "budget: %d of points, ratio, bytes and eps are given; give one", given);
  if (given == 0 && !exact)
    return pith_fail(context, PITH_E_ARGUMENT, "budget: none is given; give one of points, ratio, bytes or eps");
  return PITH_OK;
}

/* ---- Points per head ---- */

static size_t point_bytes_of(const pith_heads *h, pith_dtype store) {
  return pith_store_point_bytes(store, h->d, h->dv);
}

static size_t full_bytes(const pith_heads *h) { return 2 * (h->d + h->dv) * h->n * h->layers * h->heads; }

/* Store auto counts as f16 where there is nothing to choose it by. */
static pith_dtype store_of(const pith_compress_options *o) { return o->store == PITH_STORE_AUTO ? PITH_F16 : o->store; }

static size_t points_of_ratio(const pith_heads *h, double ratio) {
  double bytes = ratio * (double)full_bytes(h) / (double)(h->layers * h->heads);
  return pith_min_size(h->n, (size_t)(bytes / (double)point_bytes_of(h, store_of(h->options))));
}

static pith_status points_per_head(pith_context *context, const pith_heads *s, size_t *points) {
  const pith_compress_options *o = s->options;
  size_t point_bytes = point_bytes_of(s, store_of(o));
  *points = s->n;
  if (s->engine == &pith_engine_exact) return PITH_OK;
  if (o->points != PITH_UNSET) {
    if (o->points > s->n)
      return pith_fail(context, PITH_E_BUDGET, "points: %zu are asked for, but a head has only %zu keys", o->points,
                       s->n);
    *points = o->points;
  } else if (o->ratio > 0) {
    if (o->ratio > 2)
      return pith_fail(context, PITH_E_BUDGET,
                       "ratio: %g is more than all keys and values take in f32; give a share of 1 or less", o->ratio);
    *points = points_of_ratio(s, o->ratio);
  } else if (o->bytes > 0) {
    *points = o->bytes / (s->layers * s->heads) / point_bytes;
    if (*points > s->n)
      return pith_fail(context, PITH_E_BUDGET, "bytes: %zu are more than the %zu that all %zu keys of all heads take",
                       o->bytes, s->layers * s->heads * s->n * point_bytes, s->n);
  }
  size_t exact = pith_min_size(s->n, o->sinks + o->window);
  if (*points < exact || (*points == 0 && s->n > 0))
    return pith_fail(context, PITH_E_BUDGET,
                     "budget: %zu points a head are fewer than the %zu rows kept exactly (%zu sinks, window %zu); give "
                     "at least %zu points (%zu bytes in all) or smaller sinks and window",
                     *points, exact, o->sinks, o->window, pith_max_size(exact, 1),
                     pith_max_size(exact, 1) * point_bytes * s->layers * s->heads);
  return PITH_OK;
}

/* ---- The smallest summary that meets eps ---- */

static pith_status take_certified(pith_context *context, pith_job *job, size_t points, pith_summary *summary,
                                  bool *met) {
  PITH_TRY(pith_job_take(context, job, points, store_of(job->options), summary));
  *met = pith_summary_view(summary, job->layer, job->head)->binding.certified;
  return PITH_OK;
}

/* Sizes grow by half until the certificate holds, then bisection to one part in sixteen. Errors fall with
 * size but for chance, so this finds the smallest up to chance. */
static pith_status search_eps(pith_context *context, pith_job *job, pith_summary *summary) {
  size_t n = job->problem.n, failed = pith_job_exact(job), points = failed + pith_max_size(8, n / 256);
  bool met = false;
  for (;; points += points / 2) {
    points = pith_min_size(points, n);
    PITH_TRY(pith_job_prepare(context, job, points));
    PITH_TRY(take_certified(context, job, points, summary, &met));
    if (met || points == n) break;
    failed = points;
  }
  size_t good = points;
  while (met && good - failed > 1 + good / 16) {
    size_t middle = failed + (good - failed) / 2;
    bool enough = false;
    PITH_TRY(take_certified(context, job, middle, summary, &enough));
    if (enough)
      good = middle;
    else
      failed = middle;
  }
  return met ? take_certified(context, job, good, summary, &met) : PITH_OK;
}

/* ---- All heads ---- */

typedef pith_status (*visitor)(pith_context *context, pith_job *job, void *argument);

typedef struct visit_all {
  const pith_heads *heads;
  visitor visit;
  void *argument;
} visit_all;

static pith_status visit_head(pith_context *context, void *argument, size_t index) {
  const visit_all *all = argument;
  pith_job *job = NULL;
  pith_effort effort = pith_full_effort(all->heads);
  PITH_TRY(pith_job_open(context, all->heads, &effort, false, index, &job));
  pith_status status = all->visit(context, job, all->argument);
  pith_job_close(context, job);
  return status;
}

static pith_status visit_heads(pith_context *context, const pith_heads *h, visitor visit, void *argument) {
  visit_all all = {h, visit, argument};
  return pith_parallel_tasks(context, "compressing heads", h->layers * h->heads, visit_head, &all);
}

static pith_status make_summary(pith_context *context, const pith_heads *h, pith_summary **out) {
  PITH_TRY(pith_summary_create(context, h->layers, h->heads, out));
  pith_summary_info *info = &(*out)->info;
  const pith_compress_options *o = h->options;
  info->scale = o->scale > 0 ? o->scale : 1 / sqrt((double)(h->d ? h->d : 1));
  info->seed = o->seed;
  info->folded = o->fold_weights != 0;
  (void)snprintf(info->engine, sizeof info->engine, "%s", h->engine->name);
  return PITH_OK;
}

/* Head weights as floats, in one block to be released; NULL where none are given. */
static pith_status read_weights(pith_context *context, const pith_heads *h, float **weight) {
  const pith_array *given = h->options->head_weights;
  if (!given) return PITH_OK;
  if (given->ndim != 2 || given->shape[0] != h->layers || given->shape[1] != h->heads)
    return pith_fail(
        context, PITH_E_SHAPE,
        "head-weights: %zu dimensions, (%zu, %zu); the keys have %zu layers of %zu kv heads, so (%zu, %zu) "
        "is needed",
        given->ndim, given->shape[0], given->ndim > 1 ? given->shape[1] : 1, h->layers, h->heads, h->layers, h->heads);
  size_t count = h->layers * h->heads;
  *weight = pith_allocate(context, count, sizeof **weight);
  if (!*weight) return PITH_E_MEMORY;
  PITH_TRY(pith_array_to_f32(context, given, "head-weights", 1, *weight));
  for (size_t i = 0; i < count; i++)
    if ((*weight)[i] < 0)
      return pith_fail(context, PITH_E_VALUE, "head-weights: layer %zu, head %zu is %g; none may be negative",
                       i / h->heads, i % h->heads, (double)(*weight)[i]);
  return PITH_OK;
}

/* *weight is to be released, also after a failure. */
static pith_status open_heads(pith_context *context, const pith_array *keys, const pith_array *values,
                              const pith_array *queries, const pith_compress_options *given,
                              pith_compress_options *options, pith_heads *h, float **weight) {
  *h = (pith_heads){.keys = keys, .values = values, .queries = queries, .options = options};
  PITH_TRY(read_options(context, given, options, &h->engine));
  PITH_TRY(pith_check_shapes(context, queries, keys, values));
  pith_array k = pith_array_head(keys, 0, 0), v = pith_array_head(values, 0, 0);
  h->layers = pith_array_layers(keys);
  h->heads = pith_array_heads(keys);
  h->group = queries ? pith_array_heads(queries) / h->heads : 0;
  h->n = k.shape[0];
  h->d = k.shape[1];
  h->dv = v.shape[1];
  pith_status status = read_weights(context, h, weight);
  h->weight = *weight;
  return status;
}

pith_status pith_head_finish(pith_context *context, const pith_heads *heads, const pith_job *job, double drift,
                             pith_summary *summary) {
  pith_summary_slot *slot = &summary->slot[job->layer * heads->heads + job->head];
  slot->rho = job->model->rho;
  slot->query_model = job->model->kind;
  if (!heads->weight) return PITH_OK;
  pith_met_error error;
  PITH_TRY(pith_job_met_error(context, job, &job->probes, &slot->view, &error));
  double weight = (double)heads->weight[job->layer * heads->heads + job->head] * (double)heads->group;
  slot->predicted_kl = PITH_KL_OF_ERROR * weight * drift * error.squared;
  return PITH_OK;
}

void pith_heads_conclude(const pith_heads *heads, pith_summary *summary) {
  summary->info.query_model = summary->slot[0].query_model;
  summary->info.predicted_kl = heads->weight ? 0 : NAN;
  for (size_t i = 0; i < heads->layers * heads->heads; i++) {
    summary->rho = fmax(summary->rho, summary->slot[i].rho);
    summary->info.predicted_kl += summary->slot[i].predicted_kl;
  }
}

/* ---- Every head by itself ---- */

typedef struct compression {
  const pith_heads *heads;
  size_t points; /* per head; unused with eps */
  pith_summary *summary;
} compression;

static pith_status compress_head(pith_context *context, pith_job *job, void *argument) {
  compression *c = argument;
  size_t index = job->layer * c->heads->heads + job->head;
  double drift = 1;
  if (job->options->eps > 0) {
    PITH_TRY(search_eps(context, job, c->summary));
  } else {
    PITH_TRY(pith_job_prepare(context, job, c->points));
    PITH_TRY(pith_job_take(context, job, c->points, store_of(job->options), c->summary));
  }
  size_t points = c->summary->slot[index].view.points;
  PITH_TRY(pith_rehearse(context, c->heads, index, &points, 1, &drift));
  return pith_head_finish(context, c->heads, job, drift, c->summary);
}

static pith_status compress_evenly(pith_context *context, const pith_heads *h, pith_summary *summary) {
  compression c = {.heads = h, .summary = summary};
  if (!(h->options->eps > 0)) PITH_TRY(points_per_head(context, h, &c.points));
  PITH_TRY(visit_heads(context, h, compress_head, &c));
  pith_heads_conclude(h, summary);
  return PITH_OK;
}

/* ---- A total over all heads ---- */

/* Fewer recorded queries than this leave too few probes to choose by, unless it is asked for. */
enum { LEAST_QUERIES = 64 };

static bool has_total(const pith_compress_options *o) { return o->ratio > 0 || o->bytes > 0; }

static pith_status total_bytes(pith_context *context, const pith_heads *h, size_t *bytes) {
  const pith_compress_options *o = h->options;
  size_t most = h->layers * h->heads * h->n * point_bytes_of(h, store_of(o));
  if (o->ratio > 2)
    return pith_fail(context, PITH_E_BUDGET,
                     "ratio is %g; it is a part of the bytes that all %zu keys and values take in f16: give 0.25 for a "
                     "quarter",
                     o->ratio, h->n);
  if (o->bytes > most)
    return pith_fail(context, PITH_E_BUDGET, "bytes: %zu is more than the %zu that all %zu keys of all heads take",
                     o->bytes, most, h->n);
  *bytes = o->bytes > 0 ? o->bytes : (size_t)(o->ratio * (double)full_bytes(h));
  return PITH_OK;
}

/* Whether heads are made from menus, and whether a total is spent over them. */
static pith_status choose_manner(pith_context *context, const pith_heads *h, bool *menus, bool *even) {
  const pith_compress_options *o = h->options;
  size_t queries = h->queries ? h->queries->shape[h->queries->ndim - 2] * h->group : 0;
  bool possible = has_total(o) && queries > 0 && h->engine != &pith_engine_exact;
  bool likely = possible && queries >= LEAST_QUERIES && h->layers * h->heads > 1;
  if (o->budget == PITH_BUDGET_SPREAD && !possible)
    return pith_fail(context, PITH_E_ARGUMENT, "budget: spread needs %s; or use budget even",
                     !has_total(o)  ? "a total to spend: give ratio or bytes"
                     : queries == 0 ? "recorded queries to measure errors by: give queries"
                                    : "an engine that chooses points, which exact does not");
  if (o->store == PITH_STORE_AUTO && (!possible || queries < LEAST_QUERIES))
    return pith_fail(context, PITH_E_ARGUMENT,
                     "store: auto weighs bytes against errors: it needs ratio or bytes, an engine that chooses points, "
                     "and at least %d recorded queries; else name a store",
                     LEAST_QUERIES);
  bool spread = o->budget == PITH_BUDGET_SPREAD || (o->budget == PITH_BUDGET_AUTO && likely);
  *even = !spread;
  *menus = spread || o->store == PITH_STORE_AUTO;
  return PITH_OK;
}

static pith_status compress_heads(pith_context *context, const pith_heads *h, pith_summary *summary) {
  bool menus = false, even = true;
  size_t bytes = 0;
  PITH_TRY(choose_manner(context, h, &menus, &even));
  if (!menus) return compress_evenly(context, h, summary);
  PITH_TRY(total_bytes(context, h, &bytes));
  return pith_spread(context, h, bytes, even, summary);
}

static pith_status compress(pith_context *context, const pith_heads *h, pith_summary **out) {
  pith_summary *summary = NULL;
  PITH_TRY(check_budget(context, h->options));
  PITH_TRY(make_summary(context, h, &summary));
  pith_status status = compress_heads(context, h, summary);
  if (status < 0) {
    pith_summary_free(summary);
    return status;
  }
  /* what is held but not read by attention */
  summary->info.other_bytes = pith_summary_held_bytes(summary) - pith_summary_describe(summary).bytes;
  *out = summary;
  return h->options->eps > 0 && !pith_summary_describe(summary).certificate.certified ? PITH_NOT_CERTIFIED : PITH_OK;
}

pith_status pith_compress(pith_context *context, const pith_array *keys, const pith_array *values,
                          const pith_array *queries, const pith_compress_options *given, pith_summary **out) {
  pith_compress_options options;
  pith_heads heads;
  float *weight = NULL;
  pith_status status = open_heads(context, keys, values, queries, given, &options, &heads, &weight);
  if (status == PITH_OK) status = compress(context, &heads, out);
  pith_release(context, weight);
  return status;
}

/* ---- The menu ---- */

/* Halves of all rows end long before. */
enum { MOST_ROWS = 64 };

/* What one head is at one size. */
typedef struct plan_cell {
  size_t bytes;
  double probe_error, predicted_kl;
  pith_certificate certificate;
} plan_cell;

typedef struct menu {
  const pith_heads *heads;
  pith_summary *summary; /* each head in hand, at one size */
  pith_plan_row *rows;
  size_t count;
  plan_cell *cell; /* (heads, count) */
} menu;

static pith_status plan_head(pith_context *context, pith_job *job, void *argument) {
  const menu *m = argument;
  size_t head = job->layer * m->heads->heads + job->head, points[MOST_ROWS];
  double drift[MOST_ROWS];
  for (size_t i = 0; i < m->count; i++) points[i] = m->rows[i].points;
  PITH_TRY(pith_rehearse(context, m->heads, head, points, m->count, drift));
  PITH_TRY(pith_job_prepare(context, job, m->rows[0].points));
  for (size_t i = 0; i < m->count; i++) {
    PITH_TRY(pith_job_take(context, job, m->rows[i].points, store_of(job->options), m->summary));
    PITH_TRY(pith_head_finish(context, m->heads, job, drift[i], m->summary));
    const pith_summary_slot *slot = &m->summary->slot[head];
    m->cell[head * m->count + i] =
        (plan_cell){slot->view.bytes, slot->view.probe_error, slot->predicted_kl, slot->view.binding};
  }
  return PITH_OK;
}

static void add_cell(pith_plan_row *row, const plan_cell *cell, double share) {
  row->bytes += cell->bytes;
  row->predicted_kl += cell->predicted_kl;
  row->mean_error += share * cell->probe_error;
  if (!(cell->probe_error <= row->max_error)) row->max_error = cell->probe_error;
  const pith_certificate *worst = &row->certificate;
  if (worst->kind == PITH_CERTIFICATE_NONE || !(cell->certificate.bound <= worst->bound))
    row->certificate = cell->certificate;
}

static void plan_row(const pith_heads *h, pith_summary *summary, pith_plan_row *row) {
  pith_summary_info info = pith_summary_describe(summary);
  size_t count = h->layers * h->heads;
  row->points = info.points;
  row->bytes = info.bytes;
  row->predicted_kl = info.predicted_kl;
  row->certificate = info.certificate;
  for (size_t i = 0; i < count; i++) {
    double error = pith_summary_view(summary, i / h->heads, i % h->heads)->probe_error;
    row->mean_error += error / (double)count;
    if (!(error <= row->max_error)) row->max_error = error;
  }
}

/* Where heads are made from menus, every total is spent by itself. */
static pith_status plan_menus(pith_context *context, pith_heads *h, bool even, pith_plan_row *rows, size_t *count) {
  size_t rows_exact = pith_min_size(h->n, h->options->sinks + h->options->window), filled = 0;
  for (double ratio = 0.5; filled < *count && points_of_ratio(h, ratio) >= pith_max_size(rows_exact, 1); ratio /= 2) {
    pith_summary *summary = NULL;
    PITH_TRY(make_summary(context, h, &summary));
    pith_status status = pith_spread(context, h, (size_t)(ratio * (double)full_bytes(h)), even, summary);
    rows[filled] = (pith_plan_row){0};
    if (status == PITH_OK) plan_row(h, summary, &rows[filled++]);
    pith_summary_free(summary);
    PITH_TRY(status);
  }
  *count = filled;
  return PITH_OK;
}

static pith_status plan_points(pith_context *context, const pith_heads *h, pith_plan_row *rows, size_t *count) {
  menu m = {.heads = h, .rows = rows};
  size_t heads = h->layers * h->heads;
  size_t least = pith_max_size(pith_min_size(h->n, h->options->sinks + h->options->window), 1);
  for (double ratio = 0.5; m.count < pith_min_size(*count, MOST_ROWS) && points_of_ratio(h, ratio) >= least; ratio /= 2)
    rows[m.count++] = (pith_plan_row){.points = points_of_ratio(h, ratio), .predicted_kl = h->weight ? 0 : NAN};
  *count = m.count;
  if (m.count == 0) return PITH_OK;
  m.cell = pith_allocate(context, heads * m.count, sizeof *m.cell);
  pith_status status = m.cell ? make_summary(context, h, &m.summary) : PITH_E_MEMORY;
  if (status == PITH_OK) status = visit_heads(context, h, plan_head, &m);
  for (size_t i = 0; status == PITH_OK && i < heads * m.count; i++)
    add_cell(&rows[i % m.count], &m.cell[i], 1.0 / (double)heads);
  pith_summary_free(m.summary);
  pith_release(context, m.cell);
  return status;
}

static pith_status plan(pith_context *context, pith_heads *h, pith_compress_options *options, pith_plan_row *rows,
                        size_t *count) {
  bool menus = false, even = true;
  options->eps = 0;
  options->bytes = 0;
  options->ratio = 0.5; /* a total, of which the rows are parts */
  PITH_TRY(choose_manner(context, h, &menus, &even));
  PITH_TRY(menus ? plan_menus(context, h, even, rows, count) : plan_points(context, h, rows, count));
  for (size_t i = 0; i < *count; i++)
    rows[i].ratio = full_bytes(h) > 0 ? (double)rows[i].bytes / (double)full_bytes(h) : 0;
  return PITH_OK;
}

pith_status pith_plan(pith_context *context, const pith_array *keys, const pith_array *values,
                      const pith_array *queries, const pith_compress_options *given, pith_plan_row *rows,
                      size_t *count) {
  pith_compress_options options;
  pith_heads heads;
  float *weight = NULL;
  pith_status status = open_heads(context, keys, values, queries, given, &options, &heads, &weight);
  if (status == PITH_OK) status = plan(context, &heads, &options, rows, count);
  pith_release(context, weight);
  return status;
}
