/* lm_cache.c - models, tokens and compressed caches, as the words of `pith lm` use them. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lm.h"

/* ---- The model ---- */

/* The shipped model: where it is installed, or in the source tree above the executable's folder. */
static bool shipped_model(char *path, size_t size) {
  static const char *const places[] = {"/../share/pith/", "/models/", "/../models/", "/../../models/"};
  char folder[2048];
  ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
  if (length <= 0) return false;
  folder[length] = '\0';
  char *slash = strrchr(folder, '/');
  if (slash) *slash = '\0';
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(path, size, "%s%sbyte-lm-3m-f16.gguf", folder, places[i]);
    if (access(path, R_OK) == 0) return true;
  }
  return false;
}

int lm_open(cli_session *session, lm_run *run) {
  *run = (lm_run){.session = session, .arguments = session->arguments};
  char shipped[4096];
  const char *path = run->arguments->model ? run->arguments->model : getenv("PITH_MODEL");
  if (!path && shipped_model(shipped, sizeof shipped)) path = shipped;
  if (!path)
    return session_error(session, EXIT_USAGE, "the shipped model is not found; give --model M.gguf or set PITH_MODEL");
  pith_status status = lm_model_load(session->context, path, &run->model);
  if (status < 0) return session_fail(session, status);
  run->info = lm_model_describe(run->model);
  status = lm_tokenizer_create(session->context, lm_model_gguf(run->model), run->info.vocabulary, &run->tokenizer);
  if (status < 0) {
    lm_close(run);
    return session_fail(session, status);
  }
  return EXIT_DONE;
}

void lm_close(lm_run *run) {
  lm_tokenizer_free(run->tokenizer);
  lm_model_free(run->model);
  run->tokenizer = NULL;
  run->model = NULL;
}

/* ---- Text ---- */

int lm_read_file(cli_session *session, const char *option, const char *path, char **text, size_t *size) {
  FILE *file = strcmp(path, "-") != 0 ? fopen(path, "rb") : stdin;
  if (!file) return session_error(session, EXIT_IO, "%s %s: %s", option, path, strerror(errno));
  size_t capacity = 1 << 16, read = 0;
  char *bytes = allocate_zero(capacity + 1, 1);
  for (size_t part = 1; part > 0; read += part) {
    if (read == capacity) {
      char *grown = allocate_zero(2 * capacity + 1, 1);
      memcpy(grown, bytes, read);
      free(bytes);
      bytes = grown;
      capacity *= 2;
    }
    part = fread(bytes + read, 1, capacity - read, file);
  }
  bool failed = ferror(file) != 0;
  if (file != stdin) fclose(file);
  if (failed) {
    free(bytes);
    return session_error(session, EXIT_IO, "%s %s: cannot be read", option, path);
  }
  bytes[read] = '\0';
  *text = bytes;
  *size = read;
  return EXIT_DONE;
}

