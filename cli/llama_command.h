/* llama_command.h - what the words of `pith llama` share. */
#ifndef PITH_CLI_LLAMA_COMMAND_H
#define PITH_CLI_LLAMA_COMMAND_H

#include "io/llama_rewrite.h"
#include "lm/lm.h"
#include "report.h"

typedef struct llama_arguments {
  common_arguments common;
  const char *model, *queries, *calibration, *head_weights, *text, *output;
  double ratio, kl;
  size_t cells, bytes, tokens;
  pith_compress_options options;
} llama_arguments;

/* Queries of all layers and heads, (layers, query heads, tokens, size), row r asked from position r. */
typedef struct llama_queries {
  const char *source; /* for the report */
  cli_input input, weight_input;
  lm_model *model;
  lm_session *session;
  pith_array array;
  float *own_weights;      /* of our runner; NULL: it read nothing */
  pith_array head_weights; /* (layers, kv heads); data NULL: not known */
  double seconds;
} llama_queries;

/* Reads tokens with our runner and records its queries. Yields an exit code, as all of these do. */
int llama_record(cli_session *session, const uint32_t *tokens, size_t count, llama_queries *out);
void llama_queries_free(llama_queries *queries);

int llama_inspect(cli_session *session);
int llama_compress(cli_session *session);
int llama_calibrate(cli_session *session);

#endif
