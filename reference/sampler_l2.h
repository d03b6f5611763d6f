/* sampler_l2.h - the Poisson-scaled CountSketch as it is written down: double precision, logarithms of the C library,
 * one point at a time, and every point looked up. Made from the vector y itself, not from a stream. */
#ifndef PITH_REFERENCE_SAMPLER_L2_H
#define PITH_REFERENCE_SAMPLER_L2_H

#include <stddef.h>
#include <stdint.h>

typedef struct reference_l2 {
  size_t rows, copies, depth, buckets; /* buckets: a power of two */
  uint64_t key, exponential_key;
  const uint64_t *multiplier; /* (depth), odd */
  int no_signs;               /* a fault, to see that tests notice: every sign is plus */
} reference_l2;

/* Gamma of copy 0 .. copies-1 of a row: a sum of copy + 1 exponential variables. */
double reference_l2_gamma(const reference_l2 *sketch, uint64_t row, size_t copy);
/* out (depth, buckets): the table of y (rows). */
void reference_l2_table(const reference_l2 *sketch, const double *y, double *out);
/* Median over the rows of the table for point row * copies + copy. */
double reference_l2_estimate(const reference_l2 *sketch, const double *table, uint64_t point);
/* The `count` points of largest estimate, largest first; count <= 16. */
void reference_l2_largest(const reference_l2 *sketch, const double *table, size_t count, uint64_t *point);

#endif
