/* job.c - one head on its way from rows to a summary. */
#include "budget/job.h"

#include <math.h>
#include <string.h>

#include "attention/attention.h"
#include "certify/certify.h"
#include "summary/store.h"

/* --outliers auto: rows whose weight in the kernel is this many times the median (theory 4.5), at most
 * this share of all rows. */
static const double OUTSTANDING = 8.0, MOST_OUTSTANDING = 1.0 / 64;

/* Recorded queries left out of the fit to choose by, where no later ones are known. */
enum { CHOOSERS = 512 };

static double softmax_scale(const pith_compress_options *options, size_t d) {
  return options->scale > 0 ? options->scale : 1 / sqrt((double)(d ? d : 1));
}

pith_effort pith_full_effort(const pith_heads *heads) {
  return (pith_effort){heads->options->samples, SIZE_MAX, heads->options->refine};
}

/* The turned queries behind the fit: recorded queries that it did not see. */
static void set_choosers(pith_job *job) {
  const pith_query_model *m = job->model;
  size_t first = m->fit_count, count = m->turned_count > first ? m->turned_count - first : 0;
  job->choosers = (pith_asked){.count = pith_min_size(count, pith_min_size(CHOOSERS, m->distinct_count - first)),
                               .queries = m->fit + first * m->d,
                               .log_mass = m->local_log_mass + first,
                               .answer = m->local_answer + first * m->dv};
}

/* The query heads of this kv head's group. */
static pith_status make_model(pith_context *context, const pith_heads *heads, const pith_effort *effort, bool choose,
                              pith_job *job) {
  const pith_compress_options *options = job->options;
  const pith_array *queries = heads->queries;
  size_t group = heads->group;
  bool leave_out = choose && !heads->later_queries;
  bool refines = effort->refine > 0 && heads->engine->refines;
  pith_array *views = pith_allocate(context, group, sizeof *views);
  if (!views) return PITH_E_MEMORY;
  for (size_t j = 0; j < group; j++) views[j] = pith_array_head(queries, job->layer, job->head * group + j);
  pith_query_source source = {.queries = views,
                              .query_heads = group,
                              .d = job->problem.d,
                              .dv = job->problem.dv,
                              .keys = job->problem.n,
                              .key_rows = job->keys,
                              .value_rows = job->values,
                              .lessons = refines ? effort->lessons : 0,
                              .spare = leave_out ? CHOOSERS : 0,
                              .scale = softmax_scale(options, job->problem.d),
                              .rho = options->rho,
                              .rope_base = options->rope_base,
                              .rope = options->rope,
                              .query_start = options->query_start,
                              .horizon = options->horizon,
                              .samples = effort->samples,
                              .probes = options->probes,
                              .kind = options->query_model,
                              .seed = options->seed,
                              .object = job->problem.object};
  pith_status status = pith_query_model_create(context, &source, &job->model);
  pith_release(context, views);
  PITH_TRY(status);
  const pith_query_model *m = job->model;
  job->probes = (pith_asked){
      .count = m->probe_count, .queries = m->probes, .log_mass = m->probe_log_mass, .answer = m->probe_answer};
  if (leave_out) set_choosers(job);
  return choose && !leave_out ? pith_ask_later(context, heads, job->layer, job->head, source.scale, &job->choosers)
                              : PITH_OK;
}

/* Marks the candidates of largest kernel weight as exact. */
static pith_status mark_outliers(pith_context *context, pith_job *job) {
  pith_problem *p = &job->problem;
  bool automatic = job->options->outliers == PITH_OUTLIERS_AUTO;
  pith_kernel *kernel = NULL;
  double *weight = pith_allocate(context, 2 * p->n, sizeof *weight), *sorted = weight + p->n;
  if (!weight) return PITH_E_MEMORY;
  pith_status status = pith_kernel_create(context, job->model, p->keys, NULL, p->n, &kernel);
  if (status == PITH_OK) {
    size_t count = 0;
    for (size_t i = 0; i < p->n; i++) {
      double norm = 0;
      for (size_t j = 0; j < p->dv; j++) norm += (double)p->values[i * p->dv + j] * p->values[i * p->dv + j];
      weight[i] = p->exact[i] ? -1 : kernel->diagonal[i] * norm;
      if (!p->exact[i]) sorted[count++] = weight[i];
    }
    pith_sort_f64(sorted, count);
    size_t wanted = automatic ? (size_t)(MOST_OUTSTANDING * (double)p->n) : job->options->outliers;
    wanted = pith_min_size(wanted, count);
    double least = wanted > 0 ? sorted[count - wanted] : INFINITY;
    if (automatic && count > 0) least = fmax(least, OUTSTANDING * sorted[count / 2]);
    size_t marked = 0;
    for (size_t i = 0; i < p->n && marked < wanted; i++)
      if (weight[i] >= least) {
        job->exact[i] = 1;
        marked++;
      }
    p->candidates -= marked;
  }
  pith_kernel_free(context, kernel);
  pith_release(context, weight);
  return status;
}

