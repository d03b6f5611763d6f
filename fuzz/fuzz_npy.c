/* fuzz_npy.c - any bytes as a .npy file. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pith_context *context = NULL;
  pith_file *file = fuzz_lend(&context, data, size);
  pith_array array;
  if (pith_npy_parse(context, file, &array) == PITH_OK)
    fuzz_touch(&array);
  else
    FUZZ_REQUIRE(*pith_context_message(context));
  pith_file_close(file);
  pith_context_free(context);
  return 0;
}
