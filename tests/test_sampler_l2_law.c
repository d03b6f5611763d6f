/* test_sampler_l2_law.c - draws of the l2 sampler follow y_i^2 / |y|^2.
 *
 * Rows are put into 32 bins: the 16 heaviest, and the rest in 16 groups of about equal mass. Pearson's statistic then
 * has up to 31 degrees of freedom and is refused above 61 (p < 10^-3). A bias of a row of share p by b adds T b^2 / (p
 * (1 - p)) to its mean: 60 of it are refused in 99 of 100 runs, which is b = 0.034 for p = 1/3 at the T = 11 880 draws
 * of one heavy row here, 0.067 at 2970 of the other laws; with PITH_LONG_TESTS set (six minutes) 0.012 at n = 1000,
 * 0.021 at 10^4 and 0.037 at 10^5, all laws. The controls at the end are faults of that size; they must be refused. All
 * seeds are fixed. */
#include "chi_square.h"
#include "kernels/kernels.h"
#include "sampler/l2.h"
#include "sampler_l2.h"

enum { BINS = 32, HEAVY = 16, CHUNK = 99 }; /* CHUNK: draws of one sampler */
static const double LEAST_P = 1e-3;

static size_t longer(size_t usual, size_t many) { return getenv("PITH_LONG_TESTS") ? many : usual; }

/* ---- Laws ---- */

typedef struct law {
  const char *name;
  double (*value)(size_t i, size_t n);
  int deletes; /* rows are inserted with something else, and every odd one is deleted */
} law;

static double uniform(size_t i, size_t n) { return (void)i, (void)n, 1; }
static double harmonic(size_t i, size_t n) { return (void)n, 1 / sqrt(1.0 + (double)i); }
static double one_heavy(size_t i, size_t n) { return i == n / 3 ? sqrt((double)(n - 1) / 2) : 1; }       /* share 1/3 */
static double two_heavy(size_t i, size_t n) { return i == 1 || i == n - 2 ? sqrt((double)(n - 2)) : 1; } /* 1/3 each */
static double of_both_signs(size_t i, size_t n) { return i % 2 ? harmonic(i, n) : -2 * harmonic(i, n); }
static double half(size_t i, size_t n) { return i % 2 ? 0 : harmonic(i, n); }
static double heavy_against(size_t i, size_t n) { return i == n / 3 ? -one_heavy(i, n) : 1; }

static const law laws[] = {{"uniform", uniform, 0},     {"1/i", harmonic, 0},         {"one heavy", one_heavy, 0},
                           {"two heavy", two_heavy, 0}, {"signed", of_both_signs, 0}, {"half deleted", half, 1}};
enum { LAWS = sizeof laws / sizeof *laws };

typedef struct instance {
  size_t n, updates, *bin;
  double mass[BINS], *y;
  pith_update *stream;
} instance;

typedef struct heap_entry {
  double square;
  size_t row;
} heap_entry;

static int heaviest_first(const void *a, const void *b) {
  const heap_entry *x = a, *y = b;
  return x->square != y->square ? (x->square < y->square) - (x->square > y->square)
                                : (x->row > y->row) - (x->row < y->row);
}

static instance make(const law *which, size_t n) {
  instance in = {.n = n, .bin = malloc(n * sizeof *in.bin), .y = malloc(n * sizeof *in.y)};
  heap_entry *order = malloc(n * sizeof *order);
  in.stream = malloc(2 * n * sizeof *in.stream);
  assert_true(in.bin && in.y && order && in.stream);
  double rest = 0, running = 0;
  for (size_t i = 0; i < n; i++) {
    in.y[i] = which->value(i, n);
    order[i] = (heap_entry){in.y[i] * in.y[i], i};
    double first = which->deletes ? 3 : in.y[i];
    in.stream[in.updates++] = (pith_update){PITH_UPDATE_A, 0, i, first};
  }
  for (size_t i = 0; which->deletes && i < n; i++)
    in.stream[in.updates++] = (pith_update){PITH_UPDATE_A, 0, i, in.y[i] - 3};
  qsort(order, n, sizeof *order, heaviest_first);
  for (size_t i = HEAVY; i < n; i++) rest += order[i].square;
  for (size_t i = 0; i < n; i++) {
    size_t group = rest > 0 ? (size_t)((BINS - HEAVY) * running / rest) : 0;
    in.bin[order[i].row] = i < HEAVY ? i : HEAVY + pith_min_size(group, BINS - HEAVY - 1);
    in.mass[in.bin[order[i].row]] += order[i].square;
    if (i >= HEAVY) running += order[i].square;
  }
  free(order);
  return in;
}

