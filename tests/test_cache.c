/* test_cache.c - a cache that does not grow: what it answers, what it holds, what it refuses. */
#include <pith.h>
#include <unistd.h>

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

/* Two halves merged err at most half more than the one stream, and the result says what it answers for. */
static void test_merge(void **state) {
  (void)state;
  enum { HALF = 320, ASKED = 12 };
  pith_context *context = test_context(2);
  const char *const merged[] = {"nystrom", "uniform", "halving", "recent", "heavy", "accumulated"};
  for (size_t e = 0; e < sizeof merged / sizeof *merged; e++) {
    double together = 0, apart = 0;
    for (uint64_t seed = 0; seed < 4; seed++) {
      stream s = stream_make(2 * HALF, 100 + 10 * seed);
      pith_cache_options o = usual(merged[e], 40);
      pith_cache *one = NULL, *first = NULL, *second = NULL, *both = NULL;
      assert_ok(context, pith_cache_create(context, &o, &one));
      assert_ok(context, pith_cache_create(context, &o, &first));
      o.start = HALF;
      assert_ok(context, pith_cache_create(context, &o, &second));
      for (size_t at = 0; at < 2 * HALF; at += 20) {
        push(context, one, &s, at, 20);
        push(context, at < HALF ? first : second, &s, at, 20);
      }
      assert_ok(context, pith_cache_fold(context, one, PITH_CACHE_ALL));
      assert_int_equal(pith_cache_merge(context, second, first, &both), PITH_E_ARGUMENT);
      assert_ok(context, pith_cache_merge(context, first, second, &both));
      pith_cache_info info = pith_cache_describe(both);
      assert_int_equal(info.start, 0);
      assert_int_equal(info.length, 2 * HALF);
      assert_true(info.bytes <= info.limit_bytes);
      apart += mean_error(context, both, &s, 2 * HALF - ASKED, ASKED);
      together += mean_error(context, one, &s, 2 * HALF - ASKED, ASKED);
      pith_cache_free(one);
      pith_cache_free(first);
      pith_cache_free(second);
      pith_cache_free(both);
      stream_free(&s);
    }
    print_message("%s: merged %.4f, one stream %.4f\n", merged[e], apart / 4, together / 4);
    assert_true(apart <= 1.5 * together);
  }
  test_context_free(context);
}

/* ---- Memory ---- */

/* Memory of the C library that counts calls; alive: blocks taken and not given back. */
typedef struct counter {
  size_t taken, alive;
} counter;

static void *count_allocate(void *user, size_t size) {
  counter *c = user;
  c->taken++;
  c->alive++;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}

static void count_release(void *user, void *pointer, size_t size) {
  (void)size;
  counter *c = user;
  c->alive--;
  free(pointer);
}

/* Once everything was seen, pushing and asking take no memory at all, and a fold gives back all that it took. */
static void test_no_allocation(void **state) {
  (void)state;
  enum { WARM = 200 };
  counter c = {0, 0};
  pith_allocator allocator = {count_allocate, count_release, &c};
  pith_context_options with;
  pith_context_options_init(&with);
  with.threads = 2;
  with.allocator = &allocator;
  pith_context *context = NULL;
  assert_int_equal(pith_context_create(&with, &context), PITH_OK);
  stream s = stream_make(400, 3);
  for (size_t e = 0; e < ENGINES; e++) {
    pith_cache_options o = usual(engines[e], 40);
    pith_cache *cache = NULL;
    assert_ok(context, pith_cache_create(context, &o, &cache));
    float out[LAYERS * QUERY * D];
    size_t folds = 0;
    for (size_t at = 0; at < 400; at++) {
      size_t taken = c.taken, alive = c.alive;
      push(context, cache, &s, at, 1);
      ask(context, cache, &s, at, 1, out);
      if (at >= WARM) assert_int_equal(c.taken, taken);
      assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_DUE));
      if (at < WARM) continue;
      assert_int_equal(c.alive, alive);
      folds += c.taken > taken; /* the control: folds do take memory, and the counter sees it */
    }
    assert_true(folds > 5);
    pith_cache_free(cache);
  }
  stream_free(&s);
  pith_context_free(context);
  assert_int_equal(c.alive, 0);
}

