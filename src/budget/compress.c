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
  PITH_TRY(pith_store_check(context, o->store, 1, 1));
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

typedef struct shape {
  size_t layers, heads, n, d, dv, point_bytes;
} shape;

static shape shape_of(const pith_array *keys, const pith_array *values, pith_dtype store) {
  pith_array k = pith_array_head(keys, 0, 0), v = pith_array_head(values, 0, 0);
  size_t d = k.shape[1], dv = v.shape[1];
  return (shape){
      pith_array_layers(keys), pith_array_heads(keys), k.shape[0], d, dv, pith_store_point_bytes(store, d, dv)};
}

static size_t points_of_ratio(const shape *s, double ratio) {
  double full = 2.0 * (double)(s->d + s->dv) * (double)s->n;
  return pith_min_size(s->n, (size_t)(ratio * full / (double)s->point_bytes));
}

static pith_status points_per_head(pith_context *context, const shape *s, const pith_compress_options *o,
                                   const pith_engine *engine, size_t *points) {
  *points = s->n;
  if (engine == &pith_engine_exact) return PITH_OK;
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
    *points = o->bytes / (s->layers * s->heads) / s->point_bytes;
    if (*points > s->n)
      return pith_fail(context, PITH_E_BUDGET, "bytes: %zu are more than the %zu that all %zu keys of all heads take",
                       o->bytes, s->layers * s->heads * s->n * s->point_bytes, s->n);
  }
  size_t exact = pith_min_size(s->n, o->sinks + o->window);
  if (*points < exact || (*points == 0 && s->n > 0))
    return pith_fail(context, PITH_E_BUDGET,
                     "budget: %zu points a head are fewer than the %zu rows kept exactly (%zu sinks, window %zu); give "
                     "at least %zu points (%zu bytes in all) or smaller sinks and window",
                     *points, exact, o->sinks, o->window, pith_max_size(exact, 1),
                     pith_max_size(exact, 1) * s->point_bytes * s->layers * s->heads);
  return PITH_OK;
}

/* ---- The smallest summary that meets eps ---- */

