/* fuzz_cache.c - any bytes as a cache file, with the checksum put right, so that what lies behind it is reached. What
 * can be loaded can be asked, pushed to, folded, cloned, shortened and saved. */
#include "cache/cache.h"
#include "fuzz.h"

static void use(pith_context *context, pith_cache *cache) {
  const pith_cache_options *o = &cache->options;
  size_t count = o->query_heads * pith_max_size(o->d, o->dv);
  float *numbers = calloc(count, sizeof *numbers), *out = calloc(count, sizeof *out);
  pith_certificate *certificates = calloc(o->query_heads, sizeof *certificates);
  pith_cache *copy = NULL;
  pith_cache_head head;
  FUZZ_REQUIRE(numbers && out && certificates);
  pith_array k = {.data = numbers, .dtype = PITH_F32, .ndim = 3, .shape = {o->kv_heads, 1, o->d}};
  for (size_t i = 0; i < 3; i++) k.stride[i] = i == 0 ? (ptrdiff_t)(o->d * sizeof(float)) : (ptrdiff_t)sizeof(float);
  pith_array v = k, q = k;
  v.shape[2] = o->dv;
  v.stride[0] = (ptrdiff_t)(o->dv * sizeof(float));
  q.shape[0] = o->query_heads;
  (void)!pith_cache_attend(context, cache, 0, &q, out, certificates); /* there may be no token */
  (void)!pith_cache_look(context, cache, 0, 0, &head, NULL);
  for (size_t layer = 0; layer < pith_min_size(o->layers, 4); layer++)
    (void)!pith_cache_push(context, cache, layer, &k, &v, &q); /* may be the wrong layer, or numbers beyond a fold */
  (void)!pith_cache_fold(context, cache, PITH_CACHE_ALL);
  FUZZ_REQUIRE(pith_cache_clone(context, cache, &copy) == PITH_OK);
  (void)!pith_cache_truncate(context, copy, pith_cache_describe(copy).least_length);
  FUZZ_REQUIRE(pith_cache_save(context, cache, "", "/dev/null") == PITH_OK);
  pith_cache_free(copy);
  free(numbers);
  free(out);
  free(certificates);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_copy copy = fuzz_open_sealed(data, size, pith_cache_checksum);
  pith_context *context = copy.context;
  pith_file *file = copy.file;
  pith_cache *cache = NULL;
  if (pith_cache_parse(context, file, NULL, &cache) == PITH_OK)
    use(context, cache);
  else
    FUZZ_REQUIRE(*pith_context_message(context));
  pith_cache_free(cache);
  fuzz_close(&copy);
  return 0;
}
