/* select.c - one choice of keys for a group of queries.
 *
 * 1. A glance at a few blocks, where there are many: if all keys would have to be read, that is said at once.
 * 2. Block bounds: logits of a block lie below U = min(box, ball), and their mean is that of the mean key. Blocks that
 *    cannot matter stay closed.
 * 3. A look at the most promising blocks (alpha n^C keys) and at fewer and fewer of the others yields the threshold at
 *    which the bound just holds, and what it would cost: if exact attention is cheaper, that is said.
 * 4. One pass over the codes of all open blocks: logits to within a known error delta. Keys that reach the threshold
 *    for one of the queries are chosen; of the others only sums of weights are kept, block by block.
 * 5. Chosen keys are read and answered exactly; every block adds its other weights at the mean of its values.
 * 6. The bound is computed (conclude.c); where it is missed, thresholds are lowered by what the pass has shown, and the
 *    pass is done again. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sparsity/choice.h"
#include "sparsity/lengths.h"

enum {
  GROUP = PITH_MAX_GROUP,
  BLOCK = PITH_SPARSE_BLOCK,
  MANY_BLOCKS = 256,
  REMAINDERS = 256, /* steps of a query's code to one of its remainders */
  TRIES = 5,        /* passes, where time does not matter; where it does, two */
  TIMELY = 2
};

/* ---- Scratch ---- */

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t lay_out(pith_sparse_space *s, char *at, size_t rows, size_t d, size_t dv) {
  const size_t blocks = rows / BLOCK + 1, f = sizeof(float), code_d = pith_sparse_code_width(d),
               widest = GROUP * PITH_SPARSE_GATHERED;
  const struct {
    void **pointer;
    size_t bytes;
  } arrays[] = {{(void **)&s->query, GROUP * d * f},
                {(void **)&s->turned, GROUP * d * f},
                {(void **)&s->positive, GROUP * d * f},
                {(void **)&s->negative, GROUP * d * f},
                {(void **)&s->code, GROUP * code_d},
                {(void **)&s->remainder, GROUP * code_d},
                {(void **)&s->upper, GROUP * blocks * f},
                {(void **)&s->centre, GROUP * blocks * f},
                {(void **)&s->weight, GROUP * blocks * f},
                {(void **)&s->mean, GROUP * blocks * f},
                {(void **)&s->score, blocks * f},
                {(void **)&s->order, blocks * sizeof(uint32_t)},
                {(void **)&s->probe, pith_min_size(PITH_SPARSE_LOOKS, blocks) * GROUP * BLOCK * f},
                {(void **)&s->output, GROUP * dv * f},
                {(void **)&s->tail, GROUP * dv * f},
                {(void **)&s->chosen, rows * sizeof(uint32_t)},
                {(void **)&s->taken, blocks * sizeof(uint64_t)},
                {(void **)&s->sight, blocks},
                {(void **)&s->open, blocks},
                {(void **)&s->seen, rows},
                {(void **)&s->keys, PITH_SPARSE_GATHERED * d * f},
                {(void **)&s->values, PITH_SPARSE_GATHERED * dv * f},
                {(void **)&s->key_scales, PITH_SPARSE_GATHERED * pith_scales(d) * sizeof(uint16_t)},
                {(void **)&s->value_scales, PITH_SPARSE_GATHERED * pith_scales(dv) * sizeof(uint16_t)},
                {(void **)&s->log_weights, widest * f},
                {(void **)&s->points, rows * sizeof(double)},
                {(void **)&s->moments, dv * sizeof(double)},
                {(void **)&s->answer, dv * f},
                {(void **)&s->key, d * f},
                {(void **)&s->value, dv * f},
                {(void **)&s->drawn, rows}};
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

static void take_queries(pith_sparse_choice *c, size_t head, size_t row) {
  const size_t d = c->head->d, code_d = c->head->code_d;
  const pith_sparse_space *s = &c->space;
  for (size_t q = 0; q < c->group; q++)
    memcpy(s->query + q * d, c->job->query + ((head + q) * c->job->queries + row) * d, d * sizeof(float));
  for (size_t q = 0; q < c->group; q++) c->norm[q] = pith_norm(s->query + q * d, d) * (1 + 8 * PITH_UNIT);
  if (pith_turned(c->head->dtype, d)) pith_turn(s->query, c->group, d);
  memcpy(s->turned, s->query, c->group * d * sizeof(float));
  if (pith_sparse_turns(c->head)) pith_turn(s->turned, c->group, d);
  memset(s->code, 0, c->group * code_d);
  memset(s->remainder, 0, c->group * code_d);
  memset(c->code_start, 0, sizeof c->code_start);
  for (size_t q = c->group; q < GROUP; q++) c->norm[q] = c->slack[q] = c->lost[q] = 0;
  const double most = fmin(127, floor(2147483647.0 / (128.0 * (double)code_d))), parts = c->fine ? REMAINDERS : 1;
  for (size_t q = 0; q < c->group; q++) {
    const float *x = s->turned + q * d;
    float largest = 0;
    for (size_t i = 0; i < d; i++) largest = fmaxf(largest, fabsf(x[i]));
    float scale = (float)(largest / most * (1 + 4 * PITH_UNIT));
    double error = 0, step = (double)scale / parts;
    for (size_t i = 0; i < d; i++) {
      double level = scale > 0 ? fmax(-most * parts, fmin(most * parts, rint((double)x[i] / step))) : 0;
      double whole = floor(level / parts + 0.5);
      s->code[q * code_d + i] = (int8_t)whole;
      s->remainder[q * code_d + i] = (int8_t)(level - whole * parts);
      c->code_start[q] -= PITH_CODE_ZERO * s->code[q * code_d + i];
      c->code_start[c->group + q] -= PITH_CODE_ZERO * s->remainder[q * code_d + i];
      error += ((double)x[i] - level * step) * ((double)x[i] - level * step);
      s->positive[q * d + i] = fmaxf(s->query[q * d + i], 0);
      s->negative[q * d + i] = fminf(s->query[q * d + i], 0);
    }
    c->code_scale[q] = scale;
    c->lost[q] = sqrt(error) * (1 + 8 * PITH_UNIT);
    /* The scaling and turning of the query, the turning of the key, products and sums, and the logit of the mean key.
     * Code and mean of a key are each at most twice as long as the longest key. */
    c->slack[q] = c->norm[q] * (4 * log2((double)d) + (double)d / 8 + 36) * PITH_UNIT;
  }
}

/* ---- What is seen ---- */

bool pith_sparse_sees(const pith_sparse_choice *c, size_t row) {
  return c->mapped ? c->space.seen[row] != 0 : row >= c->first && row < c->last;
}

static void look_around(pith_sparse_choice *c, size_t row) {
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
      for (size_t i = 0; i < BLOCK; i++) count += pith_sparse_sees(c, order[i]);
    s->sight[p] = count == 0 ? PITH_HIDDEN : count == BLOCK ? PITH_WHOLE : PITH_PART;
    if (count > 0) c->blocks = p + 1;
  }
}

