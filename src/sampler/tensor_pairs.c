/* tensor_pairs.c - the paper's sketch for A1 (x) A2 with A2 and X fixed: an l2 sketch over pairs.
 *
 * Coordinate (i1, i2) of y = (A1 (x) A2) vec(X) is <a1_{i1}, P_{i2}> with P = A2 X^T, kept as (rows2, dim). A change of
 * A1[i1, j] changes the rows2 coordinates (i1, .) by delta * P[., j], and the sketch takes each as an update of its
 * own: O(rows2), and neither A1 nor y is kept.
 *
 * A product of scales or hashes of i1 and i2 would make an update cheap, but then scales of pairs that share a row
 * depend on each other and the largest scaled entry no longer follows the law: tests/test_sampler_tensor.c shows it. */
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "sampler/tensor.h"

typedef struct pairs_state {
  pith_l2 *sketch;
  double *rows;       /* (rows2, dim): A2, then P once A1 has begun */
  pith_update *batch; /* (rows2) */
} pairs_state;

/* Of the rows alone: the sketch counts for itself. */
static double words(const pith_tensor_options *options) { return (double)options->rows2 * ((double)options->dim + 4); }

static pith_l2_options l2_options(const pith_tensor_options *options) {
  pith_l2_options out;
  pith_l2_options_init(&out);
  out.rows = options->rows1 * options->rows2;
  out.draws = options->draws;
  out.method = PITH_METHOD_SKETCH;
  out.buckets = options->buckets;
  out.memory = options->memory - (size_t)fmin(8 * words(options), (double)options->memory);
  out.seed = options->seed;
  return out;
}

static pith_status create(pith_context *context, pith_tensor *sampler) {
  pairs_state *state = sampler->state = tensor_zeros(context, sampler, 1, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  size_t rows = sampler->options.rows2;
  state->rows = tensor_zeros(context, sampler, rows, sampler->options.dim * sizeof *state->rows);
  state->batch = tensor_zeros(context, sampler, rows, sizeof *state->batch);
  if (!state->rows || !state->batch) return PITH_E_MEMORY;
  pith_l2_options options = l2_options(&sampler->options);
  return pith_l2_create(context, &options, &state->sketch);
}

static void release(pith_tensor *sampler) {
  pairs_state *state = sampler->state;
  if (!state) return;
  pith_l2_free(state->sketch);
  pith_memory_release(sampler->memory, state->batch);
  pith_memory_release(sampler->memory, state->rows);
  pith_memory_release(sampler->memory, state);
}

/* A2 becomes P. */
static pith_status begin(pith_context *context, pith_tensor *sampler) {
  pairs_state *state = sampler->state;
  size_t rows = sampler->options.rows2, d = sampler->options.dim;
  double *product = pith_allocate(context, rows * d, sizeof *product);
  if (!product) return PITH_E_MEMORY;
  pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, rows, d, d, 1, state->rows, d, sampler->x, d, 0, product, d);
  memcpy(state->rows, product, rows * d * sizeof *product);
  pith_release(context, product);
  return PITH_OK;
}

/* The coordinates (row, .) change by sign * delta * P[., column]; those of P that are 0 are left out. */
static size_t fill(const pith_tensor *sampler, const pith_update *change, double sign) {
  pairs_state *state = sampler->state;
  size_t count = 0, rows = sampler->options.rows2, d = sampler->options.dim;
  for (size_t i = 0; i < rows; i++) {
    double delta = sign * change->delta * state->rows[i * d + change->column];
    if (delta == 0) continue;
    state->batch[count++] = (pith_update){.kind = PITH_UPDATE_A, .row = change->row * rows + i, .delta = delta};
  }
  return count;
}

static pith_status update_a1(pith_context *context, pith_tensor *sampler, const pith_update *change) {
  pairs_state *state = sampler->state;
  size_t done = 0, undone = 0, count = fill(sampler, change, 1);
  pith_status status = pith_l2_update(context, state->sketch, state->batch, count, &done);
  if (status >= 0) return status;
  fill(sampler, change, -1); /* cells are whole numbers: this takes back exactly what was done */
  pith_status back = pith_l2_update(context, state->sketch, state->batch, done, &undone);
  return back < 0 ? back
                  : pith_fail(context, status, "A1[%llu, %u] cannot change by %g: a cell of the sketch would overflow",
                              (unsigned long long)change->row, change->column, change->delta);
}

static pith_status update(pith_context *context, pith_tensor *sampler, const pith_update *updates, size_t count,
                          size_t *done) {
  pairs_state *state = sampler->state;
  *done = 0;
  if (updates->kind == PITH_TENSOR_A1 && !sampler->begun) PITH_TRY(begin(context, sampler));
  for (; *done < count; ++*done) {
    const pith_update *at = &updates[*done];
    if (at->kind == PITH_TENSOR_A1)
      PITH_TRY(update_a1(context, sampler, at));
    else
      state->rows[at->row * sampler->options.dim + at->column] += at->delta;
  }
  return PITH_OK;
}

static pith_status draw(pith_context *context, pith_tensor *sampler, size_t count, pith_pair *pairs, size_t *drawn) {
  const pairs_state *state = sampler->state;
  pith_draw *draws = pith_allocate(context, count, sizeof *draws);
  if (!draws) return PITH_E_MEMORY;
  pith_status status = pith_l2_draw(context, state->sketch, count, draws, drawn);
  for (size_t i = 0; status >= 0 && i < *drawn; i++)
    pairs[i] = (pith_pair){.row1 = draws[i].row / sampler->options.rows2,
                           .row2 = draws[i].row % sampler->options.rows2,
                           .value = draws[i].value};
  pith_release(context, draws);
  return status;
}

static pith_status norm(pith_context *context, const pith_tensor *sampler, double *out) {
  return pith_l2_norm(context, ((const pairs_state *)sampler->state)->sketch, out);
}

static size_t kept(const pith_tensor *sampler) {
  const pairs_state *state = sampler->state;
  return pith_l2_describe(state->sketch).words + (size_t)words(&sampler->options);
}

static size_t left(const pith_tensor *sampler) {
  const pairs_state *state = sampler->state;
  pith_l2_info info = pith_l2_describe(state->sketch);
  return (info.sketches - info.spent) * info.copies;
}

static size_t spans(const pith_tensor *sampler, tensor_span *out) {
  const pairs_state *state = sampler->state;
  out[0] = (tensor_span){state->rows, sampler->options.rows2 * sampler->options.dim, TENSOR_LARGEST_CELL};
  return 1;
}

static pith_l2 *sketch(const pith_tensor *sampler) { return ((const pairs_state *)sampler->state)->sketch; }

static double saved(pith_context *context, const pith_tensor_options *options) {
  const pith_l2_options wanted = l2_options(options);
  pith_l2_options resolved;
  if (pith_l2_resolve(context, &wanted, &resolved) < 0) return -1;
  const double x = 1; /* of the sketch: always one, and not saved */
  return (double)options->rows2 * (double)options->dim + pith_l2_saved_bytes(&resolved) / 8 - x;
}

const tensor_engine tensor_pairs = {.name = "pairs",
                                    .fixed = true,
                                    .words = words,
                                    .create = create,
                                    .release = release,
                                    .update = update,
                                    .draw = draw,
                                    .norm = norm,
                                    .kept = kept,
                                    .left = left,
                                    .spans = spans,
                                    .sketch = sketch,
                                    .saved = saved};
