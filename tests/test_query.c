/* test_query.c - query models and their kernels against plain double, and the rotation of queries. */
#include "nystrom.h"
#include "query/kernel.h"
#include "test.h"

enum { N = 200, D = 16, ROWS = 120 };

static double *to_double(const float *x, size_t count) {
  double *out = malloc(count * sizeof *out);
  for (size_t i = 0; i < count; i++) out[i] = x[i];
  return out;
}

/* One group of two query heads over N keys, recorded at the last ROWS positions. */
typedef struct fixture {
  float *keys, *values, *queries;
  pith_array head[2];
  pith_query_source source;
} fixture;

static void make(fixture *out) {
  fixture f = {.keys = test_gaussian(1, N * D, 1),
               .values = test_gaussian(2, N * 3, 1),
               .queries = test_gaussian(3, 2 * ROWS * D, 1)};
  for (size_t j = 0; j < 2; j++) f.head[j] = pith_array_matrix(f.queries + j * ROWS * D, PITH_F32, ROWS, D);
  f.source = (pith_query_source){.queries = f.head,
                                 .query_heads = 2,
                                 .d = D,
                                 .dv = 3,
                                 .keys = N,
                                 .key_rows = f.keys,
                                 .value_rows = f.values,
                                 .lessons = 2 * (2 * ROWS - 20),
                                 .scale = 0.25,
                                 .rope_base = 100,
                                 .query_start = PITH_UNSET,
                                 .horizon = 64,
                                 .probes = 20,
                                 .seed = 5};
  *out = f;
  out->source.queries = out->head;
}

static void unmake(fixture *f) {
  free(f->keys);
  free(f->values);
  free(f->queries);
}

/* A turn keeps norms, and inner products depend on the difference of positions alone. */
static void test_turns(void **state) {
  (void)state;
  for (int layout = PITH_ROPE_PAIRS; layout <= PITH_ROPE_HALVES; layout++) {
    float *x = test_gaussian(7, 2 * D, 1), turned[2][2 * D];
    for (int i = 0; i < 2; i++) {
      memcpy(turned[i], x, sizeof turned[i]);
      pith_rope_turn(turned[i], D, (pith_rope)layout, 100, 10 + 90 * i);
      pith_rope_turn(turned[i] + D, D, (pith_rope)layout, 100, 3 + 90 * i);
    }
    double near = 0, far = 0, norm = 0, turned_norm = 0, unturned = 0;
    for (size_t j = 0; j < D; j++) {
      near += (double)turned[0][j] * turned[0][D + j];
      far += (double)turned[1][j] * turned[1][D + j];
      unturned += (double)x[j] * x[D + j];
      norm += (double)x[j] * x[j];
      turned_norm += (double)turned[0][j] * turned[0][j];
    }
    assert_float_equal(near, far, 1e-4);
    assert_float_equal(norm, turned_norm, 1e-4);
    assert_true(fabs(near - unturned) > 1e-2); /* a turn that does nothing would pass the rest */
    free(x);
  }
  /* Pairs: coordinate 0 turns with 1; halves: with D/2. One step turns the first pair by one radian. */
  float unit[D] = {1};
  pith_rope_turn(unit, D, PITH_ROPE_PAIRS, 100, 1);
  assert_float_equal(unit[0], cos(1), 1e-6);
  assert_float_equal(unit[1], sin(1), 1e-6);
  float other[D] = {1};
  pith_rope_turn(other, D, PITH_ROPE_HALVES, 100, 1);
  assert_float_equal(other[D / 2], sin(1), 1e-6);
}

