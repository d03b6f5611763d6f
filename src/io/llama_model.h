/* llama_model.h - what a model file says of its attention heads, as far as saved states need it. */
#ifndef PITH_SRC_LLAMA_MODEL_H
#define PITH_SRC_LLAMA_MODEL_H

#include "io/llama_state.h"
#include "pith/compress.h"

typedef struct pith_llama_heads {
  pith_gguf_text architecture;
  size_t layers, query_heads, kv_heads, key_size, value_size;
  pith_rope rope;
  double rope_base;
  bool rope_scaled; /* frequencies are changed by factors of the model's own: rope_base is not the whole truth */
  double scale;     /* of the softmax */
} pith_llama_heads;

/* Refuses by name the architectures and kinds of attention whose states cannot be rewritten. */
pith_status pith_llama_heads_of(pith_context *context, const pith_gguf *model, pith_llama_heads *out);

/* Whether a state can be of this model: layers, widths, and of sessions the architecture. */
pith_status pith_llama_state_fits(pith_context *context, const pith_llama_state *state, const pith_gguf *model,
                                  const pith_llama_heads *heads);

#endif
