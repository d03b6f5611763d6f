/* test_attention.c - exact attention against the plain double-precision one. */
#include "attention.h"
#include "attention/attention.h"
#include "test.h"

/* ---- A problem: arrays of any type and layout, and the doubles that they stand for. ---- */

typedef struct problem {
  size_t layers, kv_heads, group, m, n, d, dv;
  pith_array queries, keys, values;
  double *query64, *key64, *value64; /* C-ordered (layers, heads, rows, columns) */
  void *stored[3];
} problem;

typedef enum layout { PLAIN, PADDED, TRANSPOSED, REVERSED, LAYOUTS } layout_kind;

static void *take(size_t count, size_t size) {
  void *out = calloc(count + 1, size);
  assert_non_null(out);
  return out;
}

static void put(char *at, pith_dtype dtype, float value, double *exact) {
  uint16_t half;
  double wide = value;
  switch (dtype) {
    case PITH_F16:
      half = pith_f32_to_f16(value);
      *exact = pith_f16_to_f32(half);
      memcpy(at, &half, sizeof half);
      return;
    case PITH_BF16:
      half = pith_f32_to_bf16(value);
      *exact = pith_bf16_to_f32(half);
      memcpy(at, &half, sizeof half);
      return;
    case PITH_F64: memcpy(at, &wide, sizeof wide); break;
    default: memcpy(at, &value, sizeof value);
  }
  *exact = value;
}

/* Stores (layers, heads, rows, columns) gaussians; unused places hold what is not a number. */
static pith_array store(uint64_t seed, size_t layers, size_t heads, size_t rows, size_t columns, pith_dtype dtype,
                        layout_kind layout, size_t ndim, double factor, void **memory, double *exact) {
  size_t size = pith_dtype_size(dtype), total = layers * heads * rows * columns;
  size_t wide = layout == PADDED ? columns + 3 : columns;
  ptrdiff_t row = (ptrdiff_t)(wide * size), column = (ptrdiff_t)size;
  if (layout == TRANSPOSED) {
    row = (ptrdiff_t)size;
    column = (ptrdiff_t)(rows * size);
  }
  ptrdiff_t head = (ptrdiff_t)(rows * wide * size), layer = (ptrdiff_t)heads * head;
  char *data = take(layers * heads * rows * wide, size);
  *memory = data;
  memset(data, 0xff, layers * heads * rows * wide * size);
  char *first = data;
  if (layout == REVERSED && rows > 0) {
    first += (ptrdiff_t)(rows - 1) * row;
    row = -row;
  }
  float *random = test_gaussian(seed, total, factor);
  for (size_t i = 0; i < total; i++) {
    size_t c = i % columns, r = i / columns % (rows ? rows : 1), h = i / columns / (rows ? rows : 1);
    ptrdiff_t at =
        (ptrdiff_t)(h / heads) * layer + (ptrdiff_t)(h % heads) * head + (ptrdiff_t)r * row + (ptrdiff_t)c * column;
    put(first + at, dtype, random[i], &exact[i]);
  }
  free(random);
  pith_array array = {.data = first, .dtype = dtype, .ndim = ndim};
  size_t shape[4] = {layers, heads, rows, columns};
  ptrdiff_t stride[4] = {layer, head, row, column};
  for (size_t i = 0; i < ndim; i++) {
    array.shape[i] = shape[4 - ndim + i];
    array.stride[i] = stride[4 - ndim + i];
  }
  return array;
}

static problem make_problem(uint64_t seed, const size_t sizes[7], const pith_dtype dtypes[3], layout_kind layout,
                            size_t ndim) {
  problem p = {.layers = sizes[0],
               .kv_heads = sizes[1],
               .group = sizes[2],
               .m = sizes[3],
               .n = sizes[4],
               .d = sizes[5],
               .dv = sizes[6]};
  size_t heads = p.layers * p.kv_heads;
  p.query64 = take(heads * p.group * p.m * p.d, sizeof(double));
  p.key64 = take(heads * p.n * p.d, sizeof(double));
  p.value64 = take(heads * p.n * p.dv, sizeof(double));
  p.queries =
      store(seed, p.layers, p.kv_heads * p.group, p.m, p.d, dtypes[0], layout, ndim, 1, &p.stored[0], p.query64);
  p.keys = store(seed + 1, p.layers, p.kv_heads, p.n, p.d, dtypes[1], layout, ndim, 1.5, &p.stored[1], p.key64);
  p.values = store(seed + 2, p.layers, p.kv_heads, p.n, p.dv, dtypes[2], layout, ndim, 1, &p.stored[2], p.value64);
  return p;
}

