/* states.c - saves prompts with llama.cpp itself, and says how it goes on from states that were rewritten.
 *
 * usage: states save BACKENDS MODEL TEXT TOKENS OUT [f32|f16|q8_0] [rows|transposed] [sequence|session]
 *            reads the first TOKENS tokens of TEXT and saves the state
 *        states judge BACKENDS MODEL TEXT LATER FULL STATE ...
 *            loads the state FULL, reads the LATER tokens of TEXT that follow, and holds the predictions from every
 * STATE against those: mean and largest KL divergence, bytes, seconds to load, tokens a second, text that follows
 *        states keep BACKENDS MODEL FULL POSITIONS OUT
 *            drops all positions of the sequence state FULL but those that the file POSITIONS lists, one a line
 *
 * BACKENDS is the folder of llama.cpp's libraries. tools/llama-demo builds and runs it. */
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "program.h"

/* One thread: the engine's threads wait busily for each other, which on a machine that does other work takes hours. */
enum { THREADS = 1, BURST = 12, ROUNDS = 4, MOST_STATES = 16, WRITTEN = 24, SPARE = 32 };

static double now(void) {
  struct timespec time;
  (void)clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- Contexts ---- */

typedef struct cache_kind {
  enum ggml_type type;
  bool transposed;
} cache_kind;

static struct llama_context *open_context(struct llama_model *model, size_t capacity, cache_kind kind) {
  struct llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = parameters.n_batch = (uint32_t)capacity;
  parameters.n_threads = parameters.n_threads_batch = THREADS;
  parameters.type_k = parameters.type_v = kind.type;
  parameters.flash_attn_type = kind.transposed ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
  struct llama_context *context = llama_init_from_model(model, parameters);
  if (!context) stop("no context");
  return context;
}

/* Tokens from position `first` on; logits of the last, or of all. */
static void read_on(struct llama_context *context, const llama_token *tokens, size_t first, size_t count, bool all) {
  struct llama_batch batch = llama_batch_init((int32_t)count, 0, 1);
  for (size_t i = 0; i < count; i++) {
    batch.token[i] = tokens[i];
    batch.pos[i] = (llama_pos)(first + i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = all || i + 1 == count;
  }
  batch.n_tokens = (int32_t)count;
  if (llama_decode(context, batch) != 0) stop("llama_decode failed");
  llama_batch_free(batch);
}

/* Positions from .. to-1. */
static void forget(struct llama_context *context, size_t from, size_t to) {
  if (!llama_memory_seq_rm(llama_get_memory(context), 0, (llama_pos)from, (llama_pos)to))
    stop("llama_memory_seq_rm failed");
}

/* ---- save ---- */

static bool given(int count, char **words, const char *word) {
  for (int i = 0; i < count; i++)
    if (strcmp(words[i], word) == 0) return true;
  return false;
}

static int save(const char *backends, const char *path, const char *text, size_t most, const char *out, int count,
                char **words) {
  struct llama_model *model = open_model(backends, path);
  size_t token_count = 0;
  llama_token *tokens = read_tokens(model, text, most, &token_count);
  if (token_count < most) stop("the text is shorter");
  const cache_kind kind = {given(count, words, "f32")    ? GGML_TYPE_F32
                           : given(count, words, "q8_0") ? GGML_TYPE_Q8_0
                                                         : GGML_TYPE_F16,
                           given(count, words, "transposed")};
  struct llama_context *context = open_context(model, most + SPARE, kind);
  read_on(context, tokens, 0, most, false);
  const bool done = given(count, words, "session") ? llama_state_save_file(context, out, tokens, most)
                                                   : llama_state_seq_save_file(context, out, 0, tokens, most) > 0;
  if (!done) stop(out);
  llama_free(context);
  llama_model_free(model);
  free(tokens);
  return 0;
}

/* ---- judge ---- */

typedef struct state_file {
  const char *path;
  size_t bytes, cells;
  struct llama_context *context;
  double load_seconds, token_seconds, mean_kl, most_kl;
  cache_kind kind;
  uint32_t magic;
  bool same; /* logits are those of the full cache to the bit */
} state_file;

/* The types of keys and the order of values stand behind the cells, whose number is known by then. */
static void look(state_file *state) {
  uint32_t head[3], streams[2], order[3], cell[3], name = 0;
  FILE *file = fopen(state->path, "rb");
  struct stat status;
  if (!file || stat(state->path, &status) != 0 || fread(head, sizeof head, 1, file) != 1) stop(state->path);
  state->bytes = (size_t)status.st_size;
  state->magic = head[0];
  (void)fseek(file, (long)head[2] * 4, SEEK_CUR);
  if (head[0] == LLAMA_SESSION_MAGIC) {
    if (fread(&name, sizeof name, 1, file) != 1) stop(state->path);
    (void)fseek(file, (long)name, SEEK_CUR);
  }
  if (fread(streams, sizeof streams, 1, file) != 1) stop(state->path);
  state->cells = streams[1];
  for (size_t i = 0; i < state->cells; i++)
    if (fread(cell, sizeof cell, 1, file) != 1) stop(state->path);
  if (fread(order, sizeof order, 1, file) != 1) stop(state->path);
  state->kind = (cache_kind){(enum ggml_type)order[2], order[0] == 1};
  (void)fclose(file);
}

static void load(struct llama_model *model, state_file *state, size_t later, size_t tokens) {
  look(state);
  state->context = open_context(model, state->cells + later + SPARE, state->kind);
  llama_token *read = allocate(tokens + 1, sizeof *read);
  size_t count = 0;
  const double start = now();
  const bool done = state->magic == LLAMA_SESSION_MAGIC
                        ? llama_state_load_file(state->context, state->path, read, tokens + 1, &count)
                        : llama_state_seq_load_file(state->context, state->path, 0, read, tokens + 1, &count) > 0;
  state->load_seconds = now() - start;
  if (!done) stop(state->path);
  free(read);
}

static double log_mass(const float *logits, size_t count) {
  double largest = logits[0], sum = 0;
  for (size_t i = 1; i < count; i++) largest = fmax(largest, logits[i]);
  for (size_t i = 0; i < count; i++) sum += exp(logits[i] - largest);
  return largest + log(sum);
}

static double divergence(const float *full, const float *other, size_t count) {
  const double full_mass = log_mass(full, count), other_mass = log_mass(other, count);
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    const double a = full[i] - full_mass, b = other[i] - other_mass;
    sum += exp(a) * (a - b);
  }
  return sum;
}

/* Reads the later tokens; the full cache's logits go to, or are compared with, `full`. */
static void score(state_file *state, const llama_token *tokens, size_t first, size_t later, size_t vocabulary,
                  float *full, bool is_full) {
  read_on(state->context, tokens + first, first, later, true);
  state->same = true;
  for (size_t i = 0; i < later; i++) {
    const float *row = llama_get_logits_ith(state->context, (int32_t)i);
    float *kept = full + i * vocabulary;
    if (is_full) memcpy(kept, row, vocabulary * sizeof *kept);
    state->same = state->same && memcmp(kept, row, vocabulary * sizeof *kept) == 0;
    const double kl = divergence(kept, row, vocabulary);
    state->mean_kl += kl / (double)later;
    state->most_kl = fmax(state->most_kl, kl);
  }
  forget(state->context, first, INT32_MAX);
}

/* Tokens one by one; the fastest counts. */
static void burst(state_file *state, const llama_token *tokens, size_t first) {
  for (size_t i = 0; i < BURST; i++) {
    const double start = now();
    read_on(state->context, tokens + first + i, first + i, 1, false);
    const double seconds = now() - start;
    if (state->token_seconds == 0 || seconds < state->token_seconds) state->token_seconds = seconds;
  }
  forget(state->context, first, INT32_MAX);
}

static void write_on(const state_file *state, const struct llama_model *model, const llama_token *tokens, size_t first,
                     size_t vocabulary) {
  llama_token token = tokens[first];
  printf("%s:", state->path);
  for (size_t i = 0; i < WRITTEN; i++) {
    write_token(model, token);
    read_on(state->context, &token, first + i, 1, false);
    token = likeliest(llama_get_logits_ith(state->context, 0), (int32_t)vocabulary);
  }
  putchar('\n');
}

static int judge(const char *backends, const char *path, const char *text, size_t later, int count, char **paths) {
  struct llama_model *model = open_model(backends, path);
  const size_t vocabulary = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(model));
  state_file state[MOST_STATES] = {{0}};
  if (count > MOST_STATES) stop("too many states");
  FILE *file = fopen(paths[0], "rb");
  uint32_t head[3];
  if (!file || fread(head, sizeof head, 1, file) != 1) stop(paths[0]);
  (void)fclose(file);
  const size_t first = head[2];
  size_t token_count = 0;
  llama_token *tokens = read_tokens(model, text, first + later, &token_count);
  if (token_count < first + later) stop("the text is shorter than the state and LATER tokens");
  float *full = allocate(later * vocabulary, sizeof *full);
  for (int i = 0; i < count; i++) {
    state[i].path = paths[i];
    load(model, &state[i], later, first);
    score(&state[i], tokens, first, later, vocabulary, full, i == 0);
  }
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < count; i++) burst(&state[i], tokens, first);
  printf("%zu tokens, %zu scored\n%-28s %7s %11s %7s %9s %9s %9s  %s\n", first, later, "state", "cells", "bytes",
         "load ms", "tokens/s", "mean KL", "most KL", "bits");
  for (int i = 0; i < count; i++)
    printf("%-28s %7zu %11zu %7.1f %9.1f %9.5f %9.4f  %s\n", state[i].path, state[i].cells, state[i].bytes,
           1e3 * state[i].load_seconds, 1 / state[i].token_seconds, state[i].mean_kl, state[i].most_kl,
           state[i].same ? "same" : "differ");
  for (int i = 0; i < count; i++) {
    write_on(&state[i], model, tokens, first, vocabulary);
    llama_free(state[i].context);
  }
  llama_model_free(model);
  free(tokens);
  free(full);
  return 0;
}

