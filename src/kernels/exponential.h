/* exponential.h - the constants of exp in f32, shared by all tables.
 *
 * x = k ln 2 + r with k whole and |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 (C2 + C3 r + ... + C6 r^4), a minimax
 * polynomial of relative error 3.7e-9 with rounded coefficients; exp(x) = 2^k exp(r). k * LN2_HIGH is exact.
 * The rest is rounding: less than PITH_EXP_ULP units in the last place (tests/test_kernels.c sweeps it). */
#ifndef PITH_SRC_EXPONENTIAL_H
#define PITH_SRC_EXPONENTIAL_H

#define EXP_LOWEST (-0x1.5d589ep+6f) /* the smallest x with exp(x) >= 2^-126; below: 0 */
#define EXP_CEILING 89.0f            /* infinity from here on, and a little before */
#define EXP_LOG2E 0x1.715476p+0f
#define EXP_LN2_HIGH 0x1.63p-1f
#define EXP_LN2_LOW (-0x1.bd0106p-13f)
#define EXP_C2 0x1.fffffcp-2f
#define EXP_C3 0x1.555492p-3f
#define EXP_C4 0x1.5558f2p-5f
#define EXP_C5 0x1.123a2p-7f
#define EXP_C6 0x1.6a23cep-10f

/* exp for what only has to be counted: x log2 e = k + f, 2^f a cubic; relative error below EXP_ROUGH. Far below, and
 * for -infinity, it yields 2^-126 or so and not 0. */
#define EXP_ROUGH 2e-4
#define ROUGH_LOWEST (-126.0f)
#define ROUGH_C0 0x1.fff6920000000p-1f
#define ROUGH_C1 0x1.62f31a0000000p-1f
#define ROUGH_C2 0x1.f0de1a0000000p-3f
#define ROUGH_C3 0x1.c3f7520000000p-5f

#endif
