/* test_cache_going_on.c - clones, files, roll-back: at every possible moment a cache goes on as if nothing had been. */
#include <pith.h>
#include <unistd.h>

#include "test.h"

enum { D = 8, LAYERS = 2, KV = 2, QUERY = 4, TOKENS = 140, SAMPLED = 41 };

typedef struct stream {
  float *keys, *values, *queries; /* (LAYERS, heads, TOKENS, D) */
} stream;

static stream stream_make(uint64_t seed) {
  return (stream){test_gaussian(seed, LAYERS * KV * TOKENS * D, 0.7),
                  test_gaussian(seed + 1, LAYERS * KV * TOKENS * D, 1),
                  test_gaussian(seed + 2, LAYERS * QUERY * TOKENS * D, 1.5)};
}

static void stream_free(stream *s) {
  free(s->keys);
  free(s->values);
  free(s->queries);
}

static pith_array part(const float *all, size_t heads, size_t layer, size_t from, size_t count) {
  pith_array a = {
      .data = all + (layer * heads * TOKENS + from) * D, .dtype = PITH_F32, .ndim = 3, .shape = {heads, count, D}};
  a.stride[2] = sizeof(float);
  a.stride[1] = D * sizeof(float);
  a.stride[0] = TOKENS * D * sizeof(float);
  return a;
}

static pith_cache_options usual(const char *engine) {
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.layers = LAYERS;
  o.kv_heads = KV;
  o.query_heads = QUERY;
  o.d = D;
  o.engine = engine;
  o.sinks = 2;
  o.window = 6;
  o.chunk = 16;
  o.recent = 24;
  o.older = 8;
  o.probes = 4;
  o.horizon = 64;
  o.certify = 1;
  o.bytes = LAYERS * KV * ((size_t)8 * 4 * D + (size_t)14 * (4 * D + 4));
  return o;
}

/* One moment of the life of a cache: a layer pushed, or a step of folding. */
static void act(pith_context *context, pith_cache *cache, const stream *s, size_t moment) {
  size_t token = moment / (LAYERS + 1), layer = moment % (LAYERS + 1);
  if (layer == LAYERS) {
    assert_ok(context, pith_cache_fold(context, cache, PITH_CACHE_DUE));
    return;
  }
  pith_array k = part(s->keys, KV, layer, token, 1), v = part(s->values, KV, layer, token, 1);
  pith_array q = part(s->queries, QUERY, layer, token, 1);
  assert_ok(context, pith_cache_push(context, cache, layer, &k, &v, &q));
}

enum { MOMENTS = TOKENS * (LAYERS + 1), OUT = LAYERS * QUERY * D };

/* What a cache answers in the end, with its certificates. */
static void finish(pith_context *context, pith_cache *cache, const stream *s, size_t moment, float *out,
                   pith_certificate *certificates) {
  for (; moment < MOMENTS; moment++) act(context, cache, s, moment);
  for (size_t layer = 0; layer < LAYERS; layer++) {
    pith_array q = part(s->queries, QUERY, layer, TOKENS - 1, 1);
    assert_ok(context,
              pith_cache_attend(context, cache, layer, &q, out + layer * QUERY * D, certificates + layer * QUERY));
  }
}

static void compare(const float *a, const float *b, const pith_certificate *c, const pith_certificate *d,
                    const char *what, size_t moment) {
  if (memcmp(a, b, OUT * sizeof *a) != 0) fail_msg("%s after moment %zu answers otherwise", what, moment);
  for (size_t i = 0; i < LAYERS * QUERY; i++)
    if (c[i].kind != d[i].kind || memcmp(&c[i].bound, &d[i].bound, sizeof c[i].bound) != 0)
      fail_msg("%s after moment %zu promises otherwise", what, moment);
}

/* The cache gives way to its clone, and that to what is read back from its file. */
static void succeed(pith_context *context, pith_context *other, const char *path, size_t moment, pith_cache **cache) {
  pith_cache *copy = NULL, *loaded = NULL;
  assert_ok(context, pith_cache_clone(context, *cache, &copy));
  pith_cache_free(*cache);
  pith_context *maker = moment % 2 ? context : other;
  assert_ok(context, pith_cache_save(context, copy, "a model", path));
  assert_ok(maker, pith_cache_load(maker, "a model", path, &loaded));
  pith_cache_free(copy);
  *cache = loaded;
}

/* After every single moment, in the middle of blocks and of folds too, the cache is replaced by a clone and a file; the
 * last of the line answers and promises what the undisturbed one does. Now and then a clone goes on beside its original
 * to the end: neither may disturb the other. */
static void go_on(const char *engine, uint64_t seed) {
  pith_context *context = test_context(2), *other = test_context(1);
  stream s = stream_make(seed);
  pith_cache_options o = usual(engine);
  pith_cache *cache = NULL, *line = NULL;
  char path[64];
  (void)snprintf(path, sizeof path, "/tmp/pith_test_cache.%d", (int)getpid());
  float wanted[OUT], got[OUT];
  pith_certificate promised[LAYERS * QUERY], again[LAYERS * QUERY];
  size_t folding = 0;
  assert_ok(context, pith_cache_create(context, &o, &cache));
  assert_ok(context, pith_cache_create(context, &o, &line));
  for (size_t moment = 0; moment < MOMENTS; moment++) {
    act(context, cache, &s, moment);
    act(context, line, &s, moment);
    folding += pith_cache_describe(line).heads_to_fold > 0;
    succeed(context, other, path, moment, &line);
  }
  finish(context, cache, &s, MOMENTS, wanted, promised);
  finish(context, line, &s, MOMENTS, got, again);
  compare(wanted, got, promised, again, "the last of a line", MOMENTS);
  assert_true(pith_cache_describe(cache).folds > 5 && folding > 20);
  pith_cache_free(cache);
  pith_cache_free(line);
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t moment = 0; moment < MOMENTS; moment++) {
    act(context, cache, &s, moment);
    if (moment % SAMPLED != 0) continue;
    pith_cache *copy = NULL;
    assert_ok(context, pith_cache_clone(context, cache, &copy));
    finish(context, copy, &s, moment + 1, got, again);
    compare(wanted, got, promised, again, "a clone", moment);
    pith_cache_free(copy);
  }
  finish(context, cache, &s, MOMENTS, got, again);
  compare(wanted, got, promised, again, "a cache that was cloned", MOMENTS);
  pith_cache_free(cache);
  (void)unlink(path);
  stream_free(&s);
  test_context_free(context);
  test_context_free(other);
}

