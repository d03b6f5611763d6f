/* test_sampler_tensor.c - Gram trees and the tensor sampler against laws written out over all pairs.
 *
 * Power of the chi-square tests: with T draws over m cells, a law that is off by relative errors with mean square e^2
 * (weighted by the law) shifts the statistic by T e^2 where its standard deviation is sqrt(2 m). To notice e at p =
 * 1e-3 (3.1 deviations) with power 0.98 (2 more) takes T = 5.1 sqrt(2 m) / e^2. Over all 4096 pairs (pooled to about
 * 2000 cells) T = 200 000 notices e = 0.04; over the 64 rows of one side T = 200 000 notices e = 0.017. Sketches of
 * rows are drawn from 5000 times, sketches over pairs 1500 times: e = 0.2 and 0.3 (600 and 200 pooled cells). The
 * negative controls, too few cells and a product of scales (20 000 draws), err by more than that. */
#include "chi_square.h"
#include "linalg/linalg.h"
#include "pith/sampler.h"
#include "sampler/gram.h"
#include "sampler_tensor.h"

enum { N1 = 64, N2 = 64, D = 8, PAIRS = N1 * N2 };
static const double ENOUGH = 1e-3;

static double *gaussian(uint64_t seed, size_t count) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 1);
  double *out = malloc(count * sizeof *out);
  assert_non_null(out);
  for (size_t i = 0; i < count; i++) out[i] = pith_random_gaussian(&stream, i);
  return out;
}

/* ---- Gram trees ---- */

static double direct_mass(const double *a, const double *x, size_t rows, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < rows; i++) {
    double y = 0;
    for (size_t j = 0; j < d; j++) y += a[i * d + j] * x[j];
    sum += y * y;
  }
  return sum;
}

static void test_gram_law(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const size_t shapes[][2] = {{1, 1}, {5, 3}, {17, 1}, {100, 3}, {200, 20}};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    size_t rows = shapes[s][0], d = shapes[s][1], *counts = calloc(rows, sizeof *counts);
    double *a = gaussian(s, rows * d), *x = gaussian(100 + s, d), *law = malloc(rows * sizeof *law);
    double *packed = malloc(pith_gram_packed(d) * sizeof *packed);
    pith_gram *tree = NULL;
    assert_ok(context, pith_gram_create(context, rows, d, &tree));
    pith_stream stream = pith_stream_make(s, PITH_STREAM_TEST, 2);
    pith_gram_form form = pith_gram_form_vector(x, d, packed);
    assert_true(pith_gram_draw(tree, &form, &stream, 0) == SIZE_MAX); /* nothing to draw yet */
    for (size_t i = 0; i < rows; i++)
      for (size_t j = 0; j < d; j++) assert_true(pith_gram_add(tree, i, j, a[i * d + j]));
    for (size_t i = 0; i < rows; i++) law[i] = direct_mass(a + i * d, x, 1, d);
    double mass = direct_mass(a, x, rows, d);
    assert_true(fabs(pith_gram_mass(tree, &form) - mass) <= 1e-12 * mass);
    for (size_t t = 0; t < 50000; t++) {
      size_t row = pith_gram_draw(tree, &form, &stream, t);
      assert_true(row < rows);
      counts[row]++;
    }
    assert_true(chi_square_p(counts, law, rows) > ENOUGH);
    pith_gram_free(tree);
    free(packed);
    free(law);
    free(x);
    free(a);
    free(counts);
  }
  test_context_free(context);
}

