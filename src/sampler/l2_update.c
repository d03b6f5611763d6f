/* l2_update.c - the stream: entries of A and x, added in blocks; cells that would overflow are never written. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "sampler/l2.h"

enum { ENTRIES = 4096 }; /* that one sketch takes before the next one does: its cells are then in the cache */

/* Entries of y or of columns of A, checked and ready to be added. */
typedef struct update_block {
  size_t count;
  uint64_t row[ENTRIES];
  uint32_t column[ENTRIES]; /* of the cells: 0 where x is fixed */
  double value[ENTRIES];    /* delta, times x where that is fixed */
} update_block;

void pith_l2_points(const pith_l2 *sampler, const pith_l2_sketch *sketch, const uint64_t *row, size_t copy,
                    uint64_t *id, uint64_t *base, double *gamma, size_t count) {
  const uint64_t copies = sampler->options.copies;
  for (size_t i = 0; i < count; i++) id[i] = row[i] * copies + copy;
  pith_count_sketch_hash(&sketch->level[0], id, base, count);
  pith_kernels_active()->sketch->exponential(sketch->exponential_key, base, gamma, count);
}

double pith_l2_scale_of(const pith_l2 *sampler, const pith_l2_sketch *sketch, uint64_t id) {
  const size_t copies = sampler->options.copies;
  uint64_t row = id / copies, point = 0, base = 0;
  double gamma = 0, one = 1, scale = 0;
  for (size_t k = 0; k <= id % copies; k++) pith_l2_points(sampler, sketch, &row, k, &point, &base, &gamma, 1);
  pith_kernels_active()->sketch->scale(&one, &gamma, 1, &scale, 1);
  return scale;
}

/* ---- Adding a block to one sketch ---- */

static void add_level(const pith_l2_sketch *sketch, size_t level, const uint64_t *id, const uint64_t *base,
                      const uint32_t *column, const pith_cell *added, size_t count) {
  const pith_count_sketch *element = &sketch->level[0], *group = &sketch->level[level];
  uint64_t group_id[PITH_SKETCH_BLOCK], group_base[PITH_SKETCH_BLOCK];
  uint32_t slot[PITH_SKETCH_BLOCK], group_slot[PITH_SKETCH_BLOCK];
  if (level > 0) {
    for (size_t i = 0; i < count; i++) group_id[i] = id[i] >> (PITH_LEVEL_BITS * level);
    pith_count_sketch_hash(group, group_id, group_base, count);
  }
  for (size_t r = 0; r < element->depth; r++) {
    pith_count_sketch_slots(element, r, base, slot, count);
    if (level > 0) {
      pith_count_sketch_slots(group, r, group_base, group_slot, count);
      for (size_t i = 0; i < count; i++) slot[i] = (group_slot[i] & ~UINT32_C(1)) | (slot[i] & 1);
    }
    pith_count_sketch_add_row(group, r, slot, column, added, count);
  }
}

static void add_bits(const pith_l2 *sampler, const pith_l2_sketch *sketch, const uint64_t *id, const uint64_t *base,
                     const uint32_t *column, const pith_cell *added, size_t count) {
  const size_t width = sampler->bit_width, columns = sampler->columns;
  const pith_count_sketch *element = &sketch->level[0];
  uint32_t slot[PITH_SKETCH_BLOCK];
  for (size_t r = 0; r < sampler->bit_rows; r++) {
    pith_cell *cells = sketch->bits + r * element->buckets * columns * width;
    pith_count_sketch_slots(element, r, base, slot, count);
    for (size_t i = 0; column && i < count; i++)
      slot[i] = (uint32_t)((slot[i] >> 1) * columns + column[i]) << 1 | (slot[i] & 1);
    if (!element->floating) {
      pith_kernels_active()->sketch->add_bits(&cells->whole, width, slot, id, &added->whole, count);
      continue;
    }
    for (size_t i = 0; i < count; i++)
      for (size_t c = 0; c < width; c++)
        if (id[i] >> c & 1) cells[(slot[i] >> 1) * width + c].real += slot[i] & 1 ? -added[i].real : added[i].real;
  }
}