/* Memory of this process that is in use, in bytes; 0 where the system does not say. */
static size_t resident(void) {
  unsigned long all = 0, used = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file) return 0;
  if (fscanf(file, "%lu %lu", &all, &used) != 2) used = 0;
  (void)fclose(file);
  return (size_t)used * (size_t)sysconf(_SC_PAGESIZE);
}

/* A million tokens: what the context holds between blocks, and at most, is what it held after ten thousand; so is what
 * the process holds. */
static void test_flat(void **state) {
  (void)state;
  enum { TOKENS = 1000000, AT_ONCE = 500, WIDTH = 2 };
  pith_context *context = test_context(1);
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.d = WIDTH;
  o.engine = "uniform";
  o.window = 16;
  o.chunk = 512;
  o.probes = 0;
  o.bytes = (size_t)64 * 12;
  pith_cache *cache = NULL;
  float *keys = test_gaussian(5, AT_ONCE * WIDTH, 1);
  pith_array rows = pith_array_matrix(keys, PITH_F32, AT_ONCE, WIDTH);
  assert_ok(context, pith_cache_create(context, &o, &cache));
  size_t held = 0, peak = 0, process = 0;
  for (size_t at = AT_ONCE; at <= TOKENS; at += AT_ONCE) {
    assert_ok(context, pith_cache_push(context, cache, 0, &rows, &rows, NULL));
    assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
    if (at == 10000) held = pith_context_bytes(context), peak = pith_context_peak_bytes(context), process = resident();
  }
  assert_int_equal(pith_cache_describe(cache).length, TOKENS);
  assert_int_equal(pith_context_bytes(context), held);
  assert_int_equal(pith_context_peak_bytes(context), peak);
  print_message("process: %zu bytes after 10^4 tokens, %zu after 10^6\n", process, resident());
#ifndef __SANITIZE_ADDRESS__                   /* which holds back what was given back */
  assert_true(resident() <= process + 262144); /* a byte a token would be nearly four times that */
#endif
  pith_cache_free(cache);
  free(keys);
  test_context_free(context);
}

static void refuse(pith_context *context, const pith_cache_options *o, pith_status wanted, const char *word) {
  pith_cache *cache = NULL;
  assert_int_equal(pith_cache_create(context, o, &cache), wanted);
  if (!strstr(pith_context_message(context), word)) fail_msg("%s: %s", word, pith_context_message(context));
}

