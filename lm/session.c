/* session.c - the cache of a session, and reading block by block. */
#include "lm/session.h"

#include "kernels/kernels.h"

/* ---- Making and freeing ---- */

void lm_session_options_init(lm_session_options *options) { *options = (lm_session_options){.store = PITH_F16}; }

/* Hands out `count` floats from one block of memory; before there is one, only counts. */
static float *carve(lm_session *session, size_t count) {
  enum { ALIGNMENT = 64 };
  float *at = session->work_block ? (float *)(void *)((char *)session->work_block + session->work_bytes) : NULL;
  session->work_bytes += (count * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return at;
}

static void carve_work(lm_session *session) {
  const lm_model_info *info = &session->model->info;
  const size_t t = session->block, query = info->query_heads * info->head_size, key = info->kv_heads * info->head_size;
  lm_work *w = &session->work;
  session->work_bytes = 0;
  w->residual = carve(session, t * info->width);
  w->normed = carve(session, t * info->width);
  w->query = carve(session, t * query);
  w->key = carve(session, t * key);
  w->value = carve(session, t * key);
  w->asked = carve(session, t * query);
  w->answer = carve(session, t * query);
  w->gate = carve(session, t * info->feed_forward);
  w->up = carve(session, t * info->feed_forward);
  w->cosine = carve(session, t * info->head_size / 2);
  w->sine = carve(session, t * info->head_size / 2);
  w->job = (pith_attend_job *)(void *)carve(session, info->kv_heads * sizeof(pith_attend_job) / sizeof(float));
}

/* Bytes of one cache array of `heads` heads in each layer. */
static pith_status cache_size(pith_context *context, const lm_session *session, size_t heads, size_t *bytes) {
  const lm_model_info *info = &session->model->info;
  *bytes = info->layers * heads * info->head_size * pith_dtype_size(session->store);
  if (!__builtin_mul_overflow(*bytes, lm_session_rows(session), bytes)) return PITH_OK;
  return pith_fail(context, PITH_E_ARGUMENT, "capacity: a cache of %zu tokens is larger than memory can be",
                   session->capacity);
}

static pith_status allocate_parts(pith_context *context, lm_session *session, bool record) {
  const lm_model_info *info = &session->model->info;
  size_t cache = 0, recorded = 0;
  PITH_TRY(cache_size(context, session, info->kv_heads, &cache));
  PITH_TRY(cache_size(context, session, info->query_heads, &recorded));
  if (session->cache) cache = 0;
  session->keys = pith_allocate(context, cache, 1);
  session->values = pith_allocate(context, cache, 1);
  if (record) session->queries = pith_allocate(context, recorded, 1);
  session->residual_sum = pith_allocate_zero(context, 2 * info->layers, sizeof(double));
  session->block = pith_max_size(1, pith_min_size(LM_BLOCK, lm_session_rows(session)));
  carve_work(session);
  session->work_block = pith_allocate(context, session->work_bytes, 1);
  if (!session->keys || !session->values || (record && !session->queries) || !session->residual_sum ||
      !session->work_block)
    return PITH_E_MEMORY;
  carve_work(session);
  return PITH_OK;
}

static pith_status create(pith_context *context, const lm_model *model, const lm_session_options *options,
                          const pith_summary *summary, size_t start, lm_session **out) {
  lm_session_options defaults;
  lm_session_options_init(&defaults);
  if (!options) options = &defaults;
  const size_t limit = model->info.context_length, capacity = options->capacity ? options->capacity : limit;
  if (capacity > limit)
    return pith_fail(context, PITH_E_ARGUMENT, "capacity: %zu tokens; %s was made for %zu", capacity,
                     pith_gguf_name(model->gguf), limit);
  if (capacity < start)
    return pith_fail(context, PITH_E_ARGUMENT, "capacity: %zu tokens; the summary alone stands for %zu", capacity,
                     start);
  if (options->store != PITH_F16 && options->store != PITH_F32)
    return pith_fail(context, PITH_E_TYPE, "store: %s; a session keeps f16 or f32", pith_dtype_name(options->store));
  if (summary && options->patterns)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "patterns: points of a summary stand at no positions; give one or the other");
  if (options->cache) {
    PITH_TRY(lm_cached_check(context, model, options));
    const size_t length = pith_cache_describe(options->cache).length;
    if (capacity < length)
      return pith_fail(context, PITH_E_ARGUMENT, "capacity: %zu tokens; the cache has %zu already", capacity, length);
    start = length;
  }
  lm_session *session = pith_allocate_zero(context, 1, sizeof *session);
  if (!session) return PITH_E_MEMORY;
  session->memory = pith_memory_share(context);
  session->model = model;
  session->summary = summary;
  session->patterns = options->patterns;
  session->cache = options->cache;
  session->weighed = session->cache && lm_cached_is_weighed(session->cache);
  session->start = session->length = start;
  session->capacity = capacity;
  session->store = options->store;
  pith_status status = allocate_parts(context, session, options->record_queries);
  if (status < 0) {
    lm_session_free(session);
    return status;
  }
  *out = session;
  return PITH_OK;
}

