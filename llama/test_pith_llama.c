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
#include "test_models.h"

#define BYTE_LM PITH_ROOT "/models/byte-lm-3m-f16.gguf"

enum { MOST_TOKENS = 368, CELLS = 512 };

/* A model, a prompt and what follows. */
typedef struct subject {
  const char *path;
  struct llama_model *model;
  size_t prompt, later, vocabulary;
  llama_token tokens[MOST_TOKENS];
} subject;

static subject prose; /* the shipped model on the licence, which is prose enough */

static void quiet(enum ggml_log_level level, const char *text, void *data) { (void)level, (void)text, (void)data; }

static int prepare(void **state) {
  (void)state;
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(BACKENDS);
  prose = (subject){.path = BYTE_LM, .prompt = 320, .later = 48, .vocabulary = 256};
  prose.model = llama_model_load_from_file(BYTE_LM, llama_model_default_params());
  FILE *file = fopen(PITH_ROOT "/LICENSE", "rb");
  if (!prose.model || !file) return 1;
  for (size_t i = 0; i < prose.prompt + prose.later; i++) prose.tokens[i] = fgetc(file);
  (void)fclose(file);
  return prose.tokens[prose.prompt + prose.later - 1] < 0;
}

static int finish(void **state) {
  (void)state;
  llama_model_free(prose.model);
  return 0;
}

typedef struct live {
  const subject *subject;
  pith_context *context;
  pith_llama *recorder;
  struct llama_context *llama;
} live;

