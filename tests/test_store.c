/* test_store.c - quantised points: rounding, reading, attention straight from them, and what they cost real heads. */
#include "attention.h"
#include "pith/compress.h"
#include "pith/file.h"
#include "store.h"
#include "summary/store.h"
#include "summary/summary.h"
#include "test.h"

static const pith_dtype quantised[] = {PITH_Q8, PITH_Q4};
static const size_t widths[] = {1, 2, 7, 16, 31, 32, 33, 48, 64, 65, 80, 128, 129};
enum { WIDTHS = sizeof widths / sizeof *widths };
static const double UNIT = 0x1p-24;

static double *doubles(size_t count) {
  double *out = calloc(count ? count : 1, sizeof *out);
  assert_non_null(out);
  return out;
}

/* One stored row in double, and before it was turned back. */
static void read_row(pith_dtype store, const unsigned char *row, const uint16_t *scales, size_t width, double *turned,
                     double *out) {
  double *scale = doubles(pith_scales(width));
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
    double *row = doubles(width), *turned = doubles(width);
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
      double *row = doubles(width), *turned = doubles(width), *read = doubles(width), *unturned = doubles(width);
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
  double *query64 = doubles(group * d), *key64 = doubles(n * d), *value64 = doubles(n * dv), *weight64 = doubles(n);
  double *exact = doubles(group * dv), *row = doubles(d + dv);
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

/* ---- Summaries ---- */

enum { LAYERS = 2, HEADS = 2, GROUP = 2, M = 9, LATER = 5 };

static pith_summary *make_summary(pith_context *context, const pith_dtype *stores, size_t d, size_t dv, uint64_t seed) {
  pith_summary *summary = NULL;
  assert_ok(context, pith_summary_create(context, LAYERS, HEADS, &summary));
  summary->info.scale = 1 / sqrt((double)d);
  strcpy(summary->info.engine, "nystrom");
  for (size_t i = 0; i < LAYERS * HEADS; i++) {
    size_t points = 20 + 3000 * (i == 1) + i;
    float *keys = test_gaussian(seed + i, points * d, 1.5), *values = test_gaussian(seed + 10 + i, points * dv, 1);
    float *log_weight = test_gaussian(seed + 20 + i, points, 1);
    assert_ok(context, pith_summary_set_head(context, summary, i / HEADS, i % HEADS, points, d, dv, stores[i], keys,
                                             values, log_weight, NULL, NULL));
    pith_summary_view(summary, i / HEADS, i % HEADS)->source_rows = 5 * points;
    free(keys), free(values), free(log_weight);
  }
  return summary;
}

/* The answers of head i in double: its points, then the later rows that each query sees. */
static void reference_answers(const pith_head_view *view, const float *queries, const float *later_keys,
                              const float *later_values, double scale, double *out) {
  size_t d = view->d, dv = view->dv, n = view->points, all = n + (later_keys ? LATER : 0);
  float *rows = malloc((n * (d + dv) + 1) * sizeof *rows);
  double *query64 = doubles(M * d), *key64 = doubles(all * d), *value64 = doubles(all * dv), *weight64 = doubles(all);
  unsigned char *mask = malloc(M * all + 1);
  pith_head_to_f32(view, rows, rows + n * d);
  for (size_t i = 0; i < M * d; i++) query64[i] = queries[i];
  for (size_t i = 0; i < all * d; i++) key64[i] = i < n * d ? rows[i] : later_keys[i - n * d];
  for (size_t i = 0; i < all * dv; i++) value64[i] = i < n * dv ? rows[n * d + i] : later_values[i - n * dv];
  for (size_t i = 0; i < n; i++) weight64[i] = view->log_weight[i];
  for (size_t r = 0; r < M; r++)
    for (size_t i = 0; i < all; i++) mask[r * all + i] = i < n || i - n + M <= LATER + r;
  reference_attention(query64, M, key64, value64, weight64, all, d, dv, scale, mask, out);
  void *blocks[] = {rows, query64, key64, value64, weight64, mask};
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) free(blocks[i]);
}

