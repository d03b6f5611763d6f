/* kernels.h - the innermost loops, one table of function pointers per instruction set.
 *
 * f32 arithmetic but for sketches; f16 and bf16 are storage types. Every table computes the same functions
 * to the same error bounds (kernels.c states them), and but for sketches and the rounding of rows not to the same
 * bits. */
#ifndef PITH_SRC_KERNELS_H
#define PITH_SRC_KERNELS_H

#include "base/base.h"

enum {
  PITH_MAX_GROUP = 8,     /* queries that one pass over the keys answers */
  PITH_SCALED = 32,       /* numbers of a quantised row that share a scale; the last of a row may be fewer */
  PITH_MOST_SCALES = 2048 /* of one row */
};

enum { PITH_Q4_ROUNDS = 3 }; /* of fitting scale and levels of a block to each other, from either end */

/* Scales of a quantised row. */
static inline size_t pith_scales(size_t width) { return width / PITH_SCALED + (width % PITH_SCALED != 0); }

/* What the sixteen values of q4 stand for, in ascending order, before the scale. */
extern const int8_t pith_q4_levels[16];

/* Rows of q8 and q4 are kept turned where their width is a power of two: pith_turn, applied to a row, to a query
 * that asks such keys, and to the answer of such values. */
static inline bool pith_turned(pith_dtype dtype, size_t width) {
  return (dtype == PITH_Q8 || dtype == PITH_Q4) && width > 1 && (width & (width - 1)) == 0;
}
/* The kernel `turn` of the table in use. */
void pith_turn(float *x, size_t rows, size_t width);

/* Running state of softmax attention for up to PITH_MAX_GROUP queries over one block of keys after
 * another: the largest logit so far, sum of exp(logit - largest), and that sum weighted by values.
 * Starts as {-inf, 0, 0...}; states of disjoint keys merge (pith_attention_state_merge). */
typedef struct pith_attend_block {
  size_t group;                       /* queries, 1..PITH_MAX_GROUP */
  size_t d, dv, rows;                 /* rows: keys in this block */
  const float *queries;               /* (group, d), already times the softmax scale */
  const void *keys;                   /* rows of d elements of the kernel's storage type; q4: two to a byte, low
                                         half first */
  const void *values;                 /* rows of dv elements */
  ptrdiff_t key_stride, value_stride; /* bytes between rows */
  const uint16_t *key_scales;         /* q8, q4: f16, pith_scales(d) of them (at most PITH_MOST_SCALES) a row */
  const uint16_t *value_scales;
  const float *log_weights;  /* (rows), or NULL */
  const size_t *begin, *end; /* per query, the visible rows begin <= row < end; NULL: all */
  float *largest;            /* (group) */
  float *sum;                /* (group) */
  float *output;             /* (group, dv), not yet divided by sum */
} pith_attend_block;

/* Linear sketches. Unlike the others these yield the same bits in every table (kernels/sketch.h), since sketches are
 * merged and kept. A slot is twice a bucket, plus 1 where the sign is minus. */
typedef struct pith_sketch_kernels {
  /* Different ids give different bases, which look random. */
  void (*hash)(uint64_t key, const uint64_t *id, uint64_t *base, size_t n);
  /* sum[i] += an exponential variable of mean 1 that belongs to base[i] and key */
  void (*exponential)(uint64_t key, const uint64_t *base, double *sum, size_t n);
  /* out[i] = value[i] * factor / sqrt(max(gamma[i], PITH_LEAST_GAMMA)) */
  void (*scale)(const double *value, const double *gamma, double factor, double *out, size_t n);
  /* slot[i] = base[i] * multiplier >> shift: universal hashing of Dietzfelbinger, Hagerup, Katajainen, Penttonen */
  void (*slots)(const uint64_t *base, uint64_t multiplier, int shift, uint32_t *slot, size_t n);
  /* To the nearest whole number, ties to even; |value| < 2^62. */
  void (*round)(const double *value, int64_t *out, size_t n);
  /* cells[bucket] += or -= value */
  void (*add)(int64_t *cells, const uint32_t *slot, const int64_t *value, size_t n);
  /* The same to those of the bucket's `width` cells (a multiple of 8) whose bit is set in id. */
  void (*add_bits)(int64_t *cells, size_t width, const uint32_t *slot, const uint64_t *id, const int64_t *value,
                   size_t n);
} pith_sketch_kernels;

