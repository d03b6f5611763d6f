/* select.c - one choice of keys for a group of queries, and the bound of the answer that comes of it.
 *
 * 1. Block bounds: logits of a block lie below U = min(box, ball), and their mean is that of the mean key. Blocks that
 *    cannot matter stay closed.
 * 2. A look at the most promising blocks (alpha n^C keys) and at a sample of the other open ones yields, by halving,
 *    the threshold at which the bound just holds, and what it would cost: if exact attention is cheaper, that is said.
 * 3. One pass over the codes of all open blocks: logits to within a known error delta. Keys that reach the threshold
 *    for one of the queries are chosen; of the others only sums of weights are kept, block by block.
 * 4. Chosen keys are read and answered exactly; every block adds its other weights at the mean of its values.
 * 5. The bound is computed; a query that misses it has its threshold lowered, so that about twice the keys are read.
 *
 * The bound. Let T be the unread keys, w their weights exp(z), ^w what the codes say, ^w e^-delta <= w <= ^w e^delta,
 * v_p the mean of block p, u = v - v_p, O the answer. With the error identity (docs/sparsity.md)
 *     Attn - O = (sum_T w u + sum_T (w - ^w)(v_p - O)) / Z.
 * The first sum is U' w for the matrix U of all u: at most spread * |w|, where spread^2 is the largest eigenvalue
 * of U'U, kept by the index; in blocks of which nothing is read, w may be replaced by w - its mean, since there
 * sum u = 0. It is also at most sum_T w |u|. The second is bounded term by term. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "sparsity/sparse.h"

enum {
  GROUP = PITH_MAX_GROUP,
  BLOCK = PITH_SPARSE_BLOCK,
  PROBED = 128,   /* most blocks of a look */
  GATHERED = 128, /* keys brought together for the kernel */
  LEAST_ROWS = 512,
  ROUNDS = 6,
  TRIES = 5, /* passes, where time does not matter; where it does, three */
  TIMELY = 3
};

static const double ALPHA = 2, EXPONENT = 0.6; /* of the first guess, alpha n^C */

enum { HIDDEN, WHOLE, PART };
enum { LOOKED = 2 }; /* in `open`: 0 closed, 1 open */

typedef struct pith_sparse_space {             /* arrays of one choice; P blocks */
  float *query, *turned, *positive, *negative; /* (GROUP, d) */
  int16_t *code;                               /* (GROUP, code_d) */
  float *upper, *centre, *weight, *least;      /* (P, width) */
  float *score;                                /* (P) */
  float *probe;                                /* (PROBED, GROUP, BLOCK) */
  float *output, *tail;                        /* (GROUP, dv) */
  uint32_t *chosen;                            /* (rows) */
  unsigned char *sight, *open;                 /* (P) */
  unsigned char *seen;                         /* (rows) */
  char *keys, *values;                         /* (GATHERED, row) */
  uint16_t *key_scales, *value_scales;
  float *log_weights;
} pith_sparse_space;

/* What the unread keys come to for each query, in units of exp(threshold). */
typedef struct tail_sums {
  double low[GROUP], high[GROUP];           /* bounds of the sum of w */
  double square[GROUP];                     /* sum of ^w^2, about the mean where that is allowed */
  double doubt_square[GROUP];               /* the same of the doubt of w */
  double doubt[GROUP], doubt_offset[GROUP]; /* sums of the doubt, and of it times |v_p - anchor| */
  double radius[GROUP];                     /* sum of w |u| */
} tail_sums;

typedef struct choice {
  const pith_sparse_job *job;
  const pith_sparse_head *head;
  const pith_kernels *kernels;
  pith_sparse_space space;
  size_t group, width;         /* width: as the kernels pad it */
  size_t blocks;               /* those that can be seen come before this */
  size_t closed;               /* blocks seen whole and not opened */
  size_t first, last, visible; /* rows seen lie in first .. last-1; how many */
  bool mapped;                 /* space.seen says which; else all of first .. last-1 */
  float code_scale[GROUP], threshold[GROUP];
  double norm[GROUP];  /* |query|, rounded up */
  double slack[GROUP]; /* error of a logit by rounding and the query's own code, for a key of norm 1 */
  size_t chosen;
} choice;

