/* turn.c - the rotation of quantised rows, and the levels of four bits.
 *
 * A row of keys or values has some coordinates far larger than the rest, and they would spoil the scale of their
 * neighbours. Turned by a Hadamard matrix every coordinate is a mean over all, so that a row looks Gaussian; the
 * sixteen levels are the ones that are best for such rows with the best scale of each 32 numbers (docs/stores.md). */
#include "kernels/kernels.h"

const int8_t pith_q4_levels[16] = {-127, -100, -80, -62, -48, -34, -21, -9, 2, 14, 25, 36, 50, 65, 83, 108};

void pith_turn(float *x, size_t rows, size_t width) { pith_kernels_active()->turn(x, rows, width); }
