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

/* Rows before the first with a number whose exponent says that it is not finite. */
static size_t finite_rows(const float *x, size_t rows, size_t width) {
  const uint32_t exponent = 0x7f800000U;
  for (size_t row = 0; row < rows; row++, x += width) {
    uint32_t some = 0;
    for (size_t i = 0; i < width; i++) {
      uint32_t bits;
      memcpy(&bits, &x[i], sizeof bits);
      some |= (bits & exponent) == exponent;
    }
    if (some) return row;
  }
  return rows;
}

static size_t finite_half_rows(const uint16_t *x, size_t rows, size_t width, uint16_t exponent) {
  for (size_t row = 0; row < rows; row++, x += width) {
    uint16_t some = 0;
    for (size_t i = 0; i < width; i++) some |= (x[i] & exponent) == exponent;
    if (some) return row;
  }
  return rows;
}

/* The rows before the first that does not stay finite. */
static size_t write_rows(pith_dtype store, const float *in, size_t rows, size_t width, void *out, uint16_t *scales) {
  const pith_kernels *kernels = pith_kernels_active();
  const uint16_t f16 = 0x7c00U, bf16 = 0x7f80U; /* exponents */
  switch (store) {
    case PITH_F16: kernels->f32_to_f16(in, out, rows * width); return finite_half_rows(out, rows, width, f16);
    case PITH_BF16: kernels->f32_to_bf16(in, out, rows * width); return finite_half_rows(out, rows, width, bf16);
    case PITH_Q8: kernels->f32_to_q8(in, rows, width, out, scales); break;
    case PITH_Q4: kernels->f32_to_q4(in, rows, width, out, scales); break;
    default: memcpy(out, in, rows * width * sizeof *in); return rows;
  }
  return finite_half_rows(scales, rows, pith_scales(width), f16);
}

static pith_status fail_rounding(pith_context *context, const char *what, pith_dtype store, const float *row,
                                 size_t number, size_t width) {
  size_t at = 0;
  for (size_t i = 1; i < width; i++)
    if (fabsf(row[i]) > fabsf(row[at])) at = i;
  for (size_t i = 0; i < width; i++)
    if (!isfinite(row[i])) at = i;
  return pith_fail(context, PITH_E_VALUE, "%s: row %zu, column %zu is %g, not finite in %s; %s", what, number, at,
                   (double)row[at], pith_dtype_name(store),
                   isfinite(row[at]) ? "store as bf16 or f32" : "all values must be finite");
}

pith_status pith_store_write(pith_context *context, const char *what, pith_dtype store, const float *in, size_t rows,
                             size_t width, void *out, uint16_t *scales) {
  enum { TOGETHER = 4096 }; /* numbers, so that copies stay near */
  const size_t bytes = pith_store_row_bytes(store, width), each = pith_store_scales(store, width);
  const size_t most = pith_max_size(1, pith_min_size(rows, TOGETHER / pith_max_size(1, width)));
  const bool turned = pith_turned(store, width);
  float *copy = turned ? pith_allocate(context, most * width, sizeof *copy) : NULL;
  if (turned && !copy) return PITH_E_MEMORY;
  size_t row = 0, some = 0, good = 0;
  for (; row < rows && good == some; row += good) {
    const float *from = in + row * width;
    some = pith_min_size(most, rows - row);
    good = finite_rows(from, some, width);
    if (turned) {
      memcpy(copy, from, good * width * sizeof *copy);
      pith_turn(copy, good, width);
    }
    good = write_rows(store, turned ? copy : from, good, width, (unsigned char *)out + row * bytes,
                      each ? scales + row * each : NULL);
  }
  pith_release(context, copy);
  return good == some ? PITH_OK : fail_rounding(context, what, store, in + row * width, row, width);
}

/* ---- Reading ---- */

void pith_store_read(pith_dtype store, const void *in, const uint16_t *scales, size_t rows, size_t width, float *out) {
  const pith_kernels *kernels = pith_kernels_active();
  switch (store) {
    case PITH_F16: kernels->f16_to_f32(in, out, rows * width); break;
    case PITH_BF16: kernels->bf16_to_f32(in, out, rows * width); break;
    case PITH_Q8: kernels->q8_to_f32(in, scales, rows, width, out); break;
    case PITH_Q4: kernels->q4_to_f32(in, scales, rows, width, out); break;
    default: memcpy(out, in, rows * width * sizeof *out);
  }
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
