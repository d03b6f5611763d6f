/* scalar.c - the table in plain C, for every processor. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/exponential.h"
#include "kernels/kernels.h"
#include "kernels/quantise.h"
#include "kernels/sketch.h"

/* Sums that run side by side, so that short chains keep the rounding small. */
enum { SUMS = 8, TILE = 64 };

static float sum_of(const float sum[SUMS]) {
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

static float dot(const float *a, const float *b, size_t n) {
  float sum[SUMS] = {0};
  size_t i = 0;
  for (; i + SUMS <= n; i += SUMS)
    for (size_t j = 0; j < SUMS; j++) sum[j] += a[i + j] * b[i + j];
  for (size_t j = 0; i < n; i++, j++) sum[j] += a[i] * b[i];
  return sum_of(sum);
}

static void axpy(float a, const float *x, float *y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] += a * x[i];
}

static float power_of_two(int exponent) {
  uint32_t bits = (uint32_t)(exponent + 127) << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static float exponential(float x) {
  const float rounder = 0x1.8p23f; /* adding and taking it away rounds to a whole number */
  if (x < EXP_LOWEST) return 0;
  if (x > EXP_CEILING) return INFINITY;
  if (isnan(x)) return x;
  float k = (x * EXP_LOG2E + rounder) - rounder;
  float r = (x - k * EXP_LN2_HIGH) - k * EXP_LN2_LOW;
  float p = (((EXP_C6 * r + EXP_C5) * r + EXP_C4) * r + EXP_C3) * r + EXP_C2;
  int half = (int)k / 2; /* in two steps, since 2^128 is no f32 */
  return (1 + (p * (r * r) + r)) * power_of_two(half) * power_of_two((int)k - half);
}

static float exp_sum(float *x, size_t n, float shift) {
  float sum[SUMS] = {0};
  for (size_t i = 0; i < n; i++) {
    x[i] = exponential(x[i] + shift);
    sum[i % SUMS] += x[i];
  }
  return sum_of(sum);
}

static float largest(const float *x, size_t n) {
  float result = -INFINITY;
  for (size_t i = 0; i < n; i++) result = x[i] > result ? x[i] : result;
  return result;
}

static void f16_to_f32(const uint16_t *in, float *out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] = pith_f16_to_f32(in[i]);
}

static void bf16_to_f32(const uint16_t *in, float *out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] = pith_bf16_to_f32(in[i]);
}

static void f32_to_f16(const float *in, uint16_t *out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] = pith_f32_to_f16(in[i]);
}

static void f32_to_bf16(const float *in, uint16_t *out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] = pith_f32_to_bf16(in[i]);
}

/* ---- Attention: each row is widened piece by piece, then used for all queries of the group. ---- */

enum { PIECE = 64 }; /* columns at a time; a multiple of SUMS and of PITH_SCALED */
/* Columns column .. column+count-1 of a row; `scales` are those of the row, where it has any. */
typedef void (*widen_row)(const void *row, const uint16_t *scales, size_t column, float *out, size_t count);

static void widen_f32(const void *row, const uint16_t *scales, size_t column, float *out, size_t count) {
  (void)scales;
  memcpy(out, (const char *)row + column * sizeof *out, count * sizeof *out);
}
static void widen_f16(const void *row, const uint16_t *scales, size_t column, float *out, size_t count) {
  (void)scales;
  uint16_t piece[PIECE]; /* rows may lie at any address */
  memcpy(piece, (const char *)row + column * sizeof *piece, count * sizeof *piece);
  f16_to_f32(piece, out, count);
}
static void widen_bf16(const void *row, const uint16_t *scales, size_t column, float *out, size_t count) {
  (void)scales;
  uint16_t piece[PIECE];
  memcpy(piece, (const char *)row + column * sizeof *piece, count * sizeof *piece);
  bf16_to_f32(piece, out, count);
}

static void widen_q8(const void *row, const uint16_t *scales, size_t column, float *out, size_t count) {
  const int8_t *from = row;
  for (size_t i = 0; i < count; i++)
    out[i] = (float)from[column + i] * pith_f16_to_f32(scales[(column + i) / PITH_SCALED]);
}
static void widen_q4(const void *row, const uint16_t *scales, size_t column, float *out, size_t count) {
  const uint8_t *from = row;
  for (size_t i = column; i < column + count; i++) {
    int8_t level = pith_q4_levels[i % 2 ? from[i / 2] >> 4 : from[i / 2] & 15];
    out[i - column] = (float)level * pith_f16_to_f32(scales[i / PITH_SCALED]);
  }
}

static const uint16_t *scales_of(const uint16_t *scales, size_t row, size_t width) {
  return scales ? scales + row * pith_scales(width) : NULL;
}

static bool sees(const pith_attend_block *block, size_t q, size_t row) {
  return (!block->begin || row >= block->begin[q]) && (!block->end || row < block->end[q]);
}

