/* model.c - query models from recorded queries. */
#include "query/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "linalg/linalg.h"

/* Without recorded queries the ball model answers for this norm. */
static const double DEFAULT_RHO = 2.0;

/* Positions that a recorded query is turned to at most. */
enum { MOST_TURNS = 4 };
/* Queries recorded within so many positions see much of their near keys together. */
enum { STRETCH = 64 };

void pith_rope_turn(float *vector, size_t d, pith_rope rope, double base, double steps) {
  if (rope == PITH_ROPE_NONE) return;
  size_t half = d / 2;
  double frequency = 1, factor = pow(base, -2.0 / (double)d);
  for (size_t i = 0; i < half; i++, frequency *= factor) {
    double angle = steps * frequency, c = cos(angle), s = sin(angle);
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

/* A turned query: its row, the stretch of positions where it was recorded, how far ahead it is asked, and its place in
 * the list. */
typedef struct turned {
  size_t row, stretch, ahead, place;
} turned;

typedef struct local_work {
  const pith_query_source *source;
  const pith_query_model *model;
  const turned *query;      /* (count), those that see much in common together */
  size_t *begin;            /* (groups + 1): first query of each group */
  float *scratch;           /* (threads, PITH_MAX_GROUP, d + dv) */
  float *log_mass, *answer; /* by place */
} local_work;

/* The keys that a query saw just before it: as many as there will be later ones. */
static void find_near(const local_work *w, const turned *query, size_t *first, size_t *end) {
  size_t last = pith_min_size(w->model->position[query->row], w->source->keys - 1);
  *first = last > query->ahead ? last - query->ahead : 0;
  *end = last + 1;
}

/* Keys first .. end-1, for `group` queries at once. */
static void see_keys(const local_work *w, const float *queries, size_t group, size_t first, size_t end, float *largest,
                     float *sum, float *answer) {
  size_t d = w->model->d, dv = w->model->dv;
  if (first >= end) return;
  pith_attend_block block = {.group = group,
                             .d = d,
                             .dv = dv,
                             .rows = end - first,
                             .queries = queries,
                             .keys = w->source->key_rows + first * d,
                             .values = w->source->value_rows + first * dv,
                             .key_stride = (ptrdiff_t)(d * sizeof(float)),
                             .value_stride = (ptrdiff_t)(dv * sizeof(float)),
                             .largest = largest,
                             .sum = sum,
                             .output = answer};
  pith_kernels_active()->attend_f32(&block);
}

/* Queries of a group see most of their near keys together, and the ends each by itself. */
static void see_local(void *argument, size_t index, int thread) {
  const local_work *w = argument;
  size_t d = w->model->d, dv = w->model->dv, begin = w->begin[index], group = w->begin[index + 1] - begin;
  size_t common = 0, common_end = SIZE_MAX;
  size_t first[PITH_MAX_GROUP], end[PITH_MAX_GROUP];
  float largest[PITH_MAX_GROUP], sum[PITH_MAX_GROUP] = {0}, *queries, *answers;
  queries = w->scratch + (size_t)thread * PITH_MAX_GROUP * (d + dv);
  answers = queries + PITH_MAX_GROUP * d;
  memset(answers, 0, PITH_MAX_GROUP * dv * sizeof *answers);
  for (size_t r = 0; r < group; r++) {
    find_near(w, &w->query[begin + r], &first[r], &end[r]);
    common = pith_max_size(common, first[r]);
    common_end = pith_min_size(common_end, end[r]);
    largest[r] = -INFINITY;
    memcpy(queries + r * d, w->model->recorded + w->query[begin + r].row * d, d * sizeof *queries);
  }
  if (common > common_end) common = common_end;
  see_keys(w, queries, group, common, common_end, largest, sum, answers);
  for (size_t r = 0; r < group; r++) {
    see_keys(w, queries + r * d, 1, first[r], pith_min_size(common, end[r]), largest + r, sum + r, answers + r * dv);
    see_keys(w, queries + r * d, 1, pith_max_size(common_end, first[r]), end[r], largest + r, sum + r,
             answers + r * dv);
    size_t place = w->query[begin + r].place;
    for (size_t j = 0; j < dv; j++) w->answer[place * dv + j] = answers[r * dv + j] / sum[r];
    w->log_mass[place] = largest[r] + logf(sum[r]);
  }
}

static int compare_turned(const void *left, const void *right) {
  const turned *a = left, *b = right;
  if (a->stretch != b->stretch) return a->stretch < b->stretch ? -1 : 1;
  if (a->ahead != b->ahead) return a->ahead < b->ahead ? -1 : 1;
  return (a->place > b->place) - (a->place < b->place);
}

/* Groups end where a stretch does. Returns their number. */
static size_t group_queries(const turned *query, size_t count, size_t *begin) {
  size_t groups = 0;
  for (size_t i = 0; i < count; i++) {
    size_t first = groups > 0 ? begin[groups - 1] : 0;
    bool joins = groups > 0 && i - first < PITH_MAX_GROUP && query[first].stretch == query[i].stretch;
    if (!joins) begin[groups++] = i;
  }
  begin[groups] = count;
  return groups;
}

static pith_status find_local(pith_context *context, const pith_query_source *source, const pith_query_model *model,
                              turned *query, size_t count, float **log_mass, float **answer) {
  *log_mass = pith_allocate(context, count, sizeof(float));
  *answer = pith_allocate_zero(context, count * model->dv, sizeof(float));
  if (!*log_mass || !*answer) return PITH_E_MEMORY;
  for (size_t r = 0; r < count; r++) (*log_mass)[r] = -INFINITY;
  if (source->rope == PITH_ROPE_NONE || source->keys == 0 || source->horizon == 0) return PITH_OK;
  size_t width = (size_t)pith_threads(context) * PITH_MAX_GROUP * (model->d + model->dv);
  size_t *begin = pith_allocate(context, count + 1, sizeof *begin);
  float *scratch = pith_allocate(context, width, sizeof *scratch);
  if (begin && scratch) {
    qsort(query, count, sizeof *query, compare_turned);
    size_t groups = group_queries(query, count, begin);
    local_work work = {source, model, query, begin, scratch, *log_mass, *answer};
    pith_parallel_for(context, groups, see_local, &work);
  }
  pith_release(context, begin);
  pith_release(context, scratch);
  if (!begin || !scratch) return PITH_E_MEMORY;
  return PITH_OK;
}

/* Turns `count` recorded rows, those of order[] one after another and again in further turns. */
static pith_status turn_all(pith_context *context, const pith_query_source *source, const pith_query_model *model,
                            const size_t *order, size_t available, size_t count, size_t turn, float **rows,
                            float **log_mass, float **answer) {
  *rows = pith_allocate(context, count * model->d, sizeof(float));
  turned *query = pith_allocate(context, count, sizeof *query);
  pith_status status = *rows && query ? PITH_OK : PITH_E_MEMORY;
  for (size_t i = 0; status == PITH_OK && i < count; i++) {
    size_t row = order[i % available], ahead = steps_ahead(source, model, row, turn + i / available);
    query[i] = (turned){row, model->position[row] / STRETCH, ahead, i};
    turn_to_future(source, model, row, ahead, *rows + i * model->d);
  }
  if (status == PITH_OK) status = find_local(context, source, model, query, count, log_mass, answer);
  pith_release(context, query);
  return status;
}

/* Splits the recorded rows into probes and fit queries, at random, and turns both. Rows of the first
 * quarter of the keys are left out: their own context was too short to be like what will be asked. */
static pith_status split(pith_context *context, const pith_query_source *source, pith_query_model *model) {
  size_t first = 0;
  while (first < model->recorded_count && model->position[first] < source->keys / 4) first++;
  if (first == model->recorded_count) first = 0;
  size_t count = model->recorded_count - first;
  size_t probes = pith_min_size(source->probes, count / 4), fit = count - probes;
  size_t turns = source->rope != PITH_ROPE_NONE ? MOST_TURNS : 1;
  size_t *order = pith_allocate(context, count, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  pith_stream choice = pith_stream_make(source->seed, PITH_STREAM_PROBES, source->object);
  pith_random_permutation(&choice, order, count);
  for (size_t i = 0; i < count; i++) order[i] += first;
  model->probe_count = probes;
  model->distinct_count = fit;
  size_t most = fit - pith_min_size(source->spare, fit / 4);
  model->fit_count = source->samples ? pith_min_size(source->samples, most) : most;
  size_t least = model->fit_count + pith_min_size(source->spare, fit - model->fit_count);
  model->turned_count = pith_max_size(least, pith_min_size(source->lessons, turns * fit));
  pith_status status = turn_all(context, source, model, order, probes, probes, MOST_TURNS, &model->probes,
                                &model->probe_log_mass, &model->probe_answer);
  if (status == PITH_OK)
    status = turn_all(context, source, model, order + probes, fit, model->turned_count, 0, &model->fit,
                      &model->local_log_mass, &model->local_answer);
  pith_release(context, order);
  return status;
}

static pith_status measure_moments(pith_context *context, pith_query_model *model) {
  size_t d = model->d, count = model->fit_count;
  model->mean = pith_allocate_zero(context, d, sizeof(double));
  model->covariance = pith_allocate_zero(context, d * d, sizeof(double));
  double *centred = pith_allocate(context, count * d, sizeof *centred);
  if (!model->mean || !model->covariance || !centred) {
    pith_release(context, centred);
    return PITH_E_MEMORY;
  }
  for (size_t r = 0; r < count; r++)
    for (size_t i = 0; i < d; i++) model->mean[i] += (double)model->fit[r * d + i] / (double)count;
  for (size_t r = 0; r < count; r++)
    for (size_t i = 0; i < d; i++) centred[r * d + i] = model->fit[r * d + i] - model->mean[i];
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, d, d, count, 1 / (double)count, centred, d, centred, d, 0,
                model->covariance, d);
  pith_release(context, centred);
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