/* ---- Scratch ---- */

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t lay_out(pith_sparse_space *s, char *at, size_t rows, size_t d, size_t dv) {
  const size_t blocks = rows / BLOCK + 1, f = sizeof(float), code_d = d + d % 2, widest = GROUP * GATHERED;
  const struct {
    void **pointer;
    size_t bytes;
  } arrays[] = {{(void **)&s->query, GROUP * d * f},
                {(void **)&s->turned, GROUP * d * f},
                {(void **)&s->positive, GROUP * d * f},
                {(void **)&s->negative, GROUP * d * f},
                {(void **)&s->code, GROUP * code_d * sizeof(int16_t)},
                {(void **)&s->upper, GROUP * blocks * f},
                {(void **)&s->centre, GROUP * blocks * f},
                {(void **)&s->weight, GROUP * blocks * f},
                {(void **)&s->least, GROUP * blocks * f},
                {(void **)&s->score, blocks * f},
                {(void **)&s->probe, pith_min_size(PROBED, blocks) * GROUP * BLOCK * f},
                {(void **)&s->output, GROUP * dv * f},
                {(void **)&s->tail, GROUP * dv * f},
                {(void **)&s->chosen, rows * sizeof(uint32_t)},
                {(void **)&s->sight, blocks},
                {(void **)&s->open, blocks},
                {(void **)&s->seen, rows},
                {(void **)&s->keys, GATHERED * d * f},
                {(void **)&s->values, GATHERED * dv * f},
                {(void **)&s->key_scales, GATHERED * pith_scales(d) * sizeof(uint16_t)},
                {(void **)&s->value_scales, GATHERED * pith_scales(dv) * sizeof(uint16_t)},
                {(void **)&s->log_weights, widest * f}};
  size_t bytes = 0;
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
    if (at) *arrays[i].pointer = at + bytes;
    bytes += padded(arrays[i].bytes);
  }
  return bytes;
}

size_t pith_sparse_space_bytes(size_t rows, size_t d, size_t dv) {
  pith_sparse_space space;
  return lay_out(&space, NULL, rows, d, dv);
}

/* ---- Queries, as the index is asked ---- */

static double norm(const float *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
  return sqrt(sum);
}

static void take_queries(choice *c, size_t head, size_t row) {
  const size_t d = c->head->d, code_d = c->head->code_d;
  const pith_sparse_space *s = &c->space;
  for (size_t q = 0; q < c->group; q++)
    memcpy(s->query + q * d, c->job->query + ((head + q) * c->job->queries + row) * d, d * sizeof(float));
  for (size_t q = 0; q < c->group; q++) c->norm[q] = norm(s->query + q * d, d) * (1 + 8 * PITH_UNIT);
  if (pith_turned(c->head->dtype, d)) pith_turn(s->query, c->group, d);
  memcpy(s->turned, s->query, c->group * d * sizeof(float));
  if (pith_sparse_turns(c->head)) pith_turn(s->turned, c->group, d);
  memset(s->code, 0, c->group * code_d * sizeof *s->code);
  for (size_t q = c->group; q < GROUP; q++) c->norm[q] = c->slack[q] = 0;
  const double most = fmin(32767, floor(2147483647.0 / (127.0 * (double)code_d)));
  for (size_t q = 0; q < c->group; q++) {
    const float *x = s->turned + q * d;
    float largest = 0;
    for (size_t i = 0; i < d; i++) largest = fmaxf(largest, fabsf(x[i]));
    float scale = (float)(largest / most * (1 + 4 * PITH_UNIT));
    double error = 0;
    for (size_t i = 0; i < d; i++) {
      double level = scale > 0 ? fmax(-most, fmin(most, rint((double)x[i] / (double)scale))) : 0;
      s->code[q * code_d + i] = (int16_t)level;
      error += ((double)x[i] - level * (double)scale) * ((double)x[i] - level * (double)scale);
      s->positive[q * d + i] = fmaxf(s->query[q * d + i], 0);
      s->negative[q * d + i] = fminf(s->query[q * d + i], 0);
    }
    c->code_scale[q] = scale;
    /* Rounding: the scaling and turning of the query, the turning of the key, three products and a sum. */
    c->slack[q] = sqrt(error) + c->norm[q] * (2 * log2((double)d) + 12) * PITH_UNIT;
  }
}

/* For each query, not less than e^delta - 1, delta the most by which the codes' logits of a block err, and the sums of
 * their weights. */
static void doubt_of(const choice *c, const pith_sparse_block *block, double more[GROUP]) {
  const double rest = PITH_SPLIT_ERROR + fabs((double)block->most_bias) * 2 * PITH_UNIT;
  double most = 0;
  for (size_t q = 0; q < c->width; q++) {
    more[q] = c->norm[q] * (double)block->residual + c->slack[q] * (double)block->key_norm + rest;
    most = more[q] > most ? more[q] : most;
  }
  for (size_t q = 0; q < c->width; q++)
    more[q] = most < 0.5 ? more[q] + more[q] * more[q] * 0.6 : expm1(more[q]) * (1 + 4 * DBL_EPSILON);
}

/* ---- What is seen ---- */

static bool sees(const choice *c, size_t row) {
  return c->mapped ? c->space.seen[row] != 0 : row >= c->first && row < c->last;
}