/* logit[q][row - first] of a tile; -inf where the query does not see the key. */
static void tile_logits(const pith_attend_block *block, widen_row widen, size_t first, size_t rows,
                        float logit[PITH_MAX_GROUP][TILE]) {
  float piece[PIECE];
  for (size_t row = 0; row < rows; row++) {
    const char *key = (const char *)block->keys + (ptrdiff_t)(first + row) * block->key_stride;
    const uint16_t *scales = scales_of(block->key_scales, first + row, block->d);
    for (size_t q = 0; q < block->group; q++) logit[q][row] = 0;
    for (size_t column = 0; column < block->d; column += PIECE) {
      size_t count = pith_min_size(PIECE, block->d - column);
      widen(key, scales, column, piece, count);
      for (size_t q = 0; q < block->group; q++)
        logit[q][row] += dot(block->queries + q * block->d + column, piece, count);
    }
    for (size_t q = 0; q < block->group; q++) {
      float value = logit[q][row] + (block->log_weights ? block->log_weights[first + row] : 0);
      /* A product that overflows counts as the largest number there is, so that differences stay defined. */
      value = value > -FLT_MAX ? value : -FLT_MAX;
      logit[q][row] = sees(block, q, first + row) ? (value < FLT_MAX ? value : FLT_MAX) : -INFINITY;
    }
  }
}

/* Adds the weighted values of a tile to the outputs, which have been scaled down to the new maxima. */
static void tile_values(const pith_attend_block *block, widen_row widen, size_t first, size_t rows,
                        float weight[PITH_MAX_GROUP][TILE]) {
  float piece[PIECE], sum[PITH_MAX_GROUP][PIECE];
  for (size_t column = 0; column < block->dv; column += PIECE) {
    size_t count = pith_min_size(PIECE, block->dv - column);
    memset(sum, 0, sizeof sum);
    for (size_t row = 0; row < rows; row++) {
      widen((const char *)block->values + (ptrdiff_t)(first + row) * block->value_stride,
            scales_of(block->value_scales, first + row, block->dv), column, piece, count);
      for (size_t q = 0; q < block->group; q++) axpy(weight[q][row], piece, sum[q], count);
    }
    for (size_t q = 0; q < block->group; q++) axpy(1, sum[q], block->output + q * block->dv + column, count);
  }
}

static void attend(const pith_attend_block *block, widen_row widen) {
  float logit[PITH_MAX_GROUP][TILE];
  size_t first = block->rows, last = 0;
  for (size_t q = 0; q < block->group; q++) {
    size_t begin = block->begin ? block->begin[q] : 0, end = block->end ? block->end[q] : block->rows;
    if (begin >= pith_min_size(end, block->rows)) continue;
    first = pith_min_size(first, begin);
    last = pith_max_size(last, pith_min_size(end, block->rows));
  }
  for (; first < last; first += TILE) {
    size_t rows = pith_min_size(TILE, last - first);
    tile_logits(block, widen, first, rows, logit);
    for (size_t q = 0; q < block->group; q++) {
      float before = block->largest[q], now = largest(logit[q], rows);
      now = now > before ? now : before;
      float shift = now == -INFINITY ? 0 : now; /* nothing seen so far: all weights are 0 */
      float factor = exponential(before - shift), *output = block->output + q * block->dv;
      for (size_t column = 0; column < block->dv; column++) output[column] *= factor;
      block->sum[q] = block->sum[q] * factor + exp_sum(logit[q], rows, -shift);
      block->largest[q] = now;
    }
    tile_values(block, widen, first, rows, logit);
  }
}

static void attend_f32(const pith_attend_block *block) { attend(block, widen_f32); }
static void attend_f16(const pith_attend_block *block) { attend(block, widen_f16); }
static void attend_bf16(const pith_attend_block *block) { attend(block, widen_bf16); }
static void attend_q8(const pith_attend_block *block) { attend(block, widen_q8); }
static void attend_q4(const pith_attend_block *block) { attend(block, widen_q4); }

/* ---- Rows to q4 and back ---- */

/* The nearest levels for a scale, and the sum of squared errors; `next` is the scale that suits them best. */
static double q4_fit(const float tree[16], const float *x, size_t count, float scale, uint8_t *level, float *next) {
  const float inverse = 1 / scale;
  double error = 0, cross = 0, square = 0;
  for (size_t i = 0; i < count; i++) {
    const float place = x[i] * inverse;
    unsigned node = 1;
    for (int step = 0; step < 4; step++) node = 2 * node + (place > tree[node]);
    level[i] = (uint8_t)(node - 16);
    double y = pith_q4_levels[level[i]], difference = y * (double)scale - (double)x[i];
    error += difference * difference;
    cross += y * (double)x[i];
    square += y * y;
  }
  *next = (float)(cross / square); /* no level is 0 */
  return error;
}

/* The levels are not symmetric: the largest number is laid on either end, and from there scale and levels are fitted
 * to each other. */
