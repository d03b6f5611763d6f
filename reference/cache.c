/* cache.c - every rule as it is said, over the list of what is kept. */
#include "cache.h"

#include <math.h>
#include <stdlib.h>

void reference_cache_open(reference_cache *c) {
  c->length = c->counted = 0;
  c->kept = calloc(c->most, sizeof *c->kept);
  c->weight = calloc(c->most, sizeof *c->weight);
  c->received = calloc(c->most, sizeof *c->received);
  if (!c->kept || !c->weight || !c->received) abort();
}

void reference_cache_close(reference_cache *c) {
  free(c->kept);
  free(c->weight);
  free(c->received);
}

void reference_cache_push(reference_cache *c, size_t count) {
  for (; count > 0; count--, c->length++) c->kept[c->length] = 1, c->weight[c->length] = 1;
}

/* Share of each kept token 0 .. t in the attention of the query of token t. */
static void attention(const reference_cache *c, size_t t, double *share) {
  double total = 0, largest = -INFINITY;
  for (size_t i = 0; i <= t; i++) {
    share[i] = -INFINITY;
    if (!c->kept[i]) continue;
    share[i] = log(c->weight[i]);
    for (size_t j = 0; j < c->d; j++) share[i] += c->scale * c->queries[t * c->d + j] * c->keys[i * c->d + j];
    largest = fmax(largest, share[i]);
  }
  for (size_t i = 0; i <= t; i++) total += share[i] = exp(share[i] - largest);
  for (size_t i = 0; i <= t; i++) share[i] /= total;
}

void reference_cache_answer(const reference_cache *c, size_t t, double *out) {
  double *share = calloc(c->most, sizeof *share);
  if (!share) abort();
  attention(c, t, share);
  for (size_t j = 0; j < c->dv; j++) out[j] = 0;
  for (size_t i = 0; i <= t; i++)
    for (size_t j = 0; j < c->dv; j++) out[j] += share[i] * c->values[i * c->dv + j];
  free(share);
}

/* Adds the attention of tokens from .. length - 1. */
static void receive(const reference_cache *c, size_t from, double *sum) {
  double *share = calloc(c->most, sizeof *share);
  if (!share) abort();
  for (size_t t = from; t < c->length; t++) {
    attention(c, t, share);
    for (size_t i = 0; i <= t; i++) sum[i] += share[i];
  }
  free(share);
}

static int is_candidate(const reference_cache *c, size_t i) {
  return c->kept[i] && i >= c->sinks && i + c->window < c->length;
}

/* Largest sum of the candidates among the 7 kept rows around. */
static void pool(const reference_cache *c, const double *sum, double *score) {
  size_t *row = calloc(c->most, sizeof *row), rows = 0;
  if (!row) abort();
  for (size_t i = 0; i < c->length; i++)
    if (c->kept[i]) row[rows++] = i;
  for (size_t i = 0; i < rows; i++) {
    score[row[i]] = 0;
    for (size_t j = i < 3 ? 0 : i - 3; j < rows && j <= i + 3; j++)
      if (is_candidate(c, row[j])) score[row[i]] = fmax(score[row[i]], sum[row[j]]);
  }
  free(row);
}

static void measure(reference_cache *c, double *score) {
  size_t first = c->counted < c->sinks ? c->sinks : c->counted; /* queries of sinks, and of what was folded, are gone */
  double *sum = calloc(c->most, sizeof *sum);
  if (!sum) abort();
  if (c->rule == REFERENCE_HEAVY) {
    receive(c, c->length - first > 64 ? c->length - 64 : first, sum);
    pool(c, sum, score);
  }
  if (c->rule == REFERENCE_ACCUMULATED) receive(c, first, c->received);
  for (size_t i = 0; i < c->length; i++) {
    if (c->rule == REFERENCE_RECENT) score[i] = (double)i;
    if (c->rule == REFERENCE_UNIFORM) score[i] = -c->number[i];
    if (c->rule == REFERENCE_ACCUMULATED) score[i] = c->received[i] / (double)(c->length - i);
  }
  free(sum);
}

void reference_cache_fold(reference_cache *c) {
  if (c->length <= c->sinks + c->window) return;
  double *score = calloc(c->most, sizeof *score), total = 0;
  unsigned char *chosen = calloc(c->most, 1);
  size_t candidates = 0, count = 0;
  if (!score || !chosen) abort();
  measure(c, score);
  for (size_t i = 0; i < c->length; i++)
    if (is_candidate(c, i)) candidates++, total += c->weight[i];
  for (; count < c->points && count < candidates; count++) {
    size_t best = c->length;
    for (size_t i = 0; i < c->length; i++) {
      if (!is_candidate(c, i) || chosen[i]) continue;
      int newest = c->rule == REFERENCE_ACCUMULATED && count % 2 == 0;
      if (best == c->length || newest || score[i] >= score[best]) best = i;
    }
    chosen[best] = 1;
  }
  for (size_t i = 0; i < c->length; i++) {
    if (!is_candidate(c, i)) continue;
    if (c->rule == REFERENCE_UNIFORM && candidates > c->points) c->weight[i] = total / (double)count;
    c->kept[i] = chosen[i];
  }
  c->counted = c->rule == REFERENCE_HEAVY ? c->length - c->window : c->length;
  free(score);
  free(chosen);
}
