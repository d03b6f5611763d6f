/* weights.h - matrices as models store them, and products with them.
 *
 * A matrix is (rows, columns): one row for each output. Rows are cut into blocks of 32 or 256 weights that share
 * scales (weights.c has the layouts). Arithmetic is f32: activations are never rounded, so that reading one
 * token or many gives the same numbers up to rounding. */
#ifndef PITH_LM_WEIGHTS_H
#define PITH_LM_WEIGHTS_H

#include "io/gguf.h"

/* What a storage type can do. */
typedef struct lm_weight_type {
  pith_gguf_type number;
  const char *name;
  void (*expand)(const unsigned char *row, float *out, size_t columns); /* the weights of a row */
} lm_weight_type;

/* NULL for a type that the runner does not compute with. */
const lm_weight_type *lm_weight_type_of(pith_gguf_type number);

typedef struct lm_matrix {
  const lm_weight_type *type;
  const unsigned char *data;
  size_t rows, columns, row_bytes;
} lm_matrix;

static inline const unsigned char *lm_matrix_row(const lm_matrix *matrix, size_t row) {
  return matrix->data + row * matrix->row_bytes;
}

/* The innermost loop of reading token by token: out[r] = <row r, x>, one table per instruction set. NULL where a
 * type has none: then rows are expanded. */
typedef void (*lm_rows_times)(const unsigned char *row, size_t row_bytes, size_t rows, const float *x, size_t columns,
                              float *out);

typedef struct lm_products {
  lm_rows_times f32, f16, q8_0, q4_0, q4_1;
} lm_products;

#if defined(__x86_64__)
extern const lm_products lm_products_avx2, lm_products_avx512;
#endif

/* out (tokens, rows of the matrix) = x (tokens, columns) times the matrix, plus bias (rows) where there is one. */
typedef struct lm_product {
  const lm_matrix *matrix;
  const float *bias; /* NULL: none */
  const float *x;
  float *out;
} lm_product;

/* Works out several products at once, for `tokens` rows of x each. Uses scratch slots 0 and 1. */
pith_status lm_multiply(pith_context *context, const lm_product *products, size_t count, size_t tokens);

#endif
