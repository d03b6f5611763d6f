/* refine.c - Adam on a head's keys, weights and values.
 *
 * The closed form of nystrom.c minimises a squared error before normalisation, with true keys. What counts is
 * the norm of the normalised error, and a key that stands for many need not be one of them: a few hundred
 * gradient steps from the closed form lower the error on later, unseen queries: by a third to four tenths on the
 * byte-level model, by a tenth on SmolLM2 (docs/RESULTS.md). */
#include "summary/refine.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

enum { BATCH = 256, PANEL = 128, PANELS = BATCH / PANEL, ROWS = 64 };

/* Step sizes are relative to the spread of what is moved; the rate falls to 0 along half a cosine. */
static const double RATE = 0.02, MOMENT1 = 0.9, MOMENT2 = 0.999, WARM_UP = 10;
/* The gradient of sqrt-like loss |e| is softened below this share of the mean error. */
static const double SOFT = 0.1;
/* Fitted values of points of little weight can lie far outside; they start at most this many radii away. */
static const double FARTHEST = 3.0;

typedef struct refinement {
  bool weights; /* weights move too */
  const pith_problem *problem;
  const pith_lessons *lessons;
  size_t count, d, dv, width; /* width = d + dv + 1: key, value, log-weight of a point */
  float *keys, *values, *log_weight;
  size_t *batch;         /* (BATCH): rows of the lessons */
  float *query;          /* (BATCH, d) */
  float *weight;         /* (BATCH, count) */
  float *slope;          /* (BATCH, count) */
  float *answer;         /* (BATCH, dv) */
  float *pull;           /* (BATCH, dv): gradient of the loss by the answer */
  float *gradient;       /* (PANELS, count, width) */
  float *first, *second; /* (count, width): moments of Adam */
  float *value_rate;     /* (count) */
  double key_rate;
  double error_sum[PANELS], mean_error;
  double rate, correction1, correction2; /* of this step */
} refinement;

/* Answers of one panel of the batch; weights and answers stay for the gradient. */
static double answer_panel(const refinement *r, size_t begin) {
  const pith_kernels *kernels = pith_kernels_active();
  size_t m = r->count, d = r->d, dv = r->dv;
  float *query = r->query + begin * d, *weight = r->weight + begin * m, *answer = r->answer + begin * dv;
  for (size_t i = 0; i < PANEL; i++)
    memcpy(query + i * d, r->lessons->queries + r->batch[begin + i] * d, d * sizeof *query);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, PANEL, (int)m, (int)d, 1, query, (int)d, r->keys, (int)d, 0,
              weight, (int)m);
  float share[PANEL];
  for (size_t i = 0; i < PANEL; i++) {
    float *row = weight + i * m, fixed = r->lessons->fixed_log_mass[r->batch[begin + i]];
    kernels->axpy(1, r->log_weight, row, m);
    float largest = fmaxf(kernels->max(row, m), fixed);
    float sum = kernels->exp_sum(row, m, -largest), rest = expf(fixed - largest);
    float factor = 1 / (sum + rest);
    for (size_t s = 0; s < m; s++) row[s] *= factor;
    share[i] = rest * factor;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, PANEL, (int)dv, (int)m, 1, weight, (int)m, r->values, (int)dv,
              0, answer, (int)dv);
  double errors = 0;
  for (size_t i = 0; i < PANEL; i++) {
    const float *fixed = r->lessons->fixed_answer + r->batch[begin + i] * dv;
    const float *target = r->lessons->answer + r->batch[begin + i] * dv;
    float *pull = r->pull + (begin + i) * dv;
    double norm = 0;
    kernels->axpy(share[i], fixed, answer + i * dv, dv);
    for (size_t j = 0; j < dv; j++) {
      pull[j] = answer[i * dv + j] - target[j];
      norm += (double)pull[j] * pull[j];
    }
    norm = sqrt(norm);
    errors += norm;
    float factor = (float)(1 / ((norm + SOFT * r->mean_error + 1e-30) * BATCH));
    for (size_t j = 0; j < dv; j++) pull[j] *= factor;
  }
  return errors;
}

