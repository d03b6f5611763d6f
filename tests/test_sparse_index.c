/* test_sparse_index.c - what the index of sparse attention promises of its blocks, however it grew; and an index of a
 * summary's points, in every store. */
#include "kernels/kernels.h"
#include "pith/compress.h"
#include "sparsity/sparse.h"
#include "summary/summary.h"
#include "test.h"

/* ---- Bounds of all blocks ---- */

/* The largest eigenvalue of x'x, x (rows, width), by the power method from below; times up to 1 - 1e-6. */
static double eigenvalue(const double *x, size_t rows, size_t width) {
  double at[64], next[64], value = 0;
  assert_true(width <= 64);
  for (size_t j = 0; j < width; j++) at[j] = 1 + 0.1 * (double)j;
  for (int round = 0; round < 300; round++) {
    double length = 0;
    for (size_t j = 0; j < width; j++) length += at[j] * at[j];
    if (!(length > 0)) return 0;
    for (size_t j = 0; j < width; j++) at[j] /= sqrt(length), next[j] = 0;
    value = 0;
    for (size_t i = 0; i < rows; i++) {
      double product = 0;
      for (size_t j = 0; j < width; j++) product += x[i * width + j] * at[j];
      value += product * product;
      for (size_t j = 0; j < width; j++) next[j] += product * x[i * width + j];
    }
    memcpy(at, next, width * sizeof *at);
  }
  return value;
}

enum { D = 12, DV = 10, BLOCKS = 40, N = BLOCKS * PITH_SPARSE_BLOCK };

/* Values whose spread and mean turn elsewhere as the cache grows: short in all directions, then long in one, then their
 * means wander off, so that eigenvalues found early say nothing of later ones, and the anchor has to move. */
static void make_rows(float *keys, float *values) {
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < DV; j++) {
      float *v = &values[i * DV + j];
      const size_t block = i / PITH_SPARSE_BLOCK;
      *v *= block < 8 ? 0.1F : 1;
      if (block >= 16 && j == 3) *v *= 9;
      if (block >= 24 && j == 7) *v += (float)(block - 20);
    }
  for (size_t i = 0; i < N; i++) keys[i * D] *= 5;
}

/* What the index keeps of its values against what is true of them. */
static void check_values(const pith_sparse_head *head, const float *values) {
  static double about[N * DV], means[BLOCKS * DV];
  for (size_t p = 0; p < head->blocks; p++) {
    const float *mean = head->value_mean + p * DV;
    for (size_t j = 0; j < DV; j++) {
      means[p * DV + j] = (double)mean[j] - (double)head->anchor[j];
      for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) {
        const size_t row = head->order[p * PITH_SPARSE_BLOCK + i];
        about[(p * PITH_SPARSE_BLOCK + i) * DV + j] = (double)values[row * DV + j] - (double)mean[j];
      }
    }
  }
  const double spread = eigenvalue(about, head->blocks * PITH_SPARSE_BLOCK, DV),
               of_means = eigenvalue(means, head->blocks, DV);
  assert_true(head->values.spread >= spread * (1 - 1e-9) && head->means.spread >= of_means * (1 - 1e-9));
  /* Between eigenvalues a sixteenth of the trace may be added, and a power of the Gram matrix is a few % too large. */
  assert_true(head->values.spread <= spread * 1.1 + head->values.trace / 16);
  assert_true(head->means.spread <= of_means * 1.1 + head->means.trace / 16);
}

