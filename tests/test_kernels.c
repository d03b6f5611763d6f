/* test_kernels.c - every kernel of every instruction set that this processor has, against double precision. */
#include "attention.h"
#include "kernels/kernels.h"
#include "test.h"

static const char *const names[] = {"scalar", "avx2", "avx512"};
enum { NAMES = sizeof names / sizeof *names };
static const size_t lengths[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 255, 1000};
enum { LENGTHS = sizeof lengths / sizeof *lengths };
static const double UNIT = 0x1p-24; /* rounding to f32 errs by at most this, relatively */

/* Runs `body` on every table there is. */
static void each_table(void (*body)(const pith_kernels *)) {
  size_t ran = 0;
  for (size_t i = 0; i < NAMES; i++) {
    const pith_kernels *table = pith_kernels_named(names[i]);
    if (!table) continue;
    assert_string_equal(table->name, names[i]);
    body(table);
    ran++;
  }
  assert_true(ran >= 1);
}

static void test_choice(void **state) {
  (void)state;
  assert_null(pith_kernels_named("sse9"));
  assert_ptr_equal(pith_kernels_named("scalar"), &pith_kernels_scalar);
  assert_ptr_equal(pith_kernels_active(), pith_kernels_named(pith_isa_name()));
}

/* ---- Plain vectors ---- */

static void dot_body(const pith_kernels *table) {
  float *a = test_gaussian(1, 1001, 1), *b = test_gaussian(2, 1001, 1);
  for (size_t t = 0; t < LENGTHS; t++) {
    double exact = 0, size = 0;
    for (size_t i = 0; i < lengths[t]; i++) {
      exact += (double)a[i + 1] * b[i];
      size += fabs((double)a[i + 1] * b[i]);
    }
    double found = table->dot(a + 1, b, lengths[t]); /* a + 1: not aligned */
    assert_true(fabs(found - exact) <= 16 * UNIT * size);
  }
  free(a);
  free(b);
}
static void test_dot(void **state) {
  (void)state;
  each_table(dot_body);
}

static void axpy_body(const pith_kernels *table) {
  for (size_t t = 0; t < LENGTHS; t++) {
    size_t n = lengths[t];
    float *x = test_gaussian(3, n + 1, 1), *y = test_gaussian(4, n + 1, 1), *before = test_gaussian(4, n + 1, 1);
    table->axpy(-1.7f, x, y, n);
    for (size_t i = 0; i < n; i++) {
      double exact = before[i] + (double)-1.7f * x[i];
      assert_true(fabs(y[i] - exact) <= 2 * UNIT * (fabs(exact) + fabs(1.7 * x[i])));
    }
    assert_true(y[n] == before[n]); /* nothing behind the end is touched */
    free(x);
    free(y);
    free(before);
  }
}
static void test_axpy(void **state) {
  (void)state;
  each_table(axpy_body);
}

static void max_body(const pith_kernels *table) {
  assert_true(table->max(NULL, 0) == -INFINITY);
  float *x = test_gaussian(5, 1000, 1);
  for (size_t t = 1; t < LENGTHS; t++)
    for (size_t at = 0; at < lengths[t]; at += 1 + lengths[t] / 5) {
      float kept = x[at];
      x[at] = 100;
      assert_true(table->max(x, lengths[t]) == 100);
      x[at] = kept;
    }
  float low[3] = {-INFINITY, -3e38f, -INFINITY};
  assert_true(table->max(low, 3) == -3e38f);
  free(x);
}
static void test_max(void **state) {
  (void)state;
  each_table(max_body);
}

/* ---- exp ---- */

/* Units in the last place of f32 between `found` and the double `exact`, a normal number. */
static double ulps(float found, double exact) {
  int exponent;
  (void)frexp(exact, &exponent);
  return fabs(found - exact) / ldexp(1, exponent - 24);
}

