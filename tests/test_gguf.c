/* test_gguf.c - the GGUF reader: what is written is read back, and nothing else is taken. */
#include "gguf_writer.h"

static const char *const words[] = {"", "one", "two words"};

/* A file with every kind of value and three tensors. */
static gguf_bytes sample(void) {
  gguf_writer w = {0};
  const float numbers[64] = {1, 2, 3};
  const unsigned char blocks[2 * 18] = {0};
  gguf_text(&w, "general.architecture", "llama");
  gguf_u32(&w, "z.count", 7);
  gguf_f32(&w, "a.ratio", 0.5f);
  gguf_key(&w, "flag", PITH_GGUF_BOOL);
  gguf_put(&w.values, "\1", 1);
  gguf_key(&w, "large", PITH_GGUF_U64);
  gguf_put_u64(&w.values, UINT64_C(1) << 40);
  gguf_key(&w, "negative", PITH_GGUF_I16);
  gguf_put(&w.values, &(int16_t){-2}, 2);
  gguf_key(&w, "small", PITH_GGUF_I8);
  gguf_put(&w.values, &(int8_t){100}, 1);
  gguf_key(&w, "precise", PITH_GGUF_F64);
  gguf_put(&w.values, &(double){0.1}, 8);
  gguf_array(&w, "words", PITH_GGUF_TEXT, 3);
  for (int i = 0; i < 3; i++) gguf_put_text(&w.values, words[i]);
  gguf_array(&w, "scores", PITH_GGUF_F32, 2);
  gguf_put(&w.values, (float[]){-1.5f, 4}, 8);
  gguf_array(&w, "types", PITH_GGUF_I32, 2);
  gguf_put(&w.values, (int32_t[]){-1, 6}, 8);
  gguf_array(&w, "nothing", PITH_GGUF_U32, 0);
  gguf_tensor(&w, "matrix", PITH_GGUF_TENSOR_F32, 4, 16, numbers, sizeof numbers);
  gguf_tensor(&w, "vector", PITH_GGUF_TENSOR_F32, 0, 3, numbers, 12);
  gguf_tensor(&w, "blocks", PITH_GGUF_TENSOR_Q4_0, 2, 32, blocks, sizeof blocks);
  return gguf_finish(&w);
}

static void reads_what_was_written(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  gguf_bytes file = sample();
  void *room = NULL;
  pith_gguf *gguf = NULL;
  assert_ok(context, gguf_read(context, file.bytes, file.size, &room, &gguf));
  size_t size = 0;
  double number = 0;
  bool flag = false;
  pith_gguf_text text;
  const pith_gguf_value *array = NULL;
  assert_ok(context, pith_gguf_size(context, gguf, "z.count", &size));
  assert_int_equal(size, 7);
  assert_ok(context, pith_gguf_size(context, gguf, "large", &size));
  assert_true(size == (size_t)1 << 40);
  assert_ok(context, pith_gguf_size(context, gguf, "small", &size));
  assert_int_equal(size, 100);
  assert_ok(context, pith_gguf_number(context, gguf, "a.ratio", &number));
  assert_true(number == 0.5);
  assert_ok(context, pith_gguf_number(context, gguf, "precise", &number));
  assert_true(number == 0.1);
  assert_ok(context, pith_gguf_flag(context, gguf, "flag", &flag));
  assert_true(flag);
  assert_ok(context, pith_gguf_string(context, gguf, "general.architecture", &text));
  assert_true(pith_gguf_text_is(text, "llama"));
  assert_false(pith_gguf_text_is(text, "llam"));
  assert_ok(context, pith_gguf_array(context, gguf, "words", PITH_GGUF_TEXT, &array));
  assert_int_equal(array->count, 3);
  for (size_t i = 0; i < 3; i++) assert_true(pith_gguf_text_is(array->texts[i], words[i]));
  assert_ok(context, pith_gguf_array(context, gguf, "scores", PITH_GGUF_F32, &array));
  assert_true(array->count == 2 && pith_gguf_f32_at(array, 0) == -1.5f && pith_gguf_f32_at(array, 1) == 4);
  assert_ok(context, pith_gguf_array(context, gguf, "types", PITH_GGUF_I32, &array));
  assert_true(array->count == 2 && pith_gguf_i32_at(array, 0) == -1 && pith_gguf_i32_at(array, 1) == 6);
  assert_ok(context, pith_gguf_array(context, gguf, "nothing", PITH_GGUF_U32, &array));
  assert_int_equal(array->count, 0);

  assert_int_equal(pith_gguf_tensor_count(gguf), 3);
  assert_true(pith_gguf_text_is(pith_gguf_tensor_at(gguf, 0)->name, "blocks")); /* sorted */
  const pith_gguf_tensor *matrix = pith_gguf_tensor_find(gguf, "matrix"),
                         *vector = pith_gguf_tensor_find(gguf, "vector");
  const pith_gguf_tensor *blocks = pith_gguf_tensor_find(gguf, "blocks");
  assert_non_null(matrix);
  assert_non_null(vector);
  assert_non_null(blocks);
  assert_true(matrix->ndim == 2 && matrix->shape[0] == 16 && matrix->shape[1] == 4 && matrix->bytes == 256);
  assert_true(vector->ndim == 1 && vector->shape[0] == 3 && vector->shape[1] == 1 && vector->bytes == 12);
  assert_true(blocks->row_bytes == 18 && blocks->bytes == 36);
  assert_string_equal(blocks->type_name, "Q4_0");
  assert_memory_equal(vector->data, ((float[]){1, 2, 3}), 12);
  assert_null(pith_gguf_tensor_find(gguf, "matri"));
  assert_null(pith_gguf_tensor_find(gguf, "matrix "));
  pith_gguf_close(gguf);
  free(room);
  free(file.bytes);
  test_context_free(context);
}

