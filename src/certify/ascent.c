/* ascent.c - the worst query of a ball, searched: a lower bound to hold against certificates.
 *
 * With p, p' the attention weights of the two sets over their common rows, a, a' the answers and
 * e = a' - a, the gradient of |e|^2 / 2 at q is sum_i (p'_i <e, v_i - a'> - p_i <e, v_i - a>) k_i. Every start
 * climbs with its own step, that grows on success and is halved on failure, and is cut back to the ball.
 * All in double. */
#include <math.h>
#include <string.h>

#include "certify/frame.h"
#include "linalg/linalg.h"

enum { STEPS = 80, BATCH = 16 /* starts that climb together */ };

typedef struct climb {
  const pith_frame *frame;
  double *log_full, *log_summary; /* (rows) */
  size_t starts;
  double *query, *direction; /* (starts, d): best so far, and the gradient there */
  double *trial, *gradient;  /* (starts, d) */
  double *p, *p_summary;     /* (starts, rows) */
  double *along;             /* (starts, rows): <e, v_i>, then the rows' factors in the gradient */
  double *answer, *e;        /* (starts, dv) */
  double *error, *best, *step;
} climb;

/* Softmax of logit + log_weight into out, which may be the logits. */
static void softmax(const double *logit, const double *log_weight, size_t n, double *out) {
  double largest = -INFINITY, sum = 0;
  for (size_t i = 0; i < n; i++) largest = fmax(largest, logit[i] + log_weight[i]);
  for (size_t i = 0; i < n; i++) sum += out[i] = exp(logit[i] + log_weight[i] - largest);
  for (size_t i = 0; i < n; i++) out[i] /= sum;
}

static void weigh(void *argument, size_t start, int thread) {
  (void)thread;
  const climb *c = argument;
  size_t n = c->frame->rows;
  softmax(c->p + start * n, c->log_summary, n, c->p_summary + start * n);
  softmax(c->p + start * n, c->log_full, n, c->p + start * n);
}

static void differentiate(void *argument, size_t start, int thread) {
  (void)thread;
  const climb *c = argument;
  size_t n = c->frame->rows, dv = c->frame->dv;
  const double *p = c->p + start * n, *p_summary = c->p_summary + start * n;
  double *along = c->along + start * n, mean = 0, mean_summary = 0;
  for (size_t i = 0; i < n; i++) {
    mean += p[i] * along[i];
    mean_summary += p_summary[i] * along[i];
  }
  for (size_t i = 0; i < n; i++) along[i] = p_summary[i] * (along[i] - mean_summary) - p[i] * (along[i] - mean);
  c->error[start] = pith_norm(c->e + start * dv, dv);
}

/* Errors and gradients at the trial queries. */
static void evaluate(pith_context *context, climb *c) {
  const pith_frame *f = c->frame;
  size_t s = c->starts, n = f->rows, d = f->d, dv = f->dv;
  pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, s, n, d, 1, c->trial, d, f->keys, d, 0, c->p, n);
  pith_parallel_for(context, s, weigh, c);
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, s, dv, n, 1, c->p, n, f->values, dv, 0, c->answer, dv);
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, s, dv, n, 1, c->p_summary, n, f->values, dv, 0, c->e, dv);
  for (size_t i = 0; i < s * dv; i++) c->e[i] -= c->answer[i];
  pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, s, n, dv, 1, c->e, dv, f->values, dv, 0, c->along, n);
  pith_parallel_for(context, s, differentiate, c);
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, s, d, n, 1, c->along, n, f->keys, d, 0, c->gradient, d);
}

static void scale_to(double *vector, size_t n, double length) {
  double norm = pith_norm(vector, n);
  for (size_t j = 0; j < n && norm > 0; j++) vector[j] *= length / norm;
}

/* Start directions in turn: random, along a key, along the difference of two keys. One start in four lies
 * inside the ball, the others on its surface. */
static void place_start(const pith_frame *f, double rho, uint64_t seed, size_t start, double *q) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_ASCENT, (uint32_t)start);
  size_t a = pith_random_below(&stream, 0, f->rows), b = pith_random_below(&stream, 1, f->rows);
  for (size_t j = 0; j < f->d; j++) {
    if (start % 3 == 0) q[j] = pith_random_gaussian(&stream, 3 + j);
    if (start % 3 == 1) q[j] = f->keys[a * f->d + j];
    if (start % 3 == 2) q[j] = f->keys[a * f->d + j] - f->keys[b * f->d + j];
  }
  if (!(pith_norm(q, f->d) > 0)) q[start % f->d] = 1;
  scale_to(q, f->d, start % 4 == 3 ? rho * pith_random_uniform(&stream, 2) : rho);
}

