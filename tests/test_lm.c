/* test_lm.c - the runner against the double reference, against recorded logits, and against bad models. */
#include "data/llama_logits.h"
#include "lm/lm.h"
#include "lm/weights.h"
#include "tiny_model.h"

/* ---- Storage types ---- */

static const struct {
  const char *name;
  pith_gguf_type type;
  size_t block, bytes, halves; /* halves: f16 scales, at the start of a block; Q6_K has its one at the end */
} stored[] = {
    {"F32", PITH_GGUF_TENSOR_F32, 1, 4, 0},       {"F16", PITH_GGUF_TENSOR_F16, 1, 2, 1},
    {"BF16", PITH_GGUF_TENSOR_BF16, 1, 2, 0},     {"Q8_0", PITH_GGUF_TENSOR_Q8_0, 32, 34, 1},
    {"Q4_0", PITH_GGUF_TENSOR_Q4_0, 32, 18, 1},   {"Q4_1", PITH_GGUF_TENSOR_Q4_1, 32, 20, 2},
    {"Q4_K", PITH_GGUF_TENSOR_Q4_K, 256, 144, 2}, {"Q5_K", PITH_GGUF_TENSOR_Q5_K, 256, 176, 2},
    {"Q6_K", PITH_GGUF_TENSOR_Q6_K, 256, 210, 1},
};
enum { STORED = sizeof stored / sizeof *stored };

/* Random bytes, but scales between 2^-7 and 1 / 4 of either sign, and F32 and BF16 likewise. */
static unsigned char *random_rows(size_t which, size_t rows, size_t columns) {
  const size_t block = stored[which].bytes, blocks = rows * columns / stored[which].block;
  pith_stream stream = pith_stream_make(which + 1, PITH_STREAM_TEST, 1);
  unsigned char *bytes = malloc(blocks * block);
  assert_non_null(bytes);
  for (size_t i = 0; i < blocks * block; i++) bytes[i] = (unsigned char)pith_random_below(&stream, i, 256);
  for (size_t b = 0; b < blocks; b++) {
    unsigned char *at = bytes + b * block;
    if (stored[which].type == PITH_GGUF_TENSOR_Q6_K) at += block - 2;
    for (size_t h = 0; h < stored[which].halves; h++) at[2 * h + 1] = (at[2 * h + 1] & 0xb3) | 0x20;
    if (stored[which].type == PITH_GGUF_TENSOR_F32) at[3] = (at[3] & 0x80) | 0x3f;
    if (stored[which].type == PITH_GGUF_TENSOR_BF16) at[1] = (at[1] & 0x80) | 0x3f;
  }
  return bytes;
}

static lm_matrix matrix_of(size_t which, const unsigned char *bytes, size_t rows, size_t columns) {
  return (lm_matrix){.type = lm_weight_type_of(stored[which].type),
                     .data = bytes,
                     .rows = rows,
                     .columns = columns,
                     .row_bytes = columns / stored[which].block * stored[which].bytes};
}

static void weights_expand_as_defined(void **state) {
  (void)state;
  enum { ROWS = 3, COLUMNS = 1024 };
  for (size_t which = 0; which < STORED; which++) {
    unsigned char *bytes = random_rows(which, ROWS, COLUMNS);
    const lm_matrix matrix = matrix_of(which, bytes, ROWS, COLUMNS);
    assert_non_null(matrix.type);
    assert_string_equal(matrix.type->name, stored[which].name);
    float out[COLUMNS];
    double largest = 0;
    for (size_t r = 0; r < ROWS; r++) {
      matrix.type->expand(lm_matrix_row(&matrix, r), out, COLUMNS);
      for (size_t i = 0; i < COLUMNS; i++) {
        const double wanted = reference_lm_weight(stored[which].name, lm_matrix_row(&matrix, r), i);
        /* An offset may cancel nearly all of a weight: the error is against the parts, at most 63 * 31 / 4 large. */
        const double room = stored[which].halves == 2 ? 1e-4 : 1e-6 * fabs(wanted);
        if (!(fabs((double)out[i] - wanted) <= room))
          fail_msg("%s: weight %zu is %g, not %g", stored[which].name, i, (double)out[i], wanted);
        largest = fmax(largest, fabs(wanted));
      }
    }
    assert_true(largest > 0.1);
    free(bytes);
  }
  assert_null(lm_weight_type_of((pith_gguf_type)6)); /* Q5_0 */
}

