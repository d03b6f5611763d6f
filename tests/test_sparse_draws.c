/* test_sparse_draws.c - bounds that hold with a confidence: coverage, what they save, stores, threads, bad input. */
#include "attention.h"
#include "sparsity/sparse.h"
#include "summary/store.h"
#include "test.h"

enum { N = 4096, D = 16, DV = 8, M = 500 };

typedef struct tally {
  size_t queries, drawn, missed, missed_at_tenth, read, above;
} tally;

/* Broad weights with few large ones: logits of deviation `sigma`, values of variance 1 about (1, 1, ...). */
static void ask(pith_context *context, uint64_t seed, double sigma, pith_dtype dtype, double eps, double confidence,
                tally *t) {
  float *keys = test_gaussian(seed, N * D, 1), *values = test_gaussian(seed + 1, N * DV, 1);
  float *query = test_gaussian(seed + 2, M * D, sigma / sqrt(D)), *out = malloc(M * DV * sizeof *out);
  for (size_t i = 0; i < N * DV; i++) values[i] += 1;
  const size_t key = pith_store_row_bytes(dtype, D), value = pith_store_row_bytes(dtype, DV);
  void *stored[2] = {malloc(N * key), malloc(N * value)};
  uint16_t *scales[2] = {malloc(N * sizeof(uint16_t)), malloc(N * sizeof(uint16_t))};
  assert_ok(context, pith_store_write(context, "keys", dtype, keys, N, D, stored[0], scales[0]));
  assert_ok(context, pith_store_write(context, "values", dtype, values, N, DV, stored[1], scales[1]));
  pith_store_read(dtype, stored[0], scales[0], N, D, keys);
  pith_store_read(dtype, stored[1], scales[1], N, DV, values);
  const bool quantised = pith_store_quantised(dtype);
  pith_rows rows = {.keys = stored[0],
                    .values = stored[1],
                    .key_stride = (ptrdiff_t)key,
                    .value_stride = (ptrdiff_t)value,
                    .dtype = dtype,
                    .count = N,
                    .d = D,
                    .dv = DV,
                    .key_scales = quantised ? scales[0] : NULL,
                    .value_scales = quantised ? scales[1] : NULL};
  pith_sparse_head head = {.memory = pith_memory_share(context)};
  assert_ok(context, pith_sparse_head_append(context, &head, &rows, 0));
  static pith_sparse_account account[M];
  pith_sparse_job job = {.rows = rows,
                         .head = &head,
                         .heads = 1,
                         .queries = M,
                         .query = query,
                         .eps = eps,
                         .always = true,
                         .confidence = confidence,
                         .seed = seed,
                         .out = out,
                         .account = account};
  assert_ok(context, pith_sparse_jobs(context, &job, 1));
  for (size_t i = 0; i < M; i++) {
    double exact[DV] = {0}, mass = 0, error = 0;
    for (size_t r = 0; r < N; r++) {
      double logit = 0;
      for (size_t j = 0; j < D; j++) logit += (double)query[i * D + j] * (double)keys[r * D + j];
      mass += exp(logit);
      for (size_t j = 0; j < DV; j++) exact[j] += exp(logit) * (double)values[r * DV + j];
    }
    for (size_t j = 0; j < DV; j++) error += pow(exact[j] / mass - (double)out[i * DV + j], 2);
    error = sqrt(error);
    t->queries++;
    t->read += account[i].read;
    t->drawn += account[i].drawn > 0;
    t->above += !(account[i].bound <= eps);
    t->missed += !(error <= account[i].bound);
    t->missed_at_tenth += !(error <= account[i].bound / 10);
  }
  pith_sparse_head_free(&head);
  pith_memory_unshare(head.memory);
  for (int i = 0; i < 2; i++) {
    free(stored[i]);
    free(scales[i]);
  }
  free(out);
  free(query);
  free(values);
  free(keys);
}

/* 4000 queries at confidence .9, over eight caches. Were bounds missed with probability .13 or more, as many as 460
 * misses would be seen with probability less than 1e-3 (mean 520, deviation 21); at .1 more than 460 would be, with
 * probability 1e-3 (mean 400, deviation 19). The control: bounds of a tenth must fail that test. */
