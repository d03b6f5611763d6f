/* condense.h - candidates of a head in a stream. */
#ifndef PITH_SRC_CACHE_CONDENSE_H
#define PITH_SRC_CACHE_CONDENSE_H

#include "cache/work.h"
#include "summary/candidates.h"

/* Points that are fitted, beside rows that stay. What is fitted anew at every fold loses each time, so that more of
 * them lose more. */
enum { CONDENSE_FITTED = 32 };

/* With a kernel of up to `queries` of the queries to fit. Close them also after a failure. */
pith_status pith_condensing_open(pith_context *context, const cache_work *work, size_t queries, pith_candidates *out);

#endif
