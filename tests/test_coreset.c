/* test_coreset.c - what paper 2605.05602 says of summaries for a whole ball, on instances where it can be checked. */
#include "certify/certify.h"
#include "gram_schmidt_walk.h"
#include "pith.h"
#include "test.h"

static const double RHO = 1;

typedef struct instance {
  size_t n, d;
  float *keys, *values;
} instance;

static instance sphere(uint64_t seed, size_t n, size_t d) {
  return (instance){n, d, test_sphere(2 * seed, n, d, 1), test_sphere(2 * seed + 1, n, d, 1)};
}

static void release(instance *in) {
  free(in->keys);
  free(in->values);
}

/* Largest error found when `count` rows stand for all, with these log-weights (NULL: n / count each). */
static double error_of_rows(pith_context *context, const instance *in, const size_t *rows, size_t count, double rho) {
  float *block = malloc((2 * count * in->d + count) * sizeof *block), *values = block + count * in->d;
  float *log_weight = values + count * in->d;
  for (size_t i = 0; i < count; i++) {
    memcpy(block + i * in->d, in->keys + rows[i] * in->d, in->d * sizeof(float));
    memcpy(values + i * in->d, in->values + rows[i] * in->d, in->d * sizeof(float));
    log_weight[i] = (float)log((double)in->n / (double)count);
  }
  pith_pairs full = {in->n, in->d, in->d, in->keys, in->values, NULL};
  pith_pairs summary = {count, in->d, in->d, block, values, log_weight};
  double error = 0;
  assert_ok(context, pith_ascend(context, &full, &summary, rho, 8, 1, &error, NULL));
  free(block);
  return error;
}

static double error_of_engine(pith_context *context, const instance *in, const char *engine, size_t points, double rho,
                              uint64_t seed) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  options.points = points;
  options.store = PITH_F32;
  options.sinks = options.window = 0;
  options.scale = 1;
  options.rho = rho;
  options.seed = seed;
  options.query_model = PITH_QUERIES_BALL;
  pith_array keys = pith_array_matrix(in->keys, PITH_F32, in->n, in->d);
  pith_array values = pith_array_matrix(in->values, PITH_F32, in->n, in->d);
  pith_summary *summary = NULL;
  pith_head_view head;
  double error = 0;
  assert_ok(context, pith_compress(context, &keys, &values, NULL, &options, &summary));
  assert_ok(context, pith_summary_head(context, summary, 0, 0, &head));
  assert_ok(context, pith_worst_query(context, &keys, &values, &head, 1, rho, 8, 1, &error, NULL));
  assert_true(error <= head.ball.bound);
  pith_summary_free(summary);
  return error;
}

/* ---- The Gram-Schmidt walk ---- */

/* exp(rho <k_i, k_j>) (<v_i, v_j> + 1), scaled to a diagonal of at most 1; keys and values have norm 1. */
static double *joint_kernel(const instance *in, double rho) {
  double *kernel = malloc(in->n * in->n * sizeof *kernel);
  for (size_t i = 0; i < in->n; i++)
    for (size_t j = 0; j < in->n; j++) {
      double key = 0, value = 1;
      for (size_t k = 0; k < in->d; k++) {
        key += (double)in->keys[i * in->d + k] * in->keys[j * in->d + k];
        value += (double)in->values[i * in->d + k] * in->values[j * in->d + k];
      }
      kernel[i * in->n + j] = exp(rho * (key - 1)) * value / 2.000001;
    }
  return kernel;
}

static void walk(const double *kernel, size_t n, uint64_t seed, bool coins_only, double *sign) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 9);
  double *uniform = malloc(n * sizeof *uniform);
  for (size_t i = 0; i < n; i++) uniform[i] = pith_random_uniform(&stream, i);
  for (size_t i = 0; i < n && coins_only; i++) sign[i] = uniform[i] < 0.5 ? 1 : -1;
  if (!coins_only) reference_gram_schmidt_walk(kernel, n, uniform, sign);
  free(uniform);
}

