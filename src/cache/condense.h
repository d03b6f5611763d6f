/* condense.h - candidates of a head in the order of what they contribute, and points fitted to the least of them. */
#ifndef PITH_SRC_CACHE_CONDENSE_H
#define PITH_SRC_CACHE_CONDENSE_H

#include "cache/work.h"
#include "summary/pivots.h"

/* Points that are fitted: at most so many of a head's, the others are rows that stay as they are. What is fitted anew
 * at every fold loses each time, so that more of them lose more. */
enum { CONDENSE_PIVOTS = 32 };

typedef struct condensing {
  const cache_work *w;
  const pith_problem *p;
  size_t columns;                  /* of coefficients: dv + 1 */
  double *mean, balance, farthest; /* of values; of answers from it; of values of tokens from it */
  pith_kernel *kernel;             /* of the queries to fit: rows of the problem */
  size_t rows, *row;               /* candidates as rows of the problem: what contributes least comes first */
  float *coefficients;             /* (rows, columns), in that order: w [v - mean ; b] */
  double *importance, *share;      /* (rows), in that order: |coefficients|^2; that times the kernel's diagonal */
} condensing;

/* With a kernel of up to `queries` of the queries to fit. Close it also after a failure. */
pith_status pith_condensing_open(pith_context *context, const cache_work *work, size_t queries, condensing *out);
void pith_condensing_close(pith_context *context, condensing *c);

/* Some candidates with a kernel of their own, and pivots among them. */
typedef struct condense_part {
  size_t count;
  size_t *place; /* (count): where they stand in the order of candidates */
  pith_kernel kernel;
  float *coefficients;
  double *importance;
  pith_pivots *pivots;
} condense_part;

/* The `count` candidates at place[]; then up to `most` pivots of them. Close the part also after a failure. */
pith_status pith_condense_gather(pith_context *context, const condensing *c, const size_t *place, size_t count,
                                 condense_part *out);
pith_status pith_condense_choose(pith_context *context, const condensing *c, size_t most, condense_part *part);
void pith_condense_part_close(pith_context *context, condense_part *part);

#endif
