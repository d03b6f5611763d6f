/* degrees.h - norms of the tensors that the exponential falls into, degree by degree.
 *
 *   T_t = sum_i s_i x_i^{(x)t} (x) v_i   (numerator),   sum_i s_i x_i^{(x)t}   (denominator),
 *   sum_i full_i x_i^{(x)t} (x) v_i      (whole)
 *
 * sup over unit q of |T_t(q,..,q)| is at most the norms found here. */
#ifndef PITH_SRC_CERTIFY_DEGREES_H
#define PITH_SRC_CERTIFY_DEGREES_H

#include "base/base.h"

enum { PITH_DEGREE_PANEL = 512, PITH_DEGREE_LIMIT = 80 };

typedef struct pith_degrees {
  size_t rows, d, dv, count;             /* degrees 0 .. count-1, at most PITH_DEGREE_LIMIT */
  double *keys, *values, *s, *full;      /* (rows, d), (rows, dv), (rows), (rows) */
  double numerator[PITH_DEGREE_LIMIT];   /* upper bounds of the norms, up to rounding */
  double denominator[PITH_DEGREE_LIMIT]; /* (relative to the sums of |s_i| |x_i|^t |v_i|, |s_i| |x_i|^t ...) */
  double whole[PITH_DEGREE_LIMIT];
} pith_degrees;

/* Hilbert-Schmidt norms of all degrees; those of degrees 0 and 1 from the written-out vector and matrix, as
 * an operator. Time rows^2 (d + dv + 4 count). */
pith_status pith_degrees_measure(pith_context *context, pith_degrees *degrees);

/* Replaces the norms of degrees 2 .. last by operator norms where these are smaller: T_t as a map between one
 * factor (x or v, the larger space; x for the denominator) and all the others. Time rows^2 (d + dv) a degree. */
pith_status pith_degrees_split(pith_context *context, pith_degrees *degrees, size_t last);

/* How many panels cut `rows`, and the rows of the one that begins at `begin`. */
static inline size_t pith_panel_count(size_t rows) { return (rows + PITH_DEGREE_PANEL - 1) / PITH_DEGREE_PANEL; }
static inline size_t pith_panel_rows(size_t rows, size_t begin) {
  return pith_min_size(PITH_DEGREE_PANEL, rows - begin);
}

#endif
