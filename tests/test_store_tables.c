/* test_store_tables.c - what is stored does not depend on the instruction set: turning, rounding and reading of every
 * table, bit by bit against the scalar one. */
#include "kernels/kernels.h"
#include "summary/store.h"
#include "test.h"

enum { ROWS = 1000, WIDEST = 512 };
static const size_t widths[] = {1, 2, 7, 16, 31, 32, 33, 48, 64, 65, 80, 128, 129, 256, WIDEST};
enum { WIDTHS = sizeof widths / sizeof *widths };
static const char *const names[] = {"scalar", "avx2", "avx512"};

/* In one row of three floats of any finite bits (half of them below 2), then what lies just between two levels or
 * steps, then Gaussian numbers of all sizes and zeros. */
static float *hostile_rows(size_t width) {
  float *x = test_gaussian(9, ROWS * width, 1);
  pith_stream stream = pith_stream_make(10, PITH_STREAM_TEST, 0);
  for (size_t r = 0; r < ROWS; r++) {
    const float size = ldexpf(1, (int)pith_random_below(&stream, r, 60) - 36);
    for (size_t i = 0; i < width; i++) {
      const uint64_t random = pith_random_u64(&stream, ROWS + r * width + i);
      const uint32_t bits = (uint32_t)random & (r % 6 == 3 ? 0xbfffffffU : UINT32_MAX);
      const int middle = pith_q4_levels[random % 15] + pith_q4_levels[random % 15 + 1];
      float *number = &x[r * width + i];
      if (r % 3 == 0 && (bits & 0x7f800000U) != 0x7f800000U) memcpy(number, &bits, sizeof bits);
      if (r % 3 == 1) *number = size * (float)(i % 5 ? middle : i % 2 ? -254 : 254);
      if (r % 3 == 2) *number *= i % 7 ? size : 0;
    }
  }
  return x;
}

/* ---- Turning ---- */

static void test_turn(void **state) {
  (void)state;
  static const size_t more[] = {2, 4, 8, 1024, 4096, 1 << 16};
  for (size_t w = 0; w < WIDTHS + 6; w++) {
    const size_t width = w < WIDTHS ? widths[w] : more[w - WIDTHS], rows = width > WIDEST ? 2 : 10;
    if (!pith_turned(PITH_Q4, width)) continue;
    for (size_t t = 1; t < 3; t++) {
      const pith_kernels *table = pith_kernels_named(names[t]);
      float *expected = test_gaussian(w, rows * width, 1), *found = test_gaussian(w, rows * width, 1);
      pith_kernels_scalar.turn(expected, rows, width);
      if (table) table->turn(found, rows, width);
      if (table) assert_memory_equal(expected, found, rows * width * sizeof *found);
      free(expected), free(found);
    }
  }
}

/* ---- Rounding and reading ---- */

typedef struct stored {
  uint8_t bytes[ROWS * WIDEST];
  uint16_t scales[ROWS * WIDEST];
  float read[ROWS * WIDEST];
} stored;

static void store(const pith_kernels *table, pith_dtype dtype, const float *x, size_t width, stored *s) {
  memset(s, 0, sizeof *s);
  if (dtype == PITH_Q8)
    table->f32_to_q8(x, ROWS, width, (int8_t *)s->bytes, s->scales);
  else
    table->f32_to_q4(x, ROWS, width, s->bytes, s->scales);
}

static void read_back(const pith_kernels *table, pith_dtype dtype, const stored *from, size_t width, float *out) {
  if (dtype == PITH_Q8)
    table->q8_to_f32((const int8_t *)from->bytes, from->scales, ROWS, width, out);
  else
    table->q4_to_f32(from->bytes, from->scales, ROWS, width, out);
}

/* All blocks but those that f16 cannot scale, which are counted. */
static size_t compare(pith_dtype dtype, const stored *expected, const stored *found, size_t width) {
  const size_t each = pith_scales(width), row_bytes = pith_store_row_bytes(dtype, width);
  size_t lost = 0;
  assert_memory_equal(expected->scales, found->scales, sizeof found->scales);
  for (size_t i = 0; i < ROWS * each; i++) {
    const size_t row = i / each, column = i % each * PITH_SCALED, end = pith_min_size(column + PITH_SCALED, width);
    const size_t first = row * row_bytes + pith_store_row_bytes(dtype, column);
    const size_t last = row * row_bytes + pith_store_row_bytes(dtype, end);
    const size_t number = row * width + column;
    if ((expected->scales[i] & 0x7c00) == 0x7c00) {
      lost++;
      continue;
    }
    assert_memory_equal(expected->bytes + first, found->bytes + first, last - first);
    assert_memory_equal(expected->read + number, found->read + number, (end - column) * sizeof(float));
  }
  return lost;
}

static void test_rounding(void **state) {
  (void)state;
  static stored expected, found;
  size_t lost = 0, blocks = 0;
  for (size_t w = 0; w < WIDTHS; w++) {
    float *x = hostile_rows(widths[w]);
    for (pith_dtype dtype = PITH_Q8; dtype <= PITH_Q4; dtype++) {
      store(&pith_kernels_scalar, dtype, x, widths[w], &expected);
      read_back(&pith_kernels_scalar, dtype, &expected, widths[w], expected.read);
      for (size_t t = 0; t < 3; t++) { /* the scalar one too: it must not read what it does not write */
        const pith_kernels *table = pith_kernels_named(names[t]);
        if (!table) continue;
        store(table, dtype, x, widths[w], &found);
        read_back(table, dtype, &expected, widths[w], found.read);
        lost += compare(dtype, &expected, &found, widths[w]);
        blocks += ROWS * pith_scales(widths[w]);
      }
    }
    free(x);
  }
  printf("%zu of %zu hostile blocks are beyond f16\n", lost, blocks);
  assert_true(lost > blocks / 100 && lost < blocks / 2);
}

/* A number half a step behind 127 would turn its sign: the scale grows instead. */
static void test_half_step(void **state) {
  (void)state;
  const float x[2] = {127.5F * 0x1p-24F, -127.5F * 0x1p-24F};
  for (size_t t = 0; t < 3; t++) {
    const pith_kernels *table = pith_kernels_named(names[t]);
    int8_t level[2];
    uint16_t scale;
    if (!table) continue;
    table->f32_to_q8(x, 1, 2, level, &scale);
    assert_int_equal(scale, 2);
    assert_true(level[0] == 64 && level[1] == -64);
  }
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_turn), cmocka_unit_test(test_rounding),
                                     cmocka_unit_test(test_half_step)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
