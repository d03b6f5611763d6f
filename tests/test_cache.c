/* test_cache.c - a cache that does not grow: what it answers, what it holds, what it refuses. */
#include <pith.h>

#include "test.h"

enum { D = 8, LAYERS = 2, KV = 2, QUERY = 4 };

/* A stream of tokens of one layer: smooth keys, values that follow them, queries near the keys. */
typedef struct stream {
  size_t n;
  float *keys, *values, *queries; /* (LAYERS, heads, n, D) */
} stream;

static stream stream_make(size_t n, uint64_t seed) {
  stream s = {.n = n};
  s.keys = test_gaussian(seed, LAYERS * KV * n * D, 0.7);
  s.values = test_gaussian(seed + 1, LAYERS * KV * n * D, 1);
  s.queries = test_gaussian(seed + 2, LAYERS * QUERY * n * D, 1.5);
  for (size_t i = 0; i < LAYERS * KV * n * D; i++) s.values[i] = 0.5F * s.values[i] + s.keys[i];
  return s;
}

static void stream_free(stream *s) {
  free(s->keys);
  free(s->values);
  free(s->queries);
}

/* Tokens from .. from + count - 1 of one layer of an array of all. */
static pith_array part(const stream *s, const float *all, size_t heads, size_t layer, size_t from, size_t count) {
  pith_array a = {
      .data = all + (layer * heads * s->n + from) * D, .dtype = PITH_F32, .ndim = 3, .shape = {heads, count, D}};
  a.stride[2] = sizeof(float);
  a.stride[1] = D * sizeof(float);
  a.stride[0] = (ptrdiff_t)(s->n * D * sizeof(float));
  return a;
}

static pith_cache_options usual(const char *engine, size_t points) {
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.layers = LAYERS;
  o.kv_heads = KV;
  o.query_heads = QUERY;
  o.d = D;
  o.engine = engine;
  o.sinks = 2;
  o.window = 12;
  o.chunk = 32;
  o.recent = 48;
  o.older = 16;
  o.probes = 8;
  o.horizon = 64;
  o.store = PITH_F32;
  o.bytes = LAYERS * KV * (points + 14) * (2 * D + 1) * sizeof(float);
  return o;
}

static void push_layer(pith_context *context, pith_cache *cache, const stream *s, size_t layer, size_t from,
                       size_t count) {
  pith_array k = part(s, s->keys, KV, layer, from, count), v = part(s, s->values, KV, layer, from, count);
  pith_array q = part(s, s->queries, QUERY, layer, from, count);
  assert_ok(context, pith_cache_push(context, cache, layer, &k, &v, &q));
}

static void push(pith_context *context, pith_cache *cache, const stream *s, size_t from, size_t count) {
  for (size_t layer = 0; layer < LAYERS; layer++) push_layer(context, cache, s, layer, from, count);
}

/* Answers of tokens from .. from + count - 1, all layers: (LAYERS, QUERY, count, D). */
static void ask(pith_context *context, const pith_cache *cache, const stream *s, size_t from, size_t count,
                float *out) {
  for (size_t layer = 0; layer < LAYERS; layer++) {
    pith_array q = part(s, s->queries, QUERY, layer, from, count);
    assert_ok(context, pith_cache_attend(context, cache, layer, &q, out + layer * QUERY * count * D, NULL));
  }
}

static void exact(pith_context *context, const stream *s, size_t from, size_t count, float *out) {
  pith_attention_options o;
  pith_attention_options_init(&o);
  o.causal = 1;
  for (size_t layer = 0; layer < LAYERS; layer++) {
    pith_array q = part(s, s->queries, QUERY, layer, from, count);
    pith_array k = part(s, s->keys, KV, layer, 0, from + count), v = part(s, s->values, KV, layer, 0, from + count);
    assert_ok(context, pith_attention_compute(context, &q, &k, &v, &o, out + layer * QUERY * count * D));
  }
}

static double mean_error(pith_context *context, const pith_cache *cache, const stream *s, size_t from, size_t count) {
  enum { MOST = 64 };
  float got[LAYERS * QUERY * MOST * D], wanted[LAYERS * QUERY * MOST * D];
  assert_true(count <= MOST);
  ask(context, cache, s, from, count, got);
  exact(context, s, from, count, wanted);
  return pith_error_measure(wanted, got, LAYERS * QUERY * count, D).mean;
}

static const char *const engines[] = {"nystrom", "halving", "uniform", "recent", "heavy", "accumulated"};
enum { ENGINES = sizeof engines / sizeof *engines };

/* While nothing has to go, answers are exact, block after block, at every token's own time. */
static void test_exact_while_it_fits(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  stream s = stream_make(300, 1);
  for (size_t e = 0; e < ENGINES; e++) {
    pith_cache_options o = usual(engines[e], 300);
    pith_cache *cache = NULL;
    assert_ok(context, pith_cache_create(context, &o, &cache));
    for (size_t at = 0; at < 300; at += 20) {
      push(context, cache, &s, at, 20);
      double error = mean_error(context, cache, &s, at, 20);
      if (error > 1e-5) fail_msg("%s: error %g at token %zu", engines[e], error, at);
      assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
    }
    assert_int_equal(pith_cache_describe(cache).length, 300);
    pith_cache_free(cache);
  }
  stream_free(&s);
  test_context_free(context);
}

/* Bytes stay below the limit after every fold, and what is held never changes. */
static void test_bounded(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  stream s = stream_make(1000, 2);
  for (size_t e = 0; e < ENGINES; e++) {
    pith_cache_options o = usual(engines[e], 40);
    o.certify = 1;
    pith_cache *cache = NULL;
    assert_ok(context, pith_cache_create(context, &o, &cache));
    size_t held = pith_cache_describe(cache).held_bytes;
    double error = 0;
    for (size_t at = 0; at < 1000; at += 20) {
      push(context, cache, &s, at, 20);
      if (at >= 500) error += mean_error(context, cache, &s, at, 20) / 25;
      assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
      pith_cache_info info = pith_cache_describe(cache);
      assert_true(info.bytes <= info.limit_bytes);
      assert_int_equal(info.held_bytes, held);
    }
    print_message("%s: error %.4f\n", engines[e], error);
    pith_cache_free(cache);
  }
  stream_free(&s);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact_while_it_fits), cmocka_unit_test(test_bounded)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
