/* features.h - attention weights of the fit queries, as features of keys (rows of a samples kernel). */
#ifndef PITH_SRC_QUERY_FEATURES_H
#define PITH_SRC_QUERY_FEATURES_H

#include "query/model.h"

/* The keys of a head, and how features are to be made of what queries see of them. */
typedef struct pith_feature_source {
  const pith_query_model *model;
  const float *keys;       /* (n, d) */
  const float *log_weight; /* (n); NULL: all 0 */
  const uint8_t *exact;    /* (n): rows whose weights do not matter; NULL: none. Only to draw by */
  size_t n, most;          /* most: features at most */
  uint64_t seed;
  uint32_t object;
} pith_feature_source;

typedef struct pith_features {
  size_t count;
  float *feature;  /* (n, count) */
  float *diagonal; /* (n): E_q[a_q(i)^2] over all fit queries; NULL: all are features, which add up to it */
} pith_features;

/* Features with sum_r feature(i,r) feature(j,r) = E_q[a_q(i) a_q(j)] over the fit queries. Of more of them than `most`,
 * about so many are drawn, with probability in proportion to the norm of their weights on rows that are not exact (1
 * for those that see the most), and divided by its root: then the sum is right on average. Most queries of a head see
 * little but what is near or exact, and the few that look something up must not be missed.
 *
 * Time O(n R d) for R fit queries, memory O(n (most + threads + R / 64)). */
pith_status pith_features_create(pith_context *context, const pith_feature_source *source, pith_features *out);

#endif
