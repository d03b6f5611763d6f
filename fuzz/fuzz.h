/* fuzz.h - what all fuzz targets share. A target is one LLVMFuzzerTestOneInput: libFuzzer drives it with
 * inputs of its own, replay.c with those kept in corpus/. */
#ifndef PITH_FUZZ_H
#define PITH_FUZZ_H

#include <stdlib.h>
#include <string.h>

#include "io/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold for every input. */
#define FUZZ_REQUIRE(condition)         \
  do {                                  \
    if (!(condition)) __builtin_trap(); \
  } while (0)

/* The input over exactly its own bytes, so that a sanitiser sees any read beyond them. */
static inline pith_file *fuzz_lend(pith_context **context, const void *data, size_t size) {
  pith_file *file = NULL;
  FUZZ_REQUIRE(pith_context_create(NULL, context) == PITH_OK);
  FUZZ_REQUIRE(pith_file_lend(*context, data, size, "input", &file) == PITH_OK);
  return file;
}

/* A copy of the input, so that its checksum can be put right and what lies behind it is reached. */
typedef struct fuzz_copy {
  pith_context *context;
  pith_file *file;
  unsigned char *bytes;
} fuzz_copy;

static inline fuzz_copy fuzz_open(const uint8_t *data, size_t size) {
  fuzz_copy copy = {.bytes = malloc(size ? size : 1)};
  FUZZ_REQUIRE(copy.bytes);
  if (size > 0) memcpy(copy.bytes, data, size);
  copy.file = fuzz_lend(&copy.context, copy.bytes, size);
  return copy;
}

/* With the checksum that a reader demands: eight bytes at a place of its own, if the input has one. */
typedef pith_status (*fuzz_checksum)(pith_context *context, const pith_file *file, uint64_t *checksum, size_t *at);
static inline fuzz_copy fuzz_open_sealed(const uint8_t *data, size_t size, fuzz_checksum checksum_of) {
  fuzz_copy copy = fuzz_open(data, size);
  uint64_t checksum = 0;
  size_t at = 0;
  if (checksum_of(copy.context, copy.file, &checksum, &at) == PITH_OK)
    memcpy(copy.bytes + at, &checksum, sizeof checksum);
  return copy;
}

static inline void fuzz_close(fuzz_copy *copy) {
  pith_file_close(copy->file);
  pith_context_free(copy->context);
  free(copy->bytes);
}

/* Reads every element of a view, as its users will. */
static inline void fuzz_touch(const pith_array *array) {
  size_t shape[4] = {1, 1, 1, 1}, size = pith_dtype_size(array->dtype);
  ptrdiff_t stride[4] = {0, 0, 0, 0};
  FUZZ_REQUIRE(size > 0 && array->ndim >= 1 && array->ndim <= 4);
  FUZZ_REQUIRE((uintptr_t)array->data % size == 0);
  for (size_t i = 0; i < array->ndim; i++) {
    shape[i] = array->shape[i];
    stride[i] = array->stride[i];
    if (shape[i] == 0) return;
  }
  for (size_t a = 0; a < shape[0]; a++)
    for (size_t b = 0; b < shape[1]; b++)
      for (size_t c = 0; c < shape[2]; c++)
        for (size_t d = 0; d < shape[3]; d++) {
          const volatile unsigned char *at = (const volatile unsigned char *)array->data + (ptrdiff_t)a * stride[0] +
                                             (ptrdiff_t)b * stride[1] + (ptrdiff_t)c * stride[2] +
                                             (ptrdiff_t)d * stride[3];
          (void)at[0], (void)at[size - 1]; /* volatile: really read */
        }
}

#endif
