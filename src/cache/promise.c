/* promise.c - running norms of all that folding has changed, and what they bound: the error of each answer (ball), and
 * its root mean square over queries from a Gaussian law. */
#include "cache/promise.h"

#include <math.h>
#include <string.h>

#include "linalg/linalg.h"

/* Kernels of the balls: lambda^2 in parts of rho / R, R the largest radius of the first keys. */
enum { PANEL = 256 };
static const double LAMBDAS[CACHE_BALLS] = {0.5, 1, 2, 4};

size_t pith_cache_promise_bytes(const pith_cache_options *o) {
  return o->certify ? sizeof(cache_promise) + (2 * o->d + o->dv + (3 + o->d) * o->d) * sizeof(double) : 0;
}

cache_promise *pith_cache_promise(const pith_cache *cache, size_t index) {
  size_t bytes = pith_cache_promise_bytes(&cache->options);
  return bytes ? (cache_promise *)(void *)(cache->block + cache->at.promises + index * bytes) : NULL;
}

double pith_cache_rho(const pith_cache *cache) {
  double rho = cache->options.rho;
  for (size_t i = 0; i < cache->heads && cache->options.certify; i++)
    rho = fmax(rho, pith_cache_promise(cache, i)->rho);
  return rho > 0 ? rho : 2;
}

/* ---- Norms ---- */

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

/* From the kernels of balls to that of the law: with y = q - mean ~ N(0, F F^T) it is E exp(<y, x> + <y, x'>) =
 * exp(|F^T x|^2 / 2) exp(|F^T x'|^2 / 2) exp(<F^T x, F^T x'>), and the mean goes into the weights. */
static void to_law(pith_context *context, const cache_promise *p, size_t n, size_t width, double *keys, double *values,
                   double *mapped) {
  size_t d = (size_t)p->d;
  for (size_t i = 0; i < n * d; i++) keys[i] += key_centre(p)[i % d] - law_centre(p)[i % d];
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, n, d, d, 1, keys, d, law_factor(p), d, 0, mapped, d);
  for (size_t i = 0; i < n; i++) {
    double exponent = 0;
    for (size_t j = 0; j < d; j++)
      exponent += law_mean(p)[j] * keys[i * d + j] + mapped[i * d + j] * mapped[i * d + j] / 2;
    for (size_t j = 0; j < width; j++) values[i * width + j] *= exp(exponent);
  }
}

typedef struct norms {
  size_t n, d, width, count;   /* rows, numbers of each, kernels */
  const double *keys, *values; /* (n, d), (n, width) */
  double *logit, *product;     /* (PANEL, n) */
  const double *lambda2;       /* (count) */
  double *squared;             /* (count): |sum of phi(key) (x) value|^2, rounding included */
} norms;

static void measure(pith_context *context, const norms *m) {
  double size[CACHE_LAMBDAS] = {0};
  for (size_t k = 0; k < m->count; k++) m->squared[k] = 0;
  for (size_t begin = 0; begin < m->n; begin += PANEL) {
    size_t count = pith_min_size(PANEL, m->n - begin);
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, count, m->n, m->d, 1, m->keys + begin * m->d, m->d, m->keys,
                  m->d, 0, m->logit, m->n);
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, count, m->n, m->width, 1, m->values + begin * m->width,
                  m->width, m->values, m->width, 0, m->product, m->n);
    for (size_t i = 0; i < count * m->n; i++)
      for (size_t k = 0; k < m->count; k++) {
        double x = m->product[i] * exp(m->lambda2[k] * m->logit[i]);
        m->squared[k] += x;
        size[k] += fabs(x);
      }
  }
  for (size_t k = 0; k < m->count; k++) {
    m->squared[k] = fmax(m->squared[k], 0) + 1e-14 * size[k];
    if (!isfinite(m->squared[k])) m->squared[k] = INFINITY;
  }
}

pith_status pith_cache_distance(pith_context *context, const cache_promise *p, const pith_pairs *before,
                                const pith_pairs *after, double squared[CACHE_LAMBDAS]) {
  static const double one = 1;
  size_t n = before->n + after->n, d = before->d, width = before->dv + 1;
  double *keys = pith_allocate(context, n * (2 * d + width) + 2 * n * PANEL, sizeof *keys);
  memset(squared, 0, CACHE_LAMBDAS * sizeof *squared);
  if (!keys) return PITH_E_MEMORY;
  double *values = keys + n * d, *mapped = values + n * width, *logit = mapped + n * d;
  fill_rows(p, before, -1, keys, values);
  fill_rows(p, after, 1, keys + before->n * d, values + before->n * width);
  norms m = {n, d, width, CACHE_BALLS, keys, values, logit, logit + n * PANEL, p->lambda2, squared};
  measure(context, &m);
  if (p->lawful != 0) {
    to_law(context, p, n, width, keys, values, mapped);
    m = (norms){n, d, width, 1, mapped, values, logit, logit + n * PANEL, &one, squared + CACHE_LAW};
    measure(context, &m);
  }
  pith_release(context, keys);
  return PITH_OK;
}

