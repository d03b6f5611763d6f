/* gram.h - Gram tree over the rows of a matrix A (rows, d): exact draws of rows under entry updates.
 *
 * Rows stand d to a leaf. Every node keeps G = sum a a^T over the rows below it, so that the mass below it is read
 * off for any question that is quadratic in the rows, also one that is known only when the draw is made:
 *
 *     x known:  mass = x^T G x        a row is drawn with probability <a_i, x>^2 / |A x|^2
 *     M known:  mass = tr(G M)        a row is drawn with probability a_i^T M a_i / tr(A^T A M)
 *
 * About 2 n d words. An entry update takes O(d log(n/d)), a draw O(d^2 log(n/d)) and the scan of one leaf: O(d^2)
 * for x, O(d^3) for M.
 *
 * Rounding: the law is exact up to the rounding of the Grams. A leaf that has taken d^2 updates, or whose mass has
 * fallen far below what it was, is summed anew from its rows, and the nodes above it from their children. So errors do
 * not pile up over a stream, and what was inserted and deleted leaves nothing behind.
 *
 * Calls that take the tree const may run at the same time. Indices must be in range and deltas finite: callers check.
 */
#ifndef PITH_SRC_SAMPLER_GRAM_H
#define PITH_SRC_SAMPLER_GRAM_H

#include "base/base.h"

typedef struct pith_gram pith_gram;

/* A zero matrix. rows and d at least 1. PITH_E_MEMORY. */
pith_status pith_gram_create(pith_context *context, size_t rows, size_t d, pith_gram **out);
void pith_gram_free(pith_gram *tree); /* NULL is fine */

/* A_ij += delta. False, and nothing changed, where the entry or a Gram would no longer be finite. */
bool pith_gram_add(pith_gram *tree, size_t row, size_t column, double delta);
/* Row := values (d). False, and nothing changed, for the same reason. */
bool pith_gram_set_row(pith_gram *tree, size_t row, const double *values);
/* All rows := values (rows, d), summed in O(n d^2). False, and the tree unsound, for the same reason. */
bool pith_gram_set(pith_gram *tree, const double *values);

/* All rows (rows, d), to be written by the caller; pith_gram_sum is due then, as after pith_gram_set. Entries must be
 * at most PITH_GRAM_LARGEST: x^T G x and tr(G X G X^T) then stay below what a double holds. */
#define PITH_GRAM_LARGEST 1e40
double *pith_gram_values(pith_gram *tree);
void pith_gram_sum(pith_gram *tree);

size_t pith_gram_rows(const pith_gram *tree);
size_t pith_gram_columns(const pith_gram *tree);
const double *pith_gram_row(const pith_gram *tree, size_t row); /* (d) */
size_t pith_gram_words(const pith_gram *tree);                  /* of 8 bytes, all told */
/* A^T A (d, d), both triangles. */
void pith_gram_total(const pith_gram *tree, double *out);

/* A question. `matrix` is M, symmetric and positive semidefinite, in packed form (pith_gram_packed(d) words;
 * made by the two calls below); `x` is set where M = x x^T. */
typedef struct pith_gram_form {
  const double *matrix, *x;
} pith_gram_form;

size_t pith_gram_packed(size_t d); /* d (d + 1) / 2 */
pith_gram_form pith_gram_form_vector(const double *x, size_t d, double *packed);
pith_gram_form pith_gram_form_matrix(const double *m, size_t d, double *packed); /* m (d, d), symmetric */

/* |A x|^2, or tr(A^T A M); at least 0. */
double pith_gram_mass(const pith_gram *tree, const pith_gram_form *form);

/* Draws a row; randomness is that of `stream` at `index`. SIZE_MAX where all
 * mass is 0. */
size_t pith_gram_draw(const pith_gram *tree, const pith_gram_form *form, const pith_stream *stream, uint64_t index);

#endif