/* A million updates that keep returning to the same rows, with changes up to 1e6 that are taken back. */
static void test_gram_drift(void **state) {
  (void)state;
  enum { ROWS = 300, COLUMNS = 6, UPDATES = 1000000 };
  pith_context *context = test_context(1);
  pith_gram *tree = NULL;
  assert_ok(context, pith_gram_create(context, ROWS, COLUMNS, &tree));
  pith_stream stream = pith_stream_make(9, PITH_STREAM_TEST, 3);
  for (size_t u = 0; u < UPDATES; u++) {
    size_t row = pith_random_below(&stream, 4 * u, ROWS), column = pith_random_below(&stream, 4 * u + 1, COLUMNS);
    double size = u % 1000 == 0 ? 1e6 : 1;
    double next = size * pith_random_gaussian(&stream, 4 * u + 2);
    assert_true(pith_gram_add(tree, row, column, next - pith_gram_row(tree, row)[column]));
    if (size > 1) assert_true(pith_gram_add(tree, row, column, 1 - next));
  }
  double *x = gaussian(5, COLUMNS), packed[COLUMNS * (COLUMNS + 1) / 2];
  pith_gram_form form = pith_gram_form_vector(x, COLUMNS, packed);
  double mass = direct_mass(pith_gram_row(tree, 0), x, ROWS, COLUMNS);
  assert_true(fabs(pith_gram_mass(tree, &form) - mass) <= 1e-10 * mass);
  /* All is deleted: nothing at all is left. */
  for (size_t i = 0; i < ROWS; i++)
    for (size_t j = 0; j < COLUMNS; j++) assert_true(pith_gram_add(tree, i, j, -pith_gram_row(tree, i)[j]));
  assert_true(pith_gram_mass(tree, &form) == 0);
  double rows[COLUMNS] = {0, 3};
  assert_true(pith_gram_set_row(tree, 77, rows));
  for (size_t t = 0; t < 100; t++) assert_int_equal(pith_gram_draw(tree, &form, &stream, t), 77);
  assert_false(pith_gram_add(tree, 0, 0, 1e41));
  assert_false(pith_gram_add(tree, 0, 0, NAN));
  assert_int_equal(pith_gram_draw(tree, &form, &stream, 5), 77);
  pith_gram_free(tree);
  free(x);
  test_context_free(context);
}

/* Setting all rows at once, row by row, or entry by entry leaves the same masses; draws by a matrix follow its law. */
static void test_gram_matrix(void **state) {
  (void)state;
  enum { ROWS = 90, COLUMNS = 5 };
  pith_context *context = test_context(1);
  double *a = gaussian(1, ROWS * COLUMNS), *b = gaussian(2, COLUMNS * 2), m[COLUMNS * COLUMNS] = {0}, law[ROWS];
  for (size_t i = 0; i < COLUMNS; i++)
    for (size_t j = 0; j < COLUMNS; j++)
      for (size_t k = 0; k < 2; k++) m[i * COLUMNS + j] += b[k * COLUMNS + i] * b[k * COLUMNS + j];
  double total = 0;
  for (size_t i = 0; i < ROWS; i++) {
    law[i] = direct_mass(a + i * COLUMNS, b, 1, COLUMNS) + direct_mass(a + i * COLUMNS, b + COLUMNS, 1, COLUMNS);
    total += law[i];
  }
  pith_gram *trees[2];
  double packed[COLUMNS * (COLUMNS + 1) / 2];
  pith_gram_form form = pith_gram_form_matrix(m, COLUMNS, packed);
  for (size_t t = 0; t < 2; t++) assert_ok(context, pith_gram_create(context, ROWS, COLUMNS, &trees[t]));
  assert_true(pith_gram_set(trees[0], a));
  for (size_t i = 0; i < ROWS; i++) assert_true(pith_gram_set_row(trees[1], i, a + i * COLUMNS));
  pith_stream stream = pith_stream_make(3, PITH_STREAM_TEST, 4);
  for (size_t t = 0; t < 2; t++) {
    assert_true(fabs(pith_gram_mass(trees[t], &form) - total) <= 1e-12 * total);
    size_t counts[ROWS] = {0};
    for (size_t i = 0; i < 50000; i++) counts[pith_gram_draw(trees[t], &form, &stream, i)]++;
    assert_true(chi_square_p(counts, law, ROWS) > ENOUGH);
    pith_gram_free(trees[t]);
  }
  free(b);
  free(a);
  test_context_free(context);
}

/* ---- The tensor sampler ---- */

typedef struct fixture {
  double *a1, *a2, *x, law[PAIRS], norm;
} fixture;

/* Rows of very different size, so that the law is far from flat. */
static fixture *make(uint64_t seed) {
  fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  f->a1 = gaussian(seed, N1 * D);
  f->a2 = gaussian(seed + 1, N2 * D);
  f->x = gaussian(seed + 2, D * D);
  for (size_t i = 0; i < N1 * D; i++) f->a1[i] /= 1 + (double)(i / D) / 8;
  for (size_t i = 0; i < N2 * D; i++) f->a2[i] /= 1 + (double)(i / D) / 16;
  f->norm = reference_tensor_law(f->a1, f->x, f->a2, N1, N2, D, f->law);
  return f;
}

static void unmake(fixture *f) {
  free(f->a1);
  free(f->a2);
  free(f->x);
  free(f);
}