static void look_around(choice *c, size_t row) {
  const pith_sparse_job *job = c->job;
  const size_t rows = job->rows.count;
  const pith_sparse_space *s = &c->space;
  pith_spans spans = pith_mask_spans(&job->mask, row, 0, rows);
  c->first = spans.begin;
  c->last = spans.end;
  c->visible = spans.end - spans.begin;
  if (spans.begin < spans.end) pith_spans_next(&spans);
  c->mapped = spans.begin < spans.end;
  if (c->mapped) {
    memset(s->seen, 0, rows);
    memset(s->seen + c->first, 1, c->visible);
    for (; spans.begin < spans.end; pith_spans_next(&spans)) {
      memset(s->seen + spans.begin, 1, spans.end - spans.begin);
      c->visible += spans.end - spans.begin;
      c->last = spans.end;
    }
  }
  c->blocks = 0;
  for (size_t p = 0; p < c->head->blocks; p++) {
    const pith_sparse_block *block = &c->head->block[p];
    const uint32_t *order = c->head->order + p * BLOCK;
    size_t count = 0;
    if (block->highest < c->first || block->lowest >= c->last)
      count = 0;
    else if (!c->mapped && block->lowest >= c->first && block->highest < c->last)
      count = BLOCK;
    else
      for (size_t i = 0; i < BLOCK; i++) count += sees(c, order[i]);
    s->sight[p] = count == 0 ? HIDDEN : count == BLOCK ? WHOLE : PART;
    if (count > 0) c->blocks = p + 1;
  }
}

/* ---- Block bounds ---- */

static void bound_blocks(choice *c) {
  const pith_sparse_head *head = c->head;
  const pith_sparse_space *s = &c->space;
  const size_t d = head->d, blocks = c->blocks, width = c->width;
  c->kernels->scores(c->group, d, s->positive, head->high, blocks, s->upper);
  c->kernels->scores(c->group, d, s->negative, head->low, blocks, s->weight); /* weight is free until the pass */
  c->kernels->scores(c->group, d, s->query, head->mean, blocks, s->centre);
  float length[GROUP], rounding[GROUP];
  for (size_t q = 0; q < width; q++) {
    length[q] = (float)(c->norm[q] * (1 + 4 * PITH_UNIT));
    rounding[q] = (float)(4 * (double)(d + 8) * PITH_UNIT * c->norm[q]);
  }
  for (size_t p = 0; p < blocks; p++) {
    const pith_sparse_block block = head->block[p];
    float *upper = s->upper + p * width, *centre = s->centre + p * width, *part = s->weight + p * width;
    for (size_t q = 0; q < width; q++) {
      float box = upper[q] + part[q], ball = centre[q] + length[q] * block.radius;
      float slack = rounding[q] * (block.key_norm + block.corner) + (float)(8 * PITH_UNIT) * fabsf(block.most_bias);
      upper[q] = (box < ball ? box : ball) + slack + block.most_bias;
      centre[q] = centre[q] - slack + block.bias;
    }
  }
}

/* Opens the blocks whose keys could have a share of the mass that matters. A lower bound of the mass is that of the
 * mean keys (Jensen). */
static size_t open_blocks(choice *c) {
  const pith_sparse_space *s = &c->space;
  const size_t blocks = c->blocks, width = c->width;
  float top[GROUP], mass[GROUP];
  for (size_t q = 0; q < width; q++) {
    float *mean = s->weight + q * blocks, highest = -INFINITY;
    for (size_t p = 0; p < blocks; p++) {
      mean[p] = s->sight[p] == WHOLE ? s->centre[p * width + q] : -INFINITY;
      highest = mean[p] > highest ? mean[p] : highest;
    }
    top[q] = highest;
    mass[q] = highest > -INFINITY ? highest + logf(c->kernels->exp_sum(mean, blocks, -top[q]) * BLOCK) : -INFINITY;
  }
  const double most = (double)c->head->most_value + DBL_MIN, counted = 8 * (double)BLOCK * (double)(blocks + 1);
  const float least = (float)log(fmax(c->job->eps / (counted * most), DBL_MIN));
  size_t open = 0;
  for (size_t p = 0; p < blocks; p++) {
    float score = -INFINITY;
    for (size_t q = 0; q < width; q++) {
      float here = s->upper[p * width + q] - mass[q];
      score = here > score ? here : score;
    }
    s->score[p] = score;
    bool tight = !c->head->weighted && c->head->block[p].radius <= c->head->block[p].residual; /* codes say no more */
    s->open[p] = s->sight[p] == PART || (s->sight[p] == WHOLE && !tight && !(score < least));
    open += s->open[p];
    c->closed += s->sight[p] == WHOLE && !s->open[p];
  }
  return open;
}

/* ---- The codes of a block ---- */

static void block_logits(const choice *c, size_t p, float *logits) {
  const pith_sparse_head *head = c->head;
  c->kernels->code_logits(&(pith_code_block){
      .group = c->group,
      .d = head->code_d,
      .rows = BLOCK,
      .queries = c->space.code,
      .query_scale = c->code_scale,
      .codes = head->codes + p * BLOCK * head->code_d,
      .scales = head->scales + p * BLOCK,
      .log_weights = head->weighted ? head->log_weights + p * BLOCK : NULL,
      .logits = logits,
  });
  if (c->space.sight[p] != PART) return;
  for (size_t i = 0; i < BLOCK; i++)
    if (!sees(c, head->order[p * BLOCK + i]))
      for (size_t q = 0; q < c->group; q++) logits[q * BLOCK + i] = -INFINITY;
}

