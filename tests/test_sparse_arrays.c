/* test_sparse_arrays.c - sparse attention over arrays: masks, growth, threads, bad input. */
#include "pith/sparsity.h"
#include "test.h"

enum { HEADS = 2, QUERY_HEADS = 6, M = 40, N = 300, D = 16, DV = 12 };

typedef struct arrays {
  float *q, *k, *v;
  pith_array queries, keys, values;
} arrays;

static pith_array heads_array(const float *data, size_t heads, size_t rows, size_t columns) {
  ptrdiff_t size = sizeof *data, c = (ptrdiff_t)columns;
  return (pith_array){data, PITH_F32, 3, {heads, rows, columns}, {(ptrdiff_t)rows * c * size, c * size, size}};
}

static arrays make_arrays(void) {
  arrays a = {test_gaussian(31, QUERY_HEADS * M * D, 1.5),
              test_gaussian(32, HEADS * N * D, 1),
              test_gaussian(33, HEADS * N * DV, 1),
              {0},
              {0},
              {0}};
  a.queries = heads_array(a.q, QUERY_HEADS, M, D);
  a.keys = heads_array(a.k, HEADS, N, D);
  a.values = heads_array(a.v, HEADS, N, DV);
  return a;
}

static void free_arrays(arrays *a) {
  free(a->q);
  free(a->k);
  free(a->v);
}

static void masks_are_obeyed(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  arrays a = make_arrays();
  const size_t globals[] = {0, 3, 150};
  unsigned char blocks[4 * 30];
  for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = i * 7 % 3 == 0;
  pith_array mask = pith_array_matrix(blocks, PITH_U8, 4, 30);
  float *exact = malloc(QUERY_HEADS * M * DV * sizeof *exact), *out = malloc(QUERY_HEADS * M * DV * sizeof *out);
  for (int which = 0; which < 6; which++)
    for (int each = 0; each < 2; each++) {
      pith_sparse_options options;
      pith_sparse_options_init(&options);
      options.eps = 0.02;
      options.each = each;
      options.always = 1;
      options.attention.causal = which & 1;
      if (which / 2 == 1) {
        options.attention.window = 90;
        options.attention.globals = globals;
        options.attention.global_count = 3;
      }
      if (which / 2 == 2) {
        options.attention.block_mask = &mask;
        options.attention.block = 10;
      }
      pith_sparse_account accounts[QUERY_HEADS * M];
      pith_sparse_report report;
      assert_ok(context, pith_attention_compute(context, &a.queries, &a.keys, &a.values, &options.attention, exact));
      assert_ok(context,
                pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, accounts, &report));
      double seen = 0, mean = 0;
      assert_ok(context, pith_attention_seen(context, &a.queries, &a.keys, &options.attention, &mean));
      for (size_t i = 0; i < QUERY_HEADS * M; i++) {
        double error = 0;
        for (size_t j = 0; j < DV; j++) error += pow((double)exact[i * DV + j] - (double)out[i * DV + j], 2);
        assert_true(sqrt(error) <= accounts[i].bound + 1e-5 && accounts[i].bound <= 0.02);
        assert_true(accounts[i].read <= accounts[i].seen);
        seen += (double)accounts[i].seen / (QUERY_HEADS * M);
      }
      assert_true(fabs(seen - mean) < 1e-9);
      assert_true(report.fraction_read > 0 && report.fraction_read <= 1 && report.bound <= 0.02);
    }
  free(out);
  free(exact);
  free_arrays(&a);
  test_context_free(context);
}

