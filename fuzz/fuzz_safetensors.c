/* fuzz_safetensors.c - any bytes as a .safetensors file. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pith_context *context = NULL;
  pith_file *file = fuzz_lend(&context, data, size);
  if (pith_safetensors_parse(context, file) == PITH_OK) {
    for (size_t i = 0; i < pith_safetensors_count(file); i++) {
      pith_array array;
      if (pith_safetensors_tensor(context, file, pith_safetensors_name(file, i), &array) == PITH_OK) fuzz_touch(&array);
    }
    for (size_t i = 0; i < file->metadata_count; i++)
      FUZZ_REQUIRE(pith_safetensors_metadata(file, file->metadata[i].key) == file->metadata[i].value);
  } else {
    FUZZ_REQUIRE(*pith_context_message(context));
  }
  pith_file_close(file);
  pith_context_free(context);
  return 0;
}
