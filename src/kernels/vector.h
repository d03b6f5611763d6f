/* vector.h - the body of a vector table, written once over the primitives (v_...) that the including file
 * defines for its instruction set, along with LANES, COLUMN_REGISTERS, TABLE and TABLE_NAME. */
#include <float.h>
#include <math.h>

#include "kernels/exponential.h"
#include "kernels/quantise.h"
#include "kernels/sketch.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* ---- Plain vectors ---- */

static float dot(const float *a, const float *b, size_t n) {
  vector sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
  size_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES)
    UNROLL for (int j = 0; j < 4; j++) sum[j] = v_fma(v_load(a + i + j * LANES), v_load(b + i + j * LANES), sum[j]);
  for (; i + LANES <= n; i += LANES) sum[0] = v_fma(v_load(a + i), v_load(b + i), sum[0]);
  if (i < n) sum[1] = v_fma(v_load_part(a + i, n - i), v_load_part(b + i, n - i), sum[1]);
  return v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
}

static void axpy(float a, const float *x, float *y, size_t n) {
  vector factor = v_set(a);
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store(y + i, v_fma(factor, v_load(x + i), v_load(y + i)));
  if (i < n) v_store_part(y + i, v_fma(factor, v_load_part(x + i, n - i), v_load_part(y + i, n - i)), n - i);
}

ALWAYS_INLINE vector v_exp(vector x) {
  vector bounded = v_max(v_set(EXP_LOWEST), v_min(v_set(EXP_CEILING), x));
  vector k = v_round(v_mul(bounded, v_set(EXP_LOG2E)));
  vector r = v_fnma(k, v_set(EXP_LN2_LOW), v_fnma(k, v_set(EXP_LN2_HIGH), bounded));
  vector p = v_fma(v_set(EXP_C6), r, v_set(EXP_C5));
  p = v_fma(p, r, v_set(EXP_C4));
  p = v_fma(p, r, v_set(EXP_C3));
  p = v_fma(p, r, v_set(EXP_C2));
  p = v_add(v_set(1), v_fma(p, v_mul(r, r), r));
  return v_zero_below(v_scale(p, k), x, EXP_LOWEST);
}

static float exp_sum(float *x, size_t n, float shift) {
  vector sum = v_zero(), added = v_set(shift);
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    vector e = v_exp(v_add(v_load(x + i), added));
    v_store(x + i, e);
    sum = v_add(sum, e);
  }
  float total = v_sum(sum);
  if (i < n) {
    v_store_part(x + i, v_exp(v_add(v_load_part(x + i, n - i), added)), n - i);
    for (; i < n; i++) total += x[i];
  }
  return total;
}

static float largest(const float *x, size_t n) {
  vector top = v_set(-INFINITY);
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) top = v_max(top, v_load(x + i));
  float result = v_largest(top);
  for (; i < n; i++) result = x[i] > result ? x[i] : result;
  return result;
}

/* ---- Storage types ---- */

enum storage { F32, F16, BF16, Q8, Q4 };

/* Bytes of the first `columns` elements of a row. */
ALWAYS_INLINE size_t bytes_of(enum storage storage, size_t columns) {
  return storage == F32 ? 4 * columns : storage == Q8 ? columns : storage == Q4 ? (columns + 1) / 2 : 2 * columns;
}

/* LANES elements of a row from column `column` on, a multiple of LANES. `scales` are those of the row. */
ALWAYS_INLINE vector load_row(enum storage storage, const char *row, const float *scales, size_t column) {
  const void *at = row + bytes_of(storage, column);
  if (storage == F32) return v_load(at);
  if (storage == F16) return v_load_f16(at);
  if (storage == BF16) return v_load_bf16(at);
  return v_mul(storage == Q8 ? v_load_i8(at) : v_load_q4(at), v_set(scales[column / PITH_SCALED]));
}

/* The `count` < LANES last elements; what stands behind them is finite. */
ALWAYS_INLINE vector load_row_end(enum storage storage, const char *row, const float *scales, size_t column,
                                  size_t count) {
  const void *at = row + bytes_of(storage, column);
  if (storage == F32) return v_load_part(at, count);
  if (storage == F16) return v_load_part_f16(at, count);
  if (storage == BF16) return v_load_part_bf16(at, count);
  vector levels = storage == Q8 ? v_load_part_i8(at, count) : v_load_part_q4(at, count);
  return v_mul(levels, v_set(scales[column / PITH_SCALED]));
}

static void f16_to_f32(const uint16_t *in, float *out, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store(out + i, v_load_f16(in + i));
  for (; i < n; i++) out[i] = pith_f16_to_f32(in[i]);
}

static void bf16_to_f32(const uint16_t *in, float *out, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store(out + i, v_load_bf16(in + i));
  for (; i < n; i++) out[i] = pith_bf16_to_f32(in[i]);
}

