/* condense.h - rows in the order of what they contribute, and points that stand for some of them, in double and plain.
 */
#ifndef PITH_REFERENCE_CONDENSE_H
#define PITH_REFERENCE_CONDENSE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct reference_condense {
  size_t n, d, dv;
  const double *keys, *values, *log_weight; /* (n, d), (n, dv), (n) */
  const bool *exact;                        /* (n): seen by queries, but no candidate */
  size_t queries;
  const double *query; /* (queries, d), scaled */

  double *mean, balance, farthest; /* of candidates' values; of answers from it; of candidates from it, at most */
  double *kernel, *share;          /* (n, n); (n): w^2 (|v - mean|^2 + b^2) K(i,i), 0 for exact rows */
} reference_condense;

/* Fills in the last two lines. */
void reference_condense_open(reference_condense *c);
void reference_condense_close(reference_condense *c);

/* Points at `count` pivots that stand for the rows of part[]: weight (count), value (count, dv). */
void reference_condense_fit(const reference_condense *c, const bool *part, const size_t *pivot, size_t count,
                            double *weight, double *value);

/* Errors of points beside the exact rows, for queries held out: the mean of the squares, and its standard error on top.
 */
double reference_condense_error(const reference_condense *c, const double *held, size_t held_count, const double *keys,
                                const double *values, const double *log_weight, size_t count);

#endif