static pith_tensor *create(pith_context *context, pith_tensor_method method, size_t draws, size_t buckets,
                           uint64_t seed) {
  pith_tensor_options options;
  pith_tensor_options_init(&options);
  options.rows1 = N1;
  options.rows2 = N2;
  options.dim = D;
  options.draws = draws;
  options.method = method;
  options.buckets = buckets;
  options.memory = (size_t)1 << 32;
  options.seed = seed;
  pith_tensor *sampler = NULL;
  assert_ok(context, pith_tensor_create(context, &options, &sampler));
  return sampler;
}

static void add(pith_context *context, pith_tensor *sampler, pith_tensor_part part, const double *values, size_t count,
                double factor) {
  pith_update updates[N1 * D];
  size_t done = 0;
  for (size_t i = 0; i < count; i++)
    updates[i] = (pith_update){.kind = part, .row = i / D, .column = (uint32_t)(i % D), .delta = factor * values[i]};
  assert_ok(context, pith_tensor_update(context, sampler, updates, count, &done));
  assert_int_equal(done, count);
}

static void add_all(pith_context *context, pith_tensor *sampler, const fixture *f) {
  add(context, sampler, PITH_TENSOR_A2, f->a2, N2 * D, 1);
  add(context, sampler, PITH_TENSOR_X, f->x, D * D, 1);
  add(context, sampler, PITH_TENSOR_A1, f->a1, N1 * D, 1);
}

/* Draws and counts pairs; their values must be right within `error` (relative, for nine draws of ten). */
static void draw_counts(pith_context *context, pith_tensor *sampler, const fixture *f, size_t draws, double error,
                        size_t *counts) {
  pith_pair *pairs = malloc(draws * sizeof *pairs);
  size_t drawn = 0, wrong = 0;
  assert_non_null(pairs);
  assert_ok(context, pith_tensor_draw(context, sampler, draws, pairs, &drawn));
  assert_int_equal(drawn, draws);
  for (size_t i = 0; i < drawn; i++) {
    assert_true(pairs[i].row1 < N1 && pairs[i].row2 < N2);
    size_t cell = pairs[i].row1 * N2 + pairs[i].row2;
    wrong += fabs(pairs[i].value * pairs[i].value - f->law[cell]) > 2 * error * f->law[cell];
    counts[cell]++;
  }
  assert_true(wrong <= drawn / 10);
  free(pairs);
}

static void test_exact_law(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture *f = make(11);
  pith_tensor *sampler = create(context, PITH_TENSOR_AUTO, 1, 0, 3);
  assert_int_equal(pith_tensor_describe(sampler).method, PITH_TENSOR_EXACT);
  size_t counts[PAIRS] = {0}, sides[N1] = {0};
  double norm = -1, side_law[N1] = {0};
  size_t drawn = 9;
  pith_pair pair;
  assert_ok(context, pith_tensor_draw(context, sampler, 1, &pair, &drawn)); /* Y = 0 */
  assert_int_equal(drawn, 0);
  /* Insert something else, then take it back; A2 comes last, X between. */
  fixture *other = make(21);
  add_all(context, sampler, other);
  add(context, sampler, PITH_TENSOR_A1, f->a1, N1 * D, 1);
  add(context, sampler, PITH_TENSOR_A1, other->a1, N1 * D, -1);
  add(context, sampler, PITH_TENSOR_X, f->x, D * D, 1);
  add(context, sampler, PITH_TENSOR_X, other->x, D * D, -1);
  add(context, sampler, PITH_TENSOR_A2, f->a2, N2 * D, 1);
  add(context, sampler, PITH_TENSOR_A2, other->a2, N2 * D, -1);
  assert_ok(context, pith_tensor_norm(context, sampler, &norm));
  assert_true(fabs(norm - f->norm) <= 1e-10 * f->norm);
  draw_counts(context, sampler, f, 200000, 1e-9, counts);
  for (size_t i = 0; i < PAIRS; i++) {
    sides[i / N2] += counts[i];
    side_law[i / N2] += f->law[i];
  }
  double p = chi_square_p(counts, f->law, PAIRS), side = chi_square_p(sides, side_law, N1);
  printf("exact: p over pairs %.3f, over rows of A1 %.3f\n", p, side);
  assert_true(p > ENOUGH && side > ENOUGH);
  unmake(other);
  unmake(f);
  pith_tensor_free(sampler);
  test_context_free(context);
}

