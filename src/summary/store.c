/* store.c - points rounded to their store and back. */
#include "summary/store.h"

#include <math.h>
#include <string.h>

pith_status pith_store_check(pith_context *context, pith_dtype store, size_t d, size_t dv) {
  const size_t most = (size_t)PITH_SCALED * PITH_MOST_SCALES;
  if (store != PITH_F32 && store != PITH_F16 && store != PITH_BF16 && !pith_store_quantised(store))
    return pith_fail(context, PITH_E_TYPE,
                     "store: points cannot be kept as %s; f32, f16, bf16, q8 and q4 are supported",
                     pith_dtype_name(store));
  if (pith_store_quantised(store) && (d > most || dv > most))
    return pith_fail(context, PITH_E_SHAPE,
                     "store: %s holds rows of up to %zu numbers, the keys have %zu and the values %zu; use f16",
                     pith_dtype_name(store), most, d, dv);
  return PITH_OK;
}

size_t pith_store_row_bytes(pith_dtype store, size_t width) {
  return store == PITH_Q8 ? width : store == PITH_Q4 ? width / 2 + width % 2 : width * pith_dtype_size(store);
}

size_t pith_store_scales(pith_dtype store, size_t width) {
  return pith_store_quantised(store) ? pith_scales(width) : 0;
}

size_t pith_store_point_bytes(pith_dtype store, size_t d, size_t dv) {
  return pith_store_row_bytes(store, d) + pith_store_row_bytes(store, dv) +
         (pith_store_scales(store, d) + pith_store_scales(store, dv)) * sizeof(uint16_t) + sizeof(float);
}

/* ---- Writing ---- */

static float largest_size(const float *x, size_t count, size_t *at) {
  *at = 0;
  for (size_t i = 1; i < count; i++)
    if (fabsf(x[i]) > fabsf(x[*at])) *at = i;
  return fabsf(x[*at]);
}

/* The scale is the smallest that leaves the largest number within half a step of 127. */
static bool write_q8(const float *x, size_t count, int8_t *out, uint16_t *scale) {
  size_t at;
  float largest = largest_size(x, count, &at);
  *scale = pith_f32_to_f16(largest / 127);
  if (127.5F * pith_f16_to_f32(*scale) < largest) ++*scale; /* rounded down */
  float step = pith_f16_to_f32(*scale);
  if (!isfinite(step)) return false;
  for (size_t i = 0; i < count; i++) out[i] = (int8_t)(step > 0 ? lrintf(x[i] / step) : 0);
  return true;
}

/* The nearest levels for a scale, and the sum of squared errors; `next` is the scale that suits them best. */
static double choose_levels(const float *x, size_t count, float scale, uint8_t *level, float *next) {
  float inverse = 1 / scale, place[PITH_SCALED];
  for (size_t i = 0; i < count; i++) place[i] = x[i] * inverse;
  memset(level, 0, count);
  for (size_t j = 0; j < 15; j++) {
    float middle = 0.5F * (float)(pith_q4_levels[j] + pith_q4_levels[j + 1]);
    for (size_t i = 0; i < count; i++) level[i] += place[i] > middle;
  }
  double error = 0, cross = 0, square = 0;
  for (size_t i = 0; i < count; i++) {
    double y = pith_q4_levels[level[i]], difference = y * (double)scale - (double)x[i];
    error += difference * difference;
    cross += y * (double)x[i];
    square += y * y;
  }
  *next = square > 0 ? (float)(cross / square) : 0;
  return error;
}

/* The levels are not symmetric: the largest number is laid on either end, and from there scale and levels are fitted
 * to each other. */
static bool write_q4(const float *x, size_t count, uint8_t level[PITH_SCALED], uint16_t *scale) {
  enum { ROUNDS = 3 };
  size_t at;
  double least = INFINITY;
  memset(level, 0, PITH_SCALED);
  *scale = 0;
  if (largest_size(x, count, &at) == 0) return true;
  for (size_t end = 0; end < 16; end += 15) {
    float wanted = x[at] / (float)pith_q4_levels[end];
    for (int round = 0; round < ROUNDS; round++) {
      uint8_t tried[PITH_SCALED];
      uint16_t half = pith_f32_to_f16(wanted);
      float rounded = pith_f16_to_f32(half);
      if (!isfinite(rounded)) return false;
      if (rounded == 0) break; /* less than f16 can tell from nothing */
      double error = choose_levels(x, count, rounded, tried, &wanted);
      if (error >= least) continue;
      least = error;
      *scale = half;
      memcpy(level, tried, count);
    }
  }
  return true;
}

static bool write_block(pith_dtype store, const float *x, size_t count, unsigned char *out, uint16_t *scale) {
  if (store == PITH_Q8) return write_q8(x, count, (int8_t *)out, scale);
  uint8_t level[PITH_SCALED];
  if (!write_q4(x, count, level, scale)) return false;
  for (size_t i = 0; i < count; i += 2)
    out[i / 2] = (unsigned char)(level[i] | (i + 1 < count ? level[i + 1] << 4 : 0));
  return true;
}

