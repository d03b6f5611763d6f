/* attention_draw.c - draws of keys by the laws of attention: scans, Gram trees over features, rejection.
 *
 * Softmax from a tree (theory: the l2 law as proposal): with keys taken from their mean c, |z| <= r = s |q| max |k -
 * c|, and features of degree m of [1, k - c] asked with [b, s q / 2m], the tree proposes key i with weight (b + z_i /
 * 2m)^2m. It is accepted with probability exp(z_i) / (C (b + z_i / 2m)^2m), where C is the largest ratio on
 * [-r, r]; b = (r / 2m) coth(r / 2m) makes the ratios at both ends equal, and C least. */
#include <math.h>
#include <string.h>

#include "sampler/attention.h"

/* A query is scanned after so many proposals when fewer than one in PATIENCE was accepted. */
enum { FEWEST = 1024, PATIENCE = 64 };

typedef struct tally { /* of a query */
  size_t proposals, accepted, scanned;
  double distance, norm;
} tally;

typedef struct draw_job {
  const pith_key_sampler *sampler;
  const float *queries; /* (m, d) */
  const double *asked;  /* (m, features): what the tree is asked with; NULL: scans only */
  const double *bound;  /* (m): r of softmax */
  size_t count, features;
  bool all_scanned;
  pith_draw *draws;
  size_t *drawn;
  double *weights, *packed; /* of a thread: (n), (packed features) */
  tally *tallies;           /* (m) */
} draw_job;

/* <q, k>, or z. */
static double logit(const pith_key_sampler *sampler, const float *query, size_t row) {
  const float *key = sampler->keys + row * sampler->d;
  double sum = 0;
  for (size_t j = 0; j < sampler->d; j++) sum += (double)query[j] * key[j];
  return is_softmax(sampler) ? sampler->options.scale * sum : sum;
}

static double value_of(const pith_key_sampler *sampler, double product) {
  if (is_softmax(sampler)) return product;
  double value = product;
  for (size_t p = 1; p < sampler->options.power; p++) value *= product;
  return value;
}

/* Random numbers of draw (or proposal) `number` of this call. */
static uint64_t place(const pith_key_sampler *sampler, uint64_t number) { return (sampler->calls << 32) + number; }

/* Draws first .. count-1 of a query from all its weights, summed up; false where all are 0. */
static bool scan(const draw_job *job, size_t query, size_t first, double *sums) {
  const pith_key_sampler *sampler = job->sampler;
  const float *q = job->queries + query * sampler->d;
  double largest = -INFINITY, total = 0;
  for (size_t i = 0; i < sampler->n; i++) {
    double product = logit(sampler, q, i);
    sums[i] = is_softmax(sampler) ? product : fabs(product);
    if (sampler->present[i]) largest = fmax(largest, sums[i]);
  }
  if (largest == -INFINITY || (!is_softmax(sampler) && largest == 0)) return false;
  for (size_t i = 0; i < sampler->n; i++) {
    double share = is_softmax(sampler) ? exp((sums[i] - largest) / 2) : value_of(sampler, sums[i] / largest);
    sums[i] = total += sampler->present[i] ? share * share : 0;
  }
  pith_stream stream = pith_stream_make(sampler->options.seed, PITH_STREAM_KEYS, (uint32_t)(3 * query));
  for (size_t t = first; t < job->count; t++) {
    double target = pith_random_uniform(&stream, place(sampler, t)) * total;
    size_t low = 0, high = sampler->n - 1; /* the first sum above the target */
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (sums[middle] > target)
        high = middle;
      else
        low = middle + 1;
    }
    job->draws[query * job->count + t] =
        (pith_draw){.row = low, .value = value_of(sampler, logit(sampler, q, low)), .weight = 1};
  }
  job->tallies[query].norm = is_softmax(sampler) ? largest + log(total) : value_of(sampler, largest) * sqrt(total);
  return true;
}

