/* sampler_attention.h - the laws of attention over keys as they are written down: the oracle. */
#ifndef PITH_REFERENCE_SAMPLER_ATTENTION_H
#define PITH_REFERENCE_SAMPLER_ATTENTION_H

#include <stddef.h>

/* law[i] of keys (n, d): <q, k_i>^(2 power), or exp(scale <q, k_i>) where power is 0; sums to 1. */
void reference_key_law(const float *keys, const float *query, size_t n, size_t d, size_t power, double scale,
                       double *law);

/* The law of proposals for softmax, (1 + scale <q, k_i> / 2)^2, as if all were accepted. */
void reference_proposal_law(const float *keys, const float *query, size_t n, size_t d, double scale, double *law);

/* CountSketch of the tensor power of x by its definition: for every index tuple, one cell and one sign. cell and sign
 * (degree, d); out (length). d^degree steps. */
void reference_tensor_sketch(const double *x, size_t d, size_t degree, const unsigned *cell, const int *sign,
                             size_t length, double *out);

#endif