/* All ways to multiply: few tokens and many, one product and several, sizes that are no round numbers. */
static void products_are_right(void **state) {
  (void)state;
  enum { ROWS = 131, COLUMNS = 256, MOST = 37 };
  const size_t counts[] = {1, 2, 3, 4, MOST};
  pith_context *context = test_context(2);
  float *x = test_gaussian(5, MOST * COLUMNS, 1), *bias = test_gaussian(6, ROWS, 1);
  float *out = malloc(2 * MOST * ROWS * sizeof *out), *second = out + MOST * ROWS;
  double *weights = malloc((size_t)ROWS * COLUMNS * sizeof *weights);
  for (size_t which = 0; which < STORED; which++) {
    unsigned char *bytes = random_rows(which, ROWS, COLUMNS);
    const lm_matrix matrix = matrix_of(which, bytes, ROWS, COLUMNS);
    lm_matrix part = matrix;
    part.rows = 70;
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
      weights[i] = reference_lm_weight(stored[which].name, lm_matrix_row(&matrix, i / COLUMNS), i % COLUMNS);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
      const lm_product products[] = {{&matrix, bias, x, out}, {&part, NULL, x, second}};
      assert_ok(context, lm_multiply(context, products, 2, counts[c]));
      for (size_t t = 0; t < counts[c]; t++)
        for (size_t r = 0; r < ROWS; r++) {
          double wanted = 0, size = 0;
          for (size_t i = 0; i < COLUMNS; i++) {
            const double term = weights[r * COLUMNS + i] * (double)x[t * COLUMNS + i];
            wanted += term;
            size += fabs(term);
          }
          const double room = 1e-5 * size + 1e-6;
          if (!(fabs((double)out[t * ROWS + r] - wanted - (double)bias[r]) <= room) ||
              (r < part.rows && !(fabs((double)second[t * part.rows + r] - wanted) <= room)))
            fail_msg("%s, %zu tokens: row %zu of token %zu is %g, not %g", stored[which].name, counts[c], r, t,
                     (double)out[t * ROWS + r] - (double)bias[r], wanted);
        }
    }
    free(bytes);
  }
  free(x), free(bias), free(out), free(weights);
  test_context_free(context);
}

/* Rows of F32 and F16 need not be a multiple of any lane count. */
static void odd_widths(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float *x = test_gaussian(7, 100, 1), out = 0;
  for (size_t which = 0; which < 3; which++)
    for (size_t columns = 1; columns < 100; columns++) {
      unsigned char *bytes = random_rows(which, 1, columns);
      const lm_matrix matrix = matrix_of(which, bytes, 1, columns);
      double wanted = 0;
      for (size_t i = 0; i < columns; i++) wanted += reference_lm_weight(stored[which].name, bytes, i) * (double)x[i];
      assert_ok(context, lm_multiply(context, &(lm_product){&matrix, NULL, x, &out}, 1, 1));
      assert_true(fabs((double)out - wanted) < 1e-4);
      free(bytes);
    }
  free(x);
  test_context_free(context);
}

/* ---- Architectures ---- */

static const tiny_model shapes[] = {
    {.architecture = "llama", .query_heads = 4, .kv_heads = 2, .head_size = 6, .tied = true},
    {.architecture = "llama", .query_heads = 3, .kv_heads = 1, .head_size = 8, .rope_factors = true},
    {.architecture = "qwen2", .query_heads = 4, .kv_heads = 2, .head_size = 6},
    {.architecture = "qwen3", .query_heads = 4, .kv_heads = 2, .head_size = 16, .tied = true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, TOKENS = 60 };

static void random_tokens(uint32_t tokens[TOKENS]) {
  pith_stream stream = pith_stream_make(9, PITH_STREAM_TEST, 2);
  for (size_t i = 0; i < TOKENS; i++) tokens[i] = (uint32_t)pith_random_below(&stream, i, TINY_VOCABULARY);
}

static lm_session *open_session(pith_context *context, const lm_model *model, pith_dtype store, bool record) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.store = store;
  options.record_queries = record;
  lm_session *session = NULL;
  assert_ok(context, lm_session_create(context, model, &options, &session));
  return session;
}

static void assert_close(const char *what, const float *found, const double *wanted, size_t count, double room) {
  for (size_t i = 0; i < count; i++)
    if (!(fabs((double)found[i] - wanted[i]) <= room))
      fail_msg("%s: number %zu is %g, not %g", what, i, (double)found[i], wanted[i]);
}

/* Rows of a view side by side. */
static void assert_view_close(const char *what, const pith_array *view, const double *wanted, double room) {
  for (size_t l = 0; l < view->shape[0]; l++)
    for (size_t h = 0; h < view->shape[1]; h++) {
      const pith_array head = pith_array_head(view, l, h);
      for (size_t r = 0; r < head.shape[0]; r++, wanted += head.shape[1])
        assert_close(what, (const float *)(const void *)((const char *)head.data + (ptrdiff_t)r * head.stride[0]),
                     wanted, head.shape[1], room);
    }
}

