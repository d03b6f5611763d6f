/* test_sampler_attention.c - draws of keys against the laws of attention written out.
 *
 * Power: T draws over m cells notice a relative error of the law of root mean square e at p = 1e-3 with power 0.98 when
 * T >= 5.1 sqrt(2 m) / e^2 (see test_sampler_tensor.c). Here m <= 400 and T = 40 000: e = 0.06. Accepting every
 * proposal (the negative control) errs by e = 0.1 already for logits of norm 1. */
#include "chi_square.h"
#include "pith/sampler.h"
#include "sampler/poly.h"
#include "sampler_attention.h"

enum { N = 400, D = 4, DRAWS = 40000 };
static const double ENOUGH = 1e-3;

typedef struct fixture {
  float *keys, *query;
  pith_array k, q;
} fixture;

/* Keys on a sphere, one query: |scale <q, k>| <= reach, with scale 1/2. */
static fixture make(uint64_t seed, double reach) {
  fixture f = {.keys = test_sphere(seed, N, D, 1), .query = test_sphere(seed + 50, 1, D, 2 * reach)};
  f.k = pith_array_matrix(f.keys, PITH_F32, N, D);
  f.q = pith_array_matrix(f.query, PITH_F32, 1, D);
  return f;
}

static void unmake(fixture *f) {
  free(f->keys);
  free(f->query);
}

static pith_key_sampler *create(pith_context *context, const fixture *f, pith_key_law law, size_t power,
                                pith_key_method method, size_t features) {
  pith_key_options options;
  pith_key_options_init(&options);
  options.law = law;
  options.power = power;
  options.method = method;
  if (features) options.features = features;
  pith_key_sampler *sampler = NULL;
  assert_ok(context, pith_key_sampler_create(context, &f->k, &options, &sampler));
  return sampler;
}

/* p-value of draws for the query of `f` under `law`. */
static double draw_p(pith_context *context, pith_key_sampler *sampler, const fixture *f, const double *law,
                     pith_key_report *report) {
  pith_draw *draws = malloc(DRAWS * sizeof *draws);
  size_t drawn = 0, counts[N] = {0};
  assert_non_null(draws);
  assert_ok(context, pith_key_sampler_draw(context, sampler, &f->q, DRAWS, draws, &drawn, NULL, report));
  assert_int_equal(drawn, DRAWS);
  for (size_t t = 0; t < DRAWS; t++) {
    assert_true(draws[t].row < N && draws[t].weight == 1);
    counts[draws[t].row]++;
  }
  free(draws);
  return chi_square_p(counts, law, N);
}

static void test_power_laws(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make(1, 1);
  double law[N], other[N];
  for (size_t power = 1; power <= 4; power++) {
    reference_key_law(f.keys, f.query, N, D, power, 0, law);
    reference_key_law(f.keys, f.query, N, D, power + 1, 0, other);
    for (int method = PITH_KEYS_SCAN; method <= (power < 3 ? PITH_KEYS_TREE : PITH_KEYS_SCAN); method++) {
      pith_key_report report;
      pith_key_sampler *sampler = create(context, &f, PITH_LAW_POWER, power, (pith_key_method)method, 0);
      assert_true(draw_p(context, sampler, &f, law, &report) > ENOUGH);
      assert_true(draw_p(context, sampler, &f, other, &report) < 1e-9); /* negative control: another power */
      assert_int_equal(report.scanned, method == PITH_KEYS_SCAN);
      assert_true(report.distance == 0);
      pith_key_sampler_free(sampler);
    }
  }
  unmake(&f);
  test_context_free(context);
}

static void test_softmax_law(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  static const double reaches[] = {0.1, 1, 4};
  double law[N], wrong[N];
  for (size_t r = 0; r < 3; r++)
    for (size_t degree = 1; degree <= 2; degree++) {
      fixture f = make(3, reaches[r]);
      reference_key_law(f.keys, f.query, N, D, 0, 0.5, law);
      reference_proposal_law(f.keys, f.query, N, D, 0.5, wrong);
      pith_key_report report;
      pith_key_sampler *sampler = create(context, &f, PITH_LAW_SOFTMAX, degree, PITH_KEYS_TREE, 0);
      double p = draw_p(context, sampler, &f, law, &report), acceptance = (double)DRAWS / (double)report.proposals;
      printf("softmax by proposals of degree %zu, |z| <= %.1f: p %.3f, acceptance %.3f\n", degree, reaches[r], p,
             acceptance);
      assert_int_equal(report.scanned, 0);
      assert_true(p > ENOUGH);
      if (reaches[r] <= 1) assert_true(acceptance > 0.65);
      if (reaches[r] == 4) assert_true(draw_p(context, sampler, &f, wrong, &report) < 1e-9);
      pith_key_sampler_free(sampler);
      unmake(&f);
    }
  /* Far logits: patience ends, a scan takes over, and the law stays. Then scans alone. */
  fixture f = make(3, 30);
  reference_key_law(f.keys, f.query, N, D, 0, 0.5, law);
  for (int method = PITH_KEYS_SCAN; method <= PITH_KEYS_TREE; method++) {
    pith_key_report report;
    pith_key_sampler *sampler = create(context, &f, PITH_LAW_SOFTMAX, 1, (pith_key_method)method, 0);
    assert_true(draw_p(context, sampler, &f, law, &report) > ENOUGH);
    assert_int_equal(report.scanned, 1);
    pith_key_sampler_free(sampler);
  }
  unmake(&f);
  test_context_free(context);
}

