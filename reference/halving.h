/* halving.h - discrepancy halving as it is written down: double precision, every sum taken anew. */
#ifndef PITH_REFERENCE_HALVING_H
#define PITH_REFERENCE_HALVING_H

#include <stddef.h>

/* w_i w_j exp(lambda2 <k_i - c, k_j - c>) (<v_i - v, v_j - v> + b^2) into kernel (n, n); c and v are the
 * weighted means, b^2 is `floor` times the weighted mean of |v_i - v|^2. */
void reference_joint_kernel(const double *keys, const double *values, const double *weight, size_t n, size_t d,
                            size_t dv, double lambda2, double floor, double *kernel);

/* Signs of `pairs` greedy pairs after `passes` passes of best swaps; the rest is 0. */
void reference_halving_signs(const double *kernel, size_t n, size_t pairs, size_t passes, double *sign);

/* Halves until `count` of n weighted rows are left. coins[r] = 1: round r keeps the negative half. Fills
 * row and weight (count each, in the order of rows). 1 <= count <= n <= 256. */
void reference_halving(const double *keys, const double *values, const double *weight, size_t n, size_t d, size_t dv,
                       double lambda2, double floor, size_t count, const unsigned char *coins, size_t *row,
                       double *kept_weight);

#endif
