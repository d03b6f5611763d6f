/* kernels.h - the innermost loops, one table of function pointers per instruction set.
 *
 * f32 arithmetic throughout; f16 and bf16 are storage types. Every table computes the same functions
 * to the same error bounds (kernels.c states them), not to the same bits. */
#ifndef PITH_SRC_KERNELS_H
#define PITH_SRC_KERNELS_H

#include "base/base.h"

enum { PITH_MAX_GROUP = 8 }; /* queries that one pass over the keys answers */

/* Running state of softmax attention for up to PITH_MAX_GROUP queries over one block of keys after
 * another: the largest logit so far, sum of exp(logit - largest), and that sum weighted by values.
 * Starts as {-inf, 0, 0...}; states of disjoint keys merge (pith_attention_state_merge). */
typedef struct pith_attend_block {
  size_t group;                       /* queries, 1..PITH_MAX_GROUP */
  size_t d, dv, rows;                 /* rows: keys in this block */
  const float *queries;               /* (group, d), already times the softmax scale */
  const void *keys;                   /* rows of d elements of the kernel's storage type */
  const void *values;                 /* rows of dv elements */
  ptrdiff_t key_stride, value_stride; /* bytes between rows */
  const float *log_weights;           /* (rows), or NULL */
  const size_t *begin, *end;          /* per query, the visible rows begin <= row < end; NULL: all */
  float *largest;                     /* (group) */
  float *sum;                         /* (group) */
  float *output;                      /* (group, dv), not yet divided by sum */
} pith_attend_block;

typedef struct pith_kernels {
  const char *name;
  float (*dot)(const float *a, const float *b, size_t n);
  /* y += a * x */
  void (*axpy)(float a, const float *x, float *y, size_t n);
  /* x[i] = exp(x[i] + shift); returns the sum. Relative error of each at most PITH_EXP_ULP units in the
   * last place for results in the normal range; below it flushes to 0, above it gives infinity. */
  float (*exp_sum)(float *x, size_t n, float shift);
  float (*max)(const float *x, size_t n); /* -inf for n = 0 */
  void (*f16_to_f32)(const uint16_t *in, float *out, size_t n);
  void (*bf16_to_f32)(const uint16_t *in, float *out, size_t n);
  void (*f32_to_f16)(const float *in, uint16_t *out, size_t n);
  void (*f32_to_bf16)(const float *in, uint16_t *out, size_t n);
  void (*attend_f32)(const pith_attend_block *block);
  void (*attend_f16)(const pith_attend_block *block);
  void (*attend_bf16)(const pith_attend_block *block);
} pith_kernels;

#define PITH_EXP_ULP 2.0

/* The table in use: the best the processor has, or what PITH_ISA names if the processor has that. */
const pith_kernels *pith_kernels_active(void);
/* The table of that name, NULL if unknown, not compiled in, or not supported by this processor. */
const pith_kernels *pith_kernels_named(const char *name);

extern const pith_kernels pith_kernels_scalar;
#if defined(__x86_64__)
extern const pith_kernels pith_kernels_avx2, pith_kernels_avx512;
#endif

#endif
