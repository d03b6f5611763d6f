/* avx2.c - the table for AVX2 with FMA and F16C: eight lanes. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define LANES 8
#define COLUMN_REGISTERS 8 /* accumulators of the pass over values */
typedef __m256 vector;

static inline __m256i lanes_below(size_t count) {
  static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(const void *)(mask + 8 - count));
}

static inline vector v_zero(void) { return _mm256_setzero_ps(); }
static inline vector v_set(float a) { return _mm256_set1_ps(a); }
static inline vector v_load(const float *from) { return _mm256_loadu_ps(from); }
static inline vector v_load_part(const float *from, size_t count) {
  return _mm256_maskload_ps(from, lanes_below(count));
}
static inline void v_store(float *to, vector a) { _mm256_storeu_ps(to, a); }
static inline void v_store_part(float *to, vector a, size_t count) { _mm256_maskstore_ps(to, lanes_below(count), a); }

/* There is no masked load of 16-bit lanes. */
static inline __m128i load_halves(const uint16_t *from, size_t count) {
  uint16_t buffer[8] = {0};
  memcpy(buffer, from, count * sizeof *from);
  return _mm_loadu_si128((const __m128i *)(const void *)buffer);
}
static inline vector widen_bf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
static inline vector v_load_f16(const uint16_t *from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}
static inline vector v_load_part_f16(const uint16_t *from, size_t count) {
  return _mm256_cvtph_ps(load_halves(from, count));
}
static inline vector v_load_bf16(const uint16_t *from) {
  return widen_bf16(_mm_loadu_si128((const __m128i *)(const void *)from));
}
static inline vector v_load_part_bf16(const uint16_t *from, size_t count) {
  return widen_bf16(load_halves(from, count));
}
static inline void v_store_f16(uint16_t *to, vector a) {
  _mm_storeu_si128((__m128i *)(void *)to, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void v_store_bf16(uint16_t *to, vector a) {
  __m256i bits = _mm256_castps_si256(a), high = _mm256_srli_epi32(bits, 16);
  __m256i even = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, even), 16);
  __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40)); /* not a number stays so */
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, quiet, nan);
  __m128i low = _mm256_castsi256_si128(rounded), top = _mm256_extracti128_si256(rounded, 1);
  _mm_storeu_si128((__m128i *)(void *)to, _mm_packus_epi32(low, top));
}

static inline vector widen_i8(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
static inline vector v_load_i8(const int8_t *from) {
  return widen_i8(_mm_loadl_epi64((const __m128i *)(const void *)from));
}
static inline vector v_load_part_i8(const int8_t *from, size_t count) {
  int64_t bytes = 0;
  memcpy(&bytes, from, count);
  return widen_i8(_mm_cvtsi64_si128(bytes));
}
/* Eight halves of a byte, low half first, to levels. */
static inline vector widen_q4(int32_t pairs) {
  __m128i levels = _mm_loadu_si128((const __m128i *)(const void *)pith_q4_levels);
  __m128i wide = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(pairs)); /* 0000 hhhh llll as a word: h to the upper byte */
  wide = _mm_and_si128(_mm_or_si128(wide, _mm_slli_epi16(wide, 4)), _mm_set1_epi8(15));
  return widen_i8(_mm_shuffle_epi8(levels, wide));
}
static inline vector v_load_q4(const uint8_t *from) {
  int32_t pairs;
  memcpy(&pairs, from, sizeof pairs);
  return widen_q4(pairs);
}
static inline vector v_load_part_q4(const uint8_t *from, size_t count) {
  int32_t pairs = 0;
  memcpy(&pairs, from, (count + 1) / 2);
  return widen_q4(pairs);
}

