/* test_budget.c - hulls and spending against every possible choice; heads of different difficulty made within a
 * total. */
#include "attention/attention.h"
#include "budget.h"
#include "budget/menu.h"
#include "pith.h"
#include "summary/store.h"
#include "test.h"

/* ---- Hulls and spending ---- */

enum { MENUS = 4, OPTIONS = 6, TRIALS = 200 };

typedef struct market {
  pith_option option[MENUS][OPTIONS];
  pith_menu menu[MENUS];
  size_t bytes[MENUS * OPTIONS];
  double cost[MENUS * OPTIONS];
} market;

/* Costs fall with bytes but for chance; some bytes and some costs are equal, but no three options
 * lie on a line that falls. */
static void draw_market(market *m, uint64_t trial) {
  pith_stream stream = pith_stream_make(trial, PITH_STREAM_TEST, 1);
  for (size_t i = 0; i < MENUS * OPTIONS; i++) {
    size_t bytes = 10 * (1 + pith_random_below(&stream, 3 * i, 12));
    double scale = pow(10, 2 * pith_random_uniform(&stream, 1000 + i / OPTIONS));
    double cost = scale * (1 + 4 * pith_random_uniform(&stream, 3 * i + 1)) / (double)bytes;
    if (i % OPTIONS > 0 && i % 5 == 0) cost = m->cost[i - 1];
    m->option[i / OPTIONS][i % OPTIONS] = (pith_option){.points = i, .store = PITH_F16, .bytes = bytes, .cost = cost};
    m->bytes[i] = bytes;
    m->cost[i] = cost;
  }
  for (size_t i = 0; i < MENUS; i++) {
    m->menu[i] = (pith_menu){OPTIONS, m->option[i]};
    pith_menu_hull(&m->menu[i]);
  }
}

static void test_hull(void **state) {
  (void)state;
  for (uint64_t trial = 0; trial < TRIALS; trial++) {
    market m;
    draw_market(&m, trial);
    for (size_t i = 0; i < MENUS; i++) {
      const size_t *bytes = m.bytes + i * OPTIONS;
      const double *cost = m.cost + i * OPTIONS;
      for (size_t j = 0; j < OPTIONS; j++) {
        size_t times = 0, twins = 0;
        for (size_t k = 0; k < m.menu[i].count; k++)
          times += m.menu[i].option[k].bytes == bytes[j] && m.menu[i].option[k].cost == cost[j];
        for (size_t k = 0; k < OPTIONS; k++) twins += bytes[k] == bytes[j] && cost[k] == cost[j];
        if (twins == 1) assert_int_equal(times, reference_on_hull(OPTIONS, bytes, cost, j));
        assert_true(times <= 1);
      }
      for (size_t k = 1; k < m.menu[i].count; k++) {
        assert_true(m.menu[i].option[k].bytes > m.menu[i].option[k - 1].bytes);
        assert_true(m.menu[i].option[k].cost < m.menu[i].option[k - 1].cost);
      }
    }
  }
}

/* What greedy spending leaves undone is never worth more than the dearest step of a hull, and where it spends all,
 * or nothing is left to buy, there is nothing better. */
static void test_spending(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t exhausted = 0;
  for (uint64_t trial = 0; trial < TRIALS; trial++) {
    market m;
    draw_market(&m, trial);
    size_t least = 0, chosen[MENUS], spent = 0;
    double largest_step = 0, cost = 0;
    for (size_t i = 0; i < MENUS; i++) least += m.option[i][0].bytes;
    size_t budget = least + 10 * (trial % 30) + trial % 7;
    assert_int_equal(pith_spend(context, m.menu, MENUS, least - 1, chosen), PITH_E_BUDGET);
    assert_ok(context, pith_spend(context, m.menu, MENUS, budget, chosen));
    for (size_t i = 0; i < MENUS; i++) {
      const pith_option *now = &m.menu[i].option[chosen[i]];
      spent += now->bytes;
      cost += now->cost;
    }
    assert_true(spent <= budget);
    bool all = true;
    for (size_t i = 0; i < MENUS; i++) {
      const pith_option *now = &m.menu[i].option[chosen[i]];
      if (chosen[i] + 1 < m.menu[i].count) all = false, assert_true(spent + now[1].bytes - now->bytes > budget);
      for (size_t k = 1; k < m.menu[i].count; k++)
        largest_step = fmax(largest_step, m.option[i][k - 1].cost - m.option[i][k].cost);
    }
    double best = reference_spend(MENUS, OPTIONS, m.bytes, m.cost, budget);
    assert_true(cost >= best * (1 - 1e-12) && cost <= best + largest_step + 1e-12);
    if (all) assert_true(cost <= best * (1 + 1e-12));
    exhausted += all;
  }
  assert_true(exhausted > 0 && exhausted < TRIALS);
  pith_context_free(context);
}