static void read_on(const live *l, size_t first, size_t count, float *logits) {
  struct llama_batch batch = llama_batch_init((int32_t)count, 0, 1);
  for (size_t i = 0; i < count; i++) {
    batch.token[i] = l->subject->tokens[first + i];
    batch.pos[i] = (llama_pos)(first + i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = (int32_t)count;
  assert_int_equal(llama_decode(l->llama, batch), 0);
  for (size_t i = 0; logits && i < count; i++)
    memcpy(logits + i * l->subject->vocabulary, llama_get_logits_ith(l->llama, (int32_t)i),
           l->subject->vocabulary * sizeof *logits);
  llama_batch_free(batch);
}

static live start(const subject *s, bool observe, enum ggml_type type, bool transposed) {
  live l = {.subject = s};
  struct llama_context_params parameters = llama_context_default_params();
  assert_int_equal(pith_context_create(NULL, &l.context), PITH_OK);
  assert_int_equal(pith_llama_open(l.context, l.subject->path, CELLS, &l.recorder), PITH_OK);
  parameters.n_ctx = parameters.n_batch = CELLS;
  parameters.n_threads = parameters.n_threads_batch = 1;
  parameters.type_k = parameters.type_v = type;
  parameters.flash_attn_type = transposed ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
  if (observe) {
    parameters.cb_eval = pith_llama_observe;
    parameters.cb_eval_user_data = l.recorder;
  }
  l.llama = llama_init_from_model(s->model, parameters);
  assert_non_null(l.llama);
  read_on(&l, 0, s->prompt, NULL);
  return l;
}

static void stop(live *l) {
  llama_free(l->llama);
  pith_llama_close(l->context, l->recorder);
  pith_context_free(l->context);
}

static double divergence(const float *full, const float *other, size_t count) {
  double mass[2] = {0, 0}, sum = 0;
  for (size_t i = 0; i < count; i++) {
    mass[0] += exp(full[i]);
    mass[1] += exp(other[i]);
  }
  for (size_t i = 0; i < count; i++) {
    const double a = full[i] - log(mass[0]), b = other[i] - log(mass[1]);
    sum += exp(a) * (a - b);
  }
  return sum;
}

/* Mean KL over later tokens of a cache with `cells` cells, or with the last ones alone, against all of it; *same: to
 * the bit. */
static double loss(const subject *s, size_t cells, const char *engine, enum ggml_type type, bool transposed,
                   bool *same) {
  float *full = malloc(s->later * s->vocabulary * sizeof *full),
        *other = malloc(s->later * s->vocabulary * sizeof *other);
  assert_true(full && other);
  live l = start(s, true, type, transposed);
  read_on(&l, s->prompt, s->later, full);
  assert_true(llama_memory_seq_rm(llama_get_memory(l.llama), 0, (llama_pos)s->prompt, -1));
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  const pith_status status = pith_llama_shrink(l.context, l.recorder, l.llama, 0, cells, &options);
  if (status < 0) fail_msg("%s", pith_context_message(l.context));
  assert_int_equal(llama_memory_seq_pos_max(llama_get_memory(l.llama), 0), s->prompt - 1);
  read_on(&l, s->prompt, s->later, other);
  double sum = 0;
  for (size_t i = 0; i < s->later; i++)
    sum += divergence(full + i * s->vocabulary, other + i * s->vocabulary, s->vocabulary) / (double)s->later;
  *same = memcmp(full, other, s->later * s->vocabulary * sizeof *full) == 0;
  stop(&l);
  free(full);
  free(other);
  return sum;
}

static void whole_caches_answer_to_the_bit(void **state) {
  (void)state;
  bool same = false;
  (void)loss(&prose, prose.prompt, NULL, GGML_TYPE_F16, false, &same);
  assert_true(same);
  (void)loss(&prose, prose.prompt, NULL, GGML_TYPE_F32, true, &same);
  assert_true(same);
  (void)loss(&prose, prose.prompt, NULL, GGML_TYPE_Q8_0, false, &same);
  assert_true(same);
}

static void small_caches_lose_less_than_dropping(void **state) {
  (void)state;
  bool same = true;
  const double window = loss(&prose, prose.prompt / 8, "recent", GGML_TYPE_F16, false, &same);
  const double ours = loss(&prose, prose.prompt / 8, NULL, GGML_TYPE_F16, false, &same);
  const double whole_numbers = loss(&prose, prose.prompt / 8, NULL, GGML_TYPE_Q8_0, false, &same);
  print_message("an eighth: KL %.4f, of Q8_0 %.4f, sinks and window %.4f\n", ours, whole_numbers, window);
  assert_true(!same && ours > 0 && ours < window / 2);
  assert_true(whole_numbers < window / 2);
}

/* Tokens of the window stand at their own positions in every head, filled up or not: they can be taken back and read
 * again, which is what llama-completion does with the last one. */
static void the_last_tokens_can_be_read_again(void **state) {
  (void)state;
  const size_t again = 4, count = prose.later * prose.vocabulary;
  float *once = malloc(2 * count * sizeof *once), *twice = once + count;
  assert_non_null(once);
  live l = start(&prose, true, GGML_TYPE_F16, false);
  const pith_status status = pith_llama_shrink(l.context, l.recorder, l.llama, 0, prose.prompt / 4, NULL);
  if (status < 0) fail_msg("%s", pith_context_message(l.context));
  read_on(&l, prose.prompt, prose.later, once);
  assert_true(llama_memory_seq_rm(llama_get_memory(l.llama), 0, (llama_pos)(prose.prompt - again), -1));
  read_on(&l, prose.prompt - again, again, NULL);
  read_on(&l, prose.prompt, prose.later, twice);
  double sum = 0;
  for (size_t i = 0; i < prose.later; i++)
    sum +=
        divergence(once + i * prose.vocabulary, twice + i * prose.vocabulary, prose.vocabulary) / (double)prose.later;
  print_message("read again: KL %.2g\n", sum);
  assert_true(sum < 1e-4);
  stop(&l);
  free(once);
}

/* ---- The runner on the summary, and the engine on the file that was made of it ---- */

/* What our runner knows of a subject's prompt. */
typedef struct ours {
  lm_model *model;
  lm_session *full;
  pith_array queries;
} ours;

static lm_session_options session_options(const subject *s, bool record) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = s->prompt + s->later;
  options.store = PITH_F32;
  options.record_queries = record;
  return options;
}

static ours read_ours(pith_context *context, const subject *s) {
  ours o = {0};
  pith_array keys, values;
  const lm_session_options options = session_options(s, true);
  assert_int_equal(lm_model_load(context, s->path, &o.model), PITH_OK);
  assert_int_equal(lm_session_create(context, o.model, &options, &o.full), PITH_OK);
  assert_int_equal(lm_session_read(context, o.full, (const uint32_t *)s->tokens, s->prompt, s->prompt, NULL), PITH_OK);
  assert_int_equal(lm_session_arrays(context, o.full, &keys, &values, &o.queries), PITH_OK);
  return o;
}

static pith_summary *rewrite(pith_context *context, const subject *s, const ours *o, const char *from, const char *to,
                             size_t *filled) {
  pith_gguf *file = NULL;
  pith_llama_heads heads;
  pith_llama_state *saved = NULL;
  pith_llama_rows rows;
  pith_summary *summary = NULL;
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.sinks = 2;
  options.window = 4;
  assert_int_equal(pith_gguf_open(context, s->path, &file), PITH_OK);
  assert_int_equal(pith_llama_heads_of(context, file, &heads), PITH_OK);
  assert_int_equal(pith_llama_state_open(context, from, &saved), PITH_OK);
  assert_int_equal(pith_llama_state_fits(context, saved, file, &heads), PITH_OK);
  assert_int_equal(pith_llama_rows_open(context, saved, &heads, &rows), PITH_OK);
  const pith_status status =
      pith_llama_compress(context, to, saved, &heads, &rows, s->prompt / 8, &o->queries, 0, &options, &summary, filled);
  if (status < 0) fail_msg("%s", pith_context_message(context));
  pith_llama_rows_close(context, &rows);
  pith_llama_state_close(saved);
  pith_gguf_close(file);
  return summary;
}

static double largest_difference(const float *a, const float *b, size_t count) {
  double largest = 0;
  for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(a[i] - b[i]));
  return largest;
}

