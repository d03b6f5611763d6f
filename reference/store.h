/* store.h - quantised rows as docs/format.md describes them: double precision, plain loops. */
#ifndef PITH_REFERENCE_STORE_H
#define PITH_REFERENCE_STORE_H

#include <stddef.h>

/* x times the Hadamard matrix over sqrt(width), by its definition; a copy where the width is no power of two above 1.
 */
void reference_turn(const double *x, size_t width, double *out);

/* A row of q8 (bits 8) or q4 (bits 4) from its bytes and the scales of its blocks, as it was turned. */
void reference_store_read(int bits, const unsigned char *row, const double *scales, size_t width, double *out);

/* The levels of q4. */
extern const int reference_levels[16];

#endif
