/* l2.c - options, creation and merging of l2 samplers. */
#include "sampler/l2.h"

#include <math.h>
#include <string.h>

enum {
  SCANNED_ROWS = 4096, /* up to which looking all rows up is quick */
  USUAL_BUCKETS = 1024,
  DISTINCT_BUCKETS = 64, /* per row drawn without replacement: keeps the last of them 4 deviations above the noise */
  MOST_BUCKETS = 1 << 24
};

void pith_l2_options_init(pith_l2_options *options) {
  *options = (pith_l2_options){.struct_size = sizeof *options,
                               .dim = 1,
                               .draws = 1,
                               .unit = 0x1p-20,
                               .copies = 3,
                               .depth = 5,
                               .memory = (size_t)1 << 30,
                               .seed = 1};
}

const char *pith_method_name(pith_method method) {
  static const char *const names[] = {"auto", "sketch", "exact"};
  return (size_t)method < sizeof names / sizeof *names ? names[method] : "unknown";
}

const char *pith_decode_name(pith_decode decode) {
  static const char *const names[] = {"auto", "scan", "bits", "dyadic"};
  return (size_t)decode < sizeof names / sizeof *names ? names[decode] : "unknown";
}

/* ---- Options ---- */

static bool power_of_two(double value) {
  int exponent = 0;
  return isfinite(value) && value > 0 && frexp(value, &exponent) == 0.5;
}

static size_t columns_of(const pith_l2_options *options) { return options->free_x ? options->dim : 1; }
static size_t draws_of_sketch(const pith_l2_options *options) { return options->strict ? 1 : options->copies; }

static size_t sketches_of(const pith_l2_options *options) {
  size_t each = draws_of_sketch(options), count = options->draws / each + (options->draws % each != 0);
  return count + (options->distinct > 0 || count == 0);
}

/* Bits of the index of a point. */
static size_t point_bits(const pith_l2_options *options) {
  uint64_t last = (uint64_t)options->rows * options->copies - 1;
  return last == 0 ? 1 : 64 - (size_t)__builtin_clzll(last);
}

static size_t levels_of(const pith_l2_options *options) {
  return options->decode == PITH_DECODE_DYADIC ? (point_bits(options) - 1) / PITH_LEVEL_BITS + 1 : 1;
}

static size_t bit_width_of(const pith_l2_options *options) {
  return options->decode == PITH_DECODE_BITS ? (point_bits(options) + 7) / 8 * 8 : 0;
}

static double sketch_cells(const pith_l2_options *options) {
  double row = (double)options->buckets * (double)columns_of(options);
  size_t bit_rows = pith_min_size(PITH_BIT_ROWS, options->depth);
  return row * (double)(levels_of(options) * options->depth + bit_rows * bit_width_of(options));
}

static double norm_cells(const pith_l2_options *options) {
  return (double)(PITH_NORM_DEPTH * PITH_NORM_BUCKETS) * (double)columns_of(options);
}

static double exact_words(const pith_l2_options *options) {
  if (!options->free_x) return (double)pith_sum_tree_words(options->rows);
  double n = (double)options->rows, d = (double)options->dim, leaves = ceil(n / fmax(d, 16));
  return n * d + leaves * (d * (d + 1) + 2);
}

static double common_words(const pith_l2_options *options) {
  return (double)sizeof(pith_l2) / 8 + (double)options->dim * (options->free_x ? 3 : 2);
}

static double sketch_words(const pith_l2_options *options) {
  return sketch_cells(options) + (double)sizeof(pith_l2_sketch) / 8;
}

double pith_l2_bytes(const pith_l2_options *options) {
  double words = common_words(options);
  if (options->method == PITH_METHOD_EXACT) return 8 * (words + exact_words(options));
  return 8 * (words + (double)sketches_of(options) * sketch_words(options) + norm_cells(options));
}

double pith_l2_saved_bytes(const pith_l2_options *options) {
  double x = (double)options->dim * (options->free_x ? 2 : 1);
  return 8 * (x + (double)sketches_of(options) * sketch_cells(options) + norm_cells(options));
}

