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

/* What is to be reckoned with: both, since a few queries may see little of the worst. */
static inline double pith_expected_error(pith_met_error error) { return error.squared + error.deviation; }

/* What is asked of a size: the error, and what is to be reckoned with over what probes of the same points foretell. */
typedef struct pith_tried {
  pith_met_error error;
  double drift; /* 1 where there is nothing to compare with */
} pith_tried;

/* What is to be compressed, and how. */
typedef struct pith_heads {
  const pith_array *keys, *values, *queries;                   /* queries: NULL without */
  const pith_array *later_keys, *later_values, *later_queries; /* what came after all of them; NULL: not known */
  const pith_compress_options *options;
  const pith_engine *engine;
  const float *weight; /* (layers, heads): head weights; NULL: none were given */
  size_t layers, heads, group, n, d, dv;
} pith_heads;

/* How thoroughly a head is worked at: fit queries (0: all there are), turned queries to refine by, steps. */
typedef struct pith_effort {
  size_t samples, lessons, refine;
} pith_effort;

/* Queries, the keys near them, and the exact answers of all rows and near keys together. */
typedef struct pith_asked {
  size_t count;
  bool later;            /* they were asked after all rows */
  float *block;          /* what of the arrays below is not the query model's; NULL: nothing */
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

/* What the options of the heads ask for. */
pith_effort pith_full_effort(const pith_heads *heads);

/* Reads the rows of head `index` (layer * heads + head) and builds its query model. `choose`: there are choosers, the
 * later queries where they are known, else recorded queries that are left out of the fit. */
pith_status pith_job_open(pith_context *context, const pith_heads *heads, const pith_effort *effort, bool choose,
                          size_t index, pith_job **out);
void pith_job_close(pith_context *context, pith_job *job);

/* Rows kept exactly; a summary has at least as many points (all rows when there are fewer). */
size_t pith_job_exact(const pith_job *job);

/* Prepares the engine for summaries of up to `points` points; call once with the largest size. */
pith_status pith_job_prepare(pith_context *context, pith_job *job, size_t points);

/* Writes the head's summary of `points` points, with its errors and certificates. */
pith_status pith_job_take(pith_context *context, pith_job *job, size_t points, pith_dtype store, pith_summary *summary);

/* Errors over the choosers of so many points in each of `count` stores. Nothing is kept. */
pith_status pith_job_try(pith_context *context, pith_job *job, size_t points, const pith_dtype *stores, size_t count,
                         pith_tried *tried);

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

/* The queries of later_queries, spread over all positions, each with the later keys up to its own beside the rows:
 * fills in all but `met`. `scale` is that of the softmax. */
pith_status pith_ask_later(pith_context *context, const pith_heads *heads, size_t layer, size_t head, double scale,
                           pith_asked *asked);

/* ---- Rehearsals (rehearsal.c) ----
 *
 * What a summary will be worth is best known from one that might have been: made when the last quarter of the rows (a
 * horizon at most) had not come yet, and asked by the queries that then came. Recorded queries turned to later
 * positions find their own near keys twice, and foretell up to ten times too much in single heads. */
typedef struct pith_rehearsal {
  pith_heads heads; /* the rows before the cut, and what came later */
  pith_compress_options options;
  pith_array keys, values, queries, later_keys, later_values, later_queries;
} pith_rehearsal;

/* False: there is nothing to rehearse with (no positions, too few recorded queries on either side of the cut, or rows
 * kept exactly as outliers); rehearsal->heads is then a copy of `heads`. */
bool pith_rehearsal_set(const pith_heads *heads, pith_rehearsal *rehearsal);

/* So many points of all rows are like these of the rehearsed, and the other way round. */
size_t pith_points_rehearsed(const pith_rehearsal *rehearsal, size_t rows, size_t points);
size_t pith_points_meant(const pith_rehearsal *rehearsal, size_t rows, size_t rehearsed);

/* drift (count): the error that later queries made, over that which was foretold, of a head at `count` sizes, the
 * largest first; 1 where nothing can be rehearsed. */
pith_status pith_rehearse(pith_context *context, const pith_heads *heads, size_t index, const size_t *points,
                          size_t count, double *drift);

/* KL of a model per head weight and squared error, summed over query heads: 2 is what single layers lose, and twice
 * that is what whole caches are promised, since the queries that come find rare look-ups that none before them
 * announced (with 2, predictions were .27 to 1.95 times what was measured: two models, four texts, 1/4 to 1/64). */
#define PITH_KL_OF_ERROR 4.0

/* Notes a made head's rho, and its part of predicted_kl if there are head weights; and adds up those of all heads.
 * `drift`: by how much later queries err more than probes. */
pith_status pith_head_finish(pith_context *context, const pith_heads *heads, const pith_job *job, double drift,
                             pith_summary *summary);
void pith_heads_conclude(const pith_heads *heads, pith_summary *summary);

#endif
