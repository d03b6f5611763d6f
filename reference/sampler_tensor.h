/* sampler_tensor.h - the law of pairs as it is written down, and draws that keep every pair: the oracle. */
#ifndef PITH_REFERENCE_SAMPLER_TENSOR_H
#define PITH_REFERENCE_SAMPLER_TENSOR_H

#include <stddef.h>
#include <stdint.h>

/* Y = A1 X A2^T (n1, n2), a1 (n1, d), x (d, d), a2 (n2, d); squares[i] = Y_i^2. Returns |Y|_F. */
double reference_tensor_law(const double *a1, const double *x, const double *a2, size_t n1, size_t n2, size_t d,
                            double *squares);

/* The pair with the largest Y^2 / T, T exponential: follows the law when every pair has a T of its own. With `product`
 * T is T1[i1] * T2[i2] instead, which is cheap to update and wrong. Yields i1 * n2 + i2. */
size_t reference_tensor_draw(const double *squares, size_t n1, size_t n2, int product, uint64_t *state);

#endif
