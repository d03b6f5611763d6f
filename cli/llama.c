/* llama.c - pith llama: prompts that llama.cpp has saved. */
#include <stdlib.h>
#include <string.h>

#include "llama_command.h"

#define FIELD(member) .offset = offsetof(llama_arguments, member)

static const cli_option file_options[] = {
    {"model", 0, OPTION_FILE, "M.gguf", "the model that the state was saved with", FIELD(model)},
    {"queries", 0, OPTION_FILE, "Q.npy",
     "compress: queries recorded while the prompt was read, (layers, query heads, tokens, size), the first at position "
     "0 (default: our runner reads the tokens in the file again, where it knows the architecture)",
     FIELD(queries)},
    {"calibration", 0, OPTION_FILE, "F.npy", "compress: queries of another text, as pith llama calibrate writes them",
     FIELD(calibration)},
    {"head-weights", 0, OPTION_FILE, "W.npy",
     "compress: with --queries or --calibration, what a unit of squared error costs in each head, (layers, kv heads), "
     "for the predicted KL; calibrate: written there as well",
     FIELD(head_weights)},
    {"text", 0, OPTION_FILE, "FILE", "calibrate: text like that which will be read", FIELD(text)},
    {"tokens", 0, OPTION_COUNT, "N", "calibrate: tokens of it that are read, at most (default 4096)", FIELD(tokens),
     .least = 32},
    {"output", 'o', OPTION_FILE, "OUT", "compress: the new state; calibrate: the queries, a .npy", FIELD(output)},
    {.name = NULL}};

static const cli_option size_options[] = {
    {"ratio", 0, OPTION_REAL, "R", "share of the cells that is kept: 0.25 or 1/4; 1 writes them all as they are",
     FIELD(ratio), .most = 1, .open = false},
    {"cells", 0, OPTION_COUNT, "N", "cells that are kept", FIELD(cells), .least = 1},
    {"bytes", 0, OPTION_SIZE, "SIZE", "size of the new file at most: 4096, 64K, 8MiB", FIELD(bytes), .least = 1},
    {"kl", 0, OPTION_REAL, "AIM",
     "as few cells as a predicted KL of at most AIM takes, by the heads that make most of it", FIELD(kl), .most = 10,
     .open = true},
    {.name = NULL}};

static const cli_option method_options[] = {
    {"engine", 0, OPTION_NAME, "NAME", "how points are chosen (default nystrom); names below", FIELD(options.engine),
     .list = pith_engine_name, .list_help = pith_engine_help},
    {"sinks", 0, OPTION_COUNT, "N", "first tokens kept exactly (default 4)", FIELD(options.sinks)},
    {"window", 0, OPTION_COUNT, "N", "last tokens kept exactly (default 16)", FIELD(options.window), .least = 1},
    {"horizon", 0, OPTION_COUNT, "N", "queries will be asked from the next N positions (default 1024)",
     FIELD(options.horizon), .least = 1},
    {"samples", 0, OPTION_COUNT, "N", "queries that the fit uses per head, 0 for all (default 0)",
     FIELD(options.samples)},
    {"refine", 0, OPTION_COUNT, "N", "nystrom: gradient steps on keys and values, 0 for none (default 300)",
     FIELD(options.refine)},
    {.name = NULL}};

static const cli_group groups[] = {{"Files", file_options, 0},
                                   {"Size (compress: give one)", size_options, 0},
                                   {"Method", method_options, 0},
                                   {"Common", common_options, 0},
                                   {.title = NULL}};

static void defaults(void *arguments) {
  llama_arguments *chosen = arguments;
  chosen->tokens = 4096;
  pith_compress_options_init(&chosen->options);
}

static int run(cli_session *session) {
  static const struct {
    const char *word;
    size_t operands;
    int (*run)(cli_session *session);
  } words[] = {{"inspect", 2, llama_inspect}, {"compress", 2, llama_compress}, {"calibrate", 1, llama_calibrate}};
  ((llama_arguments *)session->arguments)->options.seed = session->common->seed;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    if (strcmp(session->operands[0], words[i].word) != 0) continue;
    if (session->operand_count < words[i].operands)
      return usage_error(session->command, "%s: the state file is missing", words[i].word);
    if (session->operand_count > words[i].operands)
      return usage_error(session->command, "%s: unexpected argument '%s'", words[i].word,
                         session->operands[words[i].operands]);
    return words[i].run(session);
  }
  return usage_error(session->command, "unknown word '%s'; there are: inspect, compress, calibrate",
                     session->operands[0]);
}

