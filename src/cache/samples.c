/* samples.c - recorded queries: which are kept, and what they say of those to come. */
#include <math.h>
#include <string.h>

#include "cache/cache.h"
#include "summary/store.h"

/* One sampled query in so many is held out to choose sizes by, and never fitted. */
enum { HELD_OUT = 8 };
/* Positions whose queries heavy looks at. */
enum { LAST_POSITIONS = 64 };

pith_query_kind pith_cache_model(const pith_cache *cache) {
  pith_query_kind kind = cache->options.query_model;
  if (kind != PITH_QUERIES_AUTO) return kind;
  return cache_of(cache)->queried ? PITH_QUERIES_SAMPLES : PITH_QUERIES_BALL;
}

static bool watches(const pith_cache *cache) {
  return cache->engine == &pith_engine_heavy || cache->engine == &pith_engine_accumulated;
}

/* Its kernel is that of the query model. */
static bool models(const pith_cache *cache) {
  return cache->engine == &pith_engine_nystrom || cache->engine == &pith_engine_halving;
}

bool pith_cache_demands(const pith_cache *cache) {
  pith_query_kind kind = cache->options.query_model;
  return watches(cache) || cache->options.budget == PITH_BUDGET_SPREAD || cache->options.store == PITH_STORE_AUTO ||
         (models(cache) && (kind == PITH_QUERIES_SAMPLES || kind == PITH_QUERIES_GAUSSIAN));
}

bool pith_cache_records(const pith_cache *cache) {
  bool may = models(cache) && cache->options.query_model != PITH_QUERIES_BALL;
  return may || pith_cache_demands(cache) || cache->options.probes > 0 || cache->options.certify;
}

void pith_cache_read_query(const pith_cache *cache, const cache_query *query, double position, float *out) {
  const pith_cache_options *o = &cache->options;
  pith_store_read(cache->row_store, query->at, NULL, 1, o->d, out);
  for (size_t i = 0; i < o->d; i++) out[i] *= (float)o->scale;
  pith_rope_turn(out, o->d, o->rope, o->rope_base, position - (double)query->position);
}

/* ---- Choosing ---- */

unsigned char *pith_cache_sample_at(const pith_cache *cache, size_t index, size_t slot) {
  const pith_cache_options *o = &cache->options;
  size_t size = o->d * pith_dtype_size(cache->row_store);
  return cache->block + cache->at.samples + (index * (o->recent + o->older) + slot) * size;
}

uint64_t *pith_cache_sample_position(const pith_cache *cache, size_t index, size_t slot) {
  const pith_cache_options *o = &cache->options;
  return (uint64_t *)(void *)(cache->block + cache->at.sample_positions) + index * (o->recent + o->older) + slot;
}

cache_query pith_cache_sample_of(const pith_cache *cache, size_t index, size_t slot) {
  return (cache_query){pith_cache_sample_at(cache, index, slot), *pith_cache_sample_position(cache, index, slot)};
}

/* Query number `number` of those recorded with the leaving rows. */
static cache_query recorded(const pith_cache *cache, size_t index, size_t number) {
  const pith_cache_options *o = &cache->options;
  size_t row = number / cache->taken, slot = number % cache->taken;
  const unsigned char *at = pith_cache_query(cache, index, o->sinks + row);
  return (cache_query){at + slot * o->d * pith_dtype_size(cache->row_store), cache_head_of(cache, index)->folded + row};
}