static void f32_to_f16(const float *in, uint16_t *out, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store_f16(out + i, v_load(in + i));
  for (; i < n; i++) out[i] = pith_f32_to_f16(in[i]);
}

static void f32_to_bf16(const float *in, uint16_t *out, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) v_store_bf16(out + i, v_load(in + i));
  for (; i < n; i++) out[i] = pith_f32_to_bf16(in[i]);
}

/* The scales of `rows` rows from row `first` on, in f32. */
ALWAYS_INLINE void tile_scales(enum storage storage, const uint16_t *scales, size_t blocks, size_t first, size_t rows,
                               float *out) {
  if (storage == Q8 || storage == Q4) f16_to_f32(scales + first * blocks, out, rows * blocks);
}

ALWAYS_INLINE void read_rows(enum storage storage, const void *in, const uint16_t *scales, size_t rows, size_t width,
                             float *out) {
  const size_t blocks = pith_scales(width), most = PITH_MOST_SCALES / pith_max_size(blocks, 1);
  const char *row = in;
  float tile[PITH_MOST_SCALES];
  for (size_t first = 0; first < rows; first += most) {
    const size_t count = pith_min_size(most, rows - first);
    tile_scales(storage, scales, blocks, first, count, tile);
    for (const float *scale = tile; scale < tile + count * blocks; scale += blocks) {
      size_t column = 0;
      for (; column + LANES <= width; column += LANES) v_store(out + column, load_row(storage, row, scale, column));
      if (column < width)
        v_store_part(out + column, load_row_end(storage, row, scale, column, width - column), width - column);
      row += bytes_of(storage, width);
      out += width;
    }
  }
}

static void q8_to_f32(const int8_t *in, const uint16_t *scales, size_t rows, size_t width, float *out) {
  read_rows(Q8, in, scales, rows, width, out);
}

static void q4_to_f32(const uint8_t *in, const uint16_t *scales, size_t rows, size_t width, float *out) {
  read_rows(Q4, in, scales, rows, width, out);
}

/* ---- Attention ----
 *
 * A group of queries is padded to a width of 1, 2, 4 or 8, and keys are taken LANES / width at a time: LANES
 * dot products grow in as many registers and are summed together. The logits of a tile of keys lie key by
 * key, the queries side by side (logit[key * width + query]), so that masks, maxima and exponentials work on
 * whole vectors whatever the width. `storage` and `width` are constants wherever these are expanded. */

enum {
  LOGITS = 512, /* of a tile of LOGITS / width keys: few turns between keys and values, which memory dislikes */
  AHEAD = 64    /* rows between what is computed and what is asked for */
};

/* Asks for a row further on, so that memory works while we compute. Into the second cache: the first would
 * lose what this tile still needs. Asking beyond the last row is harmless. */
ALWAYS_INLINE void prefetch_row(const char *row, ptrdiff_t stride, size_t bytes) {
  const uintptr_t at = (uintptr_t)row + (uintptr_t)(AHEAD * stride);
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const void *)(at + i), 0, 2);
}

/* Logits of `rows` keys; those that fill up the last vector repeat the last key. */
ALWAYS_INLINE void tile_logits(enum storage storage, int width, const float *const *query, size_t d, const char *keys,
                               ptrdiff_t stride, const float *scales, size_t rows, const float *log_weights,
                               float *logit) {
  const size_t blocks = pith_scales(d);
  const int step = LANES / width;
  const int shift = width == 8 ? 3 : width == 4 ? 2 : width == 2 ? 1 : 0;
  for (size_t row = 0; row < rows; row += (size_t)step) {
    const char *key[LANES];
    const float *scale[LANES];
    UNROLL for (int k = 0; k < step; k++) {
      size_t number = pith_min_size(row + (size_t)k, rows - 1);
      key[k] = keys + (ptrdiff_t)number * stride;
      scale[k] = scales + number * blocks;
    }
    for (int k = 0; k < step; k++) prefetch_row(key[k], stride, bytes_of(storage, d));
    vector sum[LANES];
    UNROLL for (int i = 0; i < LANES; i++) sum[i] = v_zero();
    size_t column = 0;
    for (; column + LANES <= d; column += LANES) {
      vector asked[PITH_MAX_GROUP];
      UNROLL for (int q = 0; q < width; q++) asked[q] = v_load(query[q] + column);
      UNROLL for (int k = 0; k < step; k++) {
        vector part = load_row(storage, key[k], scale[k], column);
        UNROLL for (int q = 0; q < width; q++) sum[k * width + q] = v_fma(part, asked[q], sum[k * width + q]);
      }
    }
    if (column < d) {
      vector asked[PITH_MAX_GROUP];
      UNROLL for (int q = 0; q < width; q++) asked[q] = v_load_part(query[q] + column, d - column);
      UNROLL for (int k = 0; k < step; k++) {
        vector part = load_row_end(storage, key[k], scale[k], column, d - column);
        UNROLL for (int q = 0; q < width; q++) sum[k * width + q] = v_fma(part, asked[q], sum[k * width + q]);
      }
    }
    vector all = v_sum_each(sum);
    if (log_weights)
      all = v_add(all, v_load_repeated(log_weights + row, pith_min_size((size_t)step, rows - row), shift));
    /* A product that overflows counts as the largest number there is, so that differences stay defined. */
    v_store(logit + row * (size_t)width, v_min(v_max(all, v_set(-FLT_MAX)), v_set(FLT_MAX)));
  }
}