static pith_status check_ranges(pith_context *context, const pith_l2_options *options) {
  if (options->rows == 0 || options->rows > PITH_MOST_ROWS)
    return pith_fail(context, PITH_E_ARGUMENT, "rows is %zu; it must be 1 to 2^40", options->rows);
  if (options->dim == 0 || options->dim > (size_t)1 << 31)
    return pith_fail(context, PITH_E_ARGUMENT, "dim is %zu; it must be 1 to 2^31", options->dim);
  if (options->copies == 0 || options->copies > PITH_MOST_COPIES)
    return pith_fail(context, PITH_E_ARGUMENT, "copies is %zu; it must be 1 to %d", options->copies, PITH_MOST_COPIES);
  if (options->depth % 2 == 0 || options->depth > PITH_MOST_DEPTH)
    return pith_fail(context, PITH_E_ARGUMENT, "depth is %zu; it must be an odd number from 1 to %d", options->depth,
                     PITH_MOST_DEPTH);
  size_t buckets = options->buckets;
  if (buckets != 0 && (buckets < 16 || buckets > MOST_BUCKETS || (buckets & (buckets - 1)) != 0))
    return pith_fail(context, PITH_E_ARGUMENT, "buckets is %zu; it must be a power of two from 16 to 2^24, or 0",
                     buckets);
  if (!power_of_two(options->unit) || options->unit < 0x1p-500 || options->unit > 0x1p500)
    return pith_fail(context, PITH_E_ARGUMENT, "unit is %g; it must be a power of two, such as 2^-20", options->unit);
  if (!(options->eps >= 0) || options->eps >= 1)
    return pith_fail(context, PITH_E_ARGUMENT, "eps is %g; it must be in (0, 1), or 0 for none", options->eps);
  if (options->distinct > PITH_MOST_DISTINCT)
    return pith_fail(context, PITH_E_ARGUMENT, "distinct is %zu; it must be at most %d", options->distinct,
                     PITH_MOST_DISTINCT);
  if ((unsigned)options->method > PITH_METHOD_EXACT || (unsigned)options->decode > PITH_DECODE_DYADIC ||
      (unsigned)options->cells > PITH_CELLS_FLOAT)
    return pith_fail(context, PITH_E_ARGUMENT, "method %d, decode %d or cells %d is none of those there are",
                     (int)options->method, (int)options->decode, (int)options->cells);
  for (size_t j = 0; options->x && j < options->dim; j++)
    if (!isfinite(options->x[j]))
      return pith_fail(context, PITH_E_VALUE, "x: element %zu is %g; all must be finite", j, options->x[j]);
  return PITH_OK;
}

/* As many buckets as eps, distinct rows and the usual noise ask for. The noise of a row of the table is
 * |y| sqrt((ln n + H) / buckets), H about 1.5 for three copies; the median of five rows has half of it, and a point
 * that is drawn is about |y|. */
static pith_status choose_buckets(pith_context *context, pith_l2_options *options) {
  if (options->buckets) return PITH_OK;
  double wanted = fmax(USUAL_BUCKETS, (double)options->distinct * DISTINCT_BUCKETS);
  if (options->eps > 0) wanted = fmax(wanted, (log((double)options->rows) + 1.5) / (4 * options->eps * options->eps));
  if (wanted > MOST_BUCKETS)
    return pith_fail(context, PITH_E_ARGUMENT, "eps %g asks for %.3g buckets; there can be 2^24: take a larger eps",
                     options->eps, wanted);
  options->buckets = USUAL_BUCKETS;
  while ((double)options->buckets < wanted) options->buckets *= 2;
  return PITH_OK;
}

