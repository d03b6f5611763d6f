/* bench_topic MODEL.gguf FIRST.txt SECOND.txt: what a change of topic costs a model on a cache that does not grow, and
 * how fast the cache recovers. The model takes bytes as tokens. It reads 1024 bytes of the first text, then 1024 of the
 * second; its predictions are compared with those on the full cache. Beside it the control: 1024 bytes of the second
 * text from elsewhere, then the same 1024. Mean KL in nats over pieces of the texts, by distance from the change. */
#include <math.h>
#include <pith.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lm/lm.h"

enum { HALF = 1024, ALL = 2 * HALF, STEP = 16, CHUNK = 128, VOCABULARY = 256, PIECES = 6 };

static const int edges[] = {-512, -128, 0, 32, 64, 128, 256, 512, HALF}; /* of bins, from the change */
enum { BINS = sizeof edges / sizeof *edges - 1 };

static void must(pith_context *context, pith_status status) {
  if (status >= 0) return;
  fprintf(stderr, "bench_topic: %s\n", pith_context_message(context));
  exit(1);
}

static unsigned char *read_text(const char *path, size_t least, size_t *size) {
  FILE *file = fopen(path, "rb");
  unsigned char *text = malloc((size_t)1 << 22);
  *size = file && text ? fread(text, 1, (size_t)1 << 22, file) : 0;
  if (file) (void)fclose(file);
  if (*size < least) {
    fprintf(stderr, "bench_topic: %s: %zu bytes, %zu are needed\n", path, *size, least);
    exit(1);
  }
  return text;
}

/* Logits after every token; cache NULL: the full one. */
static void predict(pith_context *context, const lm_model *model, pith_cache *cache, const uint32_t *tokens,
                    float *logits) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.cache = cache;
  lm_session *session = NULL;
  must(context, lm_session_create(context, model, &options, &session));
  for (size_t at = 0; at < ALL; at += STEP)
    must(context, lm_session_read(context, session, tokens + at, STEP, 0, logits + at * VOCABULARY));
  lm_session_free(session);
}

static double log_sum(const float *logits) {
  double largest = -INFINITY, sum = 0;
  for (size_t i = 0; i < VOCABULARY; i++) largest = fmax(largest, logits[i]);
  for (size_t i = 0; i < VOCABULARY; i++) sum += exp(logits[i] - largest);
  return largest + log(sum);
}

/* Adds the mean KL of every bin. */
static void add_kl(const float *full, const float *got, double *bins) {
  for (size_t b = 0; b < BINS; b++)
    for (int t = HALF + edges[b]; t < HALF + edges[b + 1]; t++) {
      const float *p = full + (size_t)t * VOCABULARY, *q = got + (size_t)t * VOCABULARY;
      double p_sum = log_sum(p), q_sum = log_sum(q), kl = 0;
      for (size_t i = 0; i < VOCABULARY; i++) kl += exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
      bins[b] += kl / (edges[b + 1] - edges[b]) / PIECES;
    }
}

typedef struct method {
  const char *engine;
  pith_budget budget;
  double ratio;
  double bins[2][BINS]; /* with the change, without */
} method;

static void run_piece(pith_context *context, const lm_model *model, const uint32_t *tokens, method *methods,
                      size_t count, size_t which) {
  lm_model_info info = lm_model_describe(model);
  float *full = malloc(sizeof *full * ALL * VOCABULARY), *got = malloc(sizeof *got * ALL * VOCABULARY);
  if (!full || !got) exit(1);
  predict(context, model, NULL, tokens, full);
  for (size_t i = 0; i < count; i++) {
    method *m = &methods[i];
    pith_cache_options o = lm_cache_options(model);
    o.engine = m->engine;
    o.budget = m->budget;
    o.window = 16;
    o.chunk = CHUNK;
    o.recent = 768;
    o.older = 256;
    o.bytes = (size_t)(m->ratio * (double)(info.layers * info.kv_heads * ALL * 4 * info.head_size));
    pith_cache *cache = NULL;
    must(context, pith_cache_create(context, &o, &cache));
    predict(context, model, cache, tokens, got);
    pith_cache_free(cache);
    add_kl(full, got, m->bins[which]);
  }
  free(full);
  free(got);
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: bench_topic MODEL.gguf FIRST.txt SECOND.txt\n"), 2;
  pith_context_options with;
  pith_context_options_init(&with);
  with.threads = 2;
  pith_context *context = NULL;
  lm_model *model = NULL;
  if (pith_context_create(&with, &context) < 0) return 1;
  must(context, lm_model_load(context, argv[1], &model));
  if (lm_model_describe(model).vocabulary != VOCABULARY)
    return fprintf(stderr, "bench_topic: a model with bytes as tokens is needed\n"), 1;
  size_t first_size = 0, second_size = 0;
  unsigned char *first = read_text(argv[2], (size_t)PIECES * HALF, &first_size);
  unsigned char *second = read_text(argv[3], (size_t)PIECES * ALL, &second_size);
  method methods[] = {{.engine = "nystrom", .budget = PITH_BUDGET_SPREAD, .ratio = 0.25},
                      {.engine = "nystrom", .budget = PITH_BUDGET_SPREAD, .ratio = 0.0625},
                      {.engine = "heavy", .budget = PITH_BUDGET_EVEN, .ratio = 0.0625},
                      {.engine = "accumulated", .budget = PITH_BUDGET_EVEN, .ratio = 0.0625},
                      {.engine = "recent", .budget = PITH_BUDGET_EVEN, .ratio = 0.0625}};
  size_t count = sizeof methods / sizeof *methods;
  for (size_t piece = 0; piece < PIECES; piece++) {
    const unsigned char *a = first + piece * (first_size / PIECES), *b = second + piece * (second_size / PIECES);
    uint32_t tokens[ALL];
    for (size_t which = 0; which < 2; which++) {
      for (size_t t = 0; t < HALF; t++) {
        tokens[t] = which == 0 ? a[t] : b[HALF + t];
        tokens[HALF + t] = b[t];
      }
      run_piece(context, model, tokens, methods, count, which);
    }
  }
  printf("mean KL against the full cache, by tokens from the change; %d pieces, chunks of %d\n", PIECES, CHUNK);
  printf("%-12s %7s %-8s", "engine", "bytes", "stream");
  for (size_t b = 0; b < BINS; b++) printf(" %4d..%-4d", edges[b], edges[b + 1]);
  printf("\n");
  for (size_t i = 0; i < count; i++)
    for (size_t which = 0; which < 2; which++) {
      printf("%-12s %7.4f %-8s", methods[i].engine, methods[i].ratio, which == 0 ? "change" : "control");
      for (size_t b = 0; b < BINS; b++) printf(" %10.2g", methods[i].bins[which][b]);
      printf("\n");
    }
  free(first);
  free(second);
  lm_model_free(model);
  pith_context_free(context);
  return 0;
}
