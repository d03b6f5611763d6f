/* answers.c - what is promised of an answer: bounds from the running norms, and which of the certificates binds. */
#include <math.h>
#include <string.h>

#include "cache/promise.h"
#include "summary/store.h"

/* |M| of kernel k at most: fair coins with probability 1 - delta at all times (theory 5.2), the rest surely. */
static double norm_bound(const pith_cache *cache, const cache_promise *p, size_t k) {
  double v = p->change[k], bound = 0;
  if (v > 0) bound = sqrt(2 * (v + p->first) * (log(CACHE_LAMBDAS / cache->options.delta) + 0.5 * log1p(v / p->first)));
  return bound + p->sum[k];
}

static double centred_logit(const float *query, const float *key, const double *centre, size_t d) {
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
  distance = pith_squared_distance(answer, value_centre(p), exact->dv);
  for (size_t i = 0; i < seen; i++) seen_mass += exp(centred_logit(query, exact->keys + i * d, key_centre(p), d));
  for (size_t i = 0; i < points->n; i++)
    point_mass += exp(centred_logit(query, points->keys + i * d, key_centre(p), d) + points->log_weight[i]);
  for (size_t k = 0; k < CACHE_BALLS; k++) {
    double change = exp(norm / (2 * p->lambda2[k])) * norm_bound(cache, p, k);
    double mass = fmax(p->tokens * exp(mean), point_mass - change / p->balance) + seen_mass;
    double bound = change * sqrt(1 + distance / (p->balance * p->balance)) / mass;
    if (bound < best) best = bound; /* never where it is not a number */
  }
  return best;
}

/* Largest squared distance of a value that is left from the centre. */
static double farthest_value(const cache_promise *p, const pith_pairs *exact, const pith_pairs *points) {
  const pith_pairs *sets[] = {exact, points};
  double farthest = 0;
  for (size_t s = 0; s < 2; s++)
    for (size_t i = 0; i < sets[s]->n; i++)
      farthest = fmax(farthest, pith_squared_distance(sets[s]->values + i * exact->dv, value_centre(p), exact->dv));
  return farthest;
}

/* For all queries up to rho: the mass is at least what Jensen's inequality leaves for the worst direction, and an
 * answer lies within the values. */
static double worst_bound(const pith_cache *cache, const cache_promise *p, const pith_pairs *exact,
                          const pith_pairs *points) {
  double best = INFINITY, farthest = farthest_value(p, exact, points), mean = 0;
  for (size_t j = 0; j < exact->d; j++) mean += pow(key_sum(p)[j] / p->tokens, 2);
  for (size_t k = 0; k < CACHE_BALLS; k++) {
    double change = exp(p->rho * p->rho / (2 * p->lambda2[k])) * norm_bound(cache, p, k);
    double bound = change * sqrt(1 + farthest / (p->balance * p->balance)) / (p->tokens * exp(-p->rho * sqrt(mean)));
    if (bound < best) best = bound;
  }
  return best;
}

/* Root mean square over the law. With y = q - mean and both sums centred at the law's centre, |change(y)| has the root
 * mean square that is kept up, and the mass is at least A exp(<y, m>), A the mass at the mean query and m its mean key
 * (Jensen). <y, m> is a centred normal of deviation s = |F^T m|: below -t s, which has probability Phi(-t), an answer
 * still lies within the values, and elsewhere the mass is at least A exp(-t s). t is the best of a few. */
static pith_status rms_bound(pith_context *context, const pith_cache *cache, const cache_promise *p,
                             const pith_pairs *exact, const pith_pairs *points, double *bound) {
  size_t d = exact->d;
  double mass = p->mass, deviation = 0, reach = p->reach, best = INFINITY;
  double *sum = pith_allocate(context, d, sizeof *sum);
  if (!sum) return PITH_E_MEMORY;
  memcpy(sum, law_sum(p), d * sizeof *sum);
  for (size_t i = 0; i < exact->n; i++) {
    mass += pith_law_add(p, exact->keys + i * d, sum);
    reach = fmax(reach, sqrt(pith_squared_distance(exact->values + i * exact->dv, value_centre(p), exact->dv)));
  }
  for (size_t j = 0; j < d; j++) {
    double turned = 0;
    for (size_t i = j; i < d; i++) turned += law_factor(p)[i * d + j] * sum[i] / mass;
    deviation += turned * turned;
  }
  deviation = sqrt(deviation);
  pith_release(context, sum);
  double farthest = farthest_value(p, exact, points);
  double change = norm_bound(cache, p, CACHE_LAW) * sqrt(1 + farthest / (p->balance * p->balance)) / mass;
  for (int quarters = 0; quarters <= 48; quarters++) {
    double t = quarters / 4.0, inside = change * exp(t * deviation);
    double outside = (reach + sqrt(farthest)) * sqrt(erfc(t / sqrt(2)) / 2);
    double both = sqrt(inside * inside + outside * outside);
    if (both < best) best = both; /* never where it is not a number */
  }
  *bound = best;
  return PITH_OK;
}