static void free_problem(problem *p) {
  for (size_t i = 0; i < 3; i++) free(p->stored[i]);
  free(p->query64);
  free(p->key64);
  free(p->value64);
}

static size_t answers_of(const problem *p) { return p->layers * p->kv_heads * p->group * p->m * p->dv; }

/* The answers of the plain attention under a dense mask. */
static double *expected_answers(const problem *p, const pith_attention_options *options) {
  double *out = take(answers_of(p), sizeof *out);
  unsigned char *mask = take(p->m * p->n, 1);
  for (size_t r = 0; r < p->m; r++)
    for (size_t j = 0; j < p->n; j++) {
      long long gap = (long long)p->n - (long long)p->m + (long long)r - (long long)j; /* query behind key */
      bool seen = !options->causal || gap >= 0;
      if (options->window > 0 && (size_t)llabs(gap) >= options->window) seen = false;
      mask[r * p->n + j] = seen;
    }
  double scale = options->scale != 0 ? options->scale : 1 / sqrt((double)p->d);
  for (size_t h = 0; h < p->layers * p->kv_heads * p->group; h++)
    reference_attention(p->query64 + h * p->m * p->d, p->m, p->key64 + h / p->group * p->n * p->d,
                        p->value64 + h / p->group * p->n * p->dv, NULL, p->n, p->d, p->dv, scale, mask,
                        out + h * p->m * p->dv);
  free(mask);
  return out;
}

static void check_problem(const problem *p, const pith_attention_options *options, double tolerance) {
  size_t count = answers_of(p);
  double *exact = expected_answers(p, options);
  float *found[2] = {take(count, sizeof(float)), take(count, sizeof(float))};
  for (int threads = 1; threads <= 2; threads++) {
    pith_context *context = test_context(threads);
    memset(found[threads - 1], 0xff, count * sizeof(float));
    assert_ok(context, pith_attention_compute(context, &p->queries, &p->keys, &p->values, options, found[threads - 1]));
    test_context_free(context);
  }
  assert_memory_equal(found[0], found[1], count * sizeof(float));
  for (size_t i = 0; i < count; i++)
    if (!(fabs(found[0][i] - exact[i]) <= tolerance))
      fail_msg("m %zu, n %zu, d %zu, dv %zu: element %zu is %.9g, not %.9g", p->m, p->n, p->d, p->dv, i, found[0][i],
               exact[i]);
  free(exact);
  free(found[0]);
  free(found[1]);
}

/* ---- Shapes, masks, types, layouts ---- */

static const size_t shapes[][7] = {
    /* layers, kv heads, group, m, n, d, dv */
    {1, 1, 1, 1, 1, 1, 1},     {1, 1, 1, 1, 2500, 64, 64}, {1, 1, 1, 5, 0, 8, 8},     {1, 1, 1, 0, 5, 8, 8},
    {1, 2, 3, 7, 40, 17, 33},  {2, 2, 1, 9, 100, 64, 5},   {3, 1, 4, 1, 3000, 16, 9}, {1, 1, 2, 130, 130, 24, 64},
    {1, 1, 1, 50, 20, 12, 12}, {1, 1, 8, 3, 5000, 32, 65}, {1, 1, 1, 600, 600, 8, 8}, {2, 3, 5, 4, 65, 80, 80},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const pith_dtype all_f32[3] = {PITH_F32, PITH_F32, PITH_F32};

static void test_masks(void **state) {
  (void)state;
  const size_t windows[] = {0, 1, 7, 64, 100000, SIZE_MAX};
  for (size_t s = 0; s < SHAPES; s++)
    for (int causal = 0; causal < 2; causal++)
      for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        problem p = make_problem(10 * s, shapes[s], all_f32, PLAIN, 4);
        pith_attention_options options;
        pith_attention_options_init(&options);
        options.causal = causal;
        options.window = windows[w];
        check_problem(&p, &options, 2e-6);
        free_problem(&p);
      }
}

