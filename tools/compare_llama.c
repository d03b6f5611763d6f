/* compare_llama.c - the runner beside llama.cpp's prebuilt engine, in one process and in turns: each reads the same
 * tokens, then each goes on token by token in bursts, and the best of each is printed. tools/compare-llama builds it.
 *
 * usage: compare_llama speed BACKENDS MODEL TOKENS LENGTH [LENGTH ...] [spread]
 *        compare_llama compress BACKENDS MODEL TOKENS LENGTH STORE RATIO [STORE RATIO ...]
 *        compare_llama logits BACKENDS MODEL TOKENS f16|f32 ROW [ROW ...]
 *
 * compress: beside llama.cpp's reading. logits: llama.cpp's own, in f32, to standard output.
 *
 * BACKENDS is the folder of llama.cpp's libraries, TOKENS a .npy of 32-bit numbers, or any other file: its bytes. */
#define _GNU_SOURCE /* dladdr */
#include <dlfcn.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <limits.h>
#include <llama.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lm/lm.h"

enum { THREADS = 2, BURST = 8, ROUNDS = 8, PROMPTS = 2 };

static void stop(const char *what) {
  (void)fprintf(stderr, "compare_llama: %s\n", what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- Tokens ---- */

static llama_token *read_tokens(const char *path, size_t *count) {
  enum { MOST = 1 << 16, HEADER = 128 };
  FILE *file = fopen(path, "rb");
  unsigned char *bytes = malloc(MOST);
  llama_token *tokens = malloc(MOST * sizeof *tokens);
  if (!file || !bytes || !tokens) stop(path);
  const size_t size = fread(bytes, 1, MOST, file), length = strlen(path);
  const int numbers = length > 4 && strcmp(path + length - 4, ".npy") == 0;
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

/* ---- llama.cpp ---- */

/* Its threads wait busily between tokens, as in its own bench; while the other runner is measured they are paused.
 * The CPU backend is loaded at run time, so its functions are looked up. */
typedef struct engine {
  struct llama_model *model;
  struct llama_context *context;
  ggml_threadpool_t threads;
  void (*pause)(ggml_threadpool_t), (*resume)(ggml_threadpool_t);
} engine;

static void *cpu_function(const char *name) {
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  Dl_info file;
  void *known =
      device ? ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_threadpool_new") : NULL;
  if (!known || !dladdr(known, &file)) stop("no CPU backend");
  void *library = dlopen(file.dli_fname, RTLD_NOW), *found = library ? dlsym(library, name) : NULL;
  if (!found) stop(name);
  return found;
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) (void)fputs(text, stderr);
}

static engine engine_open(const char *backends, const char *path) {
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(backends);
  engine e = {.model = llama_model_load_from_file(path, llama_model_default_params())};
  if (!e.model) stop(path);
  struct ggml_threadpool *(*make)(struct ggml_threadpool_params *) = NULL;
  *(void **)&make = cpu_function("ggml_threadpool_new");
  *(void **)&e.pause = cpu_function("ggml_threadpool_pause");
  *(void **)&e.resume = cpu_function("ggml_threadpool_resume");
  struct ggml_threadpool_params parameters = ggml_threadpool_params_default(THREADS);
  e.threads = make(&parameters);
  return e;
}

static void engine_start(engine *e, size_t capacity, enum ggml_type store) {
  struct llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = (uint32_t)capacity;
  parameters.n_batch = (uint32_t)capacity;
  parameters.n_threads = parameters.n_threads_batch = THREADS;
  parameters.type_k = parameters.type_v = store;
  /* Its flash attention turns an f32 cache into f16 first. */
  if (store == GGML_TYPE_F32) parameters.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  e->context = llama_init_from_model(e->model, parameters);
  if (!e->context) stop("no context");
  llama_attach_threadpool(e->context, e->threads, NULL);
}

/* Tokens from position `first` on; the logits of the last, or of all. */
static void engine_read(engine *e, const llama_token *tokens, size_t first, size_t count, int all) {
  struct llama_batch batch = llama_batch_init((int32_t)count, 0, 1);
  for (size_t i = 0; i < count; i++) {
    batch.token[i] = tokens[first + i];
    batch.pos[i] = (llama_pos)(first + i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = all || i + 1 == count;
  }
  batch.n_tokens = (int32_t)count;
  if (llama_decode(e->context, batch) != 0) stop("llama_decode failed");
  llama_batch_free(batch);
}

static void engine_forget(engine *e, size_t length) {
  if (!llama_memory_seq_rm(llama_get_memory(e->context), 0, (llama_pos)length, -1)) stop("llama_memory_seq_rm failed");
}

/* ---- Ours ---- */

static void check(const pith_context *context, pith_status status) {
  if (status < 0) stop(pith_context_message(context));
}

static pith_context *load(const char *path, lm_model **model) {
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = THREADS;
  pith_context *context = NULL;
  if (pith_context_create(&options, &context) < 0) stop("no memory");
  check(context, lm_model_load(context, path, model));
  return context;
}

/* The tokens of the session as a summary, bytes spread over heads. */
static pith_summary *compress(pith_context *context, const lm_model *model, const lm_session *full,
                              const pith_compress_options *chosen) {
  const lm_model_info info = lm_model_describe(model);
  pith_array keys, values, queries;
  float *weights = malloc(info.layers * info.kv_heads * sizeof *weights);
  if (!weights) stop("no memory");
  check(context, lm_session_arrays(context, full, &keys, &values, &queries));
  check(context, lm_head_weights(context, full, weights));
  const pith_array weight = pith_array_matrix(weights, PITH_F32, info.layers, info.kv_heads);
  pith_compress_options options = *chosen;
  options.budget = PITH_BUDGET_SPREAD;
  options.head_weights = &weight;
  options.rope = info.rope;
  options.rope_base = info.rope_base;
  options.query_start = 0;
  pith_summary *summary = NULL;
  check(context, pith_compress(context, &keys, &values, &queries, &options, &summary));
  free(weights);
  return summary;
}

/* A session that goes on from 1/16 of the cache's bytes; how the points were found does not change how long attention
 * over them takes, so they are not refined, and few queries are looked at. */
static lm_session *compressed(pith_context *context, const lm_model *model, const lm_session *full, size_t capacity,
                              pith_summary **summary) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.ratio = 1.0 / 16;
  options.store = PITH_STORE_AUTO;
  options.refine = 0;
  options.samples = 1024;
  *summary = compress(context, model, full, &options);
  lm_session_options session_options;
  lm_session_options_init(&session_options);
  session_options.capacity = capacity;
  lm_session *session = NULL;
  check(context, lm_session_after(context, full, *summary, &session_options, &session));
  return session;
}

/* ---- Speed ---- */

static void keep_least(double *least, double value) {
  if (value < *least) *least = value;
}

/* Some tokens one by one; the fastest counts, since whatever else the machine does takes only from the others. */
static void burst_ours(pith_context *context, lm_session *session, const uint32_t *tokens, float *logits,
                       double *least) {
  const size_t length = lm_session_length(session);
  for (size_t i = 0; i <= BURST; i++) {
    const double start = now();
    check(context, lm_session_read(context, session, tokens + length + i, 1, 0, logits));
    keep_least(least, now() - start);
  }
  check(context, lm_session_truncate(context, session, length));
}

static void burst_theirs(engine *e, const llama_token *tokens, size_t length, double *least) {
  e->resume(e->threads);
  for (size_t i = 0; i <= BURST; i++) {
    const double start = now();
    engine_read(e, tokens, length + i, 1, 0);
    keep_least(least, now() - start);
  }
  engine_forget(e, length);
  e->pause(e->threads);
}

static void compare_speed(pith_context *context, const lm_model *model, engine *e, const llama_token *tokens,
                          size_t length, int spread) {
  const uint32_t *same = (const uint32_t *)tokens;
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = length + BURST + 1;
  options.record_queries = spread;
  lm_session *session = NULL, *after = NULL;
  pith_summary *summary = NULL;
  float *logits = malloc(lm_model_describe(model).vocabulary * sizeof *logits);
  double prompt[2] = {INFINITY, INFINITY}, token[3] = {INFINITY, INFINITY, INFINITY};
  if (!logits) stop("no memory");
  check(context, lm_session_create(context, model, &options, &session));
  engine_start(e, length + BURST + 1, GGML_TYPE_F16);
  for (int round = 0; round < PROMPTS; round++) {
    check(context, lm_session_truncate(context, session, 0));
    double start = now();
    check(context, lm_session_read(context, session, same, length, length - 1, logits));
    keep_least(&prompt[0], now() - start);
    e->resume(e->threads);
    engine_forget(e, 0);
    start = now();
    engine_read(e, tokens, 0, length, 0);
    keep_least(&prompt[1], now() - start);
    e->pause(e->threads);
  }
  if (spread) after = compressed(context, model, session, length + BURST + 1, &summary);
  for (int round = 0; round < ROUNDS; round++) {
    burst_ours(context, session, same, logits, &token[0]);
    burst_theirs(e, tokens, length, &token[1]);
    if (after) burst_ours(context, after, same, logits, &token[2]);
  }
  printf("%8zu %9.0f %9.0f %6.2f   %9.1f %9.1f %6.2f", length, (double)length / prompt[0], (double)length / prompt[1],
         prompt[1] / prompt[0], 1 / token[0], 1 / token[1], token[1] / token[0]);
  if (after) printf("   %9.1f %6.2f", 1 / token[2], token[1] / token[2]);
  printf("\n");
  lm_session_free(after);
  pith_summary_free(summary);
  lm_session_free(session);
  llama_free(e->context);
  free(logits);
}

static void speed(const char *backends, const char *path, const char *token_path, int count, char **lengths) {
  size_t token_count = 0;
  llama_token *tokens = read_tokens(token_path, &token_count);
  lm_model *model = NULL;
  pith_context *context = load(path, &model);
  engine e = engine_open(backends, path);
  e.pause(e.threads);
  const int spread = strcmp(lengths[count - 1], "spread") == 0;
  printf("%s, tokens a second, %d threads (%s)\n", path, THREADS, pith_isa_name());
  printf("%8s %9s %9s %6s   %9s %9s %6s%s\n", "tokens", "prompt", "llama.cpp", "ratio", "one by one", "llama.cpp",
         "ratio", spread ? "   spread 1/16  ratio" : "");
  for (int i = 0; i < count - spread; i++) {
    const size_t length = strtoul(lengths[i], NULL, 10);
    if (length < 1 || length + BURST + 1 > token_count) stop("LENGTH does not fit the tokens");
    compare_speed(context, model, &e, tokens, length, spread && i == count - spread - 1);
  }
  lm_model_free(model);
  pith_context_free(context);
  llama_model_free(e.model);
  free(tokens);
}

/* ---- Compression ---- */

static void compare_compression(const char *backends, const char *path, const char *token_path, size_t length,
                                int count, char **choices) {
  size_t token_count = 0;
  llama_token *tokens = read_tokens(token_path, &token_count);
  if (length < 1 || length > token_count) stop("LENGTH does not fit the tokens");
  lm_model *model = NULL;
  pith_context *context = load(path, &model);
  lm_session_options session_options;
  lm_session_options_init(&session_options);
  session_options.capacity = length;
  session_options.record_queries = true;
  lm_session *session = NULL;
  float *logits = malloc(lm_model_describe(model).vocabulary * sizeof *logits);
  if (!logits) stop("no memory");
  check(context, lm_session_create(context, model, &session_options, &session));
  check(context, lm_session_read(context, session, (const uint32_t *)tokens, length, length - 1, logits));
  engine e = engine_open(backends, path);
  engine_start(&e, length, GGML_TYPE_F16);
  e.pause(e.threads);
  printf("%s, %zu tokens, %d threads\n%5s %8s %12s %12s %6s\n", path, length, THREADS, "store", "ratio", "compression",
         "llama.cpp", "ratio");
  for (int choice = 0; choice + 1 < count; choice += 2) {
    pith_compress_options how;
    pith_compress_options_init(&how);
    how.store = strcmp(choices[choice], "auto") == 0 ? PITH_STORE_AUTO : PITH_F16;
    how.ratio = strtod(choices[choice + 1], NULL);
    double ours = INFINITY, theirs = INFINITY;
    for (int round = 0; round < PROMPTS; round++) {
      double start = now();
      pith_summary_free(compress(context, model, session, &how));
      keep_least(&ours, now() - start);
      e.resume(e.threads);
      engine_forget(&e, 0);
      start = now();
      engine_read(&e, tokens, 0, length, 0);
      keep_least(&theirs, now() - start);
      e.pause(e.threads);
    }
    printf("%5s %8g %10.1f s %10.1f s %6.2f\n", choices[choice], how.ratio, ours, theirs, ours / theirs);
    (void)fflush(stdout);
  }
  lm_session_free(session);
  lm_model_free(model);
  pith_context_free(context);
  llama_free(e.context);
  llama_model_free(e.model);
  free(logits);
  free(tokens);
}

/* ---- Logits ---- */

/* All tokens are read at once, as far as the last row that is asked for. */
static void logits(const char *backends, const char *path, const char *token_path, const char *store, int count,
                   char **rows) {
  size_t token_count = 0;
  llama_token *tokens = read_tokens(token_path, &token_count);
  engine e = engine_open(backends, path);
  const int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(e.model));
  const size_t length = strtoul(rows[count - 1], NULL, 10) + 1;
  if (length > token_count) stop("ROW does not fit the tokens");
  engine_start(&e, length, strcmp(store, "f32") == 0 ? GGML_TYPE_F32 : GGML_TYPE_F16);
  engine_read(&e, tokens, 0, length, 1);
  for (int i = 0; i < count; i++) {
    const float *row = llama_get_logits_ith(e.context, (int32_t)strtol(rows[i], NULL, 10));
    if (!row || fwrite(row, sizeof *row, (size_t)vocabulary, stdout) != (size_t)vocabulary) stop("cannot write a row");
  }
  llama_free(e.context);
  llama_model_free(e.model);
  free(tokens);
}

int main(int count, char **arguments) {
  mallopt(M_MMAP_THRESHOLD, 1 << 30); /* as the command line does */
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  if (count >= 6 && strcmp(arguments[1], "speed") == 0)
    speed(arguments[2], arguments[3], arguments[4], count - 5, arguments + 5);
  else if (count >= 8 && strcmp(arguments[1], "compress") == 0)
    compare_compression(arguments[2], arguments[3], arguments[4], strtoul(arguments[5], NULL, 10), count - 6,
                        arguments + 6);
  else if (count >= 7 && strcmp(arguments[1], "logits") == 0)
    logits(arguments[2], arguments[3], arguments[4], arguments[5], count - 6, arguments + 6);
  else
    stop(
        "usage: speed BACKENDS MODEL TOKENS LENGTH ... [spread]\n"
        "     | compress BACKENDS MODEL TOKENS LENGTH STORE RATIO ...\n"
        "     | logits BACKENDS MODEL TOKENS f16|f32 ROW ...");
  return 0;
}
