/* test_sampler_l2_input.c - what the l2 sampler refuses: updates, options, files, and what stays usable after. */
#include <unistd.h>

#include "io/file.h"
#include "l2_streams.h"

/* ---- Bad input ---- */

static void test_bad_updates(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_l2_options options = sketch_options(10);
  options.dim = 2;
  pith_l2 *sampler = create(context, &options), *good = create(context, &options);
  const pith_update before = {PITH_UPDATE_A, 1, 3, 1.5};
  const struct {
    pith_update update;
    pith_status status;
    const char *says;
  } bad[] = {{{PITH_UPDATE_A, 0, 10, 1}, PITH_E_ARGUMENT, "row 10"},
             {{PITH_UPDATE_A, 2, 0, 1}, PITH_E_ARGUMENT, "column 2"},
             {{PITH_UPDATE_A, 0, 0, NAN}, PITH_E_VALUE, "nan"},
             {{PITH_UPDATE_A, 0, 0, INFINITY}, PITH_E_VALUE, "inf"},
             {{PITH_UPDATE_A, 0, 0, 1e30}, PITH_E_VALUE, "overflow"},
             {{PITH_UPDATE_X, 0, 0, 1}, PITH_E_ARGUMENT, "fixed"},
             {{9, 0, 0, 1}, PITH_E_ARGUMENT, "kind 9"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const pith_update stream[3] = {before, bad[i].update, before};
    size_t done = 99;
    assert_int_equal(pith_l2_update(context, sampler, stream, 3, &done), bad[i].status);
    assert_int_equal(done, 1);
    assert_non_null(strstr(pith_context_message(context), bad[i].says));
    feed(context, good, &before, 1);
    assert_same_cells(sampler, good);
  }
  pith_l2_free(sampler);
  pith_l2_free(good);
  test_context_free(context);
}

/* A cell that comes near its limit in many steps: refused in time, taken back to the bit, and usable. */
static void test_overflow(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (int way = PITH_DECODE_SCAN; way <= PITH_DECODE_DYADIC; way++) {
    pith_l2_options options = sketch_options(1000);
    options.decode = (pith_decode)way;
    pith_l2 *sampler = create(context, &options);
    pith_update step = {PITH_UPDATE_A, 0, 17, 0x1p37};
    size_t steps = 0;
    pith_status status = PITH_OK;
    for (; steps < 1000 && status == PITH_OK; steps++) {
      status = pith_l2_update(context, sampler, &step, 1, NULL);
      for (size_t i = 0; i < sampler->cell_count; i++) assert_true(llabs(sampler->cells[i].whole) < (long long)1 << 62);
    }
    assert_int_equal(status, PITH_E_VALUE);
    assert_true(steps > 2);
    step.delta = -step.delta;
    for (size_t i = 1; i < steps; i++) feed(context, sampler, &step, 1);
    for (size_t i = 0; i < sampler->cell_count; i++) assert_int_equal(sampler->cells[i].whole, 0);
    pith_l2_free(sampler);
  }
  test_context_free(context);
}

/* Large rows in a long block, in several sketches at once, of which one in the middle does not fit: those before it
 * stand, and nothing else, to the bit. With the last of them as large as fits alone. */
static void test_overflow_within(void **state) {
  (void)state;
  enum { BLOCK = 3000 };
  pith_context *context = test_context(2);
  for (int way = PITH_DECODE_SCAN; way <= PITH_DECODE_DYADIC; way++)
    for (size_t bad = 0; bad < BLOCK; bad += 599) {
      pith_l2_options options = sketch_options(1000);
      options.decode = (pith_decode)way;
      options.draws = 15;
      pith_l2 *sampler = create(context, &options), *twin = create(context, &options);
      pith_update *stream = make_stream(4, 1000, 1, BLOCK);
      for (size_t i = 0; i < BLOCK; i++) stream[i].delta *= 0x1p24;
      for (size_t i = 0; i < bad; i++) feed(context, twin, stream + i, 1);
      stream[bad].delta = 0x1p43;
      size_t done = 0;
      assert_int_equal(pith_l2_update(context, sampler, stream, BLOCK, &done), PITH_E_VALUE);
      assert_int_equal(done, bad);
      assert_same_cells(sampler, twin);
      feed(context, sampler, stream + bad + 1, BLOCK - bad - 1);
      feed(context, twin, stream + bad + 1, BLOCK - bad - 1);
      assert_same_cells(sampler, twin);
      free(stream);
      pith_l2_free(twin);
      pith_l2_free(sampler);
    }
  test_context_free(context);
}

static void test_options(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_l2 *sampler = NULL;
  pith_l2_options options = sketch_options(0);
  assert_int_equal(pith_l2_create(context, &options, &sampler), PITH_E_ARGUMENT);
  options = sketch_options(((size_t)1 << 40) + 1);
  assert_int_equal(pith_l2_create(context, &options, &sampler), PITH_E_ARGUMENT);
  options = sketch_options(10);
  options.depth = 4;
  assert_int_equal(pith_l2_create(context, &options, &sampler), PITH_E_ARGUMENT);
  options = sketch_options(10);
  options.unit = 0.3;
  assert_int_equal(pith_l2_create(context, &options, &sampler), PITH_E_ARGUMENT);
  options = sketch_options(10);
  options.draws = 1000000;
  options.memory = (size_t)1 << 24;
  assert_int_equal(pith_l2_create(context, &options, &sampler), PITH_E_BUDGET);
  const char *most = strstr(pith_context_message(context), "at most ");
  assert_non_null(most);
  options.draws = strtoul(most + 8, NULL, 10); /* the message tells the truth */
  assert_ok(context, pith_l2_create(context, &options, &sampler));
  pith_l2_free(sampler);
  options.draws++;
  assert_int_equal(pith_l2_create(context, &options, &sampler), PITH_E_BUDGET);

  options = sketch_options(1000); /* auto: exact as long as it fits */
  options.method = PITH_METHOD_AUTO;
  sampler = create(context, &options);
  assert_int_equal(pith_l2_describe(sampler).method, PITH_METHOD_EXACT);
  pith_l2_free(sampler);
  options.rows = (size_t)1 << 40;
  sampler = create(context, &options);
  assert_int_equal(pith_l2_describe(sampler).method, PITH_METHOD_SKETCH);
  size_t words = pith_l2_describe(sampler).words;
  assert_true(words < 200000);
  pith_l2_free(sampler);
  test_context_free(context);
}

/* ---- Files and merging ---- */

static void test_files(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  char path[] = "/tmp/pith-sketch-XXXXXX";
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  close(descriptor);
  pith_l2_options options = sketch_options(5000);
  options.dim = 2;
  options.free_x = 1;
  options.draws = 5;
  pith_l2 *sampler = create(context, &options), *loaded = NULL;
  pith_update *stream = make_stream(2, 5000, 2, 500);
  stream[0].kind = PITH_UPDATE_X;
  feed(context, sampler, stream, 500);
  pith_draw draws[3];
  size_t drawn = 0;
  assert_ok(context, pith_l2_draw(context, sampler, 3, draws, &drawn));
  assert_ok(context, pith_l2_save(context, sampler, path));
  assert_ok(context, pith_l2_load(context, path, &loaded));
  assert_same_cells(sampler, loaded);
  assert_memory_equal(sampler->x, loaded->x, 2 * sizeof *loaded->x);
  assert_int_equal(loaded->spent, 1);
  feed(context, loaded, stream, 10);
  pith_l2_free(loaded);

  pith_file *file = NULL;
  assert_ok(context, pith_file_open(context, path, &file));
  unsigned char *bytes = malloc(file->size);
  assert_non_null(bytes);
  memcpy(bytes, file->bytes, file->size);
  const size_t size = file->size;
  pith_file_close(file);
  for (size_t at = 0; at < size; at += at < 200 ? 1 : 9973) { /* any byte changed, any cut: refused */
    bytes[at] ^= 0x40;
    assert_ok(context, pith_file_lend(context, bytes, size, "changed", &file));
    assert_true(pith_l2_parse(context, file, &loaded) < 0);
    assert_non_null(strstr(pith_context_message(context), "changed"));
    pith_file_close(file);
    bytes[at] ^= 0x40;
    assert_ok(context, pith_file_lend(context, bytes, at, "cut", &file));
    assert_int_equal(pith_l2_parse(context, file, &loaded), PITH_E_FORMAT);
    pith_file_close(file);
  }
  free(bytes);

  options.seed = 2;
  pith_l2 *other = create(context, &options);
  assert_int_equal(pith_l2_merge(context, sampler, other), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "seed"));
  pith_l2_free(other);
  options.seed = 1;
  options.buckets = 2048;
  other = create(context, &options);
  assert_int_equal(pith_l2_merge(context, sampler, other), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "buckets"));
  pith_l2_free(other);
  pith_l2_free(sampler);
  free(stream);
  unlink(path);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_bad_updates), cmocka_unit_test(test_overflow),
                                     cmocka_unit_test(test_overflow_within), cmocka_unit_test(test_options),
                                     cmocka_unit_test(test_files)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