const cli_command command_llama = {
    .name = "llama",
    .summary = "shrink prompts that llama.cpp has saved",
    .usage =
        "inspect STATE [--json]\n"
        "compress STATE --model~M.gguf (--ratio~R~| --cells~N~| --bytes~SIZE~| --kl~AIM) "
        "[--queries~Q.npy~| --calibration~F.npy] [OPTION]... -o~OUT\n"
        "calibrate --model~M.gguf --text~FILE [OPTION]... -o~F.npy",
    .description =
        "llama.cpp saves what it has read as a sequence state (llama_state_seq_save_file, also the slots of\n"
        "llama-server) or as a session (llama_state_save_file, --prompt-cache). compress writes such a file with\n"
        "fewer cells, in which each head has keys and values of its own, so that the same llama.cpp, unmodified,\n"
        "loads it and goes on from there: a smaller file, less memory, faster decoding. What is kept depends on what\n"
        "is asked: by queries recorded when the prompt was read, else by those that our own runner gives for the\n"
        "tokens in the file, else by those of another text (calibrate). inspect says what a file holds.\n"
        "Files of llama.cpp v0.5.0 (sequence version 3, session version 10) with caches of F32, F16 and Q8_0.",
    .examples =
        "  A prompt of 3072 tokens in an eighth of the cells:\n"
        "    pith llama compress prompt.state --model M.gguf --ratio 1/8 -o small.state\n"
        "  What is in it:\n"
        "    pith llama inspect small.state\n"
        "  A model that our runner does not know, or a file without plain tokens:\n"
        "    pith llama calibrate --model M.gguf --text notes.txt -o queries.npy\n"
        "    pith llama compress slot.bin --model M.gguf --calibration queries.npy --ratio 1/4 -o small.bin\n",
    .groups = groups,
    .arguments_size = sizeof(llama_arguments),
    .defaults = defaults,
    .least_operands = 1,
    .most_operands = 2,
    .operand = "word (inspect, compress or calibrate)",
    .run = run};

/* ---- inspect ---- */

static const char *kind_name(const pith_llama_state *state) {
  return state->kind == PITH_LLAMA_SEQUENCE ? "sequence" : "session";
}

static unsigned version_of(const pith_llama_state *state) {
  return state->kind == PITH_LLAMA_SEQUENCE ? PITH_LLAMA_SEQUENCE_VERSION : PITH_LLAMA_SESSION_VERSION;
}

static void inspect_json(cli_session *session, const pith_llama_state *state, int32_t least, int32_t most) {
  const pith_llama_layer *layer = state->layer;
  json_t *object = json_report();
  json_object_set_new(object, "kind", json_string(kind_name(state)));
  json_object_set_new(object, "version", json_integer(version_of(state)));
  if (state->kind == PITH_LLAMA_SESSION)
    json_object_set_new(object, "architecture",
                        json_string(pith_quote(state->architecture.text, state->architecture.length).text));
  json_object_set_new(object, "tokens", json_count(state->token_count));
  json_object_set_new(object, "streams", json_count(state->streams));
  json_object_set_new(object, "sequences", json_count(state->sequences));
  json_object_set_new(object, "cells", json_count(state->cells));
  json_object_set_new(object, "first_position", json_integer(least));
  json_object_set_new(object, "last_position", json_integer(most));
  json_object_set_new(object, "layers", json_count(state->layers));
  json_object_set_new(object, "key_type", json_string(pith_llama_type_name(layer->key_type)));
  json_object_set_new(object, "value_type", json_string(pith_llama_type_name(layer->value_type)));
  json_object_set_new(object, "key_width", json_count(layer->key_width));
  json_object_set_new(object, "value_width", json_count(layer->value_width));
  json_object_set_new(object, "transposed", json_boolean(state->transposed));
  json_object_set_new(object, "file_bytes", json_count(state->file->size));
  json_object_set_new(object, "cell_bytes",
                      json_count(pith_llama_state_bytes(state, 1) - pith_llama_state_bytes(state, 0)));
  json_print(object, session->out);
}

static void inspect_text(cli_session *session, const pith_llama_state *state, int32_t least, int32_t most) {
  const pith_llama_layer *layer = state->layer;
  FILE *out = session->out;
  fprintf(out, "%s of llama.cpp, version %u, %s", kind_name(state), version_of(state),
          text_bytes(state->file->size).at);
  if (state->kind == PITH_LLAMA_SESSION)
    fprintf(out, ", architecture %s", pith_quote(state->architecture.text, state->architecture.length).text);
  fprintf(out, "\n%zu tokens; %zu cells at positions %d to %d", state->token_count, state->cells, (int)least,
          (int)most);
  if (state->sequences != 1) fprintf(out, " of %zu sequences", state->sequences);
  if (state->streams != 1) fprintf(out, ", stream %zu of %zu", state->stream, state->streams);
  if (state->cells <= (size_t)most)
    fprintf(out, "; fewer cells than positions: it was rewritten, or tokens were removed");
  fprintf(out, "\n%zu layers; keys of %zu numbers in %s, values of %zu in %s%s; %s a cell\n", state->layers,
          layer->key_width, pith_llama_type_name(layer->key_type), layer->value_width,
          pith_llama_type_name(layer->value_type), state->transposed ? ", transposed" : "",
          text_bytes(pith_llama_state_bytes(state, 1) - pith_llama_state_bytes(state, 0)).at);
}

int llama_inspect(cli_session *session) {
  pith_llama_state *state = NULL;
  const pith_status status = pith_llama_state_open(session->context, session->operands[1], &state);
  if (status < 0) return session_fail(session, status);
  int32_t least = state->positions[0], most = state->positions[0];
  for (size_t i = 1; i < state->cells; i++) {
    if (state->positions[i] < least) least = state->positions[i];
    if (state->positions[i] > most) most = state->positions[i];
  }
  if (session->common->json)
    inspect_json(session, state, least, most);
  else if (!session->common->quiet)
    inspect_text(session, state, least, most);
  pith_llama_state_close(state);
  return EXIT_DONE;
}
