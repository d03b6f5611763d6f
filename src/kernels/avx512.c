/* avx512.c - the table for AVX-512 (F, BW, VL, DQ): sixteen lanes. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define LANES 16
#define COLUMN_REGISTERS 16 /* accumulators of the pass over values */
typedef __m512 vector;

static inline __mmask16 lanes_below(size_t count) { return (__mmask16)((1u << count) - 1u); }

static inline vector v_zero(void) { return _mm512_setzero_ps(); }
static inline vector v_set(float a) { return _mm512_set1_ps(a); }
static inline vector v_load(const float *from) { return _mm512_loadu_ps(from); }
static inline vector v_load_part(const float *from, size_t count) {
  return _mm512_maskz_loadu_ps(lanes_below(count), from);
}
static inline void v_store(float *to, vector a) { _mm512_storeu_ps(to, a); }
static inline void v_store_part(float *to, vector a, size_t count) { _mm512_mask_storeu_ps(to, lanes_below(count), a); }

static inline vector v_load_f16(const uint16_t *from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}
static inline vector v_load_part_f16(const uint16_t *from, size_t count) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(count), from));
}
static inline vector widen_bf16(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
static inline vector v_load_bf16(const uint16_t *from) {
  return widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)from));
}
static inline vector v_load_part_bf16(const uint16_t *from, size_t count) {
  return widen_bf16(_mm256_maskz_loadu_epi16(lanes_below(count), from));
}
static inline void v_store_f16(uint16_t *to, vector a) {
  _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void v_store_bf16(uint16_t *to, vector a) {
  __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
  __m512i even = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, even), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)); /* stays not a number */
  _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(rounded));
}

static inline vector v_load_i8(const int8_t *from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from)));
}
static inline vector v_load_part_i8(const int8_t *from, size_t count) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes_below(count), from)));
}
/* Sixteen halves of a byte, low half first, to levels: every lane takes its byte, moves its half down, and looks
 * the level up by the lowest four bits. */
static inline vector widen_q4(int64_t pairs) {
  const __m512i byte = _mm512_set_epi64(0x0000000700000007, 0x0000000600000006, 0x0000000500000005, 0x0000000400000004,
                                        0x0000000300000003, 0x0000000200000002, 0x0000000100000001, 0);
  const __m512i half = _mm512_set1_epi64(0x0000000400000000);
  const __m512 levels =
      _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)pith_q4_levels)));
  __m512i spread = _mm512_shuffle_epi8(_mm512_set1_epi64(pairs), byte);
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(spread, half), levels);
}
static inline vector v_load_q4(const uint8_t *from) {
  int64_t pairs;
  memcpy(&pairs, from, sizeof pairs);
  return widen_q4(pairs);
}
static inline vector v_load_part_q4(const uint8_t *from, size_t count) {
  int64_t pairs = 0;
  memcpy(&pairs, from, (count + 1) / 2);
  return widen_q4(pairs);
}

static inline vector v_add(vector a, vector b) { return _mm512_add_ps(a, b); }
static inline vector v_sub(vector a, vector b) { return _mm512_sub_ps(a, b); }
static inline vector v_mul(vector a, vector b) { return _mm512_mul_ps(a, b); }
static inline vector v_div(vector a, vector b) { return _mm512_div_ps(a, b); }
static inline vector v_fma(vector a, vector b, vector c) { return _mm512_fmadd_ps(a, b, c); }
static inline vector v_fnma(vector a, vector b, vector c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
/* Not a number in b stays. */
static inline vector v_min(vector a, vector b) { return _mm512_min_ps(a, b); }
static inline vector v_max(vector a, vector b) { return _mm512_max_ps(a, b); }
static inline vector v_round(vector a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vector v_scale(vector a, vector exponent) { return _mm512_scalef_ps(a, exponent); }
/* a, but 0 where x < bound. */
static inline vector v_zero_below(vector a, vector x, float bound) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_NLT_UQ), a);
}
static inline float v_sum(vector a) { return _mm512_reduce_add_ps(a); }
static inline float v_largest(vector a) { return _mm512_reduce_max_ps(a); }