static void release(instance *in) {
  free(in->bin);
  free(in->y);
  free(in->stream);
}

/* ---- Draws ---- */

static pith_l2_options usual(void) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  options.method = PITH_METHOD_SKETCH;
  options.draws = CHUNK;
  return options;
}

/* Fills counts (BINS) with about `count` draws, by samplers of seeds from `seed` on. Yields how many there were. */
static size_t histogram(pith_context *context, const instance *in, pith_l2_options options, uint64_t seed, size_t count,
                        size_t *counts) {
  pith_draw draws[CHUNK];
  size_t total = 0;
  memset(counts, 0, BINS * sizeof *counts);
  options.rows = in->n;
  for (size_t begin = 0; begin < count; begin += CHUNK) {
    options.seed = seed * 1000003 + begin;
    pith_l2 *sampler = NULL;
    size_t drawn = 0;
    assert_ok(context, pith_l2_create(context, &options, &sampler));
    assert_ok(context, pith_l2_update(context, sampler, in->stream, in->updates, NULL));
    assert_ok(context, pith_l2_draw(context, sampler, CHUNK, draws, &drawn));
    for (size_t i = 0; i < drawn; i++) counts[in->bin[draws[i].row]]++;
    total += drawn;
    pith_l2_free(sampler);
  }
  return total;
}

