/* test_cache_condense.c - rows that stay and points that are fitted, in streams and by the engine, against their slow
 * twin; and the menus of a stream that tell what they will err. */
#include <pith.h>

#include "cache/condense.h"
#include "condense.h"
#include "test.h"

enum {
  D = 12,
  DV = 5,
  SINKS = 3,
  WINDOW = 20,
  ROWS = 700,
  N = SINKS + ROWS + WINDOW,
  FIT = 192,
  HELD = 160,
  MOST_FITTED = 64
};

typedef struct head {
  float *keys, *values, *log_weight, *fit, *held, *scores;
  float local[FIT];
  uint8_t flags[N];
  bool exact[N];
  double *number[5]; /* the same in double: keys, values, log_weight, fit, held */
  pith_query_model model;
  pith_cache *cache;
  cache_work work;
  reference_condense twin;
} head;

static double *doubles(const float *x, size_t count) {
  double *out = malloc(count * sizeof *out);
  for (size_t i = 0; i < count; i++) out[i] = x[i];
  return out;
}

/* Candidates of weight 1, and in front of them points of other weights. Keys lie in a few clouds, as real ones do. */
static void open_head(pith_context *context, uint64_t seed, pith_dtype store, head *h) {
  float *centre = test_gaussian(seed + 5, 16 * D, 0.8);
  *h = (head){.keys = test_gaussian(seed, N * D, 0.3),
              .values = test_gaussian(seed + 1, N * DV, 1),
              .log_weight = calloc(N, sizeof(float)),
              .fit = test_gaussian(seed + 2, FIT * D, 0.8),
              .held = test_gaussian(seed + 3, HELD * D, 0.8)};
  for (size_t i = 0; i < N; i++) {
    h->exact[i] = i < SINKS || i >= SINKS + ROWS;
    h->flags[i] = h->exact[i];
    for (size_t j = 0; j < D; j++) h->keys[i * D + j] += centre[i % 16 * D + j];
    if (!h->exact[i] && i < 200) h->log_weight[i] = 0.01F * (float)(i % 150);
  }
  for (size_t r = 0; r < FIT; r++) h->local[r] = -INFINITY;
  free(centre);
  h->model = (pith_query_model){.kind = PITH_QUERIES_SAMPLES,
                                .d = D,
                                .dv = DV,
                                .fit_count = FIT,
                                .distinct_count = FIT,
                                .turned_count = FIT,
                                .fit = h->fit,
                                .local_log_mass = h->local};
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.d = D;
  o.dv = DV;
  o.store = store;
  o.bytes = 1 << 20;
  assert_ok(context, pith_cache_create(context, &o, &h->cache));
  h->work = (cache_work){.cache = h->cache, .n = N, .first = SINKS, .leaving = ROWS};
  h->work.queries.held = h->held;
  h->work.queries.held_count = HELD;
  h->work.reduction.problem = (pith_problem){.n = N,
                                             .d = D,
                                             .dv = DV,
                                             .keys = h->keys,
                                             .values = h->values,
                                             .log_weight = h->log_weight,
                                             .exact = h->flags,
                                             .candidates = ROWS,
                                             .model = &h->model,
                                             .seed = seed};
  assert_ok(context, pith_points_create(context, ROWS, D, DV, &h->work.points));
  const float *from[5] = {h->keys, h->values, h->log_weight, h->fit, h->held};
  const size_t count[5] = {N * D, N * DV, N, FIT * D, HELD * D};
  for (int i = 0; i < 5; i++) h->number[i] = doubles(from[i], count[i]);
  h->twin = (reference_condense){.n = N,
                                 .d = D,
                                 .dv = DV,
                                 .keys = h->number[0],
                                 .values = h->number[1],
                                 .log_weight = h->number[2],
                                 .exact = h->exact,
                                 .queries = FIT,
                                 .query = h->number[3]};
  reference_condense_open(&h->twin);
}

