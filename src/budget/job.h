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
  void *state;          /* the engine's, prepared for `most` points; NULL before */
  size_t most;
} pith_job;

/* Reads the head's rows and builds its query model. */
pith_status pith_job_open(pith_context *context, const pith_array *keys, const pith_array *values,
                          const pith_array *queries, const pith_compress_options *options, const pith_engine *engine,
                          size_t layer, size_t head, pith_job **out);
void pith_job_close(pith_context *context, pith_job *job);

/* Rows kept exactly; a summary has at least as many points (all rows when there are fewer). */
size_t pith_job_exact(const pith_job *job);

/* Prepares the engine for summaries of up to `points` points; call once with the largest size. */
pith_status pith_job_prepare(pith_context *context, pith_job *job, size_t points);

/* Writes the head's summary of `points` points, with its errors and certificates. */
pith_status pith_job_take(pith_context *context, pith_job *job, size_t points, pith_summary *summary);

/* Writes log-weights into keys: k += log w * u with <q, u> = 1 on average over the fit queries. */
pith_status pith_fold_weights(pith_context *context, const pith_query_model *model, float *keys, float *log_weight,
                              size_t points);

#endif