/* Where the hulls' steps are taken in order and none is left out, spending is optimal for what it spent. */
static void test_spending_is_optimal_on_its_path(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (uint64_t trial = 0; trial < TRIALS; trial++) {
    market m;
    draw_market(&m, trial);
    size_t at[MENUS] = {0}, chosen[MENUS];
    for (;;) { /* the path, one best step after another */
      size_t best = MENUS, spent = 0;
      double saved = 0, cost = 0;
      for (size_t i = 0; i < MENUS; i++) {
        const pith_option *now = &m.menu[i].option[at[i]];
        spent += now->bytes;
        cost += now->cost;
        if (at[i] + 1 == m.menu[i].count) continue;
        double rate = (now->cost - now[1].cost) / (double)(now[1].bytes - now->bytes);
        if (rate > saved) saved = rate, best = i;
      }
      double least = reference_spend(MENUS, OPTIONS, m.bytes, m.cost, spent), mine = 0;
      assert_true(fabs(cost - least) <= 1e-12 * least);
      assert_ok(context, pith_spend(context, m.menu, MENUS, spent, chosen));
      for (size_t i = 0; i < MENUS; i++) mine += m.menu[i].option[chosen[i]].cost;
      assert_true(fabs(mine - least) <= 1e-12 * least);
      if (best == MENUS) break;
      at[best]++;
    }
  }
  pith_context_free(context);
}

/* ---- Heads ---- */

enum { LAYERS = 2, HEADS = 2, COUNT = LAYERS * HEADS, N = 512, D = 16, M = 600, ASKED = 300 };

typedef struct fixture {
  float *keys, *values, *queries, *asked;
  pith_array k, v, q, later, w;
  float weight[COUNT];
} fixture;

static pith_array heads_of(const float *data, size_t rows) {
  ptrdiff_t row = D * sizeof(float), head = (ptrdiff_t)rows * row;
  return (pith_array){data, PITH_F32, 4, {LAYERS, HEADS, rows, D}, {HEADS * head, head, row, sizeof(float)}};
}

/* The sharper the queries of a head, the more points it needs; what an error costs differs by head, too. */
static fixture make(void) {
  static const double sharpness[COUNT] = {0.3, 1, 2, 3};
  fixture f = {.keys = test_gaussian(1, COUNT * N * D, 1),
               .values = test_gaussian(2, COUNT * N * D, 1),
               .queries = test_gaussian(3, COUNT * M * D, 1),
               .asked = test_gaussian(4, COUNT * ASKED * D, 1),
               .weight = {1, 0.1F, 0.3F, 0.5F}};
  for (size_t i = 0; i < COUNT; i++) {
    for (size_t j = 0; j < M * D; j++) f.queries[i * M * D + j] *= (float)sharpness[i];
    for (size_t j = 0; j < ASKED * D; j++) f.asked[i * ASKED * D + j] *= (float)sharpness[i];
  }
  f.k = heads_of(f.keys, N);
  f.v = heads_of(f.values, N);
  f.q = heads_of(f.queries, M);
  f.later = heads_of(f.asked, ASKED);
  return f;
}

static void unmake(fixture *f) {
  free(f->keys);
  free(f->values);
  free(f->queries);
  free(f->asked);
}

static pith_summary *compress(pith_context *context, fixture *f, double ratio, pith_budget budget, pith_dtype store) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.refine = 0;
  options.ratio = ratio;
  options.budget = budget;
  options.store = store;
  options.sinks = options.window = 2;
  f->w = pith_array_matrix(f->weight, PITH_F32, LAYERS, HEADS);
  options.head_weights = &f->w;
  pith_summary *summary = NULL;
  assert_ok(context, pith_compress(context, &f->k, &f->v, &f->q, &options, &summary));
  return summary;
}

