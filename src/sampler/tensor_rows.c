/* tensor_rows.c - pairs in two stages, each from a sketch whose cells are rows: words do not grow with the rows.
 *
 * Every draw has two Poisson-scaled sketches of its own. Point k of row i is a_i / sqrt(Gamma_ik), where Gamma_i1 <
 * Gamma_i2 < ... are the times of a Poisson process of the row, and is added with a sign to one cell of each of DEPTH
 * tables. Because cells are linear in the rows, any quadratic question may come later:
 *
 *     stage 1: the point of A1 with the largest c^T M c, M = X (A2^T A2) X^T, is of row i1 with probability
 *              a1^T M a1 / tr(A1^T A1 M); the row itself is read back from its cells
 *     stage 2: the point of A2 with the largest <c, x>^2, x = X^T a1_{i1}, is of row i2 with <a2, x>^2 / |A2 x|^2
 *
 * A2^T A2 is S^T S for one CountSketch S of A2; with one of A1 it also gives the norm. The two stages hash apart, so
 * that x, which depends on the first, is independent of the second. What is approximate: collisions in the cells of the
 * point (noise of 1 / sqrt(buckets) beside it, a median over the tables), and S^T S (1 / sqrt(GRAM_BUCKETS * buckets)).
 */
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "sampler/tensor.h"

enum {
  COPIES = 2,       /* points of a row: two, for then noise that swaps the two largest does not bias */
  DEPTH = 5,        /* tables */
  GRAM_BUCKETS = 8, /* rows of S for every bucket */
  NUMBERS = 16      /* random numbers of a point: one for each table, the last for its time */
};

typedef struct rows_state {
  double *plain[2]; /* S of A1 and of A2 (GRAM_BUCKETS * buckets, dim) */
  double *cells;    /* (draws, 2, DEPTH, buckets, dim) */
} rows_state;

static double words(const pith_tensor_options *options) {
  double table = (double)options->buckets * (double)options->dim;
  return 2.0 * GRAM_BUCKETS * table + 2.0 * DEPTH * table * (double)options->draws;
}