static double p_value(pith_context *context, const instance *in, pith_l2_options options, uint64_t seed, size_t count) {
  size_t counts[BINS];
  size_t total = histogram(context, in, options, seed, count, counts);
  double p = chi_square_p(counts, in->mass, BINS);
  if (getenv("PITH_VERBOSE"))
    printf("  n %zu: %zu draws, p %.4f, total variation %.4f, heaviest %.4f\n", in->n, total, p,
           total_variation(counts, in->mass, BINS), (double)counts[0] / (double)total);
  return p;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Kolmogorov and Smirnov's distance of `count` p-values from uniform ones. */
static double distance_from_uniform(double *p, size_t count) {
  double distance = 0;
  qsort(p, count, sizeof *p, ascending);
  for (size_t s = 0; s < count; s++)
    distance = fmax(distance, fmax(p[s] - (double)s / (double)count, (double)(s + 1) / (double)count - p[s]));
  return distance;
}

enum { SEEDS = 20 };

/* One law at one n: `draws` by each of `seeds` seeds. All of them together follow the law, and the p-values of the
 * seeds are uniform: with 20, the distance is below 0.42 but once in 1000 times. */
static void check_law(pith_context *context, const law *which, size_t n, pith_decode decode, size_t seeds,
                      size_t draws) {
  instance in = make(which, n);
  pith_l2_options options = usual();
  options.decode = decode;
  double p[SEEDS];
  size_t all[BINS] = {0}, total = 0;
  for (size_t s = 0; s < seeds; s++) {
    size_t counts[BINS];
    total += histogram(context, &in, options, 100 + s, draws, counts);
    p[s] = chi_square_p(counts, in.mass, BINS);
    for (size_t i = 0; i < BINS; i++) all[i] += counts[i];
  }
  double together = chi_square_p(all, in.mass, BINS), distance = seeds < SEEDS ? 0 : distance_from_uniform(p, seeds);
  if (getenv("PITH_VERBOSE")) {
    printf("  %s, n %zu: %zu draws, p %.4f, total variation %.4f, heaviest %.4f; %zu seeds, distance %.3f\n",
           which->name, n, total, together, total_variation(all, in.mass, BINS), (double)all[0] / (double)total, seeds,
           distance);
    (void)fflush(stdout);
  }
  if (together < LEAST_P) fail_msg("%s, n %zu: p = %g", which->name, n, together);
  if (distance > 0.42) fail_msg("%s, n %zu: p-values are %g from uniform", which->name, n, distance);
  release(&in);
}

static void test_laws_of_thousands(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (size_t l = 0; l < LAWS; l++)
    check_law(context, &laws[l], 1000, PITH_DECODE_SCAN, longer(l == 2 ? SEEDS : 5, SEEDS), longer(594, 4950));
  test_context_free(context);
}

static void test_laws_of_tens_of_thousands(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (size_t l = 0; l < longer(2, LAWS); l++)
    check_law(context, &laws[l], 10000, PITH_DECODE_BITS, longer(1, SEEDS), longer(198, 1485));
  test_context_free(context);
}

static void test_laws_of_hundreds_of_thousands(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (size_t l = longer(2, 0); l < longer(3, LAWS); l++)
    check_law(context, &laws[l], 100000, PITH_DECODE_DYADIC, longer(1, SEEDS), longer(99, 495));
  test_context_free(context);
}

/* The draws of one sketch are independent: first and second heavy or not, a 2 x 2 table. */
static void test_independence(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  instance in = make(&laws[2], 1000);
  size_t counts[8] = {0};
  double mass[8];
  for (size_t i = 0; i < 8; i++)
    mass[i] = pow(1.0 / 3, __builtin_popcountll(i)) * pow(2.0 / 3, 3 - __builtin_popcountll(i));
  pith_l2_options options = usual();
  options.rows = in.n;
  for (size_t begin = 0; begin < longer(3000, 100000); begin += CHUNK) {
    pith_l2 *sampler = NULL;
    pith_draw draws[CHUNK];
    size_t drawn = 0;
    options.seed = 777777 + begin;
    assert_ok(context, pith_l2_create(context, &options, &sampler));
    assert_ok(context, pith_l2_update(context, sampler, in.stream, in.updates, NULL));
    assert_ok(context, pith_l2_draw(context, sampler, CHUNK, draws, &drawn));
    assert_int_equal(drawn, CHUNK);
    for (size_t i = 0; i < CHUNK; i += 3) {
      size_t heavy = in.n / 3;
      counts[(draws[i].row == heavy) + 2 * (draws[i + 1].row == heavy) + 4 * (draws[i + 2].row == heavy)]++;
    }
    pith_l2_free(sampler);
  }
  assert_true(chi_square_p(counts, mass, 8) > LEAST_P);
  release(&in);
  test_context_free(context);
}

/* Exact samplers, through the same calls. */
static void test_exact(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (size_t l = 0; l < LAWS; l++)
    for (int free_x = 0; free_x < 2; free_x++) {
      instance in = make(&laws[l], 1000);
      pith_l2_options options = usual();
      const double x = 1;
      options.method = PITH_METHOD_EXACT;
      options.x = &x;
      options.free_x = free_x;
      assert_true(p_value(context, &in, options, 5 + l, longer(6000, 100000)) > LEAST_P);
      release(&in);
    }
  test_context_free(context);
}

/* ---- Without replacement ---- */

/* Horvitz-Thompson estimates of the number of rows and of the sum of y^2 are right in the mean, within 4 deviations. */
static void test_distinct(void **state) {
  (void)state;
  enum { ROUNDS = 200, TAKEN = 12, N = 200 };
  pith_context *context = test_context(1);
  instance in = make(&laws[1], N);
  for (int exact = 0; exact < 2; exact++) {
    double mean[2] = {0}, square[2] = {0}, truth[2] = {N, 0};
    for (size_t i = 0; i < N; i++) truth[1] += in.y[i] * in.y[i];
    for (size_t round = 0; round < ROUNDS; round++) {
      pith_l2_options options = usual();
      options.rows = N;
      options.draws = 0;
      options.distinct = TAKEN;
      options.buckets = 4096; /* little noise: the estimator is asked about, not the estimates of values */
      options.seed = 4000 + round;
      if (exact) options.method = PITH_METHOD_EXACT;
      pith_l2 *sampler = NULL;
      pith_draw draws[TAKEN];
      size_t drawn = 0;
      assert_ok(context, pith_l2_create(context, &options, &sampler));
      assert_ok(context, pith_l2_update(context, sampler, in.stream, in.updates, NULL));
      assert_ok(context, pith_l2_draw_distinct(context, sampler, TAKEN, draws, &drawn));
      assert_int_equal(drawn, TAKEN);
      double sum[2] = {0};
      for (size_t i = 0; i < TAKEN; i++) {
        for (size_t j = 0; j < i; j++) assert_true(draws[i].row != draws[j].row);
        sum[0] += draws[i].weight;
        sum[1] += draws[i].weight * in.y[draws[i].row] * in.y[draws[i].row];
      }
      for (int f = 0; f < 2; f++) {
        mean[f] += sum[f] / ROUNDS;
        square[f] += sum[f] * sum[f] / ROUNDS;
      }
      pith_l2_free(sampler);
    }
    for (int f = 0; f < 2; f++) {
      double error = sqrt((square[f] - mean[f] * mean[f]) / ROUNDS);
      if (getenv("PITH_VERBOSE")) printf("  estimate %.3f +- %.3f, truth %.3f\n", mean[f], error, truth[f]);
      assert_true(fabs(mean[f] - truth[f]) < 4 * error);
      assert_true(error < 0.1 * truth[f]);
    }
  }
  release(&in);
  test_context_free(context);
}

/* ---- Strict mode: it fails now and then, as often as measured for these settings (theory: 0.3 of the sketches at 512
 * buckets for a row of share 1/3), and all but never takes a point that is not the largest. ---- */

static void test_strict(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  instance in = make(&laws[2], 1000);
  pith_l2_options options = usual();
  options.strict = 1;
  options.copies = 2;
  options.buckets = 512;
  size_t counts[BINS], tried = 1980, drawn = histogram(context, &in, options, 9, tried, counts);
  double accepted = (double)drawn / (double)tried; /* deviation 0.0104 */
  if (getenv("PITH_VERBOSE")) printf("  accepted %.3f\n", accepted);
  assert_true(fabs(accepted - 0.69) < 0.045);
  assert_true(chi_square_p(counts, in.mass, BINS) > LEAST_P);
  release(&in);
  test_context_free(context);
}

/* ---- What must be refused ---- */

static void test_controls(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  instance in = make(&laws[2], 1000);
  pith_l2_options few = usual();
  few.buckets = 16; /* collisions make points that are none */
  assert_true(p_value(context, &in, few, 21, 3000) < LEAST_P);

  pith_l2_options one_copy = usual();
  one_copy.copies = 1; /* the gap between the two largest then tells of the row: heavy rows are accepted too often */
  one_copy.strict = 1;
  one_copy.buckets = 128;
  size_t counts[BINS], total = histogram(context, &in, one_copy, 22, 11000, counts);
  const size_t heavy_or_not[2] = {counts[0], total - counts[0]};
  const double law_of[2] = {1, 2};
  double p = chi_square_p(heavy_or_not, law_of, 2);
  if (getenv("PITH_VERBOSE"))
    printf("  one copy: heavy %.4f of %zu, p %.3g\n", (double)counts[0] / (double)total, total, p);
  assert_true(p < LEAST_P);
  release(&in);
  test_context_free(context);
}

/* Signs that are all plus: the many small rows no longer cancel, and the heavy row of the other sign loses. */
static void test_control_signs(void **state) {
  (void)state;
  enum { N = 1000, DRAWS = 1200 };
  const law against = {"heavy against", heavy_against, 0};
  instance in = make(&against, N);
  double *table = malloc(5 * 1024 * sizeof *table), p[2];
  assert_non_null(table);
  for (int no_signs = 0; no_signs < 2; no_signs++) {
    size_t counts[BINS] = {0};
    for (size_t s = 0; s < DRAWS / 3; s++) {
      pith_stream random = pith_stream_make(31 + s, PITH_STREAM_TEST, 0);
      uint64_t multiplier[5], point[3];
      for (size_t r = 0; r < 5; r++) multiplier[r] = pith_random_u64(&random, r) | 1;
      reference_l2 twin = {N,          3,       5, 1024, pith_random_u64(&random, 5), pith_random_u64(&random, 6),
                           multiplier, no_signs};
      reference_l2_table(&twin, in.y, table);
      reference_l2_largest(&twin, table, 3, point);
      for (size_t i = 0; i < 3; i++) counts[in.bin[point[i] / 3]]++;
    }
    p[no_signs] = chi_square_p(counts, in.mass, BINS);
    if (getenv("PITH_VERBOSE")) printf("  signs %s: p %.3g\n", no_signs ? "broken" : "right", p[no_signs]);
  }
  assert_true(p[0] > LEAST_P);
  assert_true(p[1] < LEAST_P);
  free(table);
  release(&in);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_laws_of_thousands),
                                     cmocka_unit_test(test_laws_of_tens_of_thousands),
                                     cmocka_unit_test(test_laws_of_hundreds_of_thousands),
                                     cmocka_unit_test(test_independence),
                                     cmocka_unit_test(test_exact),
                                     cmocka_unit_test(test_distinct),
                                     cmocka_unit_test(test_strict),
                                     cmocka_unit_test(test_controls),
                                     cmocka_unit_test(test_control_signs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
