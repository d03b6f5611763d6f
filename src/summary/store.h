/* store.h - the ways to keep a point: f32, f16, bf16, or in small integers with scales (q8, q4).
 *
 * A row of q8 or q4 is turned (pith_turn) where its width allows, and cut into blocks of PITH_SCALED numbers; each
 * block has a scale in f16, and each number is a level times that scale: a whole number of -127 .. 127 in q8, one of
 * pith_q4_levels in q4. */
#ifndef PITH_SRC_STORE_H
#define PITH_SRC_STORE_H

#include "attention/attention.h"
#include "pith/summary.h"

static inline bool pith_store_quantised(pith_dtype store) { return store == PITH_Q8 || store == PITH_Q4; }

/* Fails unless points of that shape can be kept so. */
pith_status pith_store_check(pith_context *context, pith_dtype store, size_t d, size_t dv);

/* Bytes of a row without its scales, number of its scales, and bytes of a whole point (key, value, scales,
 * log-weight): what attention reads. Widths are those that pith_store_check allows. */
size_t pith_store_row_bytes(pith_dtype store, size_t width);
size_t pith_store_scales(pith_dtype store, size_t width); /* 0 where the store has none */
size_t pith_store_point_bytes(pith_dtype store, size_t d, size_t dv);

/* Rounds rows of f32 to the store. Refuses what is not finite, before or after rounding, naming `what`. */
pith_status pith_store_write(pith_context *context, const char *what, pith_dtype store, const float *in, size_t rows,
                             size_t width, void *out, uint16_t *scales);
/* And back. */
void pith_store_read(pith_dtype store, const void *in, const uint16_t *scales, size_t rows, size_t width, float *out);

/* The points of a head as rows to attend to, with their log-weights. */
pith_rows pith_head_rows(const pith_head_view *view);

#endif
