/* pass.c - the codes of all blocks that matter, and the keys that they say must be read. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "sparsity/choice.h"

enum { GROUP = PITH_MAX_GROUP, BLOCK = PITH_SPARSE_BLOCK };

/* ---- The codes of a block ---- */

void pith_sparse_block_logits(const pith_sparse_choice *c, size_t p, size_t soon, float *logits) {
  const pith_sparse_head *head = c->head;
  c->kernels->code_logits(&(pith_code_block){
      .group = c->group,
      .d = head->code_d,
      .rows = BLOCK,
      .queries = c->space.code,
      .remainders = c->fine ? c->space.remainder : NULL,
      .starts = c->code_start,
      .query_scale = c->code_scale,
      .codes = head->codes + p * BLOCK * head->code_d,
      .ahead = soon == p ? NULL : head->codes + soon * BLOCK * head->code_d,
      .scales = head->scales + p * BLOCK,
      .offsets = c->space.centre + p * c->width,
      .log_weights = head->weighted ? head->log_weights + p * BLOCK : NULL,
      .logits = logits,
  });
  if (c->space.sight[p] != PITH_PART) return;
  for (size_t i = 0; i < BLOCK; i++)
    if (!pith_sparse_sees(c, head->order[p * BLOCK + i]))
      for (size_t q = 0; q < c->group; q++) logits[q * BLOCK + i] = -INFINITY;
}

/* ---- What is left unread ---- */

void pith_sparse_doubt(const pith_sparse_choice *c, size_t p, double more[GROUP], double rest[GROUP]) {
  const pith_sparse_block *block = &c->head->block[p];
  const double rough = PITH_SPLIT_ERROR + fabs((double)block->most_bias) * 2 * PITH_UNIT;
  const double residual = (double)block->residual, key = (double)block->key_norm;
  double most = 0;
  for (size_t q = 0; q < c->width; q++) {
    rest[q] = c->norm[q] * residual + c->lost[q] * ((double)block->radius + residual);
    more[q] = rest[q] + c->slack[q] * key + rough + fabs((double)c->threshold[q]) * 4 * PITH_UNIT;
    most = more[q] > most ? more[q] : most;
  }
  for (size_t q = 0; q < c->width; q++) {
    more[q] = most < 0.5 ? more[q] + more[q] * more[q] * 0.6 : expm1(more[q]) * (1 + 4 * DBL_EPSILON);
    rest[q] = more[q] - rest[q];
  }
}

void pith_sparse_add_open(const pith_sparse_choice *c, size_t p, bool whole, const float *sum, const float *square,
                          double times, pith_sparse_tail *tail) {
  const pith_sparse_block *block = &c->head->block[p];
  const double offset = (double)block->offset, radius = (double)block->value_radius;
  const double centred = whole ? (1 - 2 * PITH_SPLIT_ERROR) / BLOCK : 0; /* rounding may not make squares too small */
  double more[GROUP], rest[GROUP];
  pith_sparse_doubt(c, p, more, rest);
  for (size_t q = 0; q < c->width; q++) {
    double w = times * (double)sum[q], w2 = times * (double)square[q] * (1 + 2 * PITH_SPLIT_ERROR);
    double about = w2 - w * (double)sum[q] * centred, doubt = more[q] * w, far = 0;
    if (sum[q] == 0) far = times * BLOCK * c->ignored[q] * (1 + more[q]); /* not summed */
    doubt += far;
    tail->low[q] += w - doubt;
    tail->high[q] += w + doubt;
    tail->square[q] += about > 0 ? about : 0;
    tail->doubt_square[q] += more[q] * more[q] * w2 + far * far;
    tail->codes[q] += w2;
    tail->doubt[q] += doubt;
    tail->doubt_offset[q] += doubt * offset;
    tail->rest[q] += rest[q] * w + far;
    tail->rest_offset[q] += (rest[q] * w + far) * offset;
    tail->radius[q] += (w + doubt) * radius;
  }
}

/* Closed blocks: the sum of weights of one lies between BLOCK e^(mean logit) (Jensen) and BLOCK e^upper; the middle is
 * taken. No weight is below that of a key at the ball's far end. */
void pith_sparse_add_closed(const pith_sparse_choice *c, pith_sparse_tail *tail) {
  const pith_sparse_space *s = &c->space;
  const size_t width = c->width;
  for (size_t p = 0; p < c->blocks && c->closed > 0; p++) {
    if (s->open[p] || s->sight[p] != PITH_WHOLE) continue;
    const pith_sparse_block *block = &c->head->block[p];
    float *weight = s->weight + p * width, least[GROUP] = {0};
    for (size_t q = 0; q < width; q++) {
      weight[q] = s->upper[p * width + q] - c->threshold[q];
      least[q] = s->mean[p * width + q] - c->threshold[q];
    }
    (void)c->kernels->exp_sum(weight, width, 0);
    (void)c->kernels->exp_sum(least, width, 0);
    for (size_t q = 0; q < c->group; q++) {
      double upper = (double)weight[q] * (1 + 8 * PITH_UNIT) + 0x1p-120, reach = c->norm[q] * (double)block->radius;
      double lower = (double)least[q] * (1 - 8 * PITH_UNIT);
      double lowest = c->head->weighted || reach > 1 ? 0 : lower * (1 - reach);
      double doubt = BLOCK * (upper - lower) / 2 + BLOCK * upper * 4 * PITH_UNIT;
      weight[q] = (float)(BLOCK * (upper + lower) / 2);
      tail->low[q] += BLOCK * lower;
      tail->high[q] += BLOCK * upper;
      tail->square[q] += BLOCK * (upper - lowest) * (upper - lowest) / 4; /* about the middle */
      tail->doubt[q] += doubt;
      tail->doubt_offset[q] += doubt * (double)block->offset;
      tail->rest[q] += doubt;
      tail->rest_offset[q] += doubt * (double)block->offset;
      tail->radius[q] += BLOCK * upper * (double)block->value_radius;
    }
  }
}

