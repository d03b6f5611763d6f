/* engine_options.c - the options of pith_compress_options that compress and compare share. */
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* BASE[:pairs|:halves] */
static bool rope_parse(const char *text, void *group) {
  pith_compress_options *options = group;
  char base[32];
  size_t length = strcspn(text, ":");
  if (length == 0 || length >= sizeof base) return false;
  memcpy(base, text, length);
  base[length] = '\0';
  pith_rope rope = PITH_ROPE_PAIRS;
  if (text[length] == ':') {
    const char *manner = text + length + 1;
    if (!strcmp(manner, "halves"))
      rope = PITH_ROPE_HALVES;
    else if (strcmp(manner, "pairs") != 0)
      return false;
  }
  double value = 0;
  if (!number_parse(base, &value) || value <= 1) return false;
  options->rope = rope;
  options->rope_base = value;
  return true;
}

static const cli_choice store_choices[] = {{"f32", PITH_F32}, {"f16", PITH_F16}, {"bf16", PITH_BF16},
                                           {"q8", PITH_Q8},   {"q4", PITH_Q4},   {"auto", PITH_STORE_AUTO},
                                           {NULL, 0}};
static const cli_choice model_choices[] = {
    {"ball", PITH_QUERIES_BALL}, {"gaussian", PITH_QUERIES_GAUSSIAN}, {"samples", PITH_QUERIES_SAMPLES}, {NULL, 0}};

#define FIELD(member) .offset = offsetof(pith_compress_options, member)

const cli_option keep_options[] = {
    {"store", 0, OPTION_CHOICE, "TYPE",
     "type of stored keys and values: f32, f16, bf16, q8 or q4 (integers of 8 or 4 bits, 32 to a scale), or auto: of "
     "f16, q8 and q4 what is best for each head at its bytes, by the recorded queries (default f16)",
     FIELD(store), .choices = store_choices},
    {"sinks", 0, OPTION_COUNT, "N", "first rows kept exactly (default 4)", FIELD(sinks)},
    {"window", 0, OPTION_COUNT, "N", "last rows kept exactly (default 16)", FIELD(window)},
    {"outliers", 0, OPTION_COUNT, "N|auto", "rows of outstanding kernel weight kept exactly (default 0)",
     FIELD(outliers), .word = "auto", .word_value = PITH_OUTLIERS_AUTO},
    {"fold-weights", 0, OPTION_FLAG, NULL, "write the weights into the keys, for engines that know no weights",
     FIELD(fold_weights)},
    {"refine", 0, OPTION_COUNT, "N",
     "nystrom with recorded queries: gradient steps on keys, values and weights, 0 for none (default 300)",
     FIELD(refine)},
    {"scale", 0, OPTION_REAL, "S", "softmax scale (default 1/sqrt(d))", FIELD(scale), .open = true},
    {.name = NULL}};

const cli_option query_options[] = {
    {"query-model", 0, OPTION_CHOICE, "MODEL",
     "what is known of the queries to come: ball (any up to the norm rho), gaussian (their moments) or samples (the "
     "recorded ones, turned to the positions they will be asked from); default: samples with queries, else ball",
     FIELD(query_model), .choices = model_choices},
    {"rho", 0, OPTION_REAL, "R",
     "largest query norm after scaling (default: the largest recorded, or 2 without queries)", FIELD(rho),
     .open = true},
    {"rope", 0, OPTION_CUSTOM, "BASE[:pairs|:halves]",
     "how positions turn vectors: pairs, the default, turns coordinates 2i and 2i+1 (GGUF llama models), halves turns "
     "i "
     "and d/2+i (Hugging Face); without --rope queries are taken as they are",
     .parse = rope_parse, .allowed = "a base above 1, such as 10000, 10000:pairs or 10000:halves"},
    {"query-start", 0, OPTION_COUNT, "P", "position of the first recorded query (default: keys minus queries)",
     FIELD(query_start)},
    {"horizon", 0, OPTION_COUNT, "N", "queries will be asked from the next N positions (default 1024)", FIELD(horizon),
     .least = 1},
    {"samples", 0, OPTION_COUNT, "N", "recorded queries that the fit uses per head, 0 for all (default 0)",
     FIELD(samples)},
    {"probes", 0, OPTION_COUNT, "N", "recorded queries held out per head to measure the error (default 192)",
     FIELD(probes)},
    {"confidence", 0, OPTION_REAL, "C", "of the probe certificate (default 0.9)", FIELD(confidence), .most = 1,
     .open = true},
    {.name = NULL}};