/* Adds what a block leaves unread: `whole` when nothing of it is read and all of it is seen. */
static void add_open(const choice *c, size_t p, bool whole, const float *sum, const float *square, double times,
                     tail_sums *tail) {
  const pith_sparse_block *block = &c->head->block[p];
  const double offset = (double)block->offset, radius = (double)block->value_radius;
  const double centred = whole ? (1 - 2 * PITH_SPLIT_ERROR) / BLOCK : 0; /* rounding may not make squares too small */
  double more[GROUP];
  doubt_of(c, block, more);
  for (size_t q = 0; q < c->width; q++) {
    double w = times * (double)sum[q], w2 = times * (double)square[q] * (1 + 2 * PITH_SPLIT_ERROR);
    double about = w2 - w * (double)sum[q] * centred, doubt = more[q] * w;
    tail->low[q] += w - doubt;
    tail->high[q] += w + doubt;
    tail->square[q] += about > 0 ? about : 0;
    tail->doubt_square[q] += more[q] * more[q] * w2;
    tail->doubt[q] += doubt;
    tail->doubt_offset[q] += doubt * offset;
    tail->radius[q] += (w + doubt) * radius;
  }
}

/* Closed blocks: the sum of weights of one lies between BLOCK e^centre (Jensen) and BLOCK e^upper; the middle is taken.
 * No weight is below that of a key at the ball's far end. */
static void add_closed(const choice *c, tail_sums *tail) {
  const pith_sparse_space *s = &c->space;
  const size_t width = c->width;
  if (c->closed == 0) return;
  for (size_t i = 0; i < c->blocks * width; i++) {
    s->weight[i] = s->upper[i] - c->threshold[i % width];
    s->least[i] = s->centre[i] - c->threshold[i % width];
  }
  (void)c->kernels->exp_sum(s->weight, c->blocks * width, 0);
  (void)c->kernels->exp_sum(s->least, c->blocks * width, 0);
  for (size_t p = 0; p < c->blocks; p++) {
    const pith_sparse_block *block = &c->head->block[p];
    if (s->open[p] || s->sight[p] != WHOLE) continue;
    for (size_t q = 0; q < c->group; q++) {
      float *weight = &s->weight[p * width + q];
      double upper = (double)*weight * (1 + 8 * PITH_UNIT) + 0x1p-120, reach = c->norm[q] * (double)block->radius;
      double lower = (double)s->least[p * width + q] * (1 - 8 * PITH_UNIT);
      double least = c->head->weighted || reach > 1 ? 0 : lower * (1 - reach);
      double doubt = BLOCK * (upper - lower) / 2 + BLOCK * upper * 4 * PITH_UNIT;
      *weight = (float)(BLOCK * (upper + lower) / 2);
      tail->low[q] += BLOCK * lower;
      tail->high[q] += BLOCK * upper;
      tail->square[q] += BLOCK * (upper - least) * (upper - least) / 4; /* about the middle */
      tail->doubt[q] += doubt;
      tail->doubt_offset[q] += doubt * (double)block->offset;
      tail->radius[q] += BLOCK * upper * (double)block->value_radius;
    }
  }
}

/* The bound times Z, without rounding; offset: |answer - anchor|. */
static double tail_error(const choice *c, const tail_sums *tail, size_t q, double offset) {
  double spread = sqrt(c->head->spread) * (sqrt(tail->square[q]) + sqrt(tail->doubt_square[q]));
  return fmin(spread, tail->radius[q]) + tail->doubt_offset[q] + tail->doubt[q] * offset;
}

/* ---- Rounding ---- */

/* Relative error of the kernels' sums of weights over `count` keys: a chain over the keys of a tile, then two steps for
 * each tile (kernels/vector.h; scalar.c has shorter ones). */
static double chain(size_t count, size_t width) { return (512 / (double)width + (double)count / 32 + 32) * PITH_UNIT; }

/* Error of the kernels' logits: eight or more sums side by side, the scaling of the query, and what the store adds. */
static double logit_rounding(const pith_sparse_job *job, double query_norm) {
  const double d = (double)job->rows.d;
  double steps = d / 8 + 12 + (pith_turned(job->rows.dtype, job->rows.d) ? log2(d) + 2 : 0);
  return query_norm * (double)job->head->most_key * steps * PITH_UNIT;
}

double pith_sparse_rounding(const pith_sparse_job *job, const float *query, const float *answer, size_t count) {
  double length = norm(answer, job->rows.dv), most = (double)job->head->most_value;
  double wrong = expm1(logit_rounding(job, norm(query, job->rows.d)) + chain(count, 1) + 64 * PITH_UNIT);
  return wrong * (most + length) * (1 + 1e-6) + 16 * PITH_UNIT * length;
}

/* ---- The look ahead ---- */

typedef struct look {
  size_t blocks[PROBED], count;
  double times[PROBED]; /* how many blocks each stands for */
} look;