/* The law of head weights, from its words. */
static double head_weight(const tiny_model *m, const double *residual, size_t layer, size_t kv) {
  const size_t d = m->head_size, group = m->query_heads / m->kv_heads, all = m->query_heads * d;
  double norms = 0, mean = 0;
  for (size_t head = kv * group; head < (kv + 1) * group; head++) {
    double square = 0;
    for (size_t r = 0; r < TINY_WIDTH; r++)
      for (size_t i = head * d; i < (head + 1) * d; i++) square += pow((double)m->layer[layer].output[r * all + i], 2);
    norms += square / (double)group;
  }
  for (size_t t = 8; t < TOKENS; t++) mean += residual[layer * TOKENS + t] / (TOKENS - 8);
  return norms / (double)d / mean;
}

static void check_architecture(const tiny_model *shape) {
  tiny_model m = *shape;
  gguf_bytes file = tiny_model_make(&m);
  char path[32];
  tiny_model_save(&file, path);
  pith_context *context = test_context(2);
  lm_model *model = NULL;
  assert_ok(context, lm_model_load(context, path, &model));
  const lm_model_info info = lm_model_describe(model);
  assert_string_equal(info.architecture, m.architecture);
  assert_true(info.vocabulary == TINY_VOCABULARY && info.layers == TINY_LAYERS && info.head_size == m.head_size);
  assert_int_equal(info.rope, m.reference.halves ? PITH_ROPE_HALVES : PITH_ROPE_PAIRS);
  assert_int_equal(info.rope_scaled, m.rope_factors);

  uint32_t tokens[TOKENS];
  random_tokens(tokens);
  const size_t queries = TINY_LAYERS * m.query_heads * TOKENS * m.head_size;
  const size_t keys = TINY_LAYERS * m.kv_heads * TOKENS * m.head_size, logits = TOKENS * TINY_VOCABULARY;
  double *room = malloc((logits + queries + 2 * keys + TINY_LAYERS * TOKENS) * sizeof *room);
  const reference_lm_result wanted = {.logits = room,
                                      .queries = room + logits,
                                      .keys = room + logits + queries,
                                      .values = room + logits + queries + keys,
                                      .residual = room + logits + queries + 2 * keys};
  reference_lm_run(&m.reference, tokens, TOKENS, &wanted);

  float *out = malloc(logits * sizeof *out);
  lm_session *session = open_session(context, model, PITH_F32, true);
  assert_ok(context, lm_session_read(context, session, tokens, TOKENS, 0, out));
  assert_close("logits", out, wanted.logits, logits, 1e-4);
  pith_array k, v, q;
  assert_ok(context, lm_session_arrays(context, session, &k, &v, &q));
  assert_int_equal(k.shape[2], TOKENS);
  assert_view_close("keys", &k, wanted.keys, 1e-4);
  assert_view_close("values", &v, wanted.values, 1e-4);
  assert_view_close("queries", &q, wanted.queries, 1e-4);
  float weights[TINY_LAYERS * 4];
  assert_ok(context, lm_head_weights(context, session, weights));
  for (size_t i = 0; i < TINY_LAYERS * m.kv_heads; i++) {
    const double weight = head_weight(&m, wanted.residual, i / m.kv_heads, i % m.kv_heads);
    assert_true(fabs((double)weights[i] - weight) < 1e-4 * weight);
  }
  lm_session_free(session);

  /* One by one, and in uneven pieces. */
  session = open_session(context, model, PITH_F32, false);
  for (size_t t = 0; t < TOKENS; t++) {
    assert_ok(context, lm_session_read(context, session, tokens + t, 1, 0, out));
    assert_close("logits one by one", out, wanted.logits + t * TINY_VOCABULARY, TINY_VOCABULARY, 1e-4);
  }
  assert_ok(context, lm_session_truncate(context, session, 0));
  for (size_t t = 0, piece = 1; t < TOKENS; t += piece, piece = pith_min_size(piece + 3, TOKENS - t)) {
    assert_ok(context, lm_session_read(context, session, tokens + t, piece, piece - 1, out));
    assert_close("logits in pieces", out, wanted.logits + (t + piece - 1) * TINY_VOCABULARY, TINY_VOCABULARY, 1e-4);
    assert_int_equal(lm_session_length(session), t + piece);
  }
  lm_session_free(session);
  lm_model_free(model);
  assert_int_equal(unlink(path), 0);
  free(room), free(out), free(file.bytes);
  tiny_model_free(&m);
  test_context_free(context);
}

