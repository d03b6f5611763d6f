/* llama_compress.c - pith llama compress and calibrate. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llama_command.h"
#include "lm.h"

/* ---- Queries ---- */

void llama_queries_free(llama_queries *queries) {
  input_close(&queries->input);
  input_close(&queries->weight_input);
  lm_session_free(queries->session);
  lm_model_free(queries->model);
  free(queries->own_weights);
  *queries = (llama_queries){0};
}

static pith_status check_tokens(cli_session *session, const lm_model *model, const uint32_t *tokens, size_t count) {
  const size_t words = lm_model_describe(model).vocabulary;
  for (size_t i = 0; i < count; i++)
    if (tokens[i] >= words)
      return pith_fail(session->context, PITH_E_VALUE,
                       "%s: token %zu is %" PRId32
                       ", and the model knows %zu: no plain tokens (llama-server packs them); "
                       "give --queries or --calibration",
                       session->operands[session->operand_count - 1], i, (int32_t)tokens[i], words);
  return PITH_OK;
}

static pith_status record(cli_session *session, const uint32_t *tokens, size_t count, llama_queries *q) {
  enum { LEFT_OUT = 8 }; /* tokens that head weights do not look at */
  const llama_arguments *arguments = session->arguments;
  pith_context *context = session->context;
  pith_array keys, values;
  lm_session_options options;
  lm_session_options_init(&options);
  options.record_queries = true;
  options.capacity = count;
  PITH_TRY(lm_model_load(context, arguments->model, &q->model));
  PITH_TRY(check_tokens(session, q->model, tokens, count));
  PITH_TRY(lm_session_create(context, q->model, &options, &q->session));
  PITH_TRY(lm_session_read(context, q->session, tokens, count, count, NULL));
  if (count > LEFT_OUT) {
    const lm_model_info info = lm_model_describe(q->model);
    q->own_weights = allocate_zero(info.layers * info.kv_heads, sizeof *q->own_weights);
    q->head_weights = pith_array_matrix(q->own_weights, PITH_F32, info.layers, info.kv_heads);
    PITH_TRY(lm_head_weights(context, q->session, q->own_weights));
  }
  return lm_session_arrays(context, q->session, &keys, &values, &q->array);
}

