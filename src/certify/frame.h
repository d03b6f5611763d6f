/* frame.h - two sets of pairs as one signed set, seen from its own centre. */
#ifndef PITH_SRC_CERTIFY_FRAME_H
#define PITH_SRC_CERTIFY_FRAME_H

#include <math.h>

#include "certify/certify.h"

/* The distinct rows of both sets, in double. Rows equal in key and value are one row that carries the
 * weight of both sides, so what is kept exactly has difference 0. Keys and values are centred at the
 * weighted means of the full set: then sum_i full_i exp(<q, key_i>) >= 1 for every q (Jensen). */
typedef struct pith_frame {
  size_t rows, d, dv;
  double *keys, *values;  /* (rows, d), (rows, dv) */
  double *full, *summary; /* weights; those of the full set sum to 1 */
  double *difference;     /* summary - full */
  double *reach, *size;   /* norms of keys and values */
  double full_radius;     /* largest value norm with weight in the full set */
  double summary_radius;  /* the same in the summary */
  double weight_error;    /* relative error of the weights */
  double drift;           /* norm of the mean key that rounding left over */
  bool finite;            /* false: weights overflowed and nothing can be said */
} pith_frame;

/* tilt (d), may be NULL: every weight is multiplied by exp(<tilt, key>) first. A common factor of the
 * summary's weights changes no answer; it is taken out where the totals differ by more than 2. */
pith_status pith_frame_create(pith_context *context, const pith_pairs *full, const pith_pairs *summary,
                              const double *tilt, pith_frame **out);
void pith_frame_free(pith_context *context, pith_frame *frame);

static inline double pith_norm(const double *vector, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += vector[i] * vector[i];
  return sqrt(sum);
}

#endif
