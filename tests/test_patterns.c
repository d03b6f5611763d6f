/* test_patterns.c - windows, global keys, block masks, causal masks and their mixtures against a dense mask. */
#include "attention.h"
#include "attention/attention.h"
#include "patterns.h"
#include "test.h"

static void *take(size_t count, size_t size) {
  void *out = calloc(count + 1, size);
  assert_non_null(out);
  return out;
}

/* ---- A problem with a pattern ---- */

typedef struct problem {
  size_t layers, kv_heads, group, m, n, d, dv;
  float *query, *key, *value;
  double *query64, *key64, *value64;
  pith_array queries, keys, values;
} problem;

static double *widen(const float *from, size_t count) {
  double *out = take(count, sizeof *out);
  for (size_t i = 0; i < count; i++) out[i] = from[i];
  return out;
}

static pith_array heads_view(const float *data, size_t layers, size_t heads, size_t rows, size_t columns) {
  ptrdiff_t row = (ptrdiff_t)(columns * sizeof *data), head = (ptrdiff_t)rows * row;
  return (pith_array){
      data, PITH_F32, 4, {layers, heads, rows, columns}, {(ptrdiff_t)heads * head, head, row, (ptrdiff_t)sizeof *data}};
}

static problem make_problem(uint64_t seed, const size_t sizes[7]) {
  problem p = {.layers = sizes[0],
               .kv_heads = sizes[1],
               .group = sizes[2],
               .m = sizes[3],
               .n = sizes[4],
               .d = sizes[5],
               .dv = sizes[6]};
  size_t heads = p.layers * p.kv_heads;
  p.query = test_gaussian(seed, heads * p.group * p.m * p.d, 1);
  p.key = test_gaussian(seed + 1, heads * p.n * p.d, 1);
  p.value = test_gaussian(seed + 2, heads * p.n * p.dv, .5);
  p.query64 = widen(p.query, heads * p.group * p.m * p.d);
  p.key64 = widen(p.key, heads * p.n * p.d);
  p.value64 = widen(p.value, heads * p.n * p.dv);
  p.queries = heads_view(p.query, p.layers, p.kv_heads * p.group, p.m, p.d);
  p.keys = heads_view(p.key, p.layers, p.kv_heads, p.n, p.d);
  p.values = heads_view(p.value, p.layers, p.kv_heads, p.n, p.dv);
  return p;
}

static void free_problem(problem *p) {
  free(p->query);
  free(p->key);
  free(p->value);
  free(p->query64);
  free(p->key64);
  free(p->value64);
}

static size_t query_heads(const problem *p) { return p->layers * p->kv_heads * p->group; }

/* The largest difference from the reference under dense masks; `mean_seen`: keys that a query sees in them. */
static double reference_gap(const problem *p, const reference_pattern *patterns, size_t pattern_count,
                            const float *found, double *mean_seen) {
  double gap = 0, seen = 0, *exact = take(p->m * p->dv, sizeof *exact);
  unsigned char *mask = take(p->m * p->n, 1);
  for (size_t h = 0; h < query_heads(p); h++) {
    reference_pattern_mask(&patterns[pattern_count > 1 ? h : 0], p->m, p->n, mask);
    for (size_t i = 0; i < p->m * p->n; i++) seen += mask[i];
    reference_attention(p->query64 + h * p->m * p->d, p->m, p->key64 + h / p->group * p->n * p->d,
                        p->value64 + h / p->group * p->n * p->dv, NULL, p->n, p->d, p->dv, 1 / sqrt((double)p->d), mask,
                        exact);
    for (size_t i = 0; i < p->m * p->dv; i++) {
      double off = fabs(found[h * p->m * p->dv + i] - exact[i]);
      gap = off <= gap ? gap : off; /* keeps what is not a number */
    }
  }
  *mean_seen = p->m ? seen / (double)(query_heads(p) * p->m) : 0;
  free(mask);
  free(exact);
  return gap;
}

