/* pith_llama.h - llama.cpp contexts that forget gracefully: records the queries of a live context, and writes its cache
 * anew with fewer cells. Only llama.cpp's public interface is used; the engine is not changed.
 *
 *   pith_llama_open(context, "M.gguf", rows, &recorder);
 *   parameters.cb_eval = pith_llama_observe, parameters.cb_eval_user_data = recorder;   before llama_init_from_model
 *   ... llama_decode ...
 *   pith_llama_shrink(context, recorder, llama, 0, cells, NULL);      as often as needed
 *
 * One recorder belongs to one llama context, and records one sequence, whose tokens are read in order. It must outlive
 * the context. Positions go on as before, beyond n_ctx too, since that counts cells. The engine must not shift
 * positions afterwards (llama_memory_seq_add), and tokens before the last `window` cannot be taken back. Calls report
 * as all of pith does: a status, and a sentence in the pith context. Not to be called by several threads at once. */
#ifndef PITH_LLAMA_H
#define PITH_LLAMA_H

#include <stdbool.h>

#include "pith.h"

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;
struct ggml_tensor;
typedef struct pith_llama pith_llama;

/* Heads of the model, as its file says them, and room for the queries of the last `rows` tokens in f16: as many as the
 * llama context has cells (n_ctx). Refuses models whose states cannot be rewritten (pith-llama(1)). */
PITH_API PITH_CHECK pith_status pith_llama_open(pith_context *context, const char *model, size_t rows,
                                                pith_llama **out);
PITH_API void pith_llama_close(pith_context *context, pith_llama *recorder); /* NULL is fine */

/* A ggml_backend_sched_eval_callback: looks at the queries of every layer as they are after rotary embedding. */
PITH_API bool pith_llama_observe(struct ggml_tensor *tensor, bool ask, void *recorder);

/* Writes the queries of the first `count` tokens as a .npy file (layers, query heads, count, size): what `pith llama
 * compress` takes as --queries for a state of these tokens, and as --calibration for any other state of the model. */
PITH_API PITH_CHECK pith_status pith_llama_save_queries(pith_context *context, const pith_llama *recorder, size_t count,
                                                        const char *path);

/* Writes the cache of a sequence anew with that many cells, each head with keys and values of its own, fitted to the
 * recorded queries. Needs the queries of all tokens whose rows are still in the cache. options NULL: defaults; of them
 * engine, sinks, window, horizon (at most as many positions as the context then has cells free), samples, refine and
 * seed are read. The state passes through two files in $TMPDIR, which are gone afterwards. On failure the cache is as
 * it was. */
PITH_API PITH_CHECK pith_status pith_llama_shrink(pith_context *context, pith_llama *recorder,
                                                  struct llama_context *llama, int sequence, size_t cells,
                                                  const pith_compress_options *options);

#ifdef __cplusplus
}
#endif
#endif
