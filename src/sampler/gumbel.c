/* gumbel.c - softmax draws for registered queries: reservoirs that keep the largest z + G. */
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "pith/sampler.h"

struct pith_reservoirs {
  pith_memory *memory;
  size_t m, d, count;
  double scale;
  uint64_t seed, seen;
  float *queries;  /* (m, d) */
  double *best;    /* (m, count): the largest z + G so far */
  pith_draw *draw; /* (m, count): whose it is */
};

void pith_reservoirs_free(pith_reservoirs *reservoirs) {
  if (!reservoirs) return;
  pith_memory *memory = reservoirs->memory;
  pith_memory_release(memory, reservoirs->draw);
  pith_memory_release(memory, reservoirs->best);
  pith_memory_release(memory, reservoirs->queries);
  pith_memory_release(memory, reservoirs);
  pith_memory_unshare(memory);
}

static pith_status fill(pith_context *context, pith_reservoirs *reservoirs, const pith_array *queries) {
  size_t places = 0, m = reservoirs->m;
  if (__builtin_mul_overflow(m, reservoirs->count, &places))
    return pith_fail(context, PITH_E_MEMORY, "%zu queries with %zu reservoirs each do not fit in memory", m,
                     reservoirs->count);
  reservoirs->queries = pith_memory_allocate(reservoirs->memory, m * reservoirs->d, sizeof *reservoirs->queries);
  reservoirs->best = pith_memory_allocate(reservoirs->memory, places, sizeof *reservoirs->best);
  reservoirs->draw = pith_memory_allocate(reservoirs->memory, places, sizeof *reservoirs->draw);
  if (!reservoirs->queries || !reservoirs->best || !reservoirs->draw)
    return pith_fail(context, PITH_E_MEMORY, "no memory for %zu reservoirs", places);
  for (size_t i = 0; i < places; i++) reservoirs->best[i] = -INFINITY;
  memset(reservoirs->draw, 0, places * sizeof *reservoirs->draw);
  return pith_array_to_f32(context, queries, "queries", 1, reservoirs->queries);
}

pith_status pith_reservoirs_create(pith_context *context, const pith_array *queries, size_t count, double scale,
                                   uint64_t seed, pith_reservoirs **out) {
  if (queries->ndim != 2 || queries->shape[1] == 0 || queries->shape[0] > UINT32_MAX)
    return pith_fail(context, PITH_E_SHAPE, "queries must be (m, d) with d at least 1");
  if (count == 0 || count > UINT32_MAX || !isfinite(scale))
    return pith_fail(context, PITH_E_ARGUMENT, "count is %zu and scale %g; they must be 1 to 2^32 - 1, and finite",
                     count, scale);
  pith_memory *memory = pith_memory_share(context);
  pith_reservoirs *reservoirs = pith_memory_allocate(memory, 1, sizeof *reservoirs);
  if (!reservoirs) {
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for reservoirs");
  }
  *reservoirs = (pith_reservoirs){
      .memory = memory, .m = queries->shape[0], .d = queries->shape[1], .count = count, .scale = scale, .seed = seed};
  if (scale == 0) reservoirs->scale = 1 / sqrt((double)reservoirs->d);
  pith_status status = fill(context, reservoirs, queries);
  if (status < 0) {
    pith_reservoirs_free(reservoirs);
    return status;
  }
  *out = reservoirs;
  return PITH_OK;
}

/* ---- Keys ---- */

typedef struct push_job {
  pith_reservoirs *reservoirs;
  const float *keys;
  size_t n;
  uint64_t first;
} push_job;

static double least(const double *values, size_t count) {
  double out = INFINITY;
  for (size_t i = 0; i < count; i++) out = fmin(out, values[i]);
  return out;
}

/* Ties do not happen but for equal random numbers; the smaller index then wins, so that order never matters. */
static bool wins(double key, uint64_t row, double best, const pith_draw *draw) {
  return key > best || (key == best && row < draw->row);
}