/* The same draws at any number of threads, and apart for another seed. */
static void test_threads(void **state) {
  (void)state;
  enum { DRAWS = 500 };
  fixture *f = make(11);
  pith_pair pairs[3][DRAWS];
  for (int run = 0; run < 3; run++) {
    pith_context *context = test_context(run == 1 ? 3 : 1);
    for (int method = PITH_TENSOR_EXACT; method <= PITH_TENSOR_SKETCH; method += 2) {
      size_t drawn = 0, draws = method == PITH_TENSOR_EXACT ? DRAWS / 2 : DRAWS - DRAWS / 2;
      pith_tensor *sampler = create(context, (pith_tensor_method)method, DRAWS, 64, run == 2 ? 8 : 7);
      add_all(context, sampler, f);
      assert_ok(context, pith_tensor_draw(context, sampler, draws,
                                          pairs[run] + (method == PITH_TENSOR_EXACT ? 0 : DRAWS / 2), &drawn));
      assert_int_equal(drawn, draws);
      pith_tensor_free(sampler);
    }
    test_context_free(context);
  }
  assert_memory_equal(pairs[0], pairs[1], sizeof pairs[0]);
  size_t same = 0;
  for (size_t i = 0; i < DRAWS; i++)
    same += pairs[0][i].row1 == pairs[2][i].row1 && pairs[0][i].row2 == pairs[2][i].row2;
  assert_true(same < DRAWS / 10);
  unmake(f);
}

/* p-value over pairs of `rounds` samplers that are drawn from `draws` times each. */
static double sketch_p(pith_tensor_method method, size_t buckets, size_t rounds, size_t draws, double error,
                       double *distance) {
  pith_context *context = test_context(2);
  fixture *f = make(11);
  size_t counts[PAIRS] = {0}, words = 0;
  double norms = 0;
  for (size_t round = 0; round < rounds; round++) {
    double norm = 0;
    pith_tensor *sampler = create(context, method, draws, buckets, 5 + round);
    add_all(context, sampler, f);
    draw_counts(context, sampler, f, draws, error, counts);
    assert_ok(context, pith_tensor_norm(context, sampler, &norm));
    norms += norm / f->norm / (double)rounds;
    words = pith_tensor_describe(sampler).words;
    pith_tensor_free(sampler);
  }
  double p = chi_square_p(counts, f->law, PAIRS);
  *distance = total_variation(counts, f->law, PAIRS);
  printf("%s, %zu buckets: p %.3g, total variation %.3f, norm %.3f of the true one, %zu words for %zu draws\n",
         pith_tensor_method_name(method), buckets, p, *distance, norms, words, draws);
  assert_true(fabs(norms - 1) < 0.1);
  unmake(f);
  test_context_free(context);
  return p;
}

static void test_rows_law(void **state) {
  (void)state;
  double few = 0, many = 0;
  assert_true(sketch_p(PITH_TENSOR_SKETCH, 512, 20, 250, 0.3, &many) > ENOUGH);
  /* Negative control: 16 cells for 128 points blur the law, and that is seen. */
  assert_true(sketch_p(PITH_TENSOR_SKETCH, 16, 20, 250, INFINITY, &few) < 1e-6);
  assert_true(few > many);
}

static void test_pairs_law(void **state) {
  (void)state;
  double distance = 0;
  assert_true(sketch_p(PITH_TENSOR_PAIRS, 512, 10, 150, 0.5, &distance) > ENOUGH);
}

/* The product of scales of the two rows, which theory forbids, is rejected; scales of pairs are not. */
static void test_product_scales(void **state) {
  (void)state;
  fixture *f = make(11);
  uint64_t random = 4;
  for (int product = 0; product < 2; product++) {
    size_t counts[PAIRS] = {0};
    for (size_t t = 0; t < 20000; t++) counts[reference_tensor_draw(f->law, N1, N2, product, &random)]++;
    double p = chi_square_p(counts, f->law, PAIRS);
    printf("%s: p %.3g\n", product ? "a product of scales" : "scales of pairs", p);
    assert_true(product ? p < 1e-6 : p > ENOUGH);
  }
  unmake(f);
}