/* Fills up a look with an even sample of the open blocks that are not in it. */
static void sample_others(const choice *c, size_t open, look *l) {
  const pith_sparse_space *s = &c->space;
  size_t others = open - l->count, wanted = pith_min_size(others, PROBED - l->count), number = 0;
  if (open > 512) wanted = pith_min_size(wanted, 3 * PROBED / 8);
  for (size_t p = 0; p < c->blocks && wanted > 0; p++) {
    if (s->open[p] != 1) continue;
    if (number * wanted / others != (number + 1) * wanted / others && l->count < PROBED) {
      l->times[l->count] = (double)others / (double)wanted;
      l->blocks[l->count++] = p;
    }
    number++;
  }
}

static void choose_look(const choice *c, size_t open, look *l) {
  const pith_sparse_space *s = &c->space;
  size_t first = (size_t)(ALPHA * pow((double)c->visible, EXPONENT) / BLOCK) + 1 + 4 * c->width;
  first = pith_min_size(first, 5 * PROBED / 8);
  l->count = 0;
  l->times[0] = 1;
  for (size_t p = 0; p < c->blocks; p++) { /* the best scores, by insertion */
    if (!s->open[p] || (l->count == first && s->score[p] <= s->score[l->blocks[first - 1]])) continue;
    size_t at = l->count < first ? l->count++ : first - 1;
    for (; at > 0 && s->score[l->blocks[at - 1]] < s->score[p]; at--) l->blocks[at] = l->blocks[at - 1];
    l->blocks[at] = p;
  }
  for (size_t i = 0; i < l->count; i++) {
    l->times[i] = 1;
    s->open[l->blocks[i]] = LOOKED;
  }
  sample_others(c, open, l);
}

/* After a pass that left too much: looks at the blocks where most was left, besides the best ones. */
static void look_again(const choice *c, size_t open, const double mass[GROUP], look *l) {
  const pith_sparse_space *s = &c->space;
  while (l->count > 0 && l->times[l->count - 1] > 1) l->count--;
  for (size_t most = pith_min_size(PROBED - PROBED / 8, l->count + PROBED / 4); l->count < most;) {
    size_t best = c->blocks;
    double largest = 0;
    for (size_t p = 0; p < c->blocks; p++)
      for (size_t q = 0; q < c->group && s->open[p] == 1; q++) {
        double left = (double)s->weight[p * c->width + q] / mass[q];
        if (left <= largest) continue;
        largest = left;
        best = p;
      }
    if (best == c->blocks) break;
    l->times[l->count] = 1;
    l->blocks[l->count++] = best;
    s->open[best] = LOOKED;
  }
  sample_others(c, open, l);
}

/* How far below it the answers' errors are meant to stay, so that the pass need not be done again. */
static const double MARGIN = 0.72, SURE = 0.95; /* SURE: all open blocks were looked at */

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
  if (log_ratio <= 0)
    s->least = fmax(s->least, at);
  else
    s->most = fmin(s->most, at);
  double next = at - fmax(-6, fmin(6, (log_ratio + 0.03) / s->slope));
  return next > s->least && next < s->most ? next : isfinite(s->least) ? (s->least + s->most) / 2 : s->most - 2;
}

static void add_scaled(tail_sums *to, const tail_sums *from, size_t q, double factor) {
  to->square[q] += from->square[q] * factor * factor;
  to->doubt[q] += from->doubt[q] * factor;
  to->doubt_offset[q] += from->doubt_offset[q] * factor;
  to->radius[q] += from->radius[q] * factor;
}

/* The thresholds at which the bound holds for what was looked at; mass receives Z over exp(threshold), as it seems.
 * Yields the keys that would be read. */