/* ---- keep ---- */

/* Dropping positions for all heads at once, as the engine's own interface can. */
static int keep(const char *backends, const char *path, const char *from, const char *positions, const char *to) {
  struct llama_model *model = open_model(backends, path);
  state_file state = {.path = from};
  size_t length = 0, next = 0, kept = 0;
  look(&state);
  llama_token *tokens = allocate(state.cells, sizeof *tokens);
  state.context = open_context(model, state.cells, state.kind);
  if (llama_state_seq_load_file(state.context, from, 0, tokens, state.cells, &length) == 0) stop(from);
  FILE *file = fopen(positions, "r");
  if (!file) stop(positions);
  for (char line[32]; fgets(line, sizeof line, file); kept++, next++) {
    const size_t position = strtoul(line, NULL, 10);
    if (position < next || position >= length) stop("positions must ascend and be in the state");
    if (position > next) forget(state.context, next, position);
    next = position;
  }
  (void)fclose(file);
  if (next != length) stop("the last position must be kept");
  if (llama_state_seq_save_file(state.context, to, 0, tokens, length) == 0) stop(to);
  printf("%zu of %zu cells\n", kept, length);
  llama_free(state.context);
  llama_model_free(model);
  free(tokens);
  return 0;
}

int main(int count, char **arguments) {
  if (count >= 7 && strcmp(arguments[1], "save") == 0)
    return save(arguments[2], arguments[3], arguments[4], strtoul(arguments[5], NULL, 10), arguments[6], count - 7,
                arguments + 7);
  if (count >= 7 && strcmp(arguments[1], "judge") == 0)
    return judge(arguments[2], arguments[3], arguments[4], strtoul(arguments[5], NULL, 10), count - 6, arguments + 6);
  if (count == 7 && strcmp(arguments[1], "keep") == 0)
    return keep(arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]);
  stop(
      "usage: save BACKENDS MODEL TEXT TOKENS OUT [f32|f16|q8_0] [rows|transposed] [sequence|session] | "
      "judge BACKENDS MODEL TEXT LATER FULL STATE ... | keep BACKENDS MODEL FULL POSITIONS OUT");
}