static void q4_block(const float tree[16], const float *x, size_t count, uint8_t level[PITH_SCALED], uint16_t *scale) {
  size_t at = 0;
  double least = INFINITY;
  memset(level, 0, PITH_SCALED);
  *scale = 0;
  for (size_t i = 1; i < count; i++)
    if (fabsf(x[i]) > fabsf(x[at])) at = i;
  for (size_t end = 0; end < 16; end += 15) {
    float wanted = x[at] / (float)pith_q4_levels[end];
    for (int round = 0; round < PITH_Q4_ROUNDS; round++) {
      uint8_t tried[PITH_SCALED];
      uint16_t half = pith_f32_to_f16(wanted);
      float rounded = pith_f16_to_f32(half);
      if (isinf(rounded)) {
        *scale = half;
        return;
      }
      if (rounded == 0) break; /* less than f16 can tell from nothing */
      double error = q4_fit(tree, x, count, rounded, tried, &wanted);
      if (error >= least) continue;
      least = error;
      *scale = half;
      memcpy(level, tried, count);
    }
  }
}

static void f32_to_q4(const float *in, size_t rows, size_t width, uint8_t *out, uint16_t *scales) {
  float tree[16];
  q4_tree(tree);
  for (size_t row = 0; row < rows; row++)
    for (size_t column = 0; column < width; column += PITH_SCALED) {
      uint8_t level[PITH_SCALED + 1];
      size_t count = pith_min_size(PITH_SCALED, width - column);
      q4_block(tree, in, count, level, scales++);
      level[count] = 0;
      for (size_t i = 0; i < count; i += 2) *out++ = (uint8_t)(level[i] | level[i + 1] << 4);
      in += count;
    }
}

static void q8_to_f32(const int8_t *in, const uint16_t *scales, size_t rows, size_t width, float *out) {
  for (size_t row = 0; row < rows; row++)
    widen_q8(in + row * width, scales_of(scales, row, width), 0, out + row * width, width);
}

static void q4_to_f32(const uint8_t *in, const uint16_t *scales, size_t rows, size_t width, float *out) {
  for (size_t row = 0; row < rows; row++)
    widen_q4(in + row * (width / 2 + width % 2), scales_of(scales, row, width), 0, out + row * width, width);
}

/* ---- Keys in small integers ---- */

static void code_logits(const pith_code_block *block) {
  for (size_t row = 0; row < block->rows; row++) {
    const uint8_t *code =
        block->codes + row / PITH_CODED * PITH_CODED * block->d + PITH_CODE_COLUMNS * (row % PITH_CODED);
    for (size_t q = 0; q < block->group; q++) {
      int64_t sum = 0, rest = 0;
      for (size_t i = 0; i < block->d; i++) {
        int level = code[i / PITH_CODE_COLUMNS * PITH_CODE_COLUMNS * PITH_CODED + i % PITH_CODE_COLUMNS];
        sum += block->queries[q * block->d + i] * (level - PITH_CODE_ZERO);
        if (block->remainders) rest += block->remainders[q * block->d + i] * (level - PITH_CODE_ZERO);
      }
      float more = block->log_weights ? block->log_weights[row] : 0;
      float offset = block->offsets ? block->offsets[q] : 0;
      block->logits[q * block->rows + row] =
          ((float)sum + (float)rest / 256) * block->scales[row] * block->query_scale[q] + offset + more;
    }
  }
}

static void scores(size_t group, size_t d, const float *queries, const float *keys, size_t rows, float *logits) {
  const size_t width = pith_padded_group(group);
  for (size_t row = 0; row < rows; row++)
    for (size_t q = 0; q < width; q++)
      logits[row * width + q] = dot(queries + (q < group ? q : 0) * d, keys + row * d, d);
}

static uint64_t split(const float *logits, size_t group, const float *threshold, const float *least, float *sum,
                      float *square) {
  uint64_t chosen = 0;
  for (size_t q = 0; q < group; q++)
    for (size_t i = 0; i < PITH_SPLIT; i++) chosen |= (uint64_t)(logits[q * PITH_SPLIT + i] >= threshold[q]) << i;
  for (size_t q = 0; q < group; q++) {
    sum[q] = square[q] = 0;
    bool counts = false;
    for (size_t i = 0; i < PITH_SPLIT; i++) counts = counts || logits[q * PITH_SPLIT + i] >= least[q];
    for (size_t i = 0; i < PITH_SPLIT && counts; i++) {
      float less = logits[q * PITH_SPLIT + i] - threshold[q]; /* never to 0: sums bound what they count */
      float weight = chosen >> i & 1 ? 0 : exponential(less > EXP_LOWEST ? less : EXP_LOWEST);
      sum[q] += weight;
      square[q] += weight * weight;
    }
  }
  return chosen;
}

const pith_kernels pith_kernels_scalar = {
    "scalar",    dot,       axpy,      exp_sum,         largest,     f16_to_f32, bf16_to_f32, f32_to_f16,
    f32_to_bf16, turn,      f32_to_q8, f32_to_q4,       q8_to_f32,   q4_to_f32,  attend_f32,  attend_f16,
    attend_bf16, attend_q8, attend_q4, &sketch_kernels, code_logits, scores,     split};