/* ---- Block bounds ---- */

static void bound_blocks(pith_sparse_choice *c) {
  const pith_sparse_head *head = c->head;
  const pith_sparse_space *s = &c->space;
  const size_t d = head->d, blocks = c->blocks, width = c->width;
  const bool boxes = head->box_reach < head->ball_reach; /* or they would only cost time */
  if (boxes) {
    c->kernels->scores(c->group, d, s->positive, head->high, blocks, s->upper);
    c->kernels->scores(c->group, d, s->negative, head->low, blocks, s->weight); /* weight is free until the pass */
  }
  c->kernels->scores(c->group, d, s->query, head->mean, blocks, s->centre);
  float length[GROUP], rounding[GROUP];
  for (size_t q = 0; q < width; q++) {
    length[q] = (float)(c->norm[q] * (1 + 4 * PITH_UNIT));
    rounding[q] = (float)(4 * (double)(d + 8) * PITH_UNIT * c->norm[q]);
  }
  for (size_t p = 0; p < blocks; p++) {
    const pith_sparse_block block = head->block[p];
    const float *centre = s->centre + p * width, *part = s->weight + p * width;
    float *upper = s->upper + p * width, *mean = s->mean + p * width;
    for (size_t q = 0; q < width; q++) {
      float ball = centre[q] + length[q] * block.radius, box = boxes ? upper[q] + part[q] : ball;
      float slack = rounding[q] * (block.key_norm + block.corner) + (float)(8 * PITH_UNIT) * fabsf(block.most_bias);
      upper[q] = (box < ball ? box : ball) + slack + block.most_bias;
      mean[q] = centre[q] - slack + block.bias;
    }
  }
}