static void check(const problem *p, const pith_attention_options *options, const reference_pattern *patterns,
                  size_t pattern_count) {
  size_t count = query_heads(p) * p->m * p->dv;
  float *found[2] = {take(count, sizeof(float)), take(count, sizeof(float))};
  double seen = 0, expected = 0;
  for (int threads = 1; threads <= 2; threads++) {
    pith_context *context = test_context(threads);
    memset(found[threads - 1], 0xff, count * sizeof(float));
    assert_ok(context, pith_attention_compute(context, &p->queries, &p->keys, &p->values, options, found[threads - 1]));
    assert_ok(context, pith_attention_seen(context, &p->queries, &p->keys, options, &seen));
    test_context_free(context);
  }
  assert_memory_equal(found[0], found[1], count * sizeof(float));
  double gap = reference_gap(p, patterns, pattern_count, found[0], &expected);
  if (!(gap <= 1e-6))
    fail_msg("m %zu, n %zu, window %zu, %zu globals, block %zu, causal %d: off by %g", p->m, p->n, options->window,
             options->global_count, options->block, options->causal, gap);
  if (!(fabs(seen - expected) <= 1e-9 * (1 + expected))) fail_msg("%g keys seen, not %g", seen, expected);
  free(found[0]);
  free(found[1]);
}

/* ---- All mixtures ---- */

