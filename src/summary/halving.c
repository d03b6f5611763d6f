/* halving.c - discrepancy halving: greedy pairing, swaps, and a fair coin thrown after the partition is fixed,
 * so that the summary is unbiased (docs/theory.md). */
#include <string.h>

#include "kernels/kernels.h"
#include "summary/pairing.h"

enum { PASSES = 2 };
/* A swap must gain this part of the point's own kernel, well above rounding. */
static const float LEAST_GAIN = 1e-5f;

/* Signs of one pair after another, each against what the pairs before it left over. */
static void pair_greedily(const pith_pairing_block *b, const pith_kernels *kernels) {
  for (size_t pair = 0; pair < b->pairs; pair++) {
    size_t i = 2 * pair, j = i + 1;
    float sign = b->sum[i] <= b->sum[j] ? 1.0f : -1.0f;
    b->sign[i] = sign;
    b->sign[j] = -sign;
    kernels->axpy(sign, b->kernel + i * b->count, b->sum, b->count);
    kernels->axpy(-sign, b->kernel + j * b->count, b->sum, b->count);
  }
}

/* What |D|^2 loses when i and j exchange their signs, for all j: with t = sign_j - sign_i,
 * -t (2 (sum_i - sum_j) + t (K_ii + K_jj - 2 K_ij)). */
static void find_gains(const pith_pairing_block *b, size_t i) {
  const float *restrict row = b->kernel + i * b->count, *restrict sum = b->sum, *restrict sign = b->sign;
  const float *restrict diagonal = b->diagonal;
  float *restrict gain = b->gain;
  float own_sum = b->sum[i], own_sign = b->sign[i], own_diagonal = b->diagonal[i];
  for (size_t j = 0; j < b->count; j++) {
    float t = sign[j] - own_sign;
    gain[j] = -t * (2 * (own_sum - sum[j]) + t * (own_diagonal + diagonal[j] - 2 * row[j]));
  }
}

/* Exchanges i with the point that gains most. */
static void swap_best(const pith_pairing_block *b, const pith_kernels *kernels, size_t i) {
  find_gains(b, i);
  float best = kernels->max(b->gain, b->count);
  if (!(best > LEAST_GAIN * b->diagonal[i])) return;
  size_t j = 0;
  while (b->gain[j] < best) j++;
  float change = b->sign[j] - b->sign[i];
  kernels->axpy(change, b->kernel + i * b->count, b->sum, b->count);
  kernels->axpy(-change, b->kernel + j * b->count, b->sum, b->count);
  b->sign[i] += change;
  b->sign[j] -= change;
}

static void split(const pith_pairing_block *b) {
  const pith_kernels *kernels = pith_kernels_active();
  pair_greedily(b, kernels);
  for (int pass = 0; pass < PASSES; pass++)
    for (size_t i = 0; i < b->count; i++)
      if (b->sign[i] >= 0) swap_best(b, kernels, i);
  if (pith_random_u64(&b->coins, b->draw) & 1)
    for (size_t i = 0; i < b->count; i++) b->sign[i] = -b->sign[i];
}

/* b^2 is small: an error of the normaliser moves an answer only by its distance from the mean value, which is
 * well below the spread of the values. On random unit vectors 1/100 to 1/10 are the same within a few percent,
 * on real heads 1/50 is a tenth better than 1. */
static const pith_pairing_rule rule = {.whole = 4096, .block = 1024, .centred = true, .floor = 0.02, .split = split};

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  return pith_pairing_prepare(context, problem, &rule, state);
}

const pith_engine pith_engine_halving = {
    .name = "halving",
    .help = "a true subset by discrepancy halving, unbiased, integer weights",
    .prepare = prepare,
    .take = pith_pairing_take,
    .release = pith_pairing_release,
};
