/* test_features.c - features of all fit queries, and of those drawn by what they see. */
#include "nystrom.h"
#include "query/features.h"
#include "test.h"

enum { N = 150, D = 16, ROWS = 300, EXACT = 10, MOST = 40, SEEDS = 400, SAMPLED = 8 };

typedef struct fixture {
  pith_context *context;
  float *keys, *queries;
  uint8_t exact[N];
  pith_query_model *model;
  double *weight; /* (fit queries, N): what each sees, in double */
  pith_feature_source source;
} fixture;

/* Queries of very different lengths: some see one key, most see a little of all. */
static int setup(void **state) {
  fixture *f = calloc(1, sizeof *f);
  f->context = test_context(2);
  f->keys = test_gaussian(1, N * D, 1);
  f->queries = test_gaussian(3, ROWS * D, 1);
  for (size_t r = 0; r < ROWS; r++)
    for (size_t j = 0; j < D; j++) f->queries[r * D + j] *= r % 10 == 0 ? 4.0F : 0.5F;
  for (size_t i = 0; i < EXACT; i++) f->exact[i] = 1;
  pith_array head = pith_array_matrix(f->queries, PITH_F32, ROWS, D);
  pith_query_source source = {.queries = &head,
                              .query_heads = 1,
                              .d = D,
                              .dv = D,
                              .keys = N,
                              .key_rows = f->keys,
                              .value_rows = f->keys,
                              .scale = 0.25,
                              .query_start = 0,
                              .seed = 5};
  assert_ok(f->context, pith_query_model_create(f->context, &source, &f->model));
  size_t count = f->model->fit_count;
  double *queries = malloc(count * D * sizeof *queries), *keys = malloc(N * D * sizeof *keys);
  double *local = malloc(count * sizeof *local);
  f->weight = malloc(count * N * sizeof *f->weight);
  for (size_t i = 0; i < count * D; i++) queries[i] = f->model->fit[i];
  for (size_t i = 0; i < N * D; i++) keys[i] = f->keys[i];
  for (size_t r = 0; r < count; r++) local[r] = f->model->local_log_mass[r];
  reference_attention_weights(queries, count, keys, NULL, local, N, D, f->weight);
  free(queries);
  free(keys);
  free(local);
  f->source = (pith_feature_source){
      .model = f->model, .keys = f->keys, .exact = f->exact, .n = N, .most = MOST, .seed = 1, .object = 7};
  *state = f;
  return 0;
}

static int teardown(void **state) {
  fixture *f = *state;
  pith_query_model_free(f->context, f->model);
  pith_context_free(f->context);
  free(f->keys);
  free(f->queries);
  free(f->weight);
  free(f);
  return 0;
}

static pith_features create(pith_context *context, const pith_feature_source *source) {
  pith_features features;
  assert_ok(context, pith_features_create(context, source, &features));
  return features;
}

static void destroy(pith_context *context, pith_features *features) {
  pith_release(context, features->feature);
  pith_release(context, features->diagonal);
}

static void test_all(void **state) {
  fixture *f = *state;
  size_t all = f->model->fit_count;
  f->source.most = all;
  pith_features features = create(f->context, &f->source);
  assert_int_equal(features.count, all);
  assert_null(features.diagonal);
  for (size_t i = 0; i < N; i++)
    for (size_t r = 0; r < all; r++)
      assert_float_equal(features.feature[i * all + r] * sqrt((double)all), f->weight[r * N + i], 1e-5);
  destroy(f->context, &features);
  f->source.most = MOST;
}

/* The chance of each query, found the slow way: the factor at which chances add up to MOST, by bisection. */
static void find_chances(const fixture *f, double *chance) {
  size_t all = f->model->fit_count;
  double low = 0, high = 1e9;
  for (int step = 0; step < 200; step++) {
    double factor = (low + high) / 2, sum = 0;
    for (size_t r = 0; r < all; r++) {
      double squares = 0;
      for (size_t i = EXACT; i < N; i++) squares += f->weight[r * N + i] * f->weight[r * N + i];
      sum += chance[r] = fmin(1, factor * sqrt(squares));
    }
    if (sum < MOST)
      low = factor;
    else
      high = factor;
  }
}

/* The query whose weights a column has: weights add up to 1, so that a column adds up to its factor. */
static size_t find_query(const fixture *f, const float *feature, size_t count, size_t column, double *factor) {
  *factor = 0;
  for (size_t i = 0; i < N; i++) *factor += feature[i * count + column];
  size_t best = 0;
  double least = INFINITY;
  for (size_t r = 0; r < f->model->fit_count; r++) {
    double distance = 0;
    for (size_t i = 0; i < N; i++) distance += fabs(feature[i * count + column] / *factor - f->weight[r * N + i]);
    if (distance < least) {
      least = distance;
      best = r;
    }
  }
  assert_true(least < 1e-4);
  return best;
}

/* Over 400 seeds each query is drawn as often as its chance says (within 5 standard errors: one query in 2 million
 * fails by chance), the certain ones always; and its weights are divided by the root of it. */
