/* smallest.c - instances, summaries of three kinds, and their errors over sizes. */
#include "smallest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "certify/certify.h"

enum { STARTS = 12 };

static instance instance_create(size_t n, size_t d) {
  return (instance){n, d, allocate_zero(n * d, sizeof(float)), allocate_zero(n * d, sizeof(float))};
}

void instance_free(instance *set) {
  free(set->keys);
  free(set->values);
}

static void fill_sphere(float *rows, size_t n, size_t d, pith_stream stream) {
  for (size_t i = 0; i < n; i++) {
    double square = 0;
    for (size_t j = 0; j < d; j++) {
      double x = pith_random_gaussian(&stream, i * d + j);
      square += x * x;
      rows[i * d + j] = (float)x;
    }
    for (size_t j = 0; j < d; j++) rows[i * d + j] = (float)(rows[i * d + j] / sqrt(square));
  }
}

instance instance_sphere(size_t n, size_t d, uint64_t seed, bool values_are_keys) {
  instance set = instance_create(n, d);
  fill_sphere(set.keys, n, d, pith_stream_make(seed, PITH_STREAM_TEST, 0));
  fill_sphere(set.values, n, d, pith_stream_make(seed, PITH_STREAM_TEST, values_are_keys ? 0 : 1));
  return set;
}

instance instance_two_points(size_t n, double rho) {
  instance set = instance_create(n, 2);
  size_t few = (size_t)fmax(1, round((double)n * exp(-2 * rho)));
  for (size_t i = 0; i < n; i++) set.keys[2 * i] = set.values[2 * i] = i < few ? 1 : -1;
  return set;
}

instance instance_hadamard(size_t d) {
  instance set = instance_create(2 * d, d);
  for (size_t i = 0; d > 0 && i < 2 * d; i++) {
    float sign = i < d ? 1 : -1;
    set.keys[i * d + i % d] = sign;
    for (size_t j = 0; j < d; j++)
      set.values[i * d + j] = sign * (float)((__builtin_popcountll(j & (i % d)) % 2 ? -1 : 1) / sqrt((double)d));
  }
  return set;
}

const char *kind_name(kind which) {
  static const char *const names[KINDS] = {"subset", "weighted", "refitted"};
  return names[which];
}

/* ---- Weighted subset: rows added where the kernel of what is left over is largest, weights fitted to all of
 * them by coordinate descent, non-negative ---- */

typedef struct greedy {
  size_t n;
  double *kernel; /* (n, n): exp(rho <k_i - c, k_j - c>) (<v_i - v, v_j - v> + 1) */
  double *left;   /* K (1 - w) */
  double *weight;
} greedy;

static void fill_kernel(const instance *set, double rho, double *kernel) {
  size_t n = set->n, d = set->d;
  double *centred[2] = {allocate_zero(n * d, sizeof(double)), allocate_zero(n * d, sizeof(double))};
  for (int side = 0; side < 2; side++)
    for (size_t j = 0; j < d; j++) {
      const float *rows = side ? set->values : set->keys;
      double mean = 0;
      for (size_t i = 0; i < n; i++) mean += rows[i * d + j] / (double)n;
      for (size_t i = 0; i < n; i++) centred[side][i * d + j] = rows[i * d + j] - mean;
    }
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j <= i; j++) {
      double key = 0, value = 1;
      for (size_t k = 0; k < d; k++) {
        key += centred[0][i * d + k] * centred[0][j * d + k];
        value += centred[1][i * d + k] * centred[1][j * d + k];
      }
      kernel[i * n + j] = kernel[j * n + i] = exp(rho * key) * value;
    }
  free(centred[0]);
  free(centred[1]);
}

/* The best weight of one row, the others fixed. */
static void refit(greedy *g, size_t row) {
  const double *kernel = g->kernel + row * g->n;
  double weight = fmax(0, g->weight[row] + g->left[row] / kernel[row]), change = weight - g->weight[row];
  if (change == 0) return;
  g->weight[row] = weight;
  for (size_t j = 0; j < g->n; j++) g->left[j] -= change * kernel[j];
}

static size_t most_left(const greedy *g) {
  size_t best = g->n;
  double gain = 0;
  for (size_t i = 0; i < g->n; i++) {
    double own = g->left[i] * fabs(g->left[i]) / g->kernel[i * g->n + i];
    if (g->weight[i] == 0 && own > gain) {
      gain = own;
      best = i;
    }
  }
  return best;
}

/* Chooses `points` rows and their weights; fewer where no row helps. */
static size_t choose_weighted(const instance *set, double rho, size_t points, size_t *rows, double *weights) {
  size_t n = set->n, count = 0;
  greedy g = {.n = n, .kernel = allocate_zero(n * n, sizeof(double))};
  g.left = allocate_zero(n, sizeof(double));
  g.weight = allocate_zero(n, sizeof(double));
  fill_kernel(set, rho, g.kernel);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) g.left[i] += g.kernel[i * n + j];
  while (count < points) {
    size_t row = most_left(&g);
    if (row == n) break;
    rows[count++] = row;
    for (int pass = 0; pass < 2; pass++)
      for (size_t k = count; k-- > 0;) refit(&g, rows[k]);
  }
  for (int pass = 0; pass < 200; pass++)
    for (size_t k = 0; k < count; k++) refit(&g, rows[k]);
  size_t kept = 0;
  for (size_t k = 0; k < count; k++)
    if (g.weight[rows[k]] > 0) {
      weights[kept] = g.weight[rows[k]];
      rows[kept++] = rows[k];
    }
  free(g.kernel);
  free(g.left);
  free(g.weight);
  return kept;
}

