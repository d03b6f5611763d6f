/* test_store.c - quantised points: rounding, reading, and attention straight from them. */
#include "attention.h"
#include "store.h"
#include "summary/store.h"
#include "test.h"

static const pith_dtype quantised[] = {PITH_Q8, PITH_Q4};
static const size_t widths[] = {1, 2, 7, 16, 31, 32, 33, 48, 64, 65, 80, 128, 129};
enum { WIDTHS = sizeof widths / sizeof *widths };
static const double UNIT = 0x1p-24;

/* One stored row in double, and before it was turned back. */
static void read_row(pith_dtype store, const unsigned char *row, const uint16_t *scales, size_t width, double *turned,
                     double *out) {
  double *scale = test_doubles(pith_scales(width));
  for (size_t i = 0; i < pith_scales(width); i++) scale[i] = (double)pith_f16_to_f32(scales[i]);
  reference_store_read(store == PITH_Q8 ? 8 : 4, row, scale, width, turned);
  reference_turn(turned, width, out);
  free(scale);
}

typedef struct stored {
  unsigned char *rows;
  uint16_t *scales;
  size_t bytes, each; /* of a row: bytes, scales */
} stored;

static stored store(pith_context *context, pith_dtype dtype, const float *x, size_t rows, size_t width) {
  stored s = {.bytes = pith_store_row_bytes(dtype, width), .each = pith_store_scales(dtype, width)};
  s.rows = malloc(rows * s.bytes + 1);
  s.scales = malloc((rows * s.each + 1) * sizeof *s.scales);
  assert_true(s.rows && s.scales);
  s.rows[rows * s.bytes] = 42;
  s.scales[rows * s.each] = 42;
  assert_ok(context, pith_store_write(context, "rows", dtype, x, rows, width, s.rows, s.scales));
  assert_true(s.rows[rows * s.bytes] == 42 && s.scales[rows * s.each] == 42);
  return s;
}

static void release(stored *s) {
  free(s->rows);
  free(s->scales);
}

/* ---- Rows ---- */

static void test_turn(void **state) {
  (void)state;
  for (size_t width = 2; width <= 512; width *= 2) {
    float *x = test_gaussian(width, 3 * width, 1), *y = test_gaussian(width, 3 * width, 1);
    double *row = test_doubles(width), *turned = test_doubles(width);
    pith_turn(y, 3, width);
    for (size_t r = 0; r < 3; r++) {
      for (size_t i = 0; i < width; i++) row[i] = x[r * width + i];
      reference_turn(row, width, turned);
      for (size_t i = 0; i < width; i++) assert_true(fabs(y[r * width + i] - turned[i]) <= 1e-6);
    }
    pith_turn(y, 3, width);
    for (size_t i = 0; i < 3 * width; i++) assert_true(fabsf(y[i] - x[i]) <= 1e-5F);
    free(x), free(y), free(row), free(turned);
  }
  assert_true(pith_turned(PITH_Q8, 64) && pith_turned(PITH_Q4, 2));
  assert_false(pith_turned(PITH_Q8, 80) || pith_turned(PITH_Q4, 1) || pith_turned(PITH_F16, 64));
}

/* Rows of every size and shape: Gaussian, one outlier, all equal, zeros, very small, very large. */
static float *varied_rows(size_t rows, size_t width) {
  float *x = test_gaussian(5, rows * width, 1);
  for (size_t r = 0; r < rows; r++) {
    float *row = x + r * width;
    if (r % 6 == 1) row[r % width] = 60;
    for (size_t i = 0; i < width; i++) {
      if (r % 6 == 2) row[i] = -3;
      if (r % 6 == 3) row[i] = 0;
      if (r % 6 == 4) row[i] *= 1e-2F;
      if (r % 6 == 5) row[i] *= 1e4F;
    }
  }
  return x;
}

/* Squared error of the plain way: sixteen even steps, the largest number on an end. */
static double even_steps(const double *x, size_t count) {
  double largest = 0, error = 0;
  for (size_t i = 0; i < count; i++)
    if (fabs(x[i]) > fabs(largest)) largest = x[i];
  for (size_t i = 0; i < count; i++) {
    double step = largest / -8, level = step == 0 ? 0 : fmax(-8, fmin(7, nearbyint(x[i] / step)));
    error += pow(x[i] - level * step, 2);
  }
  return error;
}

/* q8: every number within half a step. q4: every number at its nearest level. */
static void check_block(pith_dtype dtype, const double *x, const double *y, size_t count, double scale, double slack) {
  for (size_t i = 0; i < count; i++) {
    double error = fabs(x[i] - y[i]);
    if (dtype == PITH_Q8) assert_true(error <= 0.5 * fabs(scale) + slack);
    for (size_t l = 0; dtype == PITH_Q4 && l < 16; l++)
      assert_true(error <= fabs(x[i] - reference_levels[l] * scale) + slack);
  }
}

