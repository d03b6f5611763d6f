/* model.c - query models from recorded queries. */
#include "query/model.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

/* Without recorded queries the ball model answers for this norm. */
static const double DEFAULT_RHO = 2.0;

void pith_rope_turn(float *vector, size_t d, pith_rope rope, double base, double steps) {
  if (rope == PITH_ROPE_NONE) return;
  size_t half = d / 2;
  for (size_t i = 0; i < half; i++) {
    double angle = steps * pow(base, -2.0 * (double)i / (double)d), c = cos(angle), s = sin(angle);
    float *x = rope == PITH_ROPE_PAIRS ? vector + 2 * i : vector + i;
    float *y = rope == PITH_ROPE_PAIRS ? x + 1 : x + half;
    double old = *x;
    *x = (float)(c * old - s * *y);
    *y = (float)(s * old + c * *y);
  }
}

static double norm(const float *x, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
  return sqrt(sum);
}

/* Reads all query heads, rows in order of position; refuses what is not finite. */
static pith_status record(pith_context *context, const pith_query_source *source, pith_query_model *model) {
  size_t d = source->d, rows = source->queries[0].shape[0], heads = source->query_heads;
  size_t start = source->query_start != PITH_UNSET ? source->query_start
                 : source->keys > rows             ? source->keys - rows
                                                   : 0;
  model->recorded_count = rows * heads;
  model->recorded = pith_allocate(context, model->recorded_count * d, sizeof(float));
  model->position = pith_allocate(context, model->recorded_count, sizeof(size_t));
  float *one = pith_allocate(context, rows * d, sizeof(float));
  pith_status status = !model->recorded || !model->position || !one ? PITH_E_MEMORY : PITH_OK;
  for (size_t head = 0; status == PITH_OK && head < heads; head++) {
    status = pith_array_to_f32(context, &source->queries[head], "queries", source->scale, one);
    for (size_t row = 0; status == PITH_OK && row < rows; row++) {
      memcpy(model->recorded + (row * heads + head) * d, one + row * d, d * sizeof(float));
      model->position[row * heads + head] = start + row;
    }
  }
  pith_release(context, one);
  return status;
}

/* How far behind the last key recorded row `row` will be asked, in its `turn`-th turn. */
static size_t steps_ahead(const pith_query_source *source, const pith_query_model *model, size_t row, size_t turn) {
  pith_stream stream = pith_stream_make(source->seed, PITH_STREAM_ROTATION, source->object);
  return source->horizon > 0 ? pith_random_below(&stream, turn * model->recorded_count + row, source->horizon) : 0;
}

/* Copies recorded row `row` turned to the position n + ahead. */
static void turn_to_future(const pith_query_source *source, const pith_query_model *model, size_t row, size_t ahead,
                           float *out) {
  memcpy(out, model->recorded + row * model->d, model->d * sizeof(float));
  pith_rope_turn(out, model->d, source->rope, source->rope_base,
                 (double)(source->keys + ahead) - (double)model->position[row]);
}

/* ---- The keys that stand in for later ones ---- */

/* Turned queries, `rows` to a turn, and what each of them finds in its near keys. */
typedef struct local_work {
  const pith_query_source *source;
  const pith_query_model *model;
  const size_t *row; /* (rows): recorded row of each query of a turn */
  size_t rows;
  float *log_mass, *answer;
} local_work;

static void see_local(void *argument, size_t index, int thread) {
  (void)thread;
  const local_work *w = argument;
  const pith_query_model *model = w->model;
  size_t row = w->row[index % w->rows], d = model->d, dv = model->dv;
  size_t ahead = steps_ahead(w->source, model, row, index / w->rows);
  size_t last = pith_min_size(model->position[row], w->source->keys - 1), first = last > ahead ? last - ahead : 0;
  float largest = -INFINITY, sum = 0, *answer = w->answer + index * dv;
  memset(answer, 0, dv * sizeof *answer);
  pith_attend_block block = {.group = 1,
                             .d = d,
                             .dv = dv,
                             .rows = last - first + 1,
                             .queries = model->recorded + row * d,
                             .keys = w->source->key_rows + first * d,
                             .values = w->source->value_rows + first * dv,
                             .key_stride = (ptrdiff_t)(d * sizeof(float)),
                             .value_stride = (ptrdiff_t)(dv * sizeof(float)),
                             .largest = &largest,
                             .sum = &sum,
                             .output = answer};
  pith_kernels_active()->attend_f32(&block);
  for (size_t j = 0; j < dv; j++) answer[j] /= sum;
  w->log_mass[index] = largest + logf(sum);
}

static pith_status find_local(pith_context *context, const pith_query_source *source, const pith_query_model *model,
                              const size_t *row, size_t rows, size_t count, float **log_mass, float **answer) {
  *log_mass = pith_allocate(context, count, sizeof(float));
  *answer = pith_allocate_zero(context, count * model->dv, sizeof(float));
  if (!*log_mass || !*answer) return PITH_E_MEMORY;
  for (size_t r = 0; r < count; r++) (*log_mass)[r] = -INFINITY;
  if (source->rope != PITH_ROPE_NONE && source->keys > 0 && source->horizon > 0)
    pith_parallel_for(context, count, see_local, &(local_work){source, model, row, rows, *log_mass, *answer});
  return PITH_OK;
}

/* Splits the recorded rows into probes and fit queries, at random, and turns both. Rows of the first
 * quarter of the keys are left out: their own context was too short to be like what will be asked. */
