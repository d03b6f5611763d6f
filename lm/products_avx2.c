/* products_avx2.c - products with stored rows, eight weights at a time. */
#include <immintrin.h>

#include "lm/weights.h"

/* Asks for what is multiplied some blocks later: rows follow each other in memory, and without this the first
 * product waits for every page anew. Asking beyond the end is harmless. */
static inline void prefetch(const unsigned char *at) {
  enum { AHEAD = 2048 };
  _mm_prefetch((const char *)((uintptr_t)at + AHEAD), _MM_HINT_T0);
}

static inline __m256 load(const float *from) { return _mm256_loadu_ps(from); }

static inline __m256 widen_f16(const unsigned char *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

static inline __m256 widen_i8(const unsigned char *from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from)));
}

/* The lower eight bytes. */
static inline __m256 widen_u8(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }

static inline __m256 scale(const unsigned char *at) {
  uint16_t bits;
  memcpy(&bits, at, sizeof bits);
  return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

static inline float sum_of(__m256 a, __m256 b) {
  const __m256 ab = _mm256_add_ps(a, b);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(ab), _mm256_extractf128_ps(ab, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static void times_f32(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                      float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const float *w = (const float *)(const void *)row;
    __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= columns; i += 16) {
      sum = _mm256_fmadd_ps(load(w + i), load(x + i), sum);
      other = _mm256_fmadd_ps(load(w + i + 8), load(x + i + 8), other);
    }
    out[r] = sum_of(sum, other);
    for (; i < columns; i++) out[r] += w[i] * x[i];
  }
}

static void times_f16(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                      float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= columns; i += 16) {
      prefetch(row + 2 * i);
      sum = _mm256_fmadd_ps(widen_f16(row + 2 * i), load(x + i), sum);
      other = _mm256_fmadd_ps(widen_f16(row + 2 * i + 16), load(x + i + 8), other);
    }
    out[r] = sum_of(sum, other);
    for (; i < columns; i++) {
      uint16_t bits;
      memcpy(&bits, row + 2 * i, sizeof bits);
      out[r] += _cvtsh_ss(bits) * x[i];
    }
  }
}

static void times_q8_0(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                       float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const unsigned char *block = row;
    __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
    for (size_t i = 0; i < columns; i += 32, block += 34) {
      prefetch(block);
      __m256 first = _mm256_mul_ps(widen_i8(block + 2), load(x + i));
      __m256 second = _mm256_mul_ps(widen_i8(block + 10), load(x + i + 8));
      first = _mm256_fmadd_ps(widen_i8(block + 18), load(x + i + 16), first);
      second = _mm256_fmadd_ps(widen_i8(block + 26), load(x + i + 24), second);
      const __m256 d = scale(block);
      sum = _mm256_fmadd_ps(d, first, sum);
      other = _mm256_fmadd_ps(d, second, other);
    }
    out[r] = sum_of(sum, other);
  }
}

/* The sums of x times w = d q + m over one block, where q are four bits: byte j holds q of x[j] and x[j + 16]. */
static inline void times_block_q4(__m256 d, __m256 m, const unsigned char *q, const float *x, __m256 *sum,
                                  __m256 *other) {
  const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)q), four = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(bytes, four), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), four);
  *sum = _mm256_fmadd_ps(_mm256_fmadd_ps(widen_u8(low), d, m), load(x), *sum);
  *other = _mm256_fmadd_ps(_mm256_fmadd_ps(widen_u8(_mm_srli_si128(low, 8)), d, m), load(x + 8), *other);
  *sum = _mm256_fmadd_ps(_mm256_fmadd_ps(widen_u8(high), d, m), load(x + 16), *sum);
  *other = _mm256_fmadd_ps(_mm256_fmadd_ps(widen_u8(_mm_srli_si128(high, 8)), d, m), load(x + 24), *other);
}

static void times_q4_0(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                       float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const unsigned char *block = row;
    __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
    for (size_t i = 0; i < columns; i += 32, block += 18) {
      prefetch(block);
      const __m256 d = scale(block);
      times_block_q4(d, _mm256_mul_ps(d, _mm256_set1_ps(-8)), block + 2, x + i, &sum, &other);
    }
    out[r] = sum_of(sum, other);
  }
}

static void times_q4_1(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                       float *out) {
  for (size_t r = 0; r < rows; r++, row += row_bytes) {
    const unsigned char *block = row;
    __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
    for (size_t i = 0; i < columns; i += 32, block += 20) {
      prefetch(block);
      times_block_q4(scale(block), scale(block + 2), block + 4, x + i, &sum, &other);
    }
    out[r] = sum_of(sum, other);
  }
}

const lm_products lm_products_avx2 = {times_f32, times_f16, times_q8_0, times_q4_0, times_q4_1};
