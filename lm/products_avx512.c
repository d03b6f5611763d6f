/* products_avx512.c - products with stored rows, sixteen weights at a time. */
#include <immintrin.h>

#include "lm/weights.h"

/* Asks for what is multiplied some blocks later: rows follow each other in memory, and without this the first
 * product waits for every page anew. Asking beyond the end is harmless. */
static inline void prefetch(const unsigned char *at) {
  enum { AHEAD = 2048 };
  _mm_prefetch((const char *)((uintptr_t)at + AHEAD), _MM_HINT_T0);
}

static inline __m512 load(const float *from) { return _mm512_loadu_ps(from); }

static inline __m512 widen_f16(const unsigned char *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

static inline __m512 widen_i8(const unsigned char *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from)));
}

/* The scale at `at` (f16) in all lanes. */
static inline __m512 scale(const unsigned char *at) {
  uint16_t bits;
  memcpy(&bits, at, sizeof bits);
  return _mm512_cvtph_ps(_mm256_set1_epi16((int16_t)bits));
}

static void times_f32(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                      float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const float *w = (const float *)(const void *)row;
    __m512 sum = _mm512_setzero_ps(), other = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 32 <= columns; i += 32) {
      sum = _mm512_fmadd_ps(load(w + i), load(x + i), sum);
      other = _mm512_fmadd_ps(load(w + i + 16), load(x + i + 16), other);
    }
    out[r] = _mm512_reduce_add_ps(_mm512_add_ps(sum, other));
    for (; i < columns; i++) out[r] += w[i] * x[i];
  }
}

static void times_f16(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                      float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    __m512 sum = _mm512_setzero_ps(), other = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 32 <= columns; i += 32) {
      prefetch(row + 2 * i);
      sum = _mm512_fmadd_ps(widen_f16(row + 2 * i), load(x + i), sum);
      other = _mm512_fmadd_ps(widen_f16(row + 2 * i + 32), load(x + i + 16), other);
    }
    if (i < columns) { /* less than 32 are left */
      const size_t first = columns - i < 16 ? columns - i : 16, second = columns - i - first;
      const __mmask16 some = (__mmask16)((1u << first) - 1), more = (__mmask16)((1u << second) - 1);
      sum = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, row + 2 * i)),
                            _mm512_maskz_loadu_ps(some, x + i), sum);
      other = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(more, row + 2 * i + 32)),
                              _mm512_maskz_loadu_ps(more, x + i + 16), other);
    }
    out[r] = _mm512_reduce_add_ps(_mm512_add_ps(sum, other));
  }
}

static void times_q8_0(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                       float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const unsigned char *block = row;
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < columns; i += 32, block += 34) {
      prefetch(block);
      const __m512 first = _mm512_mul_ps(widen_i8(block + 2), load(x + i));
      sum = _mm512_fmadd_ps(scale(block), _mm512_fmadd_ps(widen_i8(block + 18), load(x + i + 16), first), sum);
    }
    out[r] = _mm512_reduce_add_ps(sum);
  }
}

/* Four bits name one of sixteen weights: those that a block can have fill one register, and each byte looks up
 * two of them (a permutation reads the low four bits of an index alone). */
static inline void times_block_q4(__m512 weights, const unsigned char *q, const float *x, __m512 *sum, __m512 *other) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)q));
  *sum = _mm512_fmadd_ps(_mm512_permutexvar_ps(bytes, weights), load(x), *sum);
  *other = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), weights), load(x + 16), *other);
}

static void times_q4_0(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                       float *out) {
  const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const unsigned char *block = row;
    __m512 sum = _mm512_setzero_ps(), other = _mm512_setzero_ps();
    for (size_t i = 0; i < columns; i += 32, block += 18) {
      prefetch(block);
      times_block_q4(_mm512_mul_ps(levels, scale(block)), block + 2, x + i, &sum, &other);
    }
    out[r] = _mm512_reduce_add_ps(_mm512_add_ps(sum, other));
  }
}

static void times_q4_1(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                       float *out) {
  const __m512 levels = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const unsigned char *block = row;
    __m512 sum = _mm512_setzero_ps(), other = _mm512_setzero_ps();
    for (size_t i = 0; i < columns; i += 32, block += 20) {
      prefetch(block);
      int32_t both; /* d and m, in alternating lanes */
      memcpy(&both, block, sizeof both);
      const __m512 scales = _mm512_cvtph_ps(_mm256_set1_epi32(both));
      const __m512 weights = _mm512_fmadd_ps(levels, _mm512_moveldup_ps(scales), _mm512_movehdup_ps(scales));
      times_block_q4(weights, block + 4, x + i, &sum, &other);
    }
    out[r] = _mm512_reduce_add_ps(_mm512_add_ps(sum, other));
  }
}

const lm_products lm_products_avx512 = {times_f32, times_f16, times_q8_0, times_q4_0, times_q4_1};
