/* fuzz_gguf.c - any bytes as a model file. */
#include "fuzz.h"
#include "io/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pith_context *context = NULL;
  pith_file *file = fuzz_lend(&context, data, size);
  pith_gguf *gguf = NULL;
  if (pith_gguf_parse(context, file, &gguf) != PITH_OK) FUZZ_REQUIRE(*pith_context_message(context));
  for (size_t i = 0; gguf && i < pith_gguf_tensor_count(gguf); i++) {
    const pith_gguf_tensor *tensor = pith_gguf_tensor_at(gguf, i);
    FUZZ_REQUIRE(tensor->data >= data && tensor->bytes <= (size_t)(data + size - tensor->data));
  }
  size_t number = 0;
  if (gguf && pith_gguf_size(context, gguf, "n", &number) < 0) FUZZ_REQUIRE(*pith_context_message(context));
  pith_gguf_close(gguf);
  pith_context_free(context);
  return 0;
}
