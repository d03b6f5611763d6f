/* attention.h - exact attention over stored rows, for the layers below it in the house. */
#ifndef PITH_SRC_ATTENTION_H
#define PITH_SRC_ATTENTION_H

#include "kernels/kernels.h"
#include "pith/attention.h"

/* Keys and values of one head as they are stored: f32, f16 or bf16 with contiguous rows. */
typedef struct pith_rows {
  const void *keys, *values;
  ptrdiff_t key_stride, value_stride; /* bytes */
  pith_dtype dtype;
  size_t count, d, dv;
  const float *log_weight; /* (count), or NULL */
} pith_rows;

/* Attention of `query_count` queries (C-ordered f32, already times the softmax scale) over the rows; no
 * mask. out: (query_count, dv). Allocates only scratch. Deterministic at any thread count: keys are
 * split at fixed multiples, and partial states are merged in order. Parallel over queries, or over
 * key chunks when queries are few. */
pith_status pith_attend_rows(pith_context *context, const pith_rows *rows, const float *queries, size_t query_count,
                             float *out);

/* Folds the state b into a (both over `dv` outputs of one query). */
void pith_attention_state_merge(float *largest_a, float *sum_a, float *output_a, float largest_b, float sum_b,
                                const float *output_b, size_t dv);

/* Checks that queries, keys, values fit together (dimensions, leading axes, groups; float types) and
 * fails with a sentence naming the argument and the numbers. queries may be NULL. */
pith_status pith_check_shapes(pith_context *context, const pith_array *queries, const pith_array *keys,
                              const pith_array *values);

#endif