static void close_head(pith_context *context, head *h) {
  reference_condense_close(&h->twin);
  pith_points_free(context, h->work.points);
  pith_cache_free(h->cache);
  for (int i = 0; i < 5; i++) free(h->number[i]);
  free(h->keys);
  free(h->values);
  free(h->log_weight);
  free(h->fit);
  free(h->held);
}

static double error_of(const head *h, const pith_points *points) {
  double *keys = doubles(points->keys, points->count * D), *values = doubles(points->values, points->count * DV);
  double *log_weight = doubles(points->log_weight, points->count);
  double error = reference_condense_error(&h->twin, h->number[4], HELD, keys, values, log_weight, points->count);
  free(keys);
  free(values);
  free(log_weight);
  return error;
}

/* Two ways to such points: the stream's, and the engine for a whole head. */
typedef struct route {
  size_t fitted;
  pith_status (*run)(pith_context *context, head *h, size_t wanted);
} route;

static pith_status run_stream(pith_context *context, head *h, size_t wanted) {
  return pith_cache_condense(context, &h->work, wanted);
}

/* Prepared for more than is taken. */
static pith_status run_engine(pith_context *context, head *h, size_t wanted) {
  const pith_problem *problem = &h->work.reduction.problem;
  void *engine = NULL;
  PITH_TRY(pith_engine_nystrom.prepare(context, problem, ROWS - 1, &engine));
  pith_status status = pith_engine_nystrom.take(context, problem, engine, wanted, h->work.points);
  pith_engine_nystrom.release(context, engine);
  return status;
}

static const route ways[] = {{CONDENSE_FITTED, run_stream}, {MOST_FITTED, run_engine}};

/* Rows that stay are those of the largest shares; the others are what the twin fits at the same pivots. Yields how far
 * weights and values are off, in parts of the largest of each; the twin forgets row `without`, unless it is N. */
static double compare(pith_context *context, head *h, const route *way, size_t wanted, size_t without) {
  size_t most_fitted = wanted < way->fitted ? wanted : way->fitted, stay = wanted - most_fitted;
  pith_points *points = h->work.points;
  points->count = 0;
  assert_ok(context, way->run(context, h, wanted));
  assert_true(points->count <= wanted &&
              points->count + most_fitted / 2 >= wanted); /* without those that weigh nothing */
  size_t fitted = points->count - stay;
  bool part[N];
  double least = INFINITY, most = 0;
  for (size_t i = 0; i < N; i++) part[i] = !h->exact[i];
  for (size_t i = 0; i < stay; i++) {
    size_t row = (size_t)points->index[i];
    assert_memory_equal(points->values + i * DV, h->values + row * DV, DV * sizeof(float));
    assert_true(points->log_weight[i] == h->log_weight[row]);
    part[row] = false;
    least = fmin(least, h->twin.share[row]);
  }
  for (size_t i = 0; i < N; i++)
    if (part[i]) most = fmax(most, h->twin.share[i]);
  assert_true(stay == 0 || most <= least * (1 + 1e-4)); /* shares are worked out in f32 */
  if (without < N) part[without] = false;
  size_t pivot[MOST_FITTED];
  double weight[MOST_FITTED], value[MOST_FITTED * DV], off = 0, heaviest = 0, largest = 0;
  for (size_t i = 0; i < fitted; i++) pivot[i] = (size_t)points->index[stay + i];
  reference_condense_fit(&h->twin, part, pivot, fitted, weight, value);
  for (size_t i = 0; i < fitted; i++) {
    heaviest = fmax(heaviest, weight[i]);
    for (size_t j = 0; j < DV; j++) largest = fmax(largest, fabs(value[i * DV + j] * weight[i]));
  }
  for (size_t i = 0; i < fitted; i++) {
    double got = exp(points->log_weight[stay + i]);
    off = fmax(off, fabs(got - weight[i]) / heaviest);
    for (size_t j = 0; j < DV; j++)
      off = fmax(off, fabs(got * points->values[(stay + i) * DV + j] - weight[i] * value[i * DV + j]) / largest);
  }
  return off;
}

