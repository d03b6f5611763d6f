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
  /* Once factored: */
  double *factor;  /* (count, count), lower triangle */
  double *forward; /* (count, columns) */
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

/* The Cholesky factor of the kernel, and the targets solved forward with it: coordinates in an orthogonal basis, so
 * that the first pivots have the first coordinates, however many there are. Once, before fits. */
pith_status pith_pivots_factor(pith_context *context, pith_pivots *pivots);

/* Fits the first *count pivots to the targets: fit (*count, columns) = kernel^-1 target. Those whose last coefficient
 * is below `least` are dropped for the next pivots, and the rest is fitted anew, in so many rounds at most. active
 * (*count) are the pivots that remain, in their order; there are fewer than asked for where pivots run out. */
pith_status pith_pivots_fit(pith_context *context, const pith_pivots *pivots, double least, int rounds, size_t *count,
                            size_t *active, double *fit);

void pith_pivots_free(pith_context *context, pith_pivots *pivots);

#endif
