/* probes.c - held-out queries of each head, whose exact answers are kept up with every row that leaves. */
#include <math.h>
#include <string.h>

#include "cache/promise.h"
#include "summary/store.h"

static float *probe_query(const pith_cache *cache, size_t index, size_t probe) {
  const pith_cache_options *o = &cache->options;
  return (float *)(void *)(cache->block + cache->at.probes) + (index * o->probes + probe) * o->d;
}

/* Largest logit, sum of exp(logit - largest), and the same sum with values: over all rows that have left. */
static double *probe_state(const pith_cache *cache, size_t index, size_t probe) {
  const pith_cache_options *o = &cache->options;
  return (double *)(void *)(cache->block + cache->at.probe_states) + (index * o->probes + probe) * (o->dv + 2);
}

static void see(double *state, const float *query, const float *keys, const float *values, size_t count, size_t d,
                size_t dv) {
  for (size_t i = 0; i < count; i++) {
    double logit = 0;
    for (size_t j = 0; j < d; j++) logit += (double)query[j] * keys[i * d + j];
    if (logit > state[0]) {
      double factor = exp(state[0] - logit);
      for (size_t j = 1; j < dv + 2; j++) state[j] *= factor;
      state[0] = logit;
    }
    double weight = exp(logit - state[0]);
    state[1] += weight;
    for (size_t j = 0; j < dv; j++) state[2 + j] += weight * values[i * dv + j];
  }
}

void pith_cache_probes_begin(const pith_cache *cache, size_t index, const cache_queries *queries, size_t now) {
  const pith_cache_options *o = &cache->options;
  cache_head *head = cache_head_of(cache, index);
  if (queries->probe_count == 0) return;
  pith_stream stream = pith_stream_make(o->seed, PITH_STREAM_PROBES, (uint32_t)index);
  for (size_t i = 0; i < queries->probe_count; i++) {
    double ahead = floor(pith_random_uniform(&stream, i) * (double)o->horizon);
    pith_cache_read_query(cache, &queries->probe[i], (double)now + ahead, probe_query(cache, index, i));
    memset(probe_state(cache, index, i), 0, (o->dv + 2) * sizeof(double));
    probe_state(cache, index, i)[0] = -1e300; /* below all logits, and still a number */
  }
  head->probes = queries->probe_count;
}

void pith_cache_probes_see(const pith_cache *cache, size_t index, const float *keys, const float *values,
                           size_t count) {
  const pith_cache_options *o = &cache->options;
  for (size_t i = 0; i < cache_head_of(cache, index)->probes; i++)
    see(probe_state(cache, index, i), probe_query(cache, index, i), keys, values, count, o->d, o->dv);
}

pith_status pith_cache_probe_errors(pith_context *context, const pith_cache *cache, size_t index,
                                    const pith_pairs *exact, double *errors) {
  const pith_cache_options *o = &cache->options;
  size_t probes = cache_head_of(cache, index)->probes;
  float *answers = pith_allocate(context, probes, o->dv * sizeof *answers);
  double *state = pith_allocate(context, o->dv + 2, sizeof *state);
  pith_head_view view = pith_cache_points(cache, index, NULL);
  pith_attend_job job = {.rows = pith_head_rows(&view),
                         .heads = 1,
                         .queries = probes,
                         .query = probe_query(cache, index, 0),
                         .out = answers,
                         .later = pith_cache_exact_rows(cache, index)};
  pith_status status = answers && state ? pith_attend_jobs(context, &job, 1) : PITH_E_MEMORY;
  for (size_t i = 0; status == PITH_OK && i < probes; i++) {
    double sum = 0;
    memcpy(state, probe_state(cache, index, i), (o->dv + 2) * sizeof *state);
    see(state, probe_query(cache, index, i), exact->keys, exact->values, exact->n, o->d, o->dv);
    for (size_t j = 0; j < o->dv; j++) sum += pow(answers[i * o->dv + j] - state[2 + j] / state[1], 2);
    errors[i] = sqrt(sum);
  }
  pith_release(context, answers);
  pith_release(context, state);
  return status;
}