static pith_status split(pith_context *context, const pith_query_source *source, pith_query_model *model) {
  size_t d = model->d, first = 0;
  while (first < model->recorded_count && model->position[first] < source->keys / 4) first++;
  if (first == model->recorded_count) first = 0;
  size_t count = model->recorded_count - first;
  size_t probes = pith_min_size(source->probes, count / 4);
  size_t fit = source->samples ? pith_min_size(source->samples, count - probes) : count - probes;
  size_t turns = source->rope != PITH_ROPE_NONE ? pith_max_size(source->turns, 1) : 1;
  size_t *order = pith_allocate(context, count, sizeof *order);
  model->probes = pith_allocate(context, probes * d, sizeof(float));
  model->fit = pith_allocate(context, turns * fit * d, sizeof(float));
  if (!order || !model->probes || !model->fit) {
    pith_release(context, order);
    return PITH_E_MEMORY;
  }
  pith_stream choice = pith_stream_make(source->seed, PITH_STREAM_PROBES, source->object);
  pith_random_permutation(&choice, order, count);
  for (size_t i = 0; i < count; i++) order[i] += first;
  model->probe_count = probes;
  model->fit_count = fit;
  model->turned_count = turns * fit;
  for (size_t i = 0; i < probes; i++)
    turn_to_future(source, model, order[i], steps_ahead(source, model, order[i], 0), model->probes + i * d);
  for (size_t i = 0; i < model->turned_count; i++) {
    size_t row = order[probes + i % fit];
    turn_to_future(source, model, row, steps_ahead(source, model, row, i / fit), model->fit + i * d);
  }
  pith_status status = find_local(context, source, model, order + probes, fit, model->turned_count,
                                  &model->local_log_mass, &model->local_answer);
  if (status == PITH_OK)
    status = find_local(context, source, model, order, probes, probes, &model->probe_log_mass, &model->probe_answer);
  pith_release(context, order);
  return status;
}

static pith_status measure_moments(pith_context *context, pith_query_model *model) {
  size_t d = model->d, count = model->fit_count;
  model->mean = pith_allocate_zero(context, d, sizeof(double));
  model->covariance = pith_allocate_zero(context, d * d, sizeof(double));
  if (!model->mean || !model->covariance) return PITH_E_MEMORY;
  for (size_t r = 0; r < count; r++)
    for (size_t i = 0; i < d; i++) model->mean[i] += (double)model->fit[r * d + i] / (double)count;
  for (size_t r = 0; r < count; r++)
    for (size_t i = 0; i < d; i++) {
      double x = model->fit[r * d + i] - model->mean[i];
      for (size_t j = 0; j <= i; j++)
        model->covariance[i * d + j] += x * (model->fit[r * d + j] - model->mean[j]) / (double)count;
    }
  for (size_t i = 0; i < d; i++)
    for (size_t j = i + 1; j < d; j++) model->covariance[i * d + j] = model->covariance[j * d + i];
  return PITH_OK;
}

static pith_status check(pith_context *context, const pith_query_source *source, size_t rows) {
  if (source->rope != PITH_ROPE_NONE && source->d % 2 != 0)
    return pith_fail(context, PITH_E_SHAPE, "rope: vectors have %zu coordinates; rotary positions need an even number",
                     source->d);
  if (source->rope != PITH_ROPE_NONE && !(source->rope_base > 1))
    return pith_fail(context, PITH_E_ARGUMENT, "rope: the base is %g; it must be above 1 (10000 is usual)",
                     source->rope_base);
  if (rows == 0 && (source->kind == PITH_QUERIES_SAMPLES || source->kind == PITH_QUERIES_GAUSSIAN))
    return pith_fail(context, PITH_E_ARGUMENT, "query model %s: no recorded queries were given; give some or use ball",
                     source->kind == PITH_QUERIES_SAMPLES ? "samples" : "gaussian");
  if (!(source->rho >= 0) || !isfinite(source->rho))
    return pith_fail(context, PITH_E_ARGUMENT, "rho is %g; it must be finite and not negative", source->rho);
  return PITH_OK;
}

static pith_status fill(pith_context *context, const pith_query_source *source, pith_query_model *model) {
  size_t rows = source->query_heads ? source->queries[0].shape[0] : 0;
  PITH_TRY(check(context, source, rows));
  model->d = source->d;
  model->dv = source->dv;
  model->kind = source->kind != PITH_QUERIES_AUTO ? source->kind : rows ? PITH_QUERIES_SAMPLES : PITH_QUERIES_BALL;
  model->rho = source->rho > 0 ? source->rho : rows ? 0 : DEFAULT_RHO;
  if (rows == 0) return PITH_OK;
  PITH_TRY(record(context, source, model));
  PITH_TRY(split(context, source, model));
  if (source->rho <= 0)
    for (size_t r = 0; r < model->recorded_count; r++)
      model->rho = fmax(model->rho, norm(model->recorded + r * model->d, model->d));
  return measure_moments(context, model);
}

pith_status pith_query_model_create(pith_context *context, const pith_query_source *source, pith_query_model **out) {
  pith_query_model *model = pith_allocate_zero(context, 1, sizeof *model);
  if (!model) return PITH_E_MEMORY;
  pith_status status = fill(context, source, model);
  if (status < 0)
    pith_query_model_free(context, model);
  else
    *out = model;
  return status;
}

void pith_query_model_free(pith_context *context, pith_query_model *model) {
  if (!model) return;
  pith_release(context, model->mean);
  pith_release(context, model->covariance);
  pith_release(context, model->fit);
  pith_release(context, model->probes);
  pith_release(context, model->local_log_mass);
  pith_release(context, model->local_answer);
  pith_release(context, model->probe_log_mass);
  pith_release(context, model->probe_answer);
  pith_release(context, model->recorded);
  pith_release(context, model->position);
  pith_release(context, model);
}