static void test_nystrom(void **state) { (void)state, go_on("nystrom", 10); }
static void test_halving(void **state) { (void)state, go_on("halving", 20); }
static void test_uniform(void **state) { (void)state, go_on("uniform", 30); }
static void test_accumulated(void **state) { (void)state, go_on("accumulated", 40); }
static void test_heavy(void **state) { (void)state, go_on("heavy", 50); }

/* Tokens that were pushed and taken back leave nothing behind, in the middle of a fold too, and layers that were pushed
 * of an open block neither. */
static void test_truncate(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  stream s = stream_make(60), wrong = stream_make(70);
  pith_cache_options o = usual("nystrom");
  pith_cache *plain = NULL, *cache = NULL;
  float wanted[OUT], got[OUT];
  pith_certificate promised[LAYERS * QUERY], again[LAYERS * QUERY];
  assert_ok(context, pith_cache_create(context, &o, &plain));
  assert_ok(context, pith_cache_create(context, &o, &cache));
  size_t tried = 0, folding = 0;
  for (size_t moment = 0; moment < MOMENTS; moment++) {
    act(context, plain, &s, moment);
    act(context, cache, &s, moment);
    pith_cache_info info = pith_cache_describe(cache);
    if (moment % (LAYERS + 1) != LAYERS || info.length + 2 > TOKENS || info.in_flight + 3 > o.chunk) continue;
    /* guesses, a whole token and a half */
    size_t length = info.length;
    folding += info.heads_to_fold > 0;
    for (size_t layer = 0; layer <= LAYERS; layer++) {
      pith_array k = part(wrong.keys, KV, layer % LAYERS, length, 1),
                 v = part(wrong.values, KV, layer % LAYERS, length, 1);
      pith_array q = part(wrong.queries, QUERY, layer % LAYERS, length, 1);
      assert_ok(context, pith_cache_push(context, cache, layer % LAYERS, &k, &v, &q));
    }
    assert_ok(context, pith_cache_truncate(context, cache, length));
    assert_true(pith_cache_describe(cache).least_length + o.window <= length || length < o.window);
    tried++;
  }
  finish(context, plain, &s, MOMENTS, wanted, promised);
  finish(context, cache, &s, MOMENTS, got, again);
  compare(wanted, got, promised, again, "a cache that guessed", MOMENTS);
  assert_true(tried > 50 && folding > 5);
  assert_int_equal(pith_cache_truncate(context, cache, pith_cache_describe(cache).least_length - 1), PITH_E_ARGUMENT);
  assert_int_equal(pith_cache_truncate(context, cache, TOKENS + 1), PITH_E_ARGUMENT);
  pith_cache_free(plain);
  pith_cache_free(cache);
  stream_free(&s);
  stream_free(&wrong);
  test_context_free(context);
}

/* A changed byte is refused wherever it is; so is another model, and a file cut short. */
static void test_refuses_files(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  stream s = stream_make(80);
  pith_cache_options o = usual("nystrom");
  pith_cache *cache = NULL, *loaded = NULL;
  char path[64];
  (void)snprintf(path, sizeof path, "/tmp/pith_test_cache_bad.%d", (int)getpid());
  assert_ok(context, pith_cache_create(context, &o, &cache));
  for (size_t moment = 0; moment < 100; moment++) act(context, cache, &s, moment);
  assert_ok(context, pith_cache_save(context, cache, "one", path));
  assert_int_equal(pith_cache_load(context, "another", path, &loaded), PITH_E_ARGUMENT);
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  static unsigned char bytes[1 << 20];
  size_t size = fread(bytes, 1, sizeof bytes, file);
  (void)fclose(file);
  assert_true(size < sizeof bytes);
  for (size_t at = 0; at < size + 2; at += size / 97 + 1) {
    size_t written = at < size ? size : size - 1;
    if (at < size) bytes[at] ^= 0x10;
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, written, file), written);
    (void)fclose(file);
    if (at < size) bytes[at] ^= 0x10;
    pith_status status = pith_cache_load(context, "one", path, &loaded);
    assert_true(status == PITH_E_CHECKSUM || status == PITH_E_FORMAT || status == PITH_E_VERSION);
    assert_true(*pith_context_message(context));
  }
  for (unsigned char version = 1; version <= 3;
       version += 2) { /* of an older pith, whose menus were others; of a newer */
    bytes[8] = version;
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    (void)fclose(file);
    assert_int_equal(pith_cache_load(context, "one", path, &loaded), PITH_E_VERSION);
  }
  (void)unlink(path);
  pith_cache_free(cache);
  stream_free(&s);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_nystrom),      cmocka_unit_test(test_halving),
                                     cmocka_unit_test(test_uniform),      cmocka_unit_test(test_accumulated),
                                     cmocka_unit_test(test_heavy),        cmocka_unit_test(test_truncate),
                                     cmocka_unit_test(test_refuses_files)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
