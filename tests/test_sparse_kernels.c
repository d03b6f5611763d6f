/* test_sparse_kernels.c - the kernels of sparse attention against plain sums. */
#include "kernels/kernels.h"
#include "sparsity/index.h"
#include "test.h"

static void code_logits_are_products(void **state) {
  (void)state;
  const pith_kernels *kernels = pith_kernels_active();
  enum { ROWS = 64, MOST = 132 };
  static uint8_t codes[ROWS * MOST];
  static int8_t queries[PITH_MAX_GROUP * MOST], remainders[PITH_MAX_GROUP * MOST];
  float scales[ROWS], weights[ROWS], query_scale[PITH_MAX_GROUP], offsets[PITH_MAX_GROUP],
      logits[PITH_MAX_GROUP * ROWS];
  int32_t starts[2 * PITH_MAX_GROUP];
  pith_stream stream = pith_stream_make(3, PITH_STREAM_TEST, 0);
  for (size_t d = 4; d <= MOST; d += 64)
    for (size_t group = 1; group <= PITH_MAX_GROUP; group++) {
      const bool fine = group % 2 == d / 64 % 2;
      for (size_t i = 0; i < ROWS * d; i++) codes[i] = (uint8_t)(1 + pith_random_below(&stream, i, 255));
      for (size_t i = 0; i < group * d; i++) {
        queries[i] = (int8_t)((int)pith_random_below(&stream, 1000000 + i, 255) - 127);
        remainders[i] = (int8_t)((int)pith_random_below(&stream, 3000000 + i, 256) - 128);
      }
      memset(starts, 0, sizeof starts);
      for (size_t i = 0; i < group * d; i++) {
        starts[i / d] -= PITH_CODE_ZERO * queries[i];
        starts[group + i / d] -= PITH_CODE_ZERO * remainders[i];
      }
      for (size_t i = 0; i < ROWS; i++)
        scales[i] = (float)pith_random_uniform(&stream, 2000000 + i), weights[i] = (float)i;
      for (size_t q = 0; q < group; q++) query_scale[q] = 0x1p-12F * (float)(q + 1), offsets[q] = 3 - (float)q;
      kernels->code_logits(&(pith_code_block){.group = group,
                                              .d = d,
                                              .rows = ROWS,
                                              .queries = queries,
                                              .remainders = fine ? remainders : NULL,
                                              .starts = starts,
                                              .query_scale = query_scale,
                                              .codes = codes,
                                              .ahead = group % 3 == 1 ? codes : NULL,
                                              .scales = scales,
                                              .log_weights = group % 2 ? weights : NULL,
                                              .offsets = group % 3 ? offsets : NULL,
                                              .logits = logits});
      for (size_t q = 0; q < group; q++)
        for (size_t row = 0; row < ROWS; row++) {
          double sum = 0;
          for (size_t j = 0; j < d; j++) {
            int level = codes[pith_sparse_code_place(d, row, j)] - PITH_CODE_ZERO;
            sum += ((double)queries[q * d + j] + (fine ? (double)remainders[q * d + j] / 256 : 0)) * (double)level;
          }
          sum = sum * (double)scales[row] * (double)query_scale[q] + (group % 2 ? (double)weights[row] : 0) +
                (group % 3 ? (double)offsets[q] : 0);
          assert_true(fabs((double)logits[q * ROWS + row] - sum) <= 4e-7 * (fabs(sum) + 64));
        }
    }
}

static void split_parts_and_sums(void **state) {
  (void)state;
  const pith_kernels *kernels = pith_kernels_active();
  float *logits = test_gaussian(4, PITH_MAX_GROUP * PITH_SPLIT, 3);
  for (size_t group = 1; group <= PITH_MAX_GROUP; group++) {
    float threshold[PITH_MAX_GROUP], least[PITH_MAX_GROUP], sum[PITH_MAX_GROUP], square[PITH_MAX_GROUP];
    logits[10 + group] = -INFINITY;
    for (size_t q = 0; q < group; q++) threshold[q] = 2 + (float)q;
    threshold[0] = logits[5]; /* reached exactly */
    for (size_t q = 0; q < group; q++) least[q] = q == 3 ? 1000 : q == 2 ? logits[2 * PITH_SPLIT + 9] : -INFINITY;
    uint64_t chosen = kernels->split(logits, group, threshold, least, sum, square), expected = 0;
    for (size_t q = 0; q < group; q++)
      for (size_t i = 0; i < PITH_SPLIT; i++) expected |= (uint64_t)(logits[q * PITH_SPLIT + i] >= threshold[q]) << i;
    assert_true(chosen == expected && (chosen >> 5 & 1));
    for (size_t q = 0; q < group; q++) {
      double one = 0, two = 0;
      if (q == 3) { /* none counts */
        assert_true(sum[q] == 0 && square[q] == 0);
        continue;
      }
      for (size_t i = 0; i < PITH_SPLIT; i++)
        if (!(chosen >> i & 1)) {
          double weight = exp((double)logits[q * PITH_SPLIT + i] - (double)threshold[q]);
          one += weight;
          two += weight * weight;
        }
      assert_true(fabs((double)sum[q] - one) <= PITH_SPLIT_ERROR * one + 1e-30);
      assert_true(fabs((double)square[q] - two) <= PITH_SPLIT_ERROR * two + 1e-30);
    }
  }
  free(logits);
}

static void scores_are_products(void **state) {
  (void)state;
  const pith_kernels *kernels = pith_kernels_active();
  enum { ROWS = 601 };
  const size_t widths[] = {1, 7, 64, 100};
  for (size_t w = 0; w < 4; w++) {
    size_t d = widths[w];
    float *rows = test_gaussian(5, ROWS * d, 1), *queries = test_gaussian(6, PITH_MAX_GROUP * d, 1);
    float *out = malloc(ROWS * PITH_MAX_GROUP * sizeof *out);
    for (size_t group = 1; group <= PITH_MAX_GROUP; group++) {
      kernels->scores(group, d, queries, rows, ROWS, out);
      for (size_t row = 0; row < ROWS; row++)
        for (size_t q = 0; q < group; q++) {
          double sum = 0;
          for (size_t j = 0; j < d; j++) sum += (double)queries[q * d + j] * (double)rows[row * d + j];
          assert_true(fabs((double)out[row * pith_padded_group(group) + q] - sum) <= 1e-5 * (double)(d + 1));
        }
    }
    free(out);
    free(queries);
    free(rows);
  }
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(code_logits_are_products),
      cmocka_unit_test(split_parts_and_sums),
      cmocka_unit_test(scores_are_products),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
