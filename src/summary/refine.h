/* refine.h - gradient steps on a head's points, towards the answers that the turned queries should get. */
#ifndef PITH_SRC_REFINE_H
#define PITH_SRC_REFINE_H

#include "summary/engine.h"

/* What every turned query should be answered, and what it gets from rows that are not refined (exact rows and
 * the keys near it). */
typedef struct pith_lessons {
  size_t count, dv;
  const float *queries;  /* (count, d): the model's turned fit queries */
  float *answer;         /* (count, dv), minus the mean value */
  float *fixed_log_mass; /* (count) */
  float *fixed_answer;   /* (count, dv), minus the mean value */
  float *value_mean;     /* (dv) */
  double largest_value;  /* largest distance of a value from the mean value */
} pith_lessons;

pith_status pith_lessons_create(pith_context *context, const pith_problem *problem, const double *value_mean,
                                pith_lessons **out);
void pith_lessons_free(pith_context *context, pith_lessons *lessons);

/* `steps` steps of Adam on keys, values and (with `weights`) log-weights of all points (exact rows are not among them),
 * for the mean norm of the error over batches of turned queries. Time 10 * 256 * count * (d + dv) operations a step. */
pith_status pith_refine(pith_context *context, const pith_problem *problem, const pith_lessons *lessons, size_t steps,
                        bool weights, pith_points *points);

#endif
