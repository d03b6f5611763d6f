/* test_compress.c - the main job: budgets, certificates, folding, repeatability, refusals, no memory. */
#include "attention/attention.h"
#include "pith.h"
#include "test.h"

enum { LAYERS = 2, HEADS = 2, GROUP = 2, N = 400, D = 16, M = 300 };

typedef struct fixture {
  float *keys, *values, *queries;
  pith_array k, v, q;
} fixture;

static pith_array heads_of(const float *data, size_t heads, size_t rows) {
  ptrdiff_t row = D * sizeof(float), head = (ptrdiff_t)rows * row;
  return (pith_array){.data = data,
                      .dtype = PITH_F32,
                      .ndim = 4,
                      .shape = {LAYERS, heads, rows, D},
                      .stride = {(ptrdiff_t)heads * head, head, row, sizeof(float)}};
}

static fixture make(void) {
  fixture f = {test_gaussian(1, LAYERS * HEADS * N * D, 1),
               test_gaussian(2, LAYERS * HEADS * N * D, 1),
               test_gaussian(3, LAYERS * HEADS * GROUP * M * D, 1.5),
               {0},
               {0},
               {0}};
  f.k = heads_of(f.keys, HEADS, N);
  f.v = heads_of(f.values, HEADS, N);
  f.q = heads_of(f.queries, HEADS * GROUP, M);
  return f;
}

static void unmake(fixture *f) {
  free(f->keys);
  free(f->values);
  free(f->queries);
}

static pith_compress_options defaults(void) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.refine = 20;
  options.budget = PITH_BUDGET_EVEN;
  return options;
}

static void test_budgets(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make();
  const size_t point = 2 * D * 2 + 4, full = LAYERS * HEADS * N * 2 * D * 2;
  for (int unit = 0; unit < 3; unit++) {
    pith_compress_options options = defaults();
    if (unit == 0) options.points = 77;
    if (unit == 1) options.ratio = 0.25;
    if (unit == 2) options.bytes = 20000;
    pith_summary *summary = NULL;
    assert_ok(context, pith_compress(context, &f.k, &f.v, &f.q, &options, &summary));
    pith_summary_info info = pith_summary_describe(summary);
    if (unit == 0) assert_int_equal(info.points, 77);
    if (unit == 1) assert_true(info.ratio <= 0.25 && info.ratio > 0.24);
    if (unit == 2) assert_true(info.bytes <= 20000 && info.bytes > 20000 - LAYERS * HEADS * point);
    assert_int_equal(info.bytes, LAYERS * HEADS * info.points * point);
    assert_int_equal(info.full_bytes, full);
    for (size_t i = 0; i < LAYERS * HEADS; i++) {
      pith_head_view view;
      assert_ok(context, pith_summary_head(context, summary, i / HEADS, i % HEADS, &view));
      for (size_t s = 0; s < 20; s++) { /* sinks and window come first, true rows of weight 1 */
        size_t row = s < 4 ? s : N - 20 + s;
        assert_int_equal(view.index[s], row);
        assert_int_equal(view.exact[s], 1);
        assert_true(view.log_weight[s] == 0);
      }
      assert_int_equal(view.exact[20], 0);
      assert_true(view.probe_error > 0 && view.probe.kind == PITH_CERTIFICATE_PROBE);
      assert_int_equal(view.binding.kind, PITH_CERTIFICATE_PROBE);
      assert_true(view.probe.bound >= view.probe_error / 2);
    }
    pith_summary_free(summary);
  }
  unmake(&f);
  pith_context_free(context);
}

/* eps: the certificate holds, and a summary of two thirds of the points would not have done. */
static void test_eps(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  float *keys = test_sphere(1, N, D, 1), *values = test_sphere(2, N, D, 1);
  pith_array k = pith_array_matrix(keys, PITH_F32, N, D), v = pith_array_matrix(values, PITH_F32, N, D);
  pith_compress_options options = defaults();
  options.store = PITH_F32;
  options.scale = 1;
  options.rho = 0.5;
  options.eps = 0.05;
  options.sinks = options.window = 2;
  pith_summary *summary = NULL;
  assert_ok(context, pith_compress(context, &k, &v, NULL, &options, &summary));
  pith_summary_info info = pith_summary_describe(summary);
  assert_int_equal(info.certificate.kind, PITH_CERTIFICATE_BALL);
  assert_true(info.certificate.certified && info.certificate.bound <= 0.05);
  assert_true(info.points < N);
  pith_summary_free(summary);
  options.points = info.points * 2 / 3;
  options.eps = 0;
  assert_ok(context, pith_compress(context, &k, &v, NULL, &options, &summary));
  assert_true(pith_summary_describe(summary).certificate.bound > 0.05);
  pith_summary_free(summary);

  /* Out of reach in f16, whose rounding alone is larger: said, and the best summary is there. */
  options = defaults();
  options.eps = 1e-9;
  options.scale = 1;
  assert_int_equal(pith_compress(context, &k, &v, NULL, &options, &summary), PITH_NOT_CERTIFIED);
  assert_int_equal(pith_summary_describe(summary).points, N);
  pith_summary_free(summary);
  free(keys);
  free(values);
  pith_context_free(context);
}

