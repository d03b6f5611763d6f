/* test_lm_sessions.c - sessions on the shipped model: prose, memory, summaries in place of a prefix, bad calls. */
#include "lm_sessions.h"

/* ---- The shipped model ---- */

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
    const float *row = logits + t * SHIPPED_VOCABULARY;
    double all = 0;
    for (size_t i = 0; i < SHIPPED_VOCABULARY; i++) all += exp((double)row[i]);
    sum += log2(all) - (double)row[tokens[t + 1]] / log(2);
  }
  return sum / (double)(count - 1);
}

static void shipped_model_reads_prose(void **state) {
  (void)state;
  uint32_t tokens[PROSE];
  prose_tokens(tokens);
  pith_context *context = test_context(1);
  lm_model *model = shipped_model(context);
  float *out = malloc(2 * PROSE * SHIPPED_VOCABULARY * sizeof *out), *again = out + (size_t)PROSE * SHIPPED_VOCABULARY;
  lm_session *session = session_of(context, model, PITH_F16, false);
  assert_ok(context, lm_session_read(context, session, tokens, PROSE, 0, out));
  const double bits = loss(out, tokens, PROSE);
  if (!(bits > 1 && bits < 2.2)) fail_msg("%g bits a byte", bits); /* 1.97 on the novel; a uniform guess: 8 */
  lm_session_free(session);

  /* The same bytes at any number of threads. */
  pith_context *threads = test_context(3);
  session = session_of(threads, model, PITH_F16, false);
  assert_ok(threads, lm_session_read(threads, session, tokens, PROSE, 0, again));
  assert_memory_equal(out, again, PROSE * SHIPPED_VOCABULARY * sizeof *out);
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
  lm_model *model = shipped_model(context);
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
  float *out = malloc((size_t)LATER * SHIPPED_VOCABULARY * sizeof *out);
  assert_ok(context, lm_session_read(context, session, tokens + PREFIX, LATER, 0, out));
  const double kl = divergence(wanted, out, LATER, SHIPPED_VOCABULARY);
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
  lm_model *model = shipped_model(context);
  lm_session *full = session_of(context, model, PITH_F32, true);
  float *wanted = malloc((size_t)LATER * SHIPPED_VOCABULARY * sizeof *wanted);
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

static void bad_calls_are_refused(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  lm_model *model = shipped_model(context);
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
      cmocka_unit_test(shipped_model_reads_prose),
      cmocka_unit_test(memory_is_told),
      cmocka_unit_test(summaries_stand_for_a_prefix),
      cmocka_unit_test(bad_calls_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
