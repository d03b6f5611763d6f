/* model.h - what is known of the queries that one kv head will be asked.
 *
 * All queries here are already multiplied by the softmax scale, so that a logit is <q, k>. */
#ifndef PITH_SRC_QUERY_MODEL_H
#define PITH_SRC_QUERY_MODEL_H

#include "base/base.h"
#include "pith/compress.h"

typedef struct pith_query_model {
  pith_query_kind kind; /* ball, gaussian or samples; never auto */
  size_t d;
  double rho;                /* largest norm that certificates and the ball kernel answer for */
  double *mean, *covariance; /* (d), (d, d): moments of the turned fit queries; NULL without recorded queries */

  /* Recorded queries turned to the positions they will be asked from; probes and turned queries are disjoint by
   * recorded row. The first fit_count rows of `fit` are the fit queries; the first distinct_count are all recorded
   * queries but the probes, each once; behind them (if turned_count is more) they come turned to further positions. */
  size_t fit_count, distinct_count, turned_count;
  float *fit; /* (turned_count, d) */
  size_t probe_count;
  float *probes; /* (probe_count, d) */

  /* What a query asked from n + t will see beside the n keys: t + 1 later keys, yet unknown. The keys that it saw
   * just before it when it was recorded stand in for them. Without positions (no rope) there is none. */
  float *local_log_mass; /* (turned_count): log sum of exp(logit) over them; -inf: none */
  float *local_answer;   /* (turned_count, dv): attention over them alone */
  float *probe_log_mass; /* (probe_count): the same for the probes */
  float *probe_answer;   /* (probe_count, dv) */
  size_t dv;

  /* Recorded queries as they were (fit and probes), for engines that look at the past's own attention:
   * row r was asked from position[r] and saw keys 0 .. position[r]. Ascending in position. */
  size_t recorded_count;
  float *recorded;  /* (recorded_count, d) */
  size_t *position; /* (recorded_count) */
} pith_query_model;

/* How recorded queries are used; a plain copy of the fields of pith_compress_options. `queries` lists
 * the (m, d) views of the query heads of one group; 0 heads without recorded queries. */
typedef struct pith_query_source {
  const pith_array *queries;
  size_t query_heads;
  size_t d, dv, keys;                 /* dimensions and number of keys (n) */
  const float *key_rows, *value_rows; /* (n, d), (n, dv) */
  size_t lessons;                     /* turned queries wanted, of up to four turns of each recorded one */
  size_t spare;                       /* recorded queries that no fit query may be, as far as three quarters allow */
  double scale, rho, rope_base;
  pith_rope rope;
  size_t query_start, horizon, samples, probes;
  pith_query_kind kind;
  uint64_t seed;
  uint32_t object; /* number of the head: names its random streams */
} pith_query_source;

pith_status pith_query_model_create(pith_context *context, const pith_query_source *source, pith_query_model **out);
void pith_query_model_free(pith_context *context, pith_query_model *model);

/* Draws `count` queries from the model into out (count, d): samples of the turned fit queries without
 * replacement (with, once they run out), N(mean, covariance), or the sphere of radius rho. */
pith_status pith_query_model_draw(pith_context *context, const pith_query_model *model, size_t count, uint64_t seed,
                                  uint32_t object, float *out);

/* Writes log-weights into keys: k += log w * u with <q, u> = 1 on average over the fit queries. */
pith_status pith_fold_weights(pith_context *context, const pith_query_model *model, float *keys, float *log_weight,
                              size_t points);
/* How far <q, u> deviates from 1 over the fit queries, for the direction u common to all: what folding spoils. */
pith_status pith_fold_spread(pith_context *context, const pith_query_model *model, double *spread);

/* Turns one vector by the rotary angle of `steps` positions (may be negative). */
void pith_rope_turn(float *vector, size_t d, pith_rope rope, double base, double steps);

#endif
