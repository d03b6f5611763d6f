/* heads.h - the index of all heads of a cache. */
#ifndef PITH_SRC_SPARSITY_HEADS_H
#define PITH_SRC_SPARSITY_HEADS_H

#include "pith/sparsity.h"
#include "sparsity/index.h"

struct pith_sparse_index {
  pith_memory *memory;
  size_t layers, heads, d, dv;
  pith_sparse_head head[]; /* (layers, heads) */
};

static inline size_t pith_sparse_heads(const pith_sparse_index *index) { return index->layers * index->heads; }

/* An index of layers x heads heads that have seen nothing. */
pith_status pith_sparse_index_create(pith_context *context, size_t layers, size_t heads, size_t d, size_t dv,
                                     pith_sparse_index **out);

/* Fails unless rows[i] are what head i of the index was made of, and all that it has seen. */
pith_status pith_sparse_index_check(pith_context *context, const pith_sparse_index *index, const pith_rows *rows,
                                    size_t layers, size_t heads);

/* The points of head i (layer * heads + head) of a summary as rows, without log-weights where all are 0. */
pith_rows pith_sparse_points(const pith_summary *summary, size_t i);

#endif
