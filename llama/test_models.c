/* test_models.c - random models in files. */
#include "test_models.h"

#include "llama_models.h"

const char *test_model_name(size_t index) { return llama_models[index].name; }

size_t test_model_vocabulary(void) { return LLAMA_VOCABULARY; }

void test_model_write(size_t index, const char *path) {
  assert_int_equal(llama_models[index].matrices, PITH_GGUF_TENSOR_F32);
  gguf_bytes bytes = llama_model_make(&llama_models[index]);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes.bytes, 1, bytes.size, file), bytes.size);
  assert_int_equal(fclose(file), 0);
  free(bytes.bytes);
}
