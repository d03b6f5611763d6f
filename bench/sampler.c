/* sampler.c - speed, memory and accuracy of the l2 sampler: updates a second, milliseconds a draw, words against the
 * number of rows and against 1 / eps^2, agreement of the decoders, and the bounds of the paper beside our words.
 *
 * build/bench_sampler [FOLDER]      with FOLDER: two pictures, words.svg and updates.svg, by gnuplot */
#include "pith/sampler.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "bench.h"
#include "sampler/count_sketch.h"

enum { UPDATES = 1 << 16, REPEATS = 15 };

static pith_context *make_context(void) {
  pith_context *context = NULL;
  if (pith_context_create(NULL, &context) < 0) exit(1);
  return context;
}

static pith_update *make_stream(size_t rows) {
  pith_stream random = pith_stream_make(1, PITH_STREAM_TEST, 0);
  pith_update *stream = malloc(UPDATES * sizeof *stream);
  if (!stream) exit(1);
  for (size_t i = 0; i < UPDATES; i++)
    stream[i] = (pith_update){PITH_UPDATE_A, 0, pith_random_below(&random, 2 * i, rows),
                              pith_random_gaussian(&random, 2 * i + 1)};
  return stream;
}

static pith_l2_options sketch_options(size_t rows, pith_decode decode) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  options.rows = rows;
  options.method = PITH_METHOD_SKETCH;
  options.decode = decode;
  options.draws = 3;
  return options;
}

static pith_l2 *create(pith_context *context, const pith_l2_options *options) {
  pith_l2 *sampler = NULL;
  check(pith_l2_create(context, options, &sampler), context, "pith_l2_create");
  return sampler;
}

/* ---- Updates ---- */

static double plain_seconds(size_t buckets) {
  pith_stream random = pith_stream_make(2, PITH_STREAM_TEST, 0);
  pith_count_sketch sketch = {.depth = 5, .buckets = buckets, .columns = 1};
  pith_count_sketch_seed(&sketch, &random, 0);
  sketch.cells = calloc(pith_count_sketch_cells(&sketch), sizeof *sketch.cells);
  uint64_t *id = malloc(UPDATES * sizeof *id);
  double *value = malloc(UPDATES * sizeof *value), best = INFINITY;
  if (!sketch.cells || !id || !value) exit(1);
  for (size_t i = 0; i < UPDATES; i++) {
    id[i] = pith_random_u64(&random, 100 + 2 * i);
    value[i] = pith_random_gaussian(&random, 101 + 2 * i);
  }
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    double start = seconds(CLOCK_THREAD_CPUTIME_ID);
    pith_count_sketch_update(&sketch, id, NULL, value, 0x1p-20, UPDATES);
    best = fmin(best, seconds(CLOCK_THREAD_CPUTIME_ID) - start);
  }
  free(value);
  free(id);
  free(sketch.cells);
  return best / UPDATES;
}

static double update_seconds(pith_context *context, pith_l2 *sampler, const pith_update *stream) {
  double best = INFINITY;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    double start = seconds(CLOCK_THREAD_CPUTIME_ID);
    check(pith_l2_update(context, sampler, stream, UPDATES, NULL), context, "pith_l2_update");
    best = fmin(best, seconds(CLOCK_THREAD_CPUTIME_ID) - start);
  }
  return best / UPDATES;
}