/* Heads of different stores, alone and with later rows, which are not turned. */
static void test_attend(void **state) {
  (void)state;
  static const pith_dtype stores[] = {PITH_Q8, PITH_Q4, PITH_F16, PITH_Q4};
  static const size_t shapes[][2] = {{64, 64}, {64, 33}, {33, 64}, {80, 48}};
  pith_context *context = test_context(2);
  for (size_t shape = 0; shape < 4; shape++) {
    size_t d = shapes[shape][0], dv = shapes[shape][1], count = LAYERS * HEADS * GROUP * M * dv;
    pith_summary *summary = make_summary(context, stores, d, dv, 50);
    float *queries = test_gaussian(1, LAYERS * HEADS * GROUP * M * d, 1.5), *out = malloc(count * sizeof *out);
    float *later_keys = test_gaussian(2, LAYERS * HEADS * LATER * d, 1.5);
    float *later_values = test_gaussian(3, LAYERS * HEADS * LATER * dv, 1);
    pith_array q = {queries, PITH_F32, 4, {LAYERS, HEADS * GROUP, M, d}, {0}};
    pith_array k = {later_keys, PITH_F32, 4, {LAYERS, HEADS, LATER, d}, {0}};
    pith_array v = {later_values, PITH_F32, 4, {LAYERS, HEADS, LATER, dv}, {0}};
    for (pith_array *array = &q; array; array = array == &q ? &k : array == &k ? &v : NULL) {
      ptrdiff_t stride = sizeof(float);
      for (size_t i = 4; i-- > 0; stride *= (ptrdiff_t)array->shape[i]) array->stride[i] = stride;
    }
    double *exact = doubles(M * dv);
    for (int beside = 0; beside < 2; beside++) {
      if (beside)
        assert_ok(context, pith_summary_attend_beside(context, summary, &q, &k, &v, 0, out));
      else
        assert_ok(context, pith_summary_attend(context, summary, &q, 0, out));
      for (size_t j = 0; j < LAYERS * HEADS * GROUP; j++) {
        size_t i = j / GROUP;
        pith_head_view view;
        assert_ok(context, pith_summary_head(context, summary, i / HEADS, i % HEADS, &view));
        assert_int_equal(view.store, stores[i]);
        assert_int_equal(view.bytes, view.points * pith_store_point_bytes(stores[i], d, dv));
        reference_answers(&view, queries + j * M * d, beside ? later_keys + i * LATER * d : NULL,
                          later_values + i * LATER * dv, summary->info.scale, exact);
        for (size_t e = 0; e < M * dv; e++)
          if (!(fabs(out[j * M * dv + e] - exact[e]) <= 3e-6))
            fail_msg("%zu by %zu, head %zu, beside %d: %g, not %g", d, dv, j, beside, (double)out[j * M * dv + e],
                     exact[e]);
      }
    }
    pith_summary_free(summary);
    free(queries), free(out), free(later_keys), free(later_values), free(exact);
  }
  test_context_free(context);
}

static void test_merge(void **state) {
  (void)state;
  static const pith_dtype stores[2][4] = {{PITH_Q8, PITH_Q4, PITH_Q4, PITH_F16}, {PITH_Q8, PITH_Q4, PITH_Q8, PITH_Q4}};
  pith_context *context = test_context(1);
  enum { D = 48, DV = 32 };
  pith_summary *part[2] = {make_summary(context, stores[0], D, DV, 50), make_summary(context, stores[1], D, DV, 90)};
  pith_summary *merged = NULL;
  assert_ok(context, pith_summary_merge(context, (const pith_summary *const *)part, 2, &merged));
  for (size_t i = 0; i < LAYERS * HEADS; i++) {
    pith_head_view from[2], view;
    assert_ok(context, pith_summary_head(context, merged, i / HEADS, i % HEADS, &view));
    assert_int_equal(view.store, i < 2 ? stores[0][i] : PITH_F32);
    float *all = malloc(view.points * (D + DV) * sizeof *all), *one = malloc(view.points * (D + DV) * sizeof *one);
    pith_head_to_f32(&view, all, all + view.points * D);
    size_t at = 0;
    for (size_t p = 0; p < 2; p++) {
      assert_ok(context, pith_summary_head(context, part[p], i / HEADS, i % HEADS, &from[p]));
      pith_head_to_f32(&from[p], one, one + from[p].points * D);
      assert_memory_equal(all + at * D, one, from[p].points * D * sizeof *one);
      assert_memory_equal(all + view.points * D + at * DV, one + from[p].points * D, from[p].points * DV * sizeof *one);
      at += from[p].points;
    }
    assert_int_equal(at, view.points);
    free(all), free(one);
  }
  for (size_t p = 0; p < 2; p++) pith_summary_free(part[p]);
  pith_summary_free(merged);
  test_context_free(context);
}

/* ---- Real heads: the demonstration arrays, the first rows kept, asked by the later queries with the later rows
 * beside them, as a model does ---- */

enum { PREFIX = 1536, ASKED = 512 };

typedef struct real_heads {
  pith_file *file[3];
  pith_array queries, keys, values;           /* of the prefix, two layers */
  pith_array asked, later_keys, later_values; /* behind it */
  size_t rows;                                /* answers */
  float *exact;
} real_heads;

