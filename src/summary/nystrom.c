/* nystrom.c - pivoted points with refitted values and weights (theory 4.3 and 4.8).
 *
 * What queries see of the candidates is M = sum_i w_i a(i) (x) [v_i - vbar ; b], with a(i) the feature of
 * key i under the query model. Pivots are chosen by randomly pivoted Cholesky; M is then projected on
 * their span, which gives each pivot a value and a weight. */
#include <math.h>

#include "linalg/linalg.h"
#include "summary/engine.h"
#include "summary/pivots.h"
#include "summary/refine.h"

/* Points that stand for less than this many tokens are dropped and the rest refitted. */
static const double LEAST_WEIGHT = 1e-3;
enum { REFITS = 4, MOMENT_QUERIES = 256 };
/* Fit queries that the kernel keeps where there are more, or twice the points where that is more (measured: no worse
 * than all of them). */
enum { LEAST_FEATURES = 2048 };
/* Where the fit is ill-posed, a value may come out anywhere: at most so many times as far from the mean as the farthest
 * value, so that every store can hold it. */
static const double FARTHEST = 64;

typedef struct nystrom {
  pith_pivots *pivots;
  double *value_mean;    /* (dv) */
  double farthest;       /* largest distance of a value from that mean */
  double balance;        /* b: how much an error in the weights counts beside one in the values */
  pith_lessons *lessons; /* NULL: no points were refined yet */
} nystrom;

static double row_weight(const pith_problem *problem, size_t row) {
  if (problem->exact && problem->exact[row]) return 0;
  return exp(pith_problem_log_weight(problem, row));
}

static void find_value_mean(const pith_problem *problem, double *mean) {
  double total = 0;
  for (size_t j = 0; j < problem->dv; j++) mean[j] = 0;
  for (size_t i = 0; i < problem->n; i++) {
    double weight = row_weight(problem, i);
    total += weight;
    for (size_t j = 0; j < problem->dv; j++) mean[j] += weight * problem->values[i * problem->dv + j];
  }
  for (size_t j = 0; j < problem->dv; j++) mean[j] /= total > 0 ? total : 1;
}

static double find_farthest(const pith_problem *problem, const double *mean) {
  double farthest = 0;
  for (size_t i = 0; i < problem->n; i++) {
    double squares = 0;
    for (size_t j = 0; j < problem->dv; j++) {
      double x = problem->values[i * problem->dv + j] - mean[j];
      squares += x * x;
    }
    farthest = fmax(farthest, sqrt(squares));
  }
  return farthest;
}

/* Root mean square of what all rows move the answer to a query away from the mean value by; without fit queries, of the
 * values themselves. */
static pith_status find_balance(pith_context *context, const pith_problem *problem, const pith_kernel *kernel,
                                const double *mean, double *balance) {
  size_t n = problem->n, dv = problem->dv, queries = pith_min_size(kernel->features, MOMENT_QUERIES);
  float *centred = pith_allocate(context, n + queries, dv * sizeof *centred), *answer = centred + n * dv;
  if (!centred) return PITH_E_MEMORY;
  for (size_t i = 0; i < n; i++) {
    double weight = exp(pith_problem_log_weight(problem, i));
    for (size_t j = 0; j < dv; j++) centred[i * dv + j] = (float)(weight * (problem->values[i * dv + j] - mean[j]));
  }
  double sum = 0;
  if (queries == 0) {
    for (size_t i = 0; i < n * dv; i++) sum += (double)centred[i] * centred[i] / (double)n;
  } else {
    float part = sqrtf((float)kernel->features / (float)queries);
    pith_gemm_f32(context, PITH_TRANSPOSED, PITH_PLAIN, queries, dv, n, part, kernel->feature, kernel->features,
                  centred, dv, 0, answer, dv);
    for (size_t i = 0; i < queries * dv; i++) sum += (double)answer[i] * answer[i];
  }
  *balance = sum > 0 ? sqrt(sum) : 1;
  pith_release(context, centred);
  return PITH_OK;
}

/* coefficients (n, dv+1) = w_i [v_i - vbar ; b], importance (n) = its squared norm; 0 for exact rows. */
static void weigh_rows(const pith_problem *problem, const nystrom *state, float *coefficients, double *importance) {
  size_t dv = problem->dv;
  for (size_t i = 0; i < problem->n; i++) {
    double weight = row_weight(problem, i);
    float *row = coefficients + i * (dv + 1);
    importance[i] = 0;
    for (size_t j = 0; j <= dv; j++) {
      double x = j < dv ? problem->values[i * dv + j] - state->value_mean[j] : state->balance;
      row[j] = (float)(weight * x);
      importance[i] += weight * weight * x * x;
    }
  }
}