/* Half of the lanes, widened, and back. */
typedef __m512d doubles;
static inline doubles v_low(vector a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
static inline doubles v_high(vector a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
static inline vector v_narrow(doubles low, doubles high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}

/* Sixteen integers; where codes are multiplied, four of eight bits in each. */
typedef __m512i integers;
static inline integers i_load(const uint8_t *from) { return _mm512_loadu_si512(from); }
static inline void i_store(int32_t *to, integers a) { _mm512_storeu_si512(to, a); }
static inline integers i_set(int32_t four) { return _mm512_set1_epi32(four); }
/* sum + the products of four unsigned codes and four signed numbers */
static inline integers i_add_products(integers sum, integers code, integers four) {
  integers even = _mm512_srai_epi16(_mm512_slli_epi16(four, 8), 8), odd = _mm512_srai_epi16(four, 8);
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_and_si512(code, _mm512_set1_epi16(255)), even));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_srli_epi16(code, 8), odd));
}
__attribute__((target("avx512vnni"))) static inline integers i_add_products_fused(integers sum, integers code,
                                                                                  integers four) {
  return _mm512_dpbusd_epi32(sum, code, four);
}
static inline bool i_fused(void) { return __builtin_cpu_supports("avx512vnni"); }
#define CODE_LOGITS_FUSED                                                                             \
  __attribute__((target("avx512vnni"))) static void code_logits_fused(const pith_code_block *block) { \
    CODE_LOGITS(true)                                                                                 \
  }
static inline vector i_to_f32(integers a) { return _mm512_cvtepi32_ps(a); }
/* Bits of the lanes where a >= b; a, but 0 in such lanes. */
static inline unsigned v_reaches(vector a, vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline vector v_clear(vector a, unsigned lanes) { return _mm512_maskz_mov_ps((__mmask16)~lanes, a); }

/* b where its size is above that of a. */
static inline vector v_farther(vector a, vector b) {
  return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(_mm512_abs_ps(b), _mm512_abs_ps(a), _CMP_GT_OQ), b);
}
/* Four steps down the tree of q4_tree, to nodes 16 to 31. */
static inline integers v_descend(const float *tree, vector a) {
  const vector middles = v_load(tree);
  integers node = _mm512_set1_epi32(1);
  for (int step = 0; step < 4; step++) {
    __mmask16 above = _mm512_cmp_ps_mask(a, _mm512_permutexvar_ps(node, middles), _CMP_GT_OQ);
    node = _mm512_add_epi32(node, node);
    node = _mm512_mask_add_epi32(node, above, node, _mm512_set1_epi32(1));
  }
  return node;
}
/* table[the lowest four bits] */
static inline vector v_look_up(const float *table, integers at) { return _mm512_permutexvar_ps(at, v_load(table)); }

/* Lane i receives from[i >> shift]; 16 >> shift elements are read, `count` of them at most. */
static inline vector v_load_repeated(const float *from, size_t count, int shift) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_permutexvar_ps(_mm512_srl_epi32(lane, _mm_cvtsi32_si128(shift)), v_load_part(from, count));
}

/* [a b c d] with each lane quadruple holding the four partial sums of its quarter. */
static inline vector sum_quarters(const vector a[4]) {
  vector ab = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
  vector cd = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
  __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

static inline vector sum_halves(vector a, vector b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Lane i of the result is the sum over the lanes of a[i]. */
static inline vector v_sum_each(const vector a[LANES]) {
  return sum_halves(sum_halves(sum_quarters(a), sum_quarters(a + 4)),
                    sum_halves(sum_quarters(a + 8), sum_quarters(a + 12)));
}

#define TABLE pith_kernels_avx512
#define TABLE_NAME "avx512"
#include "kernels/vector.h"
