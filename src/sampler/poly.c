/* poly.c - symmetric features and TensorSketch: see poly.h.
 *
 * TensorSketch: a CountSketch of x^(tensor degree) whose hash is the sum and whose sign is the product of those of
 * `degree` CountSketches of x. So it is their circular convolution, a product of Fourier transforms (kissfft). */
#include "sampler/poly.h"

#include <kissfft/kiss_fftr.h>
#include <math.h>
#include <string.h>

struct pith_poly {
  pith_memory *memory;
  size_t d, degree, length;
  uint32_t *cell; /* (degree, d): cell in the low bits, sign in the highest; NULL: exact features */
  kiss_fftr_cfg forward, backward;
  float *time;                      /* (length) */
  kiss_fft_cpx *spectrum, *spectra; /* (length / 2 + 1) each: of one factor, and the product */
};

size_t pith_poly_length(const pith_poly *poly) { return poly->length; }

void pith_poly_free(pith_poly *poly) {
  if (!poly) return;
  pith_memory *memory = poly->memory;
  pith_memory_release(memory, poly->spectra);
  pith_memory_release(memory, poly->spectrum);
  pith_memory_release(memory, poly->time);
  pith_memory_release(memory, poly->backward);
  pith_memory_release(memory, poly->forward);
  pith_memory_release(memory, poly->cell);
  pith_memory_release(memory, poly);
  pith_memory_unshare(memory);
}

static kiss_fftr_cfg plan(pith_memory *memory, size_t length, int inverse) {
  size_t bytes = 0;
  kiss_fftr_alloc((int)length, inverse, NULL, &bytes);
  void *place = pith_memory_allocate(memory, bytes, 1);
  return place ? kiss_fftr_alloc((int)length, inverse, place, &bytes) : NULL;
}

static bool make_sketch(pith_poly *poly, uint64_t seed) {
  size_t half = poly->length / 2 + 1;
  poly->cell = pith_memory_allocate(poly->memory, poly->degree * poly->d, sizeof *poly->cell);
  poly->forward = plan(poly->memory, poly->length, 0);
  poly->backward = plan(poly->memory, poly->length, 1);
  poly->time = pith_memory_allocate(poly->memory, poly->length, sizeof *poly->time);
  poly->spectrum = pith_memory_allocate(poly->memory, half, sizeof *poly->spectrum);
  poly->spectra = pith_memory_allocate(poly->memory, half, sizeof *poly->spectra);
  if (!poly->cell || !poly->forward || !poly->backward || !poly->time || !poly->spectrum || !poly->spectra)
    return false;
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TENSOR_SKETCH, 0);
  for (size_t i = 0; i < poly->degree * poly->d; i++) {
    uint32_t sign = (uint32_t)(pith_random_u64(&stream, 2 * i + 1) >> 63) << 31;
    poly->cell[i] = (uint32_t)pith_random_below(&stream, 2 * i, poly->length) | sign;
  }
  return true;
}

pith_status pith_poly_create(pith_context *context, size_t d, size_t degree, size_t length, uint64_t seed,
                             pith_poly **out) {
  pith_memory *memory = pith_memory_share(context);
  pith_poly *poly = pith_memory_allocate(memory, 1, sizeof *poly);
  if (!poly) {
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for features");
  }
  *poly = (pith_poly){.memory = memory, .d = d, .degree = degree, .length = length};
  if (length == 0) {
    poly->length = degree == 1 ? d : d * (d + 1) / 2;
  } else if (!make_sketch(poly, seed)) {
    pith_poly_free(poly);
    return pith_fail(context, PITH_E_MEMORY, "no memory for a TensorSketch of length %zu", length);
  }
  *out = poly;
  return PITH_OK;
}

static void map_sketch(pith_poly *poly, const double *row, double *out) {
  size_t half = poly->length / 2 + 1;
  for (size_t f = 0; f < poly->degree; f++) {
    const uint32_t *cell = poly->cell + f * poly->d;
    memset(poly->time, 0, poly->length * sizeof *poly->time);
    for (size_t i = 0; i < poly->d; i++) poly->time[cell[i] & 0x7fffffffu] += (float)(cell[i] >> 31 ? -row[i] : row[i]);
    kiss_fftr(poly->forward, poly->time, f == 0 ? poly->spectra : poly->spectrum);
    for (size_t i = 0; f > 0 && i < half; i++) {
      kiss_fft_cpx a = poly->spectra[i], b = poly->spectrum[i];
      poly->spectra[i] = (kiss_fft_cpx){a.r * b.r - a.i * b.i, a.r * b.i + a.i * b.r};
    }
  }
  kiss_fftri(poly->backward, poly->spectra, poly->time);
  for (size_t i = 0; i < poly->length; i++) out[i] = poly->time[i] / (double)poly->length;
}

void pith_poly_map(pith_poly *poly, const double *row, double *out) {
  if (poly->cell) {
    map_sketch(poly, row, out);
  } else if (poly->degree == 1) {
    memcpy(out, row, poly->d * sizeof *out);
  } else {
    const double twice = sqrt(2);
    for (size_t i = 0; i < poly->d; i++)
      for (size_t j = 0; j <= i; j++) *out++ = (i == j ? 1 : twice) * row[i] * row[j];
  }
}
