/* test_safetensors.c - .safetensors files, good and bad. */
#include <unistd.h>

#include "io/file.h"
#include "test.h"

typedef struct image {
  unsigned char bytes[2048];
  size_t size;
} image;

/* length, header, data; `stated` replaces the length if it is not 0 */
static image make_image(const char *header, const void *data, size_t size, uint64_t stated) {
  image made = {.size = 8 + strlen(header) + size};
  uint64_t length = stated ? stated : strlen(header);
  memcpy(made.bytes, &length, 8);
  memcpy(made.bytes + 8, header, strlen(header));
  if (size > 0) memcpy(made.bytes + 8 + strlen(header), data, size);
  return made;
}

/* Lends a copy of exactly `size` bytes. The copy is to be freed after the file is closed. */
static pith_status lend(pith_context *context, const image *from, size_t size, pith_file **file, void **copy) {
  *copy = malloc(size ? size : 1);
  assert_non_null(*copy);
  memcpy(*copy, from->bytes, size);
  assert_ok(context, pith_file_lend(context, *copy, size, "lent.safetensors", file));
  return pith_safetensors_parse(context, *file);
}

static void test_tensors(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  static const unsigned char data[] = {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0x00, 0x3c, 0x80, 0x3f, 7, 8, 9, 250};
  /* The header is padded to every length modulo 8, so that the tensors lie at every alignment. */
  for (int padding = 0; padding < 8; padding++) {
    char header[640];
    (void)snprintf(header, sizeof header,
                   "{\"__metadata__\":{\"b\":\"two\",\"a\":\"on\\u0065\"},"
                   "\"wide\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                   "\"half\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[8,10]},"
                   "\"brain\":{\"dtype\":\"BF16\",\"shape\":[1,1,1,1],\"data_offsets\":[10,12]},"
                   "\"none\":{\"dtype\":\"F64\",\"shape\":[0,5],\"data_offsets\":[12,12]},"
                   "\"bytes\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[12,15]},"
                   "\"sign\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[15,16]}}%*s",
                   padding, "");
    image from = make_image(header, data, sizeof data, 0);
    pith_file *file = NULL;
    void *copy = NULL;
    pith_array array;
    assert_ok(context, lend(context, &from, from.size, &file, &copy));
    assert_int_equal(pith_safetensors_count(file), 6);
    assert_string_equal(pith_safetensors_name(file, 0), "brain");
    assert_string_equal(pith_safetensors_name(file, 5), "wide");
    assert_null(pith_safetensors_name(file, 6));
    assert_string_equal(pith_safetensors_metadata(file, "a"), "one");
    assert_string_equal(pith_safetensors_metadata(file, "b"), "two");
    assert_null(pith_safetensors_metadata(file, "c"));

    assert_ok(context, pith_safetensors_tensor(context, file, "wide", &array));
    assert_int_equal(array.ndim, 2);
    assert_int_equal(array.stride[0], 8);
    assert_true(((const float *)array.data)[0] == 1 && ((const float *)array.data)[1] == -2);
    assert_ok(context, pith_safetensors_tensor(context, file, "half", &array));
    assert_true(pith_f16_to_f32(*(const uint16_t *)array.data) == 1);
    assert_ok(context, pith_safetensors_tensor(context, file, "brain", &array));
    assert_int_equal(array.ndim, 4);
    assert_true(pith_bf16_to_f32(*(const uint16_t *)array.data) == 1);
    assert_ok(context, pith_safetensors_tensor(context, file, "none", &array));
    assert_int_equal(array.shape[0], 0);
    assert_int_equal(array.shape[1], 5);
    assert_ok(context, pith_safetensors_tensor(context, file, "bytes", &array));
    assert_memory_equal(array.data, data + 12, 3);
    assert_ok(context, pith_safetensors_tensor(context, file, "sign", &array));
    assert_int_equal(*(const int8_t *)array.data, -6);
    assert_int_equal(pith_safetensors_tensor(context, file, "absent", &array), PITH_E_FORMAT);
    assert_non_null(strstr(pith_context_message(context), "absent"));
    pith_file_close(file);
    free(copy);
  }
  assert_int_equal(pith_context_bytes(context), held);
  test_context_free(context);
}

