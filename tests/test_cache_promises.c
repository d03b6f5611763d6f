/* test_cache_promises.c - what a cache promises while tokens go by.
 *
 * Ball: over RUNS independent streams the bound is looked at after every fold. With delta = 0.1 the chance that it is
 * broken at all in a run is at most 0.1; more than LEAST_BROKEN of 200 runs would then happen once in 10^6 (binomial,
 * 200 trials of 0.1: mean 20, deviation 4.2). The negative control is a bound ten thousand times smaller, which is
 * broken. PITH_LONG_TESTS=1 runs 10^4.
 *
 * Coverage: probes and later queries are drawn from one law; with 9 probes and confidence 0.8 a later query errs no
 * more than the bound with probability 0.8 exactly. Given the probes, the covered share has the law Beta(8, 2); 32
 * queries are asked in each run, so that the mean over 1000 runs has deviation sqrt((.0145 + .16 / 32) / 1000) = .0044:
 * .02 is more than four of it. The negative control asks queries three times as long. */
#include <pith.h>

#include "test.h"

enum { D = 4, BLOCK = 16, BLOCKS = 12, LEAST_BROKEN = 40 };

typedef enum kind { SMOOTH, EQUAL, ALTERNATING, HUGE_KEY, GROWING, CHANGING, KINDS } kind;
static const char *const names[] = {"smooth",       "equal keys",    "alternating signs",
                                    "one huge key", "growing norms", "a change of topic"};

/* Token `t` of a stream: key and value. */
static void token(const pith_stream *random, kind k, size_t t, float *key, float *value) {
  double size = k == GROWING ? 0.1 + 0.01 * (double)t : k == HUGE_KEY && t == 40 ? 6 : 0.8;
  double sign = k == ALTERNATING && t % 2 ? -1 : 1, shift = k == CHANGING && t >= BLOCK * BLOCKS / 2 ? 1 : 0;
  for (size_t j = 0; j < D; j++) {
    double x = k == EQUAL ? 0.5 : k == ALTERNATING ? 0.4 : pith_random_gaussian(random, t * 2 * D + j) * 0.5;
    key[j] = (float)(size * x + (k == ALTERNATING ? (sign - 1) * 0.4 * size : 0) + shift);
    value[j] = (float)(sign * pith_random_gaussian(random, t * 2 * D + D + j) + shift);
  }
}

static pith_cache_options usual(const char *engine, uint64_t seed) {
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.d = D;
  o.engine = engine;
  o.query_model = PITH_QUERIES_BALL;
  o.budget = PITH_BUDGET_EVEN;
  o.store = PITH_F32;
  o.rho = 1;
  o.scale = 1;
  o.sinks = 1;
  o.window = 4;
  o.chunk = 32;
  o.probes = 0;
  o.certify = 1;
  o.delta = 0.1;
  o.seed = seed;
  o.bytes = (1 + 4 + 24) * (2 * D + 1) * sizeof(float);
  return o;
}

static double distance(const float *a, const float *b) {
  double sum = 0;
  for (size_t j = 0; j < D; j++) sum += pow((double)a[j] - b[j], 2);
  return sqrt(sum);
}

/* One run: the largest error in parts of its bound over all folds; *said: answers with a bound below the trivial one.
 */
static double worst_share(pith_context *context, const char *engine, kind k, uint64_t seed, size_t *said) {
  static float keys[BLOCK * BLOCKS * D], values[BLOCK * BLOCKS * D];
  pith_stream random = pith_stream_make(seed, PITH_STREAM_TEST, 7);
  pith_cache_options o = usual(engine, seed);
  pith_cache *cache = NULL;
  double worst = 0;
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t block = 0; block < BLOCKS; block++) {
    for (size_t i = 0; i < BLOCK; i++)
      token(&random, k, block * BLOCK + i, keys + (block * BLOCK + i) * D, values + (block * BLOCK + i) * D);
    pith_array key = pith_array_matrix(keys + block * BLOCK * D, PITH_F32, BLOCK, D);
    pith_array value = pith_array_matrix(values + block * BLOCK * D, PITH_F32, BLOCK, D);
    assert_ok(context, pith_cache_push(context, cache, 0, &key, &value, NULL));
    assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
    float query[D], got[D], wanted[D];
    double norm = 0;
    for (size_t j = 0; j < D; j++) {
      query[j] = (float)pith_random_gaussian(&random, 100000 + block * D + j);
      norm += query[j] * query[j];
    }
    for (size_t j = 0; j < D; j++) query[j] = (float)(query[j] / sqrt(norm));
    pith_array q = pith_array_matrix(query, PITH_F32, 1, D),
               all = pith_array_matrix(keys, PITH_F32, (block + 1) * BLOCK, D);
    pith_array all_values = pith_array_matrix(values, PITH_F32, (block + 1) * BLOCK, D);
    pith_attention_options exact;
    pith_attention_options_init(&exact);
    exact.scale = 1;
    pith_certificate certificate;
    assert_ok(context, pith_cache_attend(context, cache, 0, &q, got, &certificate));
    assert_ok(context, pith_attention_compute(context, &q, &all, &all_values, &exact, wanted));
    assert_int_equal(certificate.kind, PITH_CERTIFICATE_BALL);
    *said += certificate.certified != 0;
    double error = distance(got, wanted);
    if (error > 1e-5) worst = fmax(worst, error / certificate.bound);
  }
  pith_cache_free(cache);
  return worst;
}