/* What predicted_kl makes of errors, four times the weighted square, on queries that the summary never saw. */
static double measure(pith_context *context, const fixture *f, const pith_summary *summary) {
  size_t size = ASKED * D;
  float *exact = malloc(COUNT * size * sizeof *exact), *answer = malloc(COUNT * size * sizeof *answer);
  assert_ok(context, pith_attention_compute(context, &f->later, &f->k, &f->v, NULL, exact));
  assert_ok(context, pith_summary_attend(context, summary, &f->later, 0, answer));
  double cost = 0;
  for (size_t i = 0; i < COUNT; i++) {
    double rms = pith_error_measure(exact + i * size, answer + i * size, ASKED, D).rms;
    cost += 4 * f->weight[i] * rms * rms;
  }
  free(exact);
  free(answer);
  return cost;
}

/* At every ratio and store: the total is kept, and spent but for the points that the engine has no
 * use for (at 1/4 the flat head runs out of rank), spread errs less than even on
 * unseen queries, and the prediction is near what is measured. Each prediction is a mean over 4 x 300 probes of
 * squared errors; a factor of 1.5 is more than five of its standard errors here. With head weights that name
 * only the head that counts least (the control), spreading by them is worse than even. */
static void test_spread(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make();
  static const pith_dtype stores[] = {PITH_F16, PITH_STORE_AUTO};
  for (int part = 4; part <= 16; part *= 2)
    for (int s = 0; s < 2; s++) {
      double ratio = 1.0 / part, cost[2];
      size_t total = (size_t)(ratio * 2 * 2 * D * N * COUNT);
      for (int spread = 0; spread < 2; spread++) {
        pith_summary *summary = compress(context, &f, ratio, spread ? PITH_BUDGET_SPREAD : PITH_BUDGET_EVEN, stores[s]);
        pith_summary_info info = pith_summary_describe(summary);
        size_t sum = 0;
        for (size_t i = 0; i < COUNT; i++) {
          pith_head_view view;
          assert_ok(context, pith_summary_head(context, summary, i / HEADS, i % HEADS, &view));
          sum += view.bytes;
          assert_true(view.probe_error > 0 && view.probe.kind == PITH_CERTIFICATE_PROBE);
          if (!spread) assert_true(view.bytes <= total / COUNT);
        }
        assert_int_equal(sum, info.bytes);
        assert_true(sum <= total);
        if (spread && total - sum >= (part == 4 ? total / 32 : 5 * pith_store_point_bytes(PITH_F16, D, D)))
          fail_msg("1/%d, store %d: %zu of %zu bytes were spent", part, s, sum, total);
        cost[spread] = measure(context, &f, summary);
        if (info.predicted_kl > 1.5 * cost[spread] || info.predicted_kl < cost[spread] / 1.5)
          fail_msg("1/%d: predicted %g, measured %g", part, info.predicted_kl, cost[spread]);
        pith_summary_free(summary);
      }
      if (cost[1] > 0.9 * cost[0]) fail_msg("1/%d, store %d: spread %g, even %g", part, s, cost[1], cost[0]);
      fixture turned = f;
      for (size_t i = 0; i < COUNT; i++) turned.weight[i] = i == 1;
      pith_summary *control = compress(context, &turned, ratio, PITH_BUDGET_SPREAD, stores[s]);
      assert_true(measure(context, &f, control) > cost[0]);
      pith_summary_free(control);
    }
  unmake(&f);
  pith_context_free(context);
}

/* Where heads do not differ by more than menus err, each gets an equal part: all heads are the same here, but for their
 * seeds, and have as many points, all the bytes that even parts allow. The control: one that costs a thousand times as
 * much as each other one gets more. */
