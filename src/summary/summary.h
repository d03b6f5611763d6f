/* summary.h - the object behind pith_summary, for those who fill it and those who write it to disk.
 *
 * A summary keeps the allocator of the context that made it, not the context: it may outlive it. The
 * description of each head is the public view itself; its arrays lie in one block per head. */
#ifndef PITH_SRC_SUMMARY_H
#define PITH_SRC_SUMMARY_H

#include "attention/attention.h"
#include "pith/summary.h"

typedef struct pith_summary_slot {
  pith_head_view view;
  void *block; /* all arrays of the view */
  size_t block_bytes;
  pith_query_kind query_model; /* these three of this head: the maker concludes those of the summary from them */
  double rho, predicted_kl;
} pith_summary_slot;

struct pith_summary {
  pith_memory *memory;
  /* Set by the maker: layers, heads, other_bytes, scale, seed, folded, query_model, engine.
   * pith_summary_describe works out the rest. */
  pith_summary_info info;
  double rho;              /* largest query norm after scaling that the certificates answer for */
  pith_summary_slot *slot; /* (layers, heads) */
};

/* Where the arrays of one head are written before the summary is handed out. */
typedef struct pith_head_memory {
  void *keys, *values;
  uint16_t *key_scales, *value_scales; /* q8, q4 */
  float *log_weight;
  int64_t *index;
  uint8_t *exact;
} pith_head_memory;

/* A summary of layers x heads heads without points. Scale is 0 and to be set. */
pith_status pith_summary_create(pith_context *context, size_t layers, size_t heads, pith_summary **out);

/* Gives a head room for its points, not yet written, and sets points, d, dv, store and bytes. Replaces
 * what the head held; source_rows, errors and certificates stay. */
pith_status pith_summary_place_head(pith_context *context, pith_summary *summary, size_t layer, size_t head,
                                    size_t points, size_t d, size_t dv, pith_dtype store, pith_head_memory *out);

/* The same, and copies the points, keys and values rounded to `store`. Refuses what is not finite, before or
 * after rounding. index NULL: all -1; exact NULL: all 0; log_weight NULL: all 0. */
pith_status pith_summary_set_head(pith_context *context, pith_summary *summary, size_t layer, size_t head,
                                  size_t points, size_t d, size_t dv, pith_dtype store, const float *keys,
                                  const float *values, const float *log_weight, const int64_t *index,
                                  const uint8_t *exact);

/* All memory that a summary holds. */
size_t pith_summary_held_bytes(const pith_summary *summary);

/* The view of a head, to set source_rows, probe_error, fold_error and the certificates. */
pith_head_view *pith_summary_view(pith_summary *summary, size_t layer, size_t head);

/* The points of a head as rows to attend to; index: layer * heads + head. */
pith_rows pith_summary_rows(const pith_summary *summary, size_t index);

/* Makes the certificate of that kind the binding one; any kind that a summary does not have: none. */
void pith_head_bind(pith_head_view *view, pith_certificate_kind kind);

/* Fails, naming numbers, unless queries fit the summary: layers, heads, columns. */
pith_status pith_summary_check_queries(pith_context *context, const pith_summary *summary, const pith_array *queries);

/* A certificate that says nothing: kind none, bound and trivial bound infinite. */
pith_certificate pith_certificate_none(void);

/* "auto", "ball", "gaussian", "samples". */
const char *pith_query_kind_name(pith_query_kind kind);

#endif
