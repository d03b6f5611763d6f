/* nystrom.c - pivoted points with refitted values and weights (theory 4.3 and 4.8).
 *
 * What queries see of the candidates is M = sum_i w_i a(i) (x) [v_i - vbar ; b], with a(i) the feature of key i under
 * the query model. Pivots are chosen by randomly pivoted Cholesky; M is then projected on their span, which gives each
 * pivot a value and a weight. Of recorded queries few rows get most of the attention: these stay as they are, and a few
 * pivots stand for the others. */
#include "summary/candidates.h"
#include "summary/engine.h"
#include "summary/refine.h"

/* Points at pivots, of recorded queries (measured: 32 to 64 do best on SmolLM2, 64 and more on the byte-level one). */
enum { FITTED = 64 };
/* Fit queries that the kernel keeps where there are more: so many at least, and what fits in so many numbers. */
enum { LEAST_FEATURES = 1024, FEATURE_ROOM = 1 << 22 };

/* Folding spoils little where <q, u> deviates by less (SmolLM2: at most .10; the byte-level model: mostly .2). */
static const double FOLDABLE = 0.12;

typedef struct nystrom {
  pith_candidates candidates;
  pith_part part;        /* all of them, in their order */
  size_t others;         /* so many, the first, have pivots, the rest stays; 0: no pivots were chosen yet */
  size_t fitted, most;   /* points that the pivots are enough for; points to take at most */
  pith_lessons *lessons; /* NULL: no points were refined yet */
} nystrom;

static void release(pith_context *context, void *opaque) {
  nystrom *state = opaque;
  if (!state) return;
  pith_part_close(context, &state->part);
  pith_candidates_close(context, &state->candidates);
  pith_lessons_free(context, state->lessons);
  pith_release(context, state);
}

/* What queries see of a ball is smooth, and a row as it is stands for nothing but itself: there all points are fitted;
 * also where weights are folded and that spoils those much that weigh most. */
static pith_status fits_few(pith_context *context, const pith_problem *problem, bool *few) {
  *few = problem->model->kind == PITH_QUERIES_SAMPLES;
  if (!*few || !problem->fold) return PITH_OK;
  double spread = 0;
  PITH_TRY(pith_fold_spread(context, problem->model, &spread));
  *few = spread < FOLDABLE;
  return PITH_OK;
}

/* Pivots for as many points as may be taken serve every smaller number. */
static pith_status need_pivots(pith_context *context, nystrom *state, size_t others, size_t fitted) {
  if (others == state->others && fitted <= state->fitted) return PITH_OK;
  state->others = others;
  state->fitted = fitted;
  PITH_TRY(pith_part_choose(context, &state->candidates, others, pith_pivots_wanted(fitted), &state->part));
  return pith_pivots_factor(context, state->part.pivots);
}

static pith_status prepare_state(pith_context *context, const pith_problem *problem, nystrom *state) {
  pith_candidates *c = &state->candidates;
  pith_kernel *kernel = NULL;
  pith_feature_source source = {.model = problem->model,
                                .keys = problem->keys,
                                .log_weight = problem->log_weight,
                                .exact = problem->exact,
                                .n = problem->n,
                                .most = pith_max_size(LEAST_FEATURES, FEATURE_ROOM / pith_max_size(problem->n, 1)),
                                .seed = problem->seed,
                                .object = problem->object};
  PITH_TRY(pith_kernel_draw(context, &source, &kernel));
  PITH_TRY(pith_candidates_open(context, problem, kernel, 0, c));
  PITH_TRY(pith_part_gather(context, c, NULL, c->rows, &state->part));
  pith_kernel_free(context, c->kernel); /* the part has its own */
  c->kernel = NULL;
  return PITH_OK;
}

static pith_status prepare(pith_context *context, const pith_problem *problem, size_t most, void **out) {
  nystrom *state = pith_allocate_zero(context, 1, sizeof *state);
  if (!state) return PITH_E_MEMORY;
  state->most = most;
  pith_status status = prepare_state(context, problem, state);
  if (status < 0)
    release(context, state);
  else
    *out = state;
  return status;
}

/* Weights that have to go are folded into the keys half-way: what that spoils, the second half mends. */
static pith_status refine_points(pith_context *context, const pith_problem *problem, const pith_lessons *lessons,
                                 pith_points *points) {
  PITH_TRY(pith_refine(context, problem, lessons, problem->refine, true, points));
  if (!problem->fold) return PITH_OK;
  PITH_TRY(pith_fold_weights(context, problem->model, points->keys, points->log_weight, points->count));
  return pith_refine(context, problem, lessons, problem->refine, false, points);
}

static pith_status take(pith_context *context, const pith_problem *problem, void *opaque, size_t count,
                        pith_points *points) {
  nystrom *state = opaque;
  pith_candidates *c = &state->candidates;
  c->problem = problem;
  bool few = false;
  PITH_TRY(fits_few(context, problem, &few));
  size_t fitted = few ? pith_min_size(count, FITTED) : count, others = c->rows - (count - fitted);
  PITH_TRY(need_pivots(context, state, others, few ? pith_min_size(state->most, FITTED) : state->most));
  pith_candidates_append(c, others, points);
  PITH_TRY(pith_part_take(context, c, &state->part, fitted, points));
  if (problem->refine == 0 || problem->model->kind != PITH_QUERIES_SAMPLES) return PITH_OK;
  if (!state->lessons) PITH_TRY(pith_lessons_create(context, problem, c->mean, &state->lessons));
  return refine_points(context, problem, state->lessons, points);
}

const pith_engine pith_engine_nystrom = {
    .name = "nystrom",
    .help = "rows that matter and pivots with refitted values and weights (default)",
    .refines = true,
    .prepare = prepare,
    .take = take,
    .release = release,
};
