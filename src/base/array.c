/* array.c - strided views and the half-precision types. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

size_t pith_dtype_size(pith_dtype dtype) {
  switch (dtype) {
    case PITH_F32: return 4;
    case PITH_F16:
    case PITH_BF16: return 2;
    case PITH_F64:
    case PITH_I64: return 8;
    case PITH_U8:
    case PITH_I8: return 1;
    case PITH_Q8:
    case PITH_Q4: break;
  }
  return 0;
}

const char *pith_dtype_name(pith_dtype dtype) {
  switch (dtype) {
    case PITH_F32: return "f32";
    case PITH_F16: return "f16";
    case PITH_BF16: return "bf16";
    case PITH_F64: return "f64";
    case PITH_I64: return "i64";
    case PITH_U8: return "u8";
    case PITH_I8: return "i8";
    case PITH_Q8: return "q8";
    case PITH_Q4: return "q4";
  }
  return "unknown";
}

pith_array pith_array_matrix(const void *data, pith_dtype dtype, size_t rows, size_t columns) {
  ptrdiff_t size = (ptrdiff_t)pith_dtype_size(dtype);
  return (pith_array){
      .data = data, .dtype = dtype, .ndim = 2, .shape = {rows, columns}, .stride = {size * (ptrdiff_t)columns, size}};
}

size_t pith_array_layers(const pith_array *array) { return array->ndim == 4 ? array->shape[0] : 1; }
size_t pith_array_heads(const pith_array *array) { return array->ndim >= 3 ? array->shape[array->ndim - 3] : 1; }

pith_array pith_array_head(const pith_array *array, size_t layer, size_t head) {
  size_t rows = array->ndim - 2;
  ptrdiff_t offset = 0;
  if (array->ndim == 4) offset += (ptrdiff_t)layer * array->stride[0];
  if (array->ndim >= 3) offset += (ptrdiff_t)head * array->stride[array->ndim - 3];
  return (pith_array){.data = (const char *)array->data + offset,
                      .dtype = array->dtype,
                      .ndim = 2,
                      .shape = {array->shape[rows], array->shape[rows + 1]},
                      .stride = {array->stride[rows], array->stride[rows + 1]}};
}

pith_array pith_array_rows(const pith_array *array, size_t begin, size_t count) {
  pith_array part = *array;
  size_t axis = array->ndim - 2;
  part.data = (const char *)array->data + (ptrdiff_t)begin * array->stride[axis];
  part.shape[axis] = count;
  return part;
}

bool pith_array_rows_contiguous(const pith_array *array) {
  return array->stride[array->ndim - 1] == (ptrdiff_t)pith_dtype_size(array->dtype) ||
         array->shape[array->ndim - 1] == 1;
}

float pith_bf16_to_f32(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t pith_f32_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* stays not a number */
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float pith_f16_to_f32(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
  float value;
  if (exponent == 0) {
    value = (float)mantissa * 0x1p-24f;
    return sign ? -value : value;
  }
  uint32_t bits = exponent == 31 ? sign | 0x7f800000u | mantissa << 13 : sign | (exponent + 112) << 23 | mantissa << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t pith_f32_to_f16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (bits >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 2^16 and above */
  if (bits < 0x38800000u) {                                   /* below 2^-14: the sum rounds for us */
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, sizeof bits);
    return (uint16_t)(sign | (bits - 0x3f000000u));
  }
  bits += 0xc8000fffu + (bits >> 13 & 1u);
  return (uint16_t)(sign | bits >> 13);
}

static double element(const char *at, pith_dtype dtype) {
  switch (dtype) {
    case PITH_F32: {
      float value;
      memcpy(&value, at, sizeof value);
      return value;
    }
    case PITH_F64: {
      double value;
      memcpy(&value, at, sizeof value);
      return value;
    }
    case PITH_F16:
    case PITH_BF16: {
      uint16_t half;
      memcpy(&half, at, sizeof half);
      return dtype == PITH_F16 ? pith_f16_to_f32(half) : pith_bf16_to_f32(half);
    }
    default: return NAN;
  }
}

pith_status pith_array_to_f32(pith_context *context, const pith_array *array, const char *what, double factor,
                              float *out) {
  if (array->dtype != PITH_F32 && array->dtype != PITH_F16 && array->dtype != PITH_BF16 && array->dtype != PITH_F64)
    return pith_fail(context, PITH_E_TYPE, "%s: elements are %s; f16, bf16, f32 and f64 are supported", what,
                     pith_dtype_name(array->dtype));
  size_t rows = array->shape[0], columns = array->shape[1];
  for (size_t row = 0; row < rows; row++) {
    const char *at = (const char *)array->data + (ptrdiff_t)row * array->stride[0];
    for (size_t column = 0; column < columns; column++, at += array->stride[1]) {
      double value = element(at, array->dtype) * factor;
      if (!isfinite((float)value))
        return pith_fail(context, PITH_E_VALUE, "%s: row %zu, column %zu is %g; all values must be finite in f32", what,
                         row, column, value);
      out[row * columns + column] = (float)value;
    }
  }
  return PITH_OK;
}

static int compare_f64(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

void pith_sort_f64(double *values, size_t count) { qsort(values, count, sizeof *values, compare_f64); }
