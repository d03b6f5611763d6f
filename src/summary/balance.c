/* balance.c - BalanceKV's halving: a self-balancing random walk over pairs in blocks of 256. A pair's sign is +
 * with probability 1/2 - <D, x> / (2 c R^2), cut to [0, 1]: D is the sum so far, x the difference of the pair's
 * vectors and R^2 the largest |x|^2.
 *
 * The kernel is theirs in form: values not centred, b^2 = 0.025 of their mean squared norm. Theory asks for
 * c = 30 log(n / delta), which is hardly better than fair coins; practice takes c < 1. */
#include <math.h>

#include "kernels/kernels.h"
#include "summary/pairing.h"

static const double FAILURE = 0.01; /* delta of the theory constant */

static float squared_difference(const pith_pairing_block *b, size_t i, size_t j) {
  return b->diagonal[i] + b->diagonal[j] - 2 * b->kernel[i * b->count + j];
}

static void walk(const pith_pairing_block *b, double scale) {
  const pith_kernels *kernels = pith_kernels_active();
  double largest = 0;
  for (size_t pair = 0; pair < b->pairs; pair++) largest = fmax(largest, squared_difference(b, 2 * pair, 2 * pair + 1));
  for (size_t pair = 0; pair < b->pairs; pair++) {
    size_t i = 2 * pair, j = i + 1;
    double lean = largest > 0 ? ((double)b->sum[i] - b->sum[j]) / (2 * scale * largest) : 0;
    float sign = pith_random_uniform(&b->coins, b->draw + pair) < 0.5 - lean ? 1.0f : -1.0f;
    b->sign[i] = sign;
    b->sign[j] = -sign;
    kernels->axpy(sign, b->kernel + i * b->count, b->sum, b->count);
    kernels->axpy(-sign, b->kernel + j * b->count, b->sum, b->count);
  }
}

/* Measured best of 1/4 to 1/100 on random unit vectors; their gamma = 4 without a norm lies near it. */
static void split_practical(const pith_pairing_block *b) { walk(b, 1.0 / 32); }
static void split_theory(const pith_pairing_block *b) { walk(b, 30 * log((double)b->count / FAILURE)); }

static const pith_pairing_rule practical = {
    .whole = 256, .block = 256, .centred = false, .floor = 0.025, .split = split_practical};
static const pith_pairing_rule theory = {
    .whole = 256, .block = 256, .centred = false, .floor = 0.025, .split = split_theory};

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  return pith_pairing_prepare(context, problem, &practical, state);
}

static pith_status prepare_theory(pith_context *context, const pith_problem *problem, size_t most, void **state) {
  (void)most;
  return pith_pairing_prepare(context, problem, &theory, state);
}

const pith_engine pith_engine_balance = {
    .name = "balance",
    .help = "a self-balancing walk over pairs (BalanceKV)",
    .prepare = prepare,
    .take = pith_pairing_take,
    .release = pith_pairing_release,
};
const pith_engine pith_engine_balance_theory = {
    .name = "balance-theory",
    .help = "the same with the constants of the theory",
    .prepare = prepare_theory,
    .take = pith_pairing_take,
    .release = pith_pairing_release,
};