/* As in a vision model: no positions, nothing causal, an odd head size; patches see those of their row and the next. */
static void patches_see_each_other(void **state) {
  (void)state;
  enum { SIDE = 18, PATCHES = SIDE * SIDE, ODD = 33, COUNT = 2 * PATCHES };
  pith_context *context = test_context(1);
  float *random = test_gaussian(41, 3 * COUNT * ODD, 1.5), *exact = malloc(COUNT * ODD * sizeof *exact);
  float *out = malloc(COUNT * ODD * sizeof *out);
  const pith_array q = heads_array(random, 2, PATCHES, ODD), k = heads_array(random + COUNT * ODD, 2, PATCHES, ODD),
                   v = heads_array(random + (ptrdiff_t)2 * COUNT * ODD, 2, PATCHES, ODD);
  unsigned char rows[SIDE * SIDE];
  for (int i = 0; i < SIDE * SIDE; i++) rows[i] = abs(i / SIDE - i % SIDE) <= 1;
  const pith_array mask = pith_array_matrix(rows, PITH_U8, SIDE, SIDE);
  for (int masked = 0; masked < 2; masked++) {
    pith_sparse_options options;
    pith_sparse_options_init(&options);
    options.eps = 0.05;
    options.each = options.always = 1;
    options.attention.block_mask = masked ? &mask : NULL;
    options.attention.block = masked ? SIDE : 0;
    pith_sparse_account accounts[COUNT];
    pith_sparse_report report;
    assert_ok(context, pith_attention_compute(context, &q, &k, &v, &options.attention, exact));
    assert_ok(context, pith_sparse_attend(context, NULL, &q, &k, &v, &options, out, accounts, &report));
    for (size_t i = 0; i < COUNT; i++) {
      const size_t row = i % PATCHES / SIDE;
      double error = 0;
      for (size_t j = 0; j < ODD; j++) error += pow((double)exact[i * ODD + j] - (double)out[i * ODD + j], 2);
      assert_true(sqrt(error) <= accounts[i].bound + 1e-5 && accounts[i].bound <= options.eps);
      assert_int_equal(accounts[i].seen, !masked ? PATCHES : row == 0 || row == SIDE - 1 ? 2 * SIDE : 3 * SIDE);
    }
    assert_true(report.fraction_read < 0.95 && report.exact == 0);
  }
  free(out);
  free(exact);
  free(random);
  test_context_free(context);
}

/* Without `always`: small caches are left to exact attention, long ones are not where few keys matter. */
static void time_decides(void **state) {
  (void)state;
  enum { LONG = 16384, ROWS = 8, WIDTH = 16, CLUSTER = 1024, COUNT = QUERY_HEADS * ROWS };
  pith_context *context = test_context(1);
  float *centres = test_gaussian(51, (size_t)LONG / CLUSTER * WIDTH, 2.5), *keys = test_gaussian(52, LONG * WIDTH, 0.1);
  float *values = test_gaussian(53, LONG * WIDTH, 1), *query = test_gaussian(54, COUNT * WIDTH, 0.1);
  float *exact = malloc(COUNT * WIDTH * sizeof *exact), *out = malloc(COUNT * WIDTH * sizeof *out);
  for (size_t i = 0; i < LONG * WIDTH; i++) keys[i] += centres[i / WIDTH / CLUSTER * WIDTH + i % WIDTH];
  for (size_t i = 0; i < COUNT * WIDTH; i++) query[i] += centres[5 * WIDTH + i % WIDTH];
  const pith_array q = heads_array(query, QUERY_HEADS, ROWS, WIDTH), k = heads_array(keys, 1, LONG, WIDTH),
                   v = heads_array(values, 1, LONG, WIDTH);
  for (int few = 0; few < 2; few++) {
    const pith_array key = pith_array_rows(&k, 0, few ? LONG / 4 : LONG);
    const pith_array value = pith_array_rows(&v, 0, few ? LONG / 4 : LONG);
    pith_sparse_options options;
    pith_sparse_options_init(&options);
    options.eps = 0.1;
    pith_sparse_account accounts[COUNT];
    pith_sparse_report report;
    assert_ok(context, pith_attention_compute(context, &q, &key, &value, NULL, exact));
    assert_ok(context, pith_sparse_attend(context, NULL, &q, &key, &value, &options, out, accounts, &report));
    assert_int_equal(report.exact, few ? COUNT : 0);
    assert_true(few ? report.fraction_read == 1 : report.fraction_read < 0.25);
    for (size_t i = 0; i < COUNT; i++) {
      double error = 0;
      for (size_t j = 0; j < WIDTH; j++) error += pow((double)exact[i * WIDTH + j] - (double)out[i * WIDTH + j], 2);
      assert_true(sqrt(error) <= accounts[i].bound + 1e-5 && accounts[i].bound <= options.eps);
    }
  }
  free(out);
  free(exact);
  free(query);
  free(values);
  free(keys);
  free(centres);
  test_context_free(context);
}

