/* profile.c - pith_attention_profile: rows of logits, head by head, and their means. */
#include "sparsity/profile.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "attention/attention.h"

enum { LEAST_PREFIX = 64, GROWTH = 8, MOST_PREFIXES = 48 };
static const double BOUND_DELTA = 0.05;

typedef struct row_result {
  pith_row_profile profile; /* keys 0: the query sees none */
  size_t prefixes;
  double n[MOST_PREFIXES], k[MOST_PREFIXES];
  double error, norm;
} row_result;

typedef struct head_job {
  const pith_profile_options *options;
  const float *query, *keys, *values; /* (m, d) scaled, (n, d), (n, dv) or NULL */
  size_t m, n, d, dv, looks;
  bool own_prefixes;
  double *work; /* each thread's: two rows of n, two of dv */
  row_result *rows;
} head_job;

void pith_profile_options_init(pith_profile_options *options) {
  *options = (pith_profile_options){.struct_size = sizeof *options, .eps = 0.05, .queries = 256, .sinks = 4};
}

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }

static pith_status read_options(pith_context *context, const pith_profile_options *options, size_t d,
                                pith_profile_options *chosen) {
  pith_profile_options_init(chosen);
  if (options) {
    if (options->struct_size > sizeof *chosen)
      return pith_fail(context, PITH_E_ARGUMENT,
                       "options: struct_size is %zu, this library knows %zu; call pith_profile_options_init",
                       options->struct_size, sizeof *chosen);
    memcpy(chosen, options, options->struct_size);
  }
  if (!isfinite(chosen->scale))
    return pith_fail(context, PITH_E_ARGUMENT, "scale: %g; it must be finite, 0 means 1/sqrt(d)", chosen->scale);
  if (!(chosen->eps > 0 && chosen->eps < 1))
    return pith_fail(context, PITH_E_ARGUMENT, "eps: %g; it is a share of the mass, give one between 0 and 1",
                     chosen->eps);
  if (chosen->scale == 0) chosen->scale = 1 / sqrt((double)d);
  return PITH_OK;
}

/* Row of the queries that look number `look` is at; the last look is at the last row. */
static size_t row_of_look(const head_job *job, size_t look) {
  return (look + 1) * (job->m / job->looks) + (look + 1) * (job->m % job->looks) / job->looks - 1;
}

/* Keys that row `row` sees. */
static size_t keys_seen(const head_job *job, size_t row) {
  if (!job->options->causal) return job->n;
  size_t later = job->m - 1 - row; /* rows behind it, each of which sees one key more */
  return later < job->n ? job->n - later : 0;
}

/* How far the answer from the k largest weights is from the whole one. Ties are broken by position. */
static void measure_error(const head_job *job, const double *logits, const double *sorted, double *exact, double *head,
                          row_result *row) {
  const pith_row_profile *p = &row->profile;
  const size_t dv = job->dv, k = (size_t)p->k_eps;
  const double least = sorted[k - 1];
  size_t above = 0;
  while (above < k && sorted[above] > least) above++;
  size_t ties = k - above;
  double kept = 0, difference = 0, norm = 0;
  memset(exact, 0, dv * sizeof *exact);
  memset(head, 0, dv * sizeof *head);
  for (size_t j = 0; j < p->keys; j++) {
    double weight = exp(logits[j] - p->top_logit) / p->mass;
    bool taken = weight > least || (weight == least && ties > 0 && ties--);
    const float *value = job->values + j * dv;
    for (size_t i = 0; i < dv; i++) exact[i] += weight * (double)value[i];
    if (!taken) continue;
    kept += weight;
    for (size_t i = 0; i < dv; i++) head[i] += weight * (double)value[i];
  }
  for (size_t i = 0; i < dv; i++) {
    double gap = exact[i] - head[i] / kept;
    difference += gap * gap;
    norm += exact[i] * exact[i];
  }
  row->error = sqrt(difference);
  row->norm = sqrt(norm);
}

static void add_prefix(row_result *row, size_t n, double k) {
  row->n[row->prefixes] = (double)n;
  row->k[row->prefixes++] = k;
}

