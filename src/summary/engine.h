/* engine.h - one interface for all ways to choose points.
 *
 * An engine reduces n weighted rows to a few weighted points in sight of a query model. It is asked once
 * to prepare for the largest size, then takes any number of sizes from that preparation: points are
 * nested in the size (taking m points uses the first m choices), only what is refitted differs.
 *
 * Streams need nothing else: the rows are then the old summary and the chunk that leaves the window.
 * A new engine is one file here and one line in engine.c. */
#ifndef PITH_SRC_ENGINE_H
#define PITH_SRC_ENGINE_H

#include "query/kernel.h"

typedef struct pith_problem {
  size_t n, d, dv;
  const float *keys, *values; /* (n, d), (n, dv), in original coordinates */
  const float *log_weight;    /* (n), or NULL: all weights are 1 */
  const uint8_t *exact;       /* (n); 1: kept as it is by the caller, not a candidate, but seen by queries */
  size_t candidates;          /* rows with exact = 0 */
  const pith_query_model *model;
  bool fold;      /* the points will be used without weights: engines that fit them may do so for that */
  size_t refine;  /* gradient steps of engines that refine their points */
  size_t lessons; /* turned queries to refine by, of those there are; 0: all */
  uint64_t seed;
  uint32_t object; /* number of the head: names its random streams */
} pith_problem;

/* Chosen points; room for `capacity`. Exact rows are not among them. */
typedef struct pith_points {
  size_t capacity, count, d, dv;
  float *keys, *values, *log_weight;
  int64_t *index; /* row of the problem; -1: no single row */
} pith_points;

pith_status pith_points_create(pith_context *context, size_t capacity, size_t d, size_t dv, pith_points **out);
void pith_points_free(pith_context *context, pith_points *points);
/* Appends row i of the problem with the given log-weight, its own key and value. */
void pith_points_append(pith_points *points, const pith_problem *problem, size_t row, double log_weight);

typedef struct pith_engine {
  const char *name;
  const char *help; /* one line, for people */
  bool refines;     /* towards the answers that turned queries should get */
  /* `most` <= candidates points will be taken at most. *state is the engine's own. */
  pith_status (*prepare)(pith_context *context, const pith_problem *problem, size_t most, void **state);
  /* Writes at most `count` <= most points (fewer where no more are useful). The problem is the same. */
  pith_status (*take)(pith_context *context, const pith_problem *problem, void *state, size_t count,
                      pith_points *points);
  void (*release)(pith_context *context, void *state);
} pith_engine;

extern const pith_engine pith_engine_exact, pith_engine_nystrom, pith_engine_halving, pith_engine_uniform,
    pith_engine_recent, pith_engine_heavy, pith_engine_accumulated, pith_engine_expected, pith_engine_balance;

/* Not in the list: `balance` with the constants of its theory, to show what they do. */
extern const pith_engine pith_engine_balance_theory;

const pith_engine *pith_engine_find(const char *name); /* NULL: unknown */

/* Logarithm of a row's own weight. */
double pith_problem_log_weight(const pith_problem *problem, size_t row);
/* The candidate rows in order, to be released; NULL without memory. */
size_t *pith_problem_candidates(pith_context *context, const pith_problem *problem);

/* sum (n): the attention weight that every row receives from `count` queries, summed. Query r sees rows
 * 0 .. position[r]; position NULL: all. */
pith_status pith_attention_received(pith_context *context, const pith_problem *problem, const float *queries,
                                    const size_t *position, size_t count, double *sum);

/* Shared by engines that rank rows by a score: state = candidate rows, best first (ties: later row first). */
pith_status pith_ranking_prepare(pith_context *context, const pith_problem *problem, const double *score, void **state);
/* Takes the first `count` with the rows' own weights. */
pith_status pith_ranking_take(pith_context *context, const pith_problem *problem, void *state, size_t count,
                              pith_points *points);
void pith_ranking_release(pith_context *context, void *state);
/* The first `count` of the candidates, best first. */
void pith_ranking_rows(const void *state, size_t count, size_t *rows);

/* accumulated.c: half of every prefix are the newest rows, the others those of the largest scores. */
pith_status pith_accumulated_rank(pith_context *context, const pith_problem *problem, const double *score,
                                  void **state);

#endif
