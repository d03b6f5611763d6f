/* cluster.c - an order of rows in which neighbours share blocks: halving along the direction of largest spread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sparsity/index.h"

typedef struct clustering {
  const float *keys; /* (rows, d) */
  size_t d;
  double *direction, *next;
  struct placed {
    float place;
    uint32_t row;
  } * placed;
} clustering;

/* A direction in which the rows spread, by a few rounds of the power method over a sample of them. */
static void find_direction(const clustering *c, const uint32_t *order, size_t count) {
  enum { ROUNDS = 4, SAMPLE = 512 };
  const size_t d = c->d, step = count > SAMPLE ? count / SAMPLE : 1;
  double *mean = c->next + d;
  size_t taken = 0;
  memset(mean, 0, d * sizeof *mean);
  for (size_t i = 0; i < count; i += step, taken++)
    for (size_t j = 0; j < d; j++) mean[j] += (double)c->keys[order[i] * d + j];
  for (size_t j = 0; j < d; j++) mean[j] /= (double)taken;
  const float *first = c->keys + (size_t)order[0] * d;
  for (size_t j = 0; j < d; j++) c->direction[j] = (double)first[j] - mean[j] + 1e-3;
  for (int round = 0; round < ROUNDS; round++) {
    memset(c->next, 0, d * sizeof *c->next);
    for (size_t i = 0; i < count; i += step) {
      const float *key = c->keys + (size_t)order[i] * d;
      double place = 0;
      for (size_t j = 0; j < d; j++) place += ((double)key[j] - mean[j]) * c->direction[j];
      for (size_t j = 0; j < d; j++) c->next[j] += place * ((double)key[j] - mean[j]);
    }
    double size = 0;
    for (size_t j = 0; j < d; j++) size += c->next[j] * c->next[j];
    if (!(size > 0)) return;
    for (size_t j = 0; j < d; j++) c->direction[j] = c->next[j] / sqrt(size);
  }
}

static int by_place(const void *a, const void *b) {
  const struct placed *x = a, *y = b;
  return x->place != y->place ? (x->place > y->place) - (x->place < y->place) : (x->row > y->row) - (x->row < y->row);
}

/* Halves the rows until a part is one block. */
static void halve(const clustering *c, uint32_t *order, size_t count) {
  if (count <= PITH_SPARSE_BLOCK) return;
  find_direction(c, order, count);
  for (size_t i = 0; i < count; i++) {
    const float *key = c->keys + (size_t)order[i] * c->d;
    double place = 0;
    for (size_t j = 0; j < c->d; j++) place += (double)key[j] * c->direction[j];
    c->placed[i] = (struct placed){(float)place, order[i]};
  }
  qsort(c->placed, count, sizeof *c->placed, by_place);
  for (size_t i = 0; i < count; i++) order[i] = c->placed[i].row;
  size_t half = count / PITH_SPARSE_BLOCK / 2 * PITH_SPARSE_BLOCK;
  halve(c, order, half);
  halve(c, order + half, count - half);
}

pith_status pith_sparse_neighbours(pith_context *context, const pith_rows *rows, size_t count, uint32_t *order) {
  const size_t d = rows->d;
  float *keys = pith_allocate(context, count, d * sizeof *keys);
  double *direction = pith_allocate(context, 3 * d, sizeof *direction);
  struct placed *placed = pith_allocate(context, count, sizeof *placed);
  pith_status status = keys && direction && placed ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) {
    for (size_t row = 0; row < count; row++) {
      pith_sparse_read_key(rows, row, keys + row * d);
      order[row] = (uint32_t)row;
    }
    const clustering c = {.keys = keys, .d = d, .direction = direction, .next = direction + d, .placed = placed};
    halve(&c, order, count);
  }
  pith_release(context, placed);
  pith_release(context, direction);
  pith_release(context, keys);
  return status;
}
