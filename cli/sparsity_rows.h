/* sparsity_rows.h - rows of Gaussian logits for `pith sparsity experiment`, in the regimes that it compares.
 *
 * One draw of n standard normal numbers, sorted once, serves all regimes: its logits are sigma times it. */
#ifndef PITH_CLI_SPARSITY_ROWS_H
#define PITH_CLI_SPARSITY_ROWS_H

#include "report.h"

enum { SIZES = 7, REGIMES = 8, MOST_DRAWS = 64 }; /* sizes 2^8, 2^10 ... 2^20; rows of one size */

/* sigma is fixed, or sigma^2 = s ln n, which is the collapse at s = 2. */
typedef struct regime {
  bool grows;
  double value;
} regime;
extern const regime row_regimes[REGIMES];

size_t row_size(size_t index);
double row_sigma(regime r, double n);
cli_text regime_name(regime r);

/* n standard normal numbers, descending; objects 0 .. SIZES * MOST_DRAWS - 1 give different ones. */
void row_draw(uint64_t seed, uint32_t object, size_t n, double *z);
/* Weights of sigma times the descending numbers z. */
void row_weigh(const double *z, size_t n, double sigma, double *weight);

/* Sums of the weights behind the first k, and of their squares. */
typedef struct row_ends {
  double mass, squares;
} row_ends;

row_ends row_behind(const double *weight, size_t n, size_t k);
/* |P - P_k|_2 from the sums behind none and behind k. */
double row_rms_error(row_ends all, row_ends tail);

/* Equal cost: a fixed k against k = alpha n^C on mixed lengths, all equally likely. out may be NULL. */
void sparsity_windows(cli_session *session, FILE *out, json_t *list);

#endif