/* output[q] = output[q] * factor[q] + sum over rows of weight * value, over `registers` vectors of columns;
 * `end` > 0: one vector, of that many columns. */
ALWAYS_INLINE void tile_columns(enum storage storage, int width, int registers, size_t end, const char *values,
                                ptrdiff_t stride, const float *scales, size_t rows, const float *weight,
                                const float *factor, size_t group, float *output, size_t dv, size_t column) {
  const size_t blocks = pith_scales(dv);
  vector sum[COLUMN_REGISTERS];
  UNROLL for (int i = 0; i < width * registers; i++) sum[i] = v_zero();
  for (size_t row = 0; row < rows; row++, values += stride, scales += blocks, weight += width) {
    if (column == 0) prefetch_row(values, stride, bytes_of(storage, dv));
    vector value[COLUMN_REGISTERS];
    UNROLL for (int r = 0; r < registers; r++) value[r] =
        end ? load_row_end(storage, values, scales, column, end)
            : load_row(storage, values, scales, column + (size_t)r * LANES);
    UNROLL for (int q = 0; q < width; q++) {
      vector w = v_set(weight[q]);
      UNROLL for (int r = 0; r < registers; r++) sum[q * registers + r] = v_fma(w, value[r], sum[q * registers + r]);
    }
  }
  UNROLL for (int q = 0; q < width; q++) {
    if ((size_t)q >= group) break;
    vector old = v_set(factor[q]);
    float *to = output + (size_t)q * dv + column;
    UNROLL for (int r = 0; r < registers; r++) {
      if (end)
        v_store_part(to, v_fma(v_load_part(to, end), old, sum[q]), end);
      else
        v_store(to + r * LANES, v_fma(v_load(to + r * LANES), old, sum[q * registers + r]));
    }
  }
}

/* Minus infinity where a query does not see a key, and behind the last key of the tile. */
static inline void tile_hide(const size_t *begin, const size_t *end, size_t group, size_t width, size_t first,
                             size_t rows, float *logit) {
  for (size_t q = 0; q < group; q++) {
    if (begin[q] <= first && end[q] >= first + rows) continue;
    for (size_t row = 0; row < rows; row++)
      if (first + row < begin[q] || first + row >= end[q]) logit[row * width + q] = -INFINITY;
  }
  for (size_t i = rows * width; i % LANES; i++) logit[i] = -INFINITY;
}

/* Turns the logits of a tile into weights against the new maxima, and moves maxima and sums. Padding
 * queries carry the state {-inf, 0}. */
ALWAYS_INLINE void tile_weights(int width, size_t rows, float *logit, float *top, float *sum, float *factor) {
  float lane[LANES];
  size_t count = rows * (size_t)width;
  vector high = v_set(-INFINITY);
  for (size_t i = 0; i < count; i += LANES) high = v_max(high, v_load(logit + i));
  v_store(lane, high);
  float shift[PITH_MAX_GROUP];
  for (int q = 0; q < width; q++) {
    float now = top[q];
    for (int i = q; i < LANES; i += width) now = lane[i] > now ? lane[i] : now;
    shift[q] = now == -INFINITY ? 0 : now; /* nothing seen so far: all weights are 0 */
    factor[q] = top[q] - shift[q];
    top[q] = now;
  }
  for (int i = 0; i < LANES; i++) lane[i] = i < width ? factor[i] : 0;
  v_store(lane, v_exp(v_load(lane)));
  for (int q = 0; q < width; q++) factor[q] = lane[q];

  for (int i = 0; i < LANES; i++) lane[i] = shift[i % width];
  vector less = v_load(lane), total = v_zero();
  for (size_t i = 0; i < count; i += LANES) {
    vector weight = v_exp(v_sub(v_load(logit + i), less));
    v_store(logit + i, weight);
    total = v_add(total, weight);
  }
  v_store(lane, total);
  for (int q = 0; q < width; q++) {
    float added = 0;
    for (int i = q; i < LANES; i += width) added += lane[i];
    sum[q] = sum[q] * factor[q] + added;
  }
}

