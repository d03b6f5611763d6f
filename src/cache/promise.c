/* promise.c - the running ball bound, probes, and which of them binds. */
#include "cache/promise.h"

#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "summary/store.h"

/* Kernels that bounds are kept for: lambda^2 in parts of rho / R, R the largest radius of the first keys. */
static const double LAMBDAS[CACHE_LAMBDAS] = {0.5, 1, 2, 4};
enum { PANEL = 256 };

size_t pith_cache_promise_bytes(const pith_cache_options *o) {
  return o->certify ? sizeof(cache_promise) + (2 * o->d + o->dv) * sizeof(double) : 0;
}

cache_promise *pith_cache_promise(const pith_cache *cache, size_t index) {
  size_t bytes = pith_cache_promise_bytes(&cache->options);
  return bytes ? (cache_promise *)(void *)(cache->block + cache->at.promises + index * bytes) : NULL;
}

static double *key_centre(const cache_promise *p) { return (double *)(p + 1); }
static double *value_centre(const cache_promise *p) { return key_centre(p) + (size_t)p->d; }
static double *key_sum(const cache_promise *p) { return value_centre(p) + (size_t)p->dv; }

double pith_cache_rho(const pith_cache *cache) {
  double rho = cache->options.rho;
  for (size_t i = 0; i < cache->heads && cache->options.certify; i++)
    rho = fmax(rho, pith_cache_promise(cache, i)->rho);
  return rho > 0 ? rho : 2;
}

/* ---- The ball ---- */

/* Centred rows of both sets, values with the balance behind them, times their signed weights. */
static void fill_rows(const cache_promise *p, const pith_pairs *set, double sign, double *keys, double *values) {
  size_t d = set->d, dv = set->dv;
  for (size_t i = 0; i < set->n; i++) {
    double weight = sign * (set->log_weight ? exp((double)set->log_weight[i]) : 1);
    for (size_t j = 0; j < d; j++) keys[i * d + j] = set->keys[i * d + j] - key_centre(p)[j];
    for (size_t j = 0; j < dv; j++) values[i * (dv + 1) + j] = weight * (set->values[i * dv + j] - value_centre(p)[j]);
    values[i * (dv + 1) + dv] = weight * p->balance;
  }
}

pith_status pith_cache_distance(pith_context *context, const cache_promise *p, const pith_pairs *before,
                                const pith_pairs *after, double squared[CACHE_LAMBDAS]) {
  size_t n = before->n + after->n, d = before->d, width = before->dv + 1;
  double *keys = pith_allocate(context, n * (d + width) + 2 * n * PANEL, sizeof *keys), size[CACHE_LAMBDAS] = {0};
  memset(squared, 0, CACHE_LAMBDAS * sizeof *squared);
  if (!keys) return PITH_E_MEMORY;
  double *values = keys + n * d, *logit = values + n * width, *product = logit + n * PANEL;
  fill_rows(p, before, -1, keys, values);
  fill_rows(p, after, 1, keys + before->n * d, values + before->n * width);
  for (size_t begin = 0; begin < n; begin += PANEL) {
    size_t count = pith_min_size(PANEL, n - begin);
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, count, n, d, 1, keys + begin * d, d, keys, d, 0, logit, n);
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, count, n, width, 1, values + begin * width, width, values,
                  width, 0, product, n);
    for (size_t i = 0; i < count * n; i++)
      for (size_t k = 0; k < CACHE_LAMBDAS; k++) {
        double x = product[i] * exp(p->lambda2[k] * logit[i]);
        squared[k] += x;
        size[k] += fabs(x);
      }
  }
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) {
    squared[k] = fmax(squared[k], 0) + 1e-14 * size[k];
    if (!isfinite(squared[k])) squared[k] = INFINITY;
  }
  pith_release(context, keys);
  return PITH_OK;
}

void pith_cache_promise_begin(const pith_cache *cache, size_t index, const pith_query_model *model, const float *keys,
                              const float *values, size_t count) {
  cache_promise *p = pith_cache_promise(cache, index);
  size_t d = cache->options.d, dv = cache->options.dv;
  if (!p || p->set != 0 || count == 0) return;
  p->d = (double)d;
  p->dv = (double)dv;
  double largest = 0, square = 0;
  for (size_t i = 0; i < count; i++) {
    for (size_t j = 0; j < d; j++) key_centre(p)[j] += (double)keys[i * d + j] / (double)count;
    for (size_t j = 0; j < dv; j++) value_centre(p)[j] += (double)values[i * dv + j] / (double)count;
  }
  for (size_t i = 0; i < count; i++) {
    double norm = 0;
    for (size_t j = 0; j < d; j++) norm += pow(keys[i * d + j] - key_centre(p)[j], 2);
    for (size_t j = 0; j < dv; j++) square += pow(values[i * dv + j] - value_centre(p)[j], 2) / (double)count;
    largest = fmax(largest, sqrt(norm));
  }
  p->rho = cache->options.rho > 0 ? cache->options.rho : model->rho;
  p->balance = square > 0 ? sqrt(square) : 1;
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) p->lambda2[k] = LAMBDAS[k] * p->rho / (largest > 0 ? largest : 1);
  p->first = p->balance * p->balance * (double)cache->options.chunk / 16;
  p->set = 1;
}