/* Largest over i of the mean over runs of <phi_i, sum_j sign_j phi_j>^2. */
static double worst_variance(const double *kernel, size_t n, size_t runs, bool coins_only, double *bias) {
  double *sign = malloc(n * sizeof *sign), *square = calloc(n, sizeof *square), *mean = calloc(n, sizeof *mean);
  for (size_t run = 0; run < runs; run++) {
    walk(kernel, n, run, coins_only, sign);
    for (size_t i = 0; i < n; i++) {
      double along = 0;
      assert_true(sign[i] == 1 || sign[i] == -1);
      for (size_t j = 0; j < n; j++) along += kernel[i * n + j] * sign[j];
      square[i] += along * along / (double)runs;
      mean[i] += sign[i] / (double)runs;
    }
  }
  double worst = 0;
  *bias = 0;
  for (size_t i = 0; i < n; i++) {
    worst = fmax(worst, square[i]);
    *bias = fmax(*bias, fabs(mean[i]));
  }
  free(sign);
  free(square);
  free(mean);
  return worst;
}

/* Signs are unbiased, and the covariance of the signed sum is at most the identity (vectors of norm <= 1), so the
 * mean square along every row is at most 1.
 *
 * Power: over 400 runs the mean of a sign has standard deviation .05, so of 48 rows the largest is below .225 (4.5
 * of these) but for 3e-4; a mean square of at most 1 with fourth moment at most 3 (subgaussian) has standard
 * deviation below .09, and 1.4 is more than 4 of these. Control: fair coins, whose mean square is sum_j K_ij^2. */
static void test_walk(void **state) {
  (void)state;
  instance in = sphere(1, 48, 3);
  double *kernel = joint_kernel(&in, RHO), bias = 0, coin_bias = 0;
  double variance = worst_variance(kernel, in.n, 400, false, &bias);
  double control = worst_variance(kernel, in.n, 400, true, &coin_bias);
  printf("mean square along rows %.3f, with coins %.3f; largest mean sign %.3f\n", variance, control, bias);
  assert_true(bias < 0.225);
  assert_true(variance < 1.4);
  assert_true(control > 1.4);
  free(kernel);
  release(&in);
}

/* Half of 128 rows by the walk, by the engine, and by chance: mean over seeds of the largest error found. */
static void test_halves(void **state) {
  (void)state;
  enum { N = 128, SEEDS = 6 };
  pith_context *context = test_context(2);
  double by_walk = 0, by_engine = 0, by_chance = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    instance in = sphere(20 + seed, N, 4);
    double *kernel = joint_kernel(&in, RHO), sign[N];
    size_t rows[N], count = 0;
    walk(kernel, N, seed, false, sign);
    for (size_t i = 0; i < N; i++)
      if (sign[i] > 0) rows[count++] = i;
    by_walk += error_of_rows(context, &in, rows, count, RHO) / SEEDS;
    by_engine += error_of_engine(context, &in, "halving", N / 2, RHO, seed + 1) / SEEDS;
    by_chance += error_of_engine(context, &in, "uniform", N / 2, RHO, seed + 1) / SEEDS;
    free(kernel);
    release(&in);
  }
  printf("half of 128: walk %.4f, halving %.4f, chance %.4f\n", by_walk, by_engine, by_chance);
  assert_true(by_walk < 0.6 * by_chance);
  assert_true(by_engine < by_walk);
  test_context_free(context);
}

/* ---- Sizes and slopes ---- */

/* Slope of log error against log size, largest errors in the ball, mean over three instances: near -1 by halving,
 * near -1/2 by chance (the control). */
