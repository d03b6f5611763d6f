/* lm_stream.c - caches of bounded bytes, as the words of `pith lm` use them. */
#include "lm_stream.h"

#include <string.h>

size_t lm_full_bytes(const lm_run *run, size_t tokens) {
  return 2 * run->info.layers * run->info.kv_heads * run->info.head_size * pith_dtype_size(PITH_F16) * tokens;
}

/* ---- Making one ---- */

enum { STREAM_SAMPLES = 1024 }; /* of each kv head: with half as many the KL of a model is half as much again */

/* What was not asked for stays as caches have it by default; methods choose as in lm_compress. */
static pith_cache_options options_of(const lm_run *run, const lm_method *method, size_t bytes) {
  const pith_compress_options *asked = &run->arguments->options;
  const lm_method chosen = lm_method_complete(method);
  pith_cache_options options = lm_cache_options(run->model);
  options.bytes = bytes;
  options.engine = chosen.engine;
  options.budget = (pith_budget)chosen.budget;
  options.store = (pith_dtype)chosen.store;
  options.sinks = asked->sinks;
  options.window = asked->window;
  if (asked->refine != PITH_UNSET) options.refine = asked->refine;
  options.horizon = asked->horizon;
  const size_t samples = asked->samples ? asked->samples : STREAM_SAMPLES;
  options.older = samples / 4;
  options.recent = samples - options.older;
  options.probes = 0; /* nobody asks for certificates here */
  options.seed = asked->seed;
  return options;
}

/* A session on the stream's cache. */
static pith_status begin(lm_run *run, lm_stream *stream) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.cache = stream->cache;
  return lm_session_create(run->session->context, run->model, &options, &stream->session);
}

pith_status lm_stream_open(lm_run *run, const lm_method *method, double bytes, lm_stream *out) {
  *out = (lm_stream){NULL, NULL};
  lm_warn_of_rope(run);
  const pith_cache_options options = options_of(run, method, (size_t)bytes);
  pith_status status = pith_cache_create(run->session->context, &options, &out->cache);
  if (status >= 0) status = begin(run, out);
  if (status < 0) lm_stream_close(run, out);
  return status;
}

size_t lm_stream_close(const lm_run *run, lm_stream *stream) {
  const pith_context *context = run->session->context;
  lm_session_free(stream->session);
  size_t held = pith_context_bytes(context);
  pith_cache_free(stream->cache);
  held -= pith_context_bytes(context);
  *stream = (lm_stream){NULL, NULL};
  return held;
}

/* ---- Those of the command line ---- */

bool lm_stream_asked(const lm_arguments *arguments) { return arguments->cache_bytes || arguments->load_cache; }

int lm_stream_check(const cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (arguments->cache_bytes && arguments->load_cache)
    return usage_error(session->command, "--cache-bytes together with --load-cache; a saved cache has its size");
  if (lm_stream_asked(arguments) && arguments->options.ratio > 0)
    return usage_error(session->command,
                       "--ratio compresses a prompt once, --cache-bytes bounds the cache; give one or the other");
  if (arguments->save_cache && !lm_stream_asked(arguments))
    return usage_error(session->command, "--save-cache saves a bounded cache; give --cache-bytes SIZE");
  return EXIT_DONE;
}

static int load(lm_run *run, lm_stream *out) {
  char name[LM_FINGERPRINT];
  lm_model_fingerprint(run->model, name);
  pith_status status = pith_cache_load(run->session->context, name, run->arguments->load_cache, &out->cache);
  if (status == PITH_E_ARGUMENT) /* a cache of another model is bad input, not wrong usage */
    return session_error(run->session, EXIT_INPUT, "%s", pith_context_message(run->session->context));
  if (status >= 0) status = begin(run, out);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

int lm_stream_start(lm_run *run, lm_stream *out) {
  *out = (lm_stream){NULL, NULL};
  if (run->arguments->load_cache) return load(run, out);
  const lm_method method = lm_chosen(run->arguments);
  pith_status status = lm_stream_open(run, &method, (double)run->arguments->cache_bytes, out);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

int lm_stream_save(lm_run *run, const lm_stream *stream) {
  if (!run->arguments->save_cache) return EXIT_DONE;
  char name[LM_FINGERPRINT];
  lm_model_fingerprint(run->model, name);
  pith_status status = pith_cache_save(run->session->context, stream->cache, name, run->arguments->save_cache);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

/* ---- Reports ---- */

void json_stream(json_t *object, const pith_cache_info *info) {
  json_object_set_new(object, "chunk_bytes", json_count(info->chunk_bytes));
  json_object_set_new(object, "sample_bytes", json_count(info->sample_bytes));
  json_object_set_new(object, "probe_bytes", json_count(info->probe_bytes));
  json_object_set_new(object, "other_bytes", json_count(info->other_bytes));
  json_object_set_new(object, "held_bytes", json_count(info->held_bytes));
  json_object_set_new(object, "folds", json_count(info->folds));
  json_object_set_new(object, "fold_seconds", json_number(info->fold_seconds));
  json_object_set_new(object, "max_step_seconds", json_number(info->max_step_seconds));
}
