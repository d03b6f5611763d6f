/* choice.h - one choice of keys for a group of queries, as the files that make it see it: select.c (what is asked, what
 * block bounds say, the order of things), look.c (thresholds from a sample of codes), pass.c (all codes, then the keys
 * chosen), conclude.c (answers and their bounds),
 * draw.c (bounds that hold with a confidence). */
#ifndef PITH_SRC_SPARSITY_CHOICE_H
#define PITH_SRC_SPARSITY_CHOICE_H

#include "sparsity/sparse.h"

enum {
  PITH_SPARSE_LOOKS = 128,   /* most blocks of a look */
  PITH_SPARSE_GATHERED = 128 /* keys brought together for the kernel */
};

enum { PITH_HIDDEN, PITH_WHOLE, PITH_PART }; /* how much of a block is seen */

typedef struct pith_sparse_space {             /* arrays of one choice; P blocks */
  float *query, *turned, *positive, *negative; /* (group, d) */
  int8_t *code, *remainder;                    /* (group, code_d): codes of the turned queries */
  float *upper;                                /* (P, width): no logit of the block is above */
  float *centre, *mean;                        /* (P, width): logit of its mean key; not above the mean logit */
  float *weight;                               /* (P, width): what its unread keys weigh */
  float *score;                                /* (P): how much may lie in it */
  uint32_t *order;                             /* (P): open blocks by score */
  float *probe;                                /* (PITH_SPARSE_LOOKS, group, PITH_SPARSE_BLOCK) */
  float *output, *tail;                        /* (group, dv) */
  uint32_t *chosen;                            /* (rows): in the order of being chosen */
  uint64_t *taken;                             /* (P): keys of a block that are chosen, bit by bit */
  unsigned char *sight, *open;                 /* (P) */
  unsigned char *seen;                         /* (rows) */
  char *keys, *values;                         /* (PITH_SPARSE_GATHERED, row) */
  uint16_t *key_scales, *value_scales;
  float *log_weights;
  double *points, *moments;    /* (rows), (dv): of draws */
  float *answer, *key, *value; /* (dv), (d), (dv) */
  unsigned char *drawn;        /* (rows) */
} pith_sparse_space;

/* What the unread keys T come to for each query, in units of exp(threshold). ^w: their weights by the codes. */
typedef struct pith_sparse_tail {
  double low[PITH_MAX_GROUP], high[PITH_MAX_GROUP];           /* bounds of the sum of w */
  double square[PITH_MAX_GROUP];                              /* sum of ^w^2, about the mean where that is allowed */
  double doubt_square[PITH_MAX_GROUP];                        /* sum of (w - ^w)^2 at most */
  double codes[PITH_MAX_GROUP];                               /* sum of ^w^2 in open blocks */
  double doubt[PITH_MAX_GROUP], doubt_offset[PITH_MAX_GROUP]; /* sum of |w - ^w|, and of it times |v_p - anchor| */
  double rest[PITH_MAX_GROUP], rest_offset[PITH_MAX_GROUP];   /* the same beyond the first order */
  double radius[PITH_MAX_GROUP];                              /* sum of w |u| */
} pith_sparse_tail;

typedef struct pith_sparse_choice {
  const pith_sparse_job *job;
  const pith_sparse_head *head;
  const pith_kernels *kernels;
  pith_sparse_space space;
  size_t group, width;                    /* width: as the kernels pad it */
  size_t blocks;                          /* those that can be seen come before this */
  size_t closed;                          /* blocks seen whole and not opened */
  size_t first, last, visible;            /* rows seen lie in first .. last-1; how many */
  bool mapped;                            /* space.seen says which; else all of first .. last-1 */
  int32_t code_start[2 * PITH_MAX_GROUP]; /* as pith_code_block has them */
  bool fine;                              /* queries have remainders */
  float code_scale[PITH_MAX_GROUP], threshold[PITH_MAX_GROUP];
  double most_reads;              /* more would cost more than exact attention */
  double ignored[PITH_MAX_GROUP]; /* weight of a key, over exp(threshold), below which blocks are not summed */
  double offset[PITH_MAX_GROUP];  /* |answer - anchor|, as the look has it */
  double norm[PITH_MAX_GROUP];    /* |query|, rounded up */
  double lost[PITH_MAX_GROUP];    /* |query - its code| */
  double slack[PITH_MAX_GROUP];   /* error of a logit by rounding, for a key of norm 1 */
  size_t chosen, read;            /* keys chosen; those of them that were read */
} pith_sparse_choice;