static void test_plan(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make();
  pith_compress_options options = defaults();
  pith_plan_row rows[8];
  size_t count = 8;
  assert_ok(context, pith_plan(context, &f.k, &f.v, &f.q, &options, rows, &count));
  assert_true(count >= 3 && count < 8);
  for (size_t i = 0; i < count; i++) {
    assert_true(rows[i].points >= 20 && rows[i].ratio <= 0.5 && rows[i].mean_error > 0);
    if (i) assert_true(rows[i].points < rows[i - 1].points && rows[i].mean_error > rows[i - 1].mean_error);
  }
  /* A size taken from the menu is what the menu said. */
  options.points = rows[1].points;
  pith_summary *summary = NULL;
  assert_ok(context, pith_compress(context, &f.k, &f.v, &f.q, &options, &summary));
  pith_summary_info info = pith_summary_describe(summary);
  assert_int_equal(info.bytes, rows[1].bytes);
  pith_summary_free(summary);
  unmake(&f);
  pith_context_free(context);
}

/* Every engine with every query model; the same bytes at one and two threads; exact answers at full size. */
static void test_engines_and_models(void **state) {
  (void)state;
  pith_context *context[2] = {test_context(1), test_context(2)};
  fixture f = make();
  pith_array asked = pith_array_rows(&f.q, 0, 50);
  size_t size = LAYERS * HEADS * GROUP * 50 * D;
  float *exact = malloc(size * sizeof *exact), *answer = malloc(size * sizeof *answer);
  assert_ok(context[0], pith_attention_compute(context[0], &asked, &f.k, &f.v, NULL, exact));
  for (size_t e = 0; pith_engine_name(e); e++)
    for (int model = PITH_QUERIES_BALL; model <= PITH_QUERIES_SAMPLES; model++) {
      pith_compress_options options = defaults();
      options.engine = pith_engine_name(e);
      options.query_model = (pith_query_kind)model;
      if (strcmp(options.engine, "exact") != 0) options.points = 100;
      pith_summary *summary[2];
      for (int i = 0; i < 2; i++)
        assert_ok(context[i], pith_compress(context[i], &f.k, &f.v, &f.q, &options, &summary[i]));
      for (size_t h = 0; h < LAYERS * HEADS; h++) {
        pith_head_view a, b;
        assert_ok(context[0], pith_summary_head(context[0], summary[0], h / HEADS, h % HEADS, &a));
        assert_ok(context[1], pith_summary_head(context[1], summary[1], h / HEADS, h % HEADS, &b));
        assert_int_equal(a.points, b.points);
        assert_memory_equal(a.keys, b.keys, a.points * D * 2);
        assert_memory_equal(a.values, b.values, a.points * D * 2);
        assert_memory_equal(a.log_weight, b.log_weight, a.points * sizeof(float));
        assert_memory_equal(a.index, b.index, a.points * sizeof(int64_t));
      }
      assert_ok(context[0], pith_summary_attend(context[0], summary[0], &asked, 0, answer));
      double error = pith_error_measure(exact, answer, LAYERS * HEADS * GROUP * 50, D).relative;
      if (strcmp(options.engine, "exact") == 0)
        assert_true(error < 2e-3); /* f16 */
      else
        assert_true(error < 2); /* answers inside the values' hull cannot be far worse */
      if (strcmp(options.engine, "nystrom") == 0) assert_true(error < 1);
      pith_summary_free(summary[0]);
      pith_summary_free(summary[1]);
    }
  free(exact);
  free(answer);
  unmake(&f);
  pith_context_free(context[0]);
  pith_context_free(context[1]);
}