static pith_status mark_exact(pith_context *context, pith_job *job) {
  pith_problem *p = &job->problem;
  for (size_t i = 0; i < p->n; i++) {
    job->exact[i] = i < job->options->sinks || p->n - i <= job->options->window;
    p->candidates += !job->exact[i];
  }
  return job->options->outliers > 0 && p->candidates > 0 ? mark_outliers(context, job) : PITH_OK;
}

static pith_status meet_exactly(pith_context *context, pith_job *job, pith_asked *asked) {
  asked->met = pith_allocate(context, asked->count * job->problem.dv, sizeof(float));
  if (!asked->met) return PITH_E_MEMORY;
  return pith_job_meet(context, job, asked, job->keys, job->values, NULL, job->problem.n, asked->met);
}

static pith_status open_job(pith_context *context, const pith_heads *heads, const pith_effort *effort, bool choose,
                            pith_job *job) {
  pith_array k = pith_array_head(heads->keys, job->layer, job->head);
  pith_array v = pith_array_head(heads->values, job->layer, job->head);
  pith_problem *p = &job->problem;
  p->n = k.shape[0];
  p->d = k.shape[1];
  p->dv = v.shape[1];
  p->refine = effort->refine;
  p->lessons = effort->lessons;
  p->seed = job->options->seed;
  p->object = (uint32_t)(job->layer * heads->heads + job->head);
  p->keys = job->keys = pith_allocate(context, p->n * p->d, sizeof(float));
  p->values = job->values = pith_allocate(context, p->n * p->dv, sizeof(float));
  p->exact = job->exact = pith_allocate_zero(context, p->n, 1);
  if (!job->keys || !job->values || !job->exact) return PITH_E_MEMORY;
  PITH_TRY(pith_array_to_f32(context, &k, "keys", 1, job->keys));
  PITH_TRY(pith_array_to_f32(context, &v, "values", 1, job->values));
  PITH_TRY(make_model(context, heads, effort, choose, job));
  p->model = job->model;
  PITH_TRY(mark_exact(context, job));
  job->probe_answers = pith_allocate(context, job->model->probe_count * p->dv, sizeof(float));
  if (!job->probe_answers) return PITH_E_MEMORY;
  PITH_TRY(meet_exactly(context, job, &job->probes));
  PITH_TRY(meet_exactly(context, job, &job->choosers));
  pith_rows rows = {.keys = job->keys,
                    .values = job->values,
                    .key_stride = (ptrdiff_t)(p->d * sizeof(float)),
                    .value_stride = (ptrdiff_t)(p->dv * sizeof(float)),
                    .dtype = PITH_F32,
                    .count = p->n,
                    .d = p->d,
                    .dv = p->dv};
  return pith_attend_rows(context, &rows, job->model->probes, job->model->probe_count, job->probe_answers);
}

pith_status pith_job_open(pith_context *context, const pith_heads *heads, const pith_effort *effort, bool choose,
                          size_t index, pith_job **out) {
  pith_job *job = pith_allocate_zero(context, 1, sizeof *job);
  if (!job) return PITH_E_MEMORY;
  job->options = heads->options;
  job->engine = heads->engine;
  job->layer = index / heads->heads;
  job->head = index % heads->heads;
  pith_status status = open_job(context, heads, effort, choose, job);
  if (status < 0)
    pith_job_close(context, job);
  else
    *out = job;
  return status;
}

void pith_job_close(pith_context *context, pith_job *job) {
  if (!job) return;
  if (job->state) job->engine->release(context, job->state);
  pith_query_model_free(context, job->model);
  pith_release(context, job->keys);
  pith_release(context, job->values);
  pith_release(context, job->exact);
  pith_release(context, job->probe_answers);
  pith_release(context, job->probes.met);
  pith_release(context, job->choosers.met);
  pith_release(context, job->choosers.block);
  pith_release(context, job);
}

size_t pith_job_exact(const pith_job *job) { return job->problem.n - job->problem.candidates; }