static void speed(pith_context *context) {
  printf("million updates a second, one thread, best of %d bursts of %d\n", REPEATS, UPDATES);
  for (int shift = 10; shift <= 20; shift += shift == 10 ? 4 : 6)
    printf("  plain CountSketch, 5 x 2^%d, real deltas       %7.1f\n", shift, 1e-6 / plain_seconds((size_t)1 << shift));
  static const struct {
    const char *name;
    pith_decode decode;
    size_t rows;
  } cases[] = {{"l2, K = 3, R = 5, no bits (scan), n = 10^5", PITH_DECODE_SCAN, 100000},
               {"l2, K = 3, R = 5, with id bits, n = 10^5  ", PITH_DECODE_BITS, 100000},
               {"l2, K = 3, R = 5, with id bits, n = 2^40  ", PITH_DECODE_BITS, (size_t)1 << 40},
               {"l2, K = 3, R = 5, dyadic, n = 10^5        ", PITH_DECODE_DYADIC, 100000}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    pith_l2_options options = sketch_options(cases[i].rows, cases[i].decode);
    pith_l2 *sampler = create(context, &options);
    pith_update *stream = make_stream(cases[i].rows);
    printf("  %s   %7.2f\n", cases[i].name, 1e-6 / update_seconds(context, sampler, stream));
    free(stream);
    pith_l2_free(sampler);
  }
}

typedef struct worker {
  pith_l2 *sampler;
  const pith_update *stream;
  pthread_t thread;
} worker;

static void *work(void *argument) {
  worker *self = argument;
  pith_context *context = make_context();
  for (int i = 0; i < 8; i++)
    check(pith_l2_update(context, self->sampler, self->stream, UPDATES, NULL), context, "pith_l2_update");
  pith_context_free(context);
  return NULL;
}

/* One stream in two halves on two threads, merged, against the whole on one. */
static void two_threads(pith_context *context) {
  pith_l2_options options = sketch_options(100000, PITH_DECODE_BITS);
  pith_update *stream = make_stream(options.rows);
  double one = INFINITY, two = INFINITY;
  for (int repeat = 0; repeat < 5; repeat++) {
    worker workers[2] = {{create(context, &options), stream, 0}, {create(context, &options), stream, 0}};
    double start = seconds(CLOCK_MONOTONIC);
    (void)work(&workers[0]);
    (void)work(&workers[0]);
    one = fmin(one, seconds(CLOCK_MONOTONIC) - start);
    start = seconds(CLOCK_MONOTONIC);
    for (int i = 0; i < 2; i++)
      if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) exit(1);
    for (int i = 0; i < 2; i++) pthread_join(workers[i].thread, NULL);
    check(pith_l2_merge(context, workers[0].sampler, workers[1].sampler), context, "pith_l2_merge");
    two = fmin(two, seconds(CLOCK_MONOTONIC) - start);
    for (int i = 0; i < 2; i++) pith_l2_free(workers[i].sampler);
  }
  printf("  two threads, halves merged: %.2f times as fast as one\n\n", one / two);
  free(stream);
}

/* ---- Against the number of rows ---- */

static const size_t sizes[] = {1000, 10000, 100000, 1000000, 10000000, (size_t)1 << 40};
enum { SIZES = sizeof sizes / sizeof *sizes };

static double slope(const double *value, size_t count) { /* of log value over log n, least squares */
  double x = 0, y = 0, xx = 0, xy = 0, m = (double)count;
  for (size_t i = 0; i < count; i++) {
    double a = log((double)sizes[i]), b = log(value[i]);
    x += a, y += b, xx += a * a, xy += a * b;
  }
  return (m * xy - x * y) / (m * xx - x * x);
}