static pith_status create(pith_context *context, pith_tensor *sampler) {
  rows_state *state = sampler->state = tensor_zeros(context, sampler, 1, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  const pith_tensor_options *options = &sampler->options;
  size_t table = options->buckets * options->dim * sizeof(double);
  for (size_t side = 0; side < 2; side++) {
    state->plain[side] = tensor_zeros(context, sampler, GRAM_BUCKETS, table);
    if (!state->plain[side]) return PITH_E_MEMORY;
  }
  state->cells = tensor_zeros(context, sampler, options->draws * 2 * DEPTH, table);
  return state->cells ? PITH_OK : PITH_E_MEMORY;
}

static void release(pith_tensor *sampler) {
  rows_state *state = sampler->state;
  if (!state) return;
  pith_memory_release(sampler->memory, state->cells);
  pith_memory_release(sampler->memory, state->plain[1]);
  pith_memory_release(sampler->memory, state->plain[0]);
  pith_memory_release(sampler->memory, state);
}

/* ---- Points: never kept, always made anew from their numbers ---- */

typedef struct point {
  double scale; /* 1 / sqrt(Gamma) */
  uint32_t cell[DEPTH];
  double sign[DEPTH];
} point;

/* The points of one row in the sketch of one draw and side. */
static void make_points(const pith_tensor *sampler, size_t number, uint32_t side, uint64_t row, point out[COPIES]) {
  pith_stream stream = pith_stream_make(sampler->options.seed, PITH_STREAM_ROW_CELLS, (uint32_t)(2 * number) + side);
  double time = 0;
  for (size_t k = 0; k < COPIES; k++) {
    uint64_t first = (row * COPIES + k) * NUMBERS;
    time -= log(pith_random_uniform(&stream, first + NUMBERS - 1));
    out[k].scale = 1 / sqrt(fmax(time, 0x1p-40));
    for (size_t r = 0; r < DEPTH; r++) {
      uint64_t bits = pith_random_u64(&stream, first + r);
      out[k].cell[r] = (uint32_t)(bits & (sampler->options.buckets - 1));
      out[k].sign[r] = bits >> 63 ? -1 : 1;
    }
  }
}

static double *cells_of(const pith_tensor *sampler, size_t number, uint32_t side, size_t r) {
  const rows_state *state = sampler->state;
  return state->cells + ((number * 2 + side) * DEPTH + r) * sampler->options.buckets * sampler->options.dim;
}

typedef struct update_job {
  const pith_tensor *sampler;
  const pith_update *updates;
  size_t count, first;
} update_job;

/* All updates (of one kind) into one sketch. */
static void update_sketch(void *argument, size_t index, int thread) {
  (void)thread;
  const update_job *job = argument;
  size_t number = job->first + index, d = job->sampler->options.dim;
  point points[COPIES];
  for (size_t i = 0; i < job->count; i++) {
    const pith_update *at = &job->updates[i];
    if (i == 0 || at->row != at[-1].row) make_points(job->sampler, number, at->kind, at->row, points);
    for (size_t r = 0; r < DEPTH; r++) {
      double *cells = cells_of(job->sampler, number, at->kind, r);
      for (size_t k = 0; k < COPIES; k++)
        cells[points[k].cell[r] * d + at->column] += points[k].sign[r] * points[k].scale * at->delta;
    }
  }
}

static void update_plain(const pith_tensor *sampler, const pith_update *change) {
  const rows_state *state = sampler->state;
  pith_stream stream = pith_stream_make(sampler->options.seed, PITH_STREAM_ROW_CELLS, UINT32_MAX - change->kind);
  uint64_t bits = pith_random_u64(&stream, change->row);
  size_t row = bits & (GRAM_BUCKETS * sampler->options.buckets - 1);
  state->plain[change->kind][row * sampler->options.dim + change->column] += (bits >> 63 ? -1 : 1) * change->delta;
}

static pith_status update(pith_context *context, pith_tensor *sampler, const pith_update *updates, size_t count,
                          size_t *done) {
  update_job job = {.sampler = sampler, .updates = updates, .count = count, .first = sampler->spent};
  size_t left = sampler->options.draws - sampler->spent; /* what was drawn from is not needed any more */
  for (size_t i = 0; i < count; i++) update_plain(sampler, &updates[i]);
  if (count * left < 256) { /* too little work to share */
    for (size_t i = 0; i < left; i++) update_sketch(&job, i, 0);
  } else {
    pith_parallel_for(context, left, update_sketch, &job);
  }
  *done = count;
  return PITH_OK;
}

/* ---- Draws ---- */

static double median(double values[DEPTH]) {
  for (size_t i = 1; i < DEPTH; i++) {
    double value = values[i];
    size_t j = i;
    for (; j > 0 && values[j - 1] > value; j--) values[j] = values[j - 1];
    values[j] = value;
  }
  return values[DEPTH / 2];
}

/* The row whose point is largest, what `mass` (DEPTH, buckets) says of every cell; signed: mass turns with the sign of
 * the point. */
static bool largest(const pith_tensor *sampler, size_t number, uint32_t side, const double *mass, bool has_sign,
                    uint64_t *row, point *at, double *estimate) {
  size_t rows = side ? sampler->options.rows2 : sampler->options.rows1, buckets = sampler->options.buckets;
  double best = 0;
  for (uint64_t i = 0; i < rows; i++) {
    point points[COPIES];
    make_points(sampler, number, side, i, points);
    for (size_t k = 0; k < COPIES; k++) {
      double seen[DEPTH];
      for (size_t r = 0; r < DEPTH; r++)
        seen[r] = mass[r * buckets + points[k].cell[r]] * (has_sign ? points[k].sign[r] : 1);
      double middle = median(seen);
      if (!(fabs(middle) > best)) continue;
      best = fabs(middle);
      *row = i;
      *at = points[k];
      *estimate = middle / points[k].scale;
    }
  }
  return best > 0;
}

typedef struct draw_job {
  const pith_tensor *sampler;
  const double *m;
  double *work; /* of a thread: DEPTH * buckets masses and two rows */
  pith_pair *pairs;
} draw_job;

static size_t work_of_thread(const pith_tensor *sampler) {
  return DEPTH * sampler->options.buckets + 2 * sampler->options.dim;
}

static double quadratic(const double *m, const double *c, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < d; i++)
    if (c[i] != 0) sum += c[i] * tensor_dot(m + i * d, c, d);
  return fmax(sum, 0);
}