/* The same of keys: no block claims less spread of codes and residuals than it has. */
static void check_codes(const pith_sparse_head *head, const float *keys) {
  float most_residual = 0, most_code = 0;
  double residuals = 0, codes = 0;
  for (size_t p = 0; p < head->blocks; p++) {
    const pith_sparse_block *block = &head->block[p];
    double code[PITH_SPARSE_BLOCK * D], residual[PITH_SPARSE_BLOCK * D];
    for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) {
      const size_t row = head->order[p * PITH_SPARSE_BLOCK + i];
      double length = 0;
      for (size_t j = 0; j < D; j++) { /* D is no power of two: codes are of keys as they are */
        const int level =
            head->codes[p * PITH_SPARSE_BLOCK * head->code_d + pith_sparse_code_place(head->code_d, i, j)] -
            PITH_CODE_ZERO;
        code[i * D + j] = (double)level * (double)head->scales[p * PITH_SPARSE_BLOCK + i];
        residual[i * D + j] = (double)keys[row * D + j] - (double)head->mean[p * D + j] - code[i * D + j];
        length += residual[i * D + j] * residual[i * D + j];
      }
      assert_true(sqrt(length) <= (double)block->residual);
    }
    const double of_code = sqrt(eigenvalue(code, PITH_SPARSE_BLOCK, D));
    const double of_residual = sqrt(eigenvalue(residual, PITH_SPARSE_BLOCK, D));
    assert_true((double)block->code_spread >= of_code && (double)block->code_spread <= 1.6 * of_code);
    assert_true((double)block->residual_spread >= of_residual && (double)block->residual_spread <= 2 * of_residual);
    most_residual = fmaxf(most_residual, block->residual_spread);
    most_code = fmaxf(most_code, block->code_spread);
    residuals += (double)block->residual_spread * (double)block->residual_spread;
    codes += (double)block->code_spread * (double)block->code_spread;
  }
  assert_true(head->most_residual >= most_residual && head->most_code >= most_code);
  assert_true(head->residual_squares >= residuals * (1 - 1e-12) && head->code_squares >= codes * (1 - 1e-12));
}

static void grown_indexes_bound_spreads(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float *keys = test_gaussian(1, N * D, 1), *values = test_gaussian(2, N * DV, 1);
  make_rows(keys, values);
  const size_t steps[] = {1, 3, 64, 200};
  for (size_t s = 0; s < 4; s++) {
    pith_sparse_head head = {.memory = pith_memory_share(context)};
    for (size_t n = 0; n < N;) {
      n = pith_min_size(N, n + steps[s] * 7);
      const size_t first = head.blocks * PITH_SPARSE_BLOCK;
      const pith_rows rows = {.keys = keys + first * D,
                              .values = values + first * DV,
                              .key_stride = D * sizeof(float),
                              .value_stride = DV * sizeof(float),
                              .dtype = PITH_F32,
                              .count = n - first,
                              .d = D,
                              .dv = DV};
      const size_t before = head.blocks;
      assert_ok(context, pith_sparse_head_append(context, &head, &rows, first));
      if (head.blocks > before) check_values(&head, values);
    }
    check_codes(&head, keys);
    if (s == 0) {
      const pith_rows rows = {.keys = keys,
                              .values = values,
                              .key_stride = D * sizeof(float),
                              .value_stride = DV * sizeof(float),
                              .dtype = PITH_F32,
                              .count = N,
                              .d = D,
                              .dv = DV};
      assert_ok(context, pith_sparse_head_cluster(context, &head, &rows));
      check_values(&head, values);
      check_codes(&head, keys);
    }
    pith_sparse_head_free(&head);
    pith_memory_unshare(head.memory);
  }
  free(values);
  free(keys);
  test_context_free(context);
}

/* ---- Summaries ---- */

enum { LAYERS = 2, HEADS = 2, QUERY_HEADS = 4, POINTS = 600, WIDTH = 32, VALUES = 16, ASKED = 9 };

