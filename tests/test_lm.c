/* test_lm.c - the runner against the double reference, and against recorded logits. */
#include "data/llama_logits.h"
#include "lm_sessions.h"

/* ---- Architectures ---- */

enum { TOKENS = 60 };

static void random_tokens(uint32_t tokens[TOKENS]) {
  pith_stream stream = pith_stream_make(9, PITH_STREAM_TEST, 2);
  for (size_t i = 0; i < TOKENS; i++) tokens[i] = (uint32_t)pith_random_below(&stream, i, TINY_VOCABULARY);
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
  pith_context *context = test_context(2);
  lm_model *model = model_of(context, &file);
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
  lm_session *session = session_of(context, model, PITH_F32, true);
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
  session = session_of(context, model, PITH_F32, false);
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
  free(room), free(out), free(file.bytes);
  tiny_model_free(&m);
  test_context_free(context);
}

static void architectures_match_the_reference(void **state) {
  (void)state;
  for (size_t i = 0; i < TINY_SHAPES; i++) check_architecture(&tiny_shapes[i]);
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
  pith_context *context = test_context(2);
  lm_model *model = model_of(context, &file);
  float out[LLAMA_TOKENS][LLAMA_VOCABULARY];
  lm_session *session = session_of(context, model, PITH_F32, false);
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
  free(file.bytes);
  test_context_free(context);
}

static void llama_cpp_answers_the_same(void **state) {
  (void)state;
  for (size_t i = 0; i < LLAMA_MODELS; i++) match_llama(&llama_models[i], llama_logits[i]);
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
  lm_session *session = session_of(context, model, PITH_F32, false);
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

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(architectures_match_the_reference),
      cmocka_unit_test(llama_cpp_answers_the_same),
      cmocka_unit_test(byte_lm_matches_recorded_logits),
      cmocka_unit_test(smollm2_matches_recorded_logits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