static void test_spread_of_like_heads(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make();
  for (size_t i = 0; i < COUNT; i++) {
    memmove(f.keys + i * N * D, f.keys + 2 * N * D, N * D * sizeof(float));
    memmove(f.values + i * N * D, f.values + 2 * N * D, N * D * sizeof(float));
    memmove(f.queries + i * M * D, f.queries + 2 * M * D, M * D * sizeof(float));
  }
  for (int dear = 0; dear < 2; dear++) {
    for (size_t i = 0; i < COUNT; i++) f.weight[i] = dear && i == 3 ? 1000 : 1;
    pith_summary *summary = compress(context, &f, 0.125, PITH_BUDGET_SPREAD, PITH_F16);
    size_t points[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
      pith_head_view view;
      assert_ok(context, pith_summary_head(context, summary, i / HEADS, i % HEADS, &view));
      points[i] = view.points;
    }
    for (size_t i = 0; i < 3; i++) assert_true(dear ? points[i] < points[3] : points[i] == points[3]);
    if (!dear) assert_in_range(points[3] * pith_store_point_bytes(PITH_F16, D, D), N / 8 * 4 * D - 100, N / 8 * 4 * D);
    pith_summary_free(summary);
  }
  unmake(&f);
  pith_context_free(context);
}

static void test_same_at_any_thread_count(void **state) {
  (void)state;
  fixture f = make();
  pith_summary *summary[2];
  pith_context *context[2] = {test_context(1), test_context(2)};
  for (int i = 0; i < 2; i++) summary[i] = compress(context[i], &f, 0.125, PITH_BUDGET_SPREAD, PITH_STORE_AUTO);
  assert_true(pith_summary_describe(summary[0]).predicted_kl == pith_summary_describe(summary[1]).predicted_kl);
  for (size_t i = 0; i < COUNT; i++) {
    pith_head_view a, b;
    assert_ok(context[0], pith_summary_head(context[0], summary[0], i / HEADS, i % HEADS, &a));
    assert_ok(context[1], pith_summary_head(context[1], summary[1], i / HEADS, i % HEADS, &b));
    assert_int_equal(a.points, b.points);
    assert_int_equal(a.store, b.store);
    assert_memory_equal(a.keys, b.keys, a.points * pith_store_row_bytes(a.store, D));
    assert_memory_equal(a.values, b.values, a.points * pith_store_row_bytes(a.store, D));
    assert_memory_equal(a.log_weight, b.log_weight, a.points * sizeof(float));
  }
  for (int i = 0; i < 2; i++) {
    pith_summary_free(summary[i]);
    pith_context_free(context[i]);
  }
  unmake(&f);
}

/* The prediction, its lack, and their way through a file; the menu of totals. */
static void test_prediction(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f = make();
  char path[] = "/tmp/pith-test-XXXXXX";
  int file = mkstemp(path);
  assert_true(file >= 0);
  for (int weighted = 0; weighted < 2; weighted++) {
    pith_compress_options options;
    pith_compress_options_init(&options);
    options.refine = 0;
    options.ratio = 0.25;
    f.w = pith_array_matrix(f.weight, PITH_F32, LAYERS, HEADS);
    options.head_weights = weighted ? &f.w : NULL;
    pith_summary *summary = NULL, *loaded = NULL;
    assert_ok(context, pith_compress(context, &f.k, &f.v, &f.q, &options, &summary));
    assert_ok(context, pith_summary_save(context, summary, path));
    assert_ok(context, pith_summary_load(context, path, &loaded));
    double predicted = pith_summary_describe(summary).predicted_kl, read = pith_summary_describe(loaded).predicted_kl;
    assert_true(weighted ? predicted > 0 && predicted == read : isnan(predicted) && isnan(read));
    pith_plan_row rows[8];
    size_t count = 8;
    assert_ok(context, pith_plan(context, &f.k, &f.v, &f.q, &options, rows, &count));
    assert_true(count >= 3);
    assert_true(weighted ? rows[1].predicted_kl == predicted : isnan(rows[1].predicted_kl));
    assert_int_equal(rows[1].bytes, pith_summary_describe(summary).bytes);
    for (size_t i = 1; weighted && i < count; i++) assert_true(rows[i].predicted_kl > rows[i - 1].predicted_kl);
    pith_summary_free(summary);
    pith_summary_free(loaded);
  }
  (void)remove(path);
  unmake(&f);
  pith_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_hull),
                                     cmocka_unit_test(test_spending),
                                     cmocka_unit_test(test_spending_is_optimal_on_its_path),
                                     cmocka_unit_test(test_spread),
                                     cmocka_unit_test(test_spread_of_like_heads),
                                     cmocka_unit_test(test_same_at_any_thread_count),
                                     cmocka_unit_test(test_prediction)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