static void look_at_row(void *argument, size_t look, int thread) {
  const head_job *job = argument;
  const size_t at = row_of_look(job, look), n = keys_seen(job, at);
  row_result *row = &job->rows[look];
  double *logits = job->work + (size_t)thread * 2 * (job->n + job->dv), *sorted = logits + job->n;
  *row = (row_result){0};
  if (n == 0) return;
  for (size_t j = 0; j < n; j++) { /* a product that overflows counts as the largest number there is */
    double logit = (double)pith_kernels_active()->dot(job->query + at * job->d, job->keys + j * job->d, job->d);
    logits[j] = fmax(-(double)FLT_MAX, fmin(logit, (double)FLT_MAX));
  }
  pith_row_profile_count(logits, n, job->options->eps, job->options->sinks, sorted, &row->profile);
  if (job->values) measure_error(job, logits, sorted, sorted + job->n, sorted + job->n + job->dv, row);
  if (n >= LEAST_PREFIX) add_prefix(row, n, row->profile.k_eps);
  if (job->own_prefixes) return;
  for (size_t part = n / 2; part >= LEAST_PREFIX; part /= 2) {
    pith_row_profile prefix;
    pith_row_profile_count(logits, part, job->options->eps, 0, sorted, &prefix);
    add_prefix(row, part, prefix.k_eps);
  }
}

/* The means over all looks; `n`, `k`, `group`: room for all prefixes. */
static void sum_up(const head_job *job, double *n, double *k, size_t *group, pith_head_profile *out) {
  size_t points = 0;
  double variance = 0, norm = 0;
  for (size_t i = 0; i < job->looks; i++) {
    const pith_row_profile *p = &job->rows[i].profile;
    if (p->keys == 0) continue;
    out->queries++;
    out->keys += (double)p->keys;
    out->mean += p->mean;
    variance += p->variance;
    out->above_eps += p->above_eps;
    out->k50 += p->k50;
    out->k90 += p->k90;
    out->k99 += p->k99;
    out->k999 += p->k999;
    out->k_eps += p->k_eps;
    out->participation += p->participation;
    out->sink_mass += p->sink_mass;
    out->error += job->rows[i].error;
    norm += job->rows[i].norm;
    for (int t = 0; t < PITH_PROFILE_TAILS; t++) out->tail[t] += p->tail[t];
    for (size_t j = 0; j < job->rows[i].prefixes; j++, points++) {
      n[points] = job->rows[i].n[j];
      k[points] = job->rows[i].k[j];
      group[points] = i;
    }
  }
  const double share = out->queries ? 1 / (double)out->queries : 0;
  double *means[] = {&out->keys, &out->mean,  &out->above_eps, &out->k50,           &out->k90,       &out->k99,
                     &out->k999, &out->k_eps, &out->error,     &out->participation, &out->sink_mass, &norm};
  for (size_t i = 0; i < sizeof means / sizeof *means; i++) *means[i] *= share;
  for (int t = 0; t < PITH_PROFILE_TAILS; t++) out->tail[t] *= share;
  out->sigma = sqrt(variance * share);
  out->relative_error = out->error == 0 ? 0 : out->error / norm;
  if (!job->values) out->error = out->relative_error = NAN;
  const double eps = job->options->eps;
  out->k_predicted = pith_gaussian_entries(out->keys, out->sigma, eps);
  out->above_predicted = pith_gaussian_above(out->keys, out->sigma, eps);
  out->above_bound = pith_gaussian_above_bound(out->keys, out->sigma, eps, BOUND_DELTA);
  pith_power_law law = pith_power_law_fit(n, k, group, points);
  out->exponent = law.exponent;
  out->alpha = law.alpha;
  out->exponent_interval[0] = law.low;
  out->exponent_interval[1] = law.high;
}

/* Room for all that one head needs, taken once. */
typedef struct profile_room {
  float *query, *keys, *values;
  double *work, *n, *k;
  size_t *group;
  row_result *rows;
} profile_room;

static void release_room(pith_context *context, profile_room *room) {
  pith_release(context, room->query);
  pith_release(context, room->keys);
  pith_release(context, room->values);
  pith_release(context, room->work);
  pith_release(context, room->n);
  pith_release(context, room->k);
  pith_release(context, room->group);
  pith_release(context, room->rows);
}