static void test_ball(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const char *engines[] = {"halving", "nystrom"};
  size_t runs = getenv("PITH_LONG_TESTS") ? 10000 : 200;
  for (size_t e = 0; e < 2; e++)
    for (int k = 0; k < KINDS; k++) {
      size_t broken = 0, control = 0, said = 0;
      for (size_t run = 0; run < runs; run++) {
        double share = worst_share(context, engines[e], (kind)k, 1000 * (uint64_t)k + run, &said);
        broken += share > 1;
        control += share > 1e-4;
      }
      print_message("%s, %s: broken in %zu of %zu runs, %.2f of answers certified\n", engines[e], names[k], broken,
                    runs, (double)said / (double)(runs * BLOCKS));
      assert_true(broken * 200 <= LEAST_BROKEN * runs);
      if (e == 1) assert_int_equal(broken, 0);
      if (k == SMOOTH) assert_true(control > runs / 2 && said > 0);
    }
  test_context_free(context);
}

/* ---- Gaussian ---- */

enum { FIRST = 11, DRAWN = 400 }; /* rows of the first fold, whose queries make the law */

/* Root mean square error over queries drawn from the law in parts of the bound; *head: what the cache says of itself.
 * The law is that of the queries of the first rows folded: mean + sum_i normal_i (query_i - mean) / sqrt(FIRST). */
static double rms_share(pith_context *context, const char *engine, kind k, double length, uint64_t seed,
                        pith_cache_head *head) {
  static float keys[BLOCK * BLOCKS * D], values[BLOCK * BLOCKS * D], queries[BLOCK * BLOCKS * D];
  static float drawn[DRAWN * D], got[DRAWN * D], wanted[DRAWN * D];
  pith_stream random = pith_stream_make(seed, PITH_STREAM_TEST, 11);
  pith_cache_options o = usual(engine, seed);
  o.query_model = PITH_QUERIES_GAUSSIAN;
  o.recent = 64;
  pith_cache *cache = NULL;
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t t = 0; t < BLOCK * BLOCKS; t++) {
    token(&random, k, t, keys + t * D, values + t * D);
    for (size_t j = 0; j < D; j++)
      queries[t * D + j] = (float)(length * (pith_random_gaussian(&random, 300000 + t * D + j) * 0.5 + (j == 0)));
  }
  for (size_t t = 0; t < BLOCK * BLOCKS; t += BLOCK) {
    pith_array key = pith_array_matrix(keys + t * D, PITH_F32, BLOCK, D);
    pith_array value = pith_array_matrix(values + t * D, PITH_F32, BLOCK, D);
    pith_array query = pith_array_matrix(queries + t * D, PITH_F32, BLOCK, D);
    assert_ok(context, pith_cache_push(context, cache, 0, &key, &value, &query));
    assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
  }
  double mean[D] = {0};
  for (size_t i = 0; i < FIRST * D; i++) mean[i % D] += queries[D + i] / (double)FIRST;
  for (size_t r = 0; r < DRAWN; r++)
    for (size_t j = 0; j < D; j++) {
      double sum = mean[j];
      for (size_t i = 0; i < FIRST; i++)
        sum += pith_random_gaussian(&random, 500000 + r * FIRST + i) * (queries[D + i * D + j] - mean[j]) / sqrt(FIRST);
      drawn[r * D + j] = (float)sum;
    }
  pith_array all = pith_array_matrix(keys, PITH_F32, BLOCK * BLOCKS, D), asked;
  pith_array all_values = pith_array_matrix(values, PITH_F32, BLOCK * BLOCKS, D);
  asked = pith_array_matrix(drawn, PITH_F32, DRAWN, D);
  pith_attention_options exact;
  pith_attention_options_init(&exact);
  exact.scale = 1;
  assert_ok(context, pith_attention_compute(context, &asked, &all, &all_values, &exact, wanted));
  for (size_t r = 0; r < DRAWN; r++) {
    pith_array one = pith_array_matrix(drawn + r * D, PITH_F32, 1, D);
    assert_ok(context, pith_cache_attend(context, cache, 0, &one, got + r * D, NULL));
  }
  assert_ok(context, pith_cache_look(context, cache, 0, 0, head, NULL));
  pith_cache_free(cache);
  return pith_error_measure(wanted, got, DRAWN, D).rms / head->gaussian.bound;
}

/* The bound holds on every kind of stream, also where it says nothing: it is then not called certified. The negative
 * control is a thousandth of it. */
