/* test_lm_bad_models.c - files that are no models: changed, cut short, or of other sizes than they say. */
#include "lm_sessions.h"

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
  tiny_model m = tiny_shapes[0];
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
  tiny_model m = tiny_shapes[3];
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
  tiny_model m = tiny_shapes[2];
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

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bad_models_are_named),
      cmocka_unit_test(truncated_models_are_refused),
      cmocka_unit_test(changed_bytes_do_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