/* ---- The first fold ---- */

/* Mean and covariance of the fit queries (plus a millionth, so that it has a factor), and the mean key as the mean
 * query weighs keys. Without a factor there is no law. */
static pith_status set_law(pith_context *context, cache_promise *p, const pith_query_model *m, const float *keys,
                           size_t count) {
  size_t d = m->d, n = m->fit_count;
  double *mean = law_mean(p), *factor = law_factor(p), trace = 0, total = 0, largest = -INFINITY;
  if (n < 2) return PITH_OK;
  double *rows = pith_allocate(context, n * d + count, sizeof *rows);
  if (!rows) return PITH_E_MEMORY;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < d; j++) mean[j] += (double)m->fit[i * d + j] / (double)n;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < d; j++) {
      double x = rows[i * d + j] = m->fit[i * d + j] - mean[j];
      trace += x * x / (double)n;
    }
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, d, d, n, 1 / (double)n, rows, d, rows, d, 0, factor, d);
  for (size_t j = 0; j < d; j++) factor[j * d + j] += 1e-6 * trace / (double)d;
  p->lawful = trace > 0 && pith_cholesky_f64(context, factor, d, d) == PITH_OK;
  for (size_t i = 0; i < d; i++)
    for (size_t j = i + 1; j < d; j++) factor[i * d + j] = 0;
  double *logit = rows + n * d;
  for (size_t i = 0; i < count; i++)
    largest = fmax(largest, logit[i] = pith_dot_centred(mean, keys + i * d, key_centre(p), d));
  for (size_t i = 0; i < count; i++) total += logit[i] = exp(logit[i] - largest);
  for (size_t i = 0; i < count; i++)
    for (size_t j = 0; j < d; j++) law_centre(p)[j] += keys[i * d + j] * (logit[i] / total);
  pith_release(context, rows);
  return PITH_OK;
}

pith_status pith_cache_promise_begin(pith_context *context, const pith_cache *cache, size_t index,
                                     const pith_query_model *model, const float *keys, const float *values,
                                     size_t count) {
  cache_promise *p = pith_cache_promise(cache, index);
  size_t d = cache->options.d, dv = cache->options.dv;
  if (!p || p->set != 0 || count == 0) return PITH_OK;
  memset(p, 0, pith_cache_promise_bytes(&cache->options));
  p->d = (double)d;
  p->dv = (double)dv;
  double largest = 0, square = 0;
  for (size_t i = 0; i < count; i++) {
    for (size_t j = 0; j < d; j++) key_centre(p)[j] += (double)keys[i * d + j] / (double)count;
    for (size_t j = 0; j < dv; j++) value_centre(p)[j] += (double)values[i * dv + j] / (double)count;
  }
  for (size_t i = 0; i < count; i++) {
    largest = fmax(largest, sqrt(pith_squared_distance(keys + i * d, key_centre(p), d)));
    square += pith_squared_distance(values + i * dv, value_centre(p), dv) / (double)count;
  }
  p->rho = cache->options.rho > 0 ? cache->options.rho : model->rho;
  p->balance = square > 0 ? sqrt(square) : 1;
  for (size_t k = 0; k < CACHE_BALLS; k++) p->lambda2[k] = LAMBDAS[k] * p->rho / (largest > 0 ? largest : 1);
  p->first = p->balance * p->balance * (double)cache->options.chunk / 16;
  PITH_TRY(set_law(context, p, model, keys, count));
  p->set = 1;
  return PITH_OK;
}

void pith_cache_promise_count(const pith_cache *cache, size_t index, const float *keys, const float *values,
                              size_t count) {
  cache_promise *p = pith_cache_promise(cache, index);
  size_t d = cache->options.d, dv = cache->options.dv;
  if (!p) return;
  for (size_t i = 0; i < count * d; i++) key_sum(p)[i % d] += keys[i] - key_centre(p)[i % d];
  p->tokens += (double)count;
  for (size_t i = 0; i < count; i++) {
    p->reach = fmax(p->reach, sqrt(pith_squared_distance(values + i * dv, value_centre(p), dv)));
    if (p->lawful != 0) p->mass += pith_law_add(p, keys + i * d, law_sum(p));
  }
}
