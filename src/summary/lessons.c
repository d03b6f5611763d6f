/* lessons.c - the answers that refinement works towards. */
#include <math.h>
#include <string.h>

#include "attention/attention.h"
#include "summary/refine.h"

enum { PANEL = 256 };

typedef struct lesson_work {
  const pith_problem *problem;
  pith_lessons *lessons;
  size_t exact;                            /* the first rows of keys and values */
  const float *keys, *values, *log_weight; /* rows in the order: exact rows, candidates; values minus the mean */
  float *scratch;                          /* (threads, PANEL, n) */
} lesson_work;

/* Rows begin .. end-1. */
static pith_rows rows_of(const lesson_work *w, size_t begin, size_t end) {
  size_t d = w->problem->d, dv = w->problem->dv;
  return (pith_rows){.keys = w->keys + begin * d,
                     .values = w->values + begin * dv,
                     .dtype = PITH_F32,
                     .count = end - begin,
                     .d = d,
                     .dv = dv,
                     .log_weight = w->log_weight ? w->log_weight + begin : NULL};
}

/* One panel of queries: the near keys, the exact rows, then all. */
static void learn_panel(void *argument, size_t index, int thread) {
  const lesson_work *w = argument;
  const pith_problem *p = w->problem;
  const pith_query_model *model = p->model;
  pith_lessons *lessons = w->lessons;
  size_t begin = index * PANEL, count = pith_min_size(PANEL, lessons->count - begin), dv = p->dv;
  const float *queries = lessons->queries + begin * p->d;
  float *fixed_log_mass = lessons->fixed_log_mass + begin, log_mass[PANEL];
  float *fixed = lessons->fixed_answer + begin * dv, *answer = lessons->answer + begin * dv;
  float *weight = w->scratch + (size_t)thread * PANEL * p->n;
  for (size_t r = 0; r < count; r++) {
    fixed_log_mass[r] = model->local_log_mass[begin + r];
    bool local = fixed_log_mass[r] > -INFINITY;
    for (size_t j = 0; j < dv; j++)
      fixed[r * dv + j] = local ? model->local_answer[(begin + r) * dv + j] - lessons->value_mean[j] : 0;
  }
  pith_rows exact = rows_of(w, 0, w->exact), others = rows_of(w, w->exact, p->n);
  pith_attend_panel(&exact, queries, count, weight, fixed_log_mass, fixed);
  memcpy(answer, fixed, count * dv * sizeof *answer);
  memcpy(log_mass, fixed_log_mass, count * sizeof *log_mass);
  pith_attend_panel(&others, queries, count, weight, log_mass, answer);
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
  float *scratch = pith_allocate(context, (size_t)pith_threads(context) * PANEL, n * sizeof *scratch);
  if (!lessons->answer || !lessons->fixed_log_mass || !lessons->fixed_answer || !lessons->value_mean || !rows ||
      !scratch) {
    pith_release(context, rows);
    pith_release(context, scratch);
    return PITH_E_MEMORY;
  }
  for (size_t j = 0; j < dv; j++) lessons->value_mean[j] = (float)value_mean[j];
  float *keys = rows, *values = keys + n * d, *log_weight = values + n * dv;
  size_t exact = problem->n - problem->candidates, next[2] = {exact, 0};
  for (size_t i = 0; i < n; i++) {
    size_t at = next[problem->exact && problem->exact[i]]++;
    double distance = 0;
    memcpy(keys + at * d, problem->keys + i * d, d * sizeof *keys);
    log_weight[at] = problem->log_weight ? problem->log_weight[i] : 0;
    for (size_t j = 0; j < dv; j++) {
      double x = problem->values[i * dv + j] - value_mean[j];
      values[at * dv + j] = (float)x;
      distance += x * x;
    }
    lessons->largest_value = fmax(lessons->largest_value, sqrt(distance));
  }
  lesson_work work = {problem, lessons, exact, keys, values, problem->log_weight ? log_weight : NULL, scratch};
  pith_parallel_for(context, (count + PANEL - 1) / PANEL, learn_panel, &work);
  pith_release(context, rows);
  pith_release(context, scratch);
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
