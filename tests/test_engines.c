/* test_engines.c - what every engine owes its caller, and what each baseline keeps. */
#include "summary/engine.h"
#include "summary/pairing.h"
#include "test.h"

enum { N = 200, D = 6, DV = 4, SINKS = 4, WINDOW = 16, ASKED = 128 };

static const pith_engine *const subsets[] = {
    &pith_engine_halving,     &pith_engine_uniform,  &pith_engine_recent,  &pith_engine_heavy,
    &pith_engine_accumulated, &pith_engine_expected, &pith_engine_balance, &pith_engine_balance_theory,
};
enum { SUBSETS = sizeof subsets / sizeof subsets[0] };

/* A head with weights, exact rows, and queries recorded at every second position from the last ASKED. */
typedef struct head {
  float *keys, *values, *log_weight, *recorded;
  uint8_t exact[N];
  size_t position[ASKED];
  double mean[D], covariance[D * D];
  pith_query_model model;
  pith_problem problem;
} head;

static void make(head *h, uint64_t seed) {
  *h = (head){.keys = test_gaussian(seed, N * D, 1),
              .values = test_gaussian(seed + 1, N * DV, 1),
              .log_weight = test_gaussian(seed + 2, N, 0.5),
              .recorded = test_gaussian(seed + 3, ASKED * D, 0.8)};
  for (size_t i = 0; i < N; i++) h->exact[i] = i < SINKS || i >= N - WINDOW;
  for (size_t r = 0; r < ASKED; r++) h->position[r] = N - ASKED + r / 2 * 2;
  for (size_t j = 0; j < D; j++) {
    h->mean[j] = 0.1 * (double)j;
    h->covariance[j * D + j] = 0.2 + 0.1 * (double)j;
  }
  h->covariance[1] = h->covariance[D] = 0.1;
  h->model = (pith_query_model){.kind = PITH_QUERIES_BALL,
                                .d = D,
                                .rho = 2,
                                .mean = h->mean,
                                .covariance = h->covariance,
                                .recorded_count = ASKED,
                                .recorded = h->recorded,
                                .position = h->position};
  h->problem = (pith_problem){.n = N,
                              .d = D,
                              .dv = DV,
                              .keys = h->keys,
                              .values = h->values,
                              .log_weight = h->log_weight,
                              .exact = h->exact,
                              .candidates = N - SINKS - WINDOW,
                              .model = &h->model,
                              .seed = 5};
}

static void release(head *h) {
  free(h->keys);
  free(h->values);
  free(h->log_weight);
  free(h->recorded);
}

static pith_points *summarize(pith_context *context, const pith_engine *engine, const pith_problem *problem,
                              size_t count) {
  pith_points *points = NULL;
  void *state = NULL;
  assert_ok(context, pith_points_create(context, count, problem->d, problem->dv, &points));
  assert_ok(context, engine->prepare(context, problem, count, &state));
  assert_ok(context, engine->take(context, problem, state, count, points));
  engine->release(context, state);
  return points;
}

/* Own key and value, not exact, no row twice. */
static void assert_true_subset(const pith_problem *problem, const pith_points *points) {
  uint8_t *seen = calloc(problem->n, 1);
  assert_non_null(seen);
  for (size_t i = 0; i < points->count; i++) {
    size_t row = (size_t)points->index[i];
    assert_true(row < problem->n);
    assert_false(seen[row]++);
    assert_false(problem->exact && problem->exact[row]);
    assert_memory_equal(points->keys + i * problem->d, problem->keys + row * problem->d, problem->d * sizeof(float));
    assert_memory_equal(points->values + i * problem->dv, problem->values + row * problem->dv,
                        problem->dv * sizeof(float));
    assert_true(isfinite(points->log_weight[i]));
  }
  free(seen);
}

/* ---- All ---- */

static void test_names(void **state) {
  (void)state;
  size_t count = 0;
  for (; pith_engine_name(count); count++) {
    assert_string_equal(pith_engine_find(pith_engine_name(count))->name, pith_engine_name(count));
    assert_non_null(pith_engine_help(count));
  }
  assert_int_equal(count, 9);
  assert_null(pith_engine_help(count));
  assert_null(pith_engine_find("nothing"));
}

