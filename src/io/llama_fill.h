/* llama_fill.h - cells that are left over in a head. Part of llama_rewrite. */
#ifndef PITH_SRC_LLAMA_FILL_H
#define PITH_SRC_LLAMA_FILL_H

#include "io/llama_rewrite.h"

/* Recorded queries (as pith_llama_compress takes them), the rows they saw, the positions they will be asked from, and
 * the kv head in question. */
typedef struct pith_llama_asked {
  const pith_array *queries;
  size_t query_start, rows, horizon, layer, head;
} pith_llama_asked;

/* Of keys (cells, key size) and values (cells, value size) the first `points` are there, of which exact[i] stand for
 * themselves and stay as they are. The others become copies of the points that are attended to least, as few of each as
 * can be; a point and its copies share its weight, so that even a query that runs against the common direction of all
 * others finds little there. */
pith_status pith_llama_fill(pith_context *context, const pith_llama_heads *heads, const pith_llama_asked *asked,
                            const uint8_t *exact, size_t points, size_t cells, float *keys, float *values);

#endif