pith_status pith_job_prepare(pith_context *context, pith_job *job, size_t points) {
  size_t exact = pith_job_exact(job), most = points > exact ? points - exact : 0;
  if (job->state) job->engine->release(context, job->state);
  job->state = NULL;
  job->most = pith_min_size(most, job->problem.candidates);
  if (job->most == 0 || job->most == job->problem.candidates) return PITH_OK; /* nothing to choose */
  return job->engine->prepare(context, &job->problem, job->most, &job->state);
}

/* ---- Taking a size ---- */

/* Exact rows first (in order), then the engine's points. When there is room for all rows, all are kept. */
static pith_status choose_points(pith_context *context, const pith_job *job, size_t points, pith_points *chosen,
                                 size_t *exact) {
  const pith_problem *p = &job->problem;
  for (size_t i = 0; i < p->n; i++)
    if (p->exact[i]) pith_points_append(chosen, p, i, 0);
  *exact = chosen->count;
  size_t wanted = points > chosen->count ? points - chosen->count : 0;
  if (wanted >= p->candidates) {
    for (size_t i = 0; i < p->n; i++)
      if (!p->exact[i]) pith_points_append(chosen, p, i, 0);
    *exact = chosen->count;
    return PITH_OK;
  }
  if (wanted == 0) return PITH_OK;
  pith_points tail = *chosen;
  tail.capacity = wanted;
  tail.count = 0;
  tail.keys += *exact * p->d;
  tail.values += *exact * p->dv;
  tail.log_weight += *exact;
  tail.index += *exact;
  PITH_TRY(job->engine->take(context, p, job->state, wanted, &tail));
  chosen->count += tail.count;
  return PITH_OK;
}

/* Errors of the stored head at the probes: mean, and the whole list for the certificate. */
static pith_status measure_probes(pith_context *context, const pith_job *job, const pith_head_view *view,
                                  double *errors, double *mean) {
  size_t count = job->model->probe_count, dv = job->problem.dv;
  *mean = NAN;
  if (count == 0) return PITH_OK;
  float *answers = pith_allocate(context, count, dv * sizeof *answers);
  if (!answers) return PITH_E_MEMORY;
  pith_rows rows = pith_head_rows(view);
  pith_status status = pith_attend_rows(context, &rows, job->model->probes, count, answers);
  double sum = 0;
  for (size_t r = 0; status == PITH_OK && r < count; r++)
    sum += errors[r] = pith_error_measure(job->probe_answers + r * dv, answers + r * dv, 1, dv).mean;
  *mean = sum / (double)count;
  pith_release(context, answers);
  return status;
}

/* Ball and gaussian certificates compare the rows with what is really stored, after rounding. */
static pith_status certify_pairs(pith_context *context, const pith_job *job, pith_head_view *view) {
  const pith_problem *p = &job->problem;
  const pith_query_model *model = job->model;
  bool gaussian = model->kind == PITH_QUERIES_GAUSSIAN;
  float *keys = pith_allocate(context, view->points * (p->d + p->dv), sizeof *keys);
  if (!keys) return PITH_E_MEMORY;
  float *values = keys + view->points * p->d;
  pith_head_to_f32(view, keys, values);
  pith_pairs full = {p->n, p->d, p->dv, p->keys, p->values, NULL};
  pith_pairs stored = {view->points, p->d, p->dv, keys, values, view->log_weight};
  pith_status status = pith_certify_ball(context, &full, &stored, model->rho, &view->ball);
  if (status == PITH_OK && gaussian)
    status = pith_certify_gaussian(context, &full, &stored, model->mean, model->covariance, &view->gaussian, NULL);
  pith_release(context, keys);
  return status;
}

/* The certificate that fits the question: the strongest that holds, else the one that was to be expected. */
static void bind(const pith_job *job, pith_head_view *view) {
  bool probes = view->probe.kind == PITH_CERTIFICATE_PROBE;
  pith_certificate_kind kind = PITH_CERTIFICATE_BALL;
  if (job->model->kind == PITH_QUERIES_GAUSSIAN)
    kind = PITH_CERTIFICATE_GAUSSIAN;
  else if (probes && (job->model->kind == PITH_QUERIES_SAMPLES || !view->ball.certified))
    kind = PITH_CERTIFICATE_PROBE;
  pith_head_bind(view, kind);
}

static void hold_to_eps(pith_certificate *certificate, double eps) {
  if (eps > 0 && !(certificate->bound <= eps)) certificate->certified = 0;
}

/* Time n^2: for large n only where it was asked for, or is all there is to reach eps with. */
static bool affords_certificate(const pith_job *job) {
  const pith_compress_options *o = job->options;
  return job->problem.n <= PITH_CERTIFY_ROWS || o->certify || (o->eps > 0 && job->model->probe_count == 0);
}