static void step_panel(void *argument, size_t panel, int thread) {
  (void)thread;
  refinement *r = argument;
  const pith_kernels *kernels = pith_kernels_active();
  size_t m = r->count, d = r->d, dv = r->dv, begin = panel * PANEL;
  r->error_sum[panel] = answer_panel(r, begin);
  const float *weight = r->weight + begin * m, *pull = r->pull + begin * dv, *answer = r->answer + begin * dv;
  float *slope = r->slope + begin * m, *gradient = r->gradient + panel * m * r->width;
  float *by_key = gradient, *by_value = by_key + m * d, *by_weight = by_value + m * dv;
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)dv, PANEL, 1, weight, (int)m, pull, (int)dv, 0,
              by_value, (int)dv);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, PANEL, (int)m, (int)dv, 1, pull, (int)dv, r->values, (int)dv, 0,
              slope, (int)m);
  memset(by_weight, 0, m * sizeof *by_weight);
  for (size_t i = 0; i < PANEL; i++) {
    float mean = kernels->dot(pull + i * dv, answer + i * dv, dv), *row = slope + i * m;
    for (size_t s = 0; s < m; s++) row[s] = (row[s] - mean) * weight[i * m + s];
    kernels->axpy(1, row, by_weight, m);
  }
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)d, PANEL, 1, slope, (int)m, r->query + begin * d,
              (int)d, 0, by_key, (int)d);
}

static void move(const refinement *r, size_t offset, size_t count, double rate, float *x) {
  size_t size = r->count * r->width;
  float first_rate = (float)(1 - MOMENT1), second_rate = (float)(1 - MOMENT2);
  float step = (float)(rate * r->rate / r->correction1), scale = (float)(1 / r->correction2);
  for (size_t i = 0; i < count; i++) {
    float gradient = 0;
    for (size_t panel = 0; panel < PANELS; panel++) gradient += r->gradient[panel * size + offset + i];
    float *first = r->first + offset + i, *second = r->second + offset + i;
    *first += first_rate * (gradient - *first);
    *second += second_rate * (gradient * gradient - *second);
    x[i] -= step * *first / (sqrtf(*second * scale) + 1e-12f);
  }
}

static void move_rows(void *argument, size_t index, int thread) {
  (void)thread;
  refinement *r = argument;
  size_t begin = index * ROWS, count = pith_min_size(ROWS, r->count - begin), d = r->d, dv = r->dv, m = r->count;
  move(r, begin * d, count * d, r->key_rate, r->keys + begin * d);
  for (size_t s = begin; s < begin + count; s++) move(r, m * d + s * dv, dv, r->value_rate[s], r->values + s * dv);
  if (r->weights) move(r, m * (d + dv) + begin, count, 1, r->log_weight + begin);
}

/* Rates in the units of what moves: the spread of keys, and the size of each value. */
static pith_status set_rates(pith_context *context, refinement *r) {
  size_t m = r->count, d = r->d, dv = r->dv;
  double spread = 0;
  for (size_t j = 0; j < d; j++) {
    double sum = 0, squares = 0;
    for (size_t s = 0; s < m; s++) {
      double x = r->keys[s * d + j];
      sum += x / (double)m;
      squares += x * x / (double)m;
    }
    spread += sqrt(fmax(squares - sum * sum, 0)) / (double)d;
  }
  r->key_rate = spread;
  double *sorted = pith_allocate(context, m, sizeof *sorted);
  if (!sorted) return PITH_E_MEMORY;
  for (size_t s = 0; s < m; s++) {
    double squares = 0;
    float *value = r->values + s * dv;
    for (size_t j = 0; j < dv; j++) squares += (double)value[j] * value[j];
    double most = FARTHEST * r->lessons->largest_value, norm = sqrt(squares);
    if (norm > most)
      for (size_t j = 0; j < dv; j++) value[j] *= (float)(most / norm);
    sorted[s] = r->value_rate[s] = (float)(fmin(norm, most) / sqrt((double)dv));
  }
  pith_sort_f64(sorted, m);
  for (size_t s = 0; s < m; s++) r->value_rate[s] = fminf(r->value_rate[s], (float)(3 * sorted[m / 2]));
  pith_release(context, sorted);
  return PITH_OK;
}