/* |y|, or log sum exp(z), of the query of `f`; power 0: softmax. */
static double direct_norm(const fixture *f, size_t power, double scale) {
  double sum = 0;
  for (size_t i = 0; i < N; i++) {
    double product = 0;
    for (size_t j = 0; j < D; j++) product += (double)f->keys[i * D + j] * f->query[j];
    sum += power ? pow(product, 2 * (double)power) : exp(scale * product);
  }
  return power ? sqrt(sum) : log(sum);
}

/* Norms: exact from scans and exact trees; else as near as the number of draws allows. */
static void test_norms(void **state) {
  (void)state;
  enum { FEW = 10000 };
  pith_context *context = test_context(2);
  static const struct {
    pith_key_law law;
    size_t power, features;
    pith_key_method method;
    double reach, within;
  } cases[] = {{PITH_LAW_POWER, 1, 0, PITH_KEYS_SCAN, 1, 1e-12},   {PITH_LAW_POWER, 3, 0, PITH_KEYS_SCAN, 1, 1e-12},
               {PITH_LAW_POWER, 1, 0, PITH_KEYS_TREE, 1, 1e-12},   {PITH_LAW_POWER, 2, 0, PITH_KEYS_TREE, 1, 1e-12},
               {PITH_LAW_POWER, 3, 512, PITH_KEYS_TREE, 1, 0.2},   {PITH_LAW_SOFTMAX, 1, 0, PITH_KEYS_SCAN, 4, 1e-12},
               {PITH_LAW_SOFTMAX, 1, 0, PITH_KEYS_TREE, 1, 0.01},  {PITH_LAW_SOFTMAX, 2, 0, PITH_KEYS_TREE, 4, 0.03},
               {PITH_LAW_SOFTMAX, 1, 0, PITH_KEYS_TREE, 30, 1e-12}};
  pith_draw *draws = malloc(FEW * sizeof *draws);
  assert_non_null(draws);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    fixture f = make(3, cases[c].reach);
    const size_t power = cases[c].law == PITH_LAW_POWER ? cases[c].power : 0;
    pith_key_sampler *sampler = create(context, &f, cases[c].law, cases[c].power, cases[c].method, cases[c].features);
    pith_key_report report;
    double norm = NAN, wanted = direct_norm(&f, power, 0.5), other = direct_norm(&f, power + 1, 0.5);
    size_t drawn = 0;
    assert_ok(context, pith_key_sampler_draw(context, sampler, &f.q, FEW, draws, &drawn, &norm, &report));
    double apart = power ? norm / wanted - 1 : norm - wanted;
    if (!(fabs(apart) <= cases[c].within)) fail_msg("case %zu: norm %g, wanted %g", c, norm, wanted);
    assert_true(fabs(norm / other - 1) > 0.2); /* negative control: that of another law */
    pith_key_sampler_free(sampler);
    unmake(&f);
  }
  free(draws);
  test_context_free(context);
}