static void growth_and_threads_change_nothing(void **state) {
  (void)state;
  arrays a = make_arrays();
  size_t size = QUERY_HEADS * M * DV;
  float *out[3];
  pith_sparse_options options;
  pith_sparse_options_init(&options);
  options.eps = 0.05;
  options.always = 1;
  options.attention.causal = 1;
  for (int run = 0; run < 3; run++) {
    pith_context *context = test_context(run == 1 ? 2 : 1);
    pith_sparse_index *index = NULL;
    const size_t steps[] = {1, 64, 65, 200, 201, 299, N};
    for (size_t i = run == 2 ? 0 : 6; i < 7; i++) {
      pith_array keys = pith_array_rows(&a.keys, 0, steps[i]), values = pith_array_rows(&a.values, 0, steps[i]);
      assert_ok(context, pith_sparse_index_append(context, &index, &keys, &values));
      assert_int_equal(pith_sparse_index_rows(index), steps[i]);
    }
    out[run] = malloc(size * sizeof **out);
    assert_ok(context,
              pith_sparse_attend(context, index, &a.queries, &a.keys, &a.values, &options, out[run], NULL, NULL));
    assert_true(pith_sparse_index_bytes(index) > HEADS * 256 * D);
    if (run == 2) { /* laid anew, the bounds still hold; grown too small a cache is refused */
      pith_sparse_report report;
      assert_ok(context, pith_sparse_index_cluster(context, index, &a.keys, &a.values));
      assert_ok(context,
                pith_sparse_attend(context, index, &a.queries, &a.keys, &a.values, &options, out[2], NULL, &report));
      assert_true(report.bound <= 0.05);
      pith_array fewer = pith_array_rows(&a.keys, 0, 100), few = pith_array_rows(&a.values, 0, 100);
      assert_int_equal(pith_sparse_attend(context, index, &a.queries, &fewer, &few, &options, out[2], NULL, NULL),
                       PITH_E_SHAPE);
      assert_int_equal(pith_sparse_index_append(context, &index, &fewer, &few), PITH_E_SHAPE);
    }
    pith_sparse_index_free(index);
    test_context_free(context);
  }
  assert_memory_equal(out[0], out[1], size * sizeof **out);
  pith_context *context = test_context(1);
  pith_sparse_index *index = NULL;
  for (size_t n = 7; n <= N; n += 1 + n / 3) {
    pith_array keys = pith_array_rows(&a.keys, 0, n), values = pith_array_rows(&a.values, 0, n);
    assert_ok(context, pith_sparse_index_append(context, &index, &keys, &values));
  }
  assert_ok(context, pith_sparse_index_append(context, &index, &a.keys, &a.values));
  assert_ok(context, pith_sparse_attend(context, index, &a.queries, &a.keys, &a.values, &options, out[2], NULL, NULL));
  pith_sparse_index_free(index);
  test_context_free(context);
  for (size_t i = 0; i < size; i++) assert_true(fabsf(out[0][i] - out[2][i]) <= 0.1F);
  for (int run = 0; run < 3; run++) free(out[run]);
  free_arrays(&a);
}

/* ---- Bad input ---- */

