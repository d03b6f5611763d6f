/* block.c - a block of an index: its bounds, its codes, and what its values add to the whole. */
#include <string.h>

#include "linalg/linalg.h"
#include "sparsity/lengths.h"

/* ---- Reading stored rows ---- */

static void read_row(const void *row, pith_dtype dtype, const uint16_t *scales, size_t width, float *out) {
  const pith_kernels *kernels = pith_kernels_active();
  uint16_t halves[256]; /* rows may lie at any address */
  if (dtype == PITH_F32) memcpy(out, row, width * sizeof *out);
  if (dtype == PITH_F16 || dtype == PITH_BF16)
    for (size_t i = 0; i < width; i += 256) {
      size_t count = pith_min_size(256, width - i);
      memcpy(halves, (const char *)row + i * sizeof *halves, count * sizeof *halves);
      (dtype == PITH_F16 ? kernels->f16_to_f32 : kernels->bf16_to_f32)(halves, out + i, count);
    }
  if ((dtype != PITH_Q8 && dtype != PITH_Q4) || !scales) return;
  for (size_t i = 0; i < width; i++) {
    const unsigned char *bytes = row;
    int level =
        dtype == PITH_Q8 ? ((const int8_t *)row)[i] : pith_q4_levels[i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15];
    out[i] = (float)level * pith_f16_to_f32(scales[i / PITH_SCALED]);
  }
}

void pith_sparse_read_key(const pith_rows *rows, size_t row, float *out) {
  read_row((const char *)rows->keys + (ptrdiff_t)row * rows->key_stride, rows->dtype,
           rows->key_scales ? rows->key_scales + row * pith_scales(rows->d) : NULL, rows->d, out);
}

void pith_sparse_read_value(const pith_rows *rows, size_t row, float *out) {
  read_row((const char *)rows->values + (ptrdiff_t)row * rows->value_stride, rows->dtype,
           rows->value_scales ? rows->value_scales + row * pith_scales(rows->dv) : NULL, rows->dv, out);
}

/* ---- Blocks ---- */

/* Not less than the largest singular value of x (PITH_SPARSE_BLOCK, d), whose rows are no longer than `longest`: the
 * fourth root of |G^2| in the Frobenius norm, G = x x' or x'x. spare: 2 * PITH_SPARSE_BLOCK^2. */
static double largest_singular_value(pith_context *context, double *x, size_t d, double longest, double *spare) {
  if (!(longest > 0) || !isfinite(longest)) return longest;
  const size_t rows = PITH_SPARSE_BLOCK, side = pith_min_size(rows, d);
  double *gram = spare, *square = spare + side * side, sum = 0;
  for (size_t i = 0; i < rows * d; i++) x[i] /= longest;
  if (d < rows)
    pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, d, d, rows, 1, x, d, x, d, 0, gram, side);
  else
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, rows, rows, d, 1, x, d, x, d, 0, gram, side);
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, side, side, side, 1, gram, side, gram, side, 0, square, side);
  for (size_t i = 0; i < side * side; i++) sum += square[i] * square[i];
  return longest * sqrt(sqrt(sqrt(sum))) * (1 + 1e-9);
}

/* Codes are of keys about their mean: what a query makes of the mean is known without them. */
static void write_codes(pith_context *context, pith_sparse_head *head, size_t number, float *keys) {
  const size_t d = head->d, code_d = head->code_d;
  const float *mean = head->mean + number * d;
  const bool turns = pith_sparse_turns(head);
  pith_sparse_block *block = &head->block[number];
  for (size_t i = 0; i < PITH_SPARSE_BLOCK * d; i++) keys[i] -= mean[i % d];
  const double rounding = (turns ? log2((double)d) + 3 : 1) * PITH_UNIT * (double)block->radius;
  if (turns) pith_turn(keys, PITH_SPARSE_BLOCK, d);
  double longest = 0, *difference = head->spare;
  uint8_t *codes = head->codes + number * PITH_SPARSE_BLOCK * code_d;
  memset(codes, PITH_CODE_ZERO, PITH_SPARSE_BLOCK * code_d);
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) {
    const float *key = keys + i * d;
    float largest = 0;
    for (size_t j = 0; j < d; j++) largest = fabsf(key[j]) > largest ? fabsf(key[j]) : largest;
    float scale = largest / 127, inverse = scale > 0 && isfinite(1 / scale) ? 1 / scale : 0;
    double error = 0;
    for (size_t j = 0; j < d; j++) {
      float level = rintf(key[j] * inverse);
      level = level < -127 ? -127 : level > 127 ? 127 : level;
      codes[pith_sparse_code_place(code_d, i, j)] = (uint8_t)(level + PITH_CODE_ZERO);
      difference[i * d + j] = (double)key[j] - (double)scale * (double)level;
      error += difference[i * d + j] * difference[i * d + j];
    }
    head->scales[number * PITH_SPARSE_BLOCK + i] = scale;
    longest = fmax(longest, sqrt(error));
  }
  double spread = largest_singular_value(context, difference, d, longest, difference + PITH_SPARSE_BLOCK * d);
  block->residual = pith_up(longest + rounding);
  block->residual_spread = pith_up(spread + sqrt((double)PITH_SPARSE_BLOCK) * rounding);
  head->most_residual = fmaxf(head->most_residual, block->residual_spread);
  head->residual_squares += (double)block->residual_spread * (double)block->residual_spread;

  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
    for (size_t j = 0; j < d; j++) difference[i * d + j] = (double)keys[i * d + j] - longest * difference[i * d + j];
  block->code_spread = pith_up(largest_singular_value(
      context, difference, d, (double)block->radius + (double)block->residual, difference + PITH_SPARSE_BLOCK * d));
  head->most_code = fmaxf(head->most_code, block->code_spread);
  head->code_squares += (double)block->code_spread * (double)block->code_spread;
}