static void names_what_does_not_fit(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  gguf_bytes file = sample();
  void *room = NULL;
  pith_gguf *gguf = NULL;
  assert_ok(context, gguf_read(context, file.bytes, file.size, &room, &gguf));
  size_t size = 42;
  double number = 0;
  bool flag = false;
  pith_gguf_text text;
  const pith_gguf_value *array = NULL;
  assert_null(pith_gguf_find(gguf, "absent"));
  assert_int_equal(pith_gguf_size(context, gguf, "absent", &size), PITH_E_FORMAT);
  assert_non_null(strstr(pith_context_message(context), "absent"));
  assert_int_equal(pith_gguf_size(context, gguf, "a.ratio", &size), PITH_E_FORMAT);
  assert_non_null(strstr(pith_context_message(context), "f32"));
  assert_int_equal(pith_gguf_size(context, gguf, "negative", &size), PITH_E_FORMAT);
  assert_int_equal(pith_gguf_size(context, gguf, "scores", &size), PITH_E_FORMAT);
  assert_int_equal(size, 42);
  assert_int_equal(pith_gguf_number(context, gguf, "z.count", &number), PITH_E_FORMAT);
  assert_int_equal(pith_gguf_flag(context, gguf, "z.count", &flag), PITH_E_FORMAT);
  assert_int_equal(pith_gguf_string(context, gguf, "z.count", &text), PITH_E_FORMAT);
  assert_int_equal(pith_gguf_array(context, gguf, "z.count", PITH_GGUF_U32, &array), PITH_E_FORMAT);
  assert_int_equal(pith_gguf_array(context, gguf, "scores", PITH_GGUF_I32, &array), PITH_E_FORMAT);
  assert_null(array);
  pith_gguf_close(gguf);
  free(room);
  free(file.bytes);
  test_context_free(context);
}

/* The bytes must be refused with that status and a message with that word in it. */
static void refuse(const unsigned char *bytes, size_t size, pith_status wanted, const char *word) {
  pith_context *context = test_context(1);
  const size_t held = pith_context_bytes(context);
  void *room = NULL;
  pith_gguf *gguf = NULL;
  pith_status status = gguf_read(context, bytes, size, &room, &gguf);
  if (status != wanted || !strstr(pith_context_message(context), word))
    fail_msg("%s instead of %s and \"%s\": %s", pith_status_name(status), pith_status_name(wanted), word,
             pith_context_message(context));
  assert_null(gguf);
  assert_int_equal(pith_context_bytes(context), held);
  free(room);
  test_context_free(context);
}

static void refuses_every_truncation(void **state) {
  (void)state;
  gguf_bytes file = sample();
  /* The padding behind the last tensor is nobody's. */
  for (size_t size = 0; size + GGUF_WRITER_ALIGNMENT <= file.size; size++)
    refuse(file.bytes, size, PITH_E_FORMAT, "test.gguf");
  free(file.bytes);
}

