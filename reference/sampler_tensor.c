/* sampler_tensor.c - see sampler_tensor.h. */
#include "sampler_tensor.h"

#include <math.h>

double reference_tensor_law(const double *a1, const double *x, const double *a2, size_t n1, size_t n2, size_t d,
                            double *squares) {
  double total = 0;
  for (size_t i = 0; i < n1; i++)
    for (size_t k = 0; k < n2; k++) {
      double y = 0;
      for (size_t j = 0; j < d; j++)
        for (size_t l = 0; l < d; l++) y += a1[i * d + j] * x[j * d + l] * a2[k * d + l];
      squares[i * n2 + k] = y * y;
      total += y * y;
    }
  return sqrt(total);
}

/* splitmix64: a generator of its own, so that nothing is shared with what is tested. */
static double exponential(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return -log(((double)(z >> 11) + 0.5) * 0x1p-53);
}

size_t reference_tensor_draw(const double *squares, size_t n1, size_t n2, int product, uint64_t *state) {
  double best = -1;
  size_t found = 0;
  uint64_t second = *state + 0x5851f42d4c957f2du; /* T2 must be the same for every i1 */
  for (size_t i = 0; i < n1; i++) {
    double first = product ? exponential(state) : 0;
    uint64_t again = second;
    for (size_t k = 0; k < n2; k++) {
      double time = product ? first * exponential(&again) : exponential(state);
      double scaled = squares[i * n2 + k] / time;
      if (scaled > best) {
        best = scaled;
        found = i * n2 + k;
      }
    }
  }
  return found;
}