static double find_thresholds(choice *c, const look *l, double mass[GROUP]) {
  const pith_sparse_space *s = &c->space;
  search found[GROUP];
  double reads = 0, high = (double)c->head->blocks * BLOCK, offset = 0.5 * sqrt(c->head->trace / fmax(high, 1));
  float sum[GROUP] = {0}, square[GROUP] = {0}, top[GROUP];
  for (size_t i = 0; i < l->count; i++) block_logits(c, l->blocks[i], s->probe + i * GROUP * BLOCK);
  for (size_t q = 0; q < c->group; q++) {
    top[q] = -FLT_MAX / 4;
    for (size_t i = 0; i < l->count; i++)
      top[q] = fmaxf(top[q], c->kernels->max(s->probe + i * GROUP * BLOCK + q * BLOCK, BLOCK));
    for (size_t p = 0; c->closed > 0 && p < c->blocks; p++)
      if (s->sight[p] == WHOLE && !s->open[p]) top[q] = fmaxf(top[q], s->upper[p * c->width + q]);
    found[q] = (search){.least = -INFINITY, .most = (double)top[q] + 1, .log_before = NAN, .slope = 0.8};
    c->threshold[q] = top[q] += 1;
    mass[q] = 0;
  }
  tail_sums closed;
  memset(&closed, 0, sizeof closed);
  add_closed(c, &closed);
  for (size_t q = 0; q < c->group; q++) mass[q] = (closed.low[q] + closed.high[q]) / 2;
  for (size_t i = 0; i < l->count; i++) {
    c->kernels->split(s->probe + i * GROUP * BLOCK, c->group, c->threshold, sum, square);
    for (size_t q = 0; q < c->group; q++) mass[q] += l->times[i] * (double)sum[q];
  }
  const double margin = l->times[l->count ? l->count - 1 : 0] > 1 ? MARGIN : SURE;
  double target[GROUP]; /* what rounding takes is not to be had */
  for (size_t q = 0; q < c->group; q++) {
    double rounding = logit_rounding(c->job, c->norm[q]) + chain(c->visible / 8, c->width);
    target[q] = fmax(margin * (c->job->eps - rounding * (double)c->head->most_value), c->job->eps * 1e-3);
    c->threshold[q] -= 4;
  }
  for (int round = 0; round <= ROUNDS; round++) {
    tail_sums tail;
    memset(&tail, 0, sizeof tail);
    for (size_t q = 0; q < c->group; q++) add_scaled(&tail, &closed, q, exp((double)top[q] - (double)c->threshold[q]));
    bool close = true;
    reads = 0;
    for (size_t i = 0; i < l->count; i++) {
      uint64_t chosen = c->kernels->split(s->probe + i * GROUP * BLOCK, c->group, c->threshold, sum, square);
      add_open(c, l->blocks[i], chosen == 0 && s->sight[l->blocks[i]] == WHOLE, sum, square, l->times[i], &tail);
      reads += l->times[i] * (double)__builtin_popcountll(chosen);
    }
    for (size_t q = 0; q < c->group && round < ROUNDS; q++) {
      double at = (double)c->threshold[q], z = mass[q] * exp((double)top[q] - at);
      double log_ratio = log(tail_error(c, &tail, q, offset) / (target[q] * z));
      if (log_ratio <= 0 && (log_ratio > -0.08 || at > (double)top[q] - 0.1)) continue;
      close = false;
      double next = search_next(&found[q], at, log_ratio);
      if (round + 1 == ROUNDS) next = isfinite(found[q].least) ? found[q].least : found[q].most - 2;
      c->threshold[q] = (float)next;
    }
    if (close || (!c->job->always && round > 0 && reads > 0.6 * (double)c->visible))
      break; /* reached, or out of reach */
  }
  for (size_t q = 0; q < c->group; q++) mass[q] *= exp((double)top[q] - (double)c->threshold[q]);
  return reads;
}

/* ---- The pass ---- */

static void pass(choice *c, tail_sums *tail) {
  const pith_sparse_space *s = &c->space;
  float logits[GROUP * BLOCK], sum[GROUP] = {0}, square[GROUP] = {0};
  memset(tail, 0, sizeof *tail);
  add_closed(c, tail);
  c->chosen = 0;
  for (size_t p = 0; p < c->blocks; p++) {
    if (s->open[p]) {
      block_logits(c, p, logits);
      uint64_t chosen = c->kernels->split(logits, c->group, c->threshold, sum, square);
      add_open(c, p, chosen == 0 && s->sight[p] == WHOLE, sum, square, 1, tail);
      memcpy(s->weight + p * c->width, sum, c->width * sizeof *sum);
      for (; chosen; chosen &= chosen - 1)
        s->chosen[c->chosen++] = c->head->order[p * BLOCK + (size_t)__builtin_ctzll(chosen)];
    } else if (s->sight[p] != WHOLE) {
      memset(s->weight + p * c->width, 0, c->width * sizeof *s->weight);
    }
  }
  for (size_t row = pith_max_size(c->head->blocks * BLOCK, c->first); row < c->last; row++)
    if (sees(c, row)) s->chosen[c->chosen++] = (uint32_t)row;
}

/* ---- Reading what was chosen ---- */

static void attend_rows(const choice *c, const pith_rows *rows, size_t from, size_t count, float *largest, float *sum) {
  pith_kernels_attend(c->kernels, rows->dtype)(&(pith_attend_block){
      .group = c->group,
      .d = rows->d,
      .dv = rows->dv,
      .rows = count,
      .queries = c->space.query,
      .keys = (const char *)rows->keys + (ptrdiff_t)from * rows->key_stride,
      .values = (const char *)rows->values + (ptrdiff_t)from * rows->value_stride,
      .key_stride = rows->key_stride,
      .value_stride = rows->value_stride,
      .key_scales = rows->key_scales ? rows->key_scales + from * pith_scales(rows->d) : NULL,
      .value_scales = rows->value_scales ? rows->value_scales + from * pith_scales(rows->dv) : NULL,
      .log_weights = rows->log_weight ? rows->log_weight + from : NULL,
      .largest = largest,
      .sum = sum,
      .output = c->space.output,
  });
}

static size_t row_bytes(pith_dtype dtype, size_t width) {
  return dtype == PITH_Q8 ? width : dtype == PITH_Q4 ? (width + 1) / 2 : width * pith_dtype_size(dtype);
}

