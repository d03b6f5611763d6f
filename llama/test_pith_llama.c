/* test_pith_llama.c - live contexts of llama.cpp itself, shrunk. */
#include <ggml-backend.h>
#include <llama.h>
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/llama_rewrite.h"
#include "lm/lm.h"
#include "pith_llama.h"

#define MODEL PITH_ROOT "/models/byte-lm-3m-f16.gguf"

enum { PROMPT = 320, LATER = 48, VOCABULARY = 256, CELLS = 512 };

static struct llama_model *model;
static llama_token tokens[PROMPT + LATER];

static void quiet(enum ggml_log_level level, const char *text, void *data) { (void)level, (void)text, (void)data; }

/* The licence is prose enough. */
static int prepare(void **state) {
  (void)state;
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(BACKENDS);
  model = llama_model_load_from_file(MODEL, llama_model_default_params());
  FILE *file = fopen(PITH_ROOT "/LICENSE", "rb");
  if (!model || !file) return 1;
  for (size_t i = 0; i < PROMPT + LATER; i++) tokens[i] = fgetc(file);
  (void)fclose(file);
  return tokens[PROMPT + LATER - 1] < 0;
}

static int finish(void **state) {
  (void)state;
  llama_model_free(model);
  return 0;
}

typedef struct live {
  pith_context *context;
  pith_llama *recorder;
  struct llama_context *llama;
} live;

