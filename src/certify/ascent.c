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

enum { STEPS = 80, BATCH = 4 /* starts that climb together, on one thread */ };

/* One batch of starts. */
typedef struct climb {
  pith_context *context;
  const pith_frame *frame;
  const double *log_full, *log_summary; /* (rows) */
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
  double factor = sum > 0 ? 1 / sum : 0;
  for (size_t i = 0; i < n; i++) out[i] *= factor;
}

/* <e, v_i> becomes the factor of key i in the gradient. */
static void differentiate(const double *p, const double *p_summary, size_t n, double *along) {
  double mean = 0, mean_summary = 0;
  for (size_t i = 0; i < n; i++) {
    mean += p[i] * along[i];
    mean_summary += p_summary[i] * along[i];
  }
  for (size_t i = 0; i < n; i++) along[i] = p_summary[i] * (along[i] - mean_summary) - p[i] * (along[i] - mean);
}

/* Errors and gradients at the trial queries. */
static void evaluate(climb *c) {
  const pith_frame *f = c->frame;
  pith_context *context = c->context;
  size_t s = c->starts, n = f->rows, d = f->d, dv = f->dv;
  pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, s, n, d, 1, c->trial, d, f->keys, d, 0, c->p, n);
  for (size_t i = 0; i < s * n; i += n) {
    softmax(c->p + i, c->log_summary, n, c->p_summary + i);
    softmax(c->p + i, c->log_full, n, c->p + i);
  }
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, s, dv, n, 1, c->p, n, f->values, dv, 0, c->answer, dv);
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, s, dv, n, 1, c->p_summary, n, f->values, dv, 0, c->e, dv);
  for (size_t i = 0; i < s * dv; i++) c->e[i] -= c->answer[i];
  pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, s, n, dv, 1, c->e, dv, f->values, dv, 0, c->along, n);
  for (size_t i = 0; i < s; i++) {
    differentiate(c->p + i * n, c->p_summary + i * n, n, c->along + i * n);
    c->error[i] = pith_norm(c->e + i * dv, dv);
  }
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
  if (f->d > 0 && !(pith_norm(q, f->d) > 0)) q[start % f->d] = 1;
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
static double measure_rounded(climb *c, double rho, float *query) {
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
  evaluate(c);
  return c->error[0];
}

typedef struct search {
  pith_context *context;
  const pith_frame *frame;
  double rho;
  size_t starts;
  uint64_t seed;
  double *log_full, *log_summary;
  double *workspaces; /* one a thread */
  size_t workspace;
  double *error; /* one a batch */
  float *query;  /* (batches, d) */
} search;

static void climb_batch(void *argument, size_t index, int thread) {
  search *s = argument;
  const pith_frame *f = s->frame;
  size_t n = f->rows, d = f->d, dv = f->dv, first = index * BATCH;
  climb c = {.context = s->context, .frame = f, .log_full = s->log_full, .log_summary = s->log_summary};
  c.starts = pith_min_size(BATCH, s->starts - first);
  c.query = s->workspaces + (size_t)thread * s->workspace;
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
  for (size_t start = 0; start < c.starts; start++) {
    place_start(f, s->rho, s->seed, first + start, c.trial + start * d);
    memcpy(c.query + start * d, c.trial + start * d, d * sizeof(double));
    c.best[start] = -1;
    c.step[start] = s->rho / 4;
  }
  for (int step = 0; step < STEPS; step++) {
    evaluate(&c);
    accept(&c, s->rho);
  }
  s->error[index] = measure_rounded(&c, s->rho, s->query + index * d);
}

pith_status pith_ascend(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                        size_t starts, uint64_t seed, double *error, float *query) {
  if (!(rho >= 0) || !isfinite(rho))
    return pith_fail(context, PITH_E_ARGUMENT, "rho is %g; it must be a number of at least 0", rho);
  if (starts == 0) return pith_fail(context, PITH_E_ARGUMENT, "starts is 0; a search needs at least one");
  pith_frame *frame = NULL;
  PITH_TRY(pith_frame_create(context, full, summary, NULL, &frame));
  size_t n = frame->rows, d = frame->d, batches = (starts + BATCH - 1) / BATCH;
  search s = {.context = context, .frame = frame, .rho = rho, .starts = starts, .seed = seed};
  s.workspace = BATCH * (4 * d + 3 * n + 2 * frame->dv + 3);
  s.log_full = pith_allocate(context, 2 * n, sizeof(double));
  s.workspaces = pith_allocate(context, (size_t)pith_threads(context) * s.workspace, sizeof(double));
  s.error = pith_allocate(context, batches, sizeof(double));
  s.query = pith_allocate(context, batches * d, sizeof(float));
  pith_status status = PITH_E_MEMORY;
  if (!s.log_full || !s.workspaces || !s.error || !s.query) goto done;
  status = PITH_OK;
  if (!frame->finite)
    status = pith_fail(context, PITH_E_VALUE, "the weights leave the range of double; nothing can be searched");
  PITH_TRY_GOTO(status < 0 ? status : pith_report(context, "search the ball", 0, starts), status, done);
  s.log_summary = s.log_full + n;
  for (size_t i = 0; i < n; i++) {
    s.log_full[i] = log(frame->full[i]);
    s.log_summary[i] = log(frame->summary[i]);
  }
  pith_parallel_for(context, batches, climb_batch, &s);
  size_t best = 0;
  for (size_t i = 1; i < batches; i++)
    if (s.error[i] > s.error[best]) best = i;
  *error = s.error[best];
  if (query) memcpy(query, s.query + best * d, d * sizeof *query);
done:
  pith_release(context, s.log_full);
  pith_release(context, s.workspaces);
  pith_release(context, s.error);
  pith_release(context, s.query);
  pith_frame_free(context, frame);
  return status;
}
