/* tensor_exact.c - pairs in two exact stages, each a walk down a Gram tree.
 *
 *   M = X (A2^T A2) X^T     i1 with probability a1^T M a1 / tr(A1^T A1 M)
 *   x = X^T a1_{i1}         i2 with probability <a2, x>^2 / |A2 x|^2 = <a2, x>^2 / a1^T M a1
 *
 * The product is Y[i1, i2]^2 / |Y|_F^2, and tr(A1^T A1 M) = |Y|_F^2. */
#include <math.h>

#include "sampler/gram.h"
#include "sampler/tensor.h"

typedef struct exact_state {
  pith_gram *tree[2]; /* of A1 and A2 */
} exact_state;

static double words_of_tree(double rows, double d) {
  double leaf = fmax(d, 16), leaves = floor((rows - 1) / leaf) + 1;
  return rows * d + leaves * (d * (d + 1) + 2);
}

static double words(const pith_tensor_options *options) {
  double d = (double)options->dim;
  return words_of_tree((double)options->rows1, d) + words_of_tree((double)options->rows2, d);
}

static pith_status create(pith_context *context, pith_tensor *sampler) {
  exact_state *state = sampler->state = tensor_zeros(context, sampler, 1, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  const pith_tensor_options *options = &sampler->options;
  PITH_TRY(pith_gram_create(context, options->rows1, options->dim, &state->tree[0]));
  return pith_gram_create(context, options->rows2, options->dim, &state->tree[1]);
}

static void release(pith_tensor *sampler) {
  exact_state *state = sampler->state;
  if (!state) return;
  pith_gram_free(state->tree[0]);
  pith_gram_free(state->tree[1]);
  pith_memory_release(sampler->memory, state);
}

static pith_status update(pith_context *context, pith_tensor *sampler, const pith_update *updates, size_t count,
                          size_t *done) {
  exact_state *state = sampler->state;
  for (*done = 0; *done < count; ++*done) {
    const pith_update *at = &updates[*done];
    if (!pith_gram_add(state->tree[at->kind], at->row, at->column, at->delta))
      return pith_fail(context, PITH_E_VALUE, "A%u[%llu, %u] would grow beyond 1e40 by %g", at->kind + 1,
                       (unsigned long long)at->row, at->column, at->delta);
  }
  return PITH_OK;
}

/* M, packed into `packed`; three more (d, d) are workspace. */
static pith_gram_form first_form(pith_context *context, const pith_tensor *sampler, double *work, double *packed) {
  const exact_state *state = sampler->state;
  size_t d = sampler->options.dim;
  double *total = work, *half = work + d * d, *m = work + 2 * d * d;
  pith_gram_total(state->tree[1], total);
  tensor_sandwich(context, sampler->x, total, d, half, m);
  return pith_gram_form_matrix(m, d, packed);
}

typedef struct draw_job {
  const pith_tensor *sampler;
  pith_gram_form first;
  pith_stream streams[2];
  double *work; /* of a thread: packed form and x */
  pith_pair *pairs;
} draw_job;

static void draw_one(void *argument, size_t index, int thread) {
  draw_job *job = argument;
  const exact_state *state = job->sampler->state;
  size_t d = job->sampler->options.dim, packed = pith_gram_packed(d);
  double *form = job->work + (size_t)thread * (packed + d), *x = form + packed;
  uint64_t number = job->sampler->spent + index;
  pith_pair *pair = &job->pairs[index];
  pair->row2 = SIZE_MAX;
  pair->row1 = pith_gram_draw(state->tree[0], &job->first, &job->streams[0], number);
  if (pair->row1 == SIZE_MAX) return;
  tensor_turn(job->sampler->x, pith_gram_row(state->tree[0], pair->row1), d, x);
  pith_gram_form second = pith_gram_form_vector(x, d, form);
  pair->row2 = pith_gram_draw(state->tree[1], &second, &job->streams[1], number);
  if (pair->row2 != SIZE_MAX) pair->value = tensor_dot(x, pith_gram_row(state->tree[1], pair->row2), d);
}

static pith_status draw(pith_context *context, pith_tensor *sampler, size_t count, pith_pair *pairs, size_t *drawn) {
  size_t d = sampler->options.dim, packed = pith_gram_packed(d), threads = (size_t)pith_threads(context);
  double *work = pith_allocate(context, 3 * d * d + packed + threads * (packed + d), sizeof *work);
  if (!work) return PITH_E_MEMORY;
  draw_job job = {.sampler = sampler, .pairs = pairs, .work = work + 3 * d * d + packed};
  job.first = first_form(context, sampler, work, work + 3 * d * d);
  for (uint32_t i = 0; i < 2; i++) job.streams[i] = pith_stream_make(sampler->options.seed, PITH_STREAM_PAIRS, i);
  pith_parallel_for(context, count, draw_one, &job);
  pith_release(context, work);
  size_t kept = 0;
  for (size_t i = 0; i < count; i++)
    if (pairs[i].row2 != SIZE_MAX) pairs[kept++] = pairs[i];
  *drawn = kept;
  return PITH_OK;
}

static pith_status norm(pith_context *context, const pith_tensor *sampler, double *out) {
  const exact_state *state = sampler->state;
  size_t d = sampler->options.dim;
  double *work = pith_allocate(context, 3 * d * d + pith_gram_packed(d), sizeof *work);
  if (!work) return PITH_E_MEMORY;
  pith_gram_form form = first_form(context, sampler, work, work + 3 * d * d);
  *out = sqrt(pith_gram_mass(state->tree[0], &form));
  pith_release(context, work);
  return PITH_OK;
}

static size_t kept(const pith_tensor *sampler) {
  const exact_state *state = sampler->state;
  return pith_gram_words(state->tree[0]) + pith_gram_words(state->tree[1]);
}

static size_t left(const pith_tensor *sampler) { return (void)sampler, SIZE_MAX; }

static size_t spans(const pith_tensor *sampler, tensor_span *out) {
  const exact_state *state = sampler->state;
  for (size_t i = 0; i < 2; i++)
    out[i] = (tensor_span){pith_gram_values(state->tree[i]), pith_gram_rows(state->tree[i]) * sampler->options.dim,
                           TENSOR_LARGEST};
  return 2;
}

static void settle(pith_tensor *sampler) {
  exact_state *state = sampler->state;
  for (size_t i = 0; i < 2; i++) pith_gram_sum(state->tree[i]);
}

static double saved(pith_context *context, const pith_tensor_options *options) {
  (void)context;
  return ((double)options->rows1 + (double)options->rows2) * (double)options->dim;
}

const tensor_engine tensor_exact = {.name = "exact",
                                    .words = words,
                                    .create = create,
                                    .release = release,
                                    .update = update,
                                    .draw = draw,
                                    .norm = norm,
                                    .kept = kept,
                                    .left = left,
                                    .spans = spans,
                                    .settle = settle,
                                    .saved = saved};
