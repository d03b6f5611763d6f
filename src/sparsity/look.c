/* look.c - a look at the codes of some blocks: which thresholds the bound asks for, and what that would cost. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sparsity/choice.h"

enum { GROUP = PITH_MAX_GROUP, BLOCK = PITH_SPARSE_BLOCK, ROUNDS = 6, GLANCED = 16 };

static const double ALPHA = 2, EXPONENT = 0.6; /* keys of the best blocks in a look: alpha n^C */

/* ---- Which blocks ---- */

void pith_sparse_glance(pith_sparse_choice *c, pith_sparse_look *l) {
  const pith_sparse_space *s = &c->space;
  const size_t d = c->head->d, step = c->blocks / GLANCED + 1;
  *l = (pith_sparse_look){.rough = true};
  for (size_t p = step / 2; p < c->blocks; p += step) {
    if (s->sight[p] == PITH_HIDDEN) continue;
    c->kernels->scores(c->group, d, s->query, c->head->mean + p * d, 1, s->centre + p * c->width);
    l->times[l->count] = (double)step;
    l->blocks[l->count++] = p;
  }
}

/* Open blocks by falling score, to a sixteenth; what is 32 below the best is left in order. Yields their number. */
static size_t sort_blocks(const pith_sparse_choice *c) {
  enum { BUCKETS = 512 };
  const pith_sparse_space *s = &c->space;
  uint32_t start[BUCKETS + 1] = {0};
  float best = -INFINITY;
  for (size_t p = 0; p < c->blocks; p++) best = s->open[p] && s->score[p] > best ? s->score[p] : best;
  for (int pass = 0; pass < 2; pass++) {
    for (size_t p = 0; p < c->blocks; p++) {
      if (!s->open[p]) continue;
      float below = (best - s->score[p]) * 16;
      size_t bucket = below < BUCKETS - 1 ? (size_t)below : BUCKETS - 1; /* not a number: the last */
      if (pass == 0)
        start[bucket + 1]++;
      else
        s->order[start[bucket]++] = (uint32_t)p;
    }
    for (size_t i = 0; i < BUCKETS && pass == 0; i++) start[i + 1] += start[i];
  }
  return start[BUCKETS - 1];
}

void pith_sparse_look_at(const pith_sparse_choice *c, size_t open, pith_sparse_look *l) {
  enum { EACH = 8 }; /* blocks of a stride */
  const pith_sparse_space *s = &c->space;
  const size_t count = sort_blocks(c);
  size_t first = (size_t)(ALPHA * pow((double)c->visible, EXPONENT) / BLOCK) + 1 + 4 * c->width;
  first = pith_min_size(first, PITH_SPARSE_LOOKS / 2);
  *l = (pith_sparse_look){.all = open <= PITH_SPARSE_LOOKS};
  for (size_t i = 0, stride = 1, taken = 0; i < count && l->count < PITH_SPARSE_LOOKS; i += stride) {
    if (!l->all && l->count >= first && taken++ % EACH == 0) stride *= 2;
    size_t here = pith_min_size(stride, count - i);
    l->times[l->count] = (double)here;
    l->blocks[l->count++] = s->order[i + here / 2];
  }
}

/* ---- Thresholds ---- */

/* How far below the largest logit of the look thresholds are looked for first. */
static const float START = 7;
/* How far below eps the answers' errors are meant to stay, so that the pass need not be done again: where others' keys
 * are read too (SHARED), errors are smaller anyhow; where all open blocks were looked at (SURE), they are known. */
static const double MARGIN = 0.6, SHARED = 0.85, SURE = 0.95;

/* A step of the secant method on ln error over the threshold, kept inside of what is known to be too low or too high.
 */
typedef struct search {
  double least, most; /* the bound holds; it does not */
  double before, log_before, slope;
} search;

static double search_next(search *s, double at, double log_ratio) {
  if (isfinite(s->log_before) && isfinite(log_ratio) && at != s->before)
    s->slope = fmin(2, fmax(0.25, (log_ratio - s->log_before) / (at - s->before)));
  s->before = at;
  s->log_before = log_ratio;
  if (log_ratio <= 0 && log_ratio > -2) /* far below: perhaps by what others read */
    s->least = fmax(s->least, at);
  else if (log_ratio > 0)
    s->most = fmin(s->most, at);
  double next = at - fmax(-6, fmin(6, (log_ratio + 0.03) / s->slope));
  if (next > s->least && next < s->most) return next;
  return isfinite(s->least) ? (s->least + s->most) / 2 : fmax(s->most - 2, (at + s->most) / 2);
}

static void add_scaled(pith_sparse_tail *to, const pith_sparse_tail *from, size_t q, double factor) {
  to->square[q] += from->square[q] * factor * factor;
  to->doubt[q] += from->doubt[q] * factor;
  to->doubt_offset[q] += from->doubt_offset[q] * factor;
  to->rest[q] += from->rest[q] * factor;
  to->rest_offset[q] += from->rest_offset[q] * factor;
  to->radius[q] += from->radius[q] * factor;
}

/* ---- Where the answers will be ---- */

/* Adds a block's weights times the mean of its values to space.tail. */
static void add_answers(const pith_sparse_choice *c, size_t p, double times, const float *sum) {
  const size_t dv = c->head->dv;
  for (size_t q = 0; q < c->group; q++)
    c->kernels->axpy((float)times * sum[q], c->head->value_mean + p * dv, c->space.tail + q * dv, dv);
}