static void test_types_and_layouts(void **state) {
  (void)state;
  const pith_dtype dtypes[][3] = {{PITH_F16, PITH_F16, PITH_F16}, {PITH_BF16, PITH_BF16, PITH_BF16},
                                  {PITH_F64, PITH_F64, PITH_F64}, {PITH_F32, PITH_F16, PITH_BF16},
                                  {PITH_F16, PITH_F32, PITH_F32}, {PITH_F32, PITH_F32, PITH_F64}};
  for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++)
    for (layout_kind layout = PLAIN; layout < LAYOUTS; layout++)
      for (size_t s = 0; s < SHAPES; s++) {
        if (shapes[s][3] > 100) continue;
        size_t least = shapes[s][0] > 1 ? 4 : shapes[s][1] * shapes[s][2] > 1 ? 3 : 2;
        problem p = make_problem(1000 + 10 * s, shapes[s], dtypes[t], layout, least);
        pith_attention_options options;
        pith_attention_options_init(&options);
        options.scale = 0.1;
        options.causal = (int)(s % 2);
        check_problem(&p, &options, 2e-6);
        free_problem(&p);
      }
}

static void test_defaults(void **state) {
  (void)state;
  problem p = make_problem(1, shapes[4], all_f32, PLAIN, 3);
  pith_context *context = test_context(1);
  pith_attention_options options;
  pith_attention_options_init(&options);
  float *a = take(answers_of(&p), sizeof *a), *b = take(answers_of(&p), sizeof *b);
  assert_ok(context, pith_attention_compute(context, &p.queries, &p.keys, &p.values, NULL, a));
  options.scale = 1 / sqrt(17.);
  assert_ok(context, pith_attention_compute(context, &p.queries, &p.keys, &p.values, &options, b));
  assert_memory_equal(a, b, answers_of(&p) * sizeof *a);
  test_context_free(context);
  free(a);
  free(b);
  free_problem(&p);
}

static void test_huge_logits(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  enum { N = 5000 };
  float query[2] = {1e4f, -1e4f}, key[N], value[N], out[2];
  for (size_t i = 0; i < N; i++) {
    key[i] = i == 4321 ? 1 : i == 17 ? -1 : 0;
    value[i] = (float)i;
  }
  pith_array q = pith_array_matrix(query, PITH_F32, 2, 1), k = pith_array_matrix(key, PITH_F32, N, 1);
  pith_array v = pith_array_matrix(value, PITH_F32, N, 1);
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.scale = 1;
  assert_ok(context, pith_attention_compute(context, &q, &k, &v, &options, out));
  assert_true(out[0] == 4321 && out[1] == 17);
  test_context_free(context);
}

/* ---- Refusals ---- */