/* Probes and fit queries are disjoint recorded rows, turned but otherwise untouched. */
static void test_split(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  fixture f;
  make(&f);
  f.source.rope = PITH_ROPE_PAIRS;
  pith_query_model *model = NULL;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  assert_int_equal(model->kind, PITH_QUERIES_SAMPLES);
  assert_int_equal(model->recorded_count, 2 * ROWS);
  assert_int_equal(model->probe_count, 20);
  assert_int_equal(model->fit_count, 2 * ROWS - 20);
  assert_int_equal(model->turned_count, 2 * (2 * ROWS - 20));
  assert_int_equal(model->position[0], N - ROWS);
  /* The norms of the coordinate pairs name the recorded row, and turning keeps them: every row is used once. */
  size_t used[2 * ROWS] = {0};
  for (size_t i = 0; i < model->fit_count + model->probe_count; i++) {
    const float *q = i < model->fit_count ? model->fit + i * D : model->probes + (i - model->fit_count) * D;
    for (size_t r = 0; r < 2 * ROWS; r++) {
      const float *recorded = model->recorded + r * D;
      bool same = true;
      for (size_t j = 0; j < D; j += 2)
        same &= fabsf(hypotf(q[j], q[j + 1]) - hypotf(recorded[j], recorded[j + 1])) < 1e-4f;
      used[r] += same;
    }
  }
  for (size_t r = 0; r < 2 * ROWS; r++) assert_int_equal(used[r], 1);
  assert_int_equal(model->distinct_count, 2 * ROWS - 20);
  pith_query_model_free(context, model);

  /* Spared rows come behind the fit, and at least a few are left to fit. */
  f.source.lessons = 0;
  f.source.spare = 7;
  f.source.samples = 0;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  assert_int_equal(model->fit_count, 2 * ROWS - 27);
  assert_int_equal(model->turned_count, 2 * ROWS - 20);
  pith_query_model_free(context, model);

  /* Two models of one seed are the same; another seed draws other probes. */
  pith_query_model *again = NULL, *other = NULL;
  assert_ok(context, pith_query_model_create(context, &f.source, &again));
  f.source.seed++;
  assert_ok(context, pith_query_model_create(context, &f.source, &other));
  assert_memory_not_equal(again->probes, other->probes, 20 * D * sizeof(float));
  pith_query_model_free(context, again);
  pith_query_model_free(context, other);
  unmake(&f);
  pith_context_free(context);
}

/* Steps that lie between recorded row r and the turned query q; SIZE_MAX: none turn one into the other. */
static size_t find_ahead(const fixture *f, const pith_query_model *model, size_t r, const float *q) {
  for (size_t ahead = 0; ahead < f->source.horizon; ahead++) {
    float turned[D], distance = 0;
    memcpy(turned, model->recorded + r * D, sizeof turned);
    pith_rope_turn(turned, D, f->source.rope, f->source.rope_base, (double)(N + ahead) - (double)model->position[r]);
    for (size_t j = 0; j < D; j++) distance += fabsf(turned[j] - q[j]);
    if (distance < 1e-4f) return ahead;
  }
  return SIZE_MAX;
}

/* A query asked `ahead` behind the last key meets the ahead + 1 keys that it saw last, as they were. */
static void check_near(const fixture *f, const pith_query_model *model, size_t r, size_t ahead, double log_mass,
                       const float *answer) {
  size_t last = model->position[r] < N ? model->position[r] : N - 1, first = last > ahead ? last - ahead : 0;
  double mass = 0, sum[3] = {0};
  for (size_t i = first; i <= last; i++) {
    double logit = 0;
    for (size_t j = 0; j < D; j++) logit += (double)model->recorded[r * D + j] * f->keys[i * D + j];
    mass += exp(logit);
    for (size_t j = 0; j < 3; j++) sum[j] += exp(logit) * f->values[i * 3 + j];
  }
  assert_float_equal(log_mass, log(mass), 1e-4);
  for (size_t j = 0; j < 3; j++) assert_float_equal(answer[j], sum[j] / mass, 1e-4);
}

static void test_near_keys(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  fixture f;
  make(&f);
  f.source.rope = PITH_ROPE_PAIRS;
  f.source.horizon = 61;
  pith_query_model *model = NULL;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  size_t seen[61] = {0}, distinct = 0;
  for (size_t i = 0; i < model->turned_count; i++) {
    size_t found = 0;
    for (size_t r = 0; r < 2 * ROWS && found == 0; r++) {
      size_t ahead = find_ahead(&f, model, r, model->fit + i * D);
      if (ahead == SIZE_MAX) continue;
      check_near(&f, model, r, ahead, model->local_log_mass[i], model->local_answer + i * 3);
      distinct += seen[ahead]++ == 0;
      found++;
    }
    assert_int_equal(found, 1);
  }
  assert_true(distinct > 10); /* the positions that are asked from are spread over the horizon */
  pith_query_model_free(context, model);
  unmake(&f);
  pith_context_free(context);
}

