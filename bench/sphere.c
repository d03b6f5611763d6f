/* sphere.c - unit-norm random keys and values, ball model: error of every engine, and what building takes.
 *
 *   bench_sphere [DATA_DIR]      (the argument is not used; all benches take one)
 *
 * n = 4096, d = 64, rho = 2, softmax(<q, k>), 1000 random queries of norm rho, f32 store, no exact rows. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "bench.h"

enum { D = 64, QUERIES = 1000 };

static float *sphere(uint32_t object, size_t rows, double radius) {
  pith_stream stream = pith_stream_make(7, PITH_STREAM_TEST, object);
  float *out = malloc(rows * D * sizeof *out);
  if (!out) exit(1);
  for (size_t i = 0; i < rows; i++) {
    double norm = 0;
    for (size_t j = 0; j < D; j++) {
      double x = pith_random_gaussian(&stream, i * D + j);
      out[i * D + j] = (float)x;
      norm += x * x;
    }
    for (size_t j = 0; j < D; j++) out[i * D + j] *= (float)(radius / sqrt(norm));
  }
  return out;
}

static void run(pith_context *context, const char *engine, size_t n, const size_t *sizes, size_t count) {
  float *keys = sphere(1, n, 1), *values = sphere(2, n, 1), *queries = sphere(3, QUERIES, 2);
  float *exact = malloc(QUERIES * D * sizeof *exact), *answer = malloc(QUERIES * D * sizeof *answer);
  if (!exact || !answer) exit(1);
  pith_array k = pith_array_matrix(keys, PITH_F32, n, D), v = pith_array_matrix(values, PITH_F32, n, D);
  pith_array q = pith_array_matrix(queries, PITH_F32, QUERIES, D);
  pith_attention_options attention;
  pith_attention_options_init(&attention);
  attention.scale = 1;
  check(pith_attention_compute(context, &q, &k, &v, &attention, exact), context, engine);
  printf("  %-12s", engine);
  for (size_t i = 0; i < count; i++) {
    pith_compress_options options;
    pith_compress_options_init(&options);
    options.engine = engine;
    options.points = sizes[i];
    options.store = PITH_F32;
    options.sinks = options.window = 0;
    options.scale = 1;
    options.rho = 2;
    pith_summary *summary = NULL;
    double start = seconds(CLOCK_MONOTONIC);
    check(pith_compress(context, &k, &v, NULL, &options, &summary), context, engine);
    double spent = seconds(CLOCK_MONOTONIC) - start;
    check(pith_summary_attend(context, summary, &q, 0, answer), context, engine);
    pith_error error = pith_error_measure(exact, answer, QUERIES, D);
    pith_certificate certificate = pith_summary_describe(summary).certificate;
    printf("  %8.2e %8.2e %s%6.3f s", error.mean, error.max, certificate.certified ? "" : "un", spent);
    fflush(stdout);
    pith_summary_free(summary);
  }
  printf("\n");
  free(keys);
  free(values);
  free(queries);
  free(exact);
  free(answer);
}

int main(void) {
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = 2;
  pith_context *context = NULL;
  if (pith_context_create(&options, &context) < 0) return 1;
  const size_t sizes[] = {1024, 256, 64};
  printf("n = 4096: mean and largest error, certified or not, build seconds with certificates, two threads\n");
  printf("  %-12s  %-30s  %-30s  %-30s\n", "engine", "1024 points", "256 points", "64 points");
  for (size_t i = 0; pith_engine_name(i); i++)
    if (strcmp(pith_engine_name(i), "exact") != 0) run(context, pith_engine_name(i), 4096, sizes, 3);
  printf("\nnystrom, 1024 points, linear in n:\n");
  for (size_t n = 8192; n <= 65536; n *= 2) {
    printf("  n = %zu:", n);
    run(context, "nystrom", n, sizes, 1);
  }
  pith_context_free(context);
  return 0;
}