static void test_rounding(void **state) {
  (void)state;
  enum { ROWS = 60 };
  pith_context *context = test_context(1);
  double ours = 0, plain = 0;
  for (size_t s = 0; s < 2; s++)
    for (size_t w = 0; w < WIDTHS; w++) {
      size_t width = widths[w];
      float *x = varied_rows(ROWS, width), *back = malloc(ROWS * width * sizeof *back);
      stored kept = store(context, quantised[s], x, ROWS, width);
      pith_store_read(quantised[s], kept.rows, kept.scales, ROWS, width, back);
      double *row = test_doubles(width), *turned = test_doubles(width), *read = test_doubles(width),
             *unturned = test_doubles(width);
      for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < width; i++) row[i] = x[r * width + i];
        reference_turn(row, width, turned);
        double slack = 0; /* of turning in f32 */
        for (size_t i = 0; i < width; i++) slack = fmax(slack, 16 * UNIT * fabs(row[i]));
        read_row(quantised[s], kept.rows + r * kept.bytes, kept.scales + r * kept.each, width, read, unturned);
        for (size_t i = 0; i < width; i += 32) {
          size_t count = pith_min_size(32, width - i);
          double scale = pith_f16_to_f32(kept.scales[r * kept.each + i / 32]);
          check_block(quantised[s], turned + i, read + i, count, scale, slack);
          if (quantised[s] == PITH_Q8 || r % 6) continue;
          for (size_t j = i; j < i + count; j++) ours += pow(turned[j] - read[j], 2);
          plain += even_steps(turned + i, count);
        }
        double size = 0;
        for (size_t i = 0; i < width; i++) size = fmax(size, fabs(read[i]));
        for (size_t i = 0; i < width; i++)
          assert_true(fabs(back[r * width + i] - unturned[i]) <= 16 * UNIT * sqrt((double)width) * size);
      }
      if (quantised[s] == PITH_Q4 && width % 2) /* the half byte behind an odd row */
        for (size_t r = 0; r < ROWS; r++) assert_int_equal(kept.rows[(r + 1) * kept.bytes - 1] / 16, 0);
      release(&kept);
      free(x), free(back), free(row), free(turned), free(read), free(unturned);
    }
  printf("q4: %.2f of the squared error of sixteen even steps\n", ours / plain);
  assert_true(ours < 0.85 * plain);
  test_context_free(context);
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float row[6] = {0};
  unsigned char out[64];
  uint16_t scales[4];
  for (size_t s = 0; s < 2; s++) {
    const float bad[] = {NAN, INFINITY, -INFINITY, 3e38F};
    for (size_t i = 0; i < 4; i++) {
      row[4] = bad[i];
      assert_int_equal(pith_store_write(context, "keys", quantised[s], row, 2, 3, out, scales), PITH_E_VALUE);
      assert_non_null(strstr(pith_context_message(context), "keys: row 1, column 1"));
    }
    assert_int_equal(pith_store_check(context, quantised[s], 1 << 16, 1 << 16), PITH_OK);
    assert_int_equal(pith_store_check(context, quantised[s], (1 << 16) + 1, 1), PITH_E_SHAPE);
    assert_int_equal(pith_store_check(context, quantised[s], 1, (1 << 16) + 1), PITH_E_SHAPE);
  }
  /* In rows that are written together, the first that fails is named. */
  enum { MANY = 300, WIDTH = 64 };
  float *many = test_gaussian(3, MANY * WIDTH, 1);
  void *kept = malloc(MANY * WIDTH * sizeof(float));
  uint16_t many_scales[MANY * WIDTH / PITH_SCALED];
  static const pith_dtype stores[] = {PITH_Q8, PITH_Q4, PITH_F16, PITH_BF16, PITH_F32};
  for (size_t s = 0; s < 5; s++)
    for (size_t at = 7; at < MANY; at += 61) {
      const float saved = many[at * WIDTH + 5];
      many[at * WIDTH + 5] = s < 3 && at % 2 ? 1e9F : -INFINITY;
      assert_int_equal(pith_store_write(context, "keys", stores[s], many, MANY, WIDTH, kept, many_scales),
                       PITH_E_VALUE);
      char named[64];
      (void)snprintf(named, sizeof named, "keys: row %zu, column 5 is", at);
      assert_non_null(strstr(pith_context_message(context), named));
      many[at * WIDTH + 5] = saved;
      assert_ok(context, pith_store_write(context, "keys", stores[s], many, MANY, WIDTH, kept, many_scales));
    }
  free(many);
  free(kept);
  assert_int_equal(pith_store_check(context, PITH_F64, 8, 8), PITH_E_TYPE);
  assert_int_equal(pith_store_check(context, PITH_I8, 8, 8), PITH_E_TYPE);
  /* Not arrays: */
  pith_array keys = pith_array_matrix(out, PITH_Q8, 2, 3);
  assert_int_equal(pith_array_to_f32(context, &keys, "keys", 1, row), PITH_E_TYPE);
  assert_int_equal(pith_dtype_size(PITH_Q8) + pith_dtype_size(PITH_Q4), 0);
  test_context_free(context);
}