/* ---- Certificates ---- */

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

static double trivial_bound(const pith_pairs *exact, const pith_pairs *points) {
  /* Values that were folded lie where their points do, or further out: this is what is left to see of them. */
  return fmax(pith_value_diameter(exact->values, exact->n, exact->dv),
              pith_value_diameter(points->values, points->n, points->dv));
}

/* A certificate from the norms. */
static pith_certificate promised(const pith_cache *cache, pith_certificate_kind kind, double bound, double trivial) {
  bool coins = cache->engine == &pith_engine_halving;
  return (pith_certificate){.kind = kind,
                            .bound = bound,
                            .confidence = coins ? 1 - cache->options.delta : 1,
                            .trivial = trivial,
                            .certified = bound < trivial};
}

/* What does not depend on the query: probes and law. */
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
                           .gaussian = pith_certificate_none(),
                           .probe = pith_certificate_none()};
  for (size_t i = 0; errors && i < cache->options.probes; i++) errors[i] = NAN;
  const cache_promise *p = pith_cache_promise(cache, index);
  double trivial = trivial_bound(exact, points);
  if (p && p->set != 0 && p->lawful != 0) {
    double bound = INFINITY;
    PITH_TRY(rms_bound(context, cache, p, exact, points, &bound));
    out->gaussian = promised(cache, PITH_CERTIFICATE_GAUSSIAN, bound, trivial);
  }
  if (head->probes == 0) return PITH_OK;
  double *found = errors ? errors : pith_allocate(context, head->probes, sizeof *found), sum = 0;
  if (!found) return PITH_E_MEMORY;
  pith_status status = pith_cache_probe_errors(context, cache, index, exact, found);
  for (size_t i = 0; i < head->probes; i++) sum += found[i] / (double)head->probes;
  out->probe_error = sum;
  if (status == PITH_OK)
    status = pith_certify_probe(context, found, head->probes, cache->options.confidence, &out->probe);
  out->probe.trivial = trivial;
  out->probe.certified = out->probe.bound < out->probe.trivial;
  if (!errors) pith_release(context, found);
  return status;
}

/* The ball certificate of one answer, or of none: infinite. */
static pith_certificate ball(const pith_cache *cache, size_t index, double bound, double trivial) {
  const cache_promise *p = pith_cache_promise(cache, index);
  if (!p) return pith_certificate_none();
  pith_certificate certificate = promised(cache, PITH_CERTIFICATE_BALL, bound, trivial);
  certificate.rho = p->rho;
  return certificate;
}

/* What fits the question: the ball where it says something, since it holds for this very answer; else what belongs to
 * the query model where that does; else what does. Where nothing does, the model's own says how little. */
static pith_certificate binding(const pith_cache *cache, const pith_certificate *of_ball, const pith_cache_head *head) {
  bool lawful = pith_cache_model(cache) == PITH_QUERIES_GAUSSIAN;
  const pith_certificate *of_model = lawful ? &head->gaussian : &head->probe;
  const pith_certificate *other = lawful ? &head->probe : &head->gaussian;
  if (of_ball->certified) return *of_ball;
  if (of_model->certified) return *of_model;
  if (other->certified) return *other;
  if (of_model->kind != PITH_CERTIFICATE_NONE) return *of_model;
  return other->kind != PITH_CERTIFICATE_NONE ? *other : *of_ball;
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
    certificates[i] = binding(cache, &of_ball, &head);
  }
  pith_release(context, block);
  return status;
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
  out->binding = binding(cache, &out->ball, out);
  pith_release(context, block);
  return status;
}