/* Probes first (once), then as many as there is room for among the recent samples. */
static pith_status choose(pith_context *context, const pith_cache *cache, size_t index, size_t leaving,
                          cache_queries *q) {
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, index);
  size_t count = leaving * cache->taken, *order = pith_allocate(context, count, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  pith_stream stream = pith_stream_make(o->seed + head->folded, PITH_STREAM_CACHE_SAMPLES, (uint32_t)index);
  pith_random_permutation(&stream, order, count);
  size_t next = 0;
  if (head->points == 0 && head->probes == 0)
    for (; next < pith_min_size(o->probes, count / 2); next++)
      q->probe[q->probe_count++] = recorded(cache, index, order[next]);
  for (; next < count && q->recent < o->recent; next++) q->list[q->recent++] = recorded(cache, index, order[next]);
  size_t slot = 0;
  for (; slot < head->recent && q->recent < o->recent; slot++)
    q->list[q->recent++] = pith_cache_sample_of(cache, index, slot);
  for (; slot < head->recent; slot++) q->gone[q->gone_count++] = pith_cache_sample_of(cache, index, slot);
  q->count = q->recent;
  for (slot = 0; slot < head->older; slot++) q->list[q->count++] = pith_cache_sample_of(cache, index, o->recent + slot);
  pith_release(context, order);
  return PITH_OK;
}

pith_status pith_cache_sample(pith_context *context, pith_cache *cache, size_t index, const cache_queries *q) {
  const pith_cache_options *o = &cache->options;
  cache_head *head = cache_head_of(cache, index);
  size_t size = o->d * pith_dtype_size(cache->row_store), count = q->recent + q->gone_count;
  unsigned char *copy = pith_allocate(context, count, size);
  if (!copy) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++)
    memcpy(copy + i * size, i < q->recent ? q->list[i].at : q->gone[i - q->recent].at, size);
  pith_stream stream = pith_stream_make(o->seed, PITH_STREAM_CACHE_SAMPLES, (uint32_t)(index + cache->heads));
  for (size_t i = 0; i < count; i++) {
    size_t slot = i;
    if (i >= q->recent) { /* a reservoir of what is recent no more */
      size_t place =
          head->older < o->older ? head->older++ : pith_random_below(&stream, head->passed, head->passed + 1);
      head->passed++;
      if (place >= o->older) continue;
      slot = o->recent + place;
    }
    memcpy(pith_cache_sample_at(cache, index, slot), copy + i * size, size);
    *pith_cache_sample_position(cache, index, slot) =
        i < q->recent ? q->list[i].position : q->gone[i - q->recent].position;
  }
  head->recent = q->recent;
  pith_release(context, copy);
  return PITH_OK;
}

/* ---- Models ---- */

static bool is_held_out(const pith_cache *cache, size_t index, const cache_query *query) {
  pith_stream stream = pith_stream_make(cache->options.seed, PITH_STREAM_CACHE_HELD, (uint32_t)index);
  return pith_random_below(&stream, query->position, HELD_OUT) == 0;
}

static void measure_moments(pith_query_model *m) {
  size_t d = m->d, count = m->fit_count;
  for (size_t r = 0; r < count; r++)
    for (size_t i = 0; i < d; i++) m->mean[i] += (double)m->fit[r * d + i] / (double)count;
  for (size_t r = 0; r < count; r++)
    for (size_t i = 0; i < d; i++)
      for (size_t j = 0; j < d; j++)
        m->covariance[i * d + j] += (m->fit[r * d + i] - m->mean[i]) * (m->fit[r * d + j] - m->mean[j]) / (double)count;
}

static double squared_norm(const float *x, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
  return sum;
}

/* The list, turned to positions spread over the horizon. */
static pith_status fill_fit(pith_context *context, const pith_cache *cache, size_t index, size_t now,
                            cache_queries *q) {
  const pith_cache_options *o = &cache->options;
  pith_query_model *m = q->model;
  size_t d = o->d;
  bool gaussian = m->kind == PITH_QUERIES_GAUSSIAN;
  m->fit = pith_allocate(context, q->count, d * sizeof *m->fit);
  q->held = pith_allocate(context, q->count, d * sizeof *q->held);
  m->local_log_mass = pith_allocate(context, q->count, sizeof(float));
  m->local_answer = pith_allocate_zero(context, q->count, o->dv * sizeof(float));
  if (gaussian) {
    m->mean = pith_allocate_zero(context, d, sizeof(double));
    m->covariance = pith_allocate_zero(context, d * d, sizeof(double));
  }
  if (!m->fit || !q->held || !m->local_log_mass || !m->local_answer || (gaussian && (!m->mean || !m->covariance)))
    return PITH_E_MEMORY;
  pith_stream stream = pith_stream_make(o->seed + now, PITH_STREAM_ROTATION, (uint32_t)index);
  for (size_t i = 0; i < q->count; i++) {
    bool held = q->count >= 2 * HELD_OUT && is_held_out(cache, index, &q->list[i]);
    double ahead = floor(pith_random_uniform(&stream, i) * (double)o->horizon);
    float *out = held ? q->held + q->held_count++ * d : m->fit + m->fit_count * d;
    pith_cache_read_query(cache, &q->list[i], (double)now + ahead, out);
    if (!held) m->local_log_mass[m->fit_count++] = -INFINITY;
    if (o->rho == 0) m->rho = fmax(m->rho, sqrt(squared_norm(out, d)));
  }
  m->distinct_count = m->turned_count = m->fit_count;
  if (gaussian) measure_moments(m);
  return PITH_OK;
}