static void architectures_match_the_reference(void **state) {
  (void)state;
  for (size_t i = 0; i < SHAPES; i++) check_architecture(&shapes[i]);
}

/* ---- llama.cpp's own answers ---- */

/* How far its logits may be from ours. Rows of the embedding are looked up in f32, so that any type must give the same
 * numbers. In products it rounds the activations to the precision of the weights: to f16, to bf16, or to 8 bits with a
 * scale for every 32 of them, or every 256; logits deviate by 1.5 here. */
static double room_of(const llama_model *m) {
  switch (m->matrices) {
    case PITH_GGUF_TENSOR_F32: return 1e-3;
    case PITH_GGUF_TENSOR_F16: return 5e-3;
    case PITH_GGUF_TENSOR_BF16: return 0.05;
    case PITH_GGUF_TENSOR_Q8_0:
    case PITH_GGUF_TENSOR_Q4_0:
    case PITH_GGUF_TENSOR_Q4_1: return 0.15;
    default: return 0.3;
  }
}

static double worst_logit(const float *found, const float *wanted) {
  double worst = 0;
  for (size_t i = 0; i < LLAMA_VOCABULARY; i++) worst = fmax(worst, fabs((double)found[i] - (double)wanted[i]));
  return worst;
}

static void match_llama(const llama_model *m, const float recorded[2][LLAMA_VOCABULARY]) {
  uint32_t tokens[LLAMA_TOKENS];
  llama_tokens(tokens);
  gguf_bytes file = llama_model_make(m);
  char path[32];
  tiny_model_save(&file, path);
  pith_context *context = test_context(2);
  lm_model *model = NULL;
  assert_ok(context, lm_model_load(context, path, &model));
  float out[LLAMA_TOKENS][LLAMA_VOCABULARY];
  lm_session *session = open_session(context, model, PITH_F32, false);
  assert_ok(context, lm_session_read(context, session, tokens, LLAMA_TOKENS, 0, out[0]));
  double worst = fmax(worst_logit(out[LLAMA_MIDDLE], recorded[0]), worst_logit(out[LLAMA_TOKENS - 1], recorded[1]));
  assert_ok(context, lm_session_truncate(context, session, 0));
  for (size_t t = 0; t < LLAMA_TOKENS; t++)
    assert_ok(context, lm_session_read(context, session, tokens + t, 1, 0, out[t]));
  worst = fmax(worst, worst_logit(out[LLAMA_MIDDLE], recorded[0]));
  worst = fmax(worst, worst_logit(out[LLAMA_TOKENS - 1], recorded[1]));
  printf("llama.cpp, %s: the worst logit is off by %g\n", m->name, worst);
  if (!(worst <= room_of(m))) fail_msg("%s: a logit is off by %g", m->name, worst);
  assert_true(worst_logit(out[LLAMA_TOKENS - 1], recorded[0]) > 5 * room_of(m)); /* after other tokens */
  lm_session_free(session);
  lm_model_free(model);
  assert_int_equal(unlink(path), 0);
  free(file.bytes);
  test_context_free(context);
}

static void llama_cpp_answers_the_same(void **state) {
  (void)state;
  for (size_t i = 0; i < LLAMA_MODELS; i++) match_llama(&llama_models[i], llama_logits[i]);
}

/* ---- The shipped model ---- */

static lm_model *shipped(pith_context *context) {
  lm_model *model = NULL;
  assert_ok(context, lm_model_load(context, PITH_ROOT "/models/byte-lm-3m-f16.gguf", &model));
  return model;
}

static const char prose[] =
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way - in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good "
    "or for evil, in the superlative degree of comparison only.";
enum { PROSE = sizeof prose - 1 };

static void prose_tokens(uint32_t tokens[PROSE]) {
  for (size_t i = 0; i < PROSE; i++) tokens[i] = (unsigned char)prose[i];
}

/* Loss in bits a byte over the tokens whose logits are there, the last left out. */
static double loss(const float *logits, const uint32_t *tokens, size_t count) {
  double sum = 0;
  for (size_t t = 0; t + 1 < count; t++) {
    const float *row = logits + t * 256;
    double all = 0;
    for (size_t i = 0; i < 256; i++) all += exp((double)row[i]);
    sum += log2(all) - (double)row[tokens[t + 1]] / log(2);
  }
  return sum / (double)(count - 1);
}