static void exp_body(const pith_kernels *table) {
  enum { CHUNK = 4096 };
  static float x[CHUNK], y[CHUNK];
  double worst = 0;
  size_t normal = 0;
  /* Every 499th float of either sign, up to far beyond the range. */
  uint32_t sign = 0, bits = 0, last = 0x43000000u; /* 128 */
  for (bool more = true; more;) {
    size_t count = 0;
    for (; count < CHUNK; bits += 499) {
      if (bits > last) {
        if (sign) break;
        sign = 0x80000000u;
        bits = 0;
      }
      uint32_t pattern = bits | sign;
      memcpy(&x[count++], &pattern, sizeof pattern);
    }
    more = count == CHUNK;
    memcpy(y, x, sizeof y);
    double sum = table->exp_sum(y, count, 0), exact_sum = 0;
    for (size_t i = 0; i < count; i++) {
      double exact = exp(x[i]);
      exact_sum += y[i];
      if (exact < 0x1p-126) {
        assert_true(y[i] == 0);
      } else if (exact > 0x1.fffffep+127) {
        assert_true(isinf(y[i]) && y[i] > 0);
      } else {
        worst = fmax(worst, ulps(y[i], exact));
        normal++;
      }
    }
    if (isfinite(exact_sum) && exact_sum < 1e37) assert_true(fabs(sum - exact_sum) <= 1e-5 * exact_sum);
  }
  assert_true(normal > 4000000);
  printf("%s: exp errs by at most %.3f ulp over %zu floats\n", table->name, worst, normal);
  assert_true(worst <= PITH_EXP_ULP);

  float edge[5] = {-INFINITY, INFINITY, 0, -0.0f, NAN};
  for (size_t i = 0; i < 5; i++) {
    float copies[17];
    for (size_t j = 0; j < 17; j++) copies[j] = edge[i];
    (void)table->exp_sum(copies, 17, 0);
    for (size_t j = 0; j < 17; j++) { /* whole vectors and the tail */
      if (i == 0) assert_true(copies[j] == 0);
      if (i == 1) assert_true(copies[j] == INFINITY);
      if (i == 2 || i == 3) assert_true(copies[j] == 1);
      if (i == 4) assert_true(isnan(copies[j]));
    }
  }
  float shifted[3] = {10000, 9999, -INFINITY}; /* the use it is made for */
  float total = table->exp_sum(shifted, 3, -10000);
  assert_true(shifted[0] == 1 && shifted[2] == 0 && ulps(shifted[1], exp(-1)) <= PITH_EXP_ULP);
  assert_true(total == shifted[0] + shifted[1]);
}
static void test_exp(void **state) {
  (void)state;
  each_table(exp_body);
}

/* ---- Storage types ---- */

static void halves_body(const pith_kernels *table) {
  enum { ALL = 65536 };
  static uint16_t in[ALL], back[ALL];
  static float wide[ALL];
  for (size_t i = 0; i < ALL; i++) in[i] = (uint16_t)i;
  for (int bf16 = 0; bf16 < 2; bf16++) {
    size_t n = ALL - 3; /* with a tail */
    (bf16 ? table->bf16_to_f32 : table->f16_to_f32)(in, wide, n);
    for (size_t i = 0; i < n; i++) {
      float exact = bf16 ? pith_bf16_to_f32(in[i]) : pith_f16_to_f32(in[i]);
      assert_true(wide[i] == exact || (isnan(wide[i]) && isnan(exact)));
    }
    (bf16 ? table->f32_to_bf16 : table->f32_to_f16)(wide, back, n);
    for (size_t i = 0; i < n; i++) assert_true(back[i] == in[i] || isnan(wide[i]));
    /* Rounding: all sizes of numbers, halfway cases among them. */
    for (size_t i = 0; i < n; i++) {
      uint32_t bits = (uint32_t)(i * 0x9e3779b1u);
      if (i % 3 == 0) bits = (bits & 0xfffff000u) | (bf16 ? 0x8000u : 0x1000u);
      memcpy(&wide[i], &bits, sizeof bits);
    }
    (bf16 ? table->f32_to_bf16 : table->f32_to_f16)(wide, back, n);
    for (size_t i = 0; i < n; i++) {
      uint16_t exact = bf16 ? pith_f32_to_bf16(wide[i]) : pith_f32_to_f16(wide[i]);
      float again = bf16 ? pith_bf16_to_f32(back[i]) : pith_f16_to_f32(back[i]);
      assert_true(isnan(wide[i]) ? isnan(again) : back[i] == exact);
    }
  }
}
static void test_halves(void **state) {
  (void)state;
  each_table(halves_body);
}

/* ---- Attention ---- */

typedef struct attend_case {
  size_t group, d, dv, rows;
  pith_dtype dtype;
  bool weights, ranges;
  size_t padding; /* elements between rows, so that they are not aligned */
  size_t split;   /* rows of the first of two blocks; 0: one block */
} attend_case;

static void run_kernel(const pith_kernels *table, pith_dtype dtype, const pith_attend_block *block) {
  (dtype == PITH_F32 ? table->attend_f32 : dtype == PITH_F16 ? table->attend_f16 : table->attend_bf16)(block);
}

/* Stores rows of `columns` with `padding` elements of rubbish (not a number) between them, and leaves what
 * was stored in `exact`. */