int lm_encode(lm_run *run, const char *text, size_t size, int flags, lm_tokens *tokens) {
  pith_status status = lm_tokenizer_encode(run->session->context, run->tokenizer, text, size, flags, tokens);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

int lm_encode_text(lm_run *run, size_t least, lm_tokens *tokens) {
  char *text = NULL;
  size_t size = 0;
  const char *path = run->arguments->text;
  int code = lm_read_file(run->session, "--text", path, &text, &size);
  if (code) return code;
  code = lm_encode(run, text, size, LM_ENCODE_BEGIN, tokens);
  free(text);
  if (!code && tokens->count < least)
    code =
        session_error(run->session, EXIT_INPUT,
                      "--text %s: %zu tokens are needed, the text has %zu; give a longer text or a smaller --context",
                      path, least, tokens->count);
  return code;
}

int lm_lengths(const lm_run *run, size_t *context, size_t *prefix) {
  enum { CONTEXT = 2048 };
  const lm_arguments *arguments = run->arguments;
  size_t most = run->info.context_length;
  *context = arguments->context ? arguments->context : most < CONTEXT ? most : CONTEXT;
  if (*context > most)
    return session_error(run->session, EXIT_INPUT, "--context %zu: the model was made for %zu tokens", *context, most);
  *prefix = arguments->prefix ? arguments->prefix : *context / 4 * 3;
  if (*prefix == 0) *prefix = 1;
  if (*prefix >= *context)
    return session_error(run->session, EXIT_USAGE, "--prefix %zu: must be less than the context of %zu tokens", *prefix,
                         *context);
  return EXIT_DONE;
}

/* ---- A compressed prefix ---- */

const char *lm_engine(const lm_arguments *arguments) {
  return arguments->options.engine ? arguments->options.engine : pith_engine_name(0);
}

lm_method lm_chosen(const lm_arguments *arguments) {
  return (lm_method){lm_engine(arguments), arguments->budget, arguments->store, arguments->options.ratio};
}

bool lm_is_compressed(const lm_arguments *arguments) {
  return arguments->options.ratio > 0 || !strcmp(lm_engine(arguments), "exact");
}

/* A prefix too short to weigh heads by is compressed as if all weighed the same. */
static pith_status read_prefix(lm_run *run, const uint32_t *tokens, size_t count, lm_prefix *p) {
  enum { LEFT_OUT = 8 }; /* tokens that head weights do not look at */
  pith_context *context = run->session->context;
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = p->capacity;
  options.record_queries = true;
  pith_status status = lm_session_create(context, run->model, &options, &p->session);
  if (status >= 0) status = lm_session_read(context, p->session, tokens, count, count, NULL);
  if (status < 0 || count <= LEFT_OUT) return status;
  p->weights = allocate_zero(run->info.layers * run->info.kv_heads, sizeof *p->weights);
  return lm_head_weights(context, p->session, p->weights);
}

void lm_warn_of_rope(lm_run *run) {
  if (!run->info.rope_scaled || run->warned) return;
  run->warned = true;
  session_warn(run->session,
               "the model scales its rotary frequencies, and recorded queries are turned without that: expect a "
               "larger error");
}

pith_status lm_prefix_read(lm_run *run, const uint32_t *tokens, size_t count, size_t capacity, lm_prefix *out) {
  *out = (lm_prefix){.capacity = capacity};
  lm_warn_of_rope(run);
  double started = seconds_now();
  pith_status status = read_prefix(run, tokens, count, out);
  out->seconds = seconds_now() - started;
  if (status < 0) lm_prefix_free(out);
  return status;
}

void lm_prefix_free(lm_prefix *prefix) {
  lm_session_free(prefix->session);
  free(prefix->weights);
  *prefix = (lm_prefix){0};
}

lm_method lm_method_complete(const lm_method *method) {
  bool nystrom = !strcmp(method->engine, "nystrom");
  lm_method out = *method;
  if (out.budget == UNSET_CHOICE) out.budget = nystrom ? PITH_BUDGET_SPREAD : PITH_BUDGET_EVEN;
  if (out.store == UNSET_CHOICE) out.store = nystrom ? PITH_STORE_AUTO : PITH_F16;
  return out;
}

static pith_compress_options options_of(const lm_run *run, const lm_prefix *prefix, const lm_method *method) {
  const lm_method chosen = lm_method_complete(method);
  pith_compress_options options = run->arguments->options, defaults;
  pith_compress_options_init(&defaults);
  if (options.refine == PITH_UNSET) options.refine = defaults.refine;
  options.engine = chosen.engine;
  options.ratio = chosen.ratio;
  options.rope = run->info.rope;
  options.rope_base = run->info.rope_base;
  options.query_start = 0;
  /* Nobody asks from beyond what the model can read. */
  const size_t read = lm_session_length(prefix->session), most = run->info.context_length;
  const size_t ahead = most > read ? most - read : 1;
  if (options.horizon > ahead) options.horizon = ahead;
  options.budget = (pith_budget)chosen.budget;
  options.store = (pith_dtype)chosen.store;
  return options;
}

static pith_status compress(lm_run *run, const lm_prefix *prefix, const lm_method *method, lm_compressed *c) {
  pith_context *context = run->session->context;
  pith_compress_options options = options_of(run, prefix, method);
  pith_array keys, values, queries;
  pith_array weights = pith_array_matrix(prefix->weights, PITH_F32, run->info.layers, run->info.kv_heads);
  if (prefix->weights) options.head_weights = &weights;
  pith_status status = lm_session_arrays(context, prefix->session, &keys, &values, &queries);
  double started = seconds_now();
  if (status >= 0) status = pith_compress(context, &keys, &values, &queries, &options, &c->summary);
  c->seconds = seconds_now() - started;
  if (status < 0) return status;
  lm_session_options after;
  lm_session_options_init(&after);
  after.capacity = prefix->capacity;
  return lm_session_after(context, prefix->session, c->summary, &after, &c->after);
}

pith_status lm_compress(lm_run *run, const lm_prefix *prefix, const lm_method *method, lm_compressed *out) {
  *out = (lm_compressed){.run = run};
  pith_status status = compress(run, prefix, method, out);
  if (status < 0) lm_compressed_free(out);
  return status;
}

size_t lm_compressed_free(lm_compressed *compressed) {
  lm_session_free(compressed->after);
  size_t held = 0;
  if (compressed->summary) {
    const pith_context *context = compressed->run->session->context;
    held = pith_context_bytes(context);
    pith_summary_free(compressed->summary);
    held -= pith_context_bytes(context);
  }
  *compressed = (lm_compressed){0};
  return held;
}

/* ---- Logits ---- */

uint32_t lm_largest(const float *logits, size_t count) {
  size_t best = 0;
  for (size_t i = 1; i < count; i++)
    if (logits[i] > logits[best]) best = i;
  return (uint32_t)best;
}

double lm_log_mass(const float *logits, size_t count) {
  double largest = logits[lm_largest(logits, count)], sum = 0;
  for (size_t i = 0; i < count; i++) sum += exp(logits[i] - largest);
  return largest + log(sum);
}
