/* store.c - quantised rows, read by the letter of docs/format.md. */
#include "store.h"

#include <math.h>

const int reference_levels[16] = {-127, -100, -80, -62, -48, -34, -21, -9, 2, 14, 25, 36, 50, 65, 83, 108};

void reference_turn(const double *x, size_t width, double *out) {
  int turned = width > 1 && (width & (width - 1)) == 0;
  for (size_t i = 0; i < width; i++) {
    out[i] = turned ? 0 : x[i];
    for (size_t j = 0; turned && j < width; j++)
      out[i] += (__builtin_popcountll(i & j) % 2 ? -x[j] : x[j]) / sqrt((double)width);
  }
}

void reference_store_read(int bits, const unsigned char *row, const double *scales, size_t width, double *out) {
  for (size_t i = 0; i < width; i++) {
    int level = bits == 8 ? (signed char)row[i] : reference_levels[i % 2 ? row[i / 2] / 16 : row[i / 2] % 16];
    out[i] = level * scales[i / 32];
  }
}
