/* l2_draw.c - draws and norms, from sketches and from exact trees. */
#include <math.h>
#include <string.h>

#include "sampler/l2.h"

enum { GRAM_NUMBERS = 64 /* that one draw from a Gram tree uses */ };
static const double STRICT_GAP = 1.5; /* deviations of the noise between the two largest points */

/* ---- Sketches ---- */

static const double *applied_x(const pith_l2 *sampler) {
  static const double one = 1;
  return sampler->options.free_x ? sampler->x : &one; /* a fixed x went into the updates */
}

static double *fold(pith_context *context, const pith_l2 *sampler, const pith_count_sketch *sketch) {
  double *folded = pith_scratch(context, 0, sketch->depth * sketch->buckets * sizeof *folded);
  if (folded) pith_count_sketch_fold(sketch, applied_x(sampler), folded);
  return folded;
}

static pith_draw draw_of(const pith_l2 *sampler, const pith_l2_sketch *sketch, const pith_l2_point *point) {
  double scale = pith_l2_scale_of(sampler, sketch, point->id);
  return (pith_draw){point->id / sampler->options.copies, point->value * sampler->options.unit / scale, 1};
}

/* Whether the largest point is told from the second: the difference is above the noise of the table. */
static bool stands_out(const pith_l2_sketch *sketch, const double *folded, const pith_l2_point *points, size_t found) {
  double energy = pith_count_sketch_energy(&sketch->level[0], folded) - points[0].value * points[0].value;
  double noise = sqrt(fmax(energy, 0) / (double)sketch->level[0].buckets);
  double second = found > 1 ? fabs(points[1].value) : 0;
  return fabs(points[0].value) - second >= STRICT_GAP * noise;
}

static pith_status draw_from_sketch(pith_context *context, pith_l2 *sampler, size_t wanted, pith_draw *draws,
                                    size_t *drawn) {
  const pith_l2_sketch *sketch = &sampler->sketch[sampler->spent];
  pith_l2_point points[PITH_MOST_COPIES + 1];
  size_t found = 0;
  double *folded = fold(context, sampler, &sketch->level[0]);
  if (!folded) return PITH_E_MEMORY;
  PITH_TRY(
      pith_l2_decode(context, sampler, sketch, folded, wanted + (sampler->options.strict != 0), false, points, &found));
  sampler->spent++;
  size_t taken = pith_min_size(wanted, found);
  if (sampler->options.strict && taken > 0 && !stands_out(sketch, folded, points, found)) taken = 0;
  for (size_t i = 0; i < taken; i++) draws[i] = draw_of(sampler, sketch, &points[i]);
  if (taken < wanted) sampler->failures++;
  *drawn = taken;
  return PITH_OK;
}

static pith_status draw_sketches(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws,
                                 size_t *drawn) {
  size_t each = sampler->options.strict ? 1 : sampler->options.copies, left = sampler->count - sampler->spent;
  size_t sketches = count / each + (count % each != 0);
  if (sketches > left)
    return pith_fail(context, PITH_E_BUDGET,
                     "%zu draws need %zu fresh sketches, %zu of %zu are left; create the sampler for more draws", count,
                     sketches, left, sampler->count);
  for (size_t done = 0; done < count; done += each) {
    size_t got = 0;
    PITH_TRY(draw_from_sketch(context, sampler, pith_min_size(each, count - done), draws + *drawn, &got));
    *drawn += got;
  }
  return PITH_OK;
}

/* ---- Exact ---- */

static pith_stream stream_of(const pith_l2 *sampler) {
  return pith_stream_make(sampler->options.seed, PITH_STREAM_DRAWS, 0);
}

static double exact_value(const pith_l2 *sampler, size_t row) {
  if (sampler->tree) return pith_sum_tree_value(sampler->tree, row);
  const double *a = pith_gram_row(sampler->gram, row);
  double sum = 0;
  for (size_t j = 0; j < sampler->options.dim; j++) sum += a[j] * sampler->x[j];
  return sum;
}

static double *packed_scratch(pith_context *context, const pith_l2 *sampler) {
  return pith_scratch(context, 0, pith_gram_packed(sampler->options.dim) * sizeof(double));
}

static pith_status draw_exact(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws, size_t *drawn) {
  pith_stream stream = stream_of(sampler);
  pith_gram_form form = {NULL, NULL};
  if (sampler->gram) {
    double *packed = packed_scratch(context, sampler);
    if (!packed) return PITH_E_MEMORY;
    form = pith_gram_form_vector(sampler->x, sampler->options.dim, packed);
  }
  for (size_t i = 0; i < count; i++) {
    uint64_t number = GRAM_NUMBERS * sampler->drawn;
    size_t row = sampler->tree ? pith_sum_tree_find(sampler->tree, pith_random_uniform(&stream, number))
                               : pith_gram_draw(sampler->gram, &form, &stream, sampler->drawn);
    if (row == SIZE_MAX) break;
    sampler->drawn++;
    draws[(*drawn)++] = (pith_draw){row, exact_value(sampler, row), 1};
  }
  return PITH_OK;
}

