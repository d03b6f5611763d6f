/* index.h - what is kept beside a cache so that a query can tell, before reading it, which of its keys matter.
 *
 * Keys are taken PITH_SPLIT at a time. A block has bounds of its keys (a box, and a ball about their mean), every key
 * as small integers with the largest rounding error of the block, and the mean of its values. The keys behind the
 * last whole block stay outside: they are always read. */
#ifndef PITH_SRC_SPARSITY_INDEX_H
#define PITH_SRC_SPARSITY_INDEX_H

#include "attention/attention.h"

enum { PITH_SPARSE_BLOCK = PITH_SPLIT };

/* Every length is rounded up, so that it holds of the stored rows in exact arithmetic. */
typedef struct pith_sparse_block {
  float residual;           /* largest |key - code|, code: the mean of the keys and small integers */
  float residual_spread;    /* largest singular value of the matrix of all key - code */
  float code_spread;        /* and of all code - mean */
  float key_norm;           /* largest |key| */
  float radius;             /* largest |key - mean| */
  float value_radius;       /* largest |value - mean of values| */
  float offset;             /* |mean of values - anchor| */
  float corner;             /* |(largest |coordinate| of its box)_j| */
  float bias, most_bias;    /* mean and largest log-weight */
  uint32_t lowest, highest; /* rows */
} pith_sparse_block;

/* Sum of x x' over some vectors x. */
typedef struct pith_sparse_gram {
  double *sum;          /* (dv, dv) */
  double trace;         /* of sum */
  double known, before; /* an eigenvalue bound and the trace it was computed at */
  double spread;        /* not less than the largest eigenvalue of sum */
} pith_sparse_gram;

/* Coordinates are those of the store: of a q8 cache, the turned ones. Codes are of turned keys where d allows. */
typedef struct pith_sparse_head {
  pith_memory *memory;  /* set by the caller */
  size_t d, dv, code_d; /* code_d: d rounded up to a multiple of PITH_CODE_COLUMNS */
  pith_dtype dtype;
  bool weighted;
  size_t rows, blocks, capacity; /* rows seen; whole blocks; room for blocks */
  uint32_t *order;               /* (blocks, PITH_SPARSE_BLOCK): the rows of each block */
  uint8_t *codes;                /* blocks of PITH_SPARSE_BLOCK * code_d, as the kernels read them */
  float *scales, *log_weights;   /* (blocks, PITH_SPARSE_BLOCK); log_weights NULL: none */
  float *low, *high, *mean;      /* (blocks, d) */
  float *value_mean;             /* (blocks, dv) */
  pith_sparse_block *block;      /* (blocks) */
  float most_key, most_value;    /* largest norms of all rows seen */
  pith_sparse_gram values;       /* of value - the mean of its block, over all rows of blocks */
  pith_sparse_gram means;        /* of mean of values - anchor, over all blocks */
  double *spare;                 /* room for sealing a block and for eigenvalues */
  size_t spare_numbers;
  float *anchor;                         /* (dv): about the mean of all values */
  size_t anchored;                       /* blocks when it was set */
  float most_residual, most_code;        /* largest residual_spread and code_spread of a block */
  double residual_squares, code_squares; /* sums of their squares */
  double box_reach, ball_reach; /* how far boxes and balls reach from means for a random query, over all blocks */
} pith_sparse_head;

/* Takes in the rows behind those seen before. `rows` holds all rows from row `first` on, which is not behind the whole
 * blocks; type, widths and log-weights (there or not) never change. On failure the head is as before. */
pith_status pith_sparse_head_append(pith_context *context, pith_sparse_head *head, const pith_rows *rows, size_t first);
/* Lays the rows of all whole blocks anew, neighbours together. */
pith_status pith_sparse_head_cluster(pith_context *context, pith_sparse_head *head, const pith_rows *rows);
void pith_sparse_head_free(pith_sparse_head *head); /* what it holds, not the head */
size_t pith_sparse_head_bytes(const pith_sparse_head *head);

/* Where in its block the code of key `row`, column `column` lies. */
static inline size_t pith_sparse_code_place(size_t code_d, size_t row, size_t column) {
  const size_t four = column / PITH_CODE_COLUMNS * PITH_CODE_COLUMNS;
  return (row / PITH_CODED * code_d + four) * PITH_CODED + row % PITH_CODED * PITH_CODE_COLUMNS + column - four;
}

static inline size_t pith_sparse_code_width(size_t d) {
  return (d + PITH_CODE_COLUMNS - 1) / PITH_CODE_COLUMNS * PITH_CODE_COLUMNS;
}

/* Whether codes are of turned keys although the stored ones are not. */
static inline bool pith_sparse_turns(const pith_sparse_head *head) {
  return head->d > 1 && (head->d & (head->d - 1)) == 0 && head->d <= (size_t)PITH_SCALED * PITH_MOST_SCALES &&
         !pith_turned(head->dtype, head->d);
}

/* Makes block `number` of the rows that head->order names for it. buffer: PITH_SPARSE_BLOCK * max(d, dv). */
void pith_sparse_seal(pith_context *context, pith_sparse_head *head, size_t number, const pith_rows *rows, size_t first,
                      float *buffer);
/* order (count): the first `count` rows, a multiple of PITH_SPARSE_BLOCK, near ones in the same block. */
pith_status pith_sparse_neighbours(pith_context *context, const pith_rows *rows, size_t count, uint32_t *order);

/* A row of keys or values as f32, in the coordinates of the store. */
void pith_sparse_read_key(const pith_rows *rows, size_t row, float *out);
void pith_sparse_read_value(const pith_rows *rows, size_t row, float *out);

/* Relative rounding error of f32. */
#define PITH_UNIT 0x1p-24

#endif