static pith_status take_certified(pith_context *context, pith_job *job, size_t points, pith_summary *summary,
                                  bool *met) {
  PITH_TRY(pith_job_take(context, job, points, job->options->store, summary));
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

typedef struct heads {
  const pith_array *keys, *values, *queries;
  const pith_compress_options *options;
  const pith_engine *engine;
  shape shape;
} heads;

typedef pith_status (*visitor)(pith_context *context, pith_job *job, void *argument);

static pith_status visit_heads(pith_context *context, const heads *h, visitor visit, void *argument) {
  size_t count = h->shape.layers * h->shape.heads;
  for (size_t i = 0; i < count; i++) {
    PITH_TRY(pith_report(context, "compressing heads", i, count));
    pith_job *job = NULL;
    PITH_TRY(pith_job_open(context, h->keys, h->values, h->queries, h->options, h->engine, false, i / h->shape.heads,
                           i % h->shape.heads, &job));
    pith_status status = visit(context, job, argument);
    pith_job_close(context, job);
    PITH_TRY(status);
  }
  return pith_report(context, "compressing heads", count, count);
}

static pith_status make_summary(pith_context *context, const heads *h, pith_summary **out) {
  PITH_TRY(pith_summary_create(context, h->shape.layers, h->shape.heads, out));
  pith_summary_info *info = &(*out)->info;
  const pith_compress_options *o = h->options;
  info->scale = o->scale > 0 ? o->scale : 1 / sqrt((double)(h->shape.d ? h->shape.d : 1));
  info->seed = o->seed;
  info->folded = o->fold_weights != 0;
  (void)snprintf(info->engine, sizeof info->engine, "%s", h->engine->name);
  return PITH_OK;
}

static pith_status open_heads(pith_context *context, const pith_array *keys, const pith_array *values,
                              const pith_array *queries, const pith_compress_options *given,
                              pith_compress_options *options, heads *h) {
  *h = (heads){.keys = keys, .values = values, .queries = queries, .options = options};
  PITH_TRY(read_options(context, given, options, &h->engine));
  PITH_TRY(pith_check_shapes(context, queries, keys, values));
  h->shape = shape_of(keys, values, options->store);
  return PITH_OK;
}

typedef struct compression {
  size_t points; /* per head; unused with eps */
  pith_summary *summary;
} compression;

static pith_status compress_head(pith_context *context, pith_job *job, void *argument) {
  compression *c = argument;
  c->summary->info.query_model = job->model->kind;
  c->summary->rho = fmax(c->summary->rho, job->model->rho);
  if (job->options->eps > 0) return search_eps(context, job, c->summary);
  PITH_TRY(pith_job_prepare(context, job, c->points));
  return pith_job_take(context, job, c->points, job->options->store, c->summary);
}

pith_status pith_compress(pith_context *context, const pith_array *keys, const pith_array *values,
                          const pith_array *queries, const pith_compress_options *given, pith_summary **out) {
  pith_compress_options options;
  heads h;
  compression c = {0};
  PITH_TRY(open_heads(context, keys, values, queries, given, &options, &h));
  PITH_TRY(check_budget(context, &options));
  if (!(options.eps > 0)) PITH_TRY(points_per_head(context, &h.shape, &options, h.engine, &c.points));
  PITH_TRY(make_summary(context, &h, &c.summary));
  pith_status status = visit_heads(context, &h, compress_head, &c);
  if (status < 0) {
    pith_summary_free(c.summary);
    return status;
  }
  for (size_t i = 0; i < h.shape.layers * h.shape.heads; i++) /* what is held but not read by attention */
    c.summary->info.other_bytes +=
        pith_summary_view(c.summary, i / h.shape.heads, i % h.shape.heads)->points * (sizeof(int64_t) + 1);
  *out = c.summary;
  return options.eps > 0 && !pith_summary_describe(c.summary).certificate.certified ? PITH_NOT_CERTIFIED : PITH_OK;
}

/* ---- The menu ---- */

typedef struct menu {
  const heads *heads;
  pith_summary *summary; /* the head in hand, at one size */
  pith_plan_row *rows;
  size_t count;
} menu;

static pith_status plan_head(pith_context *context, pith_job *job, void *argument) {
  menu *m = argument;
  double share = 1.0 / (double)(m->heads->shape.layers * m->heads->shape.heads);
  PITH_TRY(pith_job_prepare(context, job, m->rows[0].points));
  for (size_t i = 0; i < m->count; i++) {
    pith_plan_row *row = &m->rows[i];
    PITH_TRY(pith_job_take(context, job, row->points, job->options->store, m->summary));
    const pith_head_view *view = pith_summary_view(m->summary, job->layer, job->head);
    row->bytes += view->bytes;
    row->mean_error += share * view->probe_error;
    if (!(view->probe_error <= row->max_error)) row->max_error = view->probe_error;
    const pith_certificate *worst = &row->certificate;
    if (worst->kind == PITH_CERTIFICATE_NONE || !(view->binding.bound <= worst->bound))
      row->certificate = view->binding;
  }
  return PITH_OK;
}

pith_status pith_plan(pith_context *context, const pith_array *keys, const pith_array *values,
                      const pith_array *queries, const pith_compress_options *given, pith_plan_row *rows,
                      size_t *count) {
  pith_compress_options options;
  heads h;
  PITH_TRY(open_heads(context, keys, values, queries, given, &options, &h));
  options.eps = 0;
  menu m = {.heads = &h, .rows = rows};
  size_t least = pith_max_size(pith_min_size(h.shape.n, options.sinks + options.window), 1);
  for (double ratio = 0.5; m.count < *count && points_of_ratio(&h.shape, ratio) >= least; ratio /= 2)
    rows[m.count++] = (pith_plan_row){.points = points_of_ratio(&h.shape, ratio)};
  *count = m.count;
  if (m.count == 0) return PITH_OK;
  PITH_TRY(make_summary(context, &h, &m.summary));
  pith_status status = visit_heads(context, &h, plan_head, &m);
  pith_summary_free(m.summary);
  double full = 2.0 * (double)((h.shape.d + h.shape.dv) * h.shape.n * h.shape.layers * h.shape.heads);
  for (size_t i = 0; i < m.count; i++) rows[i].ratio = full > 0 ? (double)rows[i].bytes / full : 0;
  return status;
}