void pith_cache_promise_count(const pith_cache *cache, size_t index, const float *keys, size_t count) {
  cache_promise *p = pith_cache_promise(cache, index);
  size_t d = cache->options.d;
  if (!p) return;
  for (size_t i = 0; i < count * d; i++) key_sum(p)[i % d] += keys[i] - key_centre(p)[i % d];
  p->tokens += (double)count;
}

/* |M| of kernel k at most: fair coins with probability 1 - delta at all times (theory 5.2), the rest surely. */
static double norm_bound(const pith_cache *cache, const cache_promise *p, size_t k) {
  double v = p->change[k], bound = 0;
  if (v > 0) bound = sqrt(2 * (v + p->first) * (log(CACHE_LAMBDAS / cache->options.delta) + 0.5 * log1p(v / p->first)));
  return bound + p->sum[k];
}

static double dot_centred(const float *query, const float *key, const double *centre, size_t d) {
  double sum = 0;
  for (size_t j = 0; j < d; j++) sum += query[j] * (key[j] - centre[j]);
  return sum;
}

/* One answer: rows (count) are the exact ones that the query sees, as f32; points those of the summary. */
static double ball_bound(const pith_cache *cache, const cache_promise *p, const float *query, const float *answer,
                         const pith_pairs *exact, size_t seen, const pith_pairs *points) {
  size_t d = exact->d;
  double norm = 0, mean = 0, distance = 0, seen_mass = 0, point_mass = 0, best = INFINITY;
  for (size_t j = 0; j < d; j++) {
    norm += (double)query[j] * query[j];
    mean += query[j] * key_sum(p)[j] / p->tokens;
  }
  for (size_t j = 0; j < exact->dv; j++) distance += pow(answer[j] - value_centre(p)[j], 2);
  for (size_t i = 0; i < seen; i++) seen_mass += exp(dot_centred(query, exact->keys + i * d, key_centre(p), d));
  for (size_t i = 0; i < points->n; i++)
    point_mass += exp(dot_centred(query, points->keys + i * d, key_centre(p), d) + points->log_weight[i]);
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) {
    double change = exp(norm / (2 * p->lambda2[k])) * norm_bound(cache, p, k);
    double mass = fmax(p->tokens * exp(mean), point_mass - change / p->balance) + seen_mass;
    double bound = change * sqrt(1 + distance / (p->balance * p->balance)) / mass;
    if (bound < best) best = bound; /* never where it is not a number */
  }
  return best;
}

/* ---- Probes ---- */

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

/* ---- Both ---- */

/* A head as f32: exact rows and points; one block to be released. */
static pith_status read_head(pith_context *context, const pith_cache *cache, size_t index, float **block,
                             pith_pairs *exact, pith_pairs *points) {
  pith_head_view view = pith_cache_points(cache, index, NULL);
  pith_rows rows = pith_cache_exact_rows(cache, index);
  size_t d = view.d, dv = view.dv;
  float *at = *block = pith_allocate(context, (rows.count + view.points) * (d + dv), sizeof *at);
  if (!at) return PITH_E_MEMORY;
  *exact = (pith_pairs){rows.count, d, dv, at, at + rows.count * d, NULL};
  pith_store_read(rows.dtype, rows.keys, NULL, rows.count, d, at);
  pith_store_read(rows.dtype, rows.values, NULL, rows.count, dv, at + rows.count * d);
  at += rows.count * (d + dv);
  *points = (pith_pairs){view.points, d, dv, at, at + view.points * d, view.log_weight};
  pith_head_to_f32(&view, at, at + view.points * d);
  return PITH_OK;
}

