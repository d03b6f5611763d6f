/* sparsity.h - what the two files of `pith sparsity` share. */
#ifndef PITH_CLI_SPARSITY_H
#define PITH_CLI_SPARSITY_H

#include "report.h"

typedef struct sparsity_arguments {
  common_arguments common;
  const char *summary, *keys, *values, *queries, *plot;
  int causal;
  double eps, scale;
  size_t samples;
} sparsity_arguments;

/* The experiments on Gaussian logits; yields an exit code. */
int sparsity_experiment(cli_session *session);

#endif