/* Folded weights: none left beside the keys, and answers near the weighted ones where queries share a direction. */
static void test_folding(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make();
  for (size_t i = 0; i < LAYERS * HEADS * GROUP * M; i++) f.queries[i * D] += 8; /* the common direction */
  pith_summary *summary[2];
  double error[2];
  for (int fold = 0; fold < 2; fold++) {
    pith_compress_options options = defaults();
    options.points = 120;
    options.fold_weights = fold;
    assert_ok(context, pith_compress(context, &f.k, &f.v, &f.q, &options, &summary[fold]));
    error[fold] = 0;
    for (size_t h = 0; h < LAYERS * HEADS; h++) {
      pith_head_view view;
      assert_ok(context, pith_summary_head(context, summary[fold], h / HEADS, h % HEADS, &view));
      error[fold] += view.probe_error;
      for (size_t s = 0; fold && s < view.points; s++) assert_true(view.log_weight[s] == 0);
      assert_true(fold ? isfinite(view.fold_error) : isnan(view.fold_error));
    }
    assert_int_equal(pith_summary_describe(summary[fold]).folded, fold);
    pith_summary_free(summary[fold]);
  }
  if (error[1] > 1.5 * error[0]) fail_msg("folded %g, weighted %g", error[1], error[0]);
  unmake(&f);
  pith_context_free(context);
}

/* Rows beside the summary: at full size the answer is causal attention over all. */
static void test_attend_beside(void **state) {
  (void)state;
  enum { LATER = 60, ASKED = 40 };
  pith_context *context = test_context(2);
  fixture f = make();
  pith_array prefix_k = pith_array_rows(&f.k, 0, N - LATER), prefix_v = pith_array_rows(&f.v, 0, N - LATER);
  pith_array later_k = pith_array_rows(&f.k, N - LATER, LATER), later_v = pith_array_rows(&f.v, N - LATER, LATER);
  pith_array asked = pith_array_rows(&f.q, 0, ASKED);
  pith_compress_options options = defaults();
  options.engine = "exact";
  options.store = PITH_F32;
  pith_summary *summary = NULL;
  assert_ok(context, pith_compress(context, &prefix_k, &prefix_v, NULL, &options, &summary));
  size_t size = LAYERS * HEADS * GROUP * ASKED * D;
  float *exact = malloc(size * sizeof *exact), *answer = malloc(size * sizeof *answer);
  pith_attention_options causal;
  pith_attention_options_init(&causal);
  causal.causal = 1;
  assert_ok(context, pith_attention_compute(context, &asked, &f.k, &f.v, &causal, exact));
  assert_ok(context, pith_summary_attend_beside(context, summary, &asked, &later_k, &later_v, 0, answer));
  assert_true(pith_error_measure(exact, answer, LAYERS * HEADS * GROUP * ASKED, D).max < 1e-5);
  pith_array wrong = pith_array_head(&later_k, 0, 0), wrong_v = pith_array_head(&later_v, 0, 0);
  assert_int_equal(pith_summary_attend_beside(context, summary, &asked, &wrong, &wrong_v, 0, answer), PITH_E_SHAPE);
  /* The same shapes again allocate nothing. */
  size_t held = pith_context_bytes(context), peak = pith_context_peak_bytes(context);
  assert_ok(context, pith_summary_attend(context, summary, &asked, 0, answer));
  held = pith_context_bytes(context);
  peak = pith_context_peak_bytes(context);
  assert_ok(context, pith_summary_attend(context, summary, &asked, 0, answer));
  assert_int_equal(pith_context_bytes(context), held);
  assert_int_equal(pith_context_peak_bytes(context), peak);
  pith_summary_free(summary);
  free(exact);
  free(answer);
  unmake(&f);
  pith_context_free(context);
}

static void expect(pith_context *context, const fixture *f, const pith_compress_options *options, pith_status status,
                   const char *words) {
  pith_summary *summary = NULL;
  pith_status got = pith_compress(context, &f->k, &f->v, &f->q, options, &summary);
  if (got != status || summary || !strstr(pith_context_message(context), words))
    fail_msg("%s: %s (wanted %s with \"%s\")", pith_status_name(got), pith_context_message(context),
             pith_status_name(status), words);
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  fixture f = make();
  pith_compress_options o = defaults();
  expect(context, &f, &o, PITH_E_ARGUMENT, "none is given");
  o.points = N + 1;
  expect(context, &f, &o, PITH_E_BUDGET, "401 are asked for, but a head has only 400 keys");
  o.ratio = 0.5;
  expect(context, &f, &o, PITH_E_ARGUMENT, "2 of points");
  o = defaults();
  o.points = 10;
  expect(context, &f, &o, PITH_E_BUDGET, "at least 20 points");
  o = defaults();
  o.bytes = 1;
  expect(context, &f, &o, PITH_E_BUDGET, "0 points a head");
  o.bytes = (size_t)1 << 40;
  expect(context, &f, &o, PITH_E_BUDGET, "more than");
  o = defaults();
  o.ratio = 0.5;
  o.engine = "magic";
  expect(context, &f, &o, PITH_E_UNKNOWN, "magic");
  o = defaults();
  o.ratio = -1;
  expect(context, &f, &o, PITH_E_ARGUMENT, "ratio is -1");
  o = defaults();
  o.ratio = 0.5;
  o.confidence = 1;
  expect(context, &f, &o, PITH_E_ARGUMENT, "confidence is 1");
  o = defaults();
  o.ratio = 0.5;
  o.store = PITH_I64;
  expect(context, &f, &o, PITH_E_TYPE, "i64");
  f.keys[3] = INFINITY;
  o = defaults();
  o.ratio = 0.5;
  expect(context, &f, &o, PITH_E_VALUE, "keys: row 0, column 3 is inf");
  unmake(&f);
  pith_context_free(context);
}