static void check_kernel(pith_context *context, const pith_query_model *model, const float *keys,
                         const double *expected, double tolerance) {
  pith_kernel *kernel = NULL;
  assert_ok(context, pith_kernel_create(context, model, keys, NULL, N, &kernel));
  size_t rows[3] = {0, 17, N - 1}, columns[4] = {5, 17, 3, 180};
  float *whole = malloc(3 * N * sizeof *whole), block[12];
  assert_ok(context, pith_kernel_rows(context, kernel, rows, 3, whole));
  assert_ok(context, pith_kernel_block(context, kernel, rows, 3, columns, 4, block));
  double factor = exp(kernel->log_factor), largest = 0;
  for (size_t i = 0; i < N; i++) largest = fmax(largest, expected[i * N + i]);
  for (size_t a = 0; a < 3; a++) {
    for (size_t j = 0; j < N; j++)
      assert_float_equal(factor * whole[a * N + j] / largest, expected[rows[a] * N + j] / largest, tolerance);
    for (size_t j = 0; j < 4; j++) assert_float_equal(block[a * 4 + j], whole[a * N + columns[j]], 1e-6 * largest);
    assert_float_equal(whole[a * N + rows[a]] / kernel->diagonal[rows[a]], 1, 1e-4);
  }
  free(whole);
  pith_kernel_free(context, kernel);
}

static void test_kernels(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f;
  make(&f);
  double *keys = to_double(f.keys, N * D), *expected = malloc(N * N * sizeof *expected);
  pith_query_model *model = NULL;

  /* samples; what is added for unseen queries is 1e-3 of the mean diagonal at most */
  f.source.rope = PITH_ROPE_PAIRS;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  double *queries = to_double(model->fit, model->fit_count * D),
         *local = to_double(model->local_log_mass, model->fit_count);
  double *a = malloc(model->fit_count * N * sizeof *a);
  reference_attention_weights(queries, model->fit_count, keys, NULL, local, N, D, a);
  reference_sample_kernel(a, model->fit_count, N, expected);
  check_kernel(context, model, f.keys, expected, 1.1e-3);
  pith_query_model_free(context, model);

  f.source.kind = PITH_QUERIES_GAUSSIAN;
  f.source.rope = PITH_ROPE_NONE;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  reference_gaussian_kernel(keys, N, D, model->mean, model->covariance, expected);
  check_kernel(context, model, f.keys, expected, 1e-4);
  pith_query_model_free(context, model);

  f.source.kind = PITH_QUERIES_BALL;
  f.source.query_heads = 0;
  f.source.rho = 1.5;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  pith_kernel *kernel = NULL;
  assert_ok(context, pith_kernel_create(context, model, f.keys, NULL, N, &kernel));
  reference_ball_kernel(keys, N, D, kernel->lambda2, expected);
  assert_true(kernel->lambda2 > 0.1);
  pith_kernel_free(context, kernel);
  check_kernel(context, model, f.keys, expected, 1e-5);
  pith_query_model_free(context, model);

  free(keys);
  free(expected);
  free(queries);
  free(local);
  free(a);
  unmake(&f);
  pith_context_free(context);
}

/* Draws follow the model: moments of the gaussian, norms of the ball, rows of the samples. 4000 draws: the mean of
 * each coordinate is within 5 standard errors, which a right sampler misses once in 10^5. */
