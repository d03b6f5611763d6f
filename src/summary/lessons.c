/* lessons.c - the answers that refinement works towards. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "summary/refine.h"

enum { PANEL = 64 };

typedef struct lesson_work {
  const pith_problem *problem;
  pith_lessons *lessons;
  size_t exact;                            /* the first rows of keys and values */
  const float *keys, *values, *log_weight; /* rows in the order: exact rows, candidates; values minus the mean */
  float *scratch;                          /* (threads, PANEL, n) */
} lesson_work;

/* Adds rows begin .. end-1 to the answers of a panel, whose parts so far have masses exp(log_mass); -inf: none. */
static void see_rows(const lesson_work *w, const float *queries, size_t count, size_t begin, size_t end, float *weight,
                     float *log_mass, float *answer) {
  const pith_kernels *kernels = pith_kernels_active();
  size_t d = w->problem->d, dv = w->problem->dv, rows = end - begin;
  if (rows == 0) return;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)rows, (int)d, 1, queries, (int)d,
              w->keys + begin * d, (int)d, 0, weight, (int)rows);
  for (size_t r = 0; r < count; r++) {
    float *row = weight + r * rows;
    if (w->log_weight) kernels->axpy(1, w->log_weight + begin, row, rows);
    float largest = fmaxf(kernels->max(row, rows), log_mass[r]);
    float sum = kernels->exp_sum(row, rows, -largest), before = expf(log_mass[r] - largest);
    float factor = 1 / (sum + before);
    for (size_t i = 0; i < rows; i++) row[i] *= factor;
    for (size_t j = 0; j < dv; j++) answer[r * dv + j] *= before * factor;
    log_mass[r] = largest + logf(sum + before);
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)dv, (int)rows, 1, weight, (int)rows,
              w->values + begin * dv, (int)dv, 1, answer, (int)dv);
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
  see_rows(w, queries, count, 0, w->exact, weight, fixed_log_mass, fixed);
  memcpy(answer, fixed, count * dv * sizeof *answer);
  memcpy(log_mass, fixed_log_mass, count * sizeof *log_mass);
  see_rows(w, queries, count, w->exact, p->n, weight, log_mass, answer);
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
