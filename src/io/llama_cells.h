/* llama_cells.h - rows of numbers in the three types that llama.cpp's cells may have. Used by the two halves of
 * llama_state. */
#ifndef PITH_SRC_LLAMA_CELLS_H
#define PITH_SRC_LLAMA_CELLS_H

#include "io/llama_state.h"

enum { PITH_LLAMA_BLOCK = 32, PITH_LLAMA_BLOCK_BYTES = 34 }; /* Q8_0: a scale in f16, 32 numbers of 8 bits */

/* `count` numbers, a multiple of 32 for Q8_0. */
void pith_llama_decode(pith_gguf_type type, const unsigned char *in, size_t count, float *out);
/* Rounds to nearest. False: some number is not finite, or too large for the type. */
bool pith_llama_encode(pith_gguf_type type, const float *in, size_t count, unsigned char *out);

#endif