int llama_record(cli_session *session, const uint32_t *tokens, size_t count, llama_queries *out) {
  const double started = seconds_now();
  const pith_status status = record(session, tokens, count, out);
  out->seconds = seconds_now() - started;
  out->source = "recomputed";
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

/* ---- Which queries a state is compressed by ---- */

typedef struct compression {
  cli_session *session;
  const llama_arguments *arguments;
  pith_gguf *model;
  pith_llama_heads heads;
  pith_llama_state *state;
  pith_llama_rows rows;
  llama_queries queries;
  pith_array asked; /* those of the queries that may be used */
  size_t query_start, cells, filled, matter;
  pith_summary *summary;
  double seconds;
} compression;

enum { LEAST_QUERIES = 16 };

static bool engine_asks(const llama_arguments *a) {
  const char *engine = a->options.engine;
  return !engine || (strcmp(engine, "recent") != 0 && strcmp(engine, "exact") != 0);
}

static int open_recorded(compression *c, const char *option, const char *path, const char *source) {
  const int code = input_open(c->session, option, path, &c->queries.input);
  if (code) return code;
  const pith_array *array = &c->queries.input.array;
  const size_t *shape = array->shape;
  c->queries.source = source;
  c->queries.array = *array;
  if (array->ndim == 4 && shape[0] == c->heads.layers && shape[1] == c->heads.query_heads &&
      shape[3] == c->heads.key_size)
    return EXIT_DONE;
  return session_error(c->session, EXIT_INPUT,
                       "%s %s: the model asks for an array of (%zu layers, %zu query heads, tokens, %zu)", option, path,
                       c->heads.layers, c->heads.query_heads, c->heads.key_size);
}

static int open_weights(compression *c) {
  if (!c->arguments->head_weights) return EXIT_DONE;
  const int code = input_open(c->session, "--head-weights", c->arguments->head_weights, &c->queries.weight_input);
  c->queries.head_weights = c->queries.weight_input.array; /* its shape is checked where it is used */
  return code;
}

/* The row of a head that differs most from that of the runner, in parts of the root mean square norm of the head's. */
static pith_status differ_most(pith_context *context, const pith_array *ours, const pith_array *theirs,
                               const char *what, float *room, size_t *row, double *most) {
  const size_t n = ours->shape[0], d = ours->shape[1];
  float *a = room, *b = room + n * d;
  double norm = 0, largest = -1;
  PITH_TRY(pith_array_to_f32(context, ours, what, 1, a));
  PITH_TRY(pith_array_to_f32(context, theirs, what, 1, b));
  for (size_t i = 0; i < n; i++) {
    double difference = 0;
    for (size_t j = i * d; j < (i + 1) * d; j++) {
      difference += (a[j] - b[j]) * (double)(a[j] - b[j]);
      norm += (double)a[j] * a[j];
    }
    if (difference <= largest) continue;
    largest = difference;
    *row = i;
  }
  *most = norm > 0 ? sqrt(largest * (double)n / norm) : largest;
  return PITH_OK;
}

/* Keys and values that our runner gives for the tokens of the file must be those in the file, but for rounding. */
static int check_rows(compression *c) {
  const double most = 0.5; /* engines differ by a tenth in the worst row of a model of four bits a weight */
  const size_t n = c->state->cells, heads = c->heads.kv_heads;
  if (n != c->rows.length) return EXIT_DONE; /* rewritten before: rows are not those of tokens */
  pith_array keys, values;
  pith_context *context = c->session->context;
  pith_status status = lm_session_arrays(context, c->queries.session, &keys, &values, NULL);
  float *room = allocate_zero(2 * n * pith_max_size(c->heads.key_size, c->heads.value_size), sizeof *room);
  int code = EXIT_DONE;
  for (size_t i = 0; i < 2 * c->heads.layers * heads && status >= 0 && !code; i++) {
    const bool of_keys = i % 2 == 0;
    const size_t layer = i / 2 / heads, head = i / 2 % heads;
    const pith_array ours = pith_array_head(of_keys ? &keys : &values, layer, head),
                     theirs = pith_array_head(of_keys ? &c->rows.keys : &c->rows.values, layer, head);
    size_t row = 0;
    double difference = 0;
    status = differ_most(context, &ours, &theirs, of_keys ? "keys of the state" : "values of the state", room, &row,
                         &difference);
    if (status < 0 || difference <= most) continue;
    code = session_error(
        c->session, EXIT_INPUT,
        "%s: %s at position %zu in layer %zu, head %zu differ by %.0f %% from what %s gives for its "
        "tokens: another model, other tokens (llama-server packs them: give --queries or --calibration), or "
        "numbers that were changed",
        c->session->operands[1], of_keys ? "keys" : "values", row, layer, head, 100 * difference, c->arguments->model);
  }
  free(room);
  return status < 0 ? session_fail(c->session, status) : code;
}

/* Positions are numbers of tokens, unless a server has put something else in their place. */
static int recompute(compression *c) {
  const size_t count = c->rows.length;
  uint32_t *tokens = allocate_zero(count, sizeof *tokens);
  int code = EXIT_DONE;
  if (c->state->token_count < count)
    code = session_error(c->session, EXIT_INPUT,
                         "%s: %zu tokens for %zu positions, so that the prompt cannot be read again; give --queries or "
                         "--calibration",
                         c->session->operands[1], c->state->token_count, count);
  for (size_t i = 0; i < count && !code; i++) tokens[i] = (uint32_t)pith_llama_token(c->state, i);
  if (!code) code = llama_record(c->session, tokens, count, &c->queries);
  if (!code) code = check_rows(c);
  free(tokens);
  return code;
}

static int find_queries(compression *c) {
  const llama_arguments *a = c->arguments;
  if (c->cells >= c->state->cells || !engine_asks(a)) {
    c->queries.source = "none";
    return EXIT_DONE;
  }
  int code = a->queries       ? open_recorded(c, "--queries", a->queries, "recorded")
             : a->calibration ? open_recorded(c, "--calibration", a->calibration, "calibration")
                              : recompute(c);
  if (!code) code = open_weights(c);
  if (code) return code;
  c->asked = pith_llama_queries(&c->rows, &c->queries.array, &c->query_start);
  if (c->asked.shape[2] >= LEAST_QUERIES) return EXIT_DONE;
  return session_error(c->session, EXIT_INPUT,
                       "%zu tokens of queries can be used, %d are needed: those before position %zu cannot, since %s "
                       "has %zu cells for %zu positions",
                       c->asked.shape[2], LEAST_QUERIES, c->rows.length - c->state->cells, c->session->operands[1],
                       c->state->cells, c->rows.length);
}

/* ---- The size ---- */

static int find_cells(compression *c) {
  const llama_arguments *a = c->arguments;
  const size_t have = c->state->cells, fixed = pith_llama_state_bytes(c->state, 0),
               each = pith_llama_state_bytes(c->state, 1) - fixed;
  if (a->kl > 0) return EXIT_DONE; /* later, by the queries */
  c->cells = a->cells;
  if (a->ratio > 0) c->cells = (size_t)llround(a->ratio * (double)have);
  if (a->bytes > 0) c->cells = a->bytes > fixed ? (a->bytes - fixed) / each : 0;
  if (c->cells > have) c->cells = have;
  if (c->cells > 0) return EXIT_DONE;
  return session_error(c->session, EXIT_INPUT, "%s: no cell is left; one takes %s, and the rest of the file %s",
                       a->bytes ? "--bytes" : "--ratio", text_bytes(each).at, text_bytes(fixed).at);
}

/* ---- The work ---- */

static int open_all(compression *c) {
  pith_context *context = c->session->context;
  pith_status status = pith_llama_state_open(context, c->session->operands[1], &c->state);
  if (status >= 0) status = pith_gguf_open(context, c->arguments->model, &c->model);
  if (status >= 0) status = pith_llama_heads_of(context, c->model, &c->heads);
  if (status >= 0) status = pith_llama_state_fits(context, c->state, c->model, &c->heads);
  if (status >= 0) status = pith_llama_rows_open(context, c->state, &c->heads, &c->rows);
  if (status < 0) return session_fail(c->session, status);
  if (c->heads.rope_scaled)
    session_warn(c->session,
                 "%s scales its rotary frequencies, which is not taken into account where queries are turned to later "
                 "positions",
                 c->arguments->model);
  return EXIT_DONE;
}

static pith_status compress(compression *c) {
  const llama_arguments *a = c->arguments;
  pith_compress_options options = a->options;
  if (c->queries.head_weights.data) options.head_weights = &c->queries.head_weights;
  if (a->kl > 0)
    PITH_TRY(pith_llama_aim(c->session->context, &c->heads, &c->rows, &c->asked, c->query_start, &options, a->kl,
                            &c->cells, &c->matter));
  return pith_llama_compress(c->session->context, a->output, c->state, &c->heads, &c->rows, c->cells,
                             c->queries.array.data ? &c->asked : NULL, c->query_start, &options, &c->summary,
                             &c->filled);
}

static void mean_errors(compression *c, double *error, double *fold) {
  const size_t heads = c->heads.layers * c->heads.kv_heads;
  *error = *fold = 0;
  for (size_t i = 0; i < heads; i++) {
    pith_head_view view;
    if (pith_summary_head(c->session->context, c->summary, i / c->heads.kv_heads, i % c->heads.kv_heads, &view) < 0)
      continue;
    *error += view.probe_error / (double)heads;
    *fold += view.fold_error / (double)heads;
  }
}

static int report(compression *c) {
  const pith_summary_info info = pith_summary_describe(c->summary);
  const size_t before = c->state->file->size,
               after = pith_llama_state_bytes(c->state, info.points); /* the largest head's */
  double error = NAN, fold = NAN;
  mean_errors(c, &error, &fold);
  if (c->session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "engine", json_string(info.engine));
    json_object_set_new(object, "queries", json_string(c->queries.source));
    json_object_set_new(object, "query_seconds", json_number(c->queries.seconds));
    json_object_set_new(object, "cells_before", json_count(c->state->cells));
    json_object_set_new(object, "cells", json_count(info.points));
    json_object_set_new(object, "filled", json_count(c->filled));
    json_object_set_new(object, "file_bytes_before", json_count(before));
    json_object_set_new(object, "file_bytes", json_count(after));
    json_object_set_new(object, "ratio", json_number((double)info.points / (double)c->state->cells));
    json_object_set_new(object, "probe_error", json_number(error));
    json_object_set_new(object, "fold_error", json_number(fold));
    json_object_set_new(object, "predicted_kl", json_number(info.predicted_kl));
    if (c->matter > 0) json_object_set_new(object, "heads_that_matter", json_count(c->matter));
    json_object_set_new(object, "seed", json_count((size_t)info.seed));
    json_object_set_new(object, "seconds", json_number(c->seconds));
    json_print(object, c->session->out);
  } else if (!c->session->common->quiet) {
    FILE *out = c->session->out;
    fprintf(out, "%zu of %zu cells in every head, by %s; %s of %s\n", info.points, c->state->cells, info.engine,
            text_bytes(after).at, text_bytes(before).at);
    if (c->filled > 0) fprintf(out, "%zu cells fill up heads that need fewer points\n", c->filled);
    if (c->queries.array.data)
      fprintf(out, "queries: %s (%.1f s); mean error over those held out %.4g, %.2g of it by folding weights\n",
              c->queries.source, c->queries.seconds, error, fold);
    if (c->matter > 0)
      fprintf(out, "%zu of %zu heads make most of the loss, and were asked how many cells it takes\n", c->matter,
              c->heads.layers * c->heads.kv_heads);
    if (!isnan(info.predicted_kl))
      fprintf(out, "predicted KL %.4g%s\n", info.predicted_kl,
              c->arguments->calibration ? "; queries of another text promise several times too little" : "");
    fprintf(out, "%s, %.1f s\n", c->arguments->output, c->seconds);
  }
  return EXIT_DONE;
}