static void test_subsets_are_true_and_of_the_size_asked(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  head h;
  make(&h, 10);
  static const size_t counts[] = {0, 1, 7, 45, 100, N - SINKS - WINDOW};
  for (size_t recorded = 0; recorded < 2; recorded++) {
    if (recorded == 0) {
      h.model.recorded_count = 0;
      h.model.mean = h.model.covariance = NULL;
    } else {
      h.model.recorded_count = ASKED;
      h.model.mean = h.mean;
      h.model.covariance = h.covariance;
    }
    for (size_t e = 0; e < SUBSETS; e++)
      for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        pith_points *points = summarize(context, subsets[e], &h.problem, counts[c]);
        assert_int_equal(points->count, counts[c]);
        assert_true_subset(&h.problem, points);
        pith_points_free(context, points);
      }
  }
  release(&h);
  test_context_free(context);
}

static void test_same_bytes_at_any_thread_count(void **state) {
  (void)state;
  pith_context *one = test_context(1), *two = test_context(2);
  head h;
  make(&h, 20);
  for (size_t e = 0; e < SUBSETS; e++) {
    pith_points *a = summarize(one, subsets[e], &h.problem, 50), *b = summarize(two, subsets[e], &h.problem, 50);
    assert_memory_equal(a->index, b->index, 50 * sizeof *a->index);
    assert_memory_equal(a->log_weight, b->log_weight, 50 * sizeof *a->log_weight);
    pith_points_free(one, a);
    pith_points_free(two, b);
  }
  release(&h);
  test_context_free(one);
  test_context_free(two);
}

/* ---- Each baseline ---- */

static void test_exact_keeps_all(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  make(&h, 30);
  pith_points *points = summarize(context, &pith_engine_exact, &h.problem, h.problem.candidates);
  assert_int_equal(points->count, h.problem.candidates);
  assert_true_subset(&h.problem, points);
  for (size_t i = 0; i < points->count; i++) {
    assert_int_equal(points->index[i], SINKS + i);
    assert_true(points->log_weight[i] == h.log_weight[SINKS + i]);
  }
  pith_points_free(context, points);
  release(&h);
  test_context_free(context);
}

static void test_uniform_is_nested_and_keeps_the_total(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  make(&h, 40);
  double total = 0;
  for (size_t i = SINKS; i < N - WINDOW; i++) total += exp(h.log_weight[i]);
  pith_points *large = summarize(context, &pith_engine_uniform, &h.problem, 60);
  pith_points *small = summarize(context, &pith_engine_uniform, &h.problem, 20);
  assert_memory_equal(large->index, small->index, 20 * sizeof *small->index);
  double sum = 0;
  for (size_t i = 0; i < 60; i++) sum += exp(large->log_weight[i]);
  assert_true(fabs(sum / total - 1) < 1e-5);
  h.problem.log_weight = NULL;
  pith_points *plain = summarize(context, &pith_engine_uniform, &h.problem, 20);
  for (size_t i = 0; i < 20; i++)
    assert_true(fabs(plain->log_weight[i] - log((double)h.problem.candidates / 20)) < 1e-5);
  pith_points_free(context, large);
  pith_points_free(context, small);
  pith_points_free(context, plain);
  release(&h);
  test_context_free(context);
}

/* Every row is chosen equally often: chi-square over 180 rows, 400 seeds of 30 points each. Without
 * replacement it has mean 150 and deviation 16 under the null, so 240 is above by more than five deviations.
 * The control moves half of what 20 rows get to 20 others, which adds 40 * 33^2 / 67 = 660. */
static double chi_square(const size_t *times, size_t rows, double expected) {
  double sum = 0;
  for (size_t i = 0; i < rows; i++) sum += ((double)times[i] - expected) * ((double)times[i] - expected) / expected;
  return sum;
}

