/* candidates.h - rows in the order of what they contribute to answers, and points fitted to the least of them.
 *
 * Where queries look things up, few rows matter to each: those that contribute most do best as they are, and a few
 * points at pivots of the others stand for all others (docs/theory.md, "Rows that stay"). */
#ifndef PITH_SRC_CANDIDATES_H
#define PITH_SRC_CANDIDATES_H

#include "summary/engine.h"
#include "summary/pivots.h"

typedef struct pith_candidates {
  const pith_problem *problem;
  pith_kernel *kernel;             /* of the queries to fit: rows of the problem */
  size_t columns;                  /* of coefficients: dv + 1 */
  double *mean, balance, farthest; /* of values; of answers from it; of values of tokens from it */
  size_t rows, *row;               /* candidates as rows of the problem: what contributes least comes first */
  float *coefficients;             /* (rows, columns), in that order: w [v - mean ; b] */
  double *importance, *share;      /* (rows), in that order: |coefficients|^2; that times the kernel's diagonal */
} pith_candidates;

/* The kernel becomes theirs, also after a failure. Rows before `first_token` are no tokens but points that were fitted
 * before. Close them also after a failure. */
pith_status pith_candidates_open(pith_context *context, const pith_problem *problem, pith_kernel *kernel,
                                 size_t first_token, pith_candidates *out);
void pith_candidates_close(pith_context *context, pith_candidates *c);

/* Some candidates with a kernel of their own, and pivots among them. */
typedef struct pith_part {
  size_t count;
  size_t *place; /* (count): where they stand in the order of candidates */
  pith_kernel kernel;
  float *coefficients;
  double *importance;
  pith_pivots *pivots;
} pith_part;

/* The `count` candidates at place[]; NULL: the first of all. Close the part also after a failure. */
pith_status pith_part_gather(pith_context *context, const pith_candidates *c, const size_t *place, size_t count,
                             pith_part *out);
/* Up to `most` pivots among the first `count` of the part, in place of those that it has. */
pith_status pith_part_choose(pith_context *context, const pith_candidates *c, size_t count, size_t most,
                             pith_part *part);
void pith_part_close(pith_context *context, pith_part *part);

/* Appends the candidates from place `first` on as they are. */
void pith_candidates_append(const pith_candidates *c, size_t first, pith_points *points);
/* Appends up to `count` points at the pivots of the part, once they are factored. */
pith_status pith_part_take(pith_context *context, const pith_candidates *c, const pith_part *part, size_t count,
                           pith_points *points);

/* Pivots to choose for so many points: a few stand in for points that the fit gives no weight. */
size_t pith_pivots_wanted(size_t points);

#endif