static void release(pith_context *context, void *opaque) {
  nystrom *state = opaque;
  if (!state) return;
  pith_pivots_free(context, state->pivots);
  pith_lessons_free(context, state->lessons);
  pith_release(context, state->value_mean);
  pith_release(context, state);
}

static pith_status prepare_state(pith_context *context, const pith_problem *problem, const pith_kernel *kernel,
                                 size_t most, nystrom *state) {
  size_t columns = problem->dv + 1;
  find_value_mean(problem, state->value_mean);
  state->farthest = find_farthest(problem, state->value_mean);
  PITH_TRY(find_balance(context, problem, kernel, state->value_mean, &state->balance));
  float *coefficients = pith_allocate(context, problem->n, columns * sizeof *coefficients);
  double *importance = pith_allocate(context, problem->n, sizeof *importance);
  pith_status status = PITH_E_MEMORY;
  if (coefficients && importance) {
    weigh_rows(problem, state, coefficients, importance);
    status = pith_pivots_choose(context, kernel, importance, coefficients, columns, most, problem->seed,
                                problem->object, &state->pivots);
    if (status == PITH_OK) status = pith_pivots_factor(context, state->pivots);
  }
  pith_release(context, coefficients);
  pith_release(context, importance);
  return status;
}

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **out) {
  nystrom *state = pith_allocate_zero(context, 1, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  pith_kernel *kernel = NULL;
  pith_status status = PITH_E_MEMORY;
  pith_feature_source source = {.model = problem->model,
                                .keys = problem->keys,
                                .log_weight = problem->log_weight,
                                .exact = problem->exact,
                                .n = problem->n,
                                .most = pith_max_size(LEAST_FEATURES, 2 * most),
                                .seed = problem->seed,
                                .object = problem->object};
  state->value_mean = pith_allocate(context, problem->dv, sizeof *state->value_mean);
  if (state->value_mean) status = pith_kernel_draw(context, &source, &kernel);
  /* A few more than asked for, to stand in for points that the fit gives no weight. */
  size_t spare = pith_min_size(problem->candidates, most + most / 8 + 8);
  if (status == PITH_OK) status = prepare_state(context, problem, kernel, spare, state);
  pith_kernel_free(context, kernel);
  if (status < 0)
    release(context, state);
  else
    *out = state;
  return status;
}

static void write_points(const pith_problem *problem, const nystrom *state, const double *fit, const size_t *active,
                         size_t count, pith_points *points) {
  size_t dv = problem->dv;
  for (size_t a = 0; a < count; a++) {
    const double *row = fit + a * (dv + 1);
    double weight = fmax(row[dv] / state->balance, LEAST_WEIGHT);
    float *value = points->values + points->count * dv;
    double squares = 0;
    for (size_t j = 0; j < dv; j++) squares += row[j] * row[j];
    double distance = sqrt(squares) / weight, most = FARTHEST * state->farthest;
    double part = distance > most ? most / distance : 1;
    pith_points_append(points, problem, state->pivots->row[active[a]], log(weight));
    for (size_t j = 0; j < dv; j++) value[j] = (float)(part * row[j] / weight + state->value_mean[j]);
  }
}

/* Weights that have to go are folded into the keys half-way: what that spoils, the second half mends. */
static pith_status refine_points(pith_context *context, const pith_problem *problem, const pith_lessons *lessons,
                                 pith_points *points) {
  PITH_TRY(pith_refine(context, problem, lessons, problem->refine, true, points));
  if (!problem->fold) return PITH_OK;
  PITH_TRY(pith_fold_weights(context, problem->model, points->keys, points->log_weight, points->count));
  return pith_refine(context, problem, lessons, problem->refine, false, points);
}

static pith_status take(pith_context *context, const pith_problem *problem, void *opaque, size_t count,
                        pith_points *points) {
  nystrom *state = opaque;
  size_t *active = pith_allocate(context, count, sizeof *active);
  double *fit = pith_allocate(context, count, (problem->dv + 1) * sizeof *fit);
  pith_status status = PITH_E_MEMORY;
  if (active && fit)
    status = pith_pivots_fit(context, state->pivots, LEAST_WEIGHT * state->balance, REFITS, &count, active, fit);
  if (status == PITH_OK) write_points(problem, state, fit, active, count, points);
  pith_release(context, active);
  pith_release(context, fit);
  if (status < 0 || problem->refine == 0 || problem->model->kind != PITH_QUERIES_SAMPLES) return status;
  if (!state->lessons) status = pith_lessons_create(context, problem, state->value_mean, &state->lessons);
  return status == PITH_OK ? refine_points(context, problem, state->lessons, points) : status;
}

const pith_engine pith_engine_nystrom = {
    "nystrom", "pivots of the query kernel with refitted values and weights (default)", prepare, take, release};