static void shipped_model_reads_prose(void **state) {
  (void)state;
  uint32_t tokens[PROSE];
  prose_tokens(tokens);
  pith_context *context = test_context(1);
  lm_model *model = shipped(context);
  float *out = malloc(2 * PROSE * 256 * sizeof *out), *again = out + (size_t)PROSE * 256;
  lm_session *session = open_session(context, model, PITH_F16, false);
  assert_ok(context, lm_session_read(context, session, tokens, PROSE, 0, out));
  const double bits = loss(out, tokens, PROSE);
  if (!(bits > 1 && bits < 2.2)) fail_msg("%g bits a byte", bits); /* 1.97 on the novel; a uniform guess: 8 */
  lm_session_free(session);

  /* The same bytes at any number of threads. */
  pith_context *threads = test_context(3);
  session = open_session(threads, model, PITH_F16, false);
  assert_ok(threads, lm_session_read(threads, session, tokens, PROSE, 0, again));
  assert_memory_equal(out, again, PROSE * 256 * sizeof *out);
  lm_session_free(session);
  test_context_free(threads);
  lm_model_free(model);
  free(out);
  test_context_free(context);
}

/* Bytes really held are those that are told, and attention reads what is told. */
static void memory_is_told(void **state) {
  (void)state;
  uint32_t tokens[PROSE];
  prose_tokens(tokens);
  pith_context *context = test_context(1);
  lm_model *model = shipped(context);
  const size_t before = pith_context_bytes(context);
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = 2000;
  options.record_queries = true;
  lm_session *session = NULL;
  assert_ok(context, lm_session_create(context, model, &options, &session));
  const size_t held = pith_context_bytes(context) - before;
  assert_ok(context, lm_session_read(context, session, tokens, 100, 0, NULL));
  const lm_session_memory memory = lm_session_bytes(session);
  assert_int_equal(memory.cache_bytes, 4 * 2 * 2 * 100 * 64 * 2);
  const double told = (double)(memory.cache_bytes + memory.other_bytes + memory.working_bytes);
  assert_true(fabs(told - (double)held) < 0.02 * (double)held);
  lm_session_free(session);
  lm_model_free(model);
  test_context_free(context);
}

/* ---- Summaries in place of a prefix ---- */

enum { PREFIX = 300, LATER = 100 };

/* The mean KL from the full logits to those of a session that goes on from a summary of that engine. */
static double kl_after(pith_context *context, lm_session *full, const char *engine, size_t points,
                       const uint32_t *tokens, const float *wanted) {
  const lm_model_info info = {.rope = PITH_ROPE_PAIRS, .rope_base = 10000};
  pith_array keys, values, queries;
  assert_ok(context, lm_session_arrays(context, full, &keys, &values, &queries));
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  if (points) options.points = points;
  options.window = 4;
  options.store = PITH_F32;
  options.rope = info.rope;
  options.rope_base = info.rope_base;
  options.refine = 0;
  pith_summary *summary = NULL;
  assert_ok(context, pith_compress(context, &keys, &values, &queries, &options, &summary));
  lm_session_options session_options;
  lm_session_options_init(&session_options);
  session_options.store = PITH_F32;
  session_options.capacity = PREFIX + LATER;
  lm_session *session = NULL;
  assert_ok(context, lm_session_after(context, full, summary, &session_options, &session));
  assert_int_equal(lm_session_length(session), PREFIX);
  float *out = malloc((size_t)LATER * 256 * sizeof *out);
  assert_ok(context, lm_session_read(context, session, tokens + PREFIX, LATER, 0, out));
  double kl = 0;
  for (size_t t = 0; t < LATER; t++) {
    const float *p = wanted + t * 256, *q = out + t * 256;
    double p_sum = 0, q_sum = 0;
    for (size_t i = 0; i < 256; i++) p_sum += exp((double)p[i]), q_sum += exp((double)q[i]);
    for (size_t i = 0; i < 256; i++)
      kl += exp((double)p[i]) / p_sum * ((double)p[i] - log(p_sum) - (double)q[i] + log(q_sum)) / LATER;
  }
  const lm_session_memory memory = lm_session_bytes(session);
  assert_int_equal(memory.cache_bytes, pith_summary_describe(summary).bytes + 4 * 2 * 2 * LATER * 64 * 4);
  free(out);
  lm_session_free(session);
  pith_summary_free(summary);
  return kl;
}