/* Largest differences of a logit between runner and engine: on the full cache, and on the eighth of it that was
 * written; all in f32. */
static void compare_runners(const subject *s, double *full, double *rewritten, double *largest) {
  const char *from = "/tmp/pith-test-full.state", *to = "/tmp/pith-test-small.state";
  const size_t count = s->later * s->vocabulary;
  const uint32_t *words = (const uint32_t *)s->tokens;
  float *mine = calloc(3 * count, sizeof *mine), *theirs = mine + count, *none = theirs + count;
  assert_non_null(mine);
  live l = start(s, false, GGML_TYPE_F32, true);
  assert_true(llama_state_seq_save_file(l.llama, from, 0, s->tokens, s->prompt) > 0);
  ours o = read_ours(l.context, s);
  size_t filled = 1;
  pith_summary *summary = rewrite(l.context, s, &o, from, to, &filled);
  assert_int_equal(filled, 0); /* what fills heads up is in the file alone */
  lm_session *after = NULL;
  const lm_session_options options = session_options(s, false);
  assert_int_equal(lm_session_after(l.context, o.full, summary, &options, &after), PITH_OK);
  assert_int_equal(lm_session_read(l.context, o.full, words + s->prompt, s->later, 0, mine), PITH_OK);
  read_on(&l, s->prompt, s->later, theirs);
  *full = largest_difference(mine, theirs, count);
  assert_int_equal(lm_session_read(l.context, after, words + s->prompt, s->later, 0, mine), PITH_OK);
  llama_token token[MOST_TOKENS];
  size_t length = 0;
  assert_true(llama_state_seq_load_file(l.llama, to, 0, token, MOST_TOKENS, &length) > 0);
  assert_int_equal(length, s->prompt);
  read_on(&l, s->prompt, s->later, theirs);
  *rewritten = largest_difference(mine, theirs, count);
  *largest = largest_difference(theirs, none, count);
  assert_int_equal(remove(from) | remove(to), 0);
  lm_session_free(after);
  lm_session_free(o.full);
  lm_model_free(o.model);
  pith_summary_free(summary);
  stop(&l);
  free(mine);
}

/* The engine rounds activations to f16 where weights are f16, which the runner does not: as much on the full cache. */
static void the_runner_answers_the_same(void **state) {
  (void)state;
  double full = 0, rewritten = 0, largest = 0;
  compare_runners(&prose, &full, &rewritten, &largest);
  print_message("weights in f16: full cache %.2g, rewritten %.2g, of logits up to %.3g\n", full, rewritten, largest);
  assert_true(rewritten < 1e-3 * largest && rewritten < 3 * full);
}

/* Weights in f32: nothing is left but the order of sums. */
static void random_models_answer_the_same(void **state) {
  (void)state;
  for (size_t i = 0; i < TEST_MODELS; i++) {
    subject s = {.path = "/tmp/pith-test-model.gguf", .prompt = 48, .later = 12, .vocabulary = test_model_vocabulary()};
    test_model_write(i, s.path);
    for (size_t t = 0; t < s.prompt + s.later; t++) s.tokens[t] = (llama_token)((t * t + 5 * t + 3) % s.vocabulary);
    s.model = llama_model_load_from_file(s.path, llama_model_default_params());
    assert_non_null(s.model);
    double full = 0, rewritten = 0, largest = 0;
    compare_runners(&s, &full, &rewritten, &largest);
    print_message("%s: full cache %.2g, rewritten %.2g, of logits up to %.3g\n", test_model_name(i), full, rewritten,
                  largest);
    assert_true(rewritten < 1e-4 * largest);
    bool same = false;
    (void)loss(&s, s.prompt, NULL, GGML_TYPE_F16, false, &same);
    assert_true(same);
    llama_model_free(s.model);
    assert_int_equal(remove(s.path), 0);
  }
}

static void what_was_not_recorded_is_said(void **state) {
  (void)state;
  live l = start(&prose, false, GGML_TYPE_F16, false);
  assert_int_equal(pith_llama_shrink(l.context, l.recorder, l.llama, 0, prose.prompt / 4, NULL), PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(l.context), "cb_eval"));
  assert_int_equal(pith_llama_shrink(l.context, l.recorder, l.llama, 0, prose.prompt + 1, NULL), PITH_E_BUDGET);
  assert_int_equal(llama_memory_seq_pos_max(llama_get_memory(l.llama), 0), prose.prompt - 1);
  stop(&l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_caches_answer_to_the_bit),    cmocka_unit_test(small_caches_lose_less_than_dropping),
      cmocka_unit_test(the_last_tokens_can_be_read_again), cmocka_unit_test(the_runner_answers_the_same),
      cmocka_unit_test(random_models_answer_the_same),     cmocka_unit_test(what_was_not_recorded_is_said),
  };
  return cmocka_run_group_tests(tests, prepare, finish);
}