static pith_status take_room(pith_context *context, const head_job *job, bool with_values, profile_room *room) {
  const size_t points = job->looks * MOST_PREFIXES, threads = (size_t)pith_threads(context);
  *room = (profile_room){
      .query = pith_allocate(context, job->m, job->d * sizeof *room->query),
      .keys = pith_allocate(context, job->n, job->d * sizeof *room->keys),
      .values = with_values ? pith_allocate(context, job->n, job->dv * sizeof *room->values) : NULL,
      .work = pith_allocate(context, job->n + job->dv, 2 * threads * sizeof *room->work),
      .n = pith_allocate(context, points, sizeof *room->n),
      .k = pith_allocate(context, points, sizeof *room->k),
      .group = pith_allocate(context, points, sizeof *room->group),
      .rows = pith_allocate(context, job->looks, sizeof *room->rows),
  };
  bool all = room->query && room->keys && (room->values || !with_values) && room->work && room->n && room->k &&
             room->group && room->rows;
  return all ? PITH_OK : PITH_E_MEMORY;
}

static pith_status profile_heads(pith_context *context, const pith_array *queries, const pith_array *keys,
                                 const pith_array *values, head_job *job, profile_room *room, pith_head_profile *out) {
  const size_t heads = pith_array_heads(queries), group = heads / pith_array_heads(keys);
  const size_t count = pith_array_layers(queries) * heads;
  for (size_t i = 0; i < count; i++) {
    const size_t layer = i / heads, head = i % heads;
    PITH_TRY(pith_report(context, "profile", i, count));
    if (head % group == 0) {
      pith_array rows = pith_array_head(keys, layer, head / group);
      PITH_TRY(pith_array_to_f32(context, &rows, "keys", 1, room->keys));
      if (values) {
        rows = pith_array_head(values, layer, head / group);
        PITH_TRY(pith_array_to_f32(context, &rows, "values", 1, room->values));
      }
    }
    pith_array rows = pith_array_head(queries, layer, head);
    PITH_TRY(pith_array_to_f32(context, &rows, "queries", job->options->scale, room->query));
    pith_parallel_for(context, job->looks, look_at_row, job);
    out[i] = (pith_head_profile){.layer = layer, .head = head, .kv_head = head / group};
    sum_up(job, room->n, room->k, room->group, &out[i]);
  }
  return pith_report(context, "profile", count, count);
}

pith_status pith_attention_profile(pith_context *context, const pith_array *queries, const pith_array *keys,
                                   const pith_array *values, const pith_profile_options *options,
                                   pith_head_profile *out) {
  if (!queries || !out) return pith_fail(context, PITH_E_ARGUMENT, "%s: NULL was given", out ? "queries" : "out");
  PITH_TRY(pith_check_shapes(context, queries, keys, values ? values : keys));
  pith_profile_options chosen;
  PITH_TRY(read_options(context, options, columns_of(keys), &chosen));
  head_job job = {.options = &chosen,
                  .m = rows_of(queries),
                  .n = rows_of(keys),
                  .d = columns_of(keys),
                  .dv = values ? columns_of(values) : 0};
  job.looks = chosen.queries ? pith_min_size(chosen.queries, job.m) : job.m;
  size_t least = job.looks ? pith_max_size(LEAST_PREFIX, keys_seen(&job, row_of_look(&job, 0))) : 0;
  job.own_prefixes = chosen.causal && job.n / GROWTH >= least;

  profile_room room;
  pith_status status = take_room(context, &job, values != NULL, &room);
  job.query = room.query;
  job.keys = room.keys;
  job.values = room.values;
  job.work = room.work;
  job.rows = room.rows;
  pith_head_profile *found =
      pith_allocate(context, pith_array_layers(queries) * pith_array_heads(queries), sizeof *found);
  if (status == PITH_OK && !found) status = PITH_E_MEMORY;
  if (status == PITH_OK) status = profile_heads(context, queries, keys, values, &job, &room, found);
  if (status == PITH_OK) memcpy(out, found, pith_array_layers(queries) * pith_array_heads(queries) * sizeof *found);
  pith_release(context, found);
  release_room(context, &room);
  return status;
}
