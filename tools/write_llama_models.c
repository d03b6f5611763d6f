/* write_llama_models.c - the random models of tests/llama_models.h as files FOLDER/0.gguf, 1.gguf, ..., and the tokens
 * they are asked with as FOLDER/tokens; for tools/make-llama-logits. */
#include "llama_models.h"

static void save(const char *folder, const char *name, const void *bytes, size_t size) {
  char path[512];
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
    (void)fprintf(stderr, "%s: cannot be written\n", path);
    exit(1);
  }
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  for (size_t i = 0; i < LLAMA_MODELS; i++) {
    char name[32];
    (void)snprintf(name, sizeof name, "%zu.gguf", i);
    gguf_bytes file = llama_model_make(&llama_models[i]);
    save(arguments[1], name, file.bytes, file.size);
    free(file.bytes);
  }
  uint32_t tokens[LLAMA_TOKENS];
  unsigned char bytes[LLAMA_TOKENS];
  llama_tokens(tokens);
  for (size_t i = 0; i < LLAMA_TOKENS; i++) bytes[i] = (unsigned char)tokens[i];
  save(arguments[1], "tokens", bytes, sizeof bytes);
  printf("%zu %d %d\n", (size_t)LLAMA_MODELS, LLAMA_MIDDLE, LLAMA_TOKENS - 1);
  return 0;
}