#define PITH_LEAST_GAMMA 0x1p-40

/* Logits of keys kept in small integers (sparsity/index.h), for up to PITH_MAX_GROUP queries. Codes are integers of
 * -127 .. 127 plus PITH_CODE_ZERO and lie in tiles of PITH_CODED keys: four columns of all keys of the tile, then the
 * next four. */
enum { PITH_CODED = 16, PITH_CODE_COLUMNS = 4, PITH_CODE_ZERO = 128, PITH_SPLIT = 64 };

static inline size_t pith_padded_group(size_t group) { return group > 4 ? 8 : group > 2 ? 4 : group; }

typedef struct pith_code_block {
  size_t group, d, rows;    /* multiples: d of PITH_CODE_COLUMNS, rows of PITH_CODED */
  const int8_t *queries;    /* (group, d): |query| * 128 * d < 2^31 */
  const int8_t *remainders; /* (group, d): what is added to the queries, in 256ths; NULL: nothing */
  const int32_t *starts;    /* (2, group): -PITH_CODE_ZERO times the sum of a query's numbers, then of its remainders */
  const float *query_scale; /* (group) */
  const uint8_t *codes;
  const uint8_t *ahead;     /* codes that are wanted soon, or NULL */
  const float *scales;      /* (rows) */
  const float *log_weights; /* (rows), or NULL */
  const float *offsets;     /* (group): of the logits of all keys; NULL: 0 */
  float *logits;            /* (group, rows): query_scale * scale * <query, code> + offset + log-weight */
} pith_code_block;

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
  /* Each of `rows` rows times the Hadamard matrix (Sylvester's) over sqrt(width); its own inverse. width: a power of
   * two, at most PITH_SCALED * PITH_MOST_SCALES. This and the next four yield the same bits in every table. */
  void (*turn)(float *x, size_t rows, size_t width);
  /* Finite rows to levels and scales, and back (summary/store.h). A scale beyond f16 is stored as infinity, and its
   * levels mean nothing. */
  void (*f32_to_q8)(const float *in, size_t rows, size_t width, int8_t *out, uint16_t *scales);
  void (*f32_to_q4)(const float *in, size_t rows, size_t width, uint8_t *out, uint16_t *scales);
  void (*q8_to_f32)(const int8_t *in, const uint16_t *scales, size_t rows, size_t width, float *out);
  void (*q4_to_f32)(const uint8_t *in, const uint16_t *scales, size_t rows, size_t width, float *out);
  void (*attend_f32)(const pith_attend_block *block);
  void (*attend_f16)(const pith_attend_block *block);
  void (*attend_bf16)(const pith_attend_block *block);
  void (*attend_q8)(const pith_attend_block *block);
  void (*attend_q4)(const pith_attend_block *block);
  const pith_sketch_kernels *sketch;
  void (*code_logits)(const pith_code_block *block);
  /* logits (rows, width): products of f32 rows with the queries; width: group rounded up to 1, 2, 4 or 8. */
  void (*scores)(size_t group, size_t d, const float *queries, const float *keys, size_t rows, float *logits);
  /* Parts PITH_SPLIT keys by their logits (group, PITH_SPLIT): those where a query's logit reaches its threshold are
   * chosen (bit i: key i); sum and square (group) receive the sums of exp(logit - threshold) and of its square over
   * the others, to a relative error of PITH_SPLIT_ERROR; both are 0 for a query of which no logit reaches `least`
   * (group). Thresholds are finite; a key that is not there has a logit of -inf, and counts for 2^-125 at most. */
  uint64_t (*split)(const float *logits, size_t group, const float *threshold, const float *least, float *sum,
                    float *square);
} pith_kernels;

#define PITH_EXP_ULP 2.0
#define PITH_SPLIT_ERROR 5e-4

/* The attention of a table for rows of that type. */
typedef void (*pith_attend_kernel)(const pith_attend_block *block);
pith_attend_kernel pith_kernels_attend(const pith_kernels *table, pith_dtype dtype);

/* The table in use: the best the processor has, or what PITH_ISA names if the processor has that. */
const pith_kernels *pith_kernels_active(void);
/* The table of that name, NULL if unknown, not compiled in, or not supported by this processor. */
const pith_kernels *pith_kernels_named(const char *name);

extern const pith_kernels pith_kernels_scalar;
#if defined(__x86_64__)
extern const pith_kernels pith_kernels_avx2, pith_kernels_avx512;
#endif

#endif
