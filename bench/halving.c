/* halving.c - quality and speed of halving and its neighbours on random unit vectors (d = 64, rho = 2):
 * mean L2 error over 1000 queries of norm rho at n = 4096, slopes, and seconds at n = 16384.
 *
 * OPENBLAS_CORETYPE=SkylakeX build/bench_halving [threads] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "summary/engine.h"

enum { QUERIES = 1000 };

typedef struct instance {
  size_t n, d;
  double rho;
  float *keys, *values, *queries;
  double *exact; /* (QUERIES, d) */
} instance;

static void fail(pith_context *context) {
  fprintf(stderr, "bench_halving: %s\n", context ? pith_context_message(context) : "no memory");
  exit(1);
}

static float *sphere(uint64_t seed, size_t rows, size_t d, double radius) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 0);
  float *out = malloc(rows * d * sizeof *out);
  if (!out) fail(NULL);
  for (size_t i = 0; i < rows; i++) {
    double norm = 0;
    for (size_t j = 0; j < d; j++) {
      double x = pith_random_gaussian(&stream, i * d + j);
      out[i * d + j] = (float)x;
      norm += x * x;
    }
    for (size_t j = 0; j < d; j++) out[i * d + j] = (float)(out[i * d + j] * radius / sqrt(norm));
  }
  return out;
}

static void attend(const instance *in, const float *query, const float *keys, const float *values,
                   const float *log_weight, size_t count, double *out) {
  double total = 0;
  for (size_t j = 0; j < in->d; j++) out[j] = 0;
  for (size_t i = 0; i < count; i++) {
    double logit = log_weight ? log_weight[i] : 0;
    for (size_t j = 0; j < in->d; j++) logit += (double)query[j] * keys[i * in->d + j];
    double weight = exp(logit);
    total += weight;
    for (size_t j = 0; j < in->d; j++) out[j] += weight * values[i * in->d + j];
  }
  for (size_t j = 0; j < in->d; j++) out[j] /= total;
}

static instance make(uint64_t seed, size_t n, size_t d, double rho, int exact) {
  instance in = {n, d, rho, sphere(seed, n, d, 1), sphere(seed + 1, n, d, 1), sphere(seed + 2, QUERIES, d, rho), NULL};
  in.exact = malloc(QUERIES * d * sizeof *in.exact);
  if (!in.exact) fail(NULL);
  for (size_t r = 0; exact && r < QUERIES; r++)
    attend(&in, in.queries + r * d, in.keys, in.values, NULL, n, in.exact + r * d);
  return in;
}

static void release(instance *in) {
  free(in->keys);
  free(in->values);
  free(in->queries);
  free(in->exact);
}

/* Mean error of `engine` at `count` points; *elapsed: seconds of prepare and take. */
static double measure(pith_context *context, const instance *in, const pith_engine *engine, size_t count, uint64_t seed,
                      int with_error, double *elapsed) {
  pith_query_model model = {.kind = PITH_QUERIES_BALL, .d = in->d, .rho = in->rho};
  pith_problem problem = {.n = in->n,
                          .d = in->d,
                          .dv = in->d,
                          .keys = in->keys,
                          .values = in->values,
                          .candidates = in->n,
                          .model = &model,
                          .seed = seed};
  pith_points *points = NULL;
  void *state = NULL;
  if (pith_points_create(context, count, in->d, in->d, &points) < 0) fail(context);
  double start = seconds(CLOCK_MONOTONIC);
  if (engine->prepare(context, &problem, count, &state) < 0) fail(context);
  if (engine->take(context, &problem, state, count, points) < 0) fail(context);
  *elapsed = seconds(CLOCK_MONOTONIC) - start;
  double sum = 0, *out = malloc(in->d * sizeof *out);
  if (!out) fail(NULL);
  for (size_t r = 0; with_error && r < QUERIES; r++) {
    attend(in, in->queries + r * in->d, points->keys, points->values, points->log_weight, points->count, out);
    double square = 0;
    for (size_t j = 0; j < in->d; j++)
      square += (out[j] - in->exact[r * in->d + j]) * (out[j] - in->exact[r * in->d + j]);
    sum += sqrt(square);
  }
  free(out);
  engine->release(context, state);
  pith_points_free(context, points);
  return sum / QUERIES;
}

static const pith_engine *const shown[] = {&pith_engine_halving, &pith_engine_balance, &pith_engine_balance_theory,
                                           &pith_engine_uniform};
enum { SHOWN = sizeof shown / sizeof shown[0], SEEDS = 4 };

static void quality(pith_context *context) {
  static const size_t counts[] = {2048, 1024, 512, 256, 128, 64};
  instance in = make(11, 4096, 64, 2, 1);
  printf("mean L2 error, n = 4096, d = 64, rho = 2, mean of %d seeds (seconds)\n%-16s", SEEDS, "points");
  for (size_t c = 0; c < 6; c++) printf("%18zu", counts[c]);
  for (size_t e = 0; e < SHOWN; e++) {
    printf("\n%-16s", shown[e]->name);
    for (size_t c = 0; c < 6; c++) {
      double error = 0, elapsed = 0, one = 0;
      for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        error += measure(context, &in, shown[e], counts[c], seed, 1, &one) / SEEDS;
        elapsed += one / SEEDS;
      }
      printf("  %8.2fe-3 %.2fs", 1e3 * error, elapsed);
    }
  }
  printf("\n\n");
  release(&in);
}

static void slopes(pith_context *context) {
  static const struct {
    size_t d;
    double rho;
  } cases[] = {{4, 1}, {4, 2}, {8, 1}, {8, 2}, {64, 2}};
  printf("slope of log error against log points, n = 4096, 512 to 64 points, mean of %d seeds\n", SEEDS);
  for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
    instance in = make(21 + c, 4096, cases[c].d, cases[c].rho, 1);
    printf("d = %2zu rho = %g", cases[c].d, cases[c].rho);
    for (size_t e = 0; e < SHOWN; e++) {
      double large = 0, small = 0, elapsed = 0;
      for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        large += measure(context, &in, shown[e], 512, seed, 1, &elapsed);
        small += measure(context, &in, shown[e], 64, seed, 1, &elapsed);
      }
      printf("   %s %.2f (%.1fe-3)", shown[e]->name, log(large / small) / log(8), 1e3 * large / SEEDS);
    }
    printf("\n");
    release(&in);
  }
  printf("\n");
}

static void speed(pith_context *context) {
  instance in = make(31, 16384, 64, 2, 1);
  printf("n = 16384, d = 64: best of 5, seconds (mean error)\n");
  for (size_t count = 8192; count >= 256; count /= count == 1024 ? 4 : 2)
    for (size_t e = 0; e < SHOWN; e++) {
      double best = INFINITY, elapsed = 0;
      double error = measure(context, &in, shown[e], count, 1, 1, &best);
      for (int i = 0; i < 4; i++) {
        (void)measure(context, &in, shown[e], count, 1, 0, &elapsed);
        best = fmin(best, elapsed);
      }
      printf("%s %zu: %.3f s (%.2fe-3)%s", shown[e]->name, count, best, 1e3 * error, e + 1 < SHOWN ? "   " : "\n");
    }
  release(&in);
}

int main(int argc, char **argv) {
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = argc > 1 ? atoi(argv[1]) : 1;
  pith_context *context = NULL;
  if (pith_context_create(&options, &context) < 0) fail(NULL);
  printf("instruction set %s, %d threads\n\n", pith_isa_name(), options.threads);
  speed(context);
  quality(context);
  slopes(context);
  pith_context_free(context);
  return 0;
}
