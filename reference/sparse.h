/* sparse.h - attention from some keys and the means of blocks, in double, with every quantity of the bound. */
#ifndef PITH_REFERENCE_SPARSE_H
#define PITH_REFERENCE_SPARSE_H

#include <stddef.h>

typedef struct reference_sparse {
  double tail;     /* share of the mass on unread keys */
  double dropped;  /* |Attn - Attn of the read keys alone|; 0 if none is read */
  double identity; /* tail |mean of unread values - mean of read ones|, both under the weights: the same number */
  double error;    /* |Attn - answer| of the answer that adds unread weights at the means of their blocks */
  double bound;    /* spread |w| / Z: what the operator norm says of that error */
} reference_sparse;

/* One query over keys (n, d), values (n, dv), log_weight (n) or NULL; read[n]: 1 where a key is read; blocks of `block`
 * rows in order, the last may be shorter. `answer` (dv) may be NULL. 1 <= n. */
reference_sparse reference_sparse_attend(const double *query, const double *keys, const double *values,
                                         const double *log_weight, const unsigned char *read, size_t n, size_t d,
                                         size_t dv, size_t block, double *answer);

#endif
