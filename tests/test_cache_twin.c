/* test_cache_twin.c - a cache against its slow twin: the same rows are kept, and the answers are those. */
#include <pith.h>

#include "cache.h"
#include "test.h"

enum { D = 6, DV = 5, TOKENS = 420, SINKS = 3, WINDOW = 9, POINTS = 40, SEED = 17 };

typedef struct both {
  float *keys, *values, *queries;
  double number[TOKENS];
  pith_cache *cache;
  reference_cache twin;
} both;

static void open_both(pith_context *context, const char *engine, reference_rule rule, uint64_t seed, both *b) {
  b->keys = test_gaussian(seed, TOKENS * D, 0.8);
  b->values = test_gaussian(seed + 1, TOKENS * DV, 1);
  b->queries = test_gaussian(seed + 2, TOKENS * D, 2);
  pith_stream numbers = pith_stream_make(SEED, PITH_STREAM_RESERVOIR, 0);
  for (size_t t = 0; t < TOKENS; t++) b->number[t] = pith_random_uniform(&numbers, t);
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.engine = engine;
  o.d = D;
  o.dv = DV;
  o.sinks = SINKS;
  o.window = WINDOW;
  o.chunk = 64;
  o.store = PITH_F32;
  o.seed = SEED;
  o.bytes = ((SINKS + WINDOW) * (D + DV) + POINTS * (D + DV + 1)) * sizeof(float);
  assert_ok(context, pith_cache_create(context, &o, &b->cache));
  b->twin = (reference_cache){.rule = rule,
                              .d = D,
                              .dv = DV,
                              .sinks = SINKS,
                              .window = WINDOW,
                              .points = POINTS,
                              .most = TOKENS,
                              .keys = b->keys,
                              .values = b->values,
                              .queries = b->queries,
                              .number = b->number,
                              .scale = 1 / sqrt(D)};
  reference_cache_open(&b->twin);
}

static void close_both(both *b) {
  reference_cache_close(&b->twin);
  pith_cache_free(b->cache);
  free(b->keys);
  free(b->values);
  free(b->queries);
}

/* Largest difference of the answers of the last `count` tokens. */
static double difference(pith_context *context, const both *b, size_t from, size_t count) {
  float got[64 * DV];
  double wanted[DV], worst = 0;
  pith_array q = pith_array_matrix(b->queries + from * D, PITH_F32, count, D);
  assert_ok(context, pith_cache_attend(context, b->cache, 0, &q, got, NULL));
  for (size_t i = 0; i < count; i++) {
    reference_cache_answer(&b->twin, from + i, wanted);
    for (size_t j = 0; j < DV; j++) worst = fmax(worst, fabs(got[i * DV + j] - wanted[j]));
  }
  return worst;
}

/* Blocks of many sizes, folded now and then; *before, *after: largest difference of answers before folds and after. */
static void run(pith_context *context, both *b, double *before, double *after) {
  static const size_t blocks[] = {1, 30, 7, 19, 2, 40, 11};
  size_t at = 0;
  *before = *after = 0;
  for (size_t i = 0; at + 40 <= TOKENS; i++) {
    size_t count = blocks[i % (sizeof blocks / sizeof *blocks)];
    pith_array k = pith_array_matrix(b->keys + at * D, PITH_F32, count, D);
    pith_array v = pith_array_matrix(b->values + at * DV, PITH_F32, count, DV);
    pith_array q = pith_array_matrix(b->queries + at * D, PITH_F32, count, D);
    assert_ok(context, pith_cache_push(context, b->cache, 0, &k, &v, &q));
    reference_cache_push(&b->twin, count);
    *before = fmax(*before, difference(context, b, at, count));
    at += count;
    if (i % 3 == 1) continue; /* two blocks at once */
    assert_ok(context, pith_cache_fold(context, b->cache, PITH_CACHE_ALL));
    reference_cache_fold(&b->twin);
    *after = fmax(*after, difference(context, b, at - 1, 1));
  }
}

/* The rows that both keep, by position. */
static void compare_rows(pith_context *context, const both *b) {
  pith_summary *summary = NULL;
  pith_head_view view;
  bool there[TOKENS] = {false};
  assert_ok(context, pith_cache_summarize(context, b->cache, &summary));
  assert_ok(context, pith_summary_head(context, summary, 0, 0, &view));
  for (size_t i = 0; i < view.points; i++) there[view.index[i]] = true;
  for (size_t t = 0; t < b->twin.length; t++) assert_int_equal(there[t], b->twin.kept[t]);
  pith_summary_free(summary);
}

static const char *const names[] = {"recent", "uniform", "heavy", "accumulated"};

static void test_twins(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  for (int rule = REFERENCE_RECENT; rule <= REFERENCE_ACCUMULATED; rule++)
    for (uint64_t seed = 0; seed < 5; seed++) {
      both b;
      double before, after;
      open_both(context, names[rule], (reference_rule)rule, 100 * seed, &b);
      run(context, &b, &before, &after);
      if (before > 1e-5 || after > 1e-5) fail_msg("%s: %g before folds, %g after", names[rule], before, after);
      compare_rows(context, &b);
      close_both(&b);
    }
  test_context_free(context);
}

/* The negative control: the twin of another rule answers otherwise. */
static void test_strangers(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (int rule = REFERENCE_RECENT; rule <= REFERENCE_ACCUMULATED; rule++) {
    both b;
    double before, after;
    open_both(context, names[rule], (reference_rule)((rule + 1) % 4), 900, &b);
    run(context, &b, &before, &after);
    assert_true(after > 1e-2);
    close_both(&b);
  }
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_twins), cmocka_unit_test(test_strangers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
