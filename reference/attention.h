/* attention.h - softmax attention as it is written down: double precision, plain loops. */
#ifndef PITH_REFERENCE_ATTENTION_H
#define PITH_REFERENCE_ATTENTION_H

#include <stddef.h>

/* All arrays C-ordered: queries (m, d), keys (n, d), values (n, dv), log_weight (n) or NULL, mask (m, n)
 * with 1 where a query sees a key, or NULL: all. out (m, dv); zeros for a query that sees nothing. */
void reference_attention(const double *queries, size_t m, const double *keys, const double *values,
                         const double *log_weight, size_t n, size_t d, size_t dv, double scale,
                         const unsigned char *mask, double *out);

#endif