/* ---- Overflow ----
 *
 * `headroom` is a promise about all cells: none is within it of the limit. An update first sums up what it will add to
 * each sketch, as it goes, in parts of PITH_SKETCH_BLOCK entries of one copy; a sketch stops before a part that would
 * use up more than the promise, and then all that was added is taken back, to the bit. The promise is renewed by a look
 * at the largest cell; if that does not help, the block is halved, until one entry is left that is tried alone. */

typedef struct add_job {
  pith_l2 *sampler;
  const update_block *block;
  size_t begin, end; /* entries of the block */
  double room;       /* the most that a sketch may add up to */
  bool back;         /* take back the parts that each sketch has added */
} add_job;

static double sum_of_sizes(const double *values, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += fabs(values[i]);
  return sum;
}

static void add_to_sketch(void *argument, size_t index, int thread) {
  (void)thread;
  const add_job *job = argument;
  const pith_l2 *sampler = job->sampler;
  const update_block *block = job->block;
  pith_l2_sketch *sketch = &sampler->sketch[index];
  uint64_t id[PITH_SKETCH_BLOCK], base[PITH_SKETCH_BLOCK];
  double gamma[PITH_SKETCH_BLOCK], scaled[PITH_SKETCH_BLOCK];
  pith_cell added[PITH_SKETCH_BLOCK];
  size_t part = 0;
  if (!job->back) sketch->reach = 0;
  for (size_t begin = job->begin; begin < job->end; begin += PITH_SKETCH_BLOCK) {
    const size_t count = pith_min_size(PITH_SKETCH_BLOCK, job->end - begin);
    const uint32_t *column = sampler->columns > 1 ? block->column + begin : NULL;
    memset(gamma, 0, count * sizeof *gamma);
    for (size_t k = 0; k < sampler->options.copies; k++, part++) {
      if (job->back && part == sketch->parts) return;
      pith_l2_points(sampler, sketch, block->row + begin, k, id, base, gamma, count);
      pith_kernels_active()->sketch->scale(block->value + begin, gamma, (job->back ? -1 : 1) / sampler->options.unit,
                                           scaled, count);
      if (!job->back) {
        sketch->parts = part;
        sketch->reach += sum_of_sizes(scaled, count);
        if (!(sketch->reach < job->room)) return;
      }
      pith_count_sketch_quantize(sketch->level[0].floating, scaled, added, count);
      for (size_t l = 0; l < sampler->levels; l++) add_level(sketch, l, id, base, column, added, count);
      if (sampler->bit_rows) add_bits(sampler, sketch, id, base, column, added, count);
    }
  }
  sketch->parts = part;
}

static double limit_of(const pith_l2 *sampler) {
  return sampler->options.cells == PITH_CELLS_FLOAT ? 0x1p1000 : PITH_CELL_LIMIT;
}

static double largest_cell(const pith_l2 *sampler) {
  double largest = 0;
  if (sampler->options.cells == PITH_CELLS_FLOAT) {
    for (size_t i = 0; i < sampler->cell_count; i++) largest = fmax(largest, fabs(sampler->cells[i].real));
    return largest;
  }
  uint64_t most = 0;
  for (size_t i = 0; i < sampler->cell_count; i++) {
    int64_t cell = sampler->cells[i].whole;
    uint64_t size = cell < 0 ? -(uint64_t)cell : (uint64_t)cell;
    most = size > most ? size : most;
  }
  return (double)most;
}

/* The most that a row of value 1 adds to a cell, in units: all its copies in one bucket, by its own scales. */
static double reach_of_row(const pith_l2 *sampler, uint64_t row) {
  double scale = 1;
  for (size_t s = 0; s < sampler->count; s++)
    scale = fmax(scale, pith_l2_scale_of(sampler, &sampler->sketch[s], row * sampler->options.copies));
  return (double)sampler->options.copies * scale / sampler->options.unit;
}

static void add_to_norm(const pith_l2 *sampler, const update_block *block, size_t begin, size_t end) {
  pith_count_sketch_update(&sampler->norm, block->row + begin, sampler->columns > 1 ? block->column + begin : NULL,
                           block->value + begin, sampler->options.unit, end - begin);
}

