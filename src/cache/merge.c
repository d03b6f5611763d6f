/* merge.c - two caches of one stream become one: what both keep is put together, and folded once. */
#include <math.h>
#include <string.h>

#include "cache/cache.h"
#include "summary/store.h"

static pith_status check(pith_context *context, const pith_cache *first, const pith_cache *second) {
  const pith_cache_options *a = &first->options, *b = &second->options;
  const cache_state *s = cache_of(first), *t = cache_of(second);
  if (a->layers != b->layers || a->kv_heads != b->kv_heads || a->query_heads != b->query_heads || a->d != b->d ||
      a->dv != b->dv || a->scale != b->scale || a->rope != b->rope || a->rope_base != b->rope_base ||
      first->engine != second->engine || first->row_store != second->row_store)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "merge: the caches differ in shapes, scale, rope, engine or store; only like can be merged");
  if (s->block > 0 || t->block > 0)
    return pith_fail(context, PITH_E_ARGUMENT, "merge: a block is open; push all of its layers first");
  if (b->start != s->length)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "merge: the first cache ends at position %zu, the second begins at %zu; begin it there "
                     "(options.start)",
                     (size_t)s->length, b->start);
  if (s->length - a->start < a->sinks || t->length == b->start || s->queried != t->queried)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "merge: the first cache must hold its %zu sinks, the second at least one token, and both or none "
                     "recorded queries",
                     a->sinks);
  return PITH_OK;
}

/* One row of rows or samples from a cache to another, from store to store. */
static pith_status copy_row(pith_context *context, const pith_cache *from, const unsigned char *source,
                            const pith_cache *to, unsigned char *target, size_t width) {
  float row[512];
  pith_store_read(from->row_store, source, NULL, 1, width, row);
  return pith_store_write(context, "rows", to->row_store, row, 1, width, target, NULL);
}

static pith_status copy_rows(pith_context *context, const pith_cache *from, size_t first, size_t count,
                             const pith_cache *to, size_t at, size_t index) {
  const pith_cache_options *o = &to->options;
  size_t from_size = o->d * pith_dtype_size(from->row_store), to_size = o->d * pith_dtype_size(to->row_store);
  for (size_t i = 0; i < count; i++) {
    PITH_TRY(
        copy_row(context, from, pith_cache_key(from, index, first + i), to, pith_cache_key(to, index, at + i), o->d));
    PITH_TRY(copy_row(context, from, pith_cache_value(from, index, first + i), to, pith_cache_value(to, index, at + i),
                      o->dv));
    *pith_cache_row_score(to, index, at + i) = *pith_cache_row_score(from, index, first + i);
    for (size_t q = 0; q < pith_min_size(from->taken, to->taken); q++)
      PITH_TRY(copy_row(context, from, pith_cache_query(from, index, first + i) + q * from_size, to,
                        pith_cache_query(to, index, at + i) + q * to_size, o->d));
  }
  return PITH_OK;
}

static pith_status copy_sample(pith_context *context, const pith_cache *from, size_t source, const pith_cache *to,
                               size_t target, size_t index) {
  cache_query query = pith_cache_sample_of(from, index, source);
  *pith_cache_sample_position(to, index, target) = query.position;
  return copy_row(context, from, query.at, to, pith_cache_sample_at(to, index, target), to->options.d);
}

/* Recent samples of the second, then of the first; older ones of both in turn. */
static pith_status copy_samples(pith_context *context, const pith_cache *first, const pith_cache *second,
                                const pith_cache *to, size_t index) {
  const pith_cache_options *o = &to->options;
  const cache_head *a = cache_head_of(first, index), *b = cache_head_of(second, index);
  cache_head *head = cache_head_of(to, index);
  if (to->taken == 0) return PITH_OK;
  for (size_t i = 0; i < b->recent && head->recent < o->recent; i++)
    PITH_TRY(copy_sample(context, second, i, to, head->recent++, index));
  for (size_t i = 0; i < a->recent && head->recent < o->recent; i++)
    PITH_TRY(copy_sample(context, first, i, to, head->recent++, index));
  for (size_t i = 0; i < pith_max_size(a->older, b->older); i++) {
    if (i < a->older && head->older < o->older)
      PITH_TRY(copy_sample(context, first, first->options.recent + i, to, o->recent + head->older++, index));
    if (i < b->older && head->older < o->older)
      PITH_TRY(copy_sample(context, second, second->options.recent + i, to, o->recent + head->older++, index));
  }
  head->passed = pith_max_size(a->passed + b->passed, head->older);
  return PITH_OK;
}