ALWAYS_INLINE void attend(const pith_attend_block *block, enum storage storage, int width) {
  const size_t group = block->group, dv = block->dv;
  const float *query[PITH_MAX_GROUP];
  size_t begin[PITH_MAX_GROUP], end[PITH_MAX_GROUP], first = block->rows, last = 0;
  float top[PITH_MAX_GROUP], sum[PITH_MAX_GROUP], factor[PITH_MAX_GROUP], logit[LOGITS];
  for (size_t q = 0; q < PITH_MAX_GROUP; q++) {
    bool real = q < group;
    query[q] = block->queries + (real ? q : 0) * block->d;
    begin[q] = block->begin && real ? block->begin[q] : 0;
    end[q] = block->end && real ? pith_min_size(block->end[q], block->rows) : block->rows;
    top[q] = real ? block->largest[q] : -INFINITY;
    sum[q] = real ? block->sum[q] : 0;
    if (!real || begin[q] >= end[q]) continue;
    first = pith_min_size(first, begin[q]);
    last = pith_max_size(last, end[q]);
  }

  enum { WIDE = 4 };
  const int registers = COLUMN_REGISTERS / width < WIDE ? COLUMN_REGISTERS / width : WIDE;
  const bool scaled = storage == Q8 || storage == Q4;
  const size_t key_blocks = pith_scales(block->d), value_blocks = pith_scales(dv);
  float scales[PITH_MOST_SCALES]; /* of one tile: its keys', then its values' */
  size_t tile = LOGITS / (size_t)width;
  if (scaled) tile = pith_min_size(tile, PITH_MOST_SCALES / pith_max_size(key_blocks, value_blocks));
  for (; first < last; first += tile) {
    const size_t rows = pith_min_size(tile, last - first);
    const char *keys = (const char *)block->keys + (ptrdiff_t)first * block->key_stride;
    const char *values = (const char *)block->values + (ptrdiff_t)first * block->value_stride;
    tile_scales(storage, block->key_scales, key_blocks, first, rows, scales);
    tile_logits(storage, width, query, block->d, keys, block->key_stride, scales, rows,
                block->log_weights ? block->log_weights + first : NULL, logit);
    tile_hide(begin, end, group, (size_t)width, first, rows, logit);
    tile_weights(width, rows, logit, top, sum, factor);
    tile_scales(storage, block->value_scales, value_blocks, first, rows, scales);
    size_t column = 0;
    for (; column + (size_t)registers * LANES <= dv; column += (size_t)registers * LANES)
      tile_columns(storage, width, registers, 0, values, block->value_stride, scales, rows, logit, factor, group,
                   block->output, dv, column);
    for (; column + LANES <= dv; column += LANES)
      tile_columns(storage, width, 1, 0, values, block->value_stride, scales, rows, logit, factor, group, block->output,
                   dv, column);
    if (column < dv)
      tile_columns(storage, width, 1, dv - column, values, block->value_stride, scales, rows, logit, factor, group,
                   block->output, dv, column);
  }
  for (size_t q = 0; q < group; q++) {
    block->largest[q] = top[q];
    block->sum[q] = sum[q];
  }
}

/* One expansion for each storage type and width. */
#define ATTEND(name, storage)                                                         \
  static void name##_1(const pith_attend_block *block) { attend(block, storage, 1); } \
  static void name##_2(const pith_attend_block *block) { attend(block, storage, 2); } \
  static void name##_4(const pith_attend_block *block) { attend(block, storage, 4); } \
  static void name##_8(const pith_attend_block *block) { attend(block, storage, 8); } \
  static void name(const pith_attend_block *block) {                                  \
    if (block->group > 4)                                                             \
      name##_8(block);                                                                \
    else if (block->group > 2)                                                        \
      name##_4(block);                                                                \
    else if (block->group == 2)                                                       \
      name##_2(block);                                                                \
    else                                                                              \
      name##_1(block);                                                                \
  }

ATTEND(attend_f32, F32)
ATTEND(attend_f16, F16)
ATTEND(attend_bf16, BF16)
ATTEND(attend_q8, Q8)
ATTEND(attend_q4, Q4)

#include "kernels/codes.h"
#include "kernels/q4.h"

const pith_kernels TABLE = {TABLE_NAME, dot,         axpy,        exp_sum,   largest,   f16_to_f32,      bf16_to_f32,
                            f32_to_f16, f32_to_bf16, turn,        f32_to_q8, f32_to_q4, q8_to_f32,       q4_to_f32,
                            attend_f32, attend_f16,  attend_bf16, attend_q8, attend_q4, &sketch_kernels, code_logits,
                            scores,     split};