pith_status pith_l2_draw(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws, size_t *drawn) {
  *drawn = 0;
  if (sampler->options.method == PITH_METHOD_EXACT) return draw_exact(context, sampler, count, draws, drawn);
  return draw_sketches(context, sampler, count, draws, drawn);
}

/* ---- Without replacement ----
 *
 * Rows in the order of |y_i| / sqrt(E_i), E_i exponential: successive draws without replacement. Given the value tau
 * of the row after the last one taken, row i is among them with probability 1 - exp(-y_i^2 / tau^2). */

static void weigh(pith_draw *draws, size_t count, double threshold) {
  for (size_t i = 0; i < count; i++) {
    double ratio = draws[i].value / threshold;
    draws[i].weight = threshold > 0 ? 1 / -expm1(-ratio * ratio) : 1;
  }
}

static pith_status distinct_sketch(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws,
                                   size_t *drawn) {
  const pith_l2_sketch *sketch = &sampler->sketch[sampler->spent];
  if (sampler->spent == sampler->count)
    return pith_fail(context, PITH_E_BUDGET, "draws without replacement need a fresh sketch; all %zu are spent",
                     sampler->count);
  if (count > sampler->options.distinct)
    return pith_fail(context, PITH_E_BUDGET,
                     "%zu rows without replacement; the sampler was created for at most %zu: set distinct", count,
                     sampler->options.distinct);
  double *folded = fold(context, sampler, &sketch->level[0]);
  pith_l2_point *points = pith_scratch(context, 2, (count + 1) * sizeof *points);
  size_t found = 0;
  if (!folded || !points) return PITH_E_MEMORY;
  PITH_TRY(pith_l2_decode(context, sampler, sketch, folded, count + 1, true, points, &found));
  sampler->spent++;
  *drawn = pith_min_size(count, found);
  for (size_t i = 0; i < *drawn; i++) draws[i] = draw_of(sampler, sketch, &points[i]);
  weigh(draws, *drawn, found > count ? fabs(points[count].value) * sampler->options.unit : 0);
  return PITH_OK;
}

static pith_status distinct_exact(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws,
                                  size_t *drawn) {
  pith_stream stream = stream_of(sampler);
  const size_t rows = sampler->options.rows;
  uint64_t first = GRAM_NUMBERS * sampler->drawn;
  double *key = pith_scratch(context, 2, (count + 1) * sizeof *key); /* E / y^2, smallest first */
  size_t *row = pith_scratch(context, 3, (count + 1) * sizeof *row), found = 0;
  if (!key || !row) return PITH_E_MEMORY;
  for (size_t i = 0; i < rows; i++) {
    double y = exact_value(sampler, i), exponential = -log(pith_random_uniform(&stream, first + i));
    double race = exponential / (y * y);
    if (!(y * y > 0) || (found == count + 1 && !(race < key[count]))) continue;
    if (found == count + 1) found--;
    size_t at = found++;
    for (; at > 0 && key[at - 1] > race; at--) {
      key[at] = key[at - 1];
      row[at] = row[at - 1];
    }
    key[at] = race;
    row[at] = i;
  }
  sampler->drawn += rows / GRAM_NUMBERS + 1;
  *drawn = pith_min_size(count, found);
  for (size_t i = 0; i < *drawn; i++) draws[i] = (pith_draw){row[i], exact_value(sampler, row[i]), 1};
  weigh(draws, *drawn, found > count ? 1 / sqrt(key[count]) : 0);
  return PITH_OK;
}

pith_status pith_l2_draw_distinct(pith_context *context, pith_l2 *sampler, size_t count, pith_draw *draws,
                                  size_t *drawn) {
  *drawn = 0;
  if (count > PITH_MOST_DISTINCT)
    return pith_fail(context, PITH_E_ARGUMENT, "%zu rows without replacement; there can be %d at a time", count,
                     PITH_MOST_DISTINCT);
  if (sampler->options.method == PITH_METHOD_EXACT) return distinct_exact(context, sampler, count, draws, drawn);
  return distinct_sketch(context, sampler, count, draws, drawn);
}

/* ---- The norm ---- */

pith_status pith_l2_norm(pith_context *context, const pith_l2 *sampler, double *norm) {
  if (sampler->tree) {
    *norm = sqrt(pith_sum_tree_total(sampler->tree));
  } else if (sampler->gram) {
    double *packed = packed_scratch(context, sampler);
    if (!packed) return PITH_E_MEMORY;
    pith_gram_form form = pith_gram_form_vector(sampler->x, sampler->options.dim, packed);
    *norm = sqrt(pith_gram_mass(sampler->gram, &form));
  } else {
    double *folded = fold(context, sampler, &sampler->norm);
    if (!folded) return PITH_E_MEMORY;
    *norm = sqrt(pith_count_sketch_energy(&sampler->norm, folded)) * sampler->options.unit;
  }
  return PITH_OK;
}