static void test_draws(void **state) {
  (void)state;
  enum { COUNT = 4000 };
  pith_context *context = test_context(1);
  fixture f;
  make(&f);
  float *out = malloc(COUNT * D * sizeof *out);
  pith_query_model *model = NULL;
  f.source.kind = PITH_QUERIES_GAUSSIAN;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  assert_ok(context, pith_query_model_draw(context, model, COUNT, 9, 0, out));
  for (size_t j = 0; j < D; j++) {
    double mean = 0, square = 0, variance = model->covariance[j * D + j];
    for (size_t r = 0; r < COUNT; r++) mean += out[r * D + j] / (double)COUNT;
    for (size_t r = 0; r < COUNT; r++) square += (out[r * D + j] - mean) * (out[r * D + j] - mean) / COUNT;
    assert_true(fabs(mean - model->mean[j]) < 5 * sqrt(variance / COUNT));
    assert_true(fabs(square / variance - 1) < 5 * sqrt(2.0 / COUNT));
  }
  pith_query_model_free(context, model);
  f.source.kind = PITH_QUERIES_BALL;
  assert_ok(context, pith_query_model_create(context, &f.source, &model));
  assert_ok(context, pith_query_model_draw(context, model, 50, 9, 0, out));
  for (size_t r = 0; r < 50; r++) {
    double norm = 0;
    for (size_t j = 0; j < D; j++) norm += (double)out[r * D + j] * out[r * D + j];
    assert_float_equal(sqrt(norm), model->rho, 1e-4);
  }
  pith_query_model_free(context, model);
  free(out);
  unmake(&f);
  pith_context_free(context);
}

/* m^T S^-1 m by elimination; S is overwritten. */
static double inverse_form(double *s, const double *m) {
  double x[D], sum = 0;
  for (size_t i = 0; i < D; i++) x[i] = m[i];
  for (size_t k = 0; k < D; k++) {
    sum += x[k] * x[k] / s[k * D + k];
    for (size_t i = k + 1; i < D; i++) {
      double factor = s[i * D + k] / s[k * D + k];
      for (size_t j = k; j < D; j++) s[i * D + j] -= factor * s[k * D + j];
      x[i] -= factor * x[k];
    }
  }
  return sum;
}

/* The direction on which queries agree most, <q, u> = 1 in the mean, has variance 1 / m^T S^-1 m, but for its ridge.
 * Queries further from the origin agree better. */
static void test_fold_spread(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  double last = INFINITY;
  for (int offset = 1; offset <= 16; offset *= 4) {
    fixture f;
    make(&f);
    for (size_t r = 0; r < 2 * ROWS; r++) f.queries[r * D] += (float)offset;
    pith_query_model *model = NULL;
    assert_ok(context, pith_query_model_create(context, &f.source, &model));
    double spread = 0, covariance[D * D];
    assert_ok(context, pith_fold_spread(context, model, &spread));
    memcpy(covariance, model->covariance, sizeof covariance);
    double expected = 1 / sqrt(inverse_form(covariance, model->mean));
    assert_true(spread >= expected * (1 - 1e-9) && spread <= expected * 1.1 && spread < 0.6 * last);
    last = spread;
    pith_query_model_free(context, model);
    unmake(&f);
  }
  pith_context_free(context);
}

static void expect_refusal(pith_context *context, const pith_query_source *source, pith_status status,
                           const char *words) {
  pith_query_model *model = NULL;
  assert_int_equal(pith_query_model_create(context, source, &model), status);
  assert_null(model);
  if (!strstr(pith_context_message(context), words)) fail_msg("%s", pith_context_message(context));
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  fixture f;
  make(&f);
  pith_query_source s = f.source;
  s.rope = PITH_ROPE_PAIRS;
  s.rope_base = 1;
  expect_refusal(context, &s, PITH_E_ARGUMENT, "base is 1");
  s = f.source;
  s.rope = PITH_ROPE_HALVES;
  s.d = 15;
  expect_refusal(context, &s, PITH_E_SHAPE, "even number");
  s = f.source;
  s.query_heads = 0;
  s.kind = PITH_QUERIES_SAMPLES;
  expect_refusal(context, &s, PITH_E_ARGUMENT, "no recorded queries");
  s = f.source;
  s.rho = NAN;
  expect_refusal(context, &s, PITH_E_ARGUMENT, "rho");
  f.queries[5] = NAN;
  expect_refusal(context, &f.source, PITH_E_VALUE, "queries: row 0, column 5");
  unmake(&f);
  pith_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns),     cmocka_unit_test(test_split),
                                     cmocka_unit_test(test_near_keys), cmocka_unit_test(test_kernels),
                                     cmocka_unit_test(test_draws),     cmocka_unit_test(test_fold_spread),
                                     cmocka_unit_test(test_refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