/* What is deleted is gone, in sketches too; the rest follows the law of what is left. */
static void test_deletes(void **state) {
  (void)state;
  for (int method = PITH_TENSOR_EXACT; method <= PITH_TENSOR_SKETCH; method++) {
    pith_context *context = test_context(1);
    size_t draws = 300, drawn = 0;
    pith_tensor *sampler = create(context, (pith_tensor_method)method, draws, 256, 5);
    fixture *f = make(31);
    add_all(context, sampler, f);
    add(context, sampler, PITH_TENSOR_A1, f->a1, N1 / 2 * D, -1);
    pith_pair *pairs = malloc(draws * sizeof *pairs);
    assert_ok(context, pith_tensor_draw(context, sampler, draws / 2, pairs, &drawn));
    assert_int_equal(drawn, draws / 2);
    for (size_t i = 0; i < drawn; i++) assert_true(pairs[i].row1 >= N1 / 2);
    free(pairs);
    unmake(f);
    pith_tensor_free(sampler);
    test_context_free(context);
  }
}

static void refused(pith_context *context, pith_tensor *sampler, pith_update update, pith_status status,
                    const char *word) {
  pith_update updates[2] = {{.kind = PITH_TENSOR_A1, .row = 1, .column = 1, .delta = 1e-3}, update};
  size_t done = 7;
  assert_int_equal(pith_tensor_update(context, sampler, updates, 2, &done), status);
  assert_int_equal(done, 1);
  assert_non_null(strstr(pith_context_message(context), word));
}

static void test_bad_input(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  fixture *f = make(31);
  for (int method = PITH_TENSOR_EXACT; method <= PITH_TENSOR_SKETCH; method++) {
    pith_tensor *sampler = create(context, (pith_tensor_method)method, 20, 64, 5);
    add_all(context, sampler, f);
    refused(context, sampler, (pith_update){.kind = 0, .row = N1, .delta = 1}, PITH_E_ARGUMENT, "row 64");
    refused(context, sampler, (pith_update){.kind = 3, .row = D, .delta = 1}, PITH_E_ARGUMENT, "row 8");
    refused(context, sampler, (pith_update){.kind = 1, .column = D, .delta = 1}, PITH_E_ARGUMENT, "column 8");
    refused(context, sampler, (pith_update){.kind = 2, .delta = 1}, PITH_E_ARGUMENT, "kind 2");
    refused(context, sampler, (pith_update){.kind = 0, .delta = NAN}, PITH_E_VALUE, "nan");
    refused(context, sampler, (pith_update){.kind = 1, .delta = -INFINITY}, PITH_E_VALUE, "-inf");
    refused(context, sampler, (pith_update){.kind = 0, .delta = 1e60}, PITH_E_VALUE, "1e+60");
    if (method == PITH_TENSOR_PAIRS)
      refused(context, sampler, (pith_update){.kind = 1, .delta = 1}, PITH_E_ARGUMENT, "A2 changes after A1");
    pith_pair pairs[20]; /* and all goes on */
    size_t drawn = 0;
    assert_ok(context, pith_tensor_draw(context, sampler, 20, pairs, &drawn));
    assert_int_equal(drawn, 20);
    if (method != PITH_TENSOR_EXACT)
      assert_int_equal(pith_tensor_draw(context, sampler, 1, pairs, &drawn), PITH_E_BUDGET);
    pith_tensor_free(sampler);
  }
  unmake(f);
  pith_tensor_options options;
  pith_tensor_options_init(&options);
  pith_tensor *sampler = NULL;
  options.rows1 = options.rows2 = (size_t)1 << 40;
  options.dim = 8;
  options.draws = 100000;
  assert_int_equal(pith_tensor_create(context, &options, &sampler), PITH_E_BUDGET);
  assert_non_null(strstr(pith_context_message(context), "enough for"));
  options.draws = 10; /* rows do not cost memory */
  assert_ok(context, pith_tensor_create(context, &options, &sampler));
  assert_int_equal(pith_tensor_describe(sampler).method, PITH_TENSOR_SKETCH);
  pith_tensor_free(sampler);
  options.dim = 0;
  assert_int_equal(pith_tensor_create(context, &options, &sampler), PITH_E_ARGUMENT);
  options.dim = 2;
  options.buckets = 48;
  assert_int_equal(pith_tensor_create(context, &options, &sampler), PITH_E_ARGUMENT);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gram_law),       cmocka_unit_test(test_gram_drift), cmocka_unit_test(test_gram_matrix),
      cmocka_unit_test(test_exact_law),      cmocka_unit_test(test_threads),    cmocka_unit_test(test_rows_law),
      cmocka_unit_test(test_pairs_law),      cmocka_unit_test(test_deletes),    cmocka_unit_test(test_bad_input),
      cmocka_unit_test(test_product_scales),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