static void refuse(pith_context *context, pith_status wanted, const char *words, const pith_array *q,
                   const pith_array *k, const pith_array *v, const pith_attention_options *options) {
  float out[64] = {7};
  pith_status status = pith_attention_compute(context, q, k, v, options, out);
  if (status != wanted || !strstr(pith_context_message(context), words))
    fail_msg("%s instead of %s, \"%s\" does not say \"%s\"", pith_status_name(status), pith_status_name(wanted),
             pith_context_message(context), words);
  assert_true(out[0] == 7); /* untouched */
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  float zeros[64] = {0};
  pith_array q = pith_array_matrix(zeros, PITH_F32, 2, 4), k = pith_array_matrix(zeros, PITH_F32, 3, 4);
  pith_array v = pith_array_matrix(zeros, PITH_F32, 3, 5), x;
  pith_attention_options options;
  pith_attention_options_init(&options);

  x = q, x.shape[1] = 3;
  refuse(context, PITH_E_SHAPE, "queries: 3 columns, but keys have 4", &x, &k, &v, NULL);
  x = v, x.shape[0] = 2;
  refuse(context, PITH_E_SHAPE, "values: 2 rows, but keys have 3", &q, &k, &x, NULL);
  x = k, x.ndim = 1;
  refuse(context, PITH_E_SHAPE, "keys: 1 dimensions", &q, &x, &v, NULL);
  x = k, x.dtype = PITH_I8;
  refuse(context, PITH_E_TYPE, "keys: elements are i8", &q, &x, &v, NULL);
  x = k, x.data = NULL;
  refuse(context, PITH_E_ARGUMENT, "keys: the data pointer is NULL for 3 rows", &q, &x, &v, NULL);
  x = v, x.shape[1] = 0;
  refuse(context, PITH_E_SHAPE, "values: 1 layers, 1 heads and 0 columns", &q, &k, &x, NULL);
  refuse(context, PITH_E_ARGUMENT, "queries: no array", NULL, &k, &v, NULL);
  options.scale = NAN;
  refuse(context, PITH_E_ARGUMENT, "scale: nan", &q, &k, &v, &options);
  options.struct_size = 1000;
  refuse(context, PITH_E_ARGUMENT, "struct_size is 1000", &q, &k, &v, &options);

  const pith_array heads2 = {zeros, PITH_F32, 3, {2, 3, 4}, {48, 16, 4}};
  const pith_array heads3 = {zeros, PITH_F32, 3, {3, 2, 4}, {32, 16, 4}};
  const pith_array layers2 = {zeros, PITH_F32, 4, {2, 2, 3, 4}, {48, 48, 16, 4}};
  refuse(context, PITH_E_SHAPE, "queries: 3 heads, but keys have 2", &heads3, &heads2, &heads2, NULL);
  refuse(context, PITH_E_SHAPE, "values: 1 heads, but keys have 2", &q, &heads2, &k, NULL);
  refuse(context, PITH_E_SHAPE, "values: 2 layers, but keys have 1", &heads2, &heads2, &layers2, NULL);
  refuse(context, PITH_E_SHAPE, "queries: 1 layers, but keys have 2", &heads2, &layers2, &layers2, NULL);
  test_context_free(context);
}

/* One bad element in any array, at any place, of any type: refused, and the place is named. */
static void test_not_a_number(void **state) {
  (void)state;
  enum { HEADS = 2, ROWS = 4500, COLUMNS = 3, COUNT = HEADS * ROWS * COLUMNS };
  static unsigned char data[COUNT * 8], query[HEADS * 3 * 8];
  const pith_dtype dtypes[] = {PITH_F32, PITH_F16, PITH_BF16, PITH_F64};
  const float bad[] = {NAN, INFINITY, -INFINITY};
  pith_context *context = test_context(2);
  for (size_t t = 0; t < 4; t++)
    for (size_t b = 0; b < 3; b++)
      for (size_t which = 0; which < 3; which++) {
        size_t row = which == 0 ? 0 : 4321, size = pith_dtype_size(dtypes[t]);
        ptrdiff_t step = (ptrdiff_t)(COLUMNS * size);
        memset(data, 0, sizeof data);
        memset(query, 0, sizeof query);
        double unused;
        size_t head_rows = which == 0 ? 1 : ROWS;
        put((char *)(which == 0 ? query : data) + ((head_rows + row) * COLUMNS + 2) * size, dtypes[t], bad[b], &unused);
        static unsigned char clean[COUNT * 8];
        pith_array q = {query, dtypes[t], 3, {HEADS, 1, COLUMNS}, {step, step, (ptrdiff_t)size}};
        pith_array k = {
            which == 1 ? data : clean, dtypes[t], 3, {HEADS, ROWS, COLUMNS}, {ROWS * step, step, (ptrdiff_t)size}};
        pith_array v = k;
        v.data = which == 2 ? data : clean;
        char words[64];
        (void)snprintf(words, sizeof words, "%s, head 1: row %zu, column 2",
                       which == 0   ? "queries"
                       : which == 1 ? "keys"
                                    : "values",
                       row);
        refuse(context, PITH_E_VALUE, words, &q, &k, &v, NULL);
      }
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_masks),       cmocka_unit_test(test_types_and_layouts), cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_huge_logits), cmocka_unit_test(test_refusals),          cmocka_unit_test(test_not_a_number),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