static int check_usage(const cli_command *command, const llama_arguments *a) {
  const int sizes = (a->ratio > 0) + (a->cells > 0) + (a->bytes > 0) + (a->kl > 0);
  if (!a->model) return usage_error(command, "compress: --model M.gguf is missing");
  if (!a->output) return usage_error(command, "compress: -o OUT is missing");
  if (sizes != 1) return usage_error(command, "compress: give one of --ratio, --cells, --bytes and --kl");
  if (a->kl > 0 && !engine_asks(a)) return usage_error(command, "compress: --kl needs an engine that looks at queries");
  if (a->kl > 0 && (a->queries || a->calibration) && !a->head_weights)
    return usage_error(command, "compress: --kl beside --queries or --calibration needs --head-weights too");
  if (a->queries && a->calibration) return usage_error(command, "compress: give --queries or --calibration, not both");
  if (a->head_weights && !a->queries && !a->calibration)
    return usage_error(command,
                       "compress: --head-weights goes with --queries or --calibration; our runner has its own");
  return EXIT_DONE;
}

int llama_compress(cli_session *session) {
  compression c = {.session = session, .arguments = session->arguments};
  int code = check_usage(session->command, c.arguments);
  if (!code) code = session_output(session, "-o", c.arguments->output);
  if (code) return code;
  code = open_all(&c);
  if (!code) code = find_cells(&c);
  if (!code) code = find_queries(&c);
  if (!code) {
    const double started = seconds_now();
    const pith_status status = compress(&c);
    c.seconds = seconds_now() - started;
    code = status < 0 ? session_fail(session, status) : report(&c);
  }
  pith_summary_free(c.summary);
  llama_queries_free(&c.queries);
  pith_llama_rows_close(session->context, &c.rows);
  pith_gguf_close(c.model);
  pith_llama_state_close(c.state);
  return code;
}