static void test_chances(void **state) {
  fixture *f = *state;
  size_t all = f->model->fit_count, certain = 0;
  double *chance = malloc(all * sizeof *chance);
  size_t *times = calloc(all, sizeof *times);
  find_chances(f, chance);
  for (size_t seed = 0; seed < SEEDS; seed++) {
    f->source.seed = seed;
    pith_features features = create(f->context, &f->source);
    size_t count = features.count;
    const float *feature = features.feature;
    assert_in_range(count, MOST - 1, MOST + 1);
    for (size_t c = 0; c < count; c++) {
      double factor = 0;
      size_t r = find_query(f, feature, count, c, &factor);
      times[r]++;
      assert_float_equal(factor * factor * chance[r] * (double)all, 1, 1e-3);
    }
    destroy(f->context, &features);
  }
  for (size_t r = 0; r < all; r++) {
    double deviation = sqrt(SEEDS * chance[r] * (1 - chance[r]));
    certain += chance[r] > 1 - 1e-9;
    assert_true(fabs((double)times[r] - SEEDS * chance[r]) <= 5 * deviation + 1e-6);
  }
  assert_in_range(certain, 1, MOST - 1); /* both kinds are there */
  free(chance);
  free(times);
}

/* The kernel of those drawn is right on average: 64 entries, each within 5 standard errors of the mean over 400 seeds.
 * The control leaves the division out, as if all had been drawn alike, and is off by more than that. */
static void test_mean(void **state) {
  fixture *f = *state;
  size_t all = f->model->fit_count;
  double sum[2][SAMPLED * SAMPLED] = {{0}}, squares[2][SAMPLED * SAMPLED] = {{0}}, worst[2] = {0};
  for (size_t seed = 0; seed < SEEDS; seed++) {
    f->source.seed = seed;
    pith_features features = create(f->context, &f->source);
    size_t count = features.count;
    const float *feature = features.feature;
    double factor[MOST + 1] = {0};
    for (size_t c = 0; c < count; c++)
      for (size_t i = 0; i < N; i++) factor[c] += feature[i * count + c];
    for (size_t a = 0; a < SAMPLED * SAMPLED; a++) {
      const float *left = feature + (EXACT + a / SAMPLED) * count, *right = feature + (EXACT + a % SAMPLED) * count;
      double drawn = 0, alike = 0;
      for (size_t c = 0; c < count; c++) {
        double product = (double)left[c] * right[c];
        drawn += product;
        alike += product / (factor[c] * factor[c] * (double)count);
      }
      sum[0][a] += drawn / SEEDS;
      squares[0][a] += drawn * drawn / SEEDS;
      sum[1][a] += alike / SEEDS;
      squares[1][a] += alike * alike / SEEDS;
    }
    destroy(f->context, &features);
  }
  for (size_t a = 0; a < SAMPLED * SAMPLED; a++) {
    double exact = 0;
    for (size_t r = 0; r < all; r++)
      exact += f->weight[r * N + EXACT + a / SAMPLED] * f->weight[r * N + EXACT + a % SAMPLED] / (double)all;
    for (int k = 0; k < 2; k++) {
      double error = sqrt(fmax(squares[k][a] - sum[k][a] * sum[k][a], 0) / SEEDS) + 1e-12;
      worst[k] = fmax(worst[k], fabs(sum[k][a] - exact) / error);
    }
  }
  assert_true(worst[0] < 5);
  assert_true(worst[1] > 10);
}

/* The diagonal is that of all queries, whichever are drawn. The control: the features of those drawn miss it. */
static void test_diagonal(void **state) {
  fixture *f = *state;
  size_t all = f->model->fit_count;
  f->source.seed = 3;
  pith_features features = create(f->context, &f->source);
  double missed = 0;
  for (size_t i = 0; i < N; i++) {
    double exact = 0, drawn = 0;
    for (size_t r = 0; r < all; r++) exact += f->weight[r * N + i] * f->weight[r * N + i] / (double)all;
    for (size_t c = 0; c < features.count; c++) {
      double x = features.feature[i * features.count + c];
      drawn += x * x;
    }
    assert_true(fabs(features.diagonal[i] - exact) <= 1e-5 * exact);
    missed = fmax(missed, fabs(drawn - exact) / exact);
  }
  assert_true(missed > 0.05);
  destroy(f->context, &features);
}

static void test_threads(void **state) {
  fixture *f = *state;
  pith_context *other = test_context(1);
  f->source.seed = 3;
  pith_features a = create(f->context, &f->source), b = create(other, &f->source);
  assert_int_equal(a.count, b.count);
  assert_memory_equal(a.feature, b.feature, N * a.count * sizeof(float));
  assert_memory_equal(a.diagonal, b.diagonal, N * sizeof(float));
  destroy(f->context, &a);
  destroy(other, &b);
  pith_context_free(other);
}

/* Where queries see exact rows alone there is nothing to draw. */
static void test_nothing_seen(void **state) {
  fixture *f = *state;
  uint8_t exact[N];
  memset(exact, 1, sizeof exact);
  f->source.exact = exact;
  pith_features features = create(f->context, &f->source);
  assert_int_equal(features.count, 0);
  destroy(f->context, &features);
  f->source.exact = f->exact;
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all),      cmocka_unit_test(test_chances), cmocka_unit_test(test_mean),
      cmocka_unit_test(test_diagonal), cmocka_unit_test(test_threads), cmocka_unit_test(test_nothing_seen),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
