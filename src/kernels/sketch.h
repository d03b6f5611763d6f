/* sketch.h - hashing and scaling for linear sketches: the same plain C for every table, which compilers turn into
 * vectors. Sums and products are never contracted (-ffp-contract=off), so every table yields the same bits. */
#include <math.h>
#include <string.h>

static inline uint64_t sketch_bits_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline double sketch_from_bits(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* A bijection of 64-bit words (Stafford's mix 13, the end of splitmix64). */
static inline uint64_t sketch_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* -log(x) for x in (2^-54, 1), within one unit in the last place: the reduction and polynomial of fdlibm (Sun). */
static inline double sketch_minus_log(double x) {
  const uint64_t root_half = UINT64_C(0x3fe6a09e00000000), one = UINT64_C(0x3ff0000000000000);
  uint64_t bits = sketch_bits_of(x) + (one - root_half);
  uint64_t exponent = (bits >> 52) + (UINT64_C(0x4338000000000000) - 1023); /* of 1.5 * 2^52 + k */
  double k = sketch_from_bits(exponent) - 0x1.8p52;
  double f = sketch_from_bits((bits & UINT64_C(0xfffffffffffff)) + root_half) - 1;
  double s = f / (2 + f), z = s * s, w = z * z;
  double even = w * (0x1.999999997fa04p-2 + w * (0x1.c71c51d8e78afp-3 + w * 0x1.39a09d078c69fp-3));
  double odd =
      z * (0x1.5555555555593p-1 + w * (0x1.2492494229359p-2 + w * (0x1.7466496cb03dep-3 + w * 0x1.2f112df3e5244p-3)));
  double half = 0.5 * f * f;
  return ((half - (s * (half + (odd + even)) + k * 0x1.a39ef35793c76p-33)) - f) - k * 0x1.62e42feep-1;
}

static void sketch_hash(uint64_t key, const uint64_t *restrict id, uint64_t *restrict base, size_t n) {
  for (size_t i = 0; i < n; i++) base[i] = sketch_mix(id[i] * UINT64_C(0x9e3779b97f4a7c15) + key);
}

static void sketch_exponential(uint64_t key, const uint64_t *restrict base, double *restrict sum, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint64_t bits = sketch_mix(base[i] ^ key) >> 12 | UINT64_C(0x3ff0000000000000);
    double uniform = sketch_from_bits(bits) - 0x1.fffffffffffffp-1; /* odd multiples of 2^-53, exactly */
    sum[i] += sketch_minus_log(uniform);
  }
}

static void sketch_scale(const double *restrict value, const double *restrict gamma, double factor,
                         double *restrict out, size_t n) {
  for (size_t i = 0; i < n; i++) {
    double bounded = gamma[i] < PITH_LEAST_GAMMA ? PITH_LEAST_GAMMA : gamma[i];
    out[i] = value[i] * factor / sqrt(bounded);
  }
}

static void sketch_slots(const uint64_t *restrict base, uint64_t multiplier, int shift, uint32_t *restrict slot,
                         size_t n) {
  for (size_t i = 0; i < n; i++) slot[i] = (uint32_t)(base[i] * multiplier >> shift);
}

static void sketch_round(const double *restrict value, int64_t *restrict out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] = (int64_t)rint(value[i]);
}

static void sketch_add(int64_t *restrict cells, const uint32_t *restrict slot, const int64_t *restrict value,
                       size_t n) {
  for (size_t i = 0; i < n; i++) {
    int64_t minus = slot[i] & 1;
    cells[slot[i] >> 1] += (value[i] ^ -minus) + minus;
  }
}

static void sketch_add_bits(int64_t *restrict cells, size_t width, const uint32_t *restrict slot,
                            const uint64_t *restrict id, const int64_t *restrict value, size_t n) {
  for (size_t i = 0; i < n; i++) {
    int64_t minus = slot[i] & 1, signed_value = (value[i] ^ -minus) + minus;
    int64_t *restrict cell = cells + (slot[i] >> 1) * width;
    for (size_t first = 0; first < width; first += 8) {
      uint64_t bits = id[i] >> first;
      for (int c = 0; c < 8; c++) cell[first + (size_t)c] += signed_value & -(int64_t)(bits >> c & 1);
    }
  }
}

static const pith_sketch_kernels sketch_kernels = {sketch_hash,  sketch_exponential, sketch_scale,   sketch_slots,
                                                   sketch_round, sketch_add,         sketch_add_bits};
