/* lm.c - tokens a second of the runner, on two threads: reading a prompt at once, and token by token after it.
 * usage: bench_lm [DATA [novel]]; PITH_SMOLLM2 names the second model. With `novel`, only the loss of the shipped model
 * on the whole book, in pieces as long as its context and with the full cache. The prompts are *A Tale of Two Cities*
 * and the recorded token ids of the same book, out of the data folder. */
#include "lm/lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 2, GENERATED = 32 };

static double now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void check(const pith_context *context, pith_status status) {
  if (status >= 0) return;
  (void)fprintf(stderr, "%s\n", pith_context_message(context));
  exit(1);
}

/* One prompt of `length` tokens, and GENERATED more one by one. */
static void measure(pith_context *context, const lm_model *model, const char *name, const uint32_t *tokens,
                    size_t length) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = length + GENERATED;
  lm_session *session = NULL;
  float *logits = malloc(lm_model_describe(model).vocabulary * sizeof *logits);
  if (!logits) exit(1);
  check(context, lm_session_create(context, model, &options, &session));
  const double start = now();
  check(context, lm_session_read(context, session, tokens, length, length - 1, logits));
  const double middle = now();
  double least = middle;
  for (size_t i = 0; i < GENERATED; i++) {
    const double before = now();
    check(context, lm_session_read(context, session, tokens + length + i, 1, 0, logits));
    least = fmin(least, now() - before);
  }
  printf("%-24s %6zu %10.0f %10.0f %10.1f\n", name, length, (double)length / (middle - start),
         GENERATED / (now() - middle), 1 / least);
  lm_session_free(session);
  free(logits);
}

/* Tokens out of a file: its bytes, or the 32-bit numbers behind the header of a .npy file. */
static uint32_t *read_tokens(const char *folder, const char *name, bool numbers, size_t *count) {
  enum { MOST = 1 << 20, HEADER = 128 };
  char path[512];
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  unsigned char *bytes = malloc(MOST);
  uint32_t *tokens = malloc(MOST * sizeof *tokens);
  if (!file || !bytes || !tokens) {
    (void)fprintf(stderr, "%s: cannot read\n", path);
    exit(1);
  }
  const size_t size = fread(bytes, 1, MOST, file);
  (void)fclose(file);
  *count = numbers ? (size - HEADER) / sizeof *tokens : size;
  for (size_t i = 0; i < *count; i++)
    if (numbers)
      memcpy(&tokens[i], bytes + HEADER + i * sizeof *tokens, sizeof *tokens);
    else
      tokens[i] = bytes[i];
  free(bytes);
  return tokens;
}

static lm_model *open_model(const char *path, pith_context **context) {
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = THREADS;
  lm_model *model = NULL;
  if (pith_context_create(&options, context) < 0) exit(1);
  check(*context, lm_model_load(*context, path, &model));
  return model;
}

static void bench(const char *path, const char *name, const uint32_t *tokens, size_t count, const size_t *lengths,
                  size_t length_count) {
  pith_context *context = NULL;
  lm_model *model = open_model(path, &context);
  for (size_t i = 0; i < length_count; i++)
    if (lengths[i] + GENERATED <= count) measure(context, model, name, tokens, lengths[i]);
  lm_model_free(model);
  pith_context_free(context);
}

/* Bits for token number `next`, given the logits before it. */
static double bits(const float *logits, size_t count, uint32_t next) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += exp((double)(logits[i] - logits[next]));
  return log2(sum);
}

/* Every byte but the first of each piece is scored. */
static void score(const char *path, const uint32_t *tokens, size_t count) {
  pith_context *context = NULL;
  lm_model *model = open_model(path, &context);
  const lm_model_info info = lm_model_describe(model);
  lm_session *session = NULL;
  check(context, lm_session_create(context, model, NULL, &session));
  const size_t piece = lm_session_capacity(session);
  float *logits = malloc(piece * info.vocabulary * sizeof *logits);
  double sum = 0;
  size_t scored = 0;
  if (!logits) exit(1);
  for (size_t first = 0; first + 1 < count; first += piece) {
    const size_t length = count - first < piece ? count - first : piece;
    check(context, lm_session_truncate(context, session, 0));
    check(context, lm_session_read(context, session, tokens + first, length, 0, logits));
    for (size_t t = 0; t + 1 < length; t++, scored++)
      sum += bits(logits + t * info.vocabulary, info.vocabulary, tokens[first + t + 1]);
  }
  printf("%zu bytes in pieces of %zu: %.4f bits a byte\n", scored, piece, sum / (double)scored);
  free(logits);
  lm_session_free(session);
  lm_model_free(model);
  pith_context_free(context);
}

int main(int count, char **arguments) {
  const char *data = count > 1 ? arguments[1] : "../shared/data", *smollm2 = getenv("PITH_SMOLLM2");
  const char *shipped = "models/byte-lm-3m-f16.gguf";
  size_t tokens_read = 0;
  uint32_t *tokens = read_tokens(data, "text/a-tale-of-two-cities.txt", false, &tokens_read);
  if (count > 2) return score(shipped, tokens, tokens_read), free(tokens), 0;
  printf("%-24s %6s %10s %10s %10s   (tokens a second, %d threads, %s)\n", "model", "tokens", "prompt", "one by one",
         "fastest", THREADS, pith_isa_name());
  bench(shipped, "byte-lm f16", tokens, tokens_read, (const size_t[]){512, 1536}, 2);
  free(tokens);
  if (!smollm2) return printf("PITH_SMOLLM2 does not name SmolLM2 (tools/fetch-smollm2): left out\n"), 0;
  tokens = read_tokens(data, "model/smollm2_book_ids.npy", true, &tokens_read);
  bench(smollm2, "SmolLM2-135M Q4_1", tokens, tokens_read, (const size_t[]){512, 3072}, 2);
  free(tokens);
  return 0;
}