static void test_uniform_is_uniform(void **state) {
  (void)state;
  enum { ROWS = N - SINKS - WINDOW, SEEDS = 400, COUNT = 30 };
  pith_context *context = test_context(1);
  head h;
  make(&h, 50);
  size_t times[ROWS] = {0}, control[ROWS] = {0};
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    h.problem.seed = seed;
    pith_points *points = summarize(context, &pith_engine_uniform, &h.problem, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
      size_t row = (size_t)points->index[i] - SINKS;
      times[row]++;
      control[row < 20 && i % 2 ? row + 20 : row]++;
    }
    pith_points_free(context, points);
  }
  double expected = (double)SEEDS * COUNT / ROWS;
  assert_true(chi_square(times, ROWS, expected) < 240);
  assert_true(chi_square(control, ROWS, expected) > 240);
  release(&h);
  test_context_free(context);
}

static void test_recent_keeps_the_last(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  make(&h, 60);
  pith_points *points = summarize(context, &pith_engine_recent, &h.problem, 10);
  for (size_t i = 0; i < 10; i++) assert_int_equal(points->index[i], N - WINDOW - 1 - i);
  pith_points_free(context, points);
  release(&h);
  test_context_free(context);
}

/* Attention that every row receives from recorded queries first .. ASKED-1, in double. */
static void received(const head *h, size_t first, double *sum) {
  for (size_t i = 0; i < N; i++) sum[i] = 0;
  for (size_t r = first; r < ASKED; r++) {
    double weight[N], total = 0;
    for (size_t i = 0; i <= h->position[r]; i++) {
      double logit = h->log_weight[i];
      for (size_t j = 0; j < D; j++) logit += (double)h->recorded[r * D + j] * h->keys[i * D + j];
      total += weight[i] = exp(logit);
    }
    for (size_t i = 0; i <= h->position[r]; i++) sum[i] += weight[i] / total;
  }
}

/* The points are those of the largest scores, in their order. */
static void assert_ranked(const head *h, const double *score, const pith_points *points) {
  for (size_t i = 0; i < points->count; i++) {
    size_t row = (size_t)points->index[i], better = 0;
    for (size_t j = SINKS; j < N - WINDOW; j++) better += score[j] > score[row] || (score[j] == score[row] && j > row);
    assert_int_equal(better, i);
    assert_true(points->log_weight[i] == h->log_weight[row]);
  }
}

/* In turn the newest row left and the row left with most attention, in the mean over the queries that saw it. */
static void test_accumulated_is_half_new_half_attended_to(void **state) {
  (void)state;
  enum { TAKEN = 90 };
  pith_context *context = test_context(1);
  head h;
  make(&h, 70);
  double mean[N];
  bool taken[N] = {false};
  received(&h, 0, mean);
  for (size_t i = 0; i < N; i++) {
    size_t seen = 0;
    for (size_t r = 0; r < ASKED; r++) seen += h.position[r] >= i;
    if (seen > 0) mean[i] /= (double)seen;
  }
  pith_points *points = summarize(context, &pith_engine_accumulated, &h.problem, TAKEN);
  assert_int_equal(points->count, TAKEN);
  for (size_t i = 0; i < TAKEN; i++) {
    size_t next = N;
    for (size_t row = SINKS; row < N - WINDOW; row++)
      if (!taken[row] && (next == N || i % 2 == 0 || mean[row] >= mean[next])) next = row;
    assert_int_equal(points->index[i], next);
    assert_true(points->log_weight[i] == h.log_weight[next]);
    taken[next] = true;
  }
  pith_points_free(context, points);
  release(&h);
  test_context_free(context);
}

/* Queries before the last 64 distinct positions do not count, queries that share a position all do. */
static void test_heavy_pools_the_last_positions(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  make(&h, 80);
  /* 96 distinct positions: the first 64 queries alone at theirs, then pairs. */
  for (size_t r = 0; r < ASKED; r++) h.position[r] = N - 96 + (r < 64 ? r : 64 + (r - 64) / 2);
  double sum[N], score[N];
  received(&h, 32, sum);
  for (size_t i = 0; i < N; i++) {
    score[i] = 0;
    for (size_t j = i < 3 ? 0 : i - 3; j < N && j <= i + 3; j++)
      if (!h.exact[j]) score[i] = fmax(score[i], sum[j]);
  }
  pith_points *points = summarize(context, &pith_engine_heavy, &h.problem, 30);
  /* Pooled scores tie by sevens; f32 and double must agree on them as sets. */
  for (size_t i = 0; i < points->count; i++) {
    size_t better = 0;
    for (size_t j = SINKS; j < N - WINDOW; j++) better += score[j] > score[points->index[i]] * (1 + 1e-4);
    assert_true(better <= i);
  }
  pith_points_free(context, points);
  release(&h);
  test_context_free(context);
}