static void *store_rows(const float *from, size_t rows, size_t columns, size_t padding, pith_dtype dtype,
                        double *exact) {
  size_t size = pith_dtype_size(dtype), width = columns + padding;
  char *out = malloc(rows * width * size + 1);
  assert_non_null(out);
  memset(out, 0xff, rows * width * size);
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) {
      float value = from[i * columns + j];
      uint16_t half = dtype == PITH_F16 ? pith_f32_to_f16(value) : pith_f32_to_bf16(value);
      if (dtype == PITH_F32)
        memcpy(out + (i * width + j) * size, &value, sizeof value);
      else
        memcpy(out + (i * width + j) * size, &half, sizeof half);
      exact[i * columns + j] =
          dtype == PITH_F32 ? value : (dtype == PITH_F16 ? pith_f16_to_f32(half) : pith_bf16_to_f32(half));
    }
  return out;
}

static void check_attend(const pith_kernels *table, const attend_case *c, uint64_t seed) {
  size_t n = c->rows;
  float *queries = test_gaussian(seed, c->group * c->d, 1 / sqrt((double)c->d));
  float *keys = test_gaussian(seed + 1, n * c->d, 2), *values = test_gaussian(seed + 2, n * c->dv, 1);
  float *log_weight = test_gaussian(seed + 3, n, 1);
  double *query64 = test_doubles(c->group * c->d), *key64 = test_doubles(n * c->d), *value64 = test_doubles(n * c->dv);
  double *weight64 = test_doubles(n), *exact = test_doubles(c->group * c->dv);
  unsigned char *mask = calloc(c->group * n + 1, 1);
  for (size_t i = 0; i < c->group * c->d; i++) query64[i] = queries[i];
  for (size_t i = 0; i < n; i++) weight64[i] = log_weight[i];
  char *key_rows = store_rows(keys, n, c->d, c->padding, c->dtype, key64);
  char *value_rows = store_rows(values, n, c->dv, c->padding, c->dtype, value64);
  size_t begin[PITH_MAX_GROUP], end[PITH_MAX_GROUP];
  for (size_t q = 0; q < c->group; q++) { /* query 1 sees nothing */
    begin[q] = c->ranges ? q * n / 9 : 0;
    end[q] = c->ranges ? (q == 1 ? begin[q] : n - q * n / 17) : n;
    for (size_t i = begin[q]; i < end[q]; i++) mask[q * n + i] = 1;
  }
  reference_attention(query64, c->group, key64, value64, c->weights ? weight64 : NULL, n, c->d, c->dv, 1, mask, exact);

  float largest[PITH_MAX_GROUP], sum[PITH_MAX_GROUP];
  float *output = calloc(c->group * c->dv + 1, sizeof *output);
  output[c->group * c->dv] = 42;
  for (size_t q = 0; q < c->group; q++) {
    largest[q] = -INFINITY;
    sum[q] = 0;
  }
  size_t element = pith_dtype_size(c->dtype), from = 0;
  ptrdiff_t key_stride = (ptrdiff_t)((c->d + c->padding) * element);
  ptrdiff_t value_stride = (ptrdiff_t)((c->dv + c->padding) * element);
  for (size_t to = c->split ? c->split : n; from < n || n == 0; from = to, to = n) {
    size_t low[PITH_MAX_GROUP], high[PITH_MAX_GROUP];
    for (size_t q = 0; q < c->group; q++) {
      low[q] = pith_max_size(begin[q], from) - from;
      high[q] = pith_max_size(pith_min_size(end[q], to), from) - from;
    }
    run_kernel(table, c->dtype,
               &(pith_attend_block){.group = c->group,
                                    .d = c->d,
                                    .dv = c->dv,
                                    .rows = to - from,
                                    .queries = queries,
                                    .keys = key_rows + (ptrdiff_t)from * key_stride,
                                    .values = value_rows + (ptrdiff_t)from * value_stride,
                                    .key_stride = key_stride,
                                    .value_stride = value_stride,
                                    .log_weights = c->weights ? log_weight + from : NULL,
                                    .begin = c->ranges ? low : NULL,
                                    .end = c->ranges ? high : NULL,
                                    .largest = largest,
                                    .sum = sum,
                                    .output = output});
    if (n == 0) break;
  }
  for (size_t q = 0; q < c->group; q++) {
    if (n == 0 || (c->ranges && begin[q] >= end[q])) assert_true(largest[q] == -INFINITY && sum[q] == 0);
    for (size_t j = 0; j < c->dv; j++) {
      double found = sum[q] > 0 ? output[q * c->dv + j] / sum[q] : output[q * c->dv + j];
      if (!(fabs(found - exact[q * c->dv + j]) <= 2e-6))
        fail_msg("%s, %s, group %zu, d %zu, dv %zu, rows %zu: query %zu, column %zu is %.9g, not %.9g", table->name,
                 pith_dtype_name(c->dtype), c->group, c->d, c->dv, n, q, j, found, exact[q * c->dv + j]);
    }
  }
  assert_true(output[c->group * c->dv] == 42);
  void *all[] = {queries,  keys,  values, log_weight, query64,    key64, value64,
                 weight64, exact, mask,   key_rows,   value_rows, output};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void attend_body(const pith_kernels *table) {
  const pith_dtype dtypes[] = {PITH_F32, PITH_F16, PITH_BF16};
  const size_t widths[] = {1, 5, 8, 15, 16, 24, 33, 64, 65, 80, 129},
               rows[] = {0, 1, 3, 16, 63, 64, 65, 130, 300, 1100};
  uint64_t seed = 100;
  for (size_t t = 0; t < 3; t++)
    for (size_t group = 1; group <= PITH_MAX_GROUP; group++)
      for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        size_t number = seed / 10; /* the other choices take turns */
        attend_case c = {.group = group,
                         .d = widths[w],
                         .dv = widths[(w + group) % (sizeof widths / sizeof *widths)],
                         .rows = rows[number % (sizeof rows / sizeof *rows)],
                         .dtype = dtypes[t],
                         .weights = number % 2,
                         .ranges = number / 2 % 2,
                         .padding = number % 4};
        check_attend(table, &c, seed);
        c.rows = 600;
        c.ranges = !c.ranges;
        c.split = 77;
        check_attend(table, &c, seed + 4);
        seed += 10;
      }
}
static void test_attend(void **state) {
  (void)state;
  each_table(attend_body);
}