static pith_array open_array(pith_context *context, const char *name, pith_file **file) {
  char path[1024];
  pith_array array;
  (void)snprintf(path, sizeof path, PITH_ROOT "/examples/data/text-%s.npy", name);
  assert_ok(context, pith_npy_open(context, path, file, &array));
  array.shape[0] = 2;
  return array;
}

static void open_heads(pith_context *context, real_heads *heads) {
  pith_array queries = open_array(context, "queries", &heads->file[0]);
  pith_array keys = open_array(context, "keys", &heads->file[1]);
  pith_array values = open_array(context, "values", &heads->file[2]);
  heads->queries = pith_array_rows(&queries, 0, PREFIX);
  heads->keys = pith_array_rows(&keys, 0, PREFIX);
  heads->values = pith_array_rows(&values, 0, PREFIX);
  heads->asked = pith_array_rows(&queries, PREFIX, ASKED);
  heads->later_keys = pith_array_rows(&keys, PREFIX, ASKED);
  heads->later_values = pith_array_rows(&values, PREFIX, ASKED);
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.causal = 1;
  heads->rows = pith_array_layers(&queries) * pith_array_heads(&queries) * ASKED;
  heads->exact = malloc(heads->rows * 64 * sizeof(float));
  assert_ok(context, pith_attention_compute(context, &heads->asked, &keys, &values, &options, heads->exact));
}

static void close_heads(real_heads *heads) {
  for (size_t i = 0; i < 3; i++) pith_file_close(heads->file[i]);
  free(heads->exact);
}

static pith_error error_of(pith_context *context, const real_heads *heads, const char *engine, pith_dtype store,
                           double *ratio) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  options.store = store;
  options.rope = PITH_ROPE_PAIRS;
  options.rope_base = 10000;
  options.samples = 768;
  options.probes = 0;
  options.refine = 0;
  if (strcmp(engine, "exact") != 0) options.points = PREFIX / 8;
  pith_summary *summary = NULL;
  float *out = malloc(heads->rows * 64 * sizeof *out);
  assert_ok(context, pith_compress(context, &heads->keys, &heads->values, &heads->queries, &options, &summary));
  assert_ok(context, pith_summary_attend_beside(context, summary, &heads->asked, &heads->later_keys,
                                                &heads->later_values, 0, out));
  *ratio = pith_summary_describe(summary).ratio;
  pith_error error = pith_error_measure(heads->exact, out, heads->rows, 64);
  pith_summary_free(summary);
  free(out);
  return error;
}

/* Points in q8 err as those in f32; those in q4, the negative control, do not. */
static void test_real_points(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  real_heads heads;
  double ratio = 0;
  open_heads(context, &heads);
  double plain = error_of(context, &heads, "nystrom", PITH_F32, &ratio).relative;
  double q8 = error_of(context, &heads, "nystrom", PITH_Q8, &ratio).relative;
  printf("nystrom, 1/8 of the points: relative error %.5f in f32, %.5f in q8 (ratio %.4f)", plain, q8, ratio);
  assert_true(fabs(q8 - plain) < 0.01 * plain);
  double q4 = error_of(context, &heads, "nystrom", PITH_Q4, &ratio).relative;
  printf(", %.5f in q4 (ratio %.4f)\n", q4, ratio);
  assert_true(q4 > 1.01 * plain && q4 < 2.5 * plain);
  close_heads(&heads);
  test_context_free(context);
}

static void test_whole_caches(void **state) {
  (void)state;
  static const struct {
    pith_dtype store;
    double ratio, most;
  } cases[] = {{PITH_F16, 260.0 / 256, 1e-5}, {PITH_Q8, 140.0 / 256, 6e-4}, {PITH_Q4, 76.0 / 256, 8e-3}};
  pith_context *context = test_context(2);
  real_heads heads;
  open_heads(context, &heads);
  for (size_t i = 0; i < 3; i++) {
    double ratio = 0, error = error_of(context, &heads, "exact", cases[i].store, &ratio).relative;
    printf("whole cache in %s: ratio %.4f, relative attention error %.5f\n", pith_dtype_name(cases[i].store), ratio,
           error);
    assert_true(fabs(ratio - cases[i].ratio) < 1e-9);
    assert_true(error < cases[i].most);
  }
  close_heads(&heads);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_turn),  cmocka_unit_test(test_rounding),    cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_bytes), cmocka_unit_test(test_kernels),     cmocka_unit_test(test_attend),
      cmocka_unit_test(test_merge), cmocka_unit_test(test_real_points), cmocka_unit_test(test_whole_caches)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