/* False where a scale does not stay finite. */
static bool write_scaled(pith_dtype store, const float *row, size_t width, unsigned char *out, uint16_t *scales) {
  for (size_t column = 0; column < width; column += PITH_SCALED) {
    size_t count = pith_min_size(PITH_SCALED, width - column);
    if (!write_block(store, row + column, count, out + pith_store_row_bytes(store, column),
                     &scales[column / PITH_SCALED]))
      return false;
  }
  return true;
}

static bool write_plain(pith_dtype store, const float *row, size_t width, void *out) {
  const pith_kernels *kernels = pith_kernels_active();
  uint16_t *half = out;
  if (store == PITH_F32) return memcpy(out, row, width * sizeof *row), true;
  if (store == PITH_F16)
    kernels->f32_to_f16(row, half, width);
  else
    kernels->f32_to_bf16(row, half, width);
  uint16_t exponent = store == PITH_F16 ? 0x7c00U : 0x7f80U;
  bool finite = true;
  for (size_t i = 0; i < width; i++) finite &= (half[i] & exponent) != exponent;
  return finite;
}

static pith_status fail_rounding(pith_context *context, const char *what, pith_dtype store, const float *row,
                                 size_t number, size_t width) {
  size_t at;
  (void)largest_size(row, width, &at);
  for (size_t i = 0; i < width; i++)
    if (!isfinite(row[i])) at = i;
  return pith_fail(context, PITH_E_VALUE, "%s: row %zu, column %zu is %g, not finite in %s; %s", what, number, at,
                   (double)row[at], pith_dtype_name(store),
                   isfinite(row[at]) ? "store as bf16 or f32" : "all values must be finite");
}

pith_status pith_store_write(pith_context *context, const char *what, pith_dtype store, const float *in, size_t rows,
                             size_t width, void *out, uint16_t *scales) {
  size_t bytes = pith_store_row_bytes(store, width), each = pith_store_scales(store, width);
  bool turned = pith_turned(store, width), good = true;
  float *copy = turned ? pith_allocate(context, width, sizeof *copy) : NULL;
  if (turned && !copy) return PITH_E_MEMORY;
  size_t row = 0;
  for (; row < rows; row++) {
    const float *from = in + row * width;
    unsigned char *to = (unsigned char *)out + row * bytes;
    for (size_t i = 0; i < width; i++) good &= isfinite(from[i]) != 0;
    if (turned) {
      memcpy(copy, from, width * sizeof *copy);
      pith_turn(copy, 1, width);
    }
    if (good)
      good = each ? write_scaled(store, turned ? copy : from, width, to, scales + row * each)
                  : write_plain(store, from, width, to);
    if (!good) break;
  }
  pith_release(context, copy);
  return good ? PITH_OK : fail_rounding(context, what, store, in + row * width, row, width);
}

/* ---- Reading ---- */

static void read_scaled(pith_dtype store, const unsigned char *row, const uint16_t *scales, size_t width, float *out) {
  for (size_t i = 0; i < width; i++) {
    int level = store == PITH_Q8 ? ((const int8_t *)row)[i] : pith_q4_levels[i % 2 ? row[i / 2] >> 4 : row[i / 2] & 15];
    out[i] = (float)level * pith_f16_to_f32(scales[i / PITH_SCALED]);
  }
}

void pith_store_read(pith_dtype store, const void *in, const uint16_t *scales, size_t rows, size_t width, float *out) {
  const pith_kernels *kernels = pith_kernels_active();
  if (store == PITH_F32) memcpy(out, in, rows * width * sizeof *out);
  if (store == PITH_F16) kernels->f16_to_f32(in, out, rows * width);
  if (store == PITH_BF16) kernels->bf16_to_f32(in, out, rows * width);
  if (!pith_store_quantised(store)) return;
  for (size_t row = 0; row < rows; row++)
    read_scaled(store, (const unsigned char *)in + row * pith_store_row_bytes(store, width),
                scales + row * pith_scales(width), width, out + row * width);
  if (pith_turned(store, width)) pith_turn(out, rows, width);
}

void pith_head_to_f32(const pith_head_view *view, float *keys, float *values) {
  if (view->points == 0) return;
  pith_store_read(view->store, view->keys, view->key_scales, view->points, view->d, keys);
  pith_store_read(view->store, view->values, view->value_scales, view->points, view->dv, values);
}

pith_rows pith_head_rows(const pith_head_view *view) {
  return (pith_rows){.keys = view->keys,
                     .values = view->values,
                     .key_stride = (ptrdiff_t)pith_store_row_bytes(view->store, view->d),
                     .value_stride = (ptrdiff_t)pith_store_row_bytes(view->store, view->dv),
                     .dtype = view->store,
                     .count = view->points,
                     .d = view->d,
                     .dv = view->dv,
                     .log_weight = view->log_weight,
                     .key_scales = view->key_scales,
                     .value_scales = view->value_scales};
}