/* A key that draws everything, and its neighbours, are kept; without recorded queries too. */
static void test_heavy_finds_the_needle(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  make(&h, 85);
  h.log_weight[100] = 8;
  for (size_t recorded = 0; recorded < 2; recorded++) {
    h.model.recorded_count = recorded ? ASKED : 0;
    pith_points *points = summarize(context, &pith_engine_heavy, &h.problem, 7);
    for (size_t i = 0; i < 7; i++) assert_int_equal(points->index[i], 103 - i);
    pith_points_free(context, points);
    points = summarize(context, &pith_engine_accumulated, &h.problem, 2);
    assert_int_equal(points->index[1], 100);
    pith_points_free(context, points);
  }
  release(&h);
  test_context_free(context);
}

static void test_expected_ranks_by_mean_attention(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  head h;
  make(&h, 90);
  for (size_t recorded = 0; recorded < 2; recorded++) {
    double score[N];
    for (size_t i = 0; i < N; i++) {
      double logit = h.log_weight[i], square = 0;
      for (size_t a = 0; a < D; a++) {
        if (recorded) logit += h.mean[a] * h.keys[i * D + a];
        for (size_t b = 0; b < D; b++) {
          double moment = recorded ? h.covariance[a * D + b] : a == b ? 4.0 / D : 0;
          logit += 0.5 * moment * h.keys[i * D + a] * h.keys[i * D + b];
        }
      }
      for (size_t j = 0; j < DV; j++) square += (double)h.values[i * DV + j] * h.values[i * DV + j];
      score[i] = exp(logit) * sqrt(square);
    }
    h.model.mean = recorded ? h.mean : NULL;
    h.model.covariance = recorded ? h.covariance : NULL;
    pith_points *points = summarize(context, &pith_engine_expected, &h.problem, 40);
    assert_ranked(&h, score, points);
    pith_points_free(context, points);
  }
  release(&h);
  test_context_free(context);
}

/* ---- Pairing ---- */

/* Checks what a block promises, and keeps the first of each pair. */
static void split_first(const pith_pairing_block *block) {
  assert_true(2 * block->pairs <= block->count);
  for (size_t i = 0; i < block->count; i++) {
    assert_true(block->sign[i] == 0);
    assert_true(block->sum[i] == 0);
    assert_true(block->diagonal[i] == block->kernel[i * block->count + i]);
    for (size_t j = 0; j < i; j++)
      assert_true(block->kernel[i * block->count + j] == block->kernel[j * block->count + i]);
  }
  for (size_t pair = 0; pair < block->pairs; pair++) {
    block->sign[2 * pair] = 1;
    block->sign[2 * pair + 1] = -1;
  }
}

/* Every count can be reached at every number of rows, in one block and in many. */
static void test_pairing_reaches_every_count(void **state) {
  (void)state;
  static const pith_pairing_rule rule = {.whole = 12, .block = 5, .centred = true, .floor = 0.5, .split = split_first};
  pith_context *context = test_context(1);
  head h;
  make(&h, 95);
  h.problem.exact = NULL;
  for (size_t n = 1; n <= 60; n++) {
    h.problem.n = h.problem.candidates = n;
    void *pairing = NULL;
    assert_ok(context, pith_pairing_prepare(context, &h.problem, &rule, &pairing));
    for (size_t count = 0; count <= n; count++) {
      pith_points *points = NULL;
      assert_ok(context, pith_points_create(context, count, D, DV, &points));
      assert_ok(context, pith_pairing_take(context, &h.problem, pairing, count, points));
      assert_int_equal(points->count, count);
      assert_true_subset(&h.problem, points);
      pith_points_free(context, points);
    }
    pith_pairing_release(context, pairing);
  }
  release(&h);
  test_context_free(context);
}

