/* pith/attention.h - exact attention, and how far an answer is from it.
 *
 *   Attn(q, K, V) = sum_i w_i exp(s <q, k_i>) v_i / sum_i w_i exp(s <q, k_i>)
 *
 * Safe for any finite input: logits are shifted by their maximum. */
#ifndef PITH_ATTENTION_H
#define PITH_ATTENTION_H

#include "pith/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pith_attention_options {
  size_t struct_size;
  double scale;  /* s; 0: 1/sqrt(d) */
  int causal;    /* query row r of m stands at position n - m + r and sees keys up to there */
  size_t window; /* 0: none. A query at position p sees keys j with |p - j| < window */

  /* Global positions, in any order, each below n: every query sees these keys, and queries that stand there see
   * all keys, whatever window and block mask say; `causal` binds them too (Beltagy et al., Longformer, 2020). Sinks
   * beside a window are the first few positions (Xiong et al., StreamingLLM, 2024). */
  const size_t *globals;
  size_t global_count;

  /* Which blocks of keys each block of queries sees: u8 or i8, not 0 where it does; (R, C), or with the leading
   * axes of the queries. NULL: none. A block is `block` queries by `block` keys, so that R = ceil(m / block) and
   * C = ceil(n / block); with block = 0 it is m / R queries by n / C keys, which must be whole. Row 0 begins with
   * the first query. A key must pass the block mask, `window` and `causal`. */
  const pith_array *block_mask;
  size_t block;
} pith_attention_options;

PITH_API void pith_attention_options_init(pith_attention_options *options);

/* Exact attention of all heads.
 *
 * queries (..., m, d), keys (..., n, d), values (..., n, dv), each with none, one (heads) or two
 * (layers, heads) leading axes; layers agree, and the number of query heads is a multiple of the
 * number of kv heads: query head j belongs to kv head j / group. Types f32, f16, bf16, f64 (f64 is
 * rounded to f32 first). `out` is C-ordered f32 (layers, query heads, m, dv).
 *
 * A query that sees no key (n = 0, or a mask that leaves none) is answered with zeros. Arithmetic
 * is f32; the result does not depend on the number of threads. NaN and infinities are refused.
 * Concurrent calls need their own contexts. */
PITH_API PITH_CHECK pith_status pith_attention_compute(pith_context *context, const pith_array *queries,
                                                       const pith_array *keys, const pith_array *values,
                                                       const pith_attention_options *options, float *out);

/* How many keys a query sees under these options, mean over all queries and heads. Shapes and failures as above. */
PITH_API PITH_CHECK pith_status pith_attention_seen(pith_context *context, const pith_array *queries,
                                                    const pith_array *keys, const pith_attention_options *options,
                                                    double *out);

/* How far answers are from the exact ones, over `rows` queries: L2 norm of each row's difference. */
typedef struct pith_error {
  double mean, max, rms;
  double relative; /* mean norm of the difference / mean norm of the exact output */
  size_t worst;    /* the row of the largest error */
} pith_error;

/* exact, approximate: C-ordered f32 (rows, dv). rows = 0 gives zeros. */
PITH_API pith_error pith_error_measure(const float *exact, const float *approximate, size_t rows, size_t dv);

#ifdef __cplusplus
}
#endif
#endif