static const size_t sizes[] = {1, 7, 31, 32, 33, 64, 65, 300, 600, ROWS - 70};

/* f32 sums of a kernel with a ridge of 1e-4 leave up to 2e-4 (a hundredth with as many pivots as rows); a row forgotten
 * is seen. */
static void test_points(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  for (uint64_t seed = 0; seed < 3; seed++) {
    head h;
    open_head(context, 100 + 10 * seed, PITH_F32, &h);
    size_t heavy = SINKS; /* of all candidates, in the part while all are */
    for (size_t i = SINKS; i < SINKS + ROWS; i++)
      if (h.twin.share[i] > h.twin.share[heavy]) heavy = i;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
      for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double off = compare(context, &h, &ways[w], sizes[i], N);
        if (off > 2e-3) fail_msg("way %zu, %zu points: %g off", w, sizes[i], off);
      }
      double off = compare(context, &h, &ways[w], 30, heavy);
      if (off < 2e-2) fail_msg("way %zu, without a row: only %g off", w, off);
    }
    h.work.points->count = 0;
    assert_ok(context, pith_cache_condense(context, &h.work, ROWS));
    assert_true(error_of(&h, h.work.points) < 1e-10);
    close_head(context, &h);
  }
  test_context_free(context);
}

/* What a menu foretells, against what condensing to that size errs by the twin's reckoning. Rough: other pivots. */
static void test_menus(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  for (uint64_t seed = 0; seed < 3; seed++) {
    head h;
    open_head(context, 500 + 10 * seed, PITH_F32, &h);
    assert_ok(context, pith_cache_try_sizes(context, &h.work));
    double most = 0, before = 0;
    size_t smallest = ROWS, tried = 0;
    assert_true(h.work.menu_count > 8);
    for (size_t i = 0; i < h.work.menu_count; i++) {
      const cache_option *option = &h.work.menu[i];
      most = fmax(most, option->cost);
      if (option->points == ROWS) {
        assert_true(option->cost == 0);
        continue;
      }
      if (option->points < 8) continue; /* a handful of pivots differs much from another */
      h.work.points->count = 0;
      assert_ok(context, pith_cache_condense(context, &h.work, option->points));
      double error = error_of(&h, h.work.points), ratio = option->cost / error;
      if (ratio < 1.0 / 3 || ratio > 3)
        fail_msg("%zu points: %g foretold, %g found", (size_t)option->points, option->cost, error);
      smallest = option->points < smallest ? option->points : smallest;
      tried++;
    }
    /* the control: another size than was asked is told apart */
    h.work.points->count = 0;
    assert_ok(context, pith_cache_condense(context, &h.work, 500));
    before = error_of(&h, h.work.points);
    assert_true(tried > 5 && smallest < 20 && most > 10 * before);
    close_head(context, &h);
  }
  test_context_free(context);
}

/* What rounding adds to all rows, against each row rounded. */
static void test_rounding(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  open_head(context, 900, PITH_STORE_AUTO, &h);
  assert_ok(context, pith_cache_try_sizes(context, &h.work));
  double cost[3] = {-1, -1, -1};
  for (size_t i = 0; i < h.work.menu_count; i++) {
    const cache_option *option = &h.work.menu[i];
    size_t at = option->store == PITH_F16 ? 0 : option->store == PITH_Q8 ? 1 : 2;
    if (option->points == ROWS) cost[at] = option->cost;
  }
  assert_true(cost[0] == 0 && cost[1] > 0 && cost[2] > 30 * cost[1]);
  close_head(context, &h);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_points), cmocka_unit_test(test_menus),
                                     cmocka_unit_test(test_rounding)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