static void summaries_stand_for_a_prefix(void **state) {
  (void)state;
  uint32_t tokens[PROSE];
  prose_tokens(tokens);
  pith_context *context = test_context(2);
  lm_model *model = shipped(context);
  lm_session *full = open_session(context, model, PITH_F32, true);
  float *wanted = malloc((size_t)LATER * 256 * sizeof *wanted);
  assert_ok(context, lm_session_read(context, full, tokens, PREFIX + LATER, PREFIX, wanted));
  assert_ok(context, lm_session_truncate(context, full, PREFIX));
  const double exact = kl_after(context, full, "exact", 0, tokens, wanted);
  const double good = kl_after(context, full, "nystrom", 75, tokens, wanted);
  const double poor = kl_after(context, full, "recent", 8, tokens, wanted);
  printf("KL after a summary: exact %g, nystrom at 1/4 %g, eight rows %g\n", exact, good, poor);
  assert_true(exact < 1e-6);
  assert_true(good > exact && good < 0.05);
  assert_true(poor > 5 * good);

  /* What does not fit is refused. */
  pith_array keys, values;
  assert_ok(context, lm_session_arrays(context, full, &keys, &values, NULL));
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = "recent";
  options.points = 20;
  const pith_array k = pith_array_rows(&keys, 0, PREFIX - 1), v = pith_array_rows(&values, 0, PREFIX - 1);
  pith_summary *summary = NULL;
  lm_session *session = NULL;
  assert_ok(context, pith_compress(context, &k, &v, NULL, &options, &summary));
  assert_int_equal(lm_session_after(context, full, summary, NULL, &session), PITH_E_SHAPE);
  pith_summary_free(summary);
  const pith_array head_k = pith_array_head(&keys, 0, 0), head_v = pith_array_head(&values, 0, 0);
  assert_ok(context, pith_compress(context, &head_k, &head_v, NULL, &options, &summary));
  assert_int_equal(lm_session_after(context, full, summary, NULL, &session), PITH_E_SHAPE);
  pith_summary_free(summary);
  assert_null(session);
  lm_session_free(full);
  lm_model_free(model);
  free(wanted);
  test_context_free(context);
}

/* ---- Recorded logits ---- */

/* The elements of a little C-ordered .npy of four-byte numbers; NULL if there is no such file. */
static void *read_numbers(const char *name, size_t *count) {
  const char *data = getenv("PITH_DATA");
  char path[512];
  (void)snprintf(path, sizeof path, "%s/model/%s.npy", data ? data : "", name);
  FILE *file = data ? fopen(path, "rb") : NULL;
  if (!file) return NULL;
  unsigned char head[10];
  assert_int_equal(fread(head, 1, sizeof head, file), sizeof head);
  assert_int_equal(fseek(file, head[8] + 256 * head[9], SEEK_CUR), 0);
  const long start = ftell(file);
  assert_int_equal(fseek(file, 0, SEEK_END), 0);
  *count = (size_t)(ftell(file) - start) / 4;
  assert_int_equal(fseek(file, start, SEEK_SET), 0);
  void *numbers = malloc(*count * 4);
  assert_int_equal(fread(numbers, 4, *count, file), *count);
  (void)fclose(file);
  return numbers;
}

/* Logits after tokens first, first + step, ... must be within `room` of the recorded ones. */
static void match_recorded(const char *path, const char *ids, const char *logits, size_t first, size_t step,
                           double room) {
  size_t token_count = 0, count = 0;
  uint32_t *tokens = read_numbers(ids, &token_count);
  float *wanted = read_numbers(logits, &count);
  if (!tokens || !wanted) {
    print_message("skipped: PITH_DATA does not name a folder with model/%s.npy\n", logits);
    free(tokens), free(wanted);
    skip();
    return; /* which static analysis does not know */
  }
  pith_context *context = test_context(2);
  lm_model *model = NULL;
  assert_ok(context, lm_model_load(context, path, &model));
  const size_t vocabulary = lm_model_describe(model).vocabulary, rows = count / vocabulary;
  float *out = malloc(vocabulary * sizeof *out);
  lm_session *session = open_session(context, model, PITH_F32, false);
  double worst = 0, range = 0;
  for (size_t row = 0; row < rows; row++) {
    const size_t read = lm_session_length(session), piece = first + row * step + 1 - read;
    assert_true(read + piece <= token_count);
    assert_ok(context, lm_session_read(context, session, tokens + read, piece, piece - 1, out));
    for (size_t i = 0; i < vocabulary; i++) {
      worst = fmax(worst, fabs((double)out[i] - (double)wanted[row * vocabulary + i]));
      range = fmax(range, fabs((double)out[i]));
    }
  }
  printf("%s: %zu rows, the worst logit is off by %g of %g\n", logits, rows, worst, range);
  assert_true(rows > 0 && range > 1);
  assert_true(worst <= room);
  lm_session_free(session);
  lm_model_free(model);
  free(out), free(tokens), free(wanted);
  test_context_free(context);
}

static void byte_lm_matches_recorded_logits(void **state) {
  (void)state;
  match_recorded(PITH_ROOT "/models/byte-lm-3m-f16.gguf", "reference_tokens", "reference_logits", 0, 4, 1e-3);
}

