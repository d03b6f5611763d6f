/* llama_rewrite.h - from the cells of a saved state to keys and values of heads, and from a summary back to cells.
 *
 * llama.cpp gives every cell a position and a row of all heads, and attends to all cells whose position is not later.
 * So a cell may hold any row of each head, as long as the positions go up to the same last one, and all heads have the
 * same number of rows. */
#ifndef PITH_SRC_LLAMA_REWRITE_H
#define PITH_SRC_LLAMA_REWRITE_H

#include "io/llama_model.h"
#include "pith/compress.h"

/* Keys and values of a state in the order of positions, as heads compute with them: (layers, kv heads, cells, size),
 * f16 where all of the state is F16, else f32. */
typedef struct pith_llama_rows {
  pith_array keys, values;
  size_t length; /* position of the next token */
  void *room;
} pith_llama_rows;

/* Refuses cells of several sequences and positions that occur twice. */
pith_status pith_llama_rows_open(pith_context *context, const pith_llama_state *state, const pith_llama_heads *heads,
                                 pith_llama_rows *out);
void pith_llama_rows_close(pith_context *context, pith_llama_rows *rows);

/* How recorded queries stand to the rows: of the queries of positions 0 .. count-1, those that may be used, and
 * query_start for them. A state that was rewritten before has fewer rows than positions. */
pith_array pith_llama_queries(const pith_llama_rows *rows, const pith_array *queries, size_t *query_start);

/* Writes the points of a summary, whose weights are folded, as a state with as many cells as its largest head has
 * points. Heads with fewer points are filled up (filled cells) with copies of the points that `queries` (turned to
 * the next `horizon` positions) attend to least; copies share a weight. The first `sinks` cells are at positions 0, 1,
 * ..., the others at the last positions, the rows of the window at their own. `queries` NULL: heads must have the same
 * number of points. */
pith_status pith_llama_rewrite(pith_context *context, const char *path, const pith_llama_state *state,
                               const pith_llama_heads *heads, const pith_llama_rows *rows, const pith_summary *summary,
                               const pith_array *queries, size_t query_start, size_t horizon, size_t sinks,
                               size_t *filled);

/* Options as rewriting takes them: of those given engine, sinks, window, horizon, samples, refine, seed and head
 * weights count. */
pith_compress_options pith_llama_options(const pith_llama_heads *heads, const pith_compress_options *options,
                                         const pith_array *queries, size_t query_start);

/* About the fewest cells whose predicted KL (theory 4.8) is at most `aim`, all of them if no fewer do; found on the few
 * heads that make most of it (*matter). `options` must have head weights. */
pith_status pith_llama_aim(pith_context *context, const pith_llama_heads *heads, const pith_llama_rows *rows,
                           const pith_array *queries, size_t query_start, const pith_compress_options *options,
                           double aim, size_t *cells, size_t *matter);

/* The whole way: `cells` points for every head, by `options` (engine, sinks, window, horizon, samples, refine, seed;
 * the rest is set here), written to `path`. Of `queries` row r was asked from position query_start + r, by
 * pith_llama_queries; NULL: none. All cells: they are written as they are. */
pith_status pith_llama_compress(pith_context *context, const char *path, const pith_llama_state *state,
                                const pith_llama_heads *heads, const pith_llama_rows *rows, size_t cells,
                                const pith_array *queries, size_t query_start, const pith_compress_options *options,
                                pith_summary **summary, size_t *filled);

#endif
