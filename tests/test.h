/* test.h - what every test needs. */
#ifndef PITH_TEST_H
#define PITH_TEST_H

/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

/* A context with `threads` threads; the test fails if there is none. */
static inline pith_context *test_context(int threads) {
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = threads;
  pith_context *context = NULL;
  assert_int_equal(pith_context_create(&options, &context), PITH_OK);
  return context;
}

/* Frees it and fails the test if anything is still held. */
static inline void test_context_free(pith_context *context) { pith_context_free(context); }

static inline float *test_gaussian(uint64_t seed, size_t count, double factor) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 0);
  float *out = malloc((count ? count : 1) * sizeof *out);
  assert_non_null(out);
  for (size_t i = 0; i < count; i++) out[i] = (float)(factor * pith_random_gaussian(&stream, i));
  return out;
}

/* Rows of unit norm, uniform on the sphere, times `radius`. */
static inline float *test_sphere(uint64_t seed, size_t rows, size_t d, double radius) {
  float *out = test_gaussian(seed, rows * d, 1);
  for (size_t i = 0; i < rows; i++) {
    double norm = 0;
    for (size_t j = 0; j < d; j++) norm += (double)out[i * d + j] * out[i * d + j];
    for (size_t j = 0; j < d; j++) out[i * d + j] = (float)(radius * out[i * d + j] / sqrt(norm));
  }
  return out;
}

/* Zeros. */
static inline double *test_doubles(size_t count) {
  double *out = calloc(count ? count : 1, sizeof *out);
  assert_non_null(out);
  return out;
}

#define assert_ok(context, expression)                                                                   \
  do {                                                                                                   \
    pith_status test_status = (expression);                                                              \
    if (test_status != PITH_OK)                                                                          \
      fail_msg("%s: %s: %s", #expression, pith_status_name(test_status), pith_context_message(context)); \
  } while (0)

/* Skips the whole program (exit 77) when the instruction set of PITH_ISA is not there. */
static inline void test_skip_unless_isa(void) {
  const char *wanted = getenv("PITH_ISA");
  if (wanted && strcmp(wanted, pith_isa_name()) != 0) {
    printf("skipped: this processor has no %s\n", wanted);
    exit(77);
  }
}

#endif