/* The distance of the answer from the anchor, if values about the means of their blocks are independent. */
static double expected_offset(const pith_sparse_choice *c, size_t q, double mass, double squares) {
  const pith_sparse_head *head = c->head;
  if (!(mass > 0)) return sqrt((double)head->most_value);
  double sum = squares / (mass * mass) * head->values.trace / fmax(1, (double)head->blocks * BLOCK);
  for (size_t j = 0; j < head->dv; j++) {
    double x = (double)c->space.tail[q * head->dv + j] / mass - (double)head->anchor[j];
    sum += x * x;
  }
  return sqrt(sum);
}

double pith_sparse_thresholds(pith_sparse_choice *c, const pith_sparse_look *l, double mass[GROUP]) {
  const pith_sparse_space *s = &c->space;
  search found[GROUP] = {{0}};
  double reads = 0;
  float sum[GROUP] = {0}, square[GROUP] = {0}, top[GROUP] = {0}, none[GROUP] = {0};
  double squares[GROUP] = {0};
  memset(s->tail, 0, c->group * c->head->dv * sizeof *s->tail);
  for (size_t i = 0; i < l->count; i++)
    pith_sparse_block_logits(c, l->blocks[i], l->blocks[pith_min_size(i + 2, l->count - 1)],
                             s->probe + i * GROUP * BLOCK);
  for (size_t q = 0; q < c->group; q++) {
    top[q] = -FLT_MAX / 4;
    none[q] = -INFINITY;
    for (size_t i = 0; i < l->count; i++)
      top[q] = fmaxf(top[q], c->kernels->max(s->probe + i * GROUP * BLOCK + q * BLOCK, BLOCK));
    for (size_t p = 0; c->closed > 0 && p < c->blocks; p++)
      if (s->sight[p] == PITH_WHOLE && !s->open[p]) top[q] = fmaxf(top[q], s->upper[p * c->width + q]);
    found[q] = (search){.least = -INFINITY, .most = (double)top[q] + 1, .log_before = NAN, .slope = 0.8};
    c->threshold[q] = top[q] += 1;
    mass[q] = 0;
  }
  pith_sparse_tail closed;
  memset(&closed, 0, sizeof closed);
  pith_sparse_add_closed(c, &closed);
  for (size_t q = 0; q < c->group; q++) mass[q] = (closed.low[q] + closed.high[q]) / 2;
  for (size_t i = 0; i < l->count; i++) {
    c->kernels->split(s->probe + i * GROUP * BLOCK, c->group, c->threshold, none, sum, square);
    add_answers(c, l->blocks[i], l->times[i], sum);
    for (size_t q = 0; q < c->group; q++) {
      mass[q] += l->times[i] * (double)sum[q];
      squares[q] += l->times[i] * (double)square[q];
    }
  }
  for (size_t q = 0; q < c->group; q++) c->offset[q] = expected_offset(c, q, mass[q], squares[q]);
  const double margin = l->all ? SURE : c->group > 2 ? SHARED : MARGIN;
  double target[GROUP] = {0}; /* what rounding takes is not to be had */
  for (size_t q = 0; q < c->group; q++) {
    double rounding = pith_sparse_expected_rounding(c, q) * (double)c->head->most_value;
    target[q] = fmax(margin * (c->job->eps - rounding), c->job->eps * 1e-3);
    c->threshold[q] -= START;
  }
  for (int round = 0; round <= ROUNDS; round++) {
    pith_sparse_tail tail;
    memset(&tail, 0, sizeof tail);
    for (size_t q = 0; q < c->group; q++) add_scaled(&tail, &closed, q, exp((double)top[q] - (double)c->threshold[q]));
    bool close = true, far = false, slack = false;
    reads = 0;
    for (size_t i = 0; i < l->count; i++) {
      const float *logits = s->probe + i * GROUP * BLOCK;
      uint64_t chosen = 0;
      if (l->all)
        chosen = c->kernels->split(logits, c->group, c->threshold, none, sum, square);
      else /* each for itself: what others read may be missing elsewhere */
        for (size_t q = 0; q < c->group; q++)
          chosen |= c->kernels->split(logits + q * BLOCK, 1, &c->threshold[q], none, &sum[q], &square[q]);
      pith_sparse_add_open(c, l->blocks[i], chosen == 0 && s->sight[l->blocks[i]] == PITH_WHOLE, sum, square,
                           l->times[i], &tail);
      reads += l->times[i] * (double)__builtin_popcountll(chosen);
    }
    for (size_t q = 0; q < c->group && round < ROUNDS; q++) {
      double at = (double)c->threshold[q], z = mass[q] * exp((double)top[q] - at);
      double log_ratio = log(pith_sparse_tail_error(c, &tail, q, c->offset[q]) / (target[q] * z));
      if (log_ratio <= 0 && (log_ratio > -0.08 || at > (double)top[q] - 0.1)) continue;
      close = false;
      far = far || log_ratio > (l->rough ? 0.3 : 0);
      slack = slack || log_ratio < -0.3;
      double next = search_next(&found[q], at, log_ratio);
      if (round + 1 == ROUNDS) next = log_ratio > 0 ? at - fmin(6, (log_ratio + 0.03) / fmax(0.5, found[q].slope)) : at;
      c->threshold[q] = (float)next;
    }
    bool beyond = reads > c->most_reads * (far ? 1 : slack ? INFINITY : 1.25);
    if (close || beyond || (l->rough && !far)) break; /* reached, or out of reach */
  }
  for (size_t q = 0; q < c->group; q++) {
    mass[q] *= exp((double)top[q] - (double)c->threshold[q]);
  }
  return reads;
}