static void test_tiny(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float row[3] = {1, 2, 3};
  for (size_t n = 0; n <= 3; n++) {
    pith_array k = pith_array_matrix(row, PITH_F32, n, 1), v = pith_array_matrix(row, PITH_F32, n, 1);
    pith_compress_options o = defaults();
    o.points = n;
    pith_summary *summary = NULL;
    assert_ok(context, pith_compress(context, &k, &v, NULL, &o, &summary));
    assert_int_equal(pith_summary_describe(summary).points, n);
    pith_array q = pith_array_matrix(row, PITH_F32, 2, 1);
    float answer[2], exact[2];
    assert_ok(context, pith_summary_attend(context, summary, &q, 0, answer));
    assert_ok(context, pith_attention_compute(context, &q, &k, &v, NULL, exact));
    assert_float_equal(answer[0], exact[0], 1e-3);
    pith_summary_free(summary);
  }
  pith_context_free(context);
}

/* ---- No memory: the k-th allocation fails, for every k; each failure is clean, and nothing is left behind. ---- */

typedef struct meter {
  size_t allowed, held;
} meter;

static void *metered_allocate(void *user, size_t size) {
  meter *m = user;
  if (m->allowed == 0) return NULL;
  m->allowed--;
  m->held += size;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}

static void metered_release(void *user, void *pointer, size_t size) {
  ((meter *)user)->held -= size;
  free(pointer);
}

static void test_no_memory(void **state) {
  (void)state;
  fixture f = make();
  pith_array k = pith_array_head(&f.k, 0, 0), v = pith_array_head(&f.v, 0, 0), q = pith_array_head(&f.q, 0, 0);
  k = pith_array_rows(&k, 0, 100);
  v = pith_array_rows(&v, 0, 100);
  q = pith_array_rows(&q, 0, 60);
  const char *engines[] = {"nystrom", "halving", "heavy", "expected", "balance"};
  for (size_t e = 0; e < sizeof engines / sizeof *engines; e++) {
    bool done = false;
    for (size_t allowed = 0; !done; allowed++) {
      assert_true(allowed < 2000);
      meter m = {allowed, 0};
      pith_allocator allocator = {metered_allocate, metered_release, &m};
      pith_context_options options;
      pith_context_options_init(&options);
      options.allocator = &allocator;
      pith_context *context = NULL;
      pith_status status = pith_context_create(&options, &context);
      if (status == PITH_OK) {
        pith_compress_options o = defaults();
        o.engine = engines[e];
        o.refine = 2;
        o.points = 40;
        o.query_model = e == 0 ? PITH_QUERIES_SAMPLES : PITH_QUERIES_GAUSSIAN;
        o.outliers = 2;
        o.fold_weights = 1;
        pith_summary *summary = NULL;
        status = pith_compress(context, &k, &v, &q, &o, &summary);
        done = status >= 0;
        assert_true(done == (summary != NULL));
        pith_summary_free(summary);
      }
      if (!done && status != PITH_E_MEMORY)
        fail_msg("%s, %zu allocations: %s %s", engines[e], allowed, pith_status_name(status),
                 context ? pith_context_message(context) : "");
      pith_context_free(context);
      assert_int_equal(m.held, 0);
    }
  }
  unmake(&f);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_budgets),  cmocka_unit_test(test_eps),
                                     cmocka_unit_test(test_plan),     cmocka_unit_test(test_engines_and_models),
                                     cmocka_unit_test(test_folding),  cmocka_unit_test(test_attend_beside),
                                     cmocka_unit_test(test_refusals), cmocka_unit_test(test_tiny),
                                     cmocka_unit_test(test_no_memory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
