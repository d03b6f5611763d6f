/* pivots.h - randomly pivoted Cholesky on the kernel of a query model. */
#ifndef PITH_SRC_PIVOTS_H
#define PITH_SRC_PIVOTS_H

#include "query/kernel.h"

typedef struct pith_pivots {
  size_t count, most;
  size_t columns;   /* of coefficients and target */
  size_t *row;      /* (count), in the order of choice */
  double *kernel;   /* (most, most), lower triangle: K of the pivots among themselves */
  double *target;   /* (most, columns): K(pivot, all rows) * coefficients */
  double remaining; /* share of the weighted trace that the pivots leave unexplained */
} pith_pivots;

/* Chooses up to `most` rows, each with probability proportional to importance[i] times what is left of
 * K(i,i) after the rows chosen so far (Chen, Epperly, Tropp, Webber: randomly pivoted Cholesky; blocks of
 * proposals thinned by rejection keep that law exactly and the work in large products). Rows of importance
 * 0 are never chosen. Fewer come back when the kernel runs out of rank.
 *
 * coefficients (n, columns) f32. Time O(n most (most + features + d)), memory O(n most). */
pith_status pith_pivots_choose(pith_context *context, const pith_kernel *kernel, const double *importance,
                               const float *coefficients, size_t columns, size_t most, uint64_t seed, uint32_t object,
                               pith_pivots **out);
void pith_pivots_free(pith_context *context, pith_pivots *pivots);

#endif
