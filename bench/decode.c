/* decode.c - exact attention of one query (or a group of eight) over a long cache, beside what the memory can
 * deliver: a loop that does nothing but read the same bytes, in the same run. Buffers are rotated so that the
 * data are cold. Prints ns per key, GB/s, and the share of the stream-read loop's bandwidth: from medians, and
 * from the fastest passes, which say more when the machine is busy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "summary/store.h"

enum { KEYS = 131072, D = 64, ARENA = 768 << 20, PASSES = 96 }; /* the arena holds buffers of one store at a time */

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- The plain stream-read loop ---- */

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx512f"))) static uint64_t read_all_512(const char *data, size_t bytes) {
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  for (size_t i = 0; i + 256 <= bytes; i += 256)
    for (size_t j = 0; j < 4; j++) sum[j] = _mm512_add_epi64(sum[j], _mm512_load_si512(data + i + 64 * j));
  return (uint64_t)_mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}
#endif

static uint64_t read_all_plain(const char *data, size_t bytes) {
  const uint64_t *words = (const uint64_t *)(const void *)data;
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes / sizeof *words; i++) sum += words[i];
  return sum;
}

static uint64_t read_all(const char *data, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_all_512(data, bytes);
#endif
  return read_all_plain(data, bytes);
}

enum { SLICES = 64 }; /* that the threads share */

typedef struct read_job {
  const char *data;
  size_t slice;
  uint64_t sum[SLICES];
} read_job;

static void read_slice(void *argument, size_t index, int thread) {
  read_job *job = argument;
  (void)thread;
  job->sum[index] = read_all(job->data + index * job->slice, job->slice);
}

/* ---- Measurement ---- */

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct seconds {
  double median, best;
} seconds;

static seconds summary(double *times, size_t count) {
  qsort(times, count, sizeof *times, by_value);
  return (seconds){times[count / 2], times[count / 20]}; /* the very fastest would be luck */
}

static uint64_t sink; /* keeps the reading loop alive */

/* One buffer: keys, values and their scales, behind each other. */
typedef struct layout {
  pith_dtype store;
  size_t row, scales, bytes; /* bytes of a row and of its scales; of a whole buffer */
} layout;

static layout layout_of(pith_dtype store) {
  size_t row = pith_store_row_bytes(store, D), scales = pith_store_scales(store, D) * sizeof(uint16_t);
  return (layout){store, row, scales, 2 * KEYS * (row + scales)};
}

static pith_rows rows_at(const layout *l, const char *buffer) {
  const char *scales = buffer + 2 * KEYS * l->row;
  return (pith_rows){.keys = buffer,
                     .values = buffer + KEYS * l->row,
                     .key_stride = (ptrdiff_t)l->row,
                     .value_stride = (ptrdiff_t)l->row,
                     .key_scales = l->scales ? (const uint16_t *)(const void *)scales : NULL,
                     .value_scales = l->scales ? (const uint16_t *)(const void *)(scales + KEYS * l->scales) : NULL,
                     .dtype = l->store,
                     .count = KEYS,
                     .d = D,
                     .dv = D};
}

static pith_status fill(pith_context *context, const layout *l, const float *random, char *arena) {
  uint16_t *scales = (uint16_t *)(void *)(arena + 2 * KEYS * l->row);
  PITH_TRY(pith_store_write(context, "random rows", l->store, random, (size_t)2 * KEYS, D, arena, scales));
  for (size_t at = l->bytes; at + l->bytes <= ARENA; at += l->bytes) memcpy(arena + at, arena, l->bytes);
  return PITH_OK;
}

/* Seconds of one pass over one buffer; reading and attending take turns. */
static int measure(pith_context *context, const char *arena, const layout *l, size_t group, const float *queries,
                   seconds *attend, seconds *stream) {
  static float out[PITH_MAX_GROUP * D];
  double attend_times[PASSES], read_times[PASSES];
  size_t buffers = ARENA / l->bytes;
  for (size_t pass = 0; pass < PASSES; pass++) {
    pith_rows rows = rows_at(l, arena + pass % buffers * l->bytes);
    double start = now();
    if (pith_attend_rows(context, &rows, queries, group, out) != PITH_OK) return -1;
    attend_times[pass] = now() - start;
    read_job job = {.data = arena + (pass + buffers / 2) % buffers * l->bytes, .slice = l->bytes / SLICES};
    start = now();
    pith_parallel_for(context, SLICES, read_slice, &job);
    read_times[pass] = now() - start;
    for (size_t i = 0; i < SLICES; i++) sink += job.sum[i];
  }
  *attend = summary(attend_times, PASSES);
  *stream = summary(read_times, PASSES);
  return 0;
}

int main(void) {
  size_t elements = 2 * (size_t)KEYS * D; /* of one buffer */
  float *queries = aligned_alloc(64, PITH_MAX_GROUP * D * sizeof *queries);
  float *random = malloc(elements * sizeof *random);
  char *arena = aligned_alloc(4096, ARENA);
  if (!queries || !random || !arena) return 1;
  pith_stream stream = pith_stream_make(1, PITH_STREAM_TEST, 0);
  for (size_t i = 0; i < elements; i++) random[i] = (float)(2 * pith_random_uniform(&stream, i) - 1);
  for (size_t i = 0; i < PITH_MAX_GROUP * D; i++) queries[i] = (float)(pith_random_uniform(&stream, elements + i) - .5);

  printf("decode, n = %d, d = dv = %d, cold, %s\n", KEYS, D, pith_isa_name());
  printf("%-5s %5s %7s | %s %8s %12s %6s | %s %6s\n", "store", "group", "threads", "median ns/key", "GB/s",
         "stream GB/s", "share", "best ns/key", "share");
  const pith_dtype stores[] = {PITH_F32, PITH_F16, PITH_Q8, PITH_Q4};
  for (size_t t = 0; t < sizeof stores / sizeof *stores; t++) {
    layout l = layout_of(stores[t]);
    bool filled = false;
    for (size_t group = 1; group <= PITH_MAX_GROUP; group *= PITH_MAX_GROUP)
      for (int threads = 1; threads <= 2; threads++) {
        pith_context_options options;
        pith_context_options_init(&options);
        options.threads = threads;
        pith_context *context = NULL;
        seconds attend = {0}, stream_read = {0};
        if (pith_context_create(&options, &context) != PITH_OK ||
            (!filled && fill(context, &l, random, arena) != PITH_OK) ||
            measure(context, arena, &l, group, queries, &attend, &stream_read) != 0)
          return 1;
        filled = true;
        printf("%-5s %5zu %7d | %13.1f %8.2f %12.2f %5.0f%% | %11.1f %5.0f%%\n", pith_dtype_name(stores[t]), group,
               threads, 1e9 * attend.median / KEYS, 1e-9 * (double)l.bytes / attend.median,
               1e-9 * (double)l.bytes / stream_read.median, 100 * stream_read.median / attend.median,
               1e9 * attend.best / KEYS, 100 * stream_read.best / attend.best);
        fflush(stdout);
        pith_context_free(context);
      }
  }
  free(arena);
  free(random);
  free(queries);
  return sink == 42 ? 3 : 0;
}
