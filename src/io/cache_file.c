/* cache_file.c - caches on disk: one checksummed frame, options and the block (docs/format.md). */
#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state of the checksum on the stack */
#include <xxhash.h>

#include "cache/cache.h"
#include "io/file.h"

static const char MAGIC[8] = {'P', 'I', 'T', 'H', 'K', 'V', 'C', 'A'};
enum { VERSION = 2, ENGINE = 32 };

typedef struct frame_head {
  char magic[8];
  uint64_t version;
  uint64_t size;     /* of the whole file */
  uint64_t checksum; /* XXH64, seed 0, of all other bytes of the file in their order */
} frame_head;

typedef struct cache_fields {
  uint64_t layers, kv_heads, query_heads, d, dv, bytes, budget, store, sinks, window, chunk, start, query_model, recent,
      older, rope, horizon, refine, certify, probes, seed;
  double rope_base, scale, rho, confidence, delta;
  char engine[ENGINE], model[CACHE_MODEL];
} cache_fields;

_Static_assert(sizeof(frame_head) == 32 && sizeof(cache_fields) == 26 * 8 + ENGINE + CACHE_MODEL,
               "no padding in files");

static uint64_t checksum_of(const frame_head *head, const void *fields, const void *block, size_t size) {
  XXH64_state_t state;
  XXH64_reset(&state, 0);
  XXH64_update(&state, head, offsetof(frame_head, checksum));
  if (fields) XXH64_update(&state, fields, sizeof(cache_fields));
  if (size > 0) XXH64_update(&state, block, size);
  return XXH64_digest(&state);
}

static pith_status check_model(pith_context *context, const char *model) {
  if (model && strlen(model) < CACHE_MODEL) return PITH_OK;
  return pith_fail(context, PITH_E_ARGUMENT, "model: a name of at most %d bytes is needed (\"\" for none)",
                   CACHE_MODEL - 1);
}

pith_status pith_cache_save(pith_context *context, const pith_cache *cache, const char *model, const char *path) {
  const pith_cache_options *o = &cache->options;
  PITH_TRY(check_model(context, model));
  cache_fields fields = {.layers = o->layers,
                         .kv_heads = o->kv_heads,
                         .query_heads = o->query_heads,
                         .d = o->d,
                         .dv = o->dv,
                         .bytes = o->bytes,
                         .budget = o->budget,
                         .store = o->store,
                         .sinks = o->sinks,
                         .window = o->window,
                         .chunk = o->chunk,
                         .start = o->start,
                         .query_model = o->query_model,
                         .recent = o->recent,
                         .older = o->older,
                         .rope = o->rope,
                         .horizon = o->horizon,
                         .refine = o->refine,
                         .certify = o->certify != 0,
                         .probes = o->probes,
                         .seed = o->seed,
                         .rope_base = o->rope_base,
                         .scale = o->scale,
                         .rho = o->rho,
                         .confidence = o->confidence,
                         .delta = o->delta};
  (void)snprintf(fields.engine, sizeof fields.engine, "%s", cache->engine->name);
  (void)snprintf(fields.model, sizeof fields.model, "%s", model);
  frame_head head = {.version = VERSION, .size = sizeof head + sizeof fields + cache->at.bytes};
  memcpy(head.magic, MAGIC, sizeof MAGIC);
  head.checksum = checksum_of(&head, &fields, cache->block, cache->at.bytes);
  pith_writer writer;
  PITH_TRY(pith_writer_open(context, path, &writer));
  pith_status status = pith_writer_put(&writer, &head, sizeof head);
  if (status >= 0) status = pith_writer_put(&writer, &fields, sizeof fields);
  if (status >= 0) status = pith_writer_put(&writer, cache->block, cache->at.bytes);
  return pith_writer_close(&writer, status);
}