/* Errors at the probes, asked now. */
static pith_status probe_errors(pith_context *context, const pith_cache *cache, size_t index, const pith_pairs *exact,
                                double *errors) {
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

static double trivial_bound(const pith_pairs *exact, const pith_pairs *points) {
  /* Values that were folded lie where their points do, or further out: this is what is left to see of them. */
  return fmax(pith_value_diameter(exact->values, exact->n, exact->dv),
              pith_value_diameter(points->values, points->n, points->dv));
}

static pith_status look(pith_context *context, const pith_cache *cache, size_t index, const pith_pairs *exact,
                        const pith_pairs *points, double *errors, pith_cache_head *out) {
  const cache_head *head = cache_head_of(cache, index);
  pith_head_view view = pith_cache_points(cache, index, NULL);
  *out = (pith_cache_head){.points = view.points,
                           .store = view.store,
                           .bytes = view.bytes,
                           .probe_error = NAN,
                           .binding = pith_certificate_none(),
                           .ball = pith_certificate_none(),
                           .probe = pith_certificate_none()};
  for (size_t i = 0; errors && i < cache->options.probes; i++) errors[i] = NAN;
  if (head->probes == 0) return PITH_OK;
  double *found = errors ? errors : pith_allocate(context, head->probes, sizeof *found), sum = 0;
  if (!found) return PITH_E_MEMORY;
  pith_status status = probe_errors(context, cache, index, exact, found);
  for (size_t i = 0; i < head->probes; i++) sum += found[i] / (double)head->probes;
  out->probe_error = sum;
  if (status == PITH_OK)
    status = pith_certify_probe(context, found, head->probes, cache->options.confidence, &out->probe);
  out->probe.trivial = trivial_bound(exact, points);
  out->probe.certified = out->probe.bound < out->probe.trivial;
  if (!errors) pith_release(context, found);
  return status;
}

/* The ball certificate of one answer, or of none: infinite. */
static pith_certificate ball(const pith_cache *cache, size_t index, double bound, double trivial) {
  const cache_promise *p = pith_cache_promise(cache, index);
  if (!p) return pith_certificate_none();
  bool coins = cache->engine == &pith_engine_halving;
  return (pith_certificate){.kind = PITH_CERTIFICATE_BALL,
                            .bound = bound,
                            .confidence = coins ? 1 - cache->options.delta : 1,
                            .trivial = trivial,
                            .rho = p->rho,
                            .certified = bound < trivial};
}

/* What fits the question: a bound that holds for this answer, where it says something; else the probes. */
static pith_certificate binding(const pith_certificate *of_ball, const pith_certificate *of_probes) {
  if (of_ball->certified || of_probes->kind == PITH_CERTIFICATE_NONE) return *of_ball;
  return *of_probes;
}

pith_status pith_cache_promise_answers(pith_context *context, const pith_cache *cache, size_t index,
                                       const float *queries, const float *answers, size_t m,
                                       pith_certificate *certificates) {
  size_t d = cache->options.d, dv = cache->options.dv, count = cache->group * m;
  const cache_promise *p = pith_cache_promise(cache, index);
  if (cache_head_of(cache, index)->points == 0) {
    for (size_t i = 0; i < count; i++)
      certificates[i] = (pith_certificate){
          .kind = PITH_CERTIFICATE_BALL, .confidence = 1, .trivial = INFINITY, .rho = INFINITY, .certified = 1};
    return PITH_OK;
  }
  float *block = NULL;
  pith_pairs exact, points;
  pith_cache_head head;
  PITH_TRY(read_head(context, cache, index, &block, &exact, &points));
  pith_status status = look(context, cache, index, &exact, &points, NULL, &head);
  for (size_t i = 0; status == PITH_OK && i < count; i++) {
    size_t seen = exact.n - m + i % m + 1;
    double bound = p ? ball_bound(cache, p, queries + i * d, answers + i * dv, &exact, seen, &points) : INFINITY;
    pith_certificate of_ball = ball(cache, index, bound, trivial_bound(&exact, &points));
    certificates[i] = binding(&of_ball, &head.probe);
  }
  pith_release(context, block);
  return status;
}

/* For all queries up to rho: the mass is at least what Jensen's inequality leaves for the worst direction, and an
 * answer lies within the values. */
static double worst_bound(const pith_cache *cache, const cache_promise *p, const pith_pairs *exact,
                          const pith_pairs *points) {
  double best = INFINITY, farthest = 0, mean = 0;
  const pith_pairs *sets[] = {exact, points};
  for (size_t s = 0; s < 2; s++)
    for (size_t i = 0; i < sets[s]->n; i++) {
      double distance = 0;
      for (size_t j = 0; j < exact->dv; j++)
        distance += pow(sets[s]->values[i * exact->dv + j] - value_centre(p)[j], 2);
      farthest = fmax(farthest, distance);
    }
  for (size_t j = 0; j < exact->d; j++) mean += pow(key_sum(p)[j] / p->tokens, 2);
  for (size_t k = 0; k < CACHE_LAMBDAS; k++) {
    double change = exp(p->rho * p->rho / (2 * p->lambda2[k])) * norm_bound(cache, p, k);
    double bound = change * sqrt(1 + farthest / (p->balance * p->balance)) / (p->tokens * exp(-p->rho * sqrt(mean)));
    if (bound < best) best = bound;
  }
  return best;
}

pith_status pith_cache_look(pith_context *context, const pith_cache *cache, size_t layer, size_t head,
                            pith_cache_head *out, double *errors) {
  if (layer >= cache->options.layers || head >= cache->options.kv_heads)
    return pith_fail(context, PITH_E_ARGUMENT, "cache: no layer %zu, head %zu; it has %zu layers of %zu kv heads",
                     layer, head, cache->options.layers, cache->options.kv_heads);
  size_t index = layer * cache->options.kv_heads + head;
  const cache_promise *p = pith_cache_promise(cache, index);
  float *block = NULL;
  pith_pairs exact, points;
  PITH_TRY(read_head(context, cache, index, &block, &exact, &points));
  pith_status status = look(context, cache, index, &exact, &points, errors, out);
  if (p && p->set != 0)
    out->ball = ball(cache, index, worst_bound(cache, p, &exact, &points), trivial_bound(&exact, &points));
  out->binding = binding(&out->ball, &out->probe);
  pith_release(context, block);
  return status;
}