pith_status lm_session_create(pith_context *context, const lm_model *model, const lm_session_options *options,
                              lm_session **out) {
  return create(context, model, options, NULL, 0, out);
}

pith_status lm_session_after(pith_context *context, const lm_session *before, const pith_summary *summary,
                             const lm_session_options *options, lm_session **out) {
  const lm_model_info *model = &before->model->info;
  const pith_summary_info info = pith_summary_describe(summary);
  if (info.layers != model->layers || info.heads != model->kv_heads)
    return pith_fail(context, PITH_E_SHAPE,
                     "summary: %zu layers of %zu heads; the model has %zu layers of %zu kv heads", info.layers,
                     info.heads, model->layers, model->kv_heads);
  for (size_t i = 0; i < info.layers * info.heads; i++) {
    pith_head_view head;
    PITH_TRY(pith_summary_head(context, summary, i / info.heads, i % info.heads, &head));
    if (head.d != model->head_size || head.dv != model->head_size)
      return pith_fail(context, PITH_E_SHAPE,
                       "summary: keys of %zu and values of %zu numbers; the model's heads have %zu", head.d, head.dv,
                       model->head_size);
    if (head.source_rows != before->length)
      return pith_fail(context, PITH_E_SHAPE, "summary: stands for %zu tokens; the session has read %zu",
                       head.source_rows, before->length);
  }
  if (options && options->cache)
    return pith_fail(context, PITH_E_ARGUMENT, "cache: not beside a summary; give one or the other");
  PITH_TRY(create(context, before->model, options, summary, before->length, out));
  memcpy((*out)->residual_sum, before->residual_sum, model->layers * sizeof(double));
  (*out)->residual_count = before->residual_count;
  return PITH_OK;
}

void lm_session_free(lm_session *session) {
  if (!session) return;
  pith_memory *memory = session->memory;
  pith_memory_release(memory, session->keys);
  pith_memory_release(memory, session->values);
  pith_memory_release(memory, session->queries);
  pith_memory_release(memory, session->residual_sum);
  pith_memory_release(memory, session->work_block);
  pith_memory_release(memory, session);
  pith_memory_unshare(memory);
}

/* ---- Reading ---- */

static pith_status check_tokens(pith_context *context, const lm_session *session, const uint32_t *tokens, size_t count,
                                size_t logits_from) {
  if (count > session->capacity - session->length)
    return pith_fail(context, PITH_E_ARGUMENT, "tokens: %zu more after %zu; the session has room for %zu", count,
                     session->length, session->capacity);
  if (logits_from > count)
    return pith_fail(context, PITH_E_ARGUMENT, "logits_from: %zu is behind the last of %zu tokens", logits_from, count);
  for (size_t i = 0; i < count; i++)
    if (tokens[i] >= session->model->info.vocabulary)
      return pith_fail(context, PITH_E_ARGUMENT, "tokens: number %zu is %u; the vocabulary has %zu", i, tokens[i],
                       session->model->info.vocabulary);
  return PITH_OK;
}

/* Adds what the block saw of the residual stream. */
static pith_status finish_block(pith_context *context, lm_session *session, size_t count) {
  const size_t layers = session->model->info.layers, end = session->length + count;
  for (size_t i = 0; i < layers; i++) session->residual_sum[i] += session->residual_sum[layers + i];
  session->residual_count += pith_max_size(end, LM_RESIDUAL_FIRST) - pith_max_size(session->length, LM_RESIDUAL_FIRST);
  session->length = end;
  return session->cache ? lm_cached_finish(context, session) : PITH_OK;
}

/* After a failure nothing counts as read; a cache has let go of the tokens before the block that failed. */
static pith_status give_up(pith_context *context, lm_session *session, size_t length, pith_status why) {
  if (!session->cache)
    session->length = length;
  else if (pith_cache_truncate(context, session->cache, session->length) < 0)
    session->length = pith_cache_describe(session->cache).length;
  return why;
}

pith_status lm_session_read(pith_context *context, lm_session *session, const uint32_t *tokens, size_t count,
                            size_t logits_from, float *logits) {
  const size_t layers = session->model->info.layers, vocabulary = session->model->info.vocabulary;
  PITH_TRY(check_tokens(context, session, tokens, count, logits_from));
  const size_t length = session->length;
  for (size_t done = 0; done < count;) {
    const size_t block = pith_min_size(session->block, count - done);
    const size_t from = pith_min_size(block, logits_from > done ? logits_from - done : 0);
    memset(session->residual_sum + layers, 0, layers * sizeof(double));
    pith_status status = lm_forward(context, session, tokens + done, block, from, logits);
    if (status >= 0 && count > block) status = pith_report(context, "reading", done + block, count);
    if (status >= 0) status = finish_block(context, session, block);
    if (status < 0) return give_up(context, session, length, status);
    if (logits) logits += (block - from) * vocabulary;
    done += block;
  }
  return PITH_OK;
}

