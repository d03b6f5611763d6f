/* attention.h - exact attention over stored rows, for the layers below it in the house. */
#ifndef PITH_SRC_ATTENTION_H
#define PITH_SRC_ATTENTION_H

#include "kernels/kernels.h"
#include "pith/attention.h"

/* Keys and values of one head as they are stored: f32, f16, bf16, q8 or q4 with contiguous rows. */
typedef struct pith_rows {
  const void *keys, *values;
  ptrdiff_t key_stride, value_stride; /* bytes */
  pith_dtype dtype;
  size_t count, d, dv;
  const float *log_weight;                   /* (count), or NULL */
  const uint16_t *key_scales, *value_scales; /* q8, q4: pith_scales(d), pith_scales(dv) of each row */
} pith_rows;

/* Keys and values of all heads, opened for reading: in place where types and strides allow, else as f32
 * copies. NaN and infinities are refused, naming head, row and column. The arrays must outlive it. */
typedef struct pith_row_source {
  pith_array keys, values;
  float *key_copy, *value_copy;
} pith_row_source;

pith_status pith_row_source_open(pith_context *context, const pith_array *keys, const pith_array *values,
                                 pith_row_source *source);
/* The same for rows that were looked through before. */
pith_status pith_row_source_reopen(pith_context *context, const pith_array *keys, const pith_array *values,
                                   pith_row_source *source);
void pith_row_source_close(pith_context *context, pith_row_source *source);
pith_rows pith_row_source_head(const pith_row_source *source, size_t index); /* index: layer * heads + head */

/* All heads of queries, C-ordered, times the softmax scale. */
pith_status pith_queries_to_f32(pith_context *context, const pith_array *queries, double scale, float *out);

/* ---- Which keys a query sees ---- */

/* Rows of 0 and 1 over blocks of queries and blocks of keys; what lies outside of them is not seen. */
typedef struct pith_block_mask {
  const unsigned char *seen;     /* (rows, columns), C-ordered: 0 or 1 */
  size_t rows, columns;          /* in blocks */
  size_t query_block, key_block; /* queries and keys of one block, at least 1 */
  ptrdiff_t first;               /* position of the first query of row 0 */
} pith_block_mask;

/* Query row r stands at position `first` + r. With `causal` it sees keys up to its position, with `window` > 0
 * those nearer than that, with `blocks` those of the blocks that its own block sees: a key must pass all three.
 * Global keys are seen by every query, and a query at a global position sees every key; only `causal` binds them.
 * All zero: every key. */
typedef struct pith_mask {
  bool causal;
  size_t window;
  ptrdiff_t first;
  const size_t *globals; /* (global_count), ascending positions */
  size_t global_count;
  const pith_block_mask *blocks; /* NULL: none */
} pith_mask;

/* The rows that one query sees, a span begin .. end-1 at a time: ascending, apart, none empty. */
typedef struct pith_spans {
  size_t begin, end; /* the span; begin == end: there are no more */
  /* inside: */
  size_t to, near_begin, near_end; /* where all ends; what window and causal mask leave */
  const unsigned char *blocks;     /* (columns), the query's row of the block mask; NULL: all */
  size_t columns, key_block;
  const size_t *globals; /* (global_count), those still to come */
  size_t global_count;
  struct {
    size_t begin, end;
  } near, far; /* the next span of near rows, and of global ones */
} pith_spans;

/* At the first span of the rows from .. to-1 that query row `query` sees. */
pith_spans pith_mask_spans(const pith_mask *mask, size_t query, size_t from, size_t to);
void pith_spans_next(pith_spans *spans);
/* How many of the rows 0 .. rows-1 query row `query` sees. */
size_t pith_mask_count(const pith_mask *mask, size_t query, size_t rows);

/* The masks that options ask for, made ready: `mask_count` is 1 where all heads share one, else one for each query
 * head (layer * query heads + head). */
typedef struct pith_pattern {
  pith_attention_options options; /* complete: scale is never 0 */
  size_t mask_count;
  pith_mask *masks;
  pith_block_mask *blocks;
  size_t *globals;
  unsigned char *seen;
} pith_pattern;

/* Checks the options (NULL: defaults) against m queries and n keys in shapes that fit together. */
pith_status pith_pattern_open(pith_context *context, const pith_attention_options *options, const pith_array *queries,
                              const pith_array *keys, pith_pattern *pattern);
void pith_pattern_close(pith_context *context, pith_pattern *pattern);

/* What all query heads of one kv head ask. */
typedef struct pith_attend_job {
  pith_rows rows;
  size_t heads, queries; /* query heads, queries of each */
  const float *query;    /* (heads, queries, d), already times the softmax scale */
  pith_mask mask;
  float *out; /* (heads, queries, dv) */

  /* Rows that every query sees beside `rows`, under a mask of their own; count 0: none. */
  pith_rows later;
  pith_mask later_mask;
} pith_attend_job;

/* Answers all jobs. A query that sees no key is answered with zeros. Allocates only scratch (slot 3).
 * Deterministic at any thread count: keys are split at multiples that depend on the job alone, and partial
 * states are merged in order. */
pith_status pith_attend_jobs(pith_context *context, const pith_attend_job *jobs, size_t count);

/* One job without a mask: `query_count` queries (C-ordered f32, already times the softmax scale) over the
 * rows; out: (query_count, dv). */
pith_status pith_attend_rows(pith_context *context, const pith_rows *rows, const float *queries, size_t query_count,
                             float *out);

/* Adds rows (f32, contiguous) to the answers of a panel of queries, which other rows with masses exp(log_mass) were
 * seen for before (-inf: none; the answer is then 0). weight: (count, rows), room. By the calling thread alone, for the
 * bodies of parallel loops: many queries at once are several times as fast in matrix products as through
 * pith_attend_rows. */
void pith_attend_panel(const pith_rows *rows, const float *queries, size_t count, float *weight, float *log_mass,
                       float *answer);

/* Folds the state b into a (both over `dv` outputs of one query). */
void pith_attention_state_merge(float *largest_a, float *sum_a, float *output_a, float largest_b, float sum_b,
                                const float *output_b, size_t dv);

/* Checks that queries, keys, values fit together (dimensions, leading axes, groups; float types) and
 * fails with a sentence naming the argument and the numbers. queries may be NULL. */
pith_status pith_check_shapes(pith_context *context, const pith_array *queries, const pith_array *keys,
                              const pith_array *values);

#endif
