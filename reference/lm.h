/* lm.h - the transformer and the storage types of weights, in double, one number at a time. */
#ifndef PITH_REFERENCE_LM_H
#define PITH_REFERENCE_LM_H

#include <stddef.h>

/* Matrices are (rows, columns), one row for each output; NULL: the model has none. */
typedef struct reference_lm_layer {
  const float *attention_norm, *query, *key, *value, *query_bias, *key_bias, *value_bias, *query_norm, *key_norm;
  const float *output, *feed_forward_norm, *gate, *up, *down;
  const unsigned char *seen; /* (n, n): 1 where a token sees an earlier one or itself; NULL: all */
} reference_lm_layer;

typedef struct reference_lm {
  size_t vocabulary, width, layers, query_heads, kv_heads, head_size, feed_forward;
  int halves; /* coordinates i and head_size / 2 + i turn together; 0: 2 i and 2 i + 1 */
  double base, epsilon;
  const float *embedding, *unembedding, *output_norm;
  const float *rope_factors; /* (head_size / 2), or NULL */
  const reference_lm_layer *layer;
} reference_lm;

/* What comes out: logits (n, vocabulary); queries, keys, values (layers, heads, n, head_size) after turning;
 * residual (layers, n): the squared norm of what enters each layer's feed-forward network. Any may be NULL. */
typedef struct reference_lm_result {
  double *logits, *queries, *keys, *values, *residual;
} reference_lm_result;

void reference_lm_run(const reference_lm *model, const unsigned *tokens, size_t n, const reference_lm_result *out);

/* Weight number `index` of a row stored as that type: "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K",
 * "Q6_K". */
double reference_lm_weight(const char *type, const unsigned char *row, size_t index);

#endif