/* Opens the blocks whose keys could have a share of the mass that matters. A lower bound of the mass is that of the
 * mean keys (Jensen). */
static size_t open_blocks(pith_sparse_choice *c) {
  const pith_sparse_space *s = &c->space;
  const size_t blocks = c->blocks, width = c->width;
  float top[GROUP], mass[GROUP];
  for (size_t q = 0; q < width; q++) {
    float *mean = s->weight + q * blocks, highest = -INFINITY;
    for (size_t p = 0; p < blocks; p++) {
      mean[p] = s->sight[p] == PITH_WHOLE ? s->mean[p * width + q] : -INFINITY;
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
    s->open[p] = s->sight[p] == PITH_PART || (s->sight[p] == PITH_WHOLE && !tight && !(score < least));
    open += s->open[p];
    c->closed += s->sight[p] == PITH_WHOLE && !s->open[p];
  }
  return open;
}

/* Draws are of keys in open blocks. */
static size_t open_closed(pith_sparse_choice *c) {
  const size_t closed = c->closed;
  for (size_t p = 0; p < c->blocks; p++) c->space.open[p] = c->space.sight[p] != PITH_HIDDEN;
  c->closed = 0;
  return closed;
}

/* ---- Does it pay? ---- */

/* In streamed exact rows: reading a key out of line, a key of a look. */
static const double DEAR = 2, LOOK = 1.5;

/* How many keys may be read out of line until exact attention is faster, if the codes of so many blocks are looked at;
 * below 0: it is anyhow. Costs in streamed exact rows. */
static double affordable(const pith_sparse_choice *c, size_t open) {
  const pith_dtype dtype = c->job->rows.dtype;
  const double code = dtype == PITH_F32 ? 0.22 : dtype == PITH_F16 || dtype == PITH_BF16 ? 0.27 : 0.32;
  double rest = (double)(c->last - pith_min_size(c->last, pith_max_size(c->head->blocks * BLOCK, c->first)));
  double cost = 0.08 * BLOCK * (double)c->blocks + code * BLOCK * (double)open + rest;
  /* The first row of many decides for all: each pays for a look. Of one row the look is behind us. */
  if (c->job->queries > 1) cost += LOOK * BLOCK * (double)pith_min_size(open, PITH_SPARSE_LOOKS);
  if (c->job->always) return INFINITY;
  const double most = ((double)c->visible - cost) / DEAR;
  /* Rows of few bits stream so fast that a wrong guess costs more than a right one saves. */
  if (dtype == PITH_Q8 || dtype == PITH_Q4) return fmin(most, (double)c->visible / 6);
  return most;
}

/* Lowers the thresholds of queries whose errors are `missed` times eps: by a step, and where much is missing by what a
 * look where most was left says. */
static void aim_lower(pith_sparse_choice *c, size_t open, const pith_sparse_look *before, const double missed[GROUP],
                      double mass[GROUP]) {
  const double near = 1.5, slope = 0.4; /* of ln error over the threshold, or more */
  const pith_sparse_space *s = &c->space;
  float was[GROUP] = {0}, looked[GROUP] = {0};
  double known[GROUP] = {0}, most = 0;
  for (size_t q = 0; q < c->group; q++) {
    was[q] = looked[q] = c->threshold[q];
    known[q] = mass[q];
    most = missed[q] <= most ? most : missed[q];
  }
  if (!before->all && !(most <= near)) {
    for (size_t p = 0; p < c->blocks; p++) {
      float left = 0;
      for (size_t q = 0; q < c->group && s->open[p]; q++) {
        float here = s->weight[p * c->width + q] / (float)mass[q];
        left = here > left ? here : left;
      }
      s->score[p] = logf(left);
    }
    pith_sparse_look look;
    pith_sparse_look_at(c, open, &look);
    (void)pith_sparse_thresholds(c, &look, mass);
    memcpy(looked, c->threshold, sizeof looked);
  }
  for (size_t q = 0; q < c->group; q++) {
    double step = missed[q] <= 1 ? 0 : fmin(6, fmax(0.2, log(missed[q] / 0.9) / slope));
    c->threshold[q] = was[q] - (float)step;
    if (!(missed[q] <= near) && looked[q] < was[q] && looked[q] > was[q] - 6) c->threshold[q] = looked[q];
    mass[q] = known[q] * exp((double)was[q] - (double)c->threshold[q]);
  }
}

/* Answers the queries from the keys chosen; `missed` receives the bounds over eps, mass what it was used as. largest,
 * sum: states of the reading. Yields whether all hold. */
static bool answer(pith_sparse_choice *c, const pith_sparse_tail *tail, size_t head, size_t row, float *largest,
                   float *sum, double missed[GROUP], double mass[GROUP]) {
  const pith_sparse_job *job = c->job;
  bool good = true;
  pith_sparse_read(c, largest, sum);
  pith_sparse_add_means(c);
  for (size_t q = 0; q < c->group; q++) {
    size_t place = (head + q) * job->queries + row;
    mass[q] = pith_sparse_conclude(c, q, tail, largest[q], sum[q], place).mass;
    missed[q] = job->account[place].bound / job->eps;
    good = good && missed[q] <= 1;
  }
  return good;
}

static bool see_nothing(const pith_sparse_job *job, size_t head, size_t group, size_t row) {
  for (size_t place = head * job->queries + row, q = 0; q < group; q++, place += job->queries) {
    memset(job->out + place * job->rows.dv, 0, job->rows.dv * sizeof(float));
    job->account[place] = (pith_sparse_account){0};
  }
  return true;
}

bool pith_sparse_choose(const pith_sparse_job *job, size_t head, size_t group, size_t row, char *space) {
  pith_sparse_choice c = {.job = job,
                          .head = job->head,
                          .kernels = pith_kernels_active(),
                          .group = group,
                          .width = pith_padded_group(group),
                          .fine = job->fine || job->confidence > 0};
  lay_out(&c.space, space, job->rows.count, job->rows.d, job->rows.dv);
  look_around(&c, row);
  if (c.visible == 0) return see_nothing(job, head, group, row);
  take_queries(&c, head, row);
  pith_sparse_look look;
  double mass[GROUP] = {0}, missed[GROUP] = {0};
  if (!job->always && c.blocks >= MANY_BLOCKS) {
    c.most_reads = 0.75 * (double)c.visible; /* few blocks say less of sharp weights than of flat ones */
    pith_sparse_glance(&c, &look);
    if (pith_sparse_thresholds(&c, &look, mass) > c.most_reads) return false;
  }
  bound_blocks(&c);
  size_t open = open_blocks(&c);
  if (job->confidence > 0) open += open_closed(&c);
  c.most_reads = affordable(&c, open);
  if (c.most_reads < 0) return false;
  pith_sparse_look_at(&c, open, &look);
  if (job->confidence > 0 && pith_sparse_draw(&c, &look, head * job->queries + row)) return true;
  if (pith_sparse_thresholds(&c, &look, mass) > c.most_reads) return false;

  const int tries = job->always ? TRIES : TIMELY;
  float largest[GROUP] = {0}, sum[GROUP] = {0};
  pith_sparse_start(&c);
  for (int attempt = 0; attempt < tries; attempt++) {
    pith_sparse_tail tail;
    pith_sparse_pass(&c, mass, &tail);
    bool good = true;
    for (size_t q = 0; q < group; q++) { /* not worth reading for? */
      missed[q] = pith_sparse_tail_error(&c, &tail, q, c.offset[q]) / (mass[q] * job->eps);
      good = good && missed[q] <= 2.5; /* Z is known roughly */
    }
    if (!job->always && !(DEAR * (double)(c.chosen - c.read) < (double)c.visible)) break;
    if (good && answer(&c, &tail, head, row, largest, sum, missed, mass)) return true;
    if (good && c.chosen == c.visible) break; /* all was read: only rounding is left */
    if (!job->always && !good && c.chosen > c.visible / 16) break;
    aim_lower(&c, open, &look, missed, mass);
  }
  return false;
}