/* Blocks that were looked at; best first. */
typedef struct pith_sparse_look {
  size_t blocks[PITH_SPARSE_LOOKS], count;
  double times[PITH_SPARSE_LOOKS]; /* how many blocks each stands for */
  bool all;                        /* no open block is missing */
  bool rough;                      /* asked only whether it would be far too much */
} pith_sparse_look;

/* ---- look.c ---- */

/* Few blocks, evenly spread, their centres computed here: what all keys would come to if they were like these. */
void pith_sparse_glance(pith_sparse_choice *c, pith_sparse_look *look);
/* The open blocks of the best scores, and of the others the fewer the lower the score. */
void pith_sparse_look_at(const pith_sparse_choice *c, size_t open, pith_sparse_look *look);
/* Sets the thresholds at which the bound holds for what was looked at; mass receives Z over exp(threshold), as it
 * seems. Yields the keys that would be read. */
double pith_sparse_thresholds(pith_sparse_choice *c, const pith_sparse_look *look, double mass[PITH_MAX_GROUP]);

/* ---- pass.c ---- */

/* Logits (group, PITH_SPARSE_BLOCK) of block p by its codes; -infinity where a key is not seen. `soon`: a block whose
 * codes are wanted a little later; p: none. */
void pith_sparse_block_logits(const pith_sparse_choice *c, size_t p, size_t soon, float *logits);
/* Of block p, for each query: more, not less than e^delta - 1 with delta the most by which the logits of its codes err;
 * rest, the same without the product of query and residuals. The sums of weights are rough too. */
void pith_sparse_doubt(const pith_sparse_choice *c, size_t p, double more[PITH_MAX_GROUP], double rest[PITH_MAX_GROUP]);
/* Adds what an open block leaves unread, `times` over; `whole`: nothing of it is read and all of it is seen. */
void pith_sparse_add_open(const pith_sparse_choice *c, size_t p, bool whole, const float *sum, const float *square,
                          double times, pith_sparse_tail *tail);
/* Adds the closed blocks, and writes their weights. */
void pith_sparse_add_closed(const pith_sparse_choice *c, pith_sparse_tail *tail);
/* Nothing is chosen, nothing read. */
void pith_sparse_start(pith_sparse_choice *c);
/* Chooses all keys that reach a threshold (mass: about Z over exp(threshold)), beside those chosen before: thresholds
 * never rise. The weights of the others are left in space.weight. */
void pith_sparse_pass(pith_sparse_choice *c, const double mass[PITH_MAX_GROUP], pith_sparse_tail *tail);
/* Attention over the chosen keys that were not read yet: states of the kernels, kept from one call to the next, outputs
 * in space.output. */
void pith_sparse_read(pith_sparse_choice *c, float *largest, float *sum);
bool pith_sparse_sees(const pith_sparse_choice *c, size_t row);

/* ---- conclude.c ---- */

/* The bound times Z, without rounding; offset: |answer - anchor|. */
double pith_sparse_tail_error(const pith_sparse_choice *c, const pith_sparse_tail *tail, size_t q, double offset);
/* What rounding does to the reading of a query's keys, relative, as far as it is known before. */
double pith_sparse_expected_rounding(const pith_sparse_choice *c, size_t q);
/* space.tail: the weights of blocks times the means of their values. */
void pith_sparse_add_means(const pith_sparse_choice *c);
/* How an answer came about; masses in units of exp(threshold). */
typedef struct pith_sparse_sums {
  double mass, least; /* Z as it was used; Z at least */
  double doubt;       /* |Z - mass| at most */
  double rounding;    /* part of the bound */
} pith_sparse_sums;

/* Writes query q's answer and account; the bound may be anything up to infinity. */
pith_sparse_sums pith_sparse_conclude(const pith_sparse_choice *c, size_t q, const pith_sparse_tail *tail,
                                      float largest, float sum, size_t place);

/* ---- draw.c ---- */

/* Answers the one query of a choice from keys chosen and keys drawn, so that the bound holds with the job's confidence.
 * All blocks are open. False: the bound is above eps; then account and answer are those of the last attempt. */
bool pith_sparse_draw(pith_sparse_choice *c, const pith_sparse_look *look, size_t place);

#endif