static void smollm2_matches_recorded_logits(void **state) {
  (void)state;
  const char *path = getenv("PITH_SMOLLM2");
  if (!path) {
    print_message("skipped: PITH_SMOLLM2 does not name the model (tools/fetch-smollm2 fetches it)\n");
    skip();
  }
  match_recorded(path, "smollm2_book_ids", "smollm2_reference_logits", 31, 32, 2e-3);
}

/* ---- Bad models and bad calls ---- */

/* Loading must fail with that status and a message with these words in it. */
static void refuse(const gguf_bytes *file, pith_status wanted, const char *word, const char *other) {
  char path[32];
  tiny_model_save(file, path);
  pith_context *context = test_context(1);
  const size_t before = pith_context_bytes(context);
  lm_model *model = NULL;
  const pith_status status = lm_model_load(context, path, &model);
  if (status != wanted || !strstr(pith_context_message(context), word) || !strstr(pith_context_message(context), other))
    fail_msg("%s instead of %s, \"%s\" and \"%s\": %s", pith_status_name(status), pith_status_name(wanted), word, other,
             pith_context_message(context));
  assert_null(model);
  assert_int_equal(pith_context_bytes(context), before);
  assert_int_equal(unlink(path), 0);
  test_context_free(context);
}

/* The place of a word in a file, the last one. */
static unsigned char *find_word(const gguf_bytes *file, const char *word) {
  const size_t length = strlen(word);
  for (size_t at = file->size - length; at > 0; at--)
    if (memcmp(file->bytes + at, word, length) == 0) return file->bytes + at;
  fail_msg("no %s in the file", word);
  return NULL;
}

/* Where the values of the key `rest` of a tiny llama and the type of a tensor (rows, columns) stand. */
static unsigned char *value_of(const gguf_bytes *file, const char *key) {
  return find_word(file, key) + strlen(key) + 4;
}
static unsigned char *type_of(const gguf_bytes *file, const char *tensor) {
  return find_word(file, tensor) + strlen(tensor) + 4 + 16;
}