static inline vector v_add(vector a, vector b) { return _mm256_add_ps(a, b); }
static inline vector v_sub(vector a, vector b) { return _mm256_sub_ps(a, b); }
static inline vector v_mul(vector a, vector b) { return _mm256_mul_ps(a, b); }
static inline vector v_div(vector a, vector b) { return _mm256_div_ps(a, b); }
static inline vector v_fma(vector a, vector b, vector c) { return _mm256_fmadd_ps(a, b, c); }
static inline vector v_fnma(vector a, vector b, vector c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
/* Not a number in b stays. */
static inline vector v_min(vector a, vector b) { return _mm256_min_ps(a, b); }
static inline vector v_max(vector a, vector b) { return _mm256_max_ps(a, b); }
static inline vector v_round(vector a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vector power_of_two(__m256i exponent) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
}
/* In two steps, since 2^128 is no f32. */
static inline vector v_scale(vector a, vector exponent) {
  __m256i whole = _mm256_cvtps_epi32(exponent), half = _mm256_srai_epi32(whole, 1);
  return v_mul(v_mul(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}
/* a, but 0 where x < bound. */
static inline vector v_zero_below(vector a, vector x, float bound) {
  return _mm256_and_ps(a, _mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_NLT_UQ));
}
static inline float v_sum(vector a) {
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float v_largest(vector a) {
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* Half of the lanes, widened, and back. */
typedef __m256d doubles;
static inline doubles v_low(vector a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
static inline doubles v_high(vector a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
static inline vector v_narrow(doubles low, doubles high) {
  return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
}

/* Eight integers; where codes are multiplied, four of eight bits in each. */
typedef __m256i integers;
static inline integers i_load(const uint8_t *from) { return _mm256_loadu_si256((const __m256i *)(const void *)from); }
static inline void i_store(int32_t *to, integers a) { _mm256_storeu_si256((__m256i *)(void *)to, a); }
static inline integers i_set(int32_t four) { return _mm256_set1_epi32(four); }
/* sum + the products of four unsigned codes and four signed numbers */
static inline integers i_add_products(integers sum, integers code, integers four) {
  integers even = _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8), odd = _mm256_srai_epi16(four, 8);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(code, _mm256_set1_epi16(255)), even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(code, 8), odd));
}
#define i_add_products_fused i_add_products
#define CODE_LOGITS_FUSED \
  static void code_logits_fused(const pith_code_block *block) { CODE_LOGITS(false) }
static inline bool i_fused(void) { return false; }
static inline vector i_to_f32(integers a) { return _mm256_cvtepi32_ps(a); }
/* Bits of the lanes where a >= b; a, but 0 in such lanes. */
static inline unsigned v_reaches(vector a, vector b) {
  return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
static inline vector v_clear(vector a, unsigned lanes) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)lanes), bit), bit);
  return _mm256_andnot_ps(_mm256_castsi256_ps(set), a);
}

/* b where its size is above that of a. */
static inline vector v_farther(vector a, vector b) {
  const vector sign = v_set(-0.0F);
  return _mm256_blendv_ps(a, b, _mm256_cmp_ps(_mm256_andnot_ps(sign, b), _mm256_andnot_ps(sign, a), _CMP_GT_OQ));
}
/* Four steps down the tree of q4_tree, to nodes 16 to 31. */
static inline integers v_descend(const float *tree, vector a) {
  const vector low = v_load(tree), high = v_load(tree + 8);
  integers node = _mm256_set1_epi32(1);
  for (int step = 0; step < 4; step++) {
    vector middle = _mm256_permutevar8x32_ps(step < 3 ? low : high, node); /* by the lowest three bits */
    integers above = _mm256_castps_si256(_mm256_cmp_ps(a, middle, _CMP_GT_OQ));
    node = _mm256_sub_epi32(_mm256_add_epi32(node, node), above);
  }
  return node;
}
/* table[the lowest four bits] */
static inline vector v_look_up(const float *table, integers at) {
  vector low = _mm256_permutevar8x32_ps(v_load(table), at), high = _mm256_permutevar8x32_ps(v_load(table + 8), at);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
}

/* Lane i receives from[i >> shift]; 8 >> shift elements are read, `count` of them at most. */
static inline vector v_load_repeated(const float *from, size_t count, int shift) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_permutevar8x32_ps(v_load_part(from, count), _mm256_srl_epi32(lane, _mm_cvtsi32_si128(shift)));
}

/* [a b c d] in both halves, holding the partial sums of that half. */
static inline vector sum_quarters(const vector a[4]) {
  vector ab = _mm256_add_ps(_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]));
  vector cd = _mm256_add_ps(_mm256_unpacklo_ps(a[2], a[3]), _mm256_unpackhi_ps(a[2], a[3]));
  __m256d x = _mm256_castps_pd(ab), y = _mm256_castps_pd(cd);
  return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
}

/* Lane i of the result is the sum over the lanes of a[i]. */
static inline vector v_sum_each(const vector a[LANES]) {
  vector low = sum_quarters(a), high = sum_quarters(a + 4);
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

#define TABLE pith_kernels_avx2
#define TABLE_NAME "avx2"
#include "kernels/vector.h"