/* Rows of the second that stay exact. */
static size_t staying(const pith_cache *first, const pith_cache *second, size_t index) {
  return pith_min_size(first->options.window, cache_head_of(second, index)->rows);
}

/* All but the points: sinks of the first, last rows of the second, samples, counts. */
static pith_status fill(pith_context *context, const pith_cache *first, const pith_cache *second, pith_cache *to) {
  cache_state *state = cache_of(to);
  *state = *cache_of(first);
  state->length = cache_of(second)->length;
  state->folds += cache_of(second)->folds + 1;
  for (size_t i = 0; i < to->heads; i++) {
    cache_head *head = cache_head_of(to, i);
    size_t rows = cache_head_of(second, i)->rows, last = staying(first, second, i), sinks = to->options.sinks;
    PITH_TRY(copy_rows(context, first, 0, sinks, to, 0, i));
    PITH_TRY(copy_rows(context, second, rows - last, last, to, sinks, i));
    head->rows = sinks + last;
    head->folded = head->counted = state->folded = state->fold_end = state->length - last;
    PITH_TRY(copy_samples(context, first, second, to, i));
  }
  memcpy(cache_weights(to), cache_weights(first), to->heads * sizeof(float));
  return PITH_OK;
}

/* Attention received, as if it had gone on as it was to the end of both: accumulated ranks by means. */
static void extend_scores(const pith_cache *cache, size_t end, const pith_points *points, size_t from, float *scores) {
  double own = (double)cache_of(cache)->length, all = (double)end;
  for (size_t i = from; i < points->count; i++)
    if (points->index[i] >= 0)
      scores[i] = (float)(scores[i] * (all - (double)points->index[i]) / (own - (double)points->index[i]));
}

/* Points of a cache and some of its rows, behind those that are there. */
static void add_points(const pith_cache *cache, size_t index, size_t from, size_t to, pith_points *points,
                       float *scores) {
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, index);
  float *score = NULL;
  pith_head_view view = pith_cache_points(cache, index, &score);
  size_t d = o->d, dv = o->dv, at = points->count;
  pith_head_to_f32(&view, points->keys + at * d, points->values + at * dv);
  memcpy(points->log_weight + at, view.log_weight, view.points * sizeof(float));
  memcpy(points->index + at, view.index, view.points * sizeof(int64_t));
  memcpy(scores + at, score, view.points * sizeof(float));
  at += view.points;
  for (size_t row = from; row < to; row++, at++) {
    pith_store_read(cache->row_store, pith_cache_key(cache, index, row), NULL, 1, d, points->keys + at * d);
    pith_store_read(cache->row_store, pith_cache_value(cache, index, row), NULL, 1, dv, points->values + at * dv);
    points->log_weight[at] = 0;
    points->index[at] = (int64_t)(row < o->sinks ? o->start + row : head->folded + row - o->sinks);
    scores[at] = *pith_cache_row_score(cache, index, row);
  }
  points->count = at;
}

static pith_status join_points(pith_context *context, const pith_cache *first, const pith_cache *second,
                               pith_cache *joint, size_t index) {
  const cache_head *a = cache_head_of(first, index), *b = cache_head_of(second, index);
  size_t most = a->points + a->rows + b->points + b->rows;
  pith_points *points = NULL;
  float *scores = pith_allocate(context, most, sizeof *scores);
  pith_status status =
      scores ? pith_points_create(context, most, first->options.d, first->options.dv, &points) : PITH_E_MEMORY;
  if (status == PITH_OK) {
    add_points(first, index, first->options.sinks, a->rows, points, scores);
    extend_scores(first, cache_of(second)->length, points, 0, scores);
    add_points(second, index, 0, b->rows - staying(first, second, index), points, scores);
    status = pith_cache_place(context, joint, index, points, scores, PITH_F32);
  }
  pith_points_free(context, points);
  pith_release(context, scores);
  return status;
}

/* Points of each head: all where they fit, else in the mean as many bytes as its two parts had. */
static void share(const pith_cache *first, const pith_cache *second, const pith_cache *joint, const pith_cache *out) {
  size_t all = 0, had = 0;
  for (size_t i = 0; i < out->heads; i++) {
    size_t size = pith_store_point_bytes((pith_dtype)cache_head_of(first, i)->store, out->options.d, out->options.dv);
    all += cache_head_of(joint, i)->points * size;
    had += pith_cache_points(first, i, NULL).bytes + pith_cache_points(second, i, NULL).bytes;
  }
  for (size_t i = 0; i < out->heads; i++) {
    cache_head *head = cache_head_of(joint, i);
    head->wanted_store = cache_head_of(first, i)->store;
    size_t size = pith_store_point_bytes((pith_dtype)head->wanted_store, out->options.d, out->options.dv);
    size_t own = pith_cache_points(first, i, NULL).bytes + pith_cache_points(second, i, NULL).bytes;
    double bytes = had > 0 ? (double)out->summary_bytes * (double)own / (double)had
                           : (double)out->summary_bytes / (double)out->heads;
    head->wanted =
        all <= out->summary_bytes ? head->points : pith_min_size(head->points, (size_t)(bytes / (double)size));
  }
}