static pith_status run(pith_context *context, refinement *r, size_t steps) {
  const pith_problem *p = r->problem;
  size_t lessons = r->lessons->count, position = lessons, epoch = 0;
  size_t *order = pith_allocate(context, lessons, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  pith_status status = set_rates(context, r);
  for (size_t step = 1; status == PITH_OK && step <= steps; step++) {
    for (size_t i = 0; i < BATCH; i++) {
      if (position == lessons) {
        pith_stream stream = pith_stream_make(p->seed, PITH_STREAM_BATCHES, p->object ^ (uint32_t)(++epoch << 20));
        pith_random_permutation(&stream, order, lessons);
        position = 0;
      }
      r->batch[i] = order[position++];
    }
    if (step == 1) {
      r->mean_error = 0;
      double sum = 0;
      for (size_t panel = 0; panel < PANELS; panel++) sum += answer_panel(r, panel * PANEL);
      r->mean_error = sum / BATCH;
    }
    pith_parallel_for(context, PANELS, step_panel, r);
    double sum = 0;
    for (size_t panel = 0; panel < PANELS; panel++) sum += r->error_sum[panel];
    r->mean_error = 0.95 * r->mean_error + 0.05 * sum / BATCH;
    r->rate = RATE * 0.5 * (1 + cos(3.14159265358979 * (double)step / (double)steps)) * fmin(1, (double)step / WARM_UP);
    r->correction1 = 1 - pow(MOMENT1, (double)step);
    r->correction2 = 1 - pow(MOMENT2, (double)step);
    pith_parallel_for(context, (r->count + ROWS - 1) / ROWS, move_rows, r);
    if (step % 32 == 0) status = pith_report(context, "refining points", step, steps);
  }
  pith_release(context, order);
  return status;
}

pith_status pith_refine(pith_context *context, const pith_problem *problem, const pith_lessons *lessons, size_t steps,
                        bool weights, pith_points *points) {
  size_t m = points->count, d = problem->d, dv = problem->dv, width = d + dv + 1;
  if (m == 0 || lessons->count == 0 || steps == 0) return PITH_OK;
  refinement r = {.weights = weights,
                  .problem = problem,
                  .lessons = lessons,
                  .count = m,
                  .d = d,
                  .dv = dv,
                  .width = width,
                  .keys = points->keys,
                  .values = points->values,
                  .log_weight = points->log_weight};
  size_t floats = BATCH * (d + 2 * m + 2 * dv) + (PANELS + 2) * m * width + m;
  float *memory = pith_allocate_zero(context, floats, sizeof *memory);
  r.batch = pith_allocate(context, BATCH, sizeof *r.batch);
  if (!memory || !r.batch) {
    pith_release(context, memory);
    pith_release(context, r.batch);
    return PITH_E_MEMORY;
  }
  r.query = memory;
  r.weight = r.query + BATCH * d;
  r.slope = r.weight + BATCH * m;
  r.answer = r.slope + BATCH * m;
  r.pull = r.answer + BATCH * dv;
  r.gradient = r.pull + BATCH * dv;
  r.first = r.gradient + PANELS * m * width;
  r.second = r.first + m * width;
  r.value_rate = r.second + m * width;
  for (size_t i = 0; i < m * dv; i++) r.values[i] -= lessons->value_mean[i % dv];
  pith_status status = run(context, &r, steps);
  for (size_t i = 0; i < m * dv; i++) r.values[i] += lessons->value_mean[i % dv];
  pith_release(context, memory);
  pith_release(context, r.batch);
  return status;
}
