/* l2_streams.h - samplers and streams that tests of the l2 sampler share. */
#ifndef PITH_TEST_L2_STREAMS_H
#define PITH_TEST_L2_STREAMS_H

#include "sampler/l2.h"
#include "test.h"

static inline pith_l2_options sketch_options(size_t rows) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  options.rows = rows;
  options.method = PITH_METHOD_SKETCH;
  return options;
}

static inline pith_l2 *create(pith_context *context, const pith_l2_options *options) {
  pith_l2 *sampler = NULL;
  assert_ok(context, pith_l2_create(context, options, &sampler));
  return sampler;
}

/* A stream over a matrix: gaussian deltas at random places, some taken back. */
static inline pith_update *make_stream(uint64_t seed, size_t rows, size_t dim, size_t count) {
  pith_stream random = pith_stream_make(seed, PITH_STREAM_TEST, 7);
  pith_update *stream = malloc(count * sizeof *stream);
  assert_non_null(stream);
  for (size_t i = 0; i < count; i++) {
    stream[i] = (pith_update){PITH_UPDATE_A, (uint32_t)pith_random_below(&random, 4 * i, dim),
                              pith_random_below(&random, 4 * i + 1, rows), pith_random_gaussian(&random, 4 * i + 2)};
    if (i > 0 && i % 3 == 0) {
      stream[i] = stream[pith_random_below(&random, 4 * i + 3, i)];
      stream[i].delta = -stream[i].delta;
    }
  }
  return stream;
}

static inline void feed(pith_context *context, pith_l2 *sampler, const pith_update *stream, size_t count) {
  size_t done = 0;
  assert_ok(context, pith_l2_update(context, sampler, stream, count, &done));
  assert_int_equal(done, count);
}

static inline void assert_same_cells(const pith_l2 *a, const pith_l2 *b) {
  assert_int_equal(a->cell_count, b->cell_count);
  assert_memory_equal(a->cells, b->cells, a->cell_count * sizeof *a->cells);
}

#endif
