/* draw.c - the unread keys by a sample of them, with an empirical Bernstein interval (as vAttention and SoftmaxLift
 * do).
 *
 * Units of exp(threshold). Let O be the answer that counts unread keys by their codes ^w at the means v_p of their
 * blocks, T the unread keys, W = sum_T ^w. A key i of T is drawn with probability ^w_i / W, read, and yields
 *     Y = W (w_i / ^w_i (v_i - O) - (v_p - O)),      E Y = sum_T w_i (v_i - O) - ^w_i (v_p - O) = Z (Attn - O).
 * So O + mean Y / Z is the answer, but for the error of the mean and what is not known of Z. Keys drawn one after the
 * other are independent, and |Y| <= B for a B that the index knows. For such vectors, with probability 1 - delta / 2,
 *     |mean Y - E Y| <= 2 B l / m + sqrt(2 l E|Y|^2 / m),     l = ln(4 / delta)
 * (Pinelis 1994; Smale and Zhou 2007, Lemma 2), and since |Y|^2 is not negative, with probability 1 - delta / 2,
 *     sqrt(E|Y|^2) <= sqrt(mean |Y|^2 + B^2 l' / (2 m)) + B sqrt(l' / (2 m)),     l' = ln(2 / delta)
 * (Maurer 2003, a bound on the deviation of sums of non-negative variables). Two attempts share delta. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sparsity/choice.h"

enum { BLOCK = PITH_SPARSE_BLOCK, ATTEMPTS = 2, LEAST_DRAWS = 32 };

/* What one attempt knows before it draws. */
typedef struct frame {
  pith_sparse_choice *c;
  size_t place;
  double weight; /* W */
  double most;   /* B */
  float *answer; /* (dv), O in the coordinates of the store */
  float *key, *value;
  double *mean;  /* (dv) */
  double square; /* mean |Y|^2 */
} frame;

static double radius_of(double most, double root_square, double draws, double fail) {
  const double l = log(4 / fail);
  return 2 * most * l / draws + sqrt(2 * l / draws) * root_square;
}

/* Draws that bring the radius below `target`, if |Y| is about `size`. */
static double draws_needed(double most, double size, double target, double fail) {
  const double l = log(4 / fail), a = 4 * most * l, b = sqrt(2 * l) * size;
  const double x = 2 * target / (b + sqrt(b * b + 4 * a * target));
  return fmax(LEAST_DRAWS, ceil(1 / (x * x)));
}

/* The largest |Y| over W that block p allows; reach: |O - anchor|. */
static double most_of(const pith_sparse_choice *c, size_t p, double reach) {
  const pith_sparse_block *block = &c->head->block[p];
  double more[PITH_MAX_GROUP], rest[PITH_MAX_GROUP];
  pith_sparse_doubt(c, p, more, rest);
  return more[0] * ((double)block->value_radius + (double)block->offset + reach) + (double)block->value_radius;
}

/* |Y| over W of a key like others. */
static double typical_size(const pith_sparse_choice *c) {
  return sqrt(c->head->values.trace / fmax(1, (double)(c->head->blocks * BLOCK)));
}

/* ---- The threshold at which keys chosen and keys drawn are fewest ---- */

/* Sets it, and yields their number. */
static double find_threshold(pith_sparse_choice *c, const pith_sparse_look *look, double mass, double fail) {
  const pith_sparse_space *s = &c->space;
  const float start = c->threshold[0], none = -INFINITY;
  double fewest = INFINITY;
  float best = start;
  for (int step = 0; step < 40; step++) {
    float threshold = start + 0.25F * (float)step, sum, square;
    double reads = 0, weight = 0, most = 0;
    for (size_t i = 0; i < look->count; i++) {
      uint64_t chosen = c->kernels->split(s->probe + i * PITH_MAX_GROUP * BLOCK, 1, &threshold, &none, &sum, &square);
      reads += look->times[i] * (double)__builtin_popcountll(chosen);
      weight += look->times[i] * (double)sum;
      most = fmax(most, most_of(c, look->blocks[i], c->offset[0]));
    }
    double target = 0.8 * c->job->eps * mass * exp((double)start - (double)threshold);
    double cost = reads + draws_needed(most * weight, typical_size(c) * weight, target, fail);
    if (cost >= fewest) continue;
    fewest = cost;
    best = threshold;
  }
  c->threshold[0] = best;
  return fewest;
}

/* ---- Draws ---- */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Reads a key drawn from block p, whose ^w is `code`, and adds its Y to mean and square. */
static void add_draw(frame *f, size_t p, size_t row, double code) {
  const pith_sparse_choice *c = f->c;
  const size_t d = c->head->d, dv = c->head->dv;
  const pith_rows *rows = &c->job->rows;
  pith_sparse_read_key(rows, row, f->key);
  pith_sparse_read_value(rows, row, f->value);
  double logit = rows->log_weight ? (double)rows->log_weight[row] : 0, size = 0;
  for (size_t j = 0; j < d; j++) logit += (double)c->space.query[j] * (double)f->key[j];
  const double ratio = exp(logit - (double)c->threshold[0]) / code;
  for (size_t j = 0; j < dv; j++) {
    double o = (double)f->answer[j];
    double y = f->weight * (ratio * ((double)f->value[j] - o) - ((double)c->head->value_mean[p * dv + j] - o));
    f->mean[j] += y;
    size += y * y;
  }
  f->square += size;
}

/* `draws` keys by points of 0 .. W in ascending order. Marks rows read; yields how many were read for the first time.
 */