static const size_t shapes[][7] = {
    /* layers, kv heads, group, m, n, d, dv */
    {1, 1, 1, 1, 1, 3, 5},      {1, 2, 3, 70, 90, 17, 33}, {2, 1, 2, 200, 200, 16, 8},
    {1, 1, 1, 300, 300, 8, 72}, {1, 1, 8, 2, 4200, 16, 9}, {1, 1, 1, 30, 20, 12, 12},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

static void test_mixtures(void **state) {
  (void)state;
  const size_t windows[] = {0, 1, 37}, blocks[] = {0, 1, 16, 50};
  for (size_t s = 0; s < SHAPES; s++)
    for (size_t w = 0; w < 3; w++)
      for (size_t b = 0; b < 4; b++)
        for (size_t g = 0; g < 3; g++)
          for (int causal = 0; causal < 2; causal++) {
            problem p = make_problem(100 * s, shapes[s]);
            /* None; sinks; scattered, unordered, some twice, some runs. */
            const size_t n = p.n, globals[8] = {0, n - 1, n / 2, n / 2, n / 3, n / 3 + (n > 3), 1 % n, n / 7};
            pith_attention_options options;
            pith_attention_options_init(&options);
            options.causal = causal;
            options.window = windows[w];
            options.globals = globals;
            options.global_count = g == 0 ? 0 : g == 1 ? 1 : 8;
            reference_pattern pattern = {
                .causal = causal, .window = windows[w], .globals = globals, .global_count = options.global_count};
            unsigned char *mask = NULL;
            pith_array array;
            if (blocks[b]) {
              size_t rows = divide_up(p.m, blocks[b]), columns = divide_up(n, blocks[b]);
              mask = take(rows * columns, 1);
              pith_stream stream = pith_stream_make(s, PITH_STREAM_TEST, 77);
              for (size_t i = 0; i < rows * columns; i++) /* every fifth row of blocks is empty */
                mask[i] = i / columns % 5 != 4 && pith_random_uniform(&stream, i) < .3;
              array = pith_array_matrix(mask, PITH_U8, rows, columns);
              options.block_mask = &array;
              options.block = blocks[b];
              pattern.blocks = mask;
              pattern.block_columns = columns;
              pattern.query_block = pattern.key_block = blocks[b];
            }
            check(&p, &options, &pattern, 1);
            free(mask);
            free_problem(&p);
          }
}

/* A mask for each query head, block sizes from the shape, other strides, values above 1. */
static void test_head_masks(void **state) {
  (void)state;
  const size_t sizes[7] = {2, 2, 3, 60, 120, 16, 16};
  enum { HEADS = 12, ROWS = 6, COLUMNS = 8 };
  problem p = make_problem(7, sizes);
  static unsigned char mask[HEADS][ROWS][COLUMNS], turned[HEADS][COLUMNS][ROWS];
  reference_pattern patterns[HEADS];
  pith_stream stream = pith_stream_make(8, PITH_STREAM_TEST, 0);
  for (size_t h = 0; h < HEADS; h++) {
    for (size_t r = 0; r < ROWS; r++)
      for (size_t c = 0; c < COLUMNS; c++) {
        mask[h][r][c] = pith_random_uniform(&stream, (h * ROWS + r) * COLUMNS + c) < .4;
        turned[h][c][r] = mask[h][r][c] ? 255 : 0;
      }
    patterns[h] = (reference_pattern){
        .blocks = &mask[h][0][0], .block_columns = COLUMNS, .query_block = 10, .key_block = 15, .causal = true};
  }
  pith_array array = {turned, PITH_U8, 4, {2, 6, ROWS, COLUMNS}, {6 * ROWS * COLUMNS, ROWS * COLUMNS, 1, ROWS}};
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.causal = 1;
  options.block_mask = &array;
  check(&p, &options, patterns, HEADS);
  free_problem(&p);
}

/* As in a vision model: no positions, nothing causal, an odd head size; rows see squares of patches. */
static void test_vision(void **state) {
  (void)state;
  const size_t sizes[7] = {1, 3, 1, 197, 197, 27, 27};
  problem p = make_problem(9, sizes);
  pith_attention_options options;
  pith_attention_options_init(&options);
  reference_pattern pattern = {0};
  check(&p, &options, &pattern, 1);
  const size_t class_token = 0;
  static unsigned char near[15][15];
  for (size_t i = 0; i < 15; i++)
    for (size_t j = 0; j < 15; j++) near[i][j] = i <= j + 1 && j <= i + 1;
  pith_array array = pith_array_matrix(near, PITH_U8, 15, 15);
  options.globals = pattern.globals = &class_token;
  options.global_count = pattern.global_count = 1;
  options.block_mask = &array;
  options.block = pattern.query_block = pattern.key_block = 14;
  pattern.blocks = &near[0][0];
  pattern.block_columns = 15;
  check(&p, &options, &pattern, 1);
  free_problem(&p);
}

/* Rows of the mask that are empty, and masks that are all empty, are answered with zeros. */
static void test_empty_rows(void **state) {
  (void)state;
  const size_t sizes[7] = {1, 1, 1, 100, 100, 16, 16};
  problem p = make_problem(11, sizes);
  unsigned char mask[4] = {1, 0, 0, 0};
  pith_array array = pith_array_matrix(mask, PITH_U8, 2, 2);
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.block_mask = &array;
  pith_context *context = test_context(1);
  float *out = take(100 * 16, sizeof *out);
  assert_ok(context, pith_attention_compute(context, &p.queries, &p.keys, &p.values, &options, out));
  double first = 0;
  for (size_t i = 0; i < 50 * 16; i++) first += fabs(out[i]);
  assert_true(first > 1);
  for (size_t i = 50 * 16; i < 100 * 16; i++) assert_true(out[i] == 0);
  test_context_free(context);
  free(out);
  free_problem(&p);
}

/* ---- Stored types, and the spans themselves ---- */

/* f16, bf16 rows behind a pattern that begins anywhere: against the same rows without, one key hidden at a time. */
static void test_spans(void **state) {
  (void)state;
  enum { N = 300 };
  pith_stream stream = pith_stream_make(13, PITH_STREAM_TEST, 0);
  uint64_t draw = 0;
  for (size_t trial = 0; trial < 3000; trial++) {
    size_t n = 1 + pith_random_below(&stream, draw++, N), m = 1 + pith_random_below(&stream, draw++, 6);
    size_t block = 1 + pith_random_below(&stream, draw++, 40), columns = divide_up(n, block), count = 0;
    unsigned char blocks[6 * N], mask[6 * N];
    size_t globals[10];
    for (size_t i = 0; i < m * columns; i++) blocks[i] = pith_random_uniform(&stream, draw++) < .5;
    for (size_t at = 0; count < 10 && at < n; at += 1 + pith_random_below(&stream, draw++, 40)) globals[count++] = at;
    if (pith_random_below(&stream, draw++, 3) == 0) count = 0;
    pith_block_mask block_mask = {blocks, m, columns, 1, block, (ptrdiff_t)n - (ptrdiff_t)m};
    const bool causal = pith_random_below(&stream, draw++, 2), blocked = pith_random_below(&stream, draw++, 2);
    size_t window = pith_random_below(&stream, draw++, 100);
    if (pith_random_below(&stream, draw++, 2)) window = 0;
    pith_mask own = {.causal = causal,
                     .window = window,
                     .first = block_mask.first,
                     .globals = count ? globals : NULL,
                     .global_count = count,
                     .blocks = blocked ? &block_mask : NULL};
    reference_pattern pattern = {.causal = own.causal,
                                 .window = own.window,
                                 .globals = globals,
                                 .global_count = count,
                                 .blocks = own.blocks ? blocks : NULL,
                                 .block_columns = columns,
                                 .query_block = 1,
                                 .key_block = block};
    reference_pattern_mask(&pattern, m, n, mask);
    size_t from = pith_random_below(&stream, draw++, n), to = from + pith_random_below(&stream, draw++, n - from + 1);
    for (size_t r = 0; r < m; r++) {
      size_t at = from, expected = 0;
      for (size_t j = 0; j < n; j++) expected += mask[r * n + j];
      assert_int_equal(pith_mask_count(&own, r, n), expected);
      for (pith_spans spans = pith_mask_spans(&own, r, from, to); spans.begin < spans.end; pith_spans_next(&spans)) {
        assert_true(spans.begin >= at && (spans.begin > at || at == from)); /* apart */
        for (; at < spans.begin; at++) assert_int_equal(mask[r * n + at], 0);
        for (; at < spans.end; at++) assert_int_equal(mask[r * n + at], 1);
      }
      for (; at < to; at++) assert_int_equal(mask[r * n + at], 0);
    }
  }
}

/* Stored f16 and bf16 rows under a pattern answer as f32 rows of the same numbers do. */
static void test_types(void **state) {
  (void)state;
  enum { M = 40, N = 700, D = 24 };
  const pith_dtype dtypes[] = {PITH_F16, PITH_BF16};
  const size_t globals[] = {0, 1, 2, 333};
  pith_context *context = test_context(2);
  for (size_t t = 0; t < 2; t++) {
    static uint16_t half[N * D];
    float *query = test_gaussian(15, M * D, 1), *key = test_gaussian(16, N * D, 1);
    static float out[2][M * D];
    for (size_t i = 0; i < N * D; i++) {
      half[i] = t ? pith_f32_to_bf16(key[i]) : pith_f32_to_f16(key[i]);
      key[i] = t ? pith_bf16_to_f32(half[i]) : pith_f16_to_f32(half[i]);
    }
    pith_array q = pith_array_matrix(query, PITH_F32, M, D), k = pith_array_matrix(key, PITH_F32, N, D);
    pith_array h = pith_array_matrix(half, dtypes[t], N, D);
    pith_attention_options options;
    pith_attention_options_init(&options);
    options.causal = 1;
    options.window = 50;
    options.globals = globals;
    options.global_count = 4;
    assert_ok(context, pith_attention_compute(context, &q, &k, &k, &options, out[0]));
    assert_ok(context, pith_attention_compute(context, &q, &h, &h, &options, out[1]));
    for (size_t i = 0; i < M * D; i++) assert_true(fabsf(out[0][i] - out[1][i]) <= 1e-6f);
    free(query);
    free(key);
  }
  test_context_free(context);
}

/* What is masked is not read: rows that no query sees may hold anything, and answers do not change. */
static void test_masked_rows_unread(void **state) {
  (void)state;
  enum { M = 4, N = 4096, D = 16 };
  pith_context *context = test_context(1);
  float *query = test_gaussian(17, M * D, 1), *key = test_gaussian(18, N * D, 1);
  static float out[2][M * D];
  pith_rows rows = {.keys = key,
                    .values = key,
                    .key_stride = D * 4,
                    .value_stride = D * 4,
                    .dtype = PITH_F32,
                    .count = N,
                    .d = D,
                    .dv = D};
  const size_t sinks[] = {0, 1, 2, 3};
  pith_attend_job job = {.rows = rows,
                         .heads = 1,
                         .queries = M,
                         .query = query,
                         .mask = {.causal = true, .window = 64, .first = N - M, .globals = sinks, .global_count = 4},
                         .out = out[0]};
  assert_ok(context, pith_attend_jobs(context, &job, 1));
  for (size_t i = 4 * D; i < (N - M - 63) * (size_t)D; i++) key[i] = NAN;
  job.out = out[1];
  assert_ok(context, pith_attend_jobs(context, &job, 1));
  assert_memory_equal(out[0], out[1], sizeof out[0]);
  key[D] = NAN; /* a sink: it is read */
  assert_ok(context, pith_attend_jobs(context, &job, 1));
  assert_memory_not_equal(out[0], out[1], sizeof out[0]);
  free(query);
  free(key);
  test_context_free(context);
}

/* ---- Refusals ---- */

static void refuse(pith_context *context, const pith_attention_options *options, const char *words) {
  static const float zeros[12 * 4];
  pith_array q = pith_array_matrix(zeros, PITH_F32, 6, 4), k = pith_array_matrix(zeros, PITH_F32, 12, 4);
  float out[24] = {7};
  pith_status status = pith_attention_compute(context, &q, &k, &k, options, out);
  if (status >= 0 || !strstr(pith_context_message(context), words))
    fail_msg("%s: \"%s\" does not say \"%s\"", pith_status_name(status), pith_context_message(context), words);
  assert_true(out[0] == 7);
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const unsigned char mask[36] = {1};
  const size_t far[2] = {3, 12};
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.global_count = 2;
  refuse(context, &options, "globals: the pointer is NULL for 2 positions");
  options.globals = far;
  refuse(context, &options, "globals: position 12, but there are 12 keys");
  options.global_count = 0;
  pith_array array = pith_array_matrix(mask, PITH_U8, 3, 5);
  options.block_mask = &array;
  refuse(context, &options, "block-mask: 5 columns do not divide 12 keys evenly");
  options.block = 2;
  refuse(context, &options, "block-mask: 5 columns, but 12 keys in blocks of 2 need 6");
  options.block = 4;
  refuse(context, &options, "block-mask: 3 rows, but 6 queries in blocks of 4 need 2");
  array = pith_array_matrix(mask, PITH_F32, 3, 6);
  refuse(context, &options, "block-mask: elements are f32");
  array = (pith_array){mask, PITH_U8, 3, {2, 3, 6}, {18, 6, 1}};
  refuse(context, &options, "block-mask: 1 layers and 2 heads, but queries have 1 and 1");
  array = pith_array_matrix(NULL, PITH_U8, 3, 6);
  options.block = 2;
  refuse(context, &options, "block-mask: the data pointer is NULL");
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_mixtures), cmocka_unit_test(test_head_masks),         cmocka_unit_test(test_vision),
      cmocka_unit_test(test_spans),    cmocka_unit_test(test_empty_rows),         cmocka_unit_test(test_types),
      cmocka_unit_test(test_refusals), cmocka_unit_test(test_masked_rows_unread),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