static void read_on(const live *l, size_t first, size_t count, float *logits) {
  struct llama_batch batch = llama_batch_init((int32_t)count, 0, 1);
  for (size_t i = 0; i < count; i++) {
    batch.token[i] = tokens[first + i];
    batch.pos[i] = (llama_pos)(first + i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = (int32_t)count;
  assert_int_equal(llama_decode(l->llama, batch), 0);
  for (size_t i = 0; logits && i < count; i++)
    memcpy(logits + i * VOCABULARY, llama_get_logits_ith(l->llama, (int32_t)i), VOCABULARY * sizeof *logits);
  llama_batch_free(batch);
}

static live start(bool observe, enum ggml_type type, bool transposed) {
  live l = {0};
  struct llama_context_params parameters = llama_context_default_params();
  assert_int_equal(pith_context_create(NULL, &l.context), PITH_OK);
  assert_int_equal(pith_llama_open(l.context, MODEL, CELLS, &l.recorder), PITH_OK);
  parameters.n_ctx = parameters.n_batch = CELLS;
  parameters.n_threads = parameters.n_threads_batch = 1;
  parameters.type_k = parameters.type_v = type;
  parameters.flash_attn_type = transposed ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
  if (observe) {
    parameters.cb_eval = pith_llama_observe;
    parameters.cb_eval_user_data = l.recorder;
  }
  l.llama = llama_init_from_model(model, parameters);
  assert_non_null(l.llama);
  read_on(&l, 0, PROMPT, NULL);
  return l;
}

static void stop(live *l) {
  llama_free(l->llama);
  pith_llama_close(l->context, l->recorder);
  pith_context_free(l->context);
}

static double divergence(const float *full, const float *other) {
  double mass[2] = {0, 0}, sum = 0;
  for (size_t i = 0; i < VOCABULARY; i++) {
    mass[0] += exp(full[i]);
    mass[1] += exp(other[i]);
  }
  for (size_t i = 0; i < VOCABULARY; i++) {
    const double a = full[i] - log(mass[0]), b = other[i] - log(mass[1]);
    sum += exp(a) * (a - b);
  }
  return sum;
}

/* Mean KL over later tokens of a cache with `cells` cells, or with the last ones alone, against all of it; *same: to
 * the bit. */
static double loss(size_t cells, const char *engine, enum ggml_type type, bool transposed, bool *same) {
  float *full = malloc(LATER * VOCABULARY * sizeof *full), *other = malloc(LATER * VOCABULARY * sizeof *other);
  assert_true(full && other);
  live l = start(true, type, transposed);
  read_on(&l, PROMPT, LATER, full);
  assert_true(llama_memory_seq_rm(llama_get_memory(l.llama), 0, PROMPT, -1));
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  const pith_status status = pith_llama_shrink(l.context, l.recorder, l.llama, 0, cells, &options);
  if (status < 0) fail_msg("%s", pith_context_message(l.context));
  assert_int_equal(llama_memory_seq_pos_max(llama_get_memory(l.llama), 0), PROMPT - 1);
  read_on(&l, PROMPT, LATER, other);
  double sum = 0;
  for (size_t i = 0; i < LATER; i++) sum += divergence(full + i * VOCABULARY, other + i * VOCABULARY) / LATER;
  *same = memcmp(full, other, LATER * VOCABULARY * sizeof *full) == 0;
  stop(&l);
  free(full);
  free(other);
  return sum;
}

static void whole_caches_answer_to_the_bit(void **state) {
  (void)state;
  bool same = false;
  (void)loss(PROMPT, NULL, GGML_TYPE_F16, false, &same);
  assert_true(same);
  (void)loss(PROMPT, NULL, GGML_TYPE_F32, true, &same);
  assert_true(same);
  (void)loss(PROMPT, NULL, GGML_TYPE_Q8_0, false, &same);
  assert_true(same);
}

static void small_caches_lose_less_than_dropping(void **state) {
  (void)state;
  bool same = true;
  const double window = loss(PROMPT / 8, "recent", GGML_TYPE_F16, false, &same);
  const double ours = loss(PROMPT / 8, NULL, GGML_TYPE_F16, false, &same);
  const double whole_numbers = loss(PROMPT / 8, NULL, GGML_TYPE_Q8_0, false, &same);
  print_message("an eighth: KL %.4f, of Q8_0 %.4f, sinks and window %.4f\n", ours, whole_numbers, window);
  assert_true(!same && ours > 0 && ours < window / 2);
  assert_true(whole_numbers < window / 2);
}

/* The runner on the summary, and the engine on the file that was made of it, both in f32. */
static void the_runner_answers_the_same(void **state) {
  (void)state;
  const char *from = "/tmp/pith-test-full.state", *to = "/tmp/pith-test-small.state";
  float *ours = malloc(LATER * VOCABULARY * sizeof *ours), *theirs = malloc(LATER * VOCABULARY * sizeof *theirs);
  uint32_t words[PROMPT + LATER];
  assert_true(ours && theirs);
  for (size_t i = 0; i < PROMPT + LATER; i++) words[i] = (uint32_t)tokens[i];
  live l = start(false, GGML_TYPE_F32, true);
  assert_true(llama_state_seq_save_file(l.llama, from, 0, tokens, PROMPT) > 0);
  lm_model *mine = NULL;
  lm_session *full = NULL, *after = NULL;
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = PROMPT + LATER;
  options.store = PITH_F32;
  options.record_queries = true;
  pith_array keys, values, queries;
  assert_int_equal(lm_model_load(l.context, MODEL, &mine), PITH_OK);
  assert_int_equal(lm_session_create(l.context, mine, &options, &full), PITH_OK);
  assert_int_equal(lm_session_read(l.context, full, words, PROMPT, PROMPT, NULL), PITH_OK);
  assert_int_equal(lm_session_arrays(l.context, full, &keys, &values, &queries), PITH_OK);
  pith_gguf *file = NULL;
  pith_llama_heads heads;
  pith_llama_state *saved = NULL;
  pith_llama_rows rows;
  pith_summary *summary = NULL;
  pith_compress_options compress;
  pith_compress_options_init(&compress);
  assert_int_equal(pith_gguf_open(l.context, MODEL, &file), PITH_OK);
  assert_int_equal(pith_llama_heads_of(l.context, file, &heads), PITH_OK);
  assert_int_equal(pith_llama_state_open(l.context, from, &saved), PITH_OK);
  assert_int_equal(pith_llama_rows_open(l.context, saved, &heads, &rows), PITH_OK);
  assert_int_equal(
      pith_llama_compress(l.context, to, saved, &heads, &rows, PROMPT / 8, &queries, 0, &compress, &summary, NULL),
      PITH_OK);
  options.record_queries = false;
  assert_int_equal(lm_session_after(l.context, full, summary, &options, &after), PITH_OK);
  assert_int_equal(lm_session_read(l.context, after, words + PROMPT, LATER, 0, ours), PITH_OK);
  llama_token token[PROMPT];
  size_t count = 0;
  assert_true(llama_state_seq_load_file(l.llama, to, 0, token, PROMPT, &count) > 0);
  assert_int_equal(count, PROMPT);
  read_on(&l, PROMPT, LATER, theirs);
  double worst = 0, largest = 0;
  for (size_t i = 0; i < LATER * VOCABULARY; i++) {
    worst = fmax(worst, fabs(ours[i] - theirs[i]));
    largest = fmax(largest, fabs(theirs[i]));
  }
  print_message("largest difference of a logit %.2g, of logits up to %.3g\n", worst, largest);
  assert_true(worst < 1e-3 * largest);
  assert_int_equal(remove(from) | remove(to), 0);
  lm_session_free(after);
  lm_session_free(full);
  lm_model_free(mine);
  pith_summary_free(summary);
  pith_llama_rows_close(l.context, &rows);
  pith_llama_state_close(saved);
  pith_gguf_close(file);
  stop(&l);
  free(ours);
  free(theirs);
}

static void what_was_not_recorded_is_said(void **state) {
  (void)state;
  live l = start(false, GGML_TYPE_F16, false);
  assert_int_equal(pith_llama_shrink(l.context, l.recorder, l.llama, 0, PROMPT / 4, NULL), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(l.context), "cb_eval"));
  assert_int_equal(pith_llama_shrink(l.context, l.recorder, l.llama, 0, PROMPT + 1, NULL), PITH_E_BUDGET);
  assert_int_equal(llama_memory_seq_pos_max(llama_get_memory(l.llama), 0), PROMPT - 1);
  stop(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_caches_answer_to_the_bit),
      cmocka_unit_test(small_caches_lose_less_than_dropping),
      cmocka_unit_test(the_runner_answers_the_same),
      cmocka_unit_test(what_was_not_recorded_is_said),
  };
  return cmocka_run_group_tests(tests, prepare, finish);
}