static void test_types_not_ours(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const unsigned char data[9] = {0};
  image from = make_image(
      "{\"whole\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]},"
      "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]},"
      "\"deep\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data_offsets\":[8,9]}}",
      data, sizeof data, 0);
  pith_file *file = NULL;
  void *copy = NULL;
  pith_array array = {.ndim = 77};
  assert_ok(context, lend(context, &from, from.size, &file, &copy)); /* the file is sound */
  assert_int_equal(pith_safetensors_tensor(context, file, "whole", &array), PITH_E_TYPE);
  assert_non_null(strstr(pith_context_message(context), "I32"));
  assert_int_equal(pith_safetensors_tensor(context, file, "scalar", &array), PITH_E_SHAPE);
  assert_int_equal(pith_safetensors_tensor(context, file, "deep", &array), PITH_E_SHAPE);
  assert_int_equal(array.ndim, 77);
  pith_file_close(file);
  free(copy);
  test_context_free(context);
}

#define TENSOR(dtype, shape, offsets) \
  "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void test_bad_headers(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  static const unsigned char data[16] = {0};
  static const struct {
    const char *header;
    pith_status status;
    const char *says;
  } cases[] = {
      {TENSOR("F32", "[5]", "[0,16]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F32", "[3]", "[0,16]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F16", "[4]", "[0,16]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F32", "[5]", "[0,20]"), PITH_E_FORMAT, "it must begin at 0"},
      {TENSOR("F32", "[3]", "[0,12]"), PITH_E_FORMAT, "end at 12"},
      {TENSOR("F32", "[3]", "[4,16]"), PITH_E_FORMAT, "it must begin at 0"},
      {TENSOR("F32", "[4]", "[16,0]"), PITH_E_FORMAT, "data_offsets"},
      {TENSOR("F32", "[4]", "[-16,0]"), PITH_E_FORMAT, "data_offsets"},
      {TENSOR("F32", "[4]", "[0,16,16]"), PITH_E_FORMAT, "data_offsets"},
      {TENSOR("F32", "[4]", "[0,16.0]"), PITH_E_FORMAT, "data_offsets"},
      {TENSOR("F32", "[4]", "\"0,16\""), PITH_E_FORMAT, "data_offsets"},
      {TENSOR("F32", "[-4]", "[0,16]"), PITH_E_FORMAT, "dimension 0"},
      {TENSOR("F32", "[4.5]", "[0,16]"), PITH_E_FORMAT, "dimension 0"},
      {TENSOR("F32", "[\"4\"]", "[0,16]"), PITH_E_FORMAT, "dimension 0"},
      {TENSOR("F32", "4", "[0,16]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F32", "[4611686018427387904,4]", "[0,0]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F32", "[4611686018427387905,4]", "[0,16]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F32", "[0,4611686018427387904,4]", "[0,0]"), PITH_E_FORMAT, "shape"},
      {TENSOR("F32", "[99999999999999999999]", "[0,16]"), PITH_E_FORMAT, "integer"},
      {TENSOR("F31", "[4]", "[0,16]"), PITH_E_TYPE, "F31"},
      {"{\"a\":{\"dtype\":1,\"shape\":[4],\"data_offsets\":[0,16]}}", PITH_E_FORMAT, "dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", PITH_E_FORMAT, "data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16],\"b\":0}}", PITH_E_FORMAT, "no more"},
      {"{\"a\":[]}", PITH_E_FORMAT, "dtype"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
       PITH_E_FORMAT, "duplicate"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[4,16]}}",
       PITH_E_FORMAT, "\"b\""},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
       PITH_E_FORMAT, "\"b\""},
      {"{\"__metadata__\":[]}", PITH_E_FORMAT, "__metadata__"},
      {"{\"__metadata__\":{\"a\":1}}", PITH_E_FORMAT, "\"a\" is not a string"},
      {"{\"__metadata__\":{\"a\":\"\\u0000\"}}", PITH_E_FORMAT, "header"},
      {"{\"a\":", PITH_E_FORMAT, "header"},
      {"[]", PITH_E_FORMAT, "'{'"},
      {" {}", PITH_E_FORMAT, "'{'"},
      {"{} x", PITH_E_FORMAT, "header"},
      {"{\"\xff\":0}", PITH_E_FORMAT, "header"},
      {"{}", PITH_E_FORMAT, "16 bytes after"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    image from = make_image(cases[i].header, data, sizeof data, 0);
    pith_file *file = NULL;
    void *copy = NULL;
    pith_status status = lend(context, &from, from.size, &file, &copy);
    if (status != cases[i].status || !strstr(pith_context_message(context), cases[i].says))
      fail_msg("%s: %s: %s", cases[i].header, pith_status_name(status), pith_context_message(context));
    assert_non_null(strstr(pith_context_message(context), "lent.safetensors"));
    pith_file_close(file);
    free(copy);
  }
  assert_int_equal(pith_context_bytes(context), held);
  test_context_free(context);
}

