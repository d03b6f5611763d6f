/* random.c - counter-based random numbers on Random123's Philox 4x32-10. */
#include <Random123/philox.h>
#include <math.h>

#include "base/base.h"

pith_stream pith_stream_make(uint64_t seed, uint32_t purpose, uint32_t object) {
  return (pith_stream){.key = {(uint32_t)seed, (uint32_t)(seed >> 32)}, .purpose = purpose, .object = object};
}

static philox4x32_ctr_t draw(const pith_stream *stream, uint64_t index) {
  philox4x32_ctr_t counter = {{(uint32_t)index, (uint32_t)(index >> 32), stream->purpose, stream->object}};
  philox4x32_key_t key = {{stream->key[0], stream->key[1]}};
  return philox4x32(counter, key);
}

static double to_uniform(uint32_t high, uint32_t low) {
  uint64_t bits = (uint64_t)high << 32 | low;
  return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

uint64_t pith_random_u64(const pith_stream *stream, uint64_t index) {
  philox4x32_ctr_t word = draw(stream, index);
  return (uint64_t)word.v[0] << 32 | word.v[1];
}

double pith_random_uniform(const pith_stream *stream, uint64_t index) {
  philox4x32_ctr_t word = draw(stream, index);
  return to_uniform(word.v[0], word.v[1]);
}

double pith_random_gaussian(const pith_stream *stream, uint64_t index) {
  philox4x32_ctr_t word = draw(stream, index);
  double radius = sqrt(-2.0 * log(to_uniform(word.v[0], word.v[1])));
  return radius * cos(6.283185307179586477 * to_uniform(word.v[2], word.v[3]));
}

size_t pith_random_below(const pith_stream *stream, uint64_t index, size_t bound) {
  /* Multiply-shift: the bias is below bound / 2^64. */
  __extension__ typedef unsigned __int128 wide;
  return (size_t)((wide)pith_random_u64(stream, index) * bound >> 64);
}

void pith_random_permutation(const pith_stream *stream, size_t *permutation, size_t count) {
  for (size_t i = 0; i < count; i++) permutation[i] = i;
  for (size_t i = count; i > 1; i--) {
    size_t j = pith_random_below(stream, i, i);
    size_t keep = permutation[i - 1];
    permutation[i - 1] = permutation[j];
    permutation[j] = keep;
  }
}
