/* job.h - one head on its way from rows to a summary: model, exact rows, engine, points, certificates. */
#ifndef PITH_SRC_JOB_H
#define PITH_SRC_JOB_H

#include "pith/compress.h"
#include "summary/engine.h"
#include "summary/summary.h"

/* What is to be compressed, and how. */
typedef struct pith_heads {
  const pith_array *keys, *values, *queries; /* queries: NULL without */
  const pith_compress_options *options;
  const pith_engine *engine;
  const float *weight; /* (layers, heads): head weights; NULL: none were given */
  size_t layers, heads, group, n, d, dv;
} pith_heads;

typedef struct pith_job {
  const pith_compress_options *options;
  const pith_engine *engine;
  size_t layer, head;
  pith_problem problem;
  float *keys, *values;
  uint8_t *exact;
  pith_query_model *model;
  float *probe_answers; /* (probes, dv): the exact ones */
  float *met_answers;   /* (probes, dv): those of probes that see their near keys too */
  size_t choosers;      /* the first probes: sizes are chosen by them, so that they can certify nothing */
  void *state;          /* the engine's, prepared for `most` points; NULL before */
  size_t most;
} pith_job;

/* Reads the rows of head `index` (layer * heads + head) and builds its query model. `choose`: as many probes again
 * are held out to choose by. `options` may differ from those of the heads, and must outlive the job. */
pith_status pith_job_open(pith_context *context, const pith_heads *heads, const pith_compress_options *options,
                          bool choose, size_t index, pith_job **out);
void pith_job_close(pith_context *context, pith_job *job);

/* Rows kept exactly; a summary has at least as many points (all rows when there are fewer). */
size_t pith_job_exact(const pith_job *job);

/* Prepares the engine for summaries of up to `points` points; call once with the largest size. */
pith_status pith_job_prepare(pith_context *context, pith_job *job, size_t points);

/* Writes the head's summary of `points` points, with its errors and certificates. */
pith_status pith_job_take(pith_context *context, pith_job *job, size_t points, pith_dtype store, pith_summary *summary);

/* Mean squared error over the choosing probes of the same points in each of `count` stores. Nothing is kept. */
pith_status pith_job_try(pith_context *context, pith_job *job, size_t points, const pith_dtype *stores, size_t count,
                         double *squared);

/* Answers of f32 rows to the first `probes` probes, each of which sees the keys near it too: as a model meets them,
 * where probe_answers are those of the rows alone. */
pith_status pith_job_meet(pith_context *context, const pith_job *job, const float *keys, const float *values,
                          const float *log_weight, size_t rows, size_t probes, float *answers);

/* Mean squared error of a stored head, so met, over the first `count` probes; NaN without probes. */
pith_status pith_job_met_error(pith_context *context, const pith_job *job, const pith_head_view *view, size_t count,
                               double *squared);

/* Makes all heads within a total of bytes, which is spent over them (even: each head by itself gets an equal part).
 * Each head's options are tried on probes held out for that. Less than the bytes of a point is left over, and what an
 * engine has no use for, unless all heads have three quarters of their rows. */
pith_status pith_spread(pith_context *context, const pith_heads *heads, size_t bytes, bool even, pith_summary *summary);

/* Takes what is there of a head into account: rho, and its part of predicted_kl if there are head weights. */
pith_status pith_head_finish(pith_context *context, const pith_heads *heads, const pith_job *job,
                             pith_summary *summary);

#endif
