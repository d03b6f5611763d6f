/* rehearsal.c - a summary made of what was there a while ago, asked by the queries that came since. */
#include <math.h>
#include <string.h>

#include "budget/job.h"
#include "kernels/kernels.h"

/* The rows after the cut are at most this part of all. */
enum { LATER_PART = 4 };
/* Later queries to ask, of all positions; fewer than LEAST tell too little. */
enum { ASKED = 1024, LEAST = 256 };
/* Fit queries of a rehearsal that only compares errors. */
enum { SAMPLES = 1024 };

/* ---- Asking ---- */

typedef struct later_work {
  size_t d, dv, heads; /* query heads of the group */
  const float *keys, *values;
  const float *queries; /* (count, d) */
  float *log_mass, *answer;
  size_t count, total; /* queries, of all that there are */
} later_work;

/* Query r of `count` is that of position and query head number_of(r) = position * heads + head. */
static size_t number_of(const later_work *w, size_t r) { return r * w->total / w->count; }

static void see_later(void *argument, size_t r, int thread) {
  (void)thread;
  const later_work *w = argument;
  float largest = -INFINITY, sum = 0, *answer = w->answer + r * w->dv;
  pith_attend_block block = {.group = 1,
                             .d = w->d,
                             .dv = w->dv,
                             .rows = number_of(w, r) / w->heads + 1,
                             .queries = w->queries + r * w->d,
                             .keys = w->keys,
                             .values = w->values,
                             .key_stride = (ptrdiff_t)(w->d * sizeof(float)),
                             .value_stride = (ptrdiff_t)(w->dv * sizeof(float)),
                             .largest = &largest,
                             .sum = &sum,
                             .output = answer};
  memset(answer, 0, w->dv * sizeof *answer);
  pith_kernels_active()->attend_f32(&block);
  for (size_t j = 0; j < w->dv; j++) answer[j] /= sum;
  w->log_mass[r] = largest + logf(sum);
}

/* scratch: later keys, later values, and the queries of one query head. */
static pith_status read_later(pith_context *context, const pith_heads *heads, size_t layer, size_t head, double scale,
                              later_work *w, float *queries, float *scratch) {
  size_t rows = heads->later_keys->shape[heads->later_keys->ndim - 2];
  pith_array k = pith_array_head(heads->later_keys, layer, head), v = pith_array_head(heads->later_values, layer, head);
  float *keys = scratch, *values = keys + rows * w->d, *all = values + rows * w->dv;
  PITH_TRY(pith_array_to_f32(context, &k, "keys", 1, keys));
  PITH_TRY(pith_array_to_f32(context, &v, "values", 1, values));
  for (size_t j = 0; j < w->heads; j++) {
    pith_array q = pith_array_head(heads->later_queries, layer, head * w->heads + j);
    PITH_TRY(pith_array_to_f32(context, &q, "queries", scale, all));
    for (size_t r = 0; r < w->count; r++)
      if (number_of(w, r) % w->heads == j)
        memcpy(queries + r * w->d, all + number_of(w, r) / w->heads * w->d, w->d * sizeof *queries);
  }
  w->keys = keys;
  w->values = values;
  return PITH_OK;
}

pith_status pith_ask_later(pith_context *context, const pith_heads *heads, size_t layer, size_t head, double scale,
                           pith_asked *asked) {
  size_t rows = heads->later_keys->shape[heads->later_keys->ndim - 2], d = heads->d, dv = heads->dv;
  size_t total = rows * heads->group, count = pith_min_size(total, ASKED);
  float *block = asked->block = pith_allocate(context, count * (d + dv + 1), sizeof *block);
  float *scratch = pith_allocate(context, rows * (2 * d + dv), sizeof *scratch);
  pith_status status = block && scratch ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) {
    float *queries = block, *answer = queries + count * d, *log_mass = answer + count * dv;
    later_work w = {.d = d,
                    .dv = dv,
                    .heads = heads->group,
                    .queries = queries,
                    .log_mass = log_mass,
                    .answer = answer,
                    .count = count,
                    .total = total};
    status = read_later(context, heads, layer, head, scale, &w, queries, scratch);
    if (status == PITH_OK) pith_parallel_for(context, count, see_later, &w);
    *asked = (pith_asked){
        .count = count, .later = true, .block = block, .queries = queries, .log_mass = log_mass, .answer = answer};
  }
  pith_release(context, scratch);
  return status;
}

/* ---- What was there ---- */

bool pith_rehearsal_set(const pith_heads *heads, pith_rehearsal *r) {
  const pith_compress_options *o = heads->options;
  *r = (pith_rehearsal){.heads = *heads, .options = *o};
  if (!heads->queries || o->rope == PITH_ROPE_NONE || o->horizon == 0 || o->outliers > 0) return false;
  size_t recorded = heads->queries->shape[heads->queries->ndim - 2], n = heads->n;
  size_t later = pith_min_size(o->horizon, n / LATER_PART), cut = n - later;
  size_t start = o->query_start != PITH_UNSET ? o->query_start : n > recorded ? n - recorded : 0;
  if (start + recorded != n || start + later > cut || later * heads->group < LEAST) return false;
  r->keys = pith_array_rows(heads->keys, 0, cut);
  r->values = pith_array_rows(heads->values, 0, cut);
  r->queries = pith_array_rows(heads->queries, 0, cut - start);
  r->later_keys = pith_array_rows(heads->keys, cut, later);
  r->later_values = pith_array_rows(heads->values, cut, later);
  r->later_queries = pith_array_rows(heads->queries, cut - start, later);
  r->options.query_start = start;
  r->options.horizon = later;
  r->heads.n = cut;
  r->heads.options = &r->options;
  r->heads.keys = &r->keys;
  r->heads.values = &r->values;
  r->heads.queries = &r->queries;
  r->heads.later_keys = &r->later_keys;
  r->heads.later_values = &r->later_values;
  r->heads.later_queries = &r->later_queries;
  return true;
}

size_t pith_points_rehearsed(const pith_rehearsal *r, size_t rows, size_t points) {
  return (size_t)((double)points * (double)r->heads.n / (double)rows);
}

size_t pith_points_meant(const pith_rehearsal *r, size_t rows, size_t rehearsed) {
  return (size_t)((double)rehearsed * (double)rows / (double)r->heads.n);
}

pith_status pith_rehearse(pith_context *context, const pith_heads *heads, size_t index, const size_t *points,
                          size_t count, double *drift) {
  pith_rehearsal rehearsal;
  bool possible = heads->weight && pith_rehearsal_set(heads, &rehearsal);
  for (size_t i = 0; i < count; i++) drift[i] = 1;
  if (!possible || count == 0) return PITH_OK;
  const pith_compress_options *o = heads->options;
  pith_effort effort = {.samples = o->samples ? pith_min_size(o->samples, SAMPLES) : SAMPLES};
  pith_dtype store = o->store == PITH_STORE_AUTO ? PITH_F16 : o->store;
  pith_job *job = NULL;
  PITH_TRY(pith_job_open(context, &rehearsal.heads, &effort, true, index, &job));
  pith_status status = pith_job_prepare(context, job, pith_points_rehearsed(&rehearsal, heads->n, points[0]));
  for (size_t i = 0; status == PITH_OK && i < count; i++) {
    pith_tried tried;
    status = pith_job_try(context, job, pith_points_rehearsed(&rehearsal, heads->n, points[i]), &store, 1, &tried);
    if (status == PITH_OK) drift[i] = tried.drift;
  }
  pith_job_close(context, job);
  return status;
}