/* What heavy and accumulated look at: queries as they were asked, and the last row of the problem that each saw. */
static pith_status fill_recorded(pith_context *context, const pith_cache *cache, size_t index, size_t leaving,
                                 size_t first, pith_query_model *m) {
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, index);
  size_t rows = pith_min_size(leaving + o->window, head->rows - o->sinks), from = 0;
  if (cache->engine == &pith_engine_heavy) from = rows > LAST_POSITIONS ? rows - LAST_POSITIONS : 0;
  if (cache->engine == &pith_engine_accumulated) from = pith_min_size(rows, head->counted - head->folded);
  m->recorded_count = (rows - from) * cache->taken;
  m->recorded = pith_allocate(context, m->recorded_count, o->d * sizeof *m->recorded);
  m->position = pith_allocate(context, m->recorded_count, sizeof *m->position);
  if (!m->recorded || !m->position) return PITH_E_MEMORY;
  for (size_t i = 0; i < m->recorded_count; i++) {
    cache_query query = recorded(cache, index, from * cache->taken + i);
    pith_cache_read_query(cache, &query, (double)query.position, m->recorded + i * o->d);
    m->position[i] = first + from + i / cache->taken;
  }
  return PITH_OK;
}

static pith_status fill(pith_context *context, const pith_cache *cache, size_t index, size_t leaving, size_t first,
                        cache_queries *q) {
  const pith_cache_options *o = &cache->options;
  const cache_head *head = cache_head_of(cache, index);
  bool queried = cache_of(cache)->queried && cache->taken > 0;
  size_t samples = o->recent + o->older, now = head->folded + leaving + o->window;
  q->list = pith_allocate(context, samples, sizeof *q->list);
  q->gone = pith_allocate(context, samples, sizeof *q->gone);
  q->probe = pith_allocate(context, o->probes, sizeof *q->probe);
  q->model = pith_allocate_zero(context, 1, sizeof *q->model);
  if (!q->list || !q->gone || !q->probe || !q->model) return PITH_E_MEMORY;
  pith_query_model *m = q->model;
  m->kind = pith_cache_model(cache);
  m->d = o->d;
  m->dv = o->dv;
  m->rho = o->rho > 0 ? o->rho : queried ? 0 : 2;
  if (!queried) return PITH_OK;
  PITH_TRY(choose(context, cache, index, leaving, q));
  PITH_TRY(fill_fit(context, cache, index, now, q));
  return watches(cache) ? fill_recorded(context, cache, index, leaving, first, m) : PITH_OK;
}

pith_status pith_cache_queries_create(pith_context *context, const pith_cache *cache, size_t index, size_t leaving,
                                      size_t first, cache_queries *out) {
  *out = (cache_queries){0};
  pith_status status = fill(context, cache, index, leaving, first, out);
  if (status < 0) pith_cache_queries_free(context, out);
  return status;
}

void pith_cache_queries_free(pith_context *context, cache_queries *queries) {
  pith_query_model_free(context, queries->model);
  pith_release(context, queries->list);
  pith_release(context, queries->gone);
  pith_release(context, queries->probe);
  pith_release(context, queries->held);
  *queries = (cache_queries){0};
}
