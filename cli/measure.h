/* measure.h - how wrong summaries are on given queries, head by head: what compare reports. */
#ifndef PITH_CLI_MEASURE_H
#define PITH_CLI_MEASURE_H

#include "report.h"

/* Keys, values and queries with the exact answers. Rows that came after the keys, if any, are seen exactly by all:
 * the last query stands at the last of them and sees those up to its own position, as in a model that goes on
 * after its prompt was compressed. */
typedef struct cli_trial {
  pith_array keys, values, queries;
  pith_array all_keys, all_values; /* keys and values, then the later rows; unused without any */
  size_t later;                    /* rows; 0: none */
  double scale;
  size_t layers, kv_heads, query_heads, rows, d, dv, n;
  float *exact, *answer; /* (layers, query_heads, rows, dv); answer is room for those of a summary */
} cli_trial;

/* Takes keys, values, queries, the later rows and scale (0: the default) from *trial, and fills in the rest. */
int trial_open(cli_session *session, cli_trial *trial);
void trial_close(cli_trial *trial);

/* Largest query norm after scaling. */
double trial_rho(cli_session *session, const cli_trial *trial);

/* One kv head, over all its query heads; or all heads together. */
typedef struct cli_measure {
  double mean, max, rms;
  double relative; /* mean over query heads of (mean error / mean norm of the exact output) */
  double within;   /* share of queries that err at most the probe bound; NaN without one */
  double worst;    /* largest error found inside the ball; NaN when not searched */
} cli_measure;

typedef struct cli_measures {
  cli_measure all;
  size_t heads, worst;              /* worst: the kv head with the largest relative error */
  double *probe_bound, *ball_bound; /* of each kv head; infinite where nothing is said */
  cli_measure *head;
} cli_measures;

/* Asks a summary all queries of the trial. */
int measure_summary(cli_session *session, const cli_trial *trial, const pith_summary *summary, cli_measures *out);
void measures_free(cli_measures *measures);

/* Searches kv head `head` for its worst query inside the ball of radius rho. */
int search_worst(cli_session *session, const cli_trial *trial, const pith_summary *summary, size_t head, double rho,
                 size_t starts, cli_measures *measures);

/* Adds mean_error, max_error, rms_error, relative_error and probe_share to an object. */
void json_measure(json_t *object, const cli_measure *measure);

#endif