static size_t draw(frame *f, const double *points, size_t draws) {
  const pith_sparse_choice *c = f->c;
  unsigned char *seen = c->space.drawn;
  size_t fresh = 0, next = 0;
  double before = 0;
  for (size_t p = 0; p < c->blocks && next < draws; p++) {
    const double weight = (double)c->space.weight[p * c->width];
    if (points[next] >= before + weight && p + 1 < c->blocks) {
      before += weight;
      continue;
    }
    float logits[PITH_MAX_GROUP * BLOCK];
    double code[BLOCK], sum = 0;
    pith_sparse_block_logits(c, p, p, logits);
    for (size_t i = 0; i < BLOCK; i++) {
      code[i] = logits[i] >= c->threshold[0] ? 0 : exp((double)logits[i] - (double)c->threshold[0]);
      sum += code[i];
    }
    double within = 0, scale = sum > 0 ? weight / sum : 0;
    for (size_t i = 0; i < BLOCK && next < draws; i++) {
      within += code[i] * scale;
      const uint32_t row = c->head->order[p * BLOCK + i];
      for (; next < draws && code[i] > 0 && points[next] < before + within; next++) {
        add_draw(f, p, row, code[i] * scale);
        fresh += !seen[row];
        seen[row] = 1;
      }
    }
    before += weight;
    while (next < draws && points[next] < before) next++; /* between sums by rounding: counts as 0 */
  }
  return fresh;
}

static bool attempt(frame *f, const pith_sparse_sums *sums, double *points, size_t draws, uint64_t first, double fail) {
  pith_sparse_choice *c = f->c;
  const pith_sparse_job *job = c->job;
  const size_t dv = c->head->dv;
  const pith_stream stream = pith_stream_make(job->seed, PITH_STREAM_TAIL, job->number);
  for (size_t i = 0; i < draws; i++)
    points[i] = pith_random_uniform(&stream, ((uint64_t)f->place << 32) + first + i) * f->weight;
  qsort(points, draws, sizeof *points, by_size);
  memset(f->mean, 0, dv * sizeof *f->mean);
  f->square = 0;
  pith_sparse_account *account = &job->account[f->place];
  account->read += draw(f, points, draws);
  account->drawn += draws;
  const double m = (double)draws, l = log(2 / fail);
  double length = 0, answer = 0;
  for (size_t j = 0; j < dv; j++) {
    f->mean[j] /= m;
    length += f->mean[j] * f->mean[j];
    answer += (double)f->answer[j] * (double)f->answer[j];
  }
  length = sqrt(length);
  const double root = sqrt(f->square / m + f->most * f->most * l / (2 * m)) + f->most * sqrt(l / (2 * m));
  const double radius = radius_of(f->most, root, m, fail);
  double bound = (radius + length * sums->doubt / sums->mass) / sums->least * (1 + 1e-6) + sums->rounding;
  bound += 16 * PITH_UNIT * (sqrt(answer) + length / sums->mass);
  if (!(bound <= job->eps)) return false;
  float *out = job->out + f->place * dv;
  for (size_t j = 0; j < dv; j++) f->value[j] = (float)((double)f->answer[j] + f->mean[j] / sums->mass);
  if (pith_turned(c->head->dtype, dv)) {
    pith_turn(f->value, 1, dv);
    bound += 2 * (log2((double)dv) + 2) * PITH_UNIT * sqrt(answer);
  }
  memcpy(out, f->value, dv * sizeof *out);
  account->bound = bound;
  return true;
}

bool pith_sparse_draw(pith_sparse_choice *c, const pith_sparse_look *look, size_t place) {
  const pith_sparse_job *job = c->job;
  const size_t dv = c->head->dv;
  const double fail = (1 - job->confidence) / ATTEMPTS, nothing[PITH_MAX_GROUP] = {0};
  pith_sparse_tail tail;
  float largest, sum;
  double mass[PITH_MAX_GROUP];
  const double reads = pith_sparse_thresholds(c, look, mass);
  if (find_threshold(c, look, mass[0], fail) > reads) return false; /* certainty costs no more */
  pith_sparse_start(c);
  pith_sparse_pass(c, nothing, &tail);
  pith_sparse_read(c, &largest, &sum);
  pith_sparse_add_means(c);
  const pith_sparse_sums sums = pith_sparse_conclude(c, 0, &tail, largest, sum, place);
  pith_sparse_account *account = &job->account[place];
  if (account->bound <= job->eps) return true; /* certain anyway */
  if (!(sums.least > 0) || !isfinite(sums.least)) return false;

  const pith_sparse_space *s = &c->space;
  frame f = {.c = c, .place = place, .answer = s->answer, .key = s->key, .value = s->value, .mean = s->moments};
  memcpy(f.answer, job->out + place * dv, dv * sizeof *f.answer);
  if (pith_turned(c->head->dtype, dv)) pith_turn(f.answer, 1, dv);
  double reach = 0, most = 0;
  for (size_t j = 0; j < dv; j++) reach += pow((double)f.answer[j] - (double)c->head->anchor[j], 2);
  for (size_t p = 0; p < c->blocks; p++) {
    if (!(s->weight[p * c->width] > 0)) continue;
    f.weight += (double)s->weight[p * c->width];
    most = fmax(most, most_of(c, p, sqrt(reach) * (1 + 1e-9)));
  }
  f.most = most * f.weight * (1 + 1e-6);
  memset(s->drawn, 0, job->rows.count);
  double size = typical_size(c) * f.weight;
  uint64_t first = 0;
  for (int i = 0; i < ATTEMPTS; i++) {
    double draws = draws_needed(f.most, size, (job->eps - sums.rounding) * sums.least * 0.9, fail);
    if (!(draws <= (double)c->visible / 2)) return false;
    if (attempt(&f, &sums, s->points, (size_t)draws, first, fail)) return true;
    first += (uint64_t)draws;
    size = 1.1 * sqrt(f.square / draws);
  }
  return false;
}
