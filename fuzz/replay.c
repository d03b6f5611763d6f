/* replay.c - runs one fuzz target over the files named on the command line, for compilers without
 * libFuzzer: what was found once stays found. */
#include <stdio.h>

#include "fuzz.h"

int main(int count, char **paths) {
  if (count < 2) return fprintf(stderr, "usage: %s FILE...\n", paths[0]), 2;
  for (int i = 1; i < count; i++) {
    FILE *file = fopen(paths[i], "rb");
    long size = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    bool read =
        size >= 0 && data && fseek(file, 0, SEEK_SET) == 0 && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (file) (void)fclose(file);
    if (!read) return fprintf(stderr, "%s: cannot read\n", paths[i]), 1;
    (void)LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
  }
  printf("%d inputs\n", count - 1);
  return 0;
}