/* Any byte may be wrong: the reader refuses or reads, but never leaves the file (sanitisers watch), and what it
 * reads lies in the file. */
static void survives_every_changed_byte(void **state) {
  (void)state;
  gguf_bytes file = sample();
  pith_context *context = test_context(1);
  size_t refused = 0;
  for (size_t at = 0; at < file.size; at++)
    for (int change = 0; change < 4; change++) {
      const unsigned char old = file.bytes[at];
      file.bytes[at] = (unsigned char[]){0, 255, (unsigned char)(old ^ 1), (unsigned char)(old + 128)}[change];
      void *room = NULL;
      pith_gguf *gguf = NULL;
      if (gguf_read(context, file.bytes, file.size, &room, &gguf) < 0) refused++;
      for (size_t i = 0; gguf && i < pith_gguf_tensor_count(gguf); i++) {
        const pith_gguf_tensor *tensor = pith_gguf_tensor_at(gguf, i);
        assert_true(tensor->data >= (unsigned char *)room);
        assert_true(tensor->data + tensor->bytes <= (unsigned char *)room + file.size);
      }
      pith_gguf_close(gguf);
      free(room);
      file.bytes[at] = old;
    }
  assert_true(refused > file.size / 4); /* and most of what matters is noticed */
  free(file.bytes);
  test_context_free(context);
}

enum { AFTER_MAGIC = 4, AFTER_VERSION = 8 };

static void refuses_lies(void **state) {
  (void)state;
  gguf_bytes file = sample();
  file.bytes[AFTER_MAGIC] = 1;
  refuse(file.bytes, file.size, PITH_E_VERSION, "version 1");
  file.bytes[AFTER_MAGIC] = 4;
  refuse(file.bytes, file.size, PITH_E_VERSION, "version 4");
  file.bytes[AFTER_MAGIC] = 3;
  memset(file.bytes + AFTER_VERSION, 255, 8);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "number of tensors");
  free(file.bytes);

  gguf_writer w = {0};
  gguf_u32(&w, "twice", 1);
  gguf_u32(&w, "twice", 2);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "twice");
  free(file.bytes);

  gguf_tensor(&w, "again", PITH_GGUF_TENSOR_F32, 0, 1, &(float){1}, 4);
  gguf_tensor(&w, "again", PITH_GGUF_TENSOR_F32, 0, 1, &(float){1}, 4);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "again");
  free(file.bytes);

  gguf_tensor(&w, "strange", 77, 0, 1, &(float){1}, 4);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_TYPE, "type 77");
  free(file.bytes);

  gguf_tensor(&w, "uneven", PITH_GGUF_TENSOR_Q8_0, 1, 33, (char[34]){0}, 34);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "uneven");
  free(file.bytes);

  gguf_tensor(&w, "huge", PITH_GGUF_TENSOR_F32, UINT64_C(1) << 40, UINT64_C(1) << 40, &(float){1}, 4);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "huge");
  free(file.bytes);

  gguf_tensor(&w, "none", PITH_GGUF_TENSOR_F32, 0, 0, &(float){1}, 4);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "dimension 0 is 0");
  free(file.bytes);

  gguf_u32(&w, "general.alignment", 12);
  gguf_tensor(&w, "one", PITH_GGUF_TENSOR_F32, 0, 1, &(float){1}, 4);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "general.alignment is 12");
  free(file.bytes);

  gguf_array(&w, "nested", PITH_GGUF_ARRAY, 0);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "nested");
  free(file.bytes);

  gguf_key(&w, "kind", (pith_gguf_kind)13);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "kind 13");
  free(file.bytes);

  gguf_key(&w, "maybe", PITH_GGUF_BOOL);
  gguf_put(&w.values, "\2", 1);
  file = gguf_finish(&w);
  refuse(file.bytes, file.size, PITH_E_FORMAT, "maybe is 2");
  free(file.bytes);
}

static void reports_missing_files(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_gguf *gguf = NULL;
  assert_int_equal(pith_gguf_open(context, "/no/such/file.gguf", &gguf), PITH_E_IO);
  assert_non_null(strstr(pith_context_message(context), "/no/such/file.gguf"));
  assert_null(gguf);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_what_was_written),      cmocka_unit_test(names_what_does_not_fit),
      cmocka_unit_test(refuses_every_truncation),    cmocka_unit_test(refuses_lies),
      cmocka_unit_test(survives_every_changed_byte), cmocka_unit_test(reports_missing_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