/* Adds entries begin .. end-1 of the block, or none of them where the promise does not cover them. */
static bool add_some(pith_context *context, pith_l2 *sampler, const update_block *block, size_t begin, size_t end) {
  add_job job = {.sampler = sampler, .block = block, .begin = begin, .end = end, .room = sampler->headroom};
  double reach = sum_of_sizes(block->value + begin, end - begin) / sampler->options.unit;
  /* Floating cells cannot be taken back to the bit: a bound on what any row could add must do. */
  if (sampler->options.cells == PITH_CELLS_FLOAT) reach *= (double)sampler->options.copies / sqrt(PITH_LEAST_GAMMA);
  if (!(reach < sampler->headroom)) return false;
  pith_parallel_for(context, sampler->count, add_to_sketch, &job);
  const size_t parts = ((end - begin - 1) / PITH_SKETCH_BLOCK + 1) * sampler->options.copies;
  bool all = true;
  for (size_t s = 0; s < sampler->count; s++) {
    all = all && sampler->sketch[s].parts == parts;
    reach = fmax(reach, sampler->sketch[s].reach);
  }
  if (!all) {
    job.back = true;
    pith_parallel_for(context, sampler->count, add_to_sketch, &job);
    return false;
  }
  add_to_norm(sampler, block, begin, end);
  sampler->headroom -= reach;
  return true;
}

/* One entry that might overflow: tried, looked at, and taken back to the bit if it did. */
static bool try_one(pith_context *context, pith_l2 *sampler, const update_block *block, size_t index) {
  double reach = fabs(block->value[index]) * reach_of_row(sampler, block->row[index]);
  if (sampler->options.cells == PITH_CELLS_FLOAT || !(reach < PITH_CELL_LIMIT)) return false;
  update_block one = {.count = 1};
  one.row[0] = block->row[index];
  one.column[0] = block->column[index];
  one.value[0] = block->value[index];
  add_job job = {.sampler = sampler, .block = &one, .end = 1, .room = INFINITY};
  pith_parallel_for(context, sampler->count, add_to_sketch, &job);
  add_to_norm(sampler, &one, 0, 1);
  sampler->headroom = limit_of(sampler) - largest_cell(sampler);
  if (sampler->headroom > 0) return true;
  job.back = true;
  pith_parallel_for(context, sampler->count, add_to_sketch, &job);
  one.value[0] = -one.value[0];
  add_to_norm(sampler, &one, 0, 1);
  sampler->headroom = 0;
  return false;
}

/* Adds entries from `begin` on, in their order; yields how many: all, or those before the first that does not fit. */
static size_t add_range(pith_context *context, pith_l2 *sampler, const update_block *block, size_t begin, size_t end) {
  if (add_some(context, sampler, block, begin, end)) return end - begin;
  sampler->headroom = limit_of(sampler) - largest_cell(sampler);
  if (add_some(context, sampler, block, begin, end)) return end - begin;
  if (end - begin == 1) return try_one(context, sampler, block, begin);
  const size_t middle = begin + (end - begin) / 2;
  size_t done = add_range(context, sampler, block, begin, middle);
  return done < middle - begin ? done : done + add_range(context, sampler, block, middle, end);
}

static pith_status add_block(pith_context *context, pith_l2 *sampler, const update_block *block, size_t *done) {
  *done = add_range(context, sampler, block, 0, block->count);
  if (*done == block->count) return PITH_OK;
  return pith_fail(context, PITH_E_VALUE,
                   "adding %g to row %llu overflows a cell of unit %g; nothing of it was added: take a larger unit",
                   block->value[*done], (unsigned long long)block->row[*done], sampler->options.unit);
}

static pith_status add_exact(pith_context *context, pith_l2 *sampler, const update_block *block, size_t *done) {
  for (*done = 0; *done < block->count; ++*done) {
    size_t row = (size_t)block->row[*done];
    double value = block->value[*done];
    if (!(sampler->tree ? pith_sum_tree_add(sampler->tree, row, value)
                        : pith_gram_add(sampler->gram, row, block->column[*done], value)))
      return pith_fail(context, PITH_E_VALUE, "adding %g to row %zu makes a sum of squares overflow; it was not added",
                       value, row);
  }
  return PITH_OK;
}

/* ---- The stream ---- */