static pith_status check_memory(pith_context *context, const pith_l2_options *options) {
  double bytes = pith_l2_bytes(options), memory = (double)options->memory;
  if (bytes <= memory) return PITH_OK;
  if (options->method == PITH_METHOD_EXACT)
    return pith_fail(context, PITH_E_BUDGET,
                     "the exact sampler needs %.0f bytes, memory is %zu; allow more, or take the sketch", bytes,
                     options->memory);
  double each = 8 * sketch_words(options), rest = memory - 8 * (common_words(options) + norm_cells(options));
  double sketches = floor(rest / each) - (options->distinct > 0);
  if (sketches < 1)
    return pith_fail(context, PITH_E_BUDGET, "one sketch needs %.0f bytes, memory is %zu; allow more",
                     bytes - each * (double)(sketches_of(options) - 1), options->memory);
  return pith_fail(context, PITH_E_BUDGET,
                   "%zu draws need %.0f bytes, memory is %zu; it has room for at most %.0f draws", options->draws,
                   bytes, options->memory, sketches * (double)draws_of_sketch(options));
}

pith_status pith_l2_resolve(pith_context *context, const pith_l2_options *options, pith_l2_options *out) {
  pith_l2_options_init(out);
  if (options->struct_size > sizeof *out)
    return pith_fail(context, PITH_E_ARGUMENT, "struct_size is %zu; call pith_l2_options_init first",
                     options->struct_size);
  memcpy(out, options, options->struct_size);
  out->struct_size = sizeof *out;
  PITH_TRY(check_ranges(context, out));
  PITH_TRY(choose_buckets(context, out));
  if (out->method == PITH_METHOD_AUTO) {
    out->method = PITH_METHOD_EXACT;
    if (pith_l2_bytes(out) > (double)out->memory) out->method = PITH_METHOD_SKETCH;
  }
  if (out->method == PITH_METHOD_EXACT) out->decode = PITH_DECODE_AUTO;
  if (out->method == PITH_METHOD_SKETCH && out->decode == PITH_DECODE_AUTO)
    out->decode = out->rows <= SCANNED_ROWS ? PITH_DECODE_SCAN : out->free_x ? PITH_DECODE_DYADIC : PITH_DECODE_BITS;
  if (out->decode == PITH_DECODE_BITS && out->buckets * columns_of(out) >= (size_t)1 << 31)
    return pith_fail(context, PITH_E_ARGUMENT, "decode is bits, which %zu buckets of %zu columns are too many for",
                     out->buckets, columns_of(out));
  return check_memory(context, out);
}

/* ---- Creation ---- */

static void place_sketch(pith_count_sketch *sketch, const pith_l2_options *options, size_t depth, size_t buckets,
                         pith_cell **cells) {
  *sketch = (pith_count_sketch){.depth = depth,
                                .buckets = buckets,
                                .columns = columns_of(options),
                                .floating = options->cells == PITH_CELLS_FLOAT,
                                .cells = *cells};
  *cells += pith_count_sketch_cells(sketch);
}

/* Sketch s has the random numbers of object s; the sketch of y those of object 0 from SKETCH on. */
static void seed_sketches(pith_l2 *sampler) {
  enum { SKETCH = PITH_SKETCH_NUMBERS * PITH_MOST_LEVELS + 1 };
  pith_stream stream = pith_stream_make(sampler->options.seed, PITH_STREAM_SKETCHES, 0);
  for (size_t s = 0; s < sampler->count; s++) {
    pith_l2_sketch *sketch = &sampler->sketch[s];
    uint64_t first = (uint64_t)(s + 1) * SKETCH;
    sketch->exponential_key = pith_random_u64(&stream, first);
    for (size_t l = 0; l < sampler->levels; l++)
      pith_count_sketch_seed(&sketch->level[l], &stream, first + 1 + l * PITH_SKETCH_NUMBERS);
  }
  pith_count_sketch_seed(&sampler->norm, &stream, 0);
}