static void draw_one(void *argument, size_t index, int thread) {
  draw_job *job = argument;
  const pith_tensor *sampler = job->sampler;
  size_t d = sampler->options.dim, buckets = sampler->options.buckets, number = sampler->spent + index;
  double *mass = job->work + (size_t)thread * work_of_thread(sampler), *a = mass + DEPTH * buckets, *x = a + d;
  pith_pair *pair = &job->pairs[index];
  point at = {0};
  pair->row2 = SIZE_MAX;
  for (size_t r = 0; r < DEPTH; r++)
    for (size_t b = 0; b < buckets; b++)
      mass[r * buckets + b] = quadratic(job->m, cells_of(sampler, number, 0, r) + b * d, d);
  double estimate = 0;
  if (!largest(sampler, number, 0, mass, false, &pair->row1, &at, &estimate)) return;
  for (size_t j = 0; j < d; j++) {
    double seen[DEPTH];
    for (size_t r = 0; r < DEPTH; r++) seen[r] = at.sign[r] * cells_of(sampler, number, 0, r)[at.cell[r] * d + j];
    a[j] = median(seen) / at.scale;
  }
  tensor_turn(sampler->x, a, d, x);
  for (size_t r = 0; r < DEPTH; r++)
    for (size_t b = 0; b < buckets; b++)
      mass[r * buckets + b] = tensor_dot(cells_of(sampler, number, 1, r) + b * d, x, d);
  uint64_t row = 0;
  if (largest(sampler, number, 1, mass, true, &row, &at, &pair->value)) pair->row2 = row;
}

/* S^T S of one side. */
static void plain_gram(pith_context *context, const pith_tensor *sampler, size_t side, double *out) {
  const rows_state *state = sampler->state;
  size_t d = sampler->options.dim, rows = GRAM_BUCKETS * sampler->options.buckets;
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, d, d, rows, 1, state->plain[side], d, state->plain[side], d, 0,
                out, d);
}

/* M into m; two more (d, d) are workspace. */
static void first_form(pith_context *context, const pith_tensor *sampler, double *m) {
  size_t d = sampler->options.dim;
  plain_gram(context, sampler, 1, m + d * d);
  tensor_sandwich(context, sampler->x, m + d * d, d, m + 2 * d * d, m);
}

static pith_status draw(pith_context *context, pith_tensor *sampler, size_t count, pith_pair *pairs, size_t *drawn) {
  size_t d = sampler->options.dim, each = work_of_thread(sampler);
  double *work = pith_allocate(context, 3 * d * d + (size_t)pith_threads(context) * each, sizeof *work);
  if (!work) return PITH_E_MEMORY;
  first_form(context, sampler, work);
  draw_job job = {.sampler = sampler, .m = work, .work = work + 3 * d * d, .pairs = pairs};
  pith_parallel_for(context, count, draw_one, &job);
  pith_release(context, work);
  size_t kept = 0;
  for (size_t i = 0; i < count; i++)
    if (pairs[i].row2 != SIZE_MAX) pairs[kept++] = pairs[i];
  *drawn = kept;
  return PITH_OK;
}

/* tr(A1^T A1 M) = |Y|_F^2 */
static pith_status norm(pith_context *context, const pith_tensor *sampler, double *out) {
  size_t d = sampler->options.dim;
  double *work = pith_allocate(context, 3 * d * d, sizeof *work);
  if (!work) return PITH_E_MEMORY;
  first_form(context, sampler, work);
  plain_gram(context, sampler, 0, work + d * d);
  *out = sqrt(fmax(tensor_dot(work, work + d * d, d * d), 0));
  pith_release(context, work);
  return PITH_OK;
}

static size_t kept(const pith_tensor *sampler) { return (size_t)words(&sampler->options); }

static size_t left(const pith_tensor *sampler) { return sampler->options.draws - sampler->spent; }

static size_t spans(const pith_tensor *sampler, tensor_span *out) {
  const rows_state *state = sampler->state;
  size_t table = sampler->options.buckets * sampler->options.dim;
  for (size_t side = 0; side < 2; side++)
    out[side] = (tensor_span){state->plain[side], GRAM_BUCKETS * table, TENSOR_LARGEST_CELL};
  out[2] = (tensor_span){state->cells, sampler->options.draws * 2 * DEPTH * table, TENSOR_LARGEST_CELL};
  return 3;
}

static double saved(pith_context *context, const pith_tensor_options *options) {
  (void)context;
  return words(options);
}

const tensor_engine tensor_rows = {.name = "sketch",
                                   .words = words,
                                   .create = create,
                                   .release = release,
                                   .update = update,
                                   .draw = draw,
                                   .norm = norm,
                                   .kept = kept,
                                   .left = left,
                                   .spans = spans,
                                   .saved = saved};
