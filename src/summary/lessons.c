/* lessons.c - the answers that refinement works towards. */
#include <math.h>
#include <string.h>

#include "attention/attention.h"
#include "summary/refine.h"

typedef struct lesson_work {
  const pith_problem *problem;
  pith_lessons *lessons;
  size_t exact;                            /* the first rows of keys and values */
  const float *keys, *values, *log_weight; /* rows in the order: exact rows, candidates */
} lesson_work;

static pith_attend_block block_of(const lesson_work *w, size_t begin, size_t end) {
  const pith_problem *p = w->problem;
  return (pith_attend_block){.d = p->d,
                             .dv = p->dv,
                             .rows = end - begin,
                             .keys = w->keys + begin * p->d,
                             .values = w->values + begin * p->dv,
                             .key_stride = (ptrdiff_t)(p->d * sizeof(float)),
                             .value_stride = (ptrdiff_t)(p->dv * sizeof(float)),
                             .log_weights = w->log_weight ? w->log_weight + begin : NULL};
}

/* One group of queries: first the exact rows and the near keys, then all. */
static void learn_group(void *argument, size_t index, int thread) {
  (void)thread;
  const lesson_work *w = argument;
  const pith_problem *p = w->problem;
  const pith_query_model *model = p->model;
  pith_lessons *lessons = w->lessons;
  size_t begin = index * PITH_MAX_GROUP, group = pith_min_size(PITH_MAX_GROUP, lessons->count - begin), dv = p->dv;
  float largest[PITH_MAX_GROUP], sum[PITH_MAX_GROUP];
  float *fixed = lessons->fixed_answer + begin * dv, *answer = lessons->answer + begin * dv;
  for (size_t r = 0; r < group; r++) {
    bool local = model->local_log_mass[begin + r] > -INFINITY;
    largest[r] = model->local_log_mass[begin + r];
    sum[r] = local ? 1 : 0;
    for (size_t j = 0; j < dv; j++) fixed[r * dv + j] = local ? model->local_answer[(begin + r) * dv + j] : 0;
  }
  pith_attend_block block = block_of(w, 0, w->exact);
  block.group = group;
  block.queries = lessons->queries + begin * p->d;
  block.largest = largest;
  block.sum = sum;
  block.output = fixed;
  if (w->exact > 0) pith_kernels_active()->attend_f32(&block);
  memcpy(answer, fixed, group * dv * sizeof *answer);
  for (size_t r = 0; r < group; r++) {
    lessons->fixed_log_mass[begin + r] = sum[r] > 0 ? largest[r] + logf(sum[r]) : -INFINITY;
    for (size_t j = 0; j < dv && sum[r] > 0; j++)
      fixed[r * dv + j] = fixed[r * dv + j] / sum[r] - lessons->value_mean[j];
  }
  pith_attend_block rest = block_of(w, w->exact, p->n);
  rest.group = group;
  rest.queries = block.queries;
  rest.largest = largest;
  rest.sum = sum;
  rest.output = answer;
  pith_kernels_active()->attend_f32(&rest);
  for (size_t r = 0; r < group; r++)
    for (size_t j = 0; j < dv; j++) answer[r * dv + j] = answer[r * dv + j] / sum[r] - lessons->value_mean[j];
}

static pith_status fill(pith_context *context, const pith_problem *problem, const double *value_mean,
                        pith_lessons *lessons) {
  size_t n = problem->n, d = problem->d, dv = problem->dv, count = problem->model->turned_count;
  if (problem->lessons > 0) count = pith_min_size(count, problem->lessons);
  lessons->count = count;
  lessons->dv = dv;
  lessons->queries = problem->model->fit;
  lessons->answer = pith_allocate(context, count * dv, sizeof(float));
  lessons->fixed_log_mass = pith_allocate(context, count, sizeof(float));
  lessons->fixed_answer = pith_allocate(context, count * dv, sizeof(float));
  lessons->value_mean = pith_allocate(context, dv, sizeof(float));
  float *rows = pith_allocate(context, n * (d + dv + 1), sizeof *rows);
  if (!lessons->answer || !lessons->fixed_log_mass || !lessons->fixed_answer || !lessons->value_mean || !rows) {
    pith_release(context, rows);
    return PITH_E_MEMORY;
  }
  for (size_t j = 0; j < dv; j++) lessons->value_mean[j] = (float)value_mean[j];
  float *keys = rows, *values = keys + n * d, *log_weight = values + n * dv;
  size_t exact = problem->n - problem->candidates, next[2] = {exact, 0};
  for (size_t i = 0; i < n; i++) {
    size_t at = next[problem->exact && problem->exact[i]]++;
    double distance = 0;
    memcpy(keys + at * d, problem->keys + i * d, d * sizeof *keys);
    memcpy(values + at * dv, problem->values + i * dv, dv * sizeof *values);
    log_weight[at] = problem->log_weight ? problem->log_weight[i] : 0;
    for (size_t j = 0; j < dv; j++) {
      double x = problem->values[i * dv + j] - value_mean[j];
      distance += x * x;
    }
    lessons->largest_value = fmax(lessons->largest_value, sqrt(distance));
  }
  lesson_work work = {problem, lessons, exact, keys, values, problem->log_weight ? log_weight : NULL};
  pith_parallel_for(context, (count + PITH_MAX_GROUP - 1) / PITH_MAX_GROUP, learn_group, &work);
  pith_release(context, rows);
  return PITH_OK;
}

pith_status pith_lessons_create(pith_context *context, const pith_problem *problem, const double *value_mean,
                                pith_lessons **out) {
  pith_lessons *lessons = pith_allocate_zero(context, 1, sizeof *lessons);
  if (!lessons) return PITH_E_MEMORY;
  pith_status status = fill(context, problem, value_mean, lessons);
  if (status < 0)
    pith_lessons_free(context, lessons);
  else
    *out = lessons;
  return status;
}

void pith_lessons_free(pith_context *context, pith_lessons *lessons) {
  if (!lessons) return;
  pith_release(context, lessons->answer);
  pith_release(context, lessons->fixed_log_mass);
  pith_release(context, lessons->fixed_answer);
  pith_release(context, lessons->value_mean);
  pith_release(context, lessons);
}
