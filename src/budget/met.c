/* met.c - errors as a model meets them: a query sees the keys near it beside the summary. */
#include <math.h>
#include <string.h>

#include "budget/job.h"
#include "kernels/kernels.h"

typedef struct meeting {
  const pith_query_model *model;
  size_t probes, rows, dv;
  const float *keys, *values, *log_weight;
  float *answer, *largest, *sum; /* (probes, dv), (probes), (probes) */
} meeting;

static void meet_group(void *argument, size_t index, int thread) {
  (void)thread;
  const meeting *m = argument;
  const pith_query_model *model = m->model;
  size_t begin = index * PITH_MAX_GROUP, group = pith_min_size(PITH_MAX_GROUP, m->probes - begin), dv = m->dv;
  float *answer = m->answer + begin * dv, *largest = m->largest + begin, *sum = m->sum + begin;
  memcpy(answer, model->probe_answer + begin * dv, group * dv * sizeof *answer);
  for (size_t r = 0; r < group; r++) {
    largest[r] = model->probe_log_mass[begin + r];
    sum[r] = largest[r] > -INFINITY ? 1 : 0;
  }
  pith_attend_block block = {.group = group,
                             .d = model->d,
                             .dv = dv,
                             .rows = m->rows,
                             .queries = model->probes + begin * model->d,
                             .keys = m->keys,
                             .values = m->values,
                             .key_stride = (ptrdiff_t)(model->d * sizeof(float)),
                             .value_stride = (ptrdiff_t)(dv * sizeof(float)),
                             .log_weights = m->log_weight,
                             .largest = largest,
                             .sum = sum,
                             .output = answer};
  if (m->rows > 0) pith_kernels_active()->attend_f32(&block);
  for (size_t r = 0; r < group; r++)
    for (size_t j = 0; j < dv && sum[r] > 0; j++) answer[r * dv + j] /= sum[r];
}

pith_status pith_job_meet(pith_context *context, const pith_job *job, const float *keys, const float *values,
                          const float *log_weight, size_t rows, size_t probes, float *answers) {
  float *state = pith_allocate(context, 2 * probes, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  meeting m = {job->model, probes, rows, job->problem.dv, keys, values, log_weight, answers, state, state + probes};
  pith_parallel_for(context, (probes + PITH_MAX_GROUP - 1) / PITH_MAX_GROUP, meet_group, &m);
  pith_release(context, state);
  return PITH_OK;
}

/* Keys and values of a stored head as f32, in one block: keys first. */
static pith_status read_back(pith_context *context, const pith_head_view *view, float **block) {
  size_t points = view->points, d = view->d;
  float *rows = *block = pith_allocate(context, points * (d + view->dv), sizeof *rows);
  if (!rows) return PITH_E_MEMORY;
  pith_head_to_f32(view, rows, rows + points * d);
  return PITH_OK;
}

pith_status pith_job_met_error(pith_context *context, const pith_job *job, const pith_head_view *view, size_t count,
                               double *squared) {
  size_t dv = job->problem.dv;
  *squared = NAN;
  if (count == 0) return PITH_OK;
  float *rows = NULL, *answers = pith_allocate(context, count * dv, sizeof *answers);
  if (!answers) return PITH_E_MEMORY;
  pith_status status = read_back(context, view, &rows);
  if (status == PITH_OK)
    status = pith_job_meet(context, job, rows, rows + view->points * view->d, view->log_weight, view->points, count,
                           answers);
  if (status == PITH_OK) {
    double rms = pith_error_measure(job->met_answers, answers, count, dv).rms;
    *squared = rms * rms;
  }
  pith_release(context, rows);
  pith_release(context, answers);
  return status;
}