/* Rows that lie apart are brought together first: a copy costs less than it saves. */
static void gather(const choice *c, const uint32_t *chosen, size_t count, float *largest, float *sum) {
  enum { AHEAD = 12 };
  const pith_rows *rows = &c->job->rows;
  const pith_sparse_space *s = &c->space;
  const size_t key = row_bytes(rows->dtype, rows->d), value = row_bytes(rows->dtype, rows->dv);
  const size_t key_scales = pith_scales(rows->d), value_scales = pith_scales(rows->dv);
  for (size_t i = 0; i < count; i++) {
    if (i + AHEAD < count) {
      const char *next = (const char *)rows->keys + (ptrdiff_t)chosen[i + AHEAD] * rows->key_stride;
      for (size_t b = 0; b < key; b += 64) __builtin_prefetch(next + b);
      next = (const char *)rows->values + (ptrdiff_t)chosen[i + AHEAD] * rows->value_stride;
      for (size_t b = 0; b < value; b += 64) __builtin_prefetch(next + b);
    }
    size_t row = chosen[i];
    memcpy(s->keys + i * key, (const char *)rows->keys + (ptrdiff_t)row * rows->key_stride, key);
    memcpy(s->values + i * value, (const char *)rows->values + (ptrdiff_t)row * rows->value_stride, value);
    if (rows->log_weight) s->log_weights[i] = rows->log_weight[row];
    if (!rows->key_scales) continue;
    memcpy(s->key_scales + i * key_scales, rows->key_scales + row * key_scales, key_scales * sizeof(uint16_t));
    memcpy(s->value_scales + i * value_scales, rows->value_scales + row * value_scales,
           value_scales * sizeof(uint16_t));
  }
  pith_rows near = *rows;
  near.keys = s->keys;
  near.values = s->values;
  near.key_stride = (ptrdiff_t)key;
  near.value_stride = (ptrdiff_t)value;
  near.count = count;
  near.log_weight = rows->log_weight ? s->log_weights : NULL;
  near.key_scales = rows->key_scales ? s->key_scales : NULL;
  near.value_scales = rows->value_scales ? s->value_scales : NULL;
  attend_rows(c, &near, 0, count, largest, sum);
}

static void read_chosen(const choice *c, float *largest, float *sum) {
  enum { RUN = 32, LONGEST = 512 };
  const pith_sparse_space *s = &c->space;
  for (size_t q = 0; q < c->group; q++) {
    largest[q] = -INFINITY;
    sum[q] = 0;
  }
  memset(s->output, 0, c->group * c->head->dv * sizeof(float));
  for (size_t i = 0, start = 0; i < c->chosen;) {
    size_t run = 1;
    while (i + run < c->chosen && run < LONGEST && s->chosen[i + run] == s->chosen[i] + run) run++;
    bool in_place = run >= RUN;
    size_t end = in_place ? i : i + run;
    if (end - start >= GATHERED || in_place || end == c->chosen)
      for (; start < end;) {
        size_t count = pith_min_size(GATHERED, end - start);
        gather(c, s->chosen + start, count, largest, sum);
        start += count;
      }
    if (in_place) {
      attend_rows(c, &c->job->rows, s->chosen[i], run, largest, sum);
      start = i + run;
    }
    i += run;
  }
}

/* ---- Putting together ---- */

/* Writes query q's answer and account; the bound may be anything up to infinity. */
static void conclude(const choice *c, size_t q, const tail_sums *tail, float largest, float sum, size_t place) {
  const pith_sparse_head *head = c->head;
  const pith_sparse_space *s = &c->space;
  const size_t dv = head->dv;
  float *out = c->job->out + place * dv;
  pith_sparse_account *account = &c->job->account[place];
  *account = (pith_sparse_account){.read = c->chosen, .seen = c->visible};
  const double threshold = (double)c->threshold[q], shift = fmax(threshold, (double)largest);
  const double near = exp((double)largest - shift), far = exp(threshold - shift);
  double mass = 0, far_mass = 0;
  for (size_t p = 0; p < c->blocks; p++) far_mass += (double)s->weight[p * c->width + q];
  mass = near * (double)sum + far * far_mass;
  for (size_t j = 0; j < dv; j++) {
    double value = near * (double)s->output[q * dv + j] + far * (double)s->tail[q * dv + j];
    out[j] = mass > 0 ? (float)(value / mass) : 0;
  }
  double offset = 0;
  for (size_t j = 0; j < dv; j++) offset += pow((double)out[j] - (double)head->anchor[j], 2);
  const double length = norm(out, dv), most = (double)head->most_value, each = logit_rounding(c->job, c->norm[q]);
  const double read_mass = near * (double)sum, wrong = expm1(each + chain(c->chosen, c->width));
  const double least = read_mass / (1 + wrong) + far * tail->low[q];
  double error = far * tail_error(c, tail, q, sqrt(offset) * (1 + 1e-9)) + wrong * read_mass * (most + length);
  error += far * far_mass * (double)(c->blocks + 64) * PITH_UNIT * (most + length);
  account->bound = error / least * (1 + 1e-6) + 8 * PITH_UNIT * length;
  account->tail = fmin(1, far * tail->high[q] / (far * tail->high[q] + read_mass / (1 + wrong)));
  if (pith_turned(head->dtype, dv)) {
    pith_turn(out, 1, dv);
    account->bound += (log2((double)dv) + 2) * PITH_UNIT * length;
  }
  if (!(account->bound >= 0)) account->bound = (double)INFINITY;
  if (!c->job->marks) return;
  unsigned char *marks = c->job->marks + place * c->job->rows.count;
  memset(marks, 0, c->job->rows.count);
  for (size_t i = 0; i < c->chosen; i++) marks[s->chosen[i]] = 1;
}