static void bad_models_are_named(void **state) {
  (void)state;
  tiny_model m = shapes[0];
  gguf_bytes file = tiny_model_make(&m);
  const unsigned char *const original = file.bytes;
  const struct {
    unsigned char *at;
    unsigned char value;
    pith_status status;
    const char *word, *other;
  } cases[] = {
      {find_word(&file, "general.architecture") + 20 + 4 + 8, 'g', PITH_E_TYPE, "glama", "qwen3"},
      {value_of(&file, "llama.block_count"), 3, PITH_E_FORMAT, "blk.2.attn_norm.weight", "missing"},
      {value_of(&file, "llama.block_count"), 1, PITH_E_TYPE, "blk.1.", "no place"},
      {value_of(&file, "llama.block_count"), 0, PITH_E_FORMAT, "block_count", "0"},
      {value_of(&file, "llama.embedding_length"), 32, PITH_E_SHAPE, "token_embd.weight", "24"},
      {value_of(&file, "llama.embedding_length"), 28, PITH_E_SHAPE, "heads of 7", "even"},
      {value_of(&file, "llama.attention.head_count_kv"), 3, PITH_E_SHAPE, "4 query heads", "3"},
      {value_of(&file, "llama.attention.head_count_kv"), 5, PITH_E_FORMAT, "head_count_kv", "5"},
      {value_of(&file, "llama.feed_forward_length"), 41, PITH_E_SHAPE, "ffn_gate.weight", "41"},
      {find_word(&file, "llama.context_length"), 'x', PITH_E_FORMAT, "llama.context_length", "missing"},
      {find_word(&file, "blk.1.ffn_down.weight") + 6, 'x', PITH_E_FORMAT, "blk.1.ffn_down.weight", "missing"},
      {type_of(&file, "blk.0.attn_q.weight"), 24, PITH_E_TYPE, "blk.0.attn_q.weight", "I8"},
      {type_of(&file, "blk.0.attn_q.weight"), 77, PITH_E_TYPE, "blk.0.attn_q.weight", "77"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const unsigned char old = *cases[i].at;
    assert_true(cases[i].at >= original);
    *cases[i].at = cases[i].value;
    refuse(&file, cases[i].status, cases[i].word, cases[i].other);
    *cases[i].at = old;
  }
  free(file.bytes);
  tiny_model_free(&m);
}

static void truncated_models_are_refused(void **state) {
  (void)state;
  tiny_model m = shapes[3];
  gguf_bytes file = tiny_model_make(&m);
  char path[32];
  tiny_model_save(&file, path);
  pith_context *context = test_context(1);
  lm_model *model = NULL;
  assert_ok(context, lm_model_load(context, path, &model));
  lm_model_free(model);
  const size_t before = pith_context_bytes(context);
  for (size_t size = file.size; size-- > 0;) {
    lm_model *none = NULL;
    assert_int_equal(truncate(path, (off_t)size), 0);
    assert_int_equal(lm_model_load(context, path, &none), PITH_E_FORMAT);
    assert_null(none);
  }
  assert_int_equal(pith_context_bytes(context), before);
  assert_int_equal(unlink(path), 0);
  free(file.bytes);
  tiny_model_free(&m);
  test_context_free(context);
}

/* Whatever byte of the metadata is changed: a clear refusal, or a model that can be read with. */
static void changed_bytes_do_no_harm(void **state) {
  (void)state;
  tiny_model m = shapes[2];
  gguf_bytes file = tiny_model_make(&m);
  const size_t head = (size_t)(find_word(&file, "blk.1.ffn_down.weight") - file.bytes) + 64;
  size_t refused = 0;
  for (size_t at = 0; at < head; at++) {
    char path[32];
    file.bytes[at] ^= 0x41;
    tiny_model_save(&file, path);
    file.bytes[at] ^= 0x41;
    pith_context *context = test_context(1);
    const size_t before = pith_context_bytes(context);
    lm_model *model = NULL;
    if (lm_model_load(context, path, &model) < 0) {
      assert_null(model);
      assert_true(strlen(pith_context_message(context)) > strlen(path)); /* which it begins with */
      assert_int_equal(pith_context_bytes(context), before);
      refused++;
    } else {
      lm_session *session = NULL;
      const lm_session_options options = {.capacity = 2, .store = PITH_F32};
      float logits[TINY_VOCABULARY];
      assert_true(lm_model_describe(model).vocabulary == TINY_VOCABULARY);
      assert_ok(context, lm_session_create(context, model, &options, &session));
      assert_ok(context, lm_session_read(context, session, (const uint32_t[]){1, 2}, 2, 1, logits));
      lm_session_free(session);
      lm_model_free(model);
    }
    assert_int_equal(unlink(path), 0);
    test_context_free(context);
  }
  printf("%zu changed bytes, %zu refused\n", head, refused);
  assert_true(refused > head / 2);
  free(file.bytes);
  tiny_model_free(&m);
}

static void bad_calls_are_refused(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  lm_model *model = shipped(context);
  lm_session_options options;
  lm_session_options_init(&options);
  lm_session *session = NULL;
  options.capacity = 2049;
  assert_int_equal(lm_session_create(context, model, &options, &session), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "2048"));
  options.capacity = 20;
  options.store = PITH_BF16;
  assert_int_equal(lm_session_create(context, model, &options, &session), PITH_E_TYPE);
  options.store = PITH_F16;
  assert_null(session);
  assert_ok(context, lm_session_create(context, model, &options, &session));
  uint32_t tokens[21] = {0};
  float weights[8];
  pith_array keys, values, queries;
  assert_int_equal(lm_session_read(context, session, tokens, 21, 0, NULL), PITH_E_ARGUMENT);
  assert_int_equal(lm_session_read(context, session, tokens, 2, 3, NULL), PITH_E_ARGUMENT);
  tokens[3] = 256;
  assert_int_equal(lm_session_read(context, session, tokens, 4, 0, NULL), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "number 3 is 256"));
  assert_int_equal(lm_session_length(session), 0);
  tokens[3] = 0;
  assert_ok(context, lm_session_read(context, session, tokens, 8, 0, NULL));
  assert_int_equal(lm_head_weights(context, session, weights), PITH_E_ARGUMENT);
  assert_int_equal(lm_session_truncate(context, session, 9), PITH_E_ARGUMENT);
  assert_int_equal(lm_session_arrays(context, session, &keys, &values, &queries), PITH_E_ARGUMENT);
  assert_ok(context, lm_session_read(context, session, tokens, 0, 0, NULL));
  lm_session_free(session);
  lm_model_free(model);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(weights_expand_as_defined),
      cmocka_unit_test(products_are_right),
      cmocka_unit_test(odd_widths),
      cmocka_unit_test(architectures_match_the_reference),
      cmocka_unit_test(llama_cpp_answers_the_same),
      cmocka_unit_test(shipped_model_reads_prose),
      cmocka_unit_test(memory_is_told),
      cmocka_unit_test(summaries_stand_for_a_prefix),
      cmocka_unit_test(byte_lm_matches_recorded_logits),
      cmocka_unit_test(smollm2_matches_recorded_logits),
      cmocka_unit_test(bad_models_are_named),
      cmocka_unit_test(truncated_models_are_refused),
      cmocka_unit_test(changed_bytes_do_no_harm),
      cmocka_unit_test(bad_calls_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
