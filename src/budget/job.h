/* job.h - one head on its way from rows to a summary: model, exact rows, engine, points, certificates. */
#ifndef PITH_SRC_JOB_H
#define PITH_SRC_JOB_H

#include "pith/compress.h"
#include "summary/engine.h"
#include "summary/summary.h"

/* Mean squared error, and the standard error of that mean. */
typedef struct pith_met_error {
  double squared, deviation;
} pith_met_error;

/* What is to be compressed, and how. */
typedef struct pith_heads {
  const pith_array *keys, *values, *queries; /* queries: NULL without */
  const pith_compress_options *options;
  const pith_engine *engine;
  const float *weight; /* (layers, heads): head weights; NULL: none were given */
  size_t layers, heads, group, n, d, dv;
} pith_heads;

/* Turned queries, the keys near them, and the exact answers of all rows and near keys together. */
typedef struct pith_asked {
  size_t count;
  const float *queries;  /* (count, d) */
  const float *log_mass; /* (count): of the near keys */
  const float *answer;   /* (count, dv): of the near keys alone */
  float *met;            /* (count, dv) */
} pith_asked;

typedef struct pith_job {
  const pith_compress_options *options;
  const pith_engine *engine;
  size_t layer, head;
  pith_problem problem;
  float *keys, *values;
  uint8_t *exact;
  pith_query_model *model;
  float *probe_answers;        /* (probes, dv): the exact ones */
  pith_asked probes, choosers; /* sizes are chosen by the choosers, so that they can certify nothing */
  void *state;                 /* the engine's, prepared for `most` points; NULL before */
  size_t most;
} pith_job;

/* Reads the rows of head `index` (layer * heads + head) and builds its query model. `choose`: some recorded queries
 * are left out of the fit to choose by. `options` may differ from those of the heads, and must outlive the job. */
pith_status pith_job_open(pith_context *context, const pith_heads *heads, const pith_compress_options *options,
                          bool choose, size_t index, pith_job **out);
void pith_job_close(pith_context *context, pith_job *job);

/* Rows kept exactly; a summary has at least as many points (all rows when there are fewer). */
size_t pith_job_exact(const pith_job *job);

/* Prepares the engine for summaries of up to `points` points; call once with the largest size. */
pith_status pith_job_prepare(pith_context *context, pith_job *job, size_t points);

/* Writes the head's summary of `points` points, with its errors and certificates. */
pith_status pith_job_take(pith_context *context, pith_job *job, size_t points, pith_dtype store, pith_summary *summary);

/* Errors over the choosers of the same points, not refined, in each of `count` stores. Nothing is kept. */
pith_status pith_job_try(pith_context *context, pith_job *job, size_t points, const pith_dtype *stores, size_t count,
                         pith_met_error *errors);

/* Answers of f32 rows to queries that see the keys near them too: as a model meets them, where probe_answers are those
 * of the rows alone. */
pith_status pith_job_meet(pith_context *context, const pith_job *job, const pith_asked *asked, const float *keys,
                          const float *values, const float *log_weight, size_t rows, float *answers);

/* Error of a stored head, so met; NaN without queries. */
pith_status pith_job_met_error(pith_context *context, const pith_job *job, const pith_asked *asked,
                               const pith_head_view *view, pith_met_error *error);

/* Makes all heads within a total of bytes, which is spent over them (even: each head by itself gets an equal part).
 * Each head's options are tried on probes held out for that. Less than the bytes of a point is left over, and what an
 * engine has no use for, unless all heads have three quarters of their rows. */
pith_status pith_spread(pith_context *context, const pith_heads *heads, size_t bytes, bool even, pith_summary *summary);

/* Notes a made head's rho, and its part of predicted_kl if there are head weights; and adds up those of all heads. */
pith_status pith_head_finish(pith_context *context, const pith_heads *heads, const pith_job *job,
                             pith_summary *summary);
void pith_heads_conclude(const pith_heads *heads, pith_summary *summary);

#endif