/* TensorSketch is what its definition says, and errs as its theorem says. */
static void test_tensor_sketch(void **state) {
  (void)state;
  enum { LENGTH = 64, DEGREE = 3, SEEDS = 300 };
  pith_context *context = test_context(1);
  float *rows = test_gaussian(8, 2 * D, 1);
  double x[2][D], out[2][LENGTH], sums[2] = {0}, exact = 0, norms[2] = {0};
  for (size_t i = 0; i < 2 * D; i++) x[i / D][i % D] = rows[i];
  for (size_t j = 0; j < D; j++) {
    exact += x[0][j] * x[1][j];
    for (size_t i = 0; i < 2; i++) norms[i] += x[i][j] * x[i][j];
  }
  exact = exact * exact * exact;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    pith_poly *poly = NULL;
    assert_ok(context, pith_poly_create(context, D, DEGREE, LENGTH, seed, &poly));
    assert_int_equal(pith_poly_length(poly), LENGTH);
    for (size_t i = 0; i < 2; i++) pith_poly_map(poly, x[i], out[i]);
    double product = 0;
    for (size_t i = 0; i < LENGTH; i++) product += out[0][i] * out[1][i];
    sums[0] += product / SEEDS;
    sums[1] += (product - exact) * (product - exact) / SEEDS;
    if (seed == 0) { /* its cells, read off from unit rows: degree 3 of a unit row is one cell with one sign */
      unsigned cell[DEGREE * D];
      int sign[DEGREE * D];
      double want[LENGTH];
      pith_stream stream = pith_stream_make(seed, PITH_STREAM_TENSOR_SKETCH, 0);
      for (size_t i = 0; i < DEGREE * D; i++) {
        cell[i] = (unsigned)pith_random_below(&stream, 2 * i, LENGTH);
        sign[i] = pith_random_u64(&stream, 2 * i + 1) >> 63 ? -1 : 1;
      }
      reference_tensor_sketch(x[0], D, DEGREE, cell, sign, LENGTH, want);
      for (size_t i = 0; i < LENGTH; i++) assert_float_equal(out[0][i], want[i], 1e-5);
    }
    pith_poly_free(poly);
  }
  double bound = 27.0 / LENGTH * pow(norms[0] * norms[1], DEGREE);
  printf("TensorSketch: mean %.3f of %.3f, mean square error %.3g, bound %.3g\n", sums[0], exact, sums[1], bound);
  assert_true(sums[1] <= bound && sums[1] > bound / 1e4);
  assert_true(fabs(sums[0] - exact) < 4 * sqrt(sums[1] / SEEDS));
  free(rows);
  test_context_free(context);
}

/* Degree 3 from sketched features: near the law, the nearer the more features, and the report says how near. */
static void test_sketched_power(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make(1, 1);
  static const size_t lengths[] = {32, 256};
  double law[N], distance[2];
  reference_key_law(f.keys, f.query, N, D, 3, 0, law);
  for (size_t l = 0; l < 2; l++) {
    pith_key_sampler *sampler = create(context, &f, PITH_LAW_POWER, 3, PITH_KEYS_TREE, lengths[l]);
    enum { FEW = 4000 };
    pith_draw draws[FEW];
    pith_key_report report;
    size_t drawn = 0, counts[N] = {0};
    assert_ok(context, pith_key_sampler_draw(context, sampler, &f.q, FEW, draws, &drawn, NULL, &report));
    assert_int_equal(drawn, FEW);
    for (size_t t = 0; t < FEW; t++) {
      double y = 0;
      for (size_t j = 0; j < D; j++) y += (double)f.query[j] * f.keys[draws[t].row * D + j];
      assert_true(fabs(draws[t].value - y * y * y) <= 1e-12 * fabs(y * y * y));
      counts[draws[t].row]++;
    }
    distance[l] = report.distance;
    double seen = total_variation(counts, law, N);
    printf("degree 3 from %zu features: distance %.3f reported, %.3f seen\n", lengths[l], report.distance, seen);
    assert_true(fabs(seen - report.distance) < 0.13); /* the histogram of 4000 draws alone errs by about 0.1 */
    pith_key_sampler_free(sampler);
  }
  assert_true(distance[1] < distance[0] && distance[1] > 0.001);
  unmake(&f);
  test_context_free(context);
}

static void test_set(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (int softmax = 0; softmax < 2; softmax++)
    for (int method = PITH_KEYS_SCAN; method <= PITH_KEYS_TREE; method++) {
      fixture f = make(1, 1);
      pith_key_sampler *sampler =
          create(context, &f, softmax ? PITH_LAW_SOFTMAX : PITH_LAW_POWER, 1, (pith_key_method)method, 0);
      double law[N];
      for (size_t i = 0; i < N / 2; i++) assert_ok(context, pith_key_sampler_set(context, sampler, i, NULL));
      float far[D] = {2, 0, 0, -2};
      memcpy(f.keys + 7 * D, far, sizeof far); /* deleted, and then inserted as another */
      assert_ok(context, pith_key_sampler_set(context, sampler, 7, far));
      reference_key_law(f.keys, f.query, N, D, softmax ? 0 : 1, 0.5, law);
      for (size_t i = 0; i < N / 2; i++) law[i] *= i == 7;
      pith_key_report report;
      assert_true(draw_p(context, sampler, &f, law, &report) > ENOUGH);
      assert_int_equal(pith_key_sampler_set(context, sampler, N, far), PITH_E_ARGUMENT);
      far[1] = NAN;
      assert_int_equal(pith_key_sampler_set(context, sampler, 7, far), PITH_E_VALUE);
      for (size_t i = 0; i < N; i++) assert_ok(context, pith_key_sampler_set(context, sampler, i, NULL));
      pith_draw draw;
      size_t drawn = 9;
      assert_ok(context, pith_key_sampler_draw(context, sampler, &f.q, 1, &draw, &drawn, NULL, &report));
      assert_int_equal(drawn, 0);
      pith_key_sampler_free(sampler);
      unmake(&f);
    }
  test_context_free(context);
}