/* ---- BalanceKV ---- */

/* Mean error over queries of the sphere. */
static double sphere_error(pith_context *context, const pith_engine *engine, size_t n, size_t d, size_t count,
                           uint64_t seed) {
  enum { QUERIES = 60 };
  float *keys = test_sphere(seed, n, d, 1), *values = test_sphere(seed + 1, n, d, 1);
  float *queries = test_sphere(seed + 2, QUERIES, d, 2);
  pith_query_model model = {.kind = PITH_QUERIES_BALL, .d = d, .rho = 2};
  pith_problem problem = {
      .n = n, .d = d, .dv = d, .keys = keys, .values = values, .candidates = n, .model = &model, .seed = seed};
  pith_points *points = summarize(context, engine, &problem, count);
  double error = 0, *sum = malloc(2 * (d + 1) * sizeof *sum);
  assert_non_null(sum);
  for (size_t r = 0; r < QUERIES; r++) {
    for (size_t j = 0; j < 2 * (d + 1); j++) sum[j] = 0;
    for (size_t i = 0; i < n + count; i++) {
      const float *key = i < n ? keys + i * d : points->keys + (i - n) * d;
      const float *value = i < n ? values + i * d : points->values + (i - n) * d;
      double logit = i < n ? 0 : points->log_weight[i - n], *out = i < n ? sum : sum + d + 1;
      for (size_t j = 0; j < d; j++) logit += (double)queries[r * d + j] * key[j];
      for (size_t j = 0; j < d; j++) out[j] += exp(logit) * value[j];
      out[d] += exp(logit);
    }
    double square = 0;
    for (size_t j = 0; j < d; j++) square += pow(sum[j] / sum[d] - sum[d + 1 + j] / sum[2 * d + 1], 2);
    error += sqrt(square) / QUERIES;
  }
  free(sum);
  free(keys);
  free(values);
  free(queries);
  pith_points_free(context, points);
  return error;
}

/* Theory 0.7: with the constants of the theory the walk is like random choice; with practical ones it is
 * well below it, and halving is below that. Errors vary by about a tenth a run, so by 5 % over 5 runs. */
static void test_balance_constants(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  double uniform = 0, theory = 0, practical = 0, halving = 0;
  for (uint64_t seed = 1; seed <= 5; seed++) {
    uniform += sphere_error(context, &pith_engine_uniform, 1024, 16, 128, 10 * seed);
    theory += sphere_error(context, &pith_engine_balance_theory, 1024, 16, 128, 10 * seed);
    practical += sphere_error(context, &pith_engine_balance, 1024, 16, 128, 10 * seed);
    halving += sphere_error(context, &pith_engine_halving, 1024, 16, 128, 10 * seed);
  }
  if (getenv("PITH_VERBOSE"))
    printf("uniform %.1e, theory %.1e, practical %.1e, halving %.1e\n", uniform / 5, theory / 5, practical / 5,
           halving / 5);
  assert_true(theory > 0.8 * uniform);
  assert_true(practical < 0.7 * uniform);
  assert_true(halving < 0.7 * practical);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_subsets_are_true_and_of_the_size_asked),
      cmocka_unit_test(test_same_bytes_at_any_thread_count),
      cmocka_unit_test(test_exact_keeps_all),
      cmocka_unit_test(test_uniform_is_nested_and_keeps_the_total),
      cmocka_unit_test(test_uniform_is_uniform),
      cmocka_unit_test(test_recent_keeps_the_last),
      cmocka_unit_test(test_accumulated_is_half_new_half_attended_to),
      cmocka_unit_test(test_heavy_pools_the_last_positions),
      cmocka_unit_test(test_heavy_finds_the_needle),
      cmocka_unit_test(test_expected_ranks_by_mean_attention),
      cmocka_unit_test(test_pairing_reaches_every_count),
      cmocka_unit_test(test_balance_constants),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