/* ---- calibrate ---- */

static int encode(cli_session *session, lm_tokens *tokens) {
  const llama_arguments *a = session->arguments;
  lm_model *model = NULL;
  lm_tokenizer *tokenizer = NULL;
  char *text = NULL;
  size_t size = 0;
  int code = lm_read_file(session, "--text", a->text, &text, &size);
  if (code) return code;
  pith_status status = lm_model_load(session->context, a->model, &model);
  if (status >= 0)
    status =
        lm_tokenizer_create(session->context, lm_model_gguf(model), lm_model_describe(model).vocabulary, &tokenizer);
  if (status >= 0) status = lm_tokenizer_encode(session->context, tokenizer, text, size, LM_ENCODE_BEGIN, tokens);
  if (status < 0) code = session_fail(session, status);
  lm_tokenizer_free(tokenizer);
  lm_model_free(model);
  free(text);
  return code;
}

int llama_calibrate(cli_session *session) {
  enum { LEAST = 32 };
  const llama_arguments *a = session->arguments;
  if (!a->model) return usage_error(session->command, "calibrate: --model M.gguf is missing");
  if (!a->text) return usage_error(session->command, "calibrate: --text FILE is missing");
  if (!a->output) return usage_error(session->command, "calibrate: -o F.npy is missing");
  llama_queries queries = {0};
  lm_tokens tokens = {0};
  int code = session_output(session, "-o", a->output);
  if (!code && a->head_weights) code = session_output(session, "--head-weights", a->head_weights);
  if (!code) code = encode(session, &tokens);
  const size_t count = tokens.count < a->tokens ? tokens.count : a->tokens;
  if (!code && count < LEAST)
    code = session_error(session, EXIT_INPUT, "--text %s: %zu tokens; %d are needed", a->text, count, LEAST);
  if (!code) code = llama_record(session, tokens.id, count, &queries);
  if (!code) {
    pith_status status = pith_npy_write(session->context, a->output, &queries.array);
    if (status >= 0 && a->head_weights)
      status = pith_npy_write(session->context, a->head_weights, &queries.head_weights);
    if (status < 0) code = session_fail(session, status);
  }
  if (!code && session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "tokens", json_count(count));
    json_object_set_new(object, "seconds", json_number(queries.seconds));
    json_print(object, session->out);
  } else if (!code && !session->common->quiet) {
    fprintf(session->out, "queries of %zu tokens, %.1f s; %s\n", count, queries.seconds, a->output);
  }
  lm_tokens_free(session->context, &tokens);
  llama_queries_free(&queries);
  return code;
}
