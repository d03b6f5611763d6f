/* kernel.h - the positive semidefinite kernel that a query model puts on keys.
 *
 *   K(i,j) = E_q[a_q(i) a_q(j)],   a_q(i) = exp(<q, k_i>) / Z(q)
 *
 * samples:  (1/R) sum_r A(r,i) A(r,j) with A the attention weights of the fit queries, plus a small
 *           multiple of the ball kernel, so that rank never runs out
 * ball:     exp(lambda^2 <k_i - c, k_j - c>)           (paper 2605.05602; theory 4.2)
 * gaussian: exp(<mu, k_i + k_j> + (k_i + k_j)^T S (k_i + k_j) / 2)
 *
 * Both parts have one form: K(i,j) = <f_i, f_j> + exp(<x_i, x_j> + s_i + s_j). Keys carry no weight in
 * here: a weighted row i has coefficient w_i where sums over rows are taken. K may be scaled by a
 * constant (kernels are used for ratios; `log_factor` has the logarithm of what was left out). */
#ifndef PITH_SRC_QUERY_KERNEL_H
#define PITH_SRC_QUERY_KERNEL_H

#include "query/features.h"

typedef struct pith_kernel {
  size_t n;
  size_t features;     /* R; 0: no feature part */
  float *feature;      /* (n, R) */
  size_t d;            /* 0: no exponential part */
  float *mapped;       /* (n, d) */
  float *log_scale;    /* (n) */
  float *diagonal;     /* (n) */
  float *all_diagonal; /* (n): where features are of some fit queries, what all give; NULL: the diagonal is that */
  double lambda2;      /* ball: lambda^2; else 0 */
  double log_factor;
} pith_kernel;

/* keys (n, d), log_weight (n) or NULL. */
pith_status pith_kernel_create(pith_context *context, const pith_query_model *model, const float *keys,
                               const float *log_weight, size_t n, pith_kernel **out);
/* The same with at most so many features as the source allows: with samples, fit queries are drawn (features.h). */
pith_status pith_kernel_draw(pith_context *context, const pith_feature_source *source, pith_kernel **out);
void pith_kernel_free(pith_context *context, pith_kernel *kernel);

/* out (count, n): the rows of K named by `rows`. */
pith_status pith_kernel_rows(pith_context *context, const pith_kernel *kernel, const size_t *rows, size_t count,
                             float *out);
/* out (count, column_count): the sub-matrix of `rows` by `columns` (NULL: all n columns). */
pith_status pith_kernel_block(pith_context *context, const pith_kernel *kernel, const size_t *rows, size_t count,
                              const size_t *columns, size_t column_count, float *out);

#endif