static void test_bytes(void **state) {
  (void)state;
  assert_int_equal(pith_store_point_bytes(PITH_F32, 64, 64), 516);
  assert_int_equal(pith_store_point_bytes(PITH_F16, 64, 64), 260);
  assert_int_equal(pith_store_point_bytes(PITH_Q8, 64, 64), 140);
  assert_int_equal(pith_store_point_bytes(PITH_Q4, 64, 64), 76);
  assert_int_equal(pith_store_point_bytes(PITH_Q8, 33, 7), 40 + 3 * 2 + 4);
  assert_int_equal(pith_store_point_bytes(PITH_Q4, 33, 7), 17 + 4 + 3 * 2 + 4);
}

/* ---- Kernels ---- */

static void check_kernel(pith_context *context, const pith_kernels *table, pith_dtype dtype, size_t group, size_t d,
                         size_t dv, size_t n, bool weights) {
  float *keys = test_gaussian(1 + n, n * d, 2), *values = test_gaussian(2 + n, n * dv, 1);
  float *queries = test_gaussian(3 + d, group * d, 1 / sqrt((double)d)), *log_weight = test_gaussian(4, n, 1);
  stored k = store(context, dtype, keys, n, d), v = store(context, dtype, values, n, dv);
  double *query64 = test_doubles(group * d), *key64 = test_doubles(n * d), *value64 = test_doubles(n * dv),
         *weight64 = test_doubles(n);
  double *exact = test_doubles(group * dv), *row = test_doubles(d + dv);
  unsigned char *mask = calloc(group * n + 1, 1);
  size_t begin[PITH_MAX_GROUP], end[PITH_MAX_GROUP];
  for (size_t q = 0; q < group; q++) {
    begin[q] = q * n / 20;
    end[q] = q == 2 ? begin[q] : n - q * n / 17;
    for (size_t i = begin[q]; i < end[q]; i++) mask[q * n + i] = 1;
  }
  for (size_t i = 0; i < group * d; i++) query64[i] = queries[i];
  for (size_t i = 0; i < n; i++) {
    weight64[i] = log_weight[i];
    read_row(dtype, k.rows + i * k.bytes, k.scales + i * k.each, d, row, key64 + i * d);
    read_row(dtype, v.rows + i * v.bytes, v.scales + i * v.each, dv, row, value64 + i * dv);
  }
  reference_attention(query64, group, key64, value64, weights ? weight64 : NULL, n, d, dv, 1, mask, exact);

  if (pith_turned(dtype, d)) pith_turn(queries, group, d);
  float largest[PITH_MAX_GROUP], sum[PITH_MAX_GROUP] = {0}, *output = calloc(group * dv + 1, sizeof *output);
  for (size_t q = 0; q < PITH_MAX_GROUP; q++) largest[q] = -INFINITY;
  output[group * dv] = 42;
  pith_kernels_attend(table, dtype)(&(pith_attend_block){.group = group,
                                                         .d = d,
                                                         .dv = dv,
                                                         .rows = n,
                                                         .queries = queries,
                                                         .keys = k.rows,
                                                         .values = v.rows,
                                                         .key_stride = (ptrdiff_t)k.bytes,
                                                         .value_stride = (ptrdiff_t)v.bytes,
                                                         .key_scales = k.scales,
                                                         .value_scales = v.scales,
                                                         .log_weights = weights ? log_weight : NULL,
                                                         .begin = begin,
                                                         .end = end,
                                                         .largest = largest,
                                                         .sum = sum,
                                                         .output = output});
  assert_true(output[group * dv] == 42);
  if (pith_turned(dtype, dv)) pith_turn(output, group, dv);
  for (size_t i = 0; i < group * dv; i++) {
    double found = sum[i / dv] > 0 ? output[i] / sum[i / dv] : output[i];
    if (!(fabs(found - exact[i]) <= 2e-6))
      fail_msg("%s, %s, group %zu, d %zu, dv %zu, rows %zu: query %zu, column %zu is %.9g, not %.9g", table->name,
               pith_dtype_name(dtype), group, d, dv, n, i / dv, i % dv, found, exact[i]);
  }
  release(&k), release(&v);
  void *all[] = {keys, values, queries, log_weight, query64, key64, value64, weight64, exact, row, mask, output};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void test_kernels(void **state) {
  (void)state;
  static const char *const names[] = {"scalar", "avx2", "avx512"};
  static const size_t rows[] = {1, 17, 64, 130, 600, 0};
  pith_context *context = test_context(1);
  for (size_t t = 0; t < 3; t++) {
    const pith_kernels *table = pith_kernels_named(names[t]);
    for (size_t s = 0; table && s < 2; s++)
      for (size_t w = 0; w < WIDTHS; w++)
        for (size_t group = 1; group <= PITH_MAX_GROUP; group++)
          check_kernel(context, table, quantised[s], group, widths[w], widths[(w + group) % WIDTHS],
                       rows[(w + group) % 6], group % 2);
    /* Rows with so many scales that a tile holds few of them. */
    if (table) check_kernel(context, table, PITH_Q8, 1, 5000, 40, 40, false);
    if (table) check_kernel(context, table, PITH_Q4, 3, 40, 20001, 40, false);
  }
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_turn),  cmocka_unit_test(test_rounding), cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_bytes), cmocka_unit_test(test_kernels),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