static void against_rows(pith_context *context, const char *folder) {
  static const pith_decode ways[] = {PITH_DECODE_SCAN, PITH_DECODE_BITS, PITH_DECODE_DYADIC};
  double words[3][SIZES], nanoseconds[3][SIZES], draw[3][SIZES];
  char path[512];
  FILE *data = NULL;
  if (folder && snprintf(path, sizeof path, "%s/updates.txt", folder) > 0) data = fopen(path, "w");
  printf("x fixed, one sketch (3 draws), 1024 buckets: words, nanoseconds an update, milliseconds for three draws\n");
  printf("  %-14s", "n");
  for (size_t w = 0; w < 3; w++) printf("%28s", pith_decode_name(ways[w]));
  for (size_t i = 0; i < SIZES; i++) {
    printf("\n  %-14zu", sizes[i]);
    if (data) fprintf(data, "%.17g", log2((double)sizes[i]));
    for (size_t w = 0; w < 3; w++) {
      pith_l2_options options = sketch_options(sizes[i], ways[w]);
      pith_update *stream = make_stream(sizes[i]);
      pith_draw draws[3];
      size_t drawn = 0;
      draw[w][i] = INFINITY;
      for (int repeat = 0; repeat < (w == 0 ? 1 : 5); repeat++) {
        pith_l2 *sampler = create(context, &options);
        words[w][i] = (double)pith_l2_describe(sampler).words;
        nanoseconds[w][i] = fmin(repeat ? nanoseconds[w][i] : INFINITY, 1e9 * update_seconds(context, sampler, stream));
        double start = seconds(CLOCK_THREAD_CPUTIME_ID);
        if (w > 0 || sizes[i] <= 1000000) check(pith_l2_draw(context, sampler, 3, draws, &drawn), context, "draw");
        draw[w][i] = fmin(draw[w][i], 1e3 * (seconds(CLOCK_THREAD_CPUTIME_ID) - start));
        pith_l2_free(sampler);
      }
      printf("%9.0f %7.1f %10.3f", words[w][i], nanoseconds[w][i], w > 0 || sizes[i] <= 1000000 ? draw[w][i] : NAN);
      if (data) fprintf(data, " %.17g", nanoseconds[w][i]);
      free(stream);
    }
    if (data) fputc('\n', data);
  }
  printf("\n  slope 10^3 .. 10^7");
  for (size_t w = 0; w < 3; w++)
    printf("%*s words %.3f, time %.3f", w ? 3 : 0, "", slope(words[w], SIZES - 1), slope(nanoseconds[w], SIZES - 1));
  printf("\n\n");
  if (data) fclose(data);
}

/* ---- Against eps ---- */

static void against_eps(pith_context *context, const char *folder) {
  enum { ROUNDS = 40, N = 100000 };
  char path[512];
  FILE *data = NULL;
  if (folder && snprintf(path, sizeof path, "%s/words.txt", folder) > 0) data = fopen(path, "w");
  pith_update *stream = make_stream(N);
  double *y = calloc(N, sizeof *y);
  if (!y) exit(1);
  for (size_t i = 0; i < UPDATES; i++) y[stream[i].row] += stream[i].delta;
  printf("n = 10^5, gaussian y: eps asked for, words of a sketch (scan), share of %d draws whose value is that near\n",
         3 * ROUNDS);
  for (int halvings = 0; halvings < 6; halvings++) {
    const double eps = ldexp(0.4, -halvings);
    size_t near = 0, words = 0, total = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
      pith_l2_options options = sketch_options(N, PITH_DECODE_DYADIC); /* as the scan finds, but faster */
      options.eps = eps;
      options.seed = 50 + round;
      pith_l2 *sampler = create(context, &options);
      pith_draw draws[3];
      size_t drawn = 0;
      check(pith_l2_update(context, sampler, stream, UPDATES, NULL), context, "update");
      check(pith_l2_draw(context, sampler, 3, draws, &drawn), context, "draw");
      for (size_t i = 0; i < drawn; i++) near += fabs(draws[i].value / y[draws[i].row] - 1) <= eps;
      total += drawn;
      words = pith_l2_describe(sampler).buckets * 5;
      pith_l2_free(sampler);
    }
    printf("  %-8.4g %9zu %8.2f\n", eps, words, (double)near / (double)total);
    if (data) fprintf(data, "%.17g %zu\n", 1 / (eps * eps), words);
  }
  printf("\n");
  if (data) fclose(data);
  free(y);
  free(stream);
}

/* ---- The decoders against the scan ---- */

