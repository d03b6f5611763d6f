/* l2_decode.c - finding the largest points of a sketch: by looking all of them up, by bits, or level by level. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "sampler/l2.h"

/* ---- The best so far ---- */

typedef struct best_points {
  const pith_l2 *sampler;
  pith_l2_point *point; /* largest first */
  size_t count, room;
  bool distinct; /* one point of a row */
} best_points;

static double weakest(const best_points *best) {
  return best->count < best->room ? 0 : fabs(best->point[best->count - 1].value);
}

static bool same(const best_points *best, uint64_t a, uint64_t b) {
  const uint64_t copies = best->sampler->options.copies;
  return best->distinct ? a / copies == b / copies : a == b;
}

static void offer(best_points *best, uint64_t id, double value) {
  double size = fabs(value);
  if (!(size > weakest(best))) return;
  size_t at = best->count;
  for (size_t i = 0; i < best->count; i++)
    if (same(best, best->point[i].id, id)) {
      if (fabs(best->point[i].value) >= size) return;
      at = i;
      break;
    }
  if (at == best->count) {
    if (best->count < best->room)
      best->count++;
    else
      at--;
  }
  for (; at > 0 && fabs(best->point[at - 1].value) < size; at--) best->point[at] = best->point[at - 1];
  best->point[at] = (pith_l2_point){id, value};
}

/* ---- Looking points up ---- */

/* Signed estimates of up to PITH_SKETCH_BLOCK points from the folded table; those that cannot be larger than `least`
 * may come out as 0, which saves a median. */
static void look_up(const pith_count_sketch *sketch, const double *folded, const uint64_t *id, double least,
                    double *estimate, size_t count) {
  uint64_t base[PITH_SKETCH_BLOCK];
  uint32_t slot[PITH_MOST_DEPTH][PITH_SKETCH_BLOCK];
  const size_t depth = sketch->depth, needed = depth / 2 + 1;
  pith_count_sketch_hash(sketch, id, base, count);
  for (size_t r = 0; r < depth; r++) pith_count_sketch_slots(sketch, r, base, slot[r], count);
  for (size_t i = 0; i < count; i++) {
    double value[PITH_MOST_DEPTH];
    size_t above = 0, below = 0;
    for (size_t r = 0; r < depth; r++) {
      double cell = folded[r * sketch->buckets + (slot[r][i] >> 1)];
      value[r] = slot[r][i] & 1 ? -cell : cell;
      above += value[r] > least;
      below += value[r] < -least;
    }
    estimate[i] = above >= needed || below >= needed ? pith_median(value, depth) : 0;
  }
}

static void offer_all(best_points *best, const pith_l2_sketch *sketch, const double *folded, const uint64_t *id,
                      size_t count) {
  double estimate[PITH_SKETCH_BLOCK];
  for (size_t begin = 0; begin < count; begin += PITH_SKETCH_BLOCK) {
    size_t block = pith_min_size(PITH_SKETCH_BLOCK, count - begin);
    look_up(&sketch->level[0], folded, id + begin, weakest(best), estimate, block);
    for (size_t i = 0; i < block; i++) offer(best, id[begin + i], estimate[i]);
  }
}

static void scan(best_points *best, const pith_l2_sketch *sketch, const double *folded) {
  const uint64_t points = (uint64_t)best->sampler->options.rows * best->sampler->options.copies;
  uint64_t id[PITH_SKETCH_BLOCK];
  for (uint64_t begin = 0; begin < points; begin += PITH_SKETCH_BLOCK) {
    size_t count = (size_t)(points - begin < PITH_SKETCH_BLOCK ? points - begin : PITH_SKETCH_BLOCK);
    for (size_t i = 0; i < count; i++) id[i] = begin + i;
    offer_all(best, sketch, folded, id, count);
  }
}

/* ---- Bits: a bucket in which one point outweighs the rest spells its index. ---- */

static uint64_t spell(const pith_l2 *sampler, const pith_l2_sketch *sketch, size_t row, size_t bucket, double total) {
  const size_t columns = sampler->columns, width = sampler->bit_width;
  const bool floating = sketch->level[0].floating;
  const pith_cell *cells = sketch->bits + (row * sketch->level[0].buckets + bucket) * columns * width;
  uint64_t id = 0;
  for (size_t c = 0; c < width; c++) {
    double sum = 0;
    for (size_t j = 0; j < columns; j++) {
      const pith_cell *cell = &cells[j * width + c];
      double value = floating ? cell->real : (double)cell->whole;
      sum += columns == 1 ? value : value * sampler->x[j];
    }
    if (fabs(sum) > fabs(total - sum)) id |= (uint64_t)1 << c;
  }
  return id;
}

/* The `room` buckets of largest size of one row of the table, in no order; yields how many there are. */
static size_t largest_buckets(const double *row, size_t buckets, size_t *chosen, size_t room) {
  size_t count = 0;
  double least = 0;
  for (size_t b = 0; b < buckets; b++) {
    if (!(fabs(row[b]) > least)) continue;
    if (count == room) count--; /* the smallest, which stands last */
    size_t at = count++;
    for (; at > 0 && fabs(row[chosen[at - 1]]) < fabs(row[b]); at--) chosen[at] = chosen[at - 1];
    chosen[at] = b;
    if (count == room) least = fabs(row[chosen[room - 1]]);
  }
  return count;
}

static size_t buckets_spelled(const best_points *best) { return 16 + 4 * best->room; }

