/* test_lm_weights.c - weights of every storage type, and products with them, against their definitions. */
#include "lm.h" /* reference */
#include "lm/weights.h"
#include "test.h"

/* ---- Storage types ---- */

static const struct {
  const char *name;
  pith_gguf_type type;
  size_t block, bytes, halves; /* halves: f16 scales, at the start of a block; Q6_K has its one at the end */
} stored[] = {
    {"F32", PITH_GGUF_TENSOR_F32, 1, 4, 0},       {"F16", PITH_GGUF_TENSOR_F16, 1, 2, 1},
    {"BF16", PITH_GGUF_TENSOR_BF16, 1, 2, 0},     {"Q8_0", PITH_GGUF_TENSOR_Q8_0, 32, 34, 1},
    {"Q4_0", PITH_GGUF_TENSOR_Q4_0, 32, 18, 1},   {"Q4_1", PITH_GGUF_TENSOR_Q4_1, 32, 20, 2},
    {"Q4_K", PITH_GGUF_TENSOR_Q4_K, 256, 144, 2}, {"Q5_K", PITH_GGUF_TENSOR_Q5_K, 256, 176, 2},
    {"Q6_K", PITH_GGUF_TENSOR_Q6_K, 256, 210, 1},
};
enum { STORED = sizeof stored / sizeof *stored };

/* Random bytes, but scales between 2^-7 and 1 / 4 of either sign, and F32 and BF16 likewise. */
static unsigned char *random_rows(size_t which, size_t rows, size_t columns) {
  const size_t block = stored[which].bytes, blocks = rows * columns / stored[which].block;
  pith_stream stream = pith_stream_make(which + 1, PITH_STREAM_TEST, 1);
  unsigned char *bytes = malloc(blocks * block);
  assert_non_null(bytes);
  for (size_t i = 0; i < blocks * block; i++) bytes[i] = (unsigned char)pith_random_below(&stream, i, 256);
  for (size_t b = 0; b < blocks; b++) {
    unsigned char *at = bytes + b * block;
    if (stored[which].type == PITH_GGUF_TENSOR_Q6_K) at += block - 2;
    for (size_t h = 0; h < stored[which].halves; h++) at[2 * h + 1] = (at[2 * h + 1] & 0xb3) | 0x20;
    if (stored[which].type == PITH_GGUF_TENSOR_F32) at[3] = (at[3] & 0x80) | 0x3f;
    if (stored[which].type == PITH_GGUF_TENSOR_BF16) at[1] = (at[1] & 0x80) | 0x3f;
  }
  return bytes;
}

static lm_matrix matrix_of(size_t which, const unsigned char *bytes, size_t rows, size_t columns) {
  return (lm_matrix){.type = lm_weight_type_of(stored[which].type),
                     .data = bytes,
                     .rows = rows,
                     .columns = columns,
                     .row_bytes = columns / stored[which].block * stored[which].bytes};
}

static void weights_expand_as_defined(void **state) {
  (void)state;
  enum { ROWS = 3, COLUMNS = 1024 };
  for (size_t which = 0; which < STORED; which++) {
    unsigned char *bytes = random_rows(which, ROWS, COLUMNS);
    const lm_matrix matrix = matrix_of(which, bytes, ROWS, COLUMNS);
    assert_non_null(matrix.type);
    assert_string_equal(matrix.type->name, stored[which].name);
    float out[COLUMNS];
    double largest = 0;
    for (size_t r = 0; r < ROWS; r++) {
      matrix.type->expand(lm_matrix_row(&matrix, r), out, COLUMNS);
      for (size_t i = 0; i < COLUMNS; i++) {
        const double wanted = reference_lm_weight(stored[which].name, lm_matrix_row(&matrix, r), i);
        /* An offset may cancel nearly all of a weight: the error is against the parts, at most 63 * 31 / 4 large. */
        const double room = stored[which].halves == 2 ? 1e-4 : 1e-6 * fabs(wanted);
        if (!(fabs((double)out[i] - wanted) <= room))
          fail_msg("%s: weight %zu is %g, not %g", stored[which].name, i, (double)out[i], wanted);
        largest = fmax(largest, fabs(wanted));
      }
    }
    assert_true(largest > 0.1);
    free(bytes);
  }
  assert_null(lm_weight_type_of((pith_gguf_type)6)); /* Q5_0 */
}

/* All ways to multiply: few tokens and many, one product and several, sizes that are no round numbers. */
static void products_are_right(void **state) {
  (void)state;
  enum { ROWS = 131, COLUMNS = 256, MOST = 37 };
  const size_t counts[] = {1, 2, 3, 4, MOST};
  pith_context *context = test_context(2);
  float *x = test_gaussian(5, MOST * COLUMNS, 1), *bias = test_gaussian(6, ROWS, 1);
  float *out = malloc(2 * MOST * ROWS * sizeof *out), *second = out + MOST * ROWS;
  double *weights = malloc((size_t)ROWS * COLUMNS * sizeof *weights);
  for (size_t which = 0; which < STORED; which++) {
    unsigned char *bytes = random_rows(which, ROWS, COLUMNS);
    const lm_matrix matrix = matrix_of(which, bytes, ROWS, COLUMNS);
    lm_matrix part = matrix;
    part.rows = 70;
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
      weights[i] = reference_lm_weight(stored[which].name, lm_matrix_row(&matrix, i / COLUMNS), i % COLUMNS);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
      const lm_product products[] = {{&matrix, bias, x, out}, {&part, NULL, x, second}};
      assert_ok(context, lm_multiply(context, products, 2, counts[c]));
      for (size_t t = 0; t < counts[c]; t++)
        for (size_t r = 0; r < ROWS; r++) {
          double wanted = 0, size = 0;
          for (size_t i = 0; i < COLUMNS; i++) {
            const double term = weights[r * COLUMNS + i] * (double)x[t * COLUMNS + i];
            wanted += term;
            size += fabs(term);
          }
          const double room = 1e-5 * size + 1e-6;
          if (!(fabs((double)out[t * ROWS + r] - wanted - (double)bias[r]) <= room) ||
              (r < part.rows && !(fabs((double)second[t * part.rows + r] - wanted) <= room)))
            fail_msg("%s, %zu tokens: row %zu of token %zu is %g, not %g", stored[which].name, counts[c], r, t,
                     (double)out[t * ROWS + r] - (double)bias[r], wanted);
        }
    }
    free(bytes);
  }
  free(x), free(bias), free(out), free(weights);
  test_context_free(context);
}

/* Rows of F32 and F16 need not be a multiple of any lane count. */
static void odd_widths(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float *x = test_gaussian(7, 100, 1), out = 0;
  for (size_t which = 0; which < 3; which++)
    for (size_t columns = 1; columns < 100; columns++) {
      unsigned char *bytes = random_rows(which, 1, columns);
      const lm_matrix matrix = matrix_of(which, bytes, 1, columns);
      double wanted = 0;
      for (size_t i = 0; i < columns; i++) wanted += reference_lm_weight(stored[which].name, bytes, i) * (double)x[i];
      assert_ok(context, lm_multiply(context, &(lm_product){&matrix, NULL, x, &out}, 1, 1));
      assert_true(fabs((double)out - wanted) < 1e-4);
      free(bytes);
    }
  free(x);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(weights_expand_as_defined),
      cmocka_unit_test(products_are_right),
      cmocka_unit_test(odd_widths),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