static pith_status make(pith_context *context, const pith_cache *first, const pith_cache *second, pith_cache **joint,
                        pith_cache **out) {
  pith_cache_options options = first->options;
  options.certify = 0;
  options.probes = 0;
  PITH_TRY(pith_cache_make(context, &options, 0, out));
  options.store = PITH_F32;
  /* room for everything that either holds, in f32 */
  size_t point = pith_store_point_bytes(PITH_F32, options.d, options.dv), points = 0;
  for (size_t i = 0; i < first->heads; i++) {
    const cache_head *a = cache_head_of(first, i), *b = cache_head_of(second, i);
    points += a->points + a->rows + b->points + b->rows;
  }
  options.bytes = (points + first->heads * (options.sinks + options.window + 1)) * point;
  PITH_TRY(pith_cache_make(context, &options, 0, joint));
  PITH_TRY(fill(context, first, second, *joint));
  PITH_TRY(fill(context, first, second, *out));
  for (size_t i = 0; i < first->heads; i++) {
    cache_head_of(*joint, i)->store = PITH_F32;
    cache_head_of(*out, i)->store = cache_head_of(first, i)->store;
    cache_order(*out)[i] = (uint32_t)i;
    PITH_TRY(join_points(context, first, second, *joint, i));
  }
  share(first, second, *joint, *out);
  for (size_t i = 0; i < first->heads; i++) PITH_TRY(pith_cache_refold(context, *joint, *out, i));
  return PITH_OK;
}

pith_status pith_cache_merge(pith_context *context, const pith_cache *first, const pith_cache *second,
                             pith_cache **out) {
  pith_cache *joint = NULL, *merged = NULL;
  PITH_TRY(check(context, first, second));
  pith_status status = make(context, first, second, &joint, &merged);
  pith_cache_free(joint);
  if (status < 0)
    pith_cache_free(merged);
  else
    *out = merged;
  return status;
}

/* ---- As a summary ---- */

static pith_status summarize_head(pith_context *context, const pith_cache *cache, size_t index, pith_summary *summary) {
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, index);
  size_t most = head->points + head->rows, heads = o->kv_heads;
  pith_points *points = NULL;
  float *scores = pith_allocate(context, most, sizeof *scores);
  uint8_t *exact = pith_allocate(context, most, 1);
  pith_status status = scores && exact ? pith_points_create(context, most, o->d, o->dv, &points) : PITH_E_MEMORY;
  if (status == PITH_OK) {
    add_points(cache, index, 0, head->rows, points, scores);
    for (size_t i = 0; i < most; i++) exact[i] = i >= head->points;
    status = pith_summary_set_head(context, summary, index / heads, index % heads, most, o->d, o->dv,
                                   (pith_dtype)head->store, points->keys, points->values, points->log_weight,
                                   points->index, exact);
    pith_summary_view(summary, index / heads, index % heads)->source_rows = pith_cache_end(cache, index) - o->start;
  }
  pith_points_free(context, points);
  pith_release(context, scores);
  pith_release(context, exact);
  return status;
}

pith_status pith_cache_summarize(pith_context *context, const pith_cache *cache, pith_summary **out) {
  pith_summary *summary = NULL;
  pith_cache_info info = pith_cache_describe(cache);
  PITH_TRY(pith_summary_create(context, info.layers, info.kv_heads, &summary));
  summary->info.scale = cache->options.scale;
  summary->info.seed = cache->options.seed;
  summary->info.query_model = info.query_model;
  summary->rho = info.rho;
  memcpy(summary->info.engine, info.engine, sizeof info.engine);
  pith_status status = PITH_OK;
  for (size_t i = 0; status == PITH_OK && i < cache->heads; i++) status = summarize_head(context, cache, i, summary);
  if (status < 0) {
    pith_summary_free(summary);
    return status;
  }
  summary->info.other_bytes = pith_summary_held_bytes(summary) - pith_summary_describe(summary).bytes;
  *out = summary;
  return PITH_OK;
}