static void push_query(void *argument, size_t query, int thread) {
  (void)thread;
  const push_job *job = argument;
  pith_reservoirs *reservoirs = job->reservoirs;
  size_t d = reservoirs->d, count = reservoirs->count;
  const float *q = reservoirs->queries + query * d;
  double *best = reservoirs->best + query * count, lowest = least(best, count);
  pith_draw *draw = reservoirs->draw + query * count;
  pith_stream stream = pith_stream_make(reservoirs->seed, PITH_STREAM_GUMBEL, (uint32_t)query);
  for (size_t i = 0; i < job->n; i++) {
    uint64_t row = job->first + i;
    double z = 0;
    for (size_t j = 0; j < d; j++) z += (double)q[j] * job->keys[i * d + j];
    z *= reservoirs->scale;
    /* z - log(-log u) > best asks for -log u < exp(z - best), and 1 - u is never above -log u. */
    double most = exp(z - lowest);
    bool changed = false;
    for (size_t t = 0; t < count; t++) {
      double u = pith_random_uniform(&stream, row * count + t);
      if (1 - u > most) continue;
      double key = z - log(-log(u));
      if (!wins(key, row, best[t], &draw[t])) continue;
      best[t] = key;
      draw[t] = (pith_draw){.row = row, .value = z, .weight = 1};
      changed = true;
    }
    if (changed) lowest = least(best, count);
  }
}

pith_status pith_reservoirs_push(pith_context *context, pith_reservoirs *reservoirs, const pith_array *keys,
                                 uint64_t first) {
  if (keys->ndim != 2 || keys->shape[1] != reservoirs->d)
    return pith_fail(context, PITH_E_SHAPE, "keys must be (n, %zu), as wide as the queries", reservoirs->d);
  size_t n = keys->shape[0];
  if (first > UINT64_MAX - n || first + n > UINT64_MAX / reservoirs->count)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "keys up to number %llu with %zu reservoirs; their product is limited to "
                     "2^64",
                     (unsigned long long)first, reservoirs->count);
  float *floats = pith_allocate(context, n * reservoirs->d, sizeof *floats);
  if (!floats) return PITH_E_MEMORY;
  pith_status status = pith_array_to_f32(context, keys, "keys", 1, floats);
  if (status >= 0) {
    push_job job = {.reservoirs = reservoirs, .keys = floats, .n = n, .first = first};
    pith_parallel_for(context, reservoirs->m, push_query, &job);
    reservoirs->seen += n;
  }
  pith_release(context, floats);
  return status;
}

pith_status pith_reservoirs_merge(pith_context *context, pith_reservoirs *reservoirs, const pith_reservoirs *other) {
  const char *differs = NULL;
  if (reservoirs->m != other->m || reservoirs->d != other->d ||
      memcmp(reservoirs->queries, other->queries, reservoirs->m * reservoirs->d * sizeof(float)) != 0)
    differs = "queries";
  else if (reservoirs->count != other->count)
    differs = "count";
  else if (reservoirs->scale != other->scale)
    differs = "scale";
  else if (reservoirs->seed != other->seed)
    differs = "seed";
  if (differs)
    return pith_fail(context, PITH_E_ARGUMENT, "the reservoirs differ in %s; only like ones can be merged", differs);
  for (size_t i = 0; i < reservoirs->m * reservoirs->count; i++) {
    if (!wins(other->best[i], other->draw[i].row, reservoirs->best[i], &reservoirs->draw[i])) continue;
    reservoirs->best[i] = other->best[i];
    reservoirs->draw[i] = other->draw[i];
  }
  reservoirs->seen += other->seen;
  return PITH_OK;
}

int pith_reservoirs_draws(const pith_reservoirs *reservoirs, pith_draw *draws) {
  if (!reservoirs->seen) return 0;
  memcpy(draws, reservoirs->draw, reservoirs->m * reservoirs->count * sizeof *draws);
  return 1;
}

void pith_reservoirs_norms(const pith_reservoirs *reservoirs, double *norms) {
  const double euler = 0.57721566490153286; /* the mean of a Gumbel variable */
  for (size_t i = 0; i < reservoirs->m; i++) {
    double sum = 0;
    for (size_t t = 0; t < reservoirs->count; t++) sum += reservoirs->best[i * reservoirs->count + t];
    norms[i] = sum / (double)reservoirs->count - euler;
  }
}

size_t pith_reservoirs_words(const pith_reservoirs *reservoirs) {
  return reservoirs->m * (reservoirs->count * 4 + (reservoirs->d + 1) / 2);
}
