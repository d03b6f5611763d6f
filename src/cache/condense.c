/* condense.c - points for sampled queries, at a bounded cost (theory 4.8): rows that contribute most stay, the others
 * become a few refitted points. */
#include "cache/condense.h"

#include <string.h>

/* So many of the queries to fit, evenly from the list. */
static pith_status create_kernel(pith_context *context, const pith_problem *p, size_t queries, pith_kernel **kernel) {
  const pith_query_model *all = p->model;
  size_t count = pith_min_size(queries, all->fit_count);
  pith_query_model some = *all;
  float *fit = pith_allocate(context, count, all->d * sizeof *fit);
  if (!fit) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++)
    memcpy(fit + i * all->d, all->fit + i * all->fit_count / count * all->d, all->d * sizeof *fit);
  some.fit = fit;
  some.fit_count = count;
  pith_status status = pith_kernel_create(context, &some, p->keys, p->log_weight, p->n, kernel);
  pith_release(context, fit);
  return status;
}

pith_status pith_condensing_open(pith_context *context, const cache_work *w, size_t queries, pith_candidates *c) {
  const pith_problem *p = &w->reduction.problem;
  pith_kernel *kernel = NULL;
  *c = (pith_candidates){0};
  PITH_TRY(create_kernel(context, p, queries, &kernel));
  return pith_candidates_open(context, p, kernel, w->leaving > 0 ? w->first : 0, c);
}

static pith_status condense(pith_context *context, const pith_candidates *c, size_t wanted, pith_points *points) {
  size_t fitted = pith_min_size(wanted, CONDENSE_FITTED), others = c->rows - (wanted - fitted);
  pith_part part;
  pith_status status = pith_part_gather(context, c, NULL, others, &part);
  if (status == PITH_OK) status = pith_part_choose(context, c, others, pith_pivots_wanted(fitted), &part);
  if (status == PITH_OK) status = pith_pivots_factor(context, part.pivots);
  if (status == PITH_OK) {
    pith_candidates_append(c, others, points);
    status = pith_part_take(context, c, &part, fitted, points);
  }
  pith_part_close(context, &part);
  return status;
}

pith_status pith_cache_condense(pith_context *context, cache_work *w, size_t wanted) {
  const pith_problem *p = &w->reduction.problem;
  if (wanted >= p->candidates) {
    for (size_t i = 0; i < p->n; i++)
      if (!p->exact[i]) pith_points_append(w->points, p, i, pith_problem_log_weight(p, i));
    return PITH_OK;
  }
  if (wanted == 0) return PITH_OK;
  pith_candidates c;
  pith_status status = pith_condensing_open(context, w, SIZE_MAX, &c); /* which rows matter takes all queries to tell */
  if (status == PITH_OK) status = condense(context, &c, wanted, w->points);
  pith_candidates_close(context, &c);
  return status;
}
