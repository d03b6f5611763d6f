/* l2.h - the insides of the l2 sampler (pith/sampler.h).
 *
 * A sketch holds K points for every row i, with values z_{i,k} = y_i / sqrt(Gamma_{i,k}), where Gamma_{i,1} <
 * Gamma_{i,2} < ... are the first K points of a Poisson process of rate 1 that belongs to the row: sums of exponential
 * variables made from hashes, never stored. The union of all |z| is a Poisson process whose points belong to row i with
 * probability y_i^2 / |y|^2, independently of their sizes; so the rows of the largest, second largest ... K-th largest
 * |z| are K independent draws. A CountSketch of z finds them.
 *
 * A point is known by its index i K + k. To find large points without looking all of them up, there are either bit
 * cells (for some rows of the table, one cell for each bit of the index: the sum over points that have it set), or
 * levels (level l is a CountSketch of the same points whose buckets are shared by 32^l neighbours, the signs being
 * those of level 0, so that a bucket's square is about the energy of its group). */
#ifndef PITH_SRC_SAMPLER_L2_H
#define PITH_SRC_SAMPLER_L2_H

#include "pith/sampler.h"
#include "sampler/count_sketch.h"
#include "sampler/gram.h"

enum {
  PITH_MOST_COPIES = 8,
  PITH_MOST_LEVELS = 9, /* 8 * 2^40 points in groups of 32 */
  PITH_LEVEL_BITS = 5,  /* of 32 */
  PITH_BIT_ROWS = 2,    /* rows of the table that have bit cells */
  PITH_NORM_DEPTH = 5,  /* of the sketch of y itself */
  PITH_NORM_BUCKETS = 256
};

#define PITH_MOST_ROWS ((size_t)1 << 40)
#define PITH_X_UNIT 0x1p-40 /* of updates of x: they are whole, like cells, so that their sum knows no order */
#define PITH_CELL_LIMIT 0x1p62

typedef struct pith_l2_sketch {
  uint64_t exponential_key;
  pith_count_sketch level[PITH_MOST_LEVELS];
  pith_cell *bits; /* (bit rows, buckets, columns, bit width) */

  /* Of the update at hand: */
  double reach; /* the sum of all that it adds to a cell or another, in units */
  size_t parts; /* that were added (l2_update.c) */
} pith_l2_sketch;

typedef struct pith_sum_tree pith_sum_tree;

struct pith_l2 {
  pith_memory *memory;
  pith_l2_options options; /* as chosen: method, decode and buckets are what they are; x is not kept here */
  size_t columns;          /* of a cell row: 1 where x is fixed, else dim */
  double *start, *x;       /* (dim): x at first, and now */
  int64_t *moved;          /* (dim): x - start, in PITH_X_UNIT; free x only */
  size_t spent, failures;

  /* sketches */
  size_t count, levels, bit_rows, bit_width; /* bit_width: a multiple of 8, at least the bits of a point */
  pith_l2_sketch *sketch;
  pith_count_sketch norm; /* of y */
  pith_cell *cells;       /* of all sketches, then of norm */
  size_t cell_count;
  double headroom; /* no cell can overflow before this much more, in units, was added to one */

  /* exact */
  pith_sum_tree *tree; /* x fixed */
  pith_gram *gram;     /* x free */
  uint64_t drawn;      /* random numbers used */
};

/* Options with what was left open filled in. PITH_E_ARGUMENT, PITH_E_VALUE, PITH_E_BUDGET. */
pith_status pith_l2_resolve(pith_context *context, const pith_l2_options *options, pith_l2_options *out);
/* Bytes that a sampler of resolved options holds. */
double pith_l2_bytes(const pith_l2_options *resolved);
/* Of the numbers that a sketch of resolved options is saved as: x and cells. */
double pith_l2_saved_bytes(const pith_l2_options *resolved);
/* What pith_l2_create does after that; with empty cells. */
pith_status pith_l2_make(pith_context *context, const pith_l2_options *resolved, pith_l2 **out);

/* Points of one sketch for up to PITH_SKETCH_BLOCK rows: index, base, and Gamma of copy `copy`, which is added to
 * `gamma` (0 before copy 0). */
void pith_l2_points(const pith_l2 *sampler, const pith_l2_sketch *sketch, const uint64_t *row, size_t copy,
                    uint64_t *id, uint64_t *base, double *gamma, size_t count);
/* 1 / sqrt(Gamma) of one point. */
double pith_l2_scale_of(const pith_l2 *sampler, const pith_l2_sketch *sketch, uint64_t id);

/* The largest points of a sketch, largest first. */
typedef struct pith_l2_point {
  uint64_t id;
  double value; /* z, in units */
} pith_l2_point;
enum { PITH_MOST_DISTINCT = 1 << 12 };
/* Finds the up to `wanted` largest points, or the largest of each of `wanted` rows where `distinct`. `points` has room
 * for them. `folded`: the table of level 0 with x applied. */
pith_status pith_l2_decode(pith_context *context, const pith_l2 *sampler, const pith_l2_sketch *sketch,
                           const double *folded, size_t wanted, bool distinct, pith_l2_point *points, size_t *found);

/* ---- Exact, x fixed: y and sums of y^2 over 8, 64, ... neighbours, each the sum of the eight below it in a fixed
 * order, so that nothing drifts: after any stream the tree is that of y. ---- */

pith_status pith_sum_tree_create(pith_context *context, size_t rows, pith_sum_tree **out);
void pith_sum_tree_free(pith_sum_tree *tree); /* NULL is fine */
size_t pith_sum_tree_words(size_t rows);
/* False, and nothing changed, where the sums would no longer be finite. */
bool pith_sum_tree_add(pith_sum_tree *tree, size_t row, double delta);
double pith_sum_tree_value(const pith_sum_tree *tree, size_t row);
double pith_sum_tree_total(const pith_sum_tree *tree);
/* The row at which the running sum of y^2 passes uniform * total; SIZE_MAX where all is 0. */
size_t pith_sum_tree_find(const pith_sum_tree *tree, double uniform);

#endif