static void test_law(void **state) {
  (void)state;
  enum { RUNS = 20 };
  pith_context *context = test_context(1);
  const char *engines[] = {"halving", "nystrom", "uniform"};
  for (size_t e = 0; e < 3; e++)
    for (int k = 0; k < KINDS; k++) {
      size_t said = 0, control = 0;
      double worst = 0;
      for (uint64_t run = 0; run < RUNS; run++) {
        pith_cache_head head;
        double share = rms_share(context, engines[e], (kind)k, 1, 5000 + run, &head);
        assert_int_equal(head.gaussian.kind, PITH_CERTIFICATE_GAUSSIAN);
        said += head.gaussian.certified != 0;
        control += share > 1e-3;
        worst = fmax(worst, share);
        if (!head.ball.certified && head.gaussian.certified)
          assert_int_equal(head.binding.kind, PITH_CERTIFICATE_GAUSSIAN);
      }
      print_message("%s, %s: root mean square at most %.3f of its bound, certified in %zu of %d\n", engines[e],
                    names[k], worst, said, RUNS);
      assert_true(worst <= 1);
      if (k == SMOOTH) assert_true(control == RUNS && said > 0);
    }
  pith_cache_head head;
  (void)rms_share(context, "uniform", GROWING, 8, 1, &head); /* logits of 30: nothing can be said, and that is said */
  assert_int_equal(head.gaussian.certified, 0);
  assert_int_equal(head.binding.certified, 0);
  assert_true(head.gaussian.bound >= head.gaussian.trivial);
  test_context_free(context);
}

/* ---- Probes ---- */

enum { ASKED = BLOCK, PROBES = 9 };

/* How many of ASKED new queries err less than the probe bound. */
static size_t covered(pith_context *context, uint64_t seed, double stretch) {
  static float keys[BLOCK * BLOCKS * D], values[BLOCK * BLOCKS * D], queries[BLOCK * D];
  pith_stream random = pith_stream_make(seed, PITH_STREAM_TEST, 9);
  pith_cache_options o = usual("uniform", seed);
  o.certify = 0;
  o.probes = PROBES;
  o.confidence = 0.8;
  pith_cache *cache = NULL;
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t block = 0; block < BLOCKS; block++) {
    for (size_t i = 0; i < BLOCK; i++)
      token(&random, SMOOTH, block * BLOCK + i, keys + (block * BLOCK + i) * D, values + (block * BLOCK + i) * D);
    for (size_t i = 0; i < BLOCK * D; i++)
      queries[i] = (float)pith_random_gaussian(&random, 200000 + block * BLOCK * D + i);
    pith_array key = pith_array_matrix(keys + block * BLOCK * D, PITH_F32, BLOCK, D);
    pith_array value = pith_array_matrix(values + block * BLOCK * D, PITH_F32, BLOCK, D);
    pith_array query = pith_array_matrix(queries, PITH_F32, BLOCK, D);
    assert_ok(context, pith_cache_push(context, cache, 0, &key, &value, &query));
    /* the first fold waits for enough queries to draw probes from */
    if (block >= 2) assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
  }
  for (size_t i = 0; i < ASKED * D; i++) queries[i] = (float)(stretch * pith_random_gaussian(&random, 400000 + i));
  pith_cache_head head;
  double errors[PROBES];
  assert_ok(context, pith_cache_look(context, cache, 0, 0, &head, errors));
  assert_int_equal(head.probe.kind, PITH_CERTIFICATE_PROBE);
  pith_attention_options exact;
  pith_attention_options_init(&exact);
  exact.scale = 1;
  size_t good = 0;
  for (size_t i = 0; i < ASKED; i++) {
    float got[D], wanted[D];
    pith_array q = pith_array_matrix(queries + i * D, PITH_F32, 1, D);
    pith_array k = pith_array_matrix(keys, PITH_F32, BLOCK * BLOCKS, D),
               v = pith_array_matrix(values, PITH_F32, BLOCK * BLOCKS, D);
    assert_ok(context, pith_cache_attend(context, cache, 0, &q, got, NULL));
    assert_ok(context, pith_attention_compute(context, &q, &k, &v, &exact, wanted));
    good += distance(got, wanted) <= head.probe.bound;
  }
  pith_cache_free(cache);
  return good;
}

static void test_coverage(void **state) {
  (void)state;
  enum { RUNS = 1000 };
  pith_context *context = test_context(1);
  size_t good = 0, control = 0;
  for (size_t run = 0; run < RUNS; run++) good += covered(context, run, 1);
  for (size_t run = 0; run < RUNS / 10; run++) control += covered(context, run, 3);
  double share = (double)good / (RUNS * ASKED), wrong = (double)control / (RUNS / 10 * ASKED);
  print_message("covered: %.3f, with longer queries %.3f\n", share, wrong);
  assert_true(fabs(share - 0.8) <= 0.02);
  assert_true(fabs(wrong - 0.8) > 0.02);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ball), cmocka_unit_test(test_law),
                                     cmocka_unit_test(test_coverage)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
