/* met.c - errors as a model meets them: a query sees the keys near it beside the summary. */
#include <math.h>
#include <string.h>

#include "budget/job.h"
#include "kernels/kernels.h"

typedef struct meeting {
  const pith_asked *asked;
  size_t rows, d, dv;
  const float *keys, *values, *log_weight;
  float *answer, *largest, *sum; /* (count, dv), (count), (count) */
} meeting;

static void meet_group(void *argument, size_t index, int thread) {
  (void)thread;
  const meeting *m = argument;
  const pith_asked *asked = m->asked;
  size_t begin = index * PITH_MAX_GROUP, group = pith_min_size(PITH_MAX_GROUP, asked->count - begin), dv = m->dv;
  float *answer = m->answer + begin * dv, *largest = m->largest + begin, *sum = m->sum + begin;
  memcpy(answer, asked->answer + begin * dv, group * dv * sizeof *answer);
  for (size_t r = 0; r < group; r++) {
    largest[r] = asked->log_mass[begin + r];
    sum[r] = largest[r] > -INFINITY ? 1 : 0;
  }
  pith_attend_block block = {.group = group,
                             .d = m->d,
                             .dv = dv,
                             .rows = m->rows,
                             .queries = asked->queries + begin * m->d,
                             .keys = m->keys,
                             .values = m->values,
                             .key_stride = (ptrdiff_t)(m->d * sizeof(float)),
                             .value_stride = (ptrdiff_t)(dv * sizeof(float)),
                             .log_weights = m->log_weight,
                             .largest = largest,
                             .sum = sum,
                             .output = answer};
  if (m->rows > 0) pith_kernels_active()->attend_f32(&block);
  for (size_t r = 0; r < group; r++)
    for (size_t j = 0; j < dv && sum[r] > 0; j++) answer[r * dv + j] /= sum[r];
}

pith_status pith_job_meet(pith_context *context, const pith_job *job, const pith_asked *asked, const float *keys,
                          const float *values, const float *log_weight, size_t rows, float *answers) {
  float *state = pith_allocate(context, 2 * asked->count, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  meeting m = {asked,  rows,       job->problem.d, job->problem.dv, keys,
               values, log_weight, answers,        state,           state + asked->count};
  pith_parallel_for(context, (asked->count + PITH_MAX_GROUP - 1) / PITH_MAX_GROUP, meet_group, &m);
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

static pith_met_error compare(const pith_asked *asked, const float *answers, size_t dv) {
  double sum = 0, squares = 0, count = (double)asked->count;
  for (size_t r = 0; r < asked->count; r++) {
    double squared = 0;
    for (size_t j = 0; j < dv; j++) {
      double x = (double)answers[r * dv + j] - asked->met[r * dv + j];
      squared += x * x;
    }
    sum += squared;
    squares += squared * squared;
  }
  double mean = sum / count;
  return (pith_met_error){mean, sqrt(fmax(squares / count - mean * mean, 0) / count)};
}

pith_status pith_job_met_error(pith_context *context, const pith_job *job, const pith_asked *asked,
                               const pith_head_view *view, pith_met_error *error) {
  *error = (pith_met_error){NAN, NAN};
  if (asked->count == 0) return PITH_OK;
  float *rows = NULL, *answers = pith_allocate(context, asked->count * job->problem.dv, sizeof *answers);
  if (!answers) return PITH_E_MEMORY;
  pith_status status = read_back(context, view, &rows);
  if (status == PITH_OK)
    status = pith_job_meet(context, job, asked, rows, rows + view->points * view->d, view->log_weight, view->points,
                           answers);
  if (status == PITH_OK) *error = compare(asked, answers, job->problem.dv);
  pith_release(context, rows);
  pith_release(context, answers);
  return status;
}