static pith_status take_entry(pith_context *context, const pith_l2 *sampler, const pith_update *update,
                              update_block *block) {
  const pith_l2_options *options = &sampler->options;
  if (update->row >= options->rows)
    return pith_fail(context, PITH_E_ARGUMENT, "row %llu is out of range; A has %zu rows, from 0",
                     (unsigned long long)update->row, options->rows);
  if (update->column >= options->dim)
    return pith_fail(context, PITH_E_ARGUMENT, "column %u is out of range; A has %zu columns, from 0", update->column,
                     options->dim);
  double value = options->free_x ? update->delta : update->delta * sampler->x[update->column];
  if (!isfinite(value))
    return pith_fail(context, PITH_E_VALUE, "delta is %g; it must be finite%s", update->delta,
                     isfinite(update->delta) ? ", times x too" : "");
  size_t i = block->count++;
  block->row[i] = update->row;
  block->column[i] = options->free_x ? update->column : 0;
  block->value[i] = value;
  return PITH_OK;
}

static pith_status move_x(pith_context *context, pith_l2 *sampler, const pith_update *update) {
  size_t j = update->column;
  if (!sampler->options.free_x)
    return pith_fail(context, PITH_E_ARGUMENT, "x was declared fixed, so it cannot be updated; declare it free");
  if (j >= sampler->options.dim)
    return pith_fail(context, PITH_E_ARGUMENT, "element %zu of x is out of range; it has %zu, from 0", j,
                     sampler->options.dim);
  double units = rint(update->delta / PITH_X_UNIT);
  int64_t moved = 0;
  if (!isfinite(update->delta))
    return pith_fail(context, PITH_E_VALUE, "delta is %g; it must be finite", update->delta);
  if (!(fabs(units) < PITH_CELL_LIMIT) || __builtin_add_overflow(sampler->moved[j], (int64_t)units, &moved) ||
      !(fabs((double)moved) < PITH_CELL_LIMIT))
    return pith_fail(context, PITH_E_VALUE, "adding %g to element %zu of x overflows; updates of x may sum up to 2^22",
                     update->delta, j);
  sampler->moved[j] = moved;
  sampler->x[j] = sampler->start[j] + (double)moved * PITH_X_UNIT;
  return PITH_OK;
}

pith_status pith_l2_update(pith_context *context, pith_l2 *sampler, const pith_update *updates, size_t count,
                           size_t *done) {
  pith_status status = PITH_OK;
  update_block block;
  size_t applied = 0;
  while (status == PITH_OK && applied < count) {
    size_t next = applied;
    block.count = 0;
    while (next < count && block.count < ENTRIES && updates[next].kind == PITH_UPDATE_A) {
      status = take_entry(context, sampler, &updates[next], &block);
      if (status < 0) break;
      next++;
    }
    if (block.count > 0) {
      size_t added = 0;
      pith_status written = sampler->options.method == PITH_METHOD_SKETCH ? add_block(context, sampler, &block, &added)
                                                                          : add_exact(context, sampler, &block, &added);
      applied += added;
      if (written < 0) status = written;
      continue;
    }
    if (status < 0 || next == count) break;
    if (updates[next].kind != PITH_UPDATE_X) {
      status = pith_fail(context, PITH_E_ARGUMENT, "an update of kind %u is none that this sampler takes",
                         updates[next].kind);
      break;
    }
    status = move_x(context, sampler, &updates[next]);
    if (status == PITH_OK) applied++;
  }
  if (done) *done = applied;
  return status;
}

pith_status pith_l2_update_row(pith_context *context, pith_l2 *sampler, uint64_t row, const double *values,
                               double factor) {
  enum { PART = 64 };
  pith_update update[PART] = {{0}};
  for (size_t begin = 0; begin < sampler->options.dim; begin += PART) {
    size_t count = pith_min_size(PART, sampler->options.dim - begin), done = 0;
    for (size_t i = 0; i < count; i++)
      update[i] = (pith_update){PITH_UPDATE_A, (uint32_t)(begin + i), row, factor * values[begin + i]};
    pith_status status = pith_l2_update(context, sampler, update, count, &done);
    if (status == PITH_OK) continue;
    char message[512]; /* of the failure, which taking back must not replace */
    memcpy(message, pith_context_message(context), sizeof message - 1);
    message[sizeof message - 1] = '\0';
    for (size_t i = begin + done; i-- > 0;) {
      pith_update back = {PITH_UPDATE_A, (uint32_t)i, row, -(factor * values[i])};
      PITH_TRY(pith_l2_update(context, sampler, &back, 1, NULL)); /* what went in comes out */
    }
    return pith_fail(context, status, "%s", message);
  }
  return PITH_OK;
}