static void bad_input_is_refused(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  arrays a = make_arrays();
  float *out = malloc(QUERY_HEADS * M * DV * sizeof *out);
  pith_sparse_options options;
  pith_sparse_options_init(&options);
  const double bad[] = {0, -1, NAN, INFINITY};
  for (size_t i = 0; i < 4; i++) {
    options.eps = bad[i];
    assert_int_equal(pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, NULL, NULL),
                     PITH_E_ARGUMENT);
    assert_non_null(strstr(pith_context_message(context), "eps"));
  }
  assert_int_equal(pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, NULL, out, NULL, NULL),
                   PITH_E_ARGUMENT);
  options.eps = 1e-12; /* rounding is more */
  pith_sparse_report report;
  assert_int_equal(pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, NULL, &report),
                   PITH_NOT_CERTIFIED);
  assert_true(report.bound > 1e-12 && report.bound < 1e-3 && report.exact == report.queries);
  options.eps = 0.1;
  float saved = a.k[77];
  a.k[77] = INFINITY;
  assert_int_equal(pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, NULL, NULL),
                   PITH_E_VALUE);
  a.k[77] = saved;
  saved = a.q[5];
  a.q[5] = NAN;
  assert_int_equal(pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, NULL, NULL),
                   PITH_E_VALUE);
  a.q[5] = saved;
  a.k[3] = 1e30F; /* finite, but no bound can be had: said, not hidden */
  a.q[3] = 1e30F;
  assert_int_equal(pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, NULL, &report),
                   PITH_NOT_CERTIFIED);
  assert_true(isinf(report.bound));
  free(out);
  free_arrays(&a);
  test_context_free(context);
}

static void edges_are_defined(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  arrays a = make_arrays();
  float *out = malloc(QUERY_HEADS * M * DV * sizeof *out);
  pith_sparse_account accounts[QUERY_HEADS * M];
  pith_sparse_options options;
  pith_sparse_options_init(&options);
  options.eps = 0.1;
  for (int always = 0; always < 2; always++) {
    options.always = always;
    for (size_t n = 0; n < 4; n++) { /* fewer keys than a first guess asks for, and none */
      pith_array keys = pith_array_rows(&a.keys, 0, n), values = pith_array_rows(&a.values, 0, n);
      assert_ok(context, pith_sparse_attend(context, NULL, &a.queries, &keys, &values, &options, out, accounts, NULL));
      assert_true(accounts[9].read == n && accounts[9].seen == n && accounts[9].bound < 1e-3);
      for (size_t i = 0; i < QUERY_HEADS * M * DV && n == 0; i++) assert_true(out[i] == 0);
    }
    unsigned char nothing[1] = {0}; /* rows that see no key */
    pith_array mask = pith_array_matrix(nothing, PITH_U8, 1, 1);
    options.attention.block_mask = &mask;
    assert_ok(context,
              pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, accounts, NULL));
    for (size_t i = 0; i < QUERY_HEADS * M * DV; i++) assert_true(out[i] == 0);
    assert_true(accounts[0].bound == 0 && accounts[0].seen == 0);
    options.attention.block_mask = NULL;
  }
  for (size_t i = 0; i < HEADS * N * D; i++) a.k[i] = a.k[i % D]; /* all keys equal: the mean of all values */
  options.eps = 1e-3;
  assert_ok(context, pith_sparse_attend(context, NULL, &a.queries, &a.keys, &a.values, &options, out, accounts, NULL));
  double mean = 0;
  for (size_t i = 0; i < N; i++) mean += (double)a.v[i * DV] / N;
  assert_true(fabs((double)out[0] - mean) < 1e-3);
  assert_true(accounts[0].read < N / 2);
  free(out);
  free_arrays(&a);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(masks_are_obeyed),     cmocka_unit_test(patches_see_each_other),
      cmocka_unit_test(time_decides),         cmocka_unit_test(growth_and_threads_change_nothing),
      cmocka_unit_test(bad_input_is_refused), cmocka_unit_test(edges_are_defined),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
