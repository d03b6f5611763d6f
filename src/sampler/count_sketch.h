/* count_sketch.h - CountSketch (Charikar, Chen, Farach-Colton 2002): a vector of 2^63 entries under additions, of which
 * single entries are estimated within |tail| / sqrt(buckets).
 *
 * Row r of the table adds every entry, with a sign, into one of its buckets; an entry is the median over the rows of
 * sign times bucket. Buckets and signs are multiply-shift hashes, one random multiplier a row, of a keyed mix of the
 * index. A cell is an int64 count of units, so that sums know no order and deletes cancel, or a double. With several
 * columns every bucket is a row of cells: a sketch of a matrix, from which that of any A x follows. */
#ifndef PITH_SRC_SAMPLER_COUNT_SKETCH_H
#define PITH_SRC_SAMPLER_COUNT_SKETCH_H

#include "base/base.h"

enum { PITH_MOST_DEPTH = 15, PITH_SKETCH_BLOCK = 256 }; /* entries that are hashed together */

typedef union pith_cell {
  int64_t whole;
  double real;
} pith_cell;

typedef struct pith_count_sketch {
  size_t depth, buckets, columns; /* buckets: a power of two, 2 .. 2^31 */
  bool floating;                  /* cells are doubles */
  uint64_t key, multiplier[PITH_MOST_DEPTH];
  pith_cell *cells; /* (depth, buckets, columns); belongs to the maker */
} pith_count_sketch;

size_t pith_count_sketch_cells(const pith_count_sketch *sketch);
/* Sets key and multipliers from the numbers of `stream` from `first` on; PITH_SKETCH_NUMBERS are used. */
enum { PITH_SKETCH_NUMBERS = 1 + PITH_MOST_DEPTH };
void pith_count_sketch_seed(pith_count_sketch *sketch, const pith_stream *stream, uint64_t first);

/* The parts of an update, for at most PITH_SKETCH_BLOCK entries. `base` comes from hash; a slot is twice a bucket,
 * plus 1 for a minus; `column` may be NULL with one column. */
void pith_count_sketch_hash(const pith_count_sketch *sketch, const uint64_t *id, uint64_t *base, size_t count);
void pith_count_sketch_slots(const pith_count_sketch *sketch, size_t row, const uint64_t *base, uint32_t *slot,
                             size_t count);
void pith_count_sketch_add_row(const pith_count_sketch *sketch, size_t row, const uint32_t *slot,
                               const uint32_t *column, const pith_cell *values, size_t count);

/* Numbers of units as they are added to cells: whole, or as they are where the cells are floating. */
void pith_count_sketch_quantize(bool floating, const double *values, pith_cell *out, size_t count);

/* entry[id] += value / unit for any number of entries. */
void pith_count_sketch_update(const pith_count_sketch *sketch, const uint64_t *id, const uint32_t *column,
                              const double *values, double unit, size_t count);

/* out (depth, buckets): the table of A x, in units. x: (columns). */
void pith_count_sketch_fold(const pith_count_sketch *sketch, const double *x, double *out);
/* sum of cell[j] * x[j] over one bucket's row of cells */
double pith_cells_dot(bool floating, const pith_cell *cells, const double *x, size_t columns);

/* Square of the norm of the entries behind a folded table. */
double pith_count_sketch_energy(const pith_count_sketch *sketch, const double *folded);
/* Of an odd number of values, which are sorted on the way. */
double pith_median(double *values, size_t count);

#endif