static void bounds_cover(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  tally t = {0}, certain = {0};
  const pith_dtype stores[] = {PITH_F32, PITH_Q8, PITH_F16, PITH_F32};
  for (uint64_t i = 0; i < 8; i++) ask(context, 100 + 10 * i, i < 4 ? 1 : 2, stores[i % 4], 0.1, 0.9, &t);
  for (uint64_t i = 0; i < 8; i += 4) ask(context, 100 + 10 * i, i < 4 ? 1 : 2, stores[i % 4], 0.1, 0, &certain);
  print_message("%zu queries: %zu drawn, %zu missed, %zu at a tenth; read %.3f of the keys, for certain %.3f\n",
                t.queries, t.drawn, t.missed, t.missed_at_tenth, (double)t.read / (double)(t.queries * N),
                (double)certain.read / (double)(certain.queries * N));
  assert_true(t.missed <= 460);
  assert_true(t.missed_at_tenth > 460);
  assert_int_equal(t.above, 0);
  assert_true(t.drawn * 2 > t.queries);
  assert_int_equal(certain.drawn, 0);
  assert_int_equal(certain.missed, 0);
  assert_true((double)t.read / (double)t.queries < 0.9 * (double)certain.read / (double)certain.queries);
  test_context_free(context);
}

static pith_array heads_array(const float *data, size_t heads, size_t rows, size_t columns) {
  ptrdiff_t size = sizeof *data, c = (ptrdiff_t)columns;
  return (pith_array){data, PITH_F32, 3, {heads, rows, columns}, {(ptrdiff_t)rows * c * size, c * size, size}};
}

/* Through the public call: threads change nothing, seeds do, masks are obeyed, and nonsense is refused. */
static void calls_are_reproducible(void **state) {
  (void)state;
  enum { KEYS = 2048, ASKED = 20, HEADS = 4 };
  float *k = test_gaussian(1, KEYS * D, 1), *v = test_gaussian(2, KEYS * DV, 1);
  float *q = test_gaussian(3, HEADS * ASKED * D, 1), *out[4], *exact = malloc(HEADS * ASKED * DV * sizeof *exact);
  pith_array keys = heads_array(k, 1, KEYS, D), values = heads_array(v, 1, KEYS, DV);
  pith_array queries = heads_array(q, HEADS, ASKED, D);
  pith_sparse_options options;
  pith_sparse_options_init(&options);
  assert_true(options.confidence == 0);
  options.eps = 0.15;
  options.always = 1;
  options.attention.causal = 1;
  pith_sparse_report report;
  for (int run = 0; run < 4; run++) {
    pith_context *context = test_context(run == 1 ? 2 : 1);
    options.confidence = 0.95;
    options.seed = run == 2 ? 1 : 0;
    options.attention.window = run == 3 ? 1500 : 0;
    out[run] = malloc(HEADS * ASKED * DV * sizeof *exact);
    assert_ok(context, pith_sparse_attend(context, NULL, &queries, &keys, &values, &options, out[run], NULL, &report));
    assert_ok(context, pith_attention_compute(context, &queries, &keys, &values, &options.attention, exact));
    assert_true(report.drawn > 0 && report.bound <= 0.15);
    size_t far = 0;
    for (size_t i = 0; i < HEADS * ASKED; i++) {
      double error = 0;
      for (size_t j = 0; j < DV; j++) error += pow((double)exact[i * DV + j] - (double)out[run][i * DV + j], 2);
      far += sqrt(error) > 0.15;
    }
    assert_true(far <= 8); /* of 80 at .95 */
    const double bad[] = {-0.5, 1, 2, NAN, INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
      options.confidence = bad[i];
      assert_int_equal(pith_sparse_attend(context, NULL, &queries, &keys, &values, &options, exact, NULL, NULL),
                       PITH_E_ARGUMENT);
      assert_non_null(strstr(pith_context_message(context), "confidence"));
    }
    test_context_free(context);
  }
  assert_memory_equal(out[0], out[1], HEADS * ASKED * DV * sizeof *exact);
  assert_memory_not_equal(out[0], out[2], HEADS * ASKED * DV * sizeof *exact);
  for (int run = 0; run < 4; run++) free(out[run]);
  free(exact);
  free(q);
  free(v);
  free(k);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(bounds_cover), cmocka_unit_test(calls_are_reproducible)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