static bool make_sketches(pith_l2 *sampler) {
  const pith_l2_options *options = &sampler->options;
  sampler->count = sketches_of(options);
  sampler->levels = levels_of(options);
  sampler->bit_width = bit_width_of(options);
  sampler->bit_rows = sampler->bit_width ? pith_min_size(PITH_BIT_ROWS, options->depth) : 0;
  sampler->cell_count = (size_t)((double)sampler->count * sketch_cells(options) + norm_cells(options));
  sampler->sketch = pith_memory_allocate(sampler->memory, sampler->count, sizeof *sampler->sketch);
  sampler->cells = pith_memory_allocate(sampler->memory, sampler->cell_count, sizeof *sampler->cells);
  if (!sampler->sketch || !sampler->cells) return false;
  memset(sampler->sketch, 0, sampler->count * sizeof *sampler->sketch);
  memset(sampler->cells, 0, sampler->cell_count * sizeof *sampler->cells);
  pith_cell *next = sampler->cells;
  for (size_t s = 0; s < sampler->count; s++) {
    pith_l2_sketch *sketch = &sampler->sketch[s];
    for (size_t l = 0; l < sampler->levels; l++)
      place_sketch(&sketch->level[l], options, options->depth, options->buckets, &next);
    sketch->bits = next;
    next += sampler->bit_rows * options->buckets * sampler->columns * sampler->bit_width;
  }
  place_sketch(&sampler->norm, options, PITH_NORM_DEPTH, PITH_NORM_BUCKETS, &next);
  seed_sketches(sampler);
  return true;
}

static bool make_x(pith_l2 *sampler, const double *x) {
  size_t dim = sampler->options.dim;
  sampler->start = pith_memory_allocate(sampler->memory, dim, sizeof *sampler->start);
  sampler->x = pith_memory_allocate(sampler->memory, dim, sizeof *sampler->x);
  if (sampler->options.free_x) {
    sampler->moved = pith_memory_allocate(sampler->memory, dim, sizeof *sampler->moved);
    if (sampler->moved) memset(sampler->moved, 0, dim * sizeof *sampler->moved);
  }
  if (!sampler->start || !sampler->x || (sampler->options.free_x && !sampler->moved)) return false;
  for (size_t j = 0; j < dim; j++) sampler->start[j] = x ? x[j] : sampler->options.free_x ? 0 : 1;
  memcpy(sampler->x, sampler->start, dim * sizeof *sampler->x);
  return true;
}

pith_status pith_l2_make(pith_context *context, const pith_l2_options *resolved, pith_l2 **out) {
  pith_l2 *sampler = pith_allocate_zero(context, 1, sizeof *sampler);
  if (!sampler) return PITH_E_MEMORY;
  sampler->memory = pith_memory_share(context);
  sampler->options = *resolved;
  sampler->options.x = NULL;
  sampler->columns = columns_of(resolved);
  pith_status status = PITH_OK;
  if (!make_x(sampler, resolved->x))
    status = PITH_E_MEMORY;
  else if (resolved->method == PITH_METHOD_SKETCH)
    status = make_sketches(sampler) ? PITH_OK : PITH_E_MEMORY;
  else if (resolved->free_x)
    status = pith_gram_create(context, resolved->rows, resolved->dim, &sampler->gram);
  else
    status = pith_sum_tree_create(context, resolved->rows, &sampler->tree);
  if (status < 0) {
    pith_l2_free(sampler);
    return pith_fail(context, status, "no memory for a sampler of %.0f bytes", pith_l2_bytes(resolved));
  }
  *out = sampler;
  return PITH_OK;
}

pith_status pith_l2_create(pith_context *context, const pith_l2_options *options, pith_l2 **out) {
  pith_l2_options resolved;
  PITH_TRY(pith_l2_resolve(context, options, &resolved));
  return pith_l2_make(context, &resolved, out);
}

void pith_l2_free(pith_l2 *sampler) {
  if (!sampler) return;
  pith_memory *memory = sampler->memory;
  pith_sum_tree_free(sampler->tree);
  pith_gram_free(sampler->gram);
  pith_memory_release(memory, sampler->cells);
  pith_memory_release(memory, sampler->sketch);
  pith_memory_release(memory, sampler->moved);
  pith_memory_release(memory, sampler->x);
  pith_memory_release(memory, sampler->start);
  pith_memory_release(memory, sampler);
  pith_memory_unshare(memory);
}

