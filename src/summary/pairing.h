/* pairing.h - rounds that halve weighted points, pair by pair, until a given number is left.
 *
 * A round gives every point a sign: of each pair one is +1 (kept, its weight doubled) and one is -1
 * (dropped); 0 means that the point rests and stays as it is. What changes for a query is then
 * D = sum_i sign_i w_i phi_i with <phi_i, phi_j> the joint kernel: a rule that keeps D small, and gives each
 * sign with probability 1/2, is unbiased and accurate. Resting points make every count reachable. */
#ifndef PITH_SRC_PAIRING_H
#define PITH_SRC_PAIRING_H

#include "summary/engine.h"

/* Points that one call of a rule sees. */
typedef struct pith_pairing_block {
  size_t count, pairs; /* 2 * pairs <= count */
  float *kernel;       /* (count, count), joint: w_i w_j K(i,j) (<v_i - v, v_j - v> + b^2) */
  float *diagonal;     /* (count), of the kernel */
  float *sign;         /* (count), zero on entry: the result, `pairs` times +1 and `pairs` times -1 */
  float *sum;          /* (count), zero on entry: for sum_j sign_j kernel(i,j) */
  float *gain;         /* (count), scratch */
  pith_stream coins;   /* random numbers of this block: draw, draw + 1, ... draw + count - 1 */
  uint64_t draw;
} pith_pairing_block;

typedef struct pith_pairing_rule {
  size_t whole; /* up to so many points are one block */
  size_t block; /* more are cut into blocks of about this many */
  bool centred; /* values are taken around their mean */
  double floor; /* b^2 in parts of the mean squared norm of the values */
  void (*split)(const pith_pairing_block *block);
} pith_pairing_rule;

/* For engines; `rule` must outlive the state. */
pith_status pith_pairing_prepare(pith_context *context, const pith_problem *problem, const pith_pairing_rule *rule,
                                 void **state);
pith_status pith_pairing_take(pith_context *context, const pith_problem *problem, void *state, size_t count,
                              pith_points *points);
void pith_pairing_release(pith_context *context, void *state);

#endif