static void test_slopes(void **state) {
  (void)state;
  enum { N = 1024, SIZES = 4, SEEDS = 3 };
  static const size_t sizes[SIZES] = {32, 64, 128, 256};
  static const char *const engines[2] = {"halving", "uniform"};
  pith_context *context = test_context(2);
  double slope[2] = {0, 0};
  for (int engine = 0; engine < 2; engine++) {
    double error[SIZES] = {0}, x_mean = 0, y_mean = 0, xy = 0, xx = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
      instance in = sphere(40 + seed, N, 4);
      for (int k = 0; k < SIZES; k++)
        error[k] += error_of_engine(context, &in, engines[engine], sizes[k], RHO, seed + 1);
      release(&in);
    }
    for (int k = 0; k < SIZES; k++) {
      x_mean += log((double)sizes[k]) / SIZES;
      y_mean += log(error[k]) / SIZES;
    }
    for (int k = 0; k < SIZES; k++) {
      xy += (log((double)sizes[k]) - x_mean) * (log(error[k]) - y_mean);
      xx += pow(log((double)sizes[k]) - x_mean, 2);
    }
    slope[engine] = xy / xx;
  }
  printf("slope of the largest error: halving %.2f, uniform %.2f\n", slope[0], slope[1]);
  assert_true(slope[0] < -0.9);
  assert_true(slope[1] > -0.75 && slope[1] < -0.35);
  test_context_free(context);
}

/* n exp(-2 rho) rows at u, the rest at -u with the opposite value: two weighted rows are exact, two equal ones are
 * far off, and equal weights need about exp(2 rho) rows. */
static void test_two_points(void **state) {
  (void)state;
  enum { N = 1100, FEW = 20 };
  pith_context *context = test_context(1);
  float keys[2 * N] = {0}, values[2 * N] = {0};
  for (int i = 0; i < N; i++) keys[2 * i] = values[2 * i] = i < FEW ? 1 : -1;
  pith_pairs full = {N, 2, 2, keys, values, NULL};
  float log_weight[2] = {(float)log(FEW), (float)log(N - FEW)}, equal[2] = {0, 0};
  size_t middle = 2 * (FEW - 1);
  pith_pairs weighted = {2, 2, 2, keys + middle, values + middle, log_weight};
  pith_pairs unweighted = {2, 2, 2, keys + middle, values + middle, equal};
  double error = 0, rho = log((double)(N - FEW) / FEW) / 2;
  assert_ok(context, pith_ascend(context, &full, &weighted, rho, 8, 1, &error, NULL));
  assert_true(error < 1e-6);
  assert_ok(context, pith_ascend(context, &full, &unweighted, rho, 8, 1, &error, NULL));
  assert_true(error > 0.5);
  test_context_free(context);
}

/* Keys e_i and -e_i with Hadamard values and their opposites: without e_i, the answer at q = rho e_i of any true
 * rows with any weights has no positive part along h_i, so it errs by at least
 * 2 sinh(rho) / (2 cosh(rho) + 2 d - 2). Not one of the 2 d rows can go below that eps. */
static void test_hadamard(void **state) {
  (void)state;
  enum { D = 8 };
  pith_context *context = test_context(1);
  instance in = {2 * D, D, calloc(2 * D * D, sizeof(float)), calloc(2 * D * D, sizeof(float))};
  for (size_t i = 0; i < 2 * D; i++) {
    in.keys[i * D + i % D] = i < D ? 1 : -1;
    for (size_t j = 0; j < D; j++) {
      float entry = (float)((__builtin_popcountll(j & (i % D)) % 2 ? -1 : 1) / sqrt(D));
      in.values[i * D + j] = i < D ? entry : -entry;
    }
  }
  for (double rho = 1; rho <= 3; rho++) {
    double floor_error = 2 * sinh(rho) / (2 * cosh(rho) + 2 * D - 2);
    for (size_t points = D; points < 2 * D; points++)
      assert_true(error_of_engine(context, &in, "halving", points, rho, points) >= floor_error * (1 - 1e-4));
    assert_true(error_of_engine(context, &in, "exact", 2 * D, rho, 1) < 1e-6);
  }
  release(&in);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_walk),       cmocka_unit_test(test_halves),   cmocka_unit_test(test_slopes),
      cmocka_unit_test(test_two_points), cmocka_unit_test(test_hadamard),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
