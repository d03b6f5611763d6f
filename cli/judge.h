/* judge.h - engines beside each other: built at several sizes from the same rows, asked the same queries. */
#ifndef PITH_CLI_JUDGE_H
#define PITH_CLI_JUDGE_H

#include "measure.h"
#include "plot.h"

enum { MOST_ENGINES = 16, MOST_SIZES = 16 };

typedef struct judge_size {
  size_t points; /* 0: ratio counts */
  double ratio;
  char label[24];
} judge_size;

typedef struct judge_request {
  const char *engine[MOST_ENGINES]; /* names from pith_engine_name */
  size_t engines;
  judge_size size[MOST_SIZES];
  size_t sizes;
  const pith_array *recorded; /* queries that the engines may know; NULL: none */
  pith_compress_options options;
} judge_request;

/* Read "all" or "nystrom,uniform", and "1/4,1/8,64" (ratios, or whole numbers of points); EXIT_USAGE after having
 * said what is wrong. */
int judge_parse_engines(const cli_command *command, const char *text, judge_request *request);
int judge_parse_sizes(const cli_command *command, const char *text, judge_request *request);

typedef struct judge_row {
  const char *engine;
  judge_size size;
  char *reason; /* why there is no summary; NULL: there is one */
  size_t points, bytes;
  double ratio, seconds;
  pith_certificate certificate;
  cli_measures measures;
} judge_row;

typedef struct cli_judge {
  judge_row *row;
  size_t rows;
} cli_judge;

int judge_run(cli_session *session, const cli_trial *trial, const judge_request *request, cli_judge *out);
void judge_free(cli_judge *judge);

void judge_print(cli_session *session, const cli_trial *trial, const cli_judge *judge);
/* Relative error of every head, one column for each engine and size. */
void judge_print_heads(cli_session *session, const cli_trial *trial, const cli_judge *judge);
json_t *judge_json(const cli_trial *trial, const cli_judge *judge, bool per_head);
/* Error against points, a line for each engine; certificates of the default engine as dashed lines. */
void judge_plot(const cli_judge *judge, cli_plot *plot);

#endif