/* ---- Does it pay? ---- */

/* Costs in streamed exact rows: a look at a key's code, and a key read out of line. */
static bool pays(const choice *c, size_t open, double reads) {
  const pith_dtype dtype = c->job->rows.dtype;
  const double code = dtype == PITH_F32 ? 0.25 : dtype == PITH_F16 || dtype == PITH_BF16 ? 0.35 : 0.5;
  double rest = (double)(c->last - pith_min_size(c->last, pith_max_size(c->head->blocks * BLOCK, c->first)));
  double cost = 0.08 * BLOCK * (double)c->blocks + code * BLOCK * (double)open + 1.6 * reads + rest;
  return c->visible >= LEAST_ROWS && cost < 0.9 * (double)c->visible;
}

/* Lowers the thresholds of queries whose errors are `missed` times eps: after another look where the first was at a
 * sample, else, and if that says nothing new, by a step. */
static void aim_lower(choice *c, size_t open, look *l, const double missed[GROUP], double mass[GROUP]) {
  float before[GROUP];
  double known[GROUP];
  memcpy(before, c->threshold, sizeof before);
  memcpy(known, mass, sizeof known);
  if (l->count > 0 && l->times[l->count - 1] > 1) {
    look_again(c, open, mass, l);
    (void)find_thresholds(c, l, mass);
  }
  for (size_t q = 0; q < c->group; q++) {
    double step = missed[q] <= 1 ? 0 : fmin(6, fmax(0.25, 1.6 * log(missed[q] / 0.85)));
    float most = before[q] - (float)step;
    if (c->threshold[q] <= most && c->threshold[q] > before[q] - 6) continue;
    c->threshold[q] = most;
    mass[q] = known[q] * exp(step);
  }
}

bool pith_sparse_choose(const pith_sparse_job *job, size_t head, size_t group, size_t row, char *space) {
  choice c = {.job = job,
              .head = job->head,
              .kernels = pith_kernels_active(),
              .group = group,
              .width = pith_padded_group(group)};
  lay_out(&c.space, space, job->rows.count, job->rows.d, job->rows.dv);
  if (!job->always && job->rows.count < LEAST_ROWS) return false;
  look_around(&c, row);
  if (c.visible == 0) {
    for (size_t place = head * job->queries + row, q = 0; q < group; q++, place += job->queries) {
      memset(job->out + place * job->rows.dv, 0, job->rows.dv * sizeof(float));
      job->account[place] = (pith_sparse_account){0};
    }
    return true;
  }
  take_queries(&c, head, row);
  bound_blocks(&c);
  size_t open = open_blocks(&c);
  look l;
  choose_look(&c, open, &l);
  double mass[GROUP], reads = find_thresholds(&c, &l, mass);
  if (!job->always && !pays(&c, open, reads)) return false;

  const int tries = job->always ? TRIES : TIMELY;
  for (int attempt = 0; attempt < tries; attempt++) {
    tail_sums tail;
    float largest[GROUP], sum[GROUP];
    pass(&c, &tail);
    bool good = true;
    double missed[GROUP];                                       /* errors over eps */
    for (size_t q = 0; q < group && attempt + 1 < tries; q++) { /* not worth reading for? */
      double over = tail_error(&c, &tail, q, 0) / (mass[q] * job->eps);
      if (over > 1.25) good = false;
      missed[q] = over;
    }
    if (!good) {
      aim_lower(&c, open, &l, missed, mass);
      continue;
    }
    read_chosen(&c, largest, sum);
    memset(c.space.tail, 0, group * c.head->dv * sizeof(float));
    if (c.blocks > 0)
      pith_gemm_f32_alone(PITH_TRANSPOSED, PITH_PLAIN, group, c.head->dv, c.blocks, 1, c.space.weight, c.width,
                          c.head->value_mean, c.head->dv, 0, c.space.tail, c.head->dv);
    for (size_t q = 0; q < group; q++) {
      size_t place = (head + q) * job->queries + row;
      conclude(&c, q, &tail, largest[q], sum[q], place);
      double over = job->account[place].bound / job->eps;
      if (!(over <= 1)) good = false;
      missed[q] = over;
    }
    if (good) return true;
    if (c.chosen == c.visible) break; /* all was read: only rounding is left */
    aim_lower(&c, open, &l, missed, mass);
  }
  return false;
}