/* Reservoirs: the law, whatever the order and the shards. */
static void test_reservoirs(void **state) {
  (void)state;
  enum { COUNT = 20000, CUT = 150 };
  fixture f = make(5, 3);
  pith_draw *draws[2];
  double law[N], wrong[N];
  reference_key_law(f.keys, f.query, N, D, 0, 0.5, law);
  reference_key_law(f.keys, f.query, N, D, 0, 0.4, wrong); /* negative control: logits a fifth lower */
  for (int run = 0; run < 2; run++) {
    pith_context *context = test_context(run + 1);
    pith_reservoirs *whole = NULL, *part = NULL;
    assert_ok(context, pith_reservoirs_create(context, &f.q, COUNT, 0, 9, &whole));
    draws[run] = malloc(COUNT * sizeof *draws[run]);
    assert_false(pith_reservoirs_draws(whole, draws[run]));
    if (run == 0) {
      assert_ok(context, pith_reservoirs_push(context, whole, &f.k, 0));
    } else { /* the end first, the beginning by another */
      pith_array head = pith_array_rows(&f.k, 0, CUT), tail = pith_array_rows(&f.k, CUT, N - CUT);
      assert_ok(context, pith_reservoirs_create(context, &f.q, COUNT, 0, 9, &part));
      assert_ok(context, pith_reservoirs_push(context, whole, &tail, CUT));
      assert_ok(context, pith_reservoirs_push(context, part, &head, 0));
      assert_ok(context, pith_reservoirs_merge(context, whole, part));
      pith_reservoirs_free(part);
      assert_ok(context, pith_reservoirs_create(context, &f.q, COUNT, 0, 8, &part));
      assert_int_equal(pith_reservoirs_merge(context, whole, part), PITH_E_ARGUMENT);
      assert_non_null(strstr(pith_context_message(context), "seed"));
      pith_reservoirs_free(part);
    }
    assert_true(pith_reservoirs_draws(whole, draws[run]));
    double norm = 0; /* within 4 deviations */
    pith_reservoirs_norms(whole, &norm);
    assert_true(fabs(norm - direct_norm(&f, 0, 0.5)) < 4 * 1.2826 / sqrt(COUNT));
    pith_reservoirs_free(whole);
    test_context_free(context);
  }
  size_t counts[N] = {0};
  for (size_t t = 0; t < COUNT; t++) {
    assert_int_equal(draws[0][t].row, draws[1][t].row);
    counts[draws[0][t].row]++;
  }
  assert_true(chi_square_p(counts, law, N) > ENOUGH);
  assert_true(chi_square_p(counts, wrong, N) < 1e-6);
  free(draws[0]);
  free(draws[1]);
  unmake(&f);
}