/* Logits of +-1e4 and products that overflow f32: weights stay defined. */
static void huge_body(const pith_kernels *table) {
  float queries[2] = {1, -1}, keys[40], values[40];
  for (int overflow = 0; overflow < 2; overflow++) {
    for (size_t i = 0; i < 40; i++) {
      keys[i] = (overflow ? 3e38f : 1e4f) * (i == 7 ? 1 : i == 20 ? -1 : 0);
      values[i] = (float)i;
    }
    float scale = overflow ? 10 : 1, asked[2] = {queries[0] * scale, queries[1] * scale};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0}, output[2] = {0};
    table->attend_f32(&(pith_attend_block){.group = 2,
                                           .d = 1,
                                           .dv = 1,
                                           .rows = 40,
                                           .queries = asked,
                                           .keys = keys,
                                           .values = values,
                                           .key_stride = 4,
                                           .value_stride = 4,
                                           .largest = largest,
                                           .sum = sum,
                                           .output = output});
    assert_true(output[0] / sum[0] == 7 && output[1] / sum[1] == 20);
  }
}
static void test_huge_logits(void **state) {
  (void)state;
  each_table(huge_body);
}

/* A block that a query does not see leaves its state as it was, to the bit. */
static void untouched_body(const pith_kernels *table) {
  float queries[16] = {1, 2, 3}, keys[80], values[80], output[2] = {3.25f, -1}, sum[2] = {2.5f, 1};
  float largest[2] = {-4, 1};
  for (size_t i = 0; i < 80; i++) keys[i] = values[i] = (float)i / 7;
  size_t begin[2] = {30, 0}, end[2] = {30, 80};
  table->attend_f32(&(pith_attend_block){.group = 2,
                                         .d = 1,
                                         .dv = 1,
                                         .rows = 80,
                                         .queries = queries,
                                         .keys = keys,
                                         .values = values,
                                         .key_stride = 4,
                                         .value_stride = 4,
                                         .begin = begin,
                                         .end = end,
                                         .largest = largest,
                                         .sum = sum,
                                         .output = output});
  assert_true(output[0] == 3.25f && sum[0] == 2.5f && largest[0] == -4);
  assert_true(sum[1] > 1 && largest[1] > 1);
}
static void test_untouched(void **state) {
  (void)state;
  each_table(untouched_body);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_choice), cmocka_unit_test(test_dot),         cmocka_unit_test(test_axpy),
      cmocka_unit_test(test_max),    cmocka_unit_test(test_exp),         cmocka_unit_test(test_halves),
      cmocka_unit_test(test_attend), cmocka_unit_test(test_huge_logits), cmocka_unit_test(test_untouched),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