static void read_bits(best_points *best, const pith_l2_sketch *sketch, const double *folded, size_t *chosen) {
  const pith_l2 *sampler = best->sampler;
  const uint64_t points = (uint64_t)sampler->options.rows * sampler->options.copies;
  const size_t buckets = sketch->level[0].buckets;
  for (size_t r = 0; r < sampler->bit_rows; r++) {
    size_t count = largest_buckets(folded + r * buckets, buckets, chosen, buckets_spelled(best));
    for (size_t i = 0; i < count; i++) {
      uint64_t id = spell(sampler, sketch, r, chosen[i], folded[r * buckets + chosen[i]]), base = 0;
      uint32_t slot = 0;
      if (id >= points) continue;
      pith_count_sketch_hash(&sketch->level[0], &id, &base, 1);
      pith_count_sketch_slots(&sketch->level[0], r, &base, &slot, 1);
      if (slot >> 1 == chosen[i]) offer_all(best, sketch, folded, &id, 1); /* else it was not spelled well */
    }
  }
}

/* ---- Levels: of the groups of each level the heaviest are opened. ---- */

static size_t beam_of(const best_points *best) { return 48 + 4 * best->room; }

typedef struct group_search {
  const pith_l2 *sampler;
  double *folded;          /* of the level at hand */
  uint64_t *kept, *opened; /* (beam), (beam * 32) */
  double *weight;          /* (beam) of those kept, heaviest first */
} group_search;

/* The `beam` heaviest of `count` groups; yields how many. */
static size_t keep_heaviest(group_search *search, const pith_count_sketch *level, size_t count, size_t beam) {
  size_t kept = 0;
  uint64_t base[PITH_SKETCH_BLOCK];
  uint32_t slot[PITH_MOST_DEPTH][PITH_SKETCH_BLOCK];
  for (size_t begin = 0; begin < count; begin += PITH_SKETCH_BLOCK) {
    size_t block = pith_min_size(PITH_SKETCH_BLOCK, count - begin);
    pith_count_sketch_hash(level, search->opened + begin, base, block);
    for (size_t r = 0; r < level->depth; r++) pith_count_sketch_slots(level, r, base, slot[r], block);
    for (size_t i = 0; i < block; i++) {
      double size[PITH_MOST_DEPTH];
      for (size_t r = 0; r < level->depth; r++) size[r] = fabs(search->folded[r * level->buckets + (slot[r][i] >> 1)]);
      /* Above the median: points of one row stand side by side, and may cancel in some rows of the table. */
      (void)pith_median(size, level->depth); /* sorts */
      double weight = size[level->depth - 1 - level->depth / 4];
      if (!(weight > 0) || (kept == beam && !(weight > search->weight[beam - 1]))) continue;
      if (kept == beam) kept--;
      size_t at = kept++;
      for (; at > 0 && search->weight[at - 1] < weight; at--) {
        search->weight[at] = search->weight[at - 1];
        search->kept[at] = search->kept[at - 1];
      }
      search->weight[at] = weight;
      search->kept[at] = search->opened[begin + i];
    }
  }
  return kept;
}

static void search_levels(best_points *best, const pith_l2_sketch *sketch, const double *folded, group_search *search) {
  const pith_l2 *sampler = search->sampler;
  const uint64_t last = (uint64_t)sampler->options.rows * sampler->options.copies - 1;
  const double one = 1;
  size_t level = sampler->levels - 1, count = (size_t)(last >> (PITH_LEVEL_BITS * level)) + 1;
  for (size_t g = 0; g < count; g++) search->opened[g] = g;
  for (; level > 0; level--) {
    pith_count_sketch_fold(&sketch->level[level], sampler->columns > 1 ? sampler->x : &one, search->folded);
    size_t kept = keep_heaviest(search, &sketch->level[level], count, beam_of(best));
    count = 0;
    for (size_t g = 0; g < kept; g++)
      for (uint64_t i = 0; i < 1 << PITH_LEVEL_BITS; i++) {
        uint64_t child = search->kept[g] << PITH_LEVEL_BITS | i;
        if (child <= last >> (PITH_LEVEL_BITS * (level - 1))) search->opened[count++] = child;
      }
  }
  offer_all(best, sketch, folded, search->opened, count);
}

pith_status pith_l2_decode(pith_context *context, const pith_l2 *sampler, const pith_l2_sketch *sketch,
                           const double *folded, size_t wanted, bool distinct, pith_l2_point *points, size_t *found) {
  best_points best = {.sampler = sampler, .point = points, .room = wanted, .distinct = distinct};
  const size_t beam = beam_of(&best), opened = beam << PITH_LEVEL_BITS;
  const size_t table = sketch->level[0].depth * sketch->level[0].buckets;
  if (sampler->options.decode == PITH_DECODE_SCAN) {
    scan(&best, sketch, folded);
  } else if (sampler->options.decode == PITH_DECODE_BITS) {
    size_t *chosen = pith_scratch(context, 1, buckets_spelled(&best) * sizeof *chosen);
    if (!chosen) return PITH_E_MEMORY;
    read_bits(&best, sketch, folded, chosen);
  } else {
    double *memory = pith_scratch(context, 1, (table + beam + beam + opened) * sizeof *memory);
    if (!memory) return PITH_E_MEMORY;
    group_search search = {.sampler = sampler, .folded = memory, .weight = memory + table};
    search.kept = (uint64_t *)(void *)(memory + table + beam);
    search.opened = search.kept + beam;
    search_levels(&best, sketch, folded, &search);
  }
  *found = best.count;
  return PITH_OK;
}