static pith_status finish_head(pith_context *context, const pith_job *job, pith_head_view *view) {
  size_t probes = job->model->probe_count;
  double *errors = pith_allocate(context, probes, sizeof *errors);
  if (!errors) return PITH_E_MEMORY;
  pith_status status = measure_probes(context, job, view, errors, &view->probe_error);
  if (status == PITH_OK && probes > 0) {
    status = pith_certify_probe(context, errors, probes, job->options->confidence, &view->probe);
    view->probe.trivial = pith_value_diameter(job->values, job->problem.n, job->problem.dv);
    view->probe.certified = view->probe.bound < view->probe.trivial;
  }
  pith_release(context, errors);
  if (status == PITH_OK && affords_certificate(job)) status = certify_pairs(context, job, view);
  PITH_TRY(status);
  hold_to_eps(&view->ball, job->options->eps);
  hold_to_eps(&view->gaussian, job->options->eps);
  hold_to_eps(&view->probe, job->options->eps);
  bind(job, view);
  return PITH_OK;
}

static pith_status store_points(pith_context *context, const pith_job *job, const pith_points *chosen, size_t exact,
                                pith_dtype store, pith_summary *summary) {
  uint8_t *marks = pith_allocate_zero(context, chosen->count, 1);
  if (!marks) return PITH_E_MEMORY;
  memset(marks, 1, exact);
  pith_status status =
      pith_summary_set_head(context, summary, job->layer, job->head, chosen->count, job->problem.d, job->problem.dv,
                            store, chosen->keys, chosen->values, chosen->log_weight, chosen->index, marks);
  pith_release(context, marks);
  return status;
}

pith_status pith_job_take(pith_context *context, pith_job *job, size_t points, pith_dtype store,
                          pith_summary *summary) {
  const pith_problem *p = &job->problem;
  pith_points *chosen = NULL;
  size_t exact = 0;
  PITH_TRY(pith_points_create(context, pith_max_size(points, pith_job_exact(job)), p->d, p->dv, &chosen));
  pith_status status = choose_points(context, job, points, chosen, &exact);
  pith_head_view *view = pith_summary_view(summary, job->layer, job->head);
  if (status == PITH_OK) status = store_points(context, job, chosen, exact, store, summary);
  if (status == PITH_OK) {
    view->source_rows = p->n;
    view->fold_error = NAN;
    status = finish_head(context, job, view);
  }
  if (status == PITH_OK && job->options->fold_weights) {
    double before = view->probe_error;
    chosen->count = 0;
    job->problem.fold = true; /* the engine folds what it can refit afterwards; the rest is folded as it is */
    status = choose_points(context, job, points, chosen, &exact);
    job->problem.fold = false;
    if (status == PITH_OK)
      status = pith_fold_weights(context, job->model, chosen->keys, chosen->log_weight, chosen->count);
    if (status == PITH_OK) status = store_points(context, job, chosen, exact, store, summary);
    if (status == PITH_OK) status = finish_head(context, job, view);
    view->fold_error = view->probe_error - before;
  }
  pith_points_free(context, chosen);
  return status;
}

pith_status pith_job_try(pith_context *context, pith_job *job, size_t points, const pith_dtype *stores, size_t count,
                         pith_tried *tried) {
  const pith_problem *p = &job->problem;
  pith_points *chosen = NULL;
  pith_summary *summary = NULL;
  size_t exact = 0;
  PITH_TRY(pith_points_create(context, pith_max_size(points, pith_job_exact(job)), p->d, p->dv, &chosen));
  pith_status status = choose_points(context, job, points, chosen, &exact);
  if (status == PITH_OK) status = pith_summary_create(context, 1, 1, &summary);
  for (size_t i = 0; status == PITH_OK && i < count; i++) {
    status = pith_summary_set_head(context, summary, 0, 0, chosen->count, p->d, p->dv, stores[i], chosen->keys,
                                   chosen->values, chosen->log_weight, NULL, NULL);
    const pith_head_view *view = pith_summary_view(summary, 0, 0);
    pith_met_error probes = {NAN, NAN};
    if (status == PITH_OK) status = pith_job_met_error(context, job, &job->choosers, view, &tried[i].error);
    if (status == PITH_OK) status = pith_job_met_error(context, job, &job->probes, view, &probes);
    bool comparable = job->choosers.later && probes.squared > 0;
    tried[i].drift = comparable ? pith_expected_error(tried[i].error) / probes.squared : 1;
  }
  pith_summary_free(summary);
  pith_points_free(context, chosen);
  return status;
}
