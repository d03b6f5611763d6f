/* sparse.h - attention that reads only what it must, over an index. */
#ifndef PITH_SRC_SPARSITY_SPARSE_H
#define PITH_SRC_SPARSITY_SPARSE_H

#include "pith/sparsity.h"
#include "sparsity/index.h"

/* What all query heads of one kv head ask. */
typedef struct pith_sparse_job {
  pith_rows rows;
  const pith_sparse_head *head; /* has taken in all of `rows` */
  size_t heads, queries;
  const float *query; /* (heads, queries, d), times the softmax scale */
  pith_mask mask;
  double eps;        /* of every answer's error */
  bool each;         /* every query chooses for itself; else the heads of one row (PITH_MAX_GROUP of them) share */
  bool always;       /* sparse even where exact attention would be faster */
  bool fine;         /* codes are asked with sixteen bits of a query, not eight: fewer keys are read, in more time; so
                        it is in any case where draws are wanted */
  double confidence; /* in (0, 1): bounds may hold with that probability, then `each` is set; 0: they are certain */
  uint64_t seed;     /* of the draws */
  uint32_t number;   /* tells the draws of jobs apart */
  float *out;        /* (heads, queries, dv) */
  pith_sparse_account *account; /* (heads, queries) */
  unsigned char *marks;         /* (heads, queries, rows): receives 1 where a value was read; NULL: not asked for */
} pith_sparse_job;

/* Whether `fine` takes less time in all: where reading a key is dear. */
static inline bool pith_sparse_fine_pays(pith_dtype dtype) { return dtype == PITH_F32; }

pith_status pith_sparse_jobs(pith_context *context, const pith_sparse_job *jobs, size_t count);

/* ---- One choice: up to PITH_MAX_GROUP queries that stand at one row ---- */

/* Scratch of one thread. */
size_t pith_sparse_space_bytes(size_t rows, size_t d, size_t dv);

/* Queries head .. head+group-1 of mask row `row`. False: exact attention is the better way, nothing was written. */
bool pith_sparse_choose(const pith_sparse_job *job, size_t head, size_t group, size_t row, char *space);

/* A bound of what rounding does to an exact answer that reads `count` keys. */
double pith_sparse_rounding(const pith_sparse_job *job, const float *query, const float *answer, size_t count);

#endif