size_t lm_session_length(const lm_session *session) { return session->length; }

size_t lm_session_capacity(const lm_session *session) { return session->capacity; }

pith_status lm_session_truncate(pith_context *context, lm_session *session, size_t length) {
  if (session->cache) {
    PITH_TRY(pith_cache_truncate(context, session->cache, length));
    session->length = length;
    return PITH_OK;
  }
  if (length < session->start || length > session->length)
    return pith_fail(context, PITH_E_ARGUMENT, "length: %zu; %zu to %zu is possible", length, session->start,
                     session->length);
  session->length = length;
  return PITH_OK;
}

/* ---- Looking in ---- */

static pith_array view(const lm_session *session, const unsigned char *cache, size_t heads) {
  const lm_model_info *info = &session->model->info;
  const size_t size = pith_dtype_size(session->store), rows = lm_session_rows(session);
  pith_array array = {.data = cache,
                      .dtype = session->store,
                      .ndim = 4,
                      .shape = {info->layers, heads, session->length - session->start, info->head_size}};
  array.stride[3] = (ptrdiff_t)size;
  array.stride[2] = (ptrdiff_t)(size * info->head_size);
  array.stride[1] = array.stride[2] * (ptrdiff_t)rows;
  array.stride[0] = array.stride[1] * (ptrdiff_t)heads;
  return array;
}

pith_status lm_session_arrays(pith_context *context, const lm_session *session, pith_array *keys, pith_array *values,
                              pith_array *queries) {
  const lm_model_info *info = &session->model->info;
  if (session->cache) return pith_fail(context, PITH_E_ARGUMENT, "session: its rows are in a cache, not in arrays");
  if (queries && !session->queries)
    return pith_fail(context, PITH_E_ARGUMENT, "queries: the session was not asked to record them");
  *keys = view(session, session->keys, info->kv_heads);
  *values = view(session, session->values, info->kv_heads);
  if (queries) *queries = view(session, session->queries, info->query_heads);
  return PITH_OK;
}

lm_session_memory lm_session_bytes(const lm_session *session) {
  const lm_model_info *info = &session->model->info;
  const size_t number = pith_dtype_size(session->store), read = session->length - session->start;
  const size_t row = info->layers * info->head_size * number; /* of one head in all layers */
  if (session->cache) {
    const pith_cache_info cache = pith_cache_describe(session->cache);
    return (lm_session_memory){cache.bytes, cache.held_bytes - cache.bytes, session->work_bytes};
  }
  lm_session_memory memory = {.cache_bytes = 2 * info->kv_heads * row * read,
                              .other_bytes = 2 * info->kv_heads * row * (session->capacity - session->length),
                              .working_bytes = session->work_bytes};
  if (session->queries) memory.other_bytes += info->query_heads * row * lm_session_rows(session);
  if (session->summary) {
    const pith_summary_info summary = pith_summary_describe(session->summary);
    memory.cache_bytes += summary.bytes;
    memory.other_bytes += summary.other_bytes;
  }
  return memory;
}

/* ---- Head weights ---- */

pith_status lm_head_weights(pith_context *context, const lm_session *session, float *out) {
  const lm_model_info *info = &session->model->info;
  const size_t size = info->head_size, group_columns = info->query_heads / info->kv_heads * size;
  if (session->residual_count == 0)
    return pith_fail(context, PITH_E_ARGUMENT, "head weights: the session has read %zu tokens; more than %d are needed",
                     session->length, LM_RESIDUAL_FIRST);
  float *row = pith_scratch(context, 0, info->query_heads * size * sizeof *row);
  double *squares = pith_scratch(context, 1, info->kv_heads * sizeof *squares);
  if (!row || !squares) return PITH_E_MEMORY;
  for (size_t layer = 0; layer < info->layers; layer++) {
    const lm_matrix *output = &session->model->layer[layer].output;
    const double residual = session->residual_sum[layer] / (double)session->residual_count;
    memset(squares, 0, info->kv_heads * sizeof *squares);
    for (size_t r = 0; r < output->rows; r++) {
      output->type->expand(lm_matrix_row(output, r), row, output->columns);
      for (size_t head = 0; head < info->kv_heads; head++) {
        const float *slice = row + head * group_columns;
        squares[head] += (double)pith_kernels_active()->dot(slice, slice, group_columns);
      }
    }
    /* Over the group's heads the mean, over a head's numbers the mean: over all columns of the group. */
    for (size_t head = 0; head < info->kv_heads; head++)
      out[layer * info->kv_heads + head] = (float)(squares[head] / (double)group_columns / residual);
  }
  return PITH_OK;
}