/* What cannot be is refused with a sentence; the cache goes on. */
static void test_refuses(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_cache_options o = usual("nystrom", 40), wrong = o;
  wrong.bytes = 100;
  char least[32];
  (void)snprintf(least, sizeof least, "%zu", (size_t)LAYERS * KV * (14 * 2 * D * 4 + (2 * D + 1) * 4));
  refuse(context, &wrong, PITH_E_BUDGET, least);
  wrong = o, wrong.engine = "balance";
  refuse(context, &wrong, PITH_E_UNKNOWN, "balance");
  wrong = o, wrong.chunk = 513;
  refuse(context, &wrong, PITH_E_ARGUMENT, "513");
  wrong = o, wrong.query_heads = 3;
  refuse(context, &wrong, PITH_E_SHAPE, "3 query heads");
  wrong = o, wrong.rope = PITH_ROPE_PAIRS, wrong.rope_base = 0;
  refuse(context, &wrong, PITH_E_ARGUMENT, "rope");

  stream s = stream_make(200, 9);
  pith_cache *cache = NULL;
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t at = 0; at < 120; at += 20) push(context, cache, &s, at, 20);
  double before = mean_error(context, cache, &s, 110, 10);
  pith_array k = part(&s, s.keys, KV, 0, 120, 4), v = part(&s, s.values, KV, 0, 120, 4);
  pith_array q = part(&s, s.queries, QUERY, 0, 120, 4), bad = k;
  bad.shape[2] = D - 1;
  assert_int_equal(pith_cache_push(context, cache, 0, &bad, &v, &q), PITH_E_SHAPE);
  bad = k, bad.shape[0] = 1;
  assert_int_equal(pith_cache_push(context, cache, 0, &bad, &v, &q), PITH_E_SHAPE);
  bad = v, bad.shape[1] = 3;
  assert_int_equal(pith_cache_push(context, cache, 0, &k, &bad, &q), PITH_E_SHAPE);
  assert_int_equal(pith_cache_push(context, cache, 1, &k, &v, &q), PITH_E_ARGUMENT);
  assert_int_equal(pith_cache_push(context, cache, 0, &k, &v, NULL), PITH_E_ARGUMENT);
  s.values[(KV - 1) * s.n * D + 122 * D] = NAN;
  assert_int_equal(pith_cache_push(context, cache, 0, &k, &v, &q), PITH_E_VALUE);
  s.values[(KV - 1) * s.n * D + 122 * D] = 1;
  float out[QUERY * 200 * D];
  pith_array far = part(&s, s.queries, QUERY, 0, 0, 100);
  assert_int_equal(pith_cache_attend(context, cache, 0, &far, out, NULL), PITH_E_SHAPE);
  assert_int_equal(pith_cache_attend(context, cache, 7, &q, out, NULL), PITH_E_ARGUMENT);
  assert_true(mean_error(context, cache, &s, 110, 10) == before);
  assert_int_equal(pith_cache_describe(cache).length, 120);
  push_layer(context, cache, &s, 0, 120, 4);
  assert_int_equal(pith_cache_fold(context, cache, PITH_CACHE_ALL), PITH_E_ARGUMENT);
  push_layer(context, cache, &s, 1, 120, 4);
  assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
  for (size_t at = 124; at < 184; at += 20) push(context, cache, &s, at, 20);
  pith_cache_free(cache);
  stream_free(&s);
  test_context_free(context);
}

/* As a summary a cache answers as it does itself. */
static void test_summarize(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  stream s = stream_make(400, 12);
  pith_cache_options o = usual("nystrom", 40);
  pith_cache *cache = NULL;
  pith_summary *summary = NULL;
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t at = 0; at < 400; at += 20) push(context, cache, &s, at, 20);
  assert_ok(context, pith_cache_summarize(context, cache, &summary));
  float wanted[LAYERS * QUERY * D], got[LAYERS * QUERY * D];
  ask(context, cache, &s, 399, 1, wanted);
  pith_array q = {.data = s.queries + 399 * D, .dtype = PITH_F32, .ndim = 4, .shape = {LAYERS, QUERY, 1, D}};
  q.stride[3] = sizeof(float);
  q.stride[2] = D * sizeof(float);
  q.stride[1] = 400 * D * sizeof(float);
  q.stride[0] = QUERY * q.stride[1];
  assert_ok(context, pith_summary_attend(context, summary, &q, 0, got));
  assert_true(pith_error_measure(wanted, got, LAYERS * QUERY, D).max < 1e-5);
  assert_int_equal(pith_summary_describe(summary).full_bytes, pith_cache_describe(cache).full_bytes);
  pith_summary_free(summary);
  pith_cache_free(cache);
  stream_free(&s);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact_while_it_fits),
                                     cmocka_unit_test(test_bounded),
                                     cmocka_unit_test(test_merge),
                                     cmocka_unit_test(test_no_allocation),
                                     cmocka_unit_test(test_flat),
                                     cmocka_unit_test(test_refuses),
                                     cmocka_unit_test(test_summarize)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