/* Intervals hold the true outputs as often as promised, and shrink. */
static void test_attend(void **state) {
  (void)state;
  enum { DV = 3, RUNS = 200, FEW = 100, MANY = 6400 };
  pith_context *context = test_context(1);
  fixture f = make(6, 1);
  float *values = test_gaussian(61, (size_t)N * DV, 1);
  pith_array v = pith_array_matrix(values, PITH_F32, N, DV);
  double law[N], exact[DV] = {0}, mean[DV], width[DV], widths[2] = {0};
  reference_key_law(f.keys, f.query, N, D, 0, 0.5, law);
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < DV; j++) exact[j] += law[i] * values[i * DV + j];
  pith_key_sampler *sampler = create(context, &f, PITH_LAW_SOFTMAX, 1, PITH_KEYS_AUTO, 0);
  pith_draw *draws = malloc(MANY * sizeof *draws);
  size_t held = 0, too_many = 0;
  for (size_t run = 0; run < 2 * RUNS; run++) {
    size_t count = run % 2 ? MANY : FEW, drawn = 0, inside = 0, near = 0;
    pith_key_report report;
    assert_ok(context, pith_key_sampler_draw(context, sampler, &f.q, count, draws, &drawn, NULL, &report));
    assert_ok(context, pith_draws_attend(context, &v, draws, 1, count, 0.9, mean, width));
    for (size_t j = 0; j < DV; j++) {
      inside += fabs(mean[j] - exact[j]) <= width[j];
      near += fabs(mean[j] - exact[j]) <= width[j] / 10;
      widths[run % 2] += width[j] / (DV * RUNS);
    }
    held += inside == DV;
    too_many += near == DV;
  }
  printf("half widths: %.3f from %d draws, %.3f from %d; held in %zu of %d runs\n", widths[0], FEW, widths[1], MANY,
         held, 2 * RUNS);
  assert_true(held >= 0.9 * 2 * RUNS);
  assert_true(too_many < RUNS); /* a tenth of the width would not do */
  assert_true(widths[1] < widths[0] / 7);
  assert_int_equal(pith_draws_attend(context, &v, draws, 1, 1, 0.9, mean, width), PITH_E_ARGUMENT);
  assert_int_equal(pith_draws_attend(context, &v, draws, 1, 5, 1, mean, width), PITH_E_ARGUMENT);
  draws[3].row = N;
  assert_int_equal(pith_draws_attend(context, &v, draws, 1, 5, 0.9, mean, width), PITH_E_ARGUMENT);
  free(draws);
  free(values);
  pith_key_sampler_free(sampler);
  unmake(&f);
  test_context_free(context);
}

static void test_bad_input(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  fixture f = make(1, 1);
  pith_key_options options;
  pith_key_options_init(&options);
  pith_key_sampler *sampler = NULL;
  options.power = 0;
  assert_int_equal(pith_key_sampler_create(context, &f.k, &options, &sampler), PITH_E_ARGUMENT);
  options.power = 9;
  assert_int_equal(pith_key_sampler_create(context, &f.k, &options, &sampler), PITH_E_ARGUMENT);
  options.power = 2;
  options.method = PITH_KEYS_TREE;
  options.memory = 4096;
  assert_int_equal(pith_key_sampler_create(context, &f.k, &options, &sampler), PITH_E_BUDGET);
  options.memory = 1 << 30;
  f.keys[17] = NAN;
  assert_int_equal(pith_key_sampler_create(context, &f.k, &options, &sampler), PITH_E_VALUE);
  f.keys[17] = 1e30f;
  assert_int_equal(pith_key_sampler_create(context, &f.k, &options, &sampler), PITH_E_VALUE);
  f.keys[17] = 1;
  assert_ok(context, pith_key_sampler_create(context, &f.k, &options, &sampler));
  pith_draw draw;
  pith_key_report report;
  size_t drawn = 0;
  pith_array wide = pith_array_matrix(f.keys, PITH_F32, 3, D + 1);
  assert_int_equal(pith_key_sampler_draw(context, sampler, &wide, 1, &draw, &drawn, NULL, &report), PITH_E_SHAPE);
  f.query[0] = INFINITY;
  assert_int_equal(pith_key_sampler_draw(context, sampler, &f.q, 1, &draw, &drawn, NULL, &report), PITH_E_VALUE);
  pith_key_sampler_free(sampler);
  pith_reservoirs *reservoirs = NULL;
  assert_int_equal(pith_reservoirs_create(context, &f.q, 4, 0, 1, &reservoirs), PITH_E_VALUE);
  f.query[0] = 1;
  assert_int_equal(pith_reservoirs_create(context, &f.q, 0, 0, 1, &reservoirs), PITH_E_ARGUMENT);
  assert_ok(context, pith_reservoirs_create(context, &f.q, 4, 0, 1, &reservoirs));
  assert_int_equal(pith_reservoirs_push(context, reservoirs, &wide, 0), PITH_E_SHAPE);
  assert_int_equal(pith_reservoirs_push(context, reservoirs, &f.k, UINT64_MAX - 10), PITH_E_ARGUMENT);
  pith_reservoirs_free(reservoirs);
  unmake(&f);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_power_laws),     cmocka_unit_test(test_softmax_law), cmocka_unit_test(test_tensor_sketch),
      cmocka_unit_test(test_sketched_power), cmocka_unit_test(test_set),         cmocka_unit_test(test_reservoirs),
      cmocka_unit_test(test_norms),          cmocka_unit_test(test_attend),      cmocka_unit_test(test_bad_input),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