static void agreement(pith_context *context) {
  enum { ROUNDS = 100, N = 100000 };
  pith_update *stream = make_stream(N);
  size_t same[2] = {0}, total = 0;
  static const pith_decode ways[] = {PITH_DECODE_SCAN, PITH_DECODE_BITS, PITH_DECODE_DYADIC};
  for (uint64_t round = 0; round < ROUNDS; round++) {
    pith_draw draws[3][3];
    size_t drawn = 0;
    for (size_t w = 0; w < 3; w++) {
      pith_l2_options options = sketch_options(N, ways[w]);
      options.seed = 900 + round;
      pith_l2 *sampler = create(context, &options);
      check(pith_l2_update(context, sampler, stream, UPDATES, NULL), context, "update");
      memset(draws[w], 0xff, sizeof draws[w]);
      check(pith_l2_draw(context, sampler, 3, draws[w], &drawn), context, "draw");
      pith_l2_free(sampler);
    }
    for (size_t i = 0; i < 3; i++) {
      total++;
      for (size_t w = 1; w < 3; w++) same[w - 1] += draws[w][i].row == draws[0][i].row;
    }
  }
  printf("of %zu draws as the scan's (n = 10^5, gaussian y): bits %zu, dyadic %zu\n\n", total, same[0], same[1]);
  free(stream);
}

/* ---- The bounds ---- */

static size_t words_of(pith_context *context, size_t rows, size_t dim, int free_x, pith_method method) {
  pith_l2_options options = sketch_options(rows, PITH_DECODE_AUTO);
  options.dim = dim;
  options.free_x = free_x;
  options.method = method;
  options.memory = (size_t)1 << 34;
  pith_l2 *sampler = create(context, &options);
  size_t words = pith_l2_describe(sampler).words;
  pith_l2_free(sampler);
  return words;
}

static void bounds(pith_context *context) {
  printf(
      "setting, d = 64      the paper's space (bits)              ours (words)                    n = 10^4    10^6    "
      "exact, 10^4\n");
  printf("A updated, x fixed   d log n + poly(1/eps, log n)          R W (1 + 2 B / R) + d     %12zu %12zu %12zu\n",
         words_of(context, 10000, 64, 0, PITH_METHOD_SKETCH), words_of(context, 1000000, 64, 0, PITH_METHOD_SKETCH),
         words_of(context, 10000, 64, 0, PITH_METHOD_EXACT));
  printf("x updated, or both   d poly(1/eps, log n), at least d      R W L d + d               %12zu %12zu %12zu\n",
         words_of(context, 10000, 64, 1, PITH_METHOD_SKETCH), words_of(context, 1000000, 64, 1, PITH_METHOD_SKETCH),
         words_of(context, 10000, 64, 1, PITH_METHOD_EXACT));
  printf(
      "R = 5 rows, W = 1024 buckets, B = log2(3 n) up to a multiple of 8, L = log32(3 n) levels; one sketch, 3 "
      "draws\n");
}

static void plot(const char *folder) {
  char command[2048];
  int length =
      snprintf(command, sizeof command,
               "cd '%s' && gnuplot -e \"set terminal svg size 640,400; set output 'words.svg'; set logscale xy; "
               "set xlabel '1 / eps^2'; set ylabel 'words of a sketch'; set key left; plot 'words.txt' using "
               "1:2 with linespoints title 'words', 20*x with lines title 'in proportion to 1 / eps^2'; set "
               "output 'updates.svg'; unset logscale; set yrange [0:*]; set xlabel 'log2 n'; set ylabel "
               "'nanoseconds an update'; plot 'updates.txt' using 1:2 with linespoints title 'scan', '' using "
               "1:3 with linespoints title 'bits', '' using 1:4 with linespoints title 'dyadic'\"",
               folder);
  if (length < 0 || (size_t)length >= sizeof command || system(command) != 0)
    fprintf(stderr, "bench_sampler: no pictures; is gnuplot installed?\n");
}

int main(int argc, char **argv) {
  const char *folder = argc > 1 ? argv[1] : NULL;
  pith_context *context = make_context();
  printf("instruction set %s\n\n", pith_isa_name());
  speed(context);
  two_threads(context);
  against_rows(context, folder);
  against_eps(context, folder);
  agreement(context);
  bounds(context);
  if (folder) plot(folder);
  pith_context_free(context);
  return 0;
}
