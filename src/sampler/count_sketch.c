/* count_sketch.c - see count_sketch.h. */
#include "sampler/count_sketch.h"

#include "kernels/kernels.h"

size_t pith_count_sketch_cells(const pith_count_sketch *sketch) {
  return sketch->depth * sketch->buckets * sketch->columns;
}

void pith_count_sketch_seed(pith_count_sketch *sketch, const pith_stream *stream, uint64_t first) {
  sketch->key = pith_random_u64(stream, first);
  for (size_t r = 0; r < PITH_MOST_DEPTH; r++) sketch->multiplier[r] = pith_random_u64(stream, first + 1 + r) | 1;
}

void pith_count_sketch_hash(const pith_count_sketch *sketch, const uint64_t *id, uint64_t *base, size_t count) {
  pith_kernels_active()->sketch->hash(sketch->key, id, base, count);
}

void pith_count_sketch_slots(const pith_count_sketch *sketch, size_t row, const uint64_t *base, uint32_t *slot,
                             size_t count) {
  int shift = 63 - __builtin_ctzll(sketch->buckets);
  pith_kernels_active()->sketch->slots(base, sketch->multiplier[row], shift, slot, count);
}

void pith_count_sketch_add_row(const pith_count_sketch *sketch, size_t row, const uint32_t *slot,
                               const uint32_t *column, const pith_cell *values, size_t count) {
  const size_t columns = sketch->columns;
  pith_cell *cells = sketch->cells + row * sketch->buckets * columns;
  if (columns == 1 && !sketch->floating) {
    pith_kernels_active()->sketch->add(&cells->whole, slot, &values->whole, count);
    return;
  }
  for (size_t i = 0; i < count; i++) {
    pith_cell *cell = cells + (slot[i] >> 1) * columns + (column ? column[i] : 0);
    if (sketch->floating)
      cell->real += slot[i] & 1 ? -values[i].real : values[i].real;
    else
      cell->whole += slot[i] & 1 ? -values[i].whole : values[i].whole;
  }
}

void pith_count_sketch_quantize(bool floating, const double *values, pith_cell *out, size_t count) {
  if (floating)
    for (size_t i = 0; i < count; i++) out[i].real = values[i];
  else
    pith_kernels_active()->sketch->round(values, &out->whole, count);
}

void pith_count_sketch_update(const pith_count_sketch *sketch, const uint64_t *id, const uint32_t *column,
                              const double *values, double unit, size_t count) {
  uint64_t base[PITH_SKETCH_BLOCK];
  uint32_t slot[PITH_SKETCH_BLOCK];
  double scaled[PITH_SKETCH_BLOCK];
  pith_cell added[PITH_SKETCH_BLOCK];
  const double factor = 1 / unit;
  for (size_t begin = 0; begin < count; begin += PITH_SKETCH_BLOCK) {
    size_t block = pith_min_size(PITH_SKETCH_BLOCK, count - begin);
    pith_count_sketch_hash(sketch, id + begin, base, block);
    for (size_t i = 0; i < block; i++) scaled[i] = values[begin + i] * factor;
    pith_count_sketch_quantize(sketch->floating, scaled, added, block);
    for (size_t r = 0; r < sketch->depth; r++) {
      pith_count_sketch_slots(sketch, r, base, slot, block);
      pith_count_sketch_add_row(sketch, r, slot, column ? column + begin : NULL, added, block);
    }
  }
}

/* ---- Reading ---- */

static inline double cell_at(bool floating, const pith_cell *cells, size_t index) {
  return floating ? cells[index].real : (double)cells[index].whole;
}

/* Eight sums side by side, in an order that no compiler changes. */
static inline double dot(bool floating, const pith_cell *cells, const double *x, size_t columns) {
  double sum[8] = {0};
  size_t j = 0;
  for (; j + 8 <= columns; j += 8)
    for (size_t i = 0; i < 8; i++) sum[i] += cell_at(floating, cells, j + i) * x[j + i];
  for (size_t i = 0; j < columns; i++, j++) sum[i] += cell_at(floating, cells, j) * x[j];
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

double pith_cells_dot(bool floating, const pith_cell *cells, const double *x, size_t columns) {
  return floating ? dot(true, cells, x, columns) : dot(false, cells, x, columns);
}

void pith_count_sketch_fold(const pith_count_sketch *sketch, const double *x, double *out) {
  const size_t count = sketch->depth * sketch->buckets, columns = sketch->columns;
  if (columns == 1)
    for (size_t i = 0; i < count; i++) out[i] = cell_at(sketch->floating, sketch->cells, i) * x[0];
  else
    for (size_t i = 0; i < count; i++)
      out[i] = pith_cells_dot(sketch->floating, sketch->cells + i * columns, x, columns);
}

double pith_median(double *values, size_t count) {
  for (size_t i = 1; i < count; i++) {
    double value = values[i];
    size_t j = i;
    for (; j > 0 && values[j - 1] > value; j--) values[j] = values[j - 1];
    values[j] = value;
  }
  return values[count / 2];
}

double pith_count_sketch_energy(const pith_count_sketch *sketch, const double *folded) {
  double energy[PITH_MOST_DEPTH] = {0};
  for (size_t r = 0; r < sketch->depth; r++) {
    const double *row = folded + r * sketch->buckets;
    double sum[8] = {0};
    for (size_t b = 0; b < sketch->buckets; b++) sum[b % 8] += row[b] * row[b];
    energy[r] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }
  return pith_median(energy, sketch->depth);
}