static void test_lengths(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const float data[4] = {1, 2, 3, 4};
  static const char header[] = TENSOR("F32", "[4]", "[0,16]");
  static const uint64_t lies[] = {1,         sizeof header - 2, sizeof header,  sizeof header + 15,
                                  100000001, UINT64_MAX,        UINT64_MAX - 7, (uint64_t)1 << 63};
  image from = make_image(header, data, sizeof data, 0);
  pith_file *file = NULL;
  void *copy = NULL;
  for (size_t size = 0; size <= from.size + 1; size++) { /* every truncation, and a byte too many */
    pith_status status = lend(context, &from, size, &file, &copy);
    assert_int_equal(status, size == from.size ? PITH_OK : PITH_E_FORMAT);
    pith_file_close(file);
    free(copy);
  }
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    from = make_image(header, data, sizeof data, lies[i]);
    assert_int_equal(lend(context, &from, from.size, &file, &copy), PITH_E_FORMAT);
    pith_file_close(file);
    free(copy);
  }
  test_context_free(context);
}

static void test_file(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const float data[4] = {1, 2, 3, 4};
  image from = make_image(TENSOR("F32", "[4]", "[0,16]"), data, sizeof data, 0);
  char path[] = "/tmp/pith-safetensors-XXXXXX";
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  assert_int_equal(write(descriptor, from.bytes, from.size), from.size);
  close(descriptor);
  pith_file *file = NULL;
  pith_array array;
  assert_ok(context, pith_safetensors_open(context, path, &file));
  assert_ok(context, pith_safetensors_tensor(context, file, "a", &array));
  assert_memory_equal(array.data, data, sizeof data);
  pith_context_free(context); /* a file outlives the context that opened it */
  assert_memory_equal(array.data, data, sizeof data);
  pith_file_close(file);
  file = NULL;

  context = test_context(1);
  assert_int_equal(truncate(path, (off_t)from.size - 1), 0);
  assert_int_equal(pith_safetensors_open(context, path, &file), PITH_E_FORMAT);
  assert_non_null(strstr(pith_context_message(context), path));
  assert_int_equal(truncate(path, 0), 0);
  assert_int_equal(pith_safetensors_open(context, path, &file), PITH_E_FORMAT);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(pith_safetensors_open(context, path, &file), PITH_E_IO);
  assert_null(file);
  pith_file_close(NULL);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tensors), cmocka_unit_test(test_types_not_ours), cmocka_unit_test(test_bad_headers),
      cmocka_unit_test(test_lengths), cmocka_unit_test(test_file),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
