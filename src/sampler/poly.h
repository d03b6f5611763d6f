/* poly.h - features of rows whose inner products are powers: <f(x), f(k)> = <x, k>^degree, or nearly. */
#ifndef PITH_SRC_SAMPLER_POLY_H
#define PITH_SRC_SAMPLER_POLY_H

#include "base/base.h"

typedef struct pith_poly pith_poly;

/* length 0: exact features, degree 1 (the row itself) or 2 (its d (d + 1) / 2 products). length > 0, even: TensorSketch
 * of degree 1 or more, with E <f(x), f(k)> = <x, k>^degree and standard deviation at most
 * sqrt(3^degree / length) |x|^degree |k|^degree (Avron, Nguyen, Woodruff, NeurIPS 2014). */
pith_status pith_poly_create(pith_context *context, size_t d, size_t degree, size_t length, uint64_t seed,
                             pith_poly **out);
void pith_poly_free(pith_poly *poly); /* NULL is fine */
size_t pith_poly_length(const pith_poly *poly);
/* row (d) to out (length). Uses workspace of its own: one thread at a time. */
void pith_poly_map(pith_poly *poly, const double *row, double *out);

#endif
