/* weights.c - the storage types, and back to f32.
 *
 * Blocks hold 32 weights (names ending in _0 and _1) or 256 (ending in _K). d and m are scales in f16, q the
 * stored whole numbers:
 *   Q8_0  w = d q         q of 8 bits, signed
 *   Q4_0  w = d (q - 8)   q of 4 bits; byte j holds weight j below and weight j + 16 above
 *   Q4_1  w = d q + m     the same
 *   Q4_K  w = d s q - m t for each 32 weights a scale s and an offset t of 6 bits
 *   Q5_K  the same, with the fifth bits of q apart
 *   Q6_K  w = d s (q - 32) for each 16 weights a scale s of 8 bits; the upper two bits of q apart */
#include "lm/weights.h"

#include "kernels/kernels.h"

enum { SMALL = 32, LARGE = 256 };

static float half(const unsigned char *at) {
  uint16_t bits;
  memcpy(&bits, at, sizeof bits);
  return pith_f16_to_f32(bits);
}

static void expand_f32(const unsigned char *row, float *out, size_t columns) {
  memcpy(out, row, columns * sizeof *out);
}

static void expand_f16(const unsigned char *row, float *out, size_t columns) {
  pith_kernels_active()->f16_to_f32((const uint16_t *)(const void *)row, out, columns);
}

static void expand_bf16(const unsigned char *row, float *out, size_t columns) {
  pith_kernels_active()->bf16_to_f32((const uint16_t *)(const void *)row, out, columns);
}

static void expand_q8_0(const unsigned char *row, float *out, size_t columns) {
  for (; columns > 0; columns -= SMALL, row += 2 + SMALL, out += SMALL) {
    const float d = half(row);
    for (int j = 0; j < SMALL; j++) out[j] = d * (float)(int8_t)row[2 + j];
  }
}

static void expand_q4_0(const unsigned char *row, float *out, size_t columns) {
  for (; columns > 0; columns -= SMALL, row += 2 + SMALL / 2, out += SMALL) {
    const float d = half(row);
    for (int j = 0; j < SMALL / 2; j++) {
      out[j] = d * (float)((row[2 + j] & 15) - 8);
      out[j + SMALL / 2] = d * (float)((row[2 + j] >> 4) - 8);
    }
  }
}

static void expand_q4_1(const unsigned char *row, float *out, size_t columns) {
  for (; columns > 0; columns -= SMALL, row += 4 + SMALL / 2, out += SMALL) {
    const float d = half(row), m = half(row + 2);
    for (int j = 0; j < SMALL / 2; j++) {
      out[j] = d * (float)(row[4 + j] & 15) + m;
      out[j + SMALL / 2] = d * (float)(row[4 + j] >> 4) + m;
    }
  }
}

/* Scale and offset number j of eight: six bits each, packed into twelve bytes. */
static void unpack_scale(const unsigned char *packed, int j, int *scale, int *offset) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *offset = packed[j + 4] & 63;
  } else {
    *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    *offset = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
  }
}

enum { SCALES = 12, HEAD_K = 4 + SCALES }; /* d, m, scales: how blocks of Q4_K and Q5_K begin */

static void expand_q4_k(const unsigned char *row, float *out, size_t columns) {
  for (; columns > 0; columns -= LARGE, row += HEAD_K + LARGE / 2) {
    const float d = half(row), m = half(row + 2);
    for (int part = 0; part < 8; part++, out += 32) {
      const unsigned char *q = row + HEAD_K + part / 2 * 32;
      const int shift = part % 2 * 4;
      int scale = 0, offset = 0;
      unpack_scale(row + 4, part, &scale, &offset);
      const float factor = d * (float)scale, less = m * (float)offset;
      for (int j = 0; j < 32; j++) out[j] = factor * (float)(q[j] >> shift & 15) - less;
    }
  }
}

static void expand_q5_k(const unsigned char *row, float *out, size_t columns) {
  for (; columns > 0; columns -= LARGE, row += HEAD_K + LARGE / 8 + LARGE / 2) {
    const float d = half(row), m = half(row + 2);
    const unsigned char *high = row + HEAD_K;
    for (int part = 0; part < 8; part++, out += 32) {
      const unsigned char *q = high + LARGE / 8 + part / 2 * 32;
      const int shift = part % 2 * 4;
      int scale = 0, offset = 0;
      unpack_scale(row + 4, part, &scale, &offset);
      const float factor = d * (float)scale, less = m * (float)offset;
      for (int j = 0; j < 32; j++) out[j] = factor * (float)((q[j] >> shift & 15) | (high[j] >> part & 1) << 4) - less;
    }
  }
}

static void expand_q6_k(const unsigned char *row, float *out, size_t columns) {
  enum { LOW = 128, HIGH = 64, GROUPS = 16 };
  for (; columns > 0; columns -= LARGE, row += LOW + HIGH + GROUPS + 2) {
    const unsigned char *scales = row + LOW + HIGH;
    const float d = half(scales + GROUPS);
    for (int part = 0; part < 8; part++, out += 32) { /* four parts share 64 low and 32 high bytes */
      const unsigned char *low = row + part / 4 * 64 + part % 2 * 32, *high = row + LOW + part / 4 * 32;
      const int low_shift = part % 4 / 2 * 4, high_shift = part % 4 * 2;
      const float first = d * (float)(int8_t)scales[2 * part], second = d * (float)(int8_t)scales[2 * part + 1];
      for (int j = 0; j < 32; j++) {
        int q = (low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4;
        out[j] = (j < 16 ? first : second) * (float)(q - 32);
      }
    }
  }
}

static const lm_weight_type types[] = {
    {PITH_GGUF_TENSOR_F32, "F32", expand_f32},    {PITH_GGUF_TENSOR_F16, "F16", expand_f16},
    {PITH_GGUF_TENSOR_BF16, "BF16", expand_bf16}, {PITH_GGUF_TENSOR_Q8_0, "Q8_0", expand_q8_0},
    {PITH_GGUF_TENSOR_Q4_0, "Q4_0", expand_q4_0}, {PITH_GGUF_TENSOR_Q4_1, "Q4_1", expand_q4_1},
    {PITH_GGUF_TENSOR_Q4_K, "Q4_K", expand_q4_k}, {PITH_GGUF_TENSOR_Q5_K, "Q5_K", expand_q5_k},
    {PITH_GGUF_TENSOR_Q6_K, "Q6_K", expand_q6_k},
};

const lm_weight_type *lm_weight_type_of(pith_gguf_type number) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].number == number) return &types[i];
  return NULL;
}