pith_l2_info pith_l2_describe(const pith_l2 *sampler) {
  const pith_l2_options *options = &sampler->options;
  return (pith_l2_info){.rows = options->rows,
                        .dim = options->dim,
                        .free_x = options->free_x,
                        .strict = options->strict,
                        .method = options->method,
                        .decode = options->decode,
                        .cells = options->cells,
                        .unit = options->unit,
                        .copies = options->copies,
                        .depth = options->depth,
                        .buckets = options->buckets,
                        .sketches = sampler->count,
                        .spent = sampler->spent,
                        .failures = sampler->failures,
                        .words = (size_t)ceil(pith_l2_bytes(options) / 8),
                        .seed = options->seed};
}

/* ---- Merging ---- */

static pith_status differ(pith_context *context, const char *what, double a, double b) {
  return pith_fail(context, PITH_E_ARGUMENT, "samplers of different %s cannot be merged: %.17g and %.17g", what, a, b);
}

static pith_status check_alike(pith_context *context, const pith_l2 *a, const pith_l2 *b) {
  const pith_l2_options *first = &a->options, *second = &b->options;
#define ALIKE(field) \
  if (first->field != second->field) return differ(context, #field, (double)first->field, (double)second->field)
  if (first->method != PITH_METHOD_SKETCH || second->method != PITH_METHOD_SKETCH)
    return pith_fail(context, PITH_E_ARGUMENT, "only sketches can be merged; an exact sampler keeps single rows");
  if (first->seed != second->seed)
    return pith_fail(context, PITH_E_ARGUMENT, "samplers of different seed cannot be merged: %llu and %llu",
                     (unsigned long long)first->seed, (unsigned long long)second->seed);
  ALIKE(rows);
  ALIKE(dim);
  ALIKE(free_x);
  ALIKE(decode);
  ALIKE(cells);
  ALIKE(unit);
  ALIKE(strict);
  ALIKE(copies);
  ALIKE(depth);
  ALIKE(buckets);
#undef ALIKE
  if (a->count != b->count) return differ(context, "number of sketches", (double)a->count, (double)b->count);
  for (size_t j = 0; j < first->dim; j++)
    if (a->start[j] != b->start[j]) return differ(context, "x", a->start[j], b->start[j]);
  return PITH_OK;
}

static bool fits(int64_t a, int64_t b) {
  int64_t sum = 0;
  return !__builtin_add_overflow(a, b, &sum) && sum < (int64_t)1 << 62 && sum > -((int64_t)1 << 62);
}

pith_status pith_l2_merge(pith_context *context, pith_l2 *sampler, const pith_l2 *other) {
  PITH_TRY(check_alike(context, sampler, other));
  const bool floating = sampler->options.cells == PITH_CELLS_FLOAT;
  for (size_t i = 0; i < sampler->cell_count; i++)
    if (floating ? !isfinite(sampler->cells[i].real + other->cells[i].real)
                 : !fits(sampler->cells[i].whole, other->cells[i].whole))
      return pith_fail(context, PITH_E_VALUE, "the sum of the two samplers overflows a cell of unit %g",
                       sampler->options.unit);
  for (size_t j = 0; sampler->moved && j < sampler->options.dim; j++)
    if (!fits(sampler->moved[j], other->moved[j]))
      return pith_fail(context, PITH_E_VALUE, "x: the sum of the two samplers overflows element %zu", j);

  for (size_t i = 0; i < sampler->cell_count; i++) {
    if (floating)
      sampler->cells[i].real += other->cells[i].real;
    else
      sampler->cells[i].whole += other->cells[i].whole;
  }
  for (size_t j = 0; sampler->moved && j < sampler->options.dim; j++) {
    sampler->moved[j] += other->moved[j];
    sampler->x[j] = sampler->start[j] + (double)sampler->moved[j] * PITH_X_UNIT;
  }
  sampler->spent = pith_max_size(sampler->spent, other->spent);
  sampler->failures = pith_max_size(sampler->failures, other->failures);
  sampler->headroom = 0;
  return PITH_OK;
}