/* ---- Errors ---- */

static pith_status measure(cli_session *session, const instance *set, double rho, const pith_head_view *head,
                           double *error) {
  pith_array keys = pith_array_matrix(set->keys, PITH_F32, set->n, set->d);
  pith_array values = pith_array_matrix(set->values, PITH_F32, set->n, set->d);
  return pith_worst_query(session->context, &keys, &values, head, 1, rho, STARTS, session->common->seed, error, NULL);
}

static pith_status measure_engine(cli_session *session, const instance *set, double rho, const char *engine,
                                  size_t points, double *error, pith_certificate *ball) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  options.points = points;
  options.store = PITH_F32;
  options.sinks = options.window = 0;
  options.scale = 1;
  options.seed = session->common->seed;
  options.query_model = PITH_QUERIES_BALL;
  options.rho = rho;
  pith_array keys = pith_array_matrix(set->keys, PITH_F32, set->n, set->d);
  pith_array values = pith_array_matrix(set->values, PITH_F32, set->n, set->d);
  pith_summary *summary = NULL;
  pith_head_view head;
  pith_status status = pith_compress(session->context, &keys, &values, NULL, &options, &summary);
  if (status >= 0) status = pith_summary_head(session->context, summary, 0, 0, &head);
  if (status >= 0) status = measure(session, set, rho, &head, error);
  if (status >= 0) *ball = head.ball;
  pith_summary_free(summary);
  return status;
}

static pith_status measure_weighted(cli_session *session, const instance *set, double rho, size_t points, double *error,
                                    pith_certificate *ball) {
  size_t d = set->d, *rows = allocate_zero(points, sizeof *rows);
  double *weights = allocate_zero(points, sizeof *weights);
  size_t count = choose_weighted(set, rho, points, rows, weights);
  float *keys = allocate_zero(count * (2 * d + 1), sizeof *keys), *values = keys + count * d;
  float *log_weight = values + count * d;
  for (size_t k = 0; k < count; k++) {
    memcpy(keys + k * d, set->keys + rows[k] * d, d * sizeof(float));
    memcpy(values + k * d, set->values + rows[k] * d, d * sizeof(float));
    log_weight[k] = (float)log(weights[k]);
  }
  pith_head_view head = {.points = count, .d = d, .dv = d, .store = PITH_F32};
  head.keys = keys;
  head.values = values;
  head.log_weight = log_weight;
  pith_pairs full = {set->n, d, d, set->keys, set->values, NULL}, summary = {count, d, d, keys, values, log_weight};
  pith_status status = pith_certify_ball(session->context, &full, &summary, rho, ball);
  if (status >= 0) status = measure(session, set, rho, &head, error);
  free(rows);
  free(weights);
  free(keys);
  return status;
}

pith_status measure_size(cli_session *session, const instance *set, double rho, kind which, size_t points,
                         double *error, double *bound, double *trivial) {
  pith_certificate ball = {.bound = INFINITY};
  pith_status status =
      which == KIND_WEIGHTED
          ? measure_weighted(session, set, rho, points, error, &ball)
          : measure_engine(session, set, rho, which == KIND_SUBSET ? "halving" : "nystrom", points, error, &ball);
  *bound = ball.bound;
  *trivial = ball.trivial;
  return status;
}

pith_status sweep_run(cli_session *session, const instance *set, double rho, kind which, double least, sweep *out) {
  *out = (sweep){.count = 0};
  for (int step = 0; out->count < MOST_SIZES; step++) {
    size_t points = (size_t)round(2 * pow(2, step / 2.0)), k = out->count;
    if (points > set->n / 2) break;
    if (k > 0 && points == out->points[k - 1]) continue;
    out->points[k] = points;
    pith_status status = measure_size(session, set, rho, which, points, &out->error[k], &out->bound[k], &out->trivial);
    if (status < 0) return status;
    out->count++;
    if (out->error[k] < least && (which != KIND_REFITTED || out->bound[k] < least)) break;
  }
  return PITH_OK;
}

double smallest_within(const sweep *s, const double *errors, double eps) {
  for (size_t k = 0; k < s->count; k++) {
    if (!(errors[k] <= eps)) continue;
    if (k == 0 || !isfinite(errors[k - 1]) || !(errors[k] > 0)) return (double)s->points[k];
    double share = log(errors[k - 1] / eps) / log(errors[k - 1] / errors[k]);
    return exp(log((double)s->points[k - 1]) + share * log((double)s->points[k] / (double)s->points[k - 1]));
  }
  return NAN;
}