/* ---- The pass ---- */

/* Share of eps that may be lost to blocks that are not summed. */
static const double IGNORED = 0.02;

enum { AHEAD = 2 }; /* blocks between what is computed and what memory is asked for */

void pith_sparse_start(pith_sparse_choice *c) {
  c->chosen = c->read = 0;
  memset(c->space.taken, 0, c->blocks * sizeof *c->space.taken);
}

void pith_sparse_pass(pith_sparse_choice *c, const double mass[GROUP], pith_sparse_tail *tail) {
  const pith_sparse_space *s = &c->space;
  float logits[GROUP * BLOCK], sum[GROUP] = {0}, square[GROUP] = {0};
  float least[GROUP];
  const double most = (double)c->head->most_value * (double)(c->blocks * BLOCK) + DBL_MIN;
  for (size_t q = 0; q < c->group; q++) {
    c->ignored[q] = fmin(0.02, IGNORED * c->job->eps * mass[q] / most);
    least[q] = c->ignored[q] > 0 ? c->threshold[q] + (float)log(c->ignored[q]) : -INFINITY;
  }
  memset(tail, 0, sizeof *tail);
  pith_sparse_add_closed(c, tail);
  const bool again = c->chosen > 0;
  for (size_t p = 0; p < c->blocks; p++) {
    if (s->open[p]) {
      pith_sparse_block_logits(c, p, pith_min_size(p + AHEAD, c->head->blocks - 1), logits);
      uint64_t chosen = c->kernels->split(logits, c->group, c->threshold, least, sum, square);
      pith_sparse_add_open(c, p, chosen == 0 && s->sight[p] == PITH_WHOLE, sum, square, 1, tail);
      memcpy(s->weight + p * c->width, sum, c->width * sizeof *sum);
      uint64_t fresh = chosen & ~s->taken[p];
      s->taken[p] = chosen;
      for (; fresh; fresh &= fresh - 1)
        s->chosen[c->chosen++] = c->head->order[p * BLOCK + (size_t)__builtin_ctzll(fresh)];
    } else if (s->sight[p] != PITH_WHOLE) {
      memset(s->weight + p * c->width, 0, c->width * sizeof *s->weight);
    }
  }
  if (again) return;
  for (size_t row = pith_max_size(c->head->blocks * BLOCK, c->first); row < c->last; row++)
    if (pith_sparse_sees(c, row)) s->chosen[c->chosen++] = (uint32_t)row;
}

/* ---- Reading what was chosen ---- */

static void attend_rows(const pith_sparse_choice *c, const pith_rows *rows, size_t from, size_t count, float *largest,
                        float *sum) {
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
static void gather(const pith_sparse_choice *c, const uint32_t *chosen, size_t count, float *largest, float *sum) {
  enum { NEXT = 12 };
  const pith_rows *rows = &c->job->rows;
  const pith_sparse_space *s = &c->space;
  const size_t key = row_bytes(rows->dtype, rows->d), value = row_bytes(rows->dtype, rows->dv);
  const size_t key_scales = pith_scales(rows->d), value_scales = pith_scales(rows->dv);
  for (size_t i = 0; i < count; i++) {
    if (i + NEXT < count) {
      const char *next = (const char *)rows->keys + (ptrdiff_t)chosen[i + NEXT] * rows->key_stride;
      for (size_t b = 0; b < key; b += 64) __builtin_prefetch(next + b);
      next = (const char *)rows->values + (ptrdiff_t)chosen[i + NEXT] * rows->value_stride;
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

void pith_sparse_read(pith_sparse_choice *c, float *largest, float *sum) {
  enum { RUN = 32, LONGEST = 512 };
  const pith_sparse_space *s = &c->space;
  for (size_t q = 0; q < c->group && c->read == 0; q++) {
    largest[q] = -INFINITY;
    sum[q] = 0;
  }
  if (c->read == 0) memset(s->output, 0, c->group * c->head->dv * sizeof(float));
  for (size_t i = c->read, start = c->read; i < c->chosen;) {
    size_t run = 1;
    while (i + run < c->chosen && run < LONGEST && s->chosen[i + run] == s->chosen[i] + run) run++;
    bool in_place = run >= RUN;
    size_t end = in_place ? i : i + run;
    if (end - start >= PITH_SPARSE_GATHERED || in_place || end == c->chosen)
      for (; start < end;) {
        size_t count = pith_min_size(PITH_SPARSE_GATHERED, end - start);
        gather(c, s->chosen + start, count, largest, sum);
        start += count;
      }
    if (in_place) {
      attend_rows(c, &c->job->rows, s->chosen[i], run, largest, sum);
      start = i + run;
    }
    i += run;
  }
  c->read = c->chosen;
}
