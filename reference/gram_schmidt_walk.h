/* gram_schmidt_walk.h - the Gram-Schmidt walk (Bansal, Dadush, Garg, Lovett 2018) on vectors given by their Gram
 * matrix: signs whose signed sum is subgaussian with constant 1 in every direction. */
#ifndef PITH_REFERENCE_GRAM_SCHMIDT_WALK_H
#define PITH_REFERENCE_GRAM_SCHMIDT_WALK_H

#include <stddef.h>

/* gram (n, n); uniform[n] in (0, 1): one coin a step. sign (n) receives +1 or -1. O(n^4): a reference. */
void reference_gram_schmidt_walk(const double *gram, size_t n, const double *uniform, double *sign);

#endif