/* Heads of different numbers of points, with weights where `weighted`. */
static pith_summary *make_summary(pith_context *context, pith_dtype store, bool weighted) {
  pith_summary *summary = NULL;
  assert_ok(context, pith_summary_create(context, LAYERS, HEADS, &summary));
  summary->info.scale = 1 / sqrt((double)WIDTH);
  for (size_t i = 0; i < (size_t)LAYERS * HEADS; i++) {
    const size_t count = POINTS - 70 * i;
    float *keys = test_gaussian(10 + i, POINTS * WIDTH, 1.5), *values = test_gaussian(20 + i, POINTS * VALUES, 1);
    float *weight = test_gaussian(30 + i, POINTS, 0.5);
    assert_ok(context, pith_summary_set_head(context, summary, i / HEADS, i % HEADS, count, WIDTH, VALUES, store, keys,
                                             values, weighted ? weight : NULL, NULL, NULL));
    free(weight);
    free(values);
    free(keys);
  }
  return summary;
}

static void summaries_are_answered(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  enum { COUNT = LAYERS * QUERY_HEADS * ASKED };
  float *q = test_gaussian(3, COUNT * WIDTH, 2), exact[COUNT * VALUES], out[COUNT * VALUES], again[COUNT * VALUES];
  const pith_array queries = {q,
                              PITH_F32,
                              4,
                              {LAYERS, QUERY_HEADS, ASKED, WIDTH},
                              {QUERY_HEADS * ASKED * WIDTH * 4, ASKED * WIDTH * 4, WIDTH * 4, 4}};
  const pith_dtype stores[] = {PITH_F32, PITH_F16, PITH_BF16, PITH_Q8, PITH_Q4};
  for (size_t s = 0; s < 10; s++) {
    pith_summary *summary = make_summary(context, stores[s / 2], s % 2 == 1);
    pith_sparse_options options;
    pith_sparse_options_init(&options);
    options.eps = 0.2;
    options.always = 1;
    pith_sparse_account accounts[COUNT];
    pith_sparse_report report;
    assert_ok(context, pith_summary_attend(context, summary, &queries, 0, exact));
    assert_ok(context, pith_sparse_attend_summary(context, NULL, summary, &queries, &options, out, accounts, &report));
    for (size_t i = 0; i < COUNT; i++) {
      double error = 0;
      for (size_t j = 0; j < VALUES; j++) error += pow((double)exact[i * VALUES + j] - (double)out[i * VALUES + j], 2);
      assert_true(sqrt(error) <= accounts[i].bound + 1e-5 && accounts[i].bound <= options.eps);
      assert_int_equal(accounts[i].seen, POINTS - 70 * (i / (QUERY_HEADS * ASKED) * HEADS + i / (2 * ASKED) % HEADS));
    }
    assert_true(report.fraction_read < 0.9 && report.exact < report.queries);
    pith_sparse_index *index = NULL;
    assert_ok(context, pith_sparse_index_summary(context, summary, &index));
    assert_ok(context, pith_sparse_attend_summary(context, index, summary, &queries, &options, again, NULL, NULL));
    assert_memory_equal(out, again, sizeof out);

    options.attention.causal = 1;
    assert_int_equal(pith_sparse_attend_summary(context, index, summary, &queries, &options, again, NULL, NULL),
                     PITH_E_ARGUMENT);
    options.attention.causal = 0;
    pith_array wrong = queries;
    wrong.shape[3] = WIDTH - 1;
    assert_int_equal(pith_sparse_attend_summary(context, index, summary, &wrong, &options, again, NULL, NULL),
                     PITH_E_SHAPE);
    pith_summary *other = make_summary(context, stores[(s / 2 + 1) % 5], false);
    assert_int_equal(pith_sparse_attend_summary(context, index, other, &queries, &options, again, NULL, NULL),
                     PITH_E_TYPE);
    assert_int_equal(pith_sparse_attend_summary(context, NULL, NULL, &queries, &options, again, NULL, NULL),
                     PITH_E_ARGUMENT);
    pith_summary_free(other);
    pith_sparse_index_free(index);
    pith_summary_free(summary);
  }
  free(q);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(grown_indexes_bound_spreads),
      cmocka_unit_test(summaries_are_answered),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