static double dot(const double *a, const double *b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

/* The b of a bound `half` = r / 2m. */
static double offset_of(double half) { return half < 1e-4 ? 1 + half * half / 3 : half / tanh(half); }

/* |y| from the tree that was asked `form`; of softmax log sum exp(z), since `accepted`, the mean chance of proposals,
 * is C' sum exp(z) over the mass of the tree. */
static double norm_of_tree(const pith_key_sampler *sampler, const pith_gram_form *form, const float *query, double r,
                           double accepted) {
  double mass = pith_gram_mass(sampler->tree, form), middle = 0;
  if (!is_softmax(sampler)) return sqrt(mass);
  double m = (double)sampler->options.power, half = r / (2 * m);
  for (size_t j = 0; j < sampler->d; j++) middle += query[j] * sampler->centre[j];
  return log(accepted * mass) + r - 2 * m * log(offset_of(half) + half) + sampler->options.scale * middle;
}

/* log of exp(z) / (C (b + z / 2m)^2m), z from the centre. */
static double log_acceptance(const pith_key_sampler *sampler, const float *query, size_t row, double r) {
  double m = (double)sampler->options.power, half = r / (2 * m), z = 0;
  double b = offset_of(half);
  for (size_t j = 0; j < sampler->d; j++)
    z += query[j] * ((double)sampler->keys[row * sampler->d + j] - sampler->centre[j]);
  z *= sampler->options.scale;
  return z - r - 2 * m * (log(b + z / (2 * m)) - log(b + half));
}

/* Draws by the tree; yields how many: fewer than count where patience ends. */
static size_t walk(const draw_job *job, size_t query, double *packed) {
  const pith_key_sampler *sampler = job->sampler;
  const float *q = job->queries + query * sampler->d;
  const double *x = job->asked + query * job->features;
  pith_gram_form form = pith_gram_form_vector(x, job->features, packed);
  pith_stream proposing = pith_stream_make(sampler->options.seed, PITH_STREAM_KEYS, (uint32_t)(3 * query + 1));
  pith_stream accepting = pith_stream_make(sampler->options.seed, PITH_STREAM_KEYS, (uint32_t)(3 * query + 2));
  tally *own = &job->tallies[query];
  double ratios = 0, chances = 0;
  pith_draw *draws = job->draws + query * job->count;
  size_t done = 0;
  for (uint64_t number = 0; done < job->count && (number < FEWEST || done * PATIENCE >= number); number++) {
    size_t row = pith_gram_draw(sampler->tree, &form, &proposing, place(sampler, number));
    if (row == SIZE_MAX) break;
    own->proposals++;
    if (is_softmax(sampler)) {
      double chance = exp(log_acceptance(sampler, q, row, job->bound[query]));
      chances += chance;
      if (pith_random_uniform(&accepting, place(sampler, number)) >= chance) continue;
    }
    double value = value_of(sampler, logit(sampler, q, row));
    if (is_approximate(sampler)) {
      double seen = dot(pith_gram_row(sampler->tree, row), x, job->features);
      draws[done].weight = (value / seen) * (value / seen); /* for the distance, see below */
      ratios += draws[done].weight;
    }
    draws[done].row = row;
    draws[done++].value = value;
  }
  own->accepted = done;
  own->norm = norm_of_tree(sampler, &form, q, job->bound[query], chances / (double)own->proposals);
  /* Under the law drawn from, the ratio of the two laws is weight over its mean: half its mean distance from 1. */
  for (size_t t = 0; t < done; t++) {
    if (ratios > 0) own->distance += fabs(draws[t].weight * (double)done / ratios - 1) / (2 * (double)done);
    draws[t].weight = 1;
  }
  return done;
}

static void draw_query(void *argument, size_t query, int thread) {
  const draw_job *job = argument;
  const pith_key_sampler *sampler = job->sampler;
  size_t done = 0;
  if (!job->all_scanned) done = walk(job, query, job->packed + (size_t)thread * pith_gram_packed(job->features));
  if (done < job->count) {
    job->tallies[query].scanned = 1;
    if (!scan(job, query, done, job->weights + (size_t)thread * sampler->n))
      done = 0;
    else
      done = job->count;
  }
  job->drawn[query] = done;
}

/* Whether trees, for `count` draws a query, should cost more than scans. */
static bool scans_win(const pith_key_sampler *sampler, size_t count) {
  if (!sampler->tree) return true;
  if (sampler->options.method == PITH_KEYS_TREE) return false;
  double features = (double)pith_gram_columns(sampler->tree), n = (double)sampler->n;
  double walk_cost = features * features * (log2(n / features) + 2);
  return walk_cost * ((double)count + 1) > n * (double)sampler->d;
}

/* What the tree is asked with, for every query; workspace of the features is used by one thread alone. */
static void map_queries(pith_key_sampler *sampler, const float *queries, size_t m, double *asked, double *bound) {
  size_t features = pith_poly_length(sampler->poly), d = sampler->d;
  for (size_t i = 0; i < m; i++) {
    double norm = 0, *row = sampler->row, degree = (double)sampler->options.power, factor = 1;
    for (size_t j = 0; j < d; j++) norm += (double)queries[i * d + j] * queries[i * d + j];
    if (is_softmax(sampler)) {
      factor = sampler->options.scale / (2 * degree);
      bound[i] = fabs(sampler->options.scale) * sqrt(norm) * sampler->radius * (1 + 1e-9) + 1e-12;
      double half = bound[i] / (2 * degree);
      *row++ = offset_of(half);
    }
    for (size_t j = 0; j < d; j++) row[j] = factor * queries[i * d + j];
    pith_poly_map(sampler->poly, sampler->row, asked + i * features);
  }
}

static void sum_tallies(const draw_job *job, size_t m, pith_key_report *report) {
  size_t walked = 0;
  for (size_t i = 0; i < m; i++) {
    report->proposals += job->tallies[i].proposals;
    report->accepted += job->tallies[i].accepted;
    report->scanned += job->tallies[i].scanned;
    report->distance += job->tallies[i].distance;
    walked += job->tallies[i].accepted > 0;
  }
  if (walked) report->distance /= (double)walked;
}

static size_t kept_words(const pith_key_sampler *sampler) {
  return sampler->n * sampler->d / 2 + sampler->n / 8 + sampler->d +
         (sampler->tree ? pith_gram_words(sampler->tree) : 0);
}

pith_status pith_key_sampler_draw(pith_context *context, pith_key_sampler *sampler, const pith_array *queries,
                                  size_t count, pith_draw *draws, size_t *drawn, double *norms,
                                  pith_key_report *report) {
  if (queries->ndim != 2 || queries->shape[1] != sampler->d)
    return pith_fail(context, PITH_E_SHAPE, "queries must be (m, %zu), as wide as the keys", sampler->d);
  if (queries->shape[0] > UINT32_MAX / 3 || count >= (uint64_t)1 << 24)
    return pith_fail(context, PITH_E_ARGUMENT, "%zu queries with %zu draws each; at most 10^9 and 2^24 at a time",
                     queries->shape[0], count);
  size_t m = queries->shape[0], threads = (size_t)pith_threads(context);
  draw_job job = {
      .sampler = sampler, .count = count, .all_scanned = scans_win(sampler, count), .draws = draws, .drawn = drawn};
  size_t features = job.features = job.all_scanned ? 0 : pith_poly_length(sampler->poly);
  float *floats = pith_allocate(context, m * sampler->d, sizeof *floats);
  job.tallies = pith_allocate_zero(context, m, sizeof *job.tallies);
  double *work =
      pith_allocate(context, m * (features + 1) + threads * (sampler->n + pith_gram_packed(features)), sizeof *work);
  pith_status status = floats && job.tallies && work ? PITH_OK : PITH_E_MEMORY;
  if (status >= 0) status = pith_array_to_f32(context, queries, "queries", 1, floats);
  if (status >= 0) {
    job.queries = floats;
    double *bound = work, *asked = bound + m;
    job.bound = bound;
    job.asked = asked;
    job.weights = asked + m * features;
    job.packed = job.weights + threads * sampler->n;
    if (!job.all_scanned) map_queries(sampler, floats, m, asked, bound);
    pith_parallel_for(context, m, draw_query, &job);
    *report = (pith_key_report){.words = kept_words(sampler)};
    sum_tallies(&job, m, report);
    for (size_t i = 0; norms && i < m; i++)
      norms[i] = drawn[i] || !is_softmax(sampler) ? job.tallies[i].norm : -INFINITY;
    sampler->calls++;
  }
  pith_release(context, work);
  pith_release(context, job.tallies);
  pith_release(context, floats);
  return status;
}