static void add_values(pith_context *context, pith_sparse_head *head, const float *values, const float *mean) {
  const size_t dv = head->dv;
  double *u = head->spare;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
    for (size_t j = 0; j < dv; j++) {
      u[i * dv + j] = (double)values[i * dv + j] - (double)mean[j];
      head->values.trace += u[i * dv + j] * u[i * dv + j];
    }
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, dv, dv, PITH_SPARSE_BLOCK, 1, u, dv, u, dv, 1, head->values.sum,
                dv);
}

void pith_sparse_seal(pith_context *context, pith_sparse_head *head, size_t number, const pith_rows *rows, size_t first,
                      float *buffer) {
  const size_t d = head->d, dv = head->dv;
  const uint32_t *order = head->order + number * PITH_SPARSE_BLOCK;
  pith_sparse_block *block = &head->block[number];
  *block = (pith_sparse_block){.lowest = UINT32_MAX, .most_bias = rows->log_weight ? -INFINITY : 0};

  float *value_mean = head->value_mean + number * dv;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) pith_sparse_read_value(rows, order[i] - first, buffer + i * dv);
  pith_mean_of(buffer, PITH_SPARSE_BLOCK, dv, value_mean);
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
    block->value_radius = fmaxf(block->value_radius, pith_up(pith_distance(buffer + i * dv, value_mean, dv)));
  block->offset = pith_up(pith_distance(value_mean, head->anchor, dv));
  add_values(context, head, buffer, value_mean);

  float *low = head->low + number * d, *high = head->high + number * d, *mean = head->mean + number * d;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) pith_sparse_read_key(rows, order[i] - first, buffer + i * d);
  pith_mean_of(buffer, PITH_SPARSE_BLOCK, d, mean);
  memcpy(low, buffer, d * sizeof *low);
  memcpy(high, buffer, d * sizeof *high);
  double bias = 0;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) {
    const float *key = buffer + i * d;
    for (size_t j = 0; j < d; j++) {
      low[j] = key[j] < low[j] ? key[j] : low[j];
      high[j] = key[j] > high[j] ? key[j] : high[j];
    }
    block->radius = fmaxf(block->radius, pith_up(pith_distance(key, mean, d)));
    block->key_norm = fmaxf(block->key_norm, pith_up(pith_norm(key, d)));
    block->lowest = order[i] < block->lowest ? order[i] : block->lowest;
    block->highest = order[i] > block->highest ? order[i] : block->highest;
    if (!rows->log_weight) continue;
    float weight = rows->log_weight[order[i] - first];
    head->log_weights[number * PITH_SPARSE_BLOCK + i] = weight;
    bias += (double)weight / PITH_SPARSE_BLOCK;
    block->most_bias = fmaxf(block->most_bias, weight);
  }
  block->bias = (float)bias;
  double corner = 0, halves = 0;
  for (size_t j = 0; j < d; j++) {
    double far = fmax(fabs((double)low[j]), fabs((double)high[j]));
    corner += far * far;
    halves += ((double)high[j] - (double)low[j]) / 2;
  }
  head->box_reach += 0.8 * halves / sqrt((double)d);
  head->ball_reach += (double)block->radius;
  block->corner = pith_up(sqrt(corner));
  write_codes(context, head, number, buffer);
}
