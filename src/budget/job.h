/* job.h - one head on its way from rows to a summary: model, exact rows, engine, points, certificates. */
#ifndef PITH_SRC_JOB_H
#define PITH_SRC_JOB_H

#include "pith/compress.h"
#include "summary/engine.h"
#include "summary/summary.h"

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

/* Reads the head's rows and builds its query model. `choose`: as many probes again are held out to choose by.
 * The options must outlive the job. */
pith_status pith_job_open(pith_context *context, const pith_array *keys, const pith_array *values,
                          const pith_array *queries, const pith_compress_options *options, const pith_engine *engine,
                          bool choose, size_t layer, size_t head, pith_job **out);
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

/* Answers of f32 rows to all probes, each of which sees the keys near it too: as a model meets them, where
 * probe_answers are those of the rows alone. */
pith_status pith_job_meet(pith_context *context, const pith_job *job, const float *keys, const float *values,
                          const float *log_weight, size_t rows, float *answers);

/* Mean squared error of a stored head, so met, over the first `count` probes; NaN without probes. */
pith_status pith_job_met_error(pith_context *context, const pith_job *job, const pith_head_view *view, size_t count,
                               double *squared);

/* Writes log-weights into keys: k += log w * u with <q, u> = 1 on average over the fit queries. */
pith_status pith_fold_weights(pith_context *context, const pith_query_model *model, float *keys, float *log_weight,
                              size_t points);

#endif