static void accept(climb *c, double rho) {
  size_t d = c->frame->d;
  for (size_t start = 0; start < c->starts; start++) {
    double *query = c->query + start * d, *trial = c->trial + start * d, *direction = c->direction + start * d;
    if (c->error[start] > c->best[start]) {
      c->best[start] = c->error[start];
      c->step[start] *= 1.5;
      memcpy(query, trial, d * sizeof *query);
      memcpy(direction, c->gradient + start * d, d * sizeof *direction);
    } else {
      c->step[start] *= 0.5;
    }
    double norm = pith_norm(direction, d);
    for (size_t j = 0; j < d; j++) trial[j] = query[j] + (norm > 0 ? c->step[start] * direction[j] / norm : 0);
    if (pith_norm(trial, d) > rho) scale_to(trial, d, rho);
  }
}

/* Rounds the best query to f32, inside the ball, and measures there. */
static double measure_rounded(pith_context *context, climb *c, double rho, float *query) {
  size_t d = c->frame->d, best = 0;
  for (size_t start = 1; start < c->starts; start++)
    if (c->best[start] > c->best[best]) best = start;
  memcpy(c->trial, c->query + best * d, d * sizeof(double));
  for (int shrink = 0; shrink < 8; shrink++) {
    for (size_t j = 0; j < d; j++) query[j] = (float)c->trial[j];
    for (size_t j = 0; j < d; j++) c->trial[j] = query[j];
    if (pith_norm(c->trial, d) <= rho) break;
    for (size_t j = 0; j < d; j++) c->trial[j] *= 1 - 0x1p-22;
  }
  for (size_t j = 0; j < d; j++) c->trial[j] = query[j];
  c->starts = 1;
  evaluate(context, c);
  return c->error[0];
}

static void climb_batch(pith_context *context, climb *c, double rho, uint64_t seed, size_t first) {
  for (size_t start = 0; start < c->starts; start++) {
    place_start(c->frame, rho, seed, first + start, c->trial + start * c->frame->d);
    memcpy(c->query + start * c->frame->d, c->trial + start * c->frame->d, c->frame->d * sizeof(double));
    c->best[start] = -1;
    c->step[start] = rho / 4;
  }
  for (int step = 0; step < STEPS; step++) {
    evaluate(context, c);
    accept(c, rho);
  }
}

pith_status pith_ascend(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                        size_t starts, uint64_t seed, double *error, float *query) {
  if (!(rho >= 0) || !isfinite(rho))
    return pith_fail(context, PITH_E_ARGUMENT, "rho is %g; it must be a number of at least 0", rho);
  if (starts == 0) return pith_fail(context, PITH_E_ARGUMENT, "starts is 0; a search needs at least one");
  pith_frame *frame = NULL;
  PITH_TRY(pith_frame_create(context, full, summary, NULL, &frame));
  size_t n = frame->rows, d = frame->d, dv = frame->dv;
  double *block = pith_allocate(context, 2 * n + BATCH * (4 * d + 3 * n + 2 * dv + 3), sizeof *block);
  float *found = pith_allocate(context, 2 * d, sizeof *found);
  pith_status status = PITH_E_MEMORY;
  if (!block || !found) goto done;
  if (!frame->finite) {
    status = pith_fail(context, PITH_E_VALUE, "the weights leave the range of double; nothing can be searched");
    goto done;
  }
  climb c = {.frame = frame, .log_full = block, .log_summary = block + n, .query = block + 2 * n};
  c.direction = c.query + BATCH * d;
  c.trial = c.direction + BATCH * d;
  c.gradient = c.trial + BATCH * d;
  c.p = c.gradient + BATCH * d;
  c.p_summary = c.p + BATCH * n;
  c.along = c.p_summary + BATCH * n;
  c.answer = c.along + BATCH * n;
  c.e = c.answer + BATCH * dv;
  c.error = c.e + BATCH * dv;
  c.best = c.error + BATCH;
  c.step = c.best + BATCH;
  for (size_t i = 0; i < n; i++) {
    c.log_full[i] = log(frame->full[i]);
    c.log_summary[i] = log(frame->summary[i]);
  }
  double largest = -1;
  for (size_t first = 0; first < starts; first += BATCH) {
    PITH_TRY_GOTO(pith_report(context, "search the ball", first, starts), status, done);
    c.starts = pith_min_size(BATCH, starts - first);
    climb_batch(context, &c, rho, seed, first);
    double measured = measure_rounded(context, &c, rho, found + d);
    if (measured > largest) {
      largest = measured;
      memcpy(found, found + d, d * sizeof *found);
    }
  }
  *error = largest;
  if (query) memcpy(query, found, d * sizeof *query);
  status = PITH_OK;
done:
  pith_release(context, block);
  pith_release(context, found);
  pith_frame_free(context, frame);
  return status;
}