static pith_status read_head(pith_context *context, const pith_file *file, frame_head *head) {
  if (file->size < sizeof MAGIC || memcmp(file->bytes, MAGIC, sizeof MAGIC) != 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: not a cache of pith", file->name);
  if (file->size < sizeof *head + sizeof(cache_fields))
    return pith_fail(context, PITH_E_FORMAT, "%s: cut short: %zu bytes", file->name, file->size);
  memcpy(head, file->bytes, sizeof *head);
  if (head->version != VERSION)
    return pith_fail(context, PITH_E_VERSION, "%s: format version %llu; this pith reads %d", file->name,
                     (unsigned long long)head->version, VERSION);
  if (head->size != file->size)
    return pith_fail(context, PITH_E_FORMAT, "%s: %s: %zu bytes, its head says %llu", file->name,
                     file->size < head->size ? "cut short" : "too long", file->size, (unsigned long long)head->size);
  return PITH_OK;
}

pith_status pith_cache_checksum(pith_context *context, const pith_file *file, uint64_t *checksum, size_t *at) {
  frame_head head;
  PITH_TRY(read_head(context, file, &head));
  *checksum = checksum_of(&head, NULL, file->bytes + sizeof head, file->size - sizeof head);
  *at = offsetof(frame_head, checksum);
  return PITH_OK;
}

static pith_status read_options(pith_context *context, const pith_file *file, const cache_fields *fields,
                                pith_cache_options *o) {
  pith_cache_options_init(o);
  if (fields->engine[ENGINE - 1] || fields->model[CACHE_MODEL - 1] || fields->budget > PITH_BUDGET_SPREAD ||
      fields->store > PITH_Q4 || fields->query_model > PITH_QUERIES_SAMPLES || fields->rope > PITH_ROPE_HALVES ||
      fields->certify > 1)
    return pith_fail(context, PITH_E_FORMAT, "%s: its fields are not those of a cache", file->name);
  o->engine = fields->engine;
  o->layers = fields->layers;
  o->kv_heads = fields->kv_heads;
  o->query_heads = fields->query_heads;
  o->d = fields->d;
  o->dv = fields->dv;
  o->bytes = fields->bytes;
  o->budget = (pith_budget)fields->budget;
  o->store = (pith_dtype)fields->store;
  o->sinks = fields->sinks;
  o->window = fields->window;
  o->chunk = fields->chunk;
  o->start = fields->start;
  o->query_model = (pith_query_kind)fields->query_model;
  o->recent = fields->recent;
  o->older = fields->older;
  o->rope = (pith_rope)fields->rope;
  o->horizon = fields->horizon;
  o->refine = fields->refine;
  o->certify = (int)fields->certify;
  o->probes = fields->probes;
  o->seed = fields->seed;
  o->rope_base = fields->rope_base;
  o->scale = fields->scale;
  o->rho = fields->rho;
  o->confidence = fields->confidence;
  o->delta = fields->delta;
  return PITH_OK;
}

pith_status pith_cache_parse(pith_context *context, const pith_file *file, const char *model, pith_cache **out) {
  frame_head head;
  cache_fields fields;
  uint64_t checksum = 0;
  size_t at = 0;
  PITH_TRY(read_head(context, file, &head));
  PITH_TRY(pith_cache_checksum(context, file, &checksum, &at));
  if (checksum != head.checksum)
    return pith_fail(context, PITH_E_CHECKSUM, "%s: changed after it was written: its checksum does not fit",
                     file->name);
  memcpy(&fields, file->bytes + sizeof head, sizeof fields);
  pith_cache_options options;
  PITH_TRY(read_options(context, file, &fields, &options));
  if (model && strcmp(model, fields.model) != 0)
    return pith_fail(context, PITH_E_ARGUMENT, "%s: a cache of \"%s\", not of \"%s\"; load it with what made it",
                     file->name, pith_quote(fields.model, strlen(fields.model)).text, model);
  pith_cache *cache = NULL;
  size_t size = file->size - sizeof head - sizeof fields;
  pith_status status = size > 0 ? pith_cache_make(context, &options, size, &cache) : PITH_E_ARGUMENT;
  if (status < 0 && status > PITH_E_MEMORY) { /* whatever the options lack, the file is to blame */
    char message[256];
    (void)snprintf(message, sizeof message, "%s", pith_context_message(context));
    return pith_fail(context, PITH_E_FORMAT, "%s: %s", file->name, message);
  }
  PITH_TRY(status);
  memcpy(cache->block, file->bytes + sizeof head + sizeof fields, size);
  status = pith_cache_check(context, cache, file->name);
  if (status < 0) {
    pith_cache_free(cache);
    return status;
  }
  *out = cache;
  return PITH_OK;
}

pith_status pith_cache_load(pith_context *context, const char *model, const char *path, pith_cache **out) {
  PITH_TRY(check_model(context, model));
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  pith_status status = pith_cache_parse(context, file, model, out);
  pith_file_close(file);
  return status;
}
