/* fit.c - values and weights of points by least squares (theory 4.3).
 *
 * One Cholesky factor of all pivots serves every size, since the first pivots have the first part of it. With W the
 * columns of its inverse that belong to points left out, what is left of the targets beside W is what the others can
 * explain. */
#include <string.h>

#include "linalg/linalg.h"
#include "summary/pivots.h"

/* Ridge, in parts of each point's own diagonal: a far key of a ball kernel may weigh 10^4 times as much as another. */
static const double RIDGE = 1e-4;

pith_status pith_pivots_factor(pith_context *context, pith_pivots *p) {
  size_t count = p->count;
  p->factor = pith_allocate(context, count * count, sizeof *p->factor);
  p->forward = pith_allocate(context, count * p->columns, sizeof *p->forward);
  if (!p->factor || !p->forward) return PITH_E_MEMORY;
  for (size_t a = 0; a < count; a++) {
    memcpy(p->factor + a * count, p->kernel + a * p->most, (a + 1) * sizeof *p->factor);
    p->factor[a * count + a] *= 1 + RIDGE;
  }
  memcpy(p->forward, p->target, count * p->columns * sizeof *p->forward);
  if (count == 0) return PITH_OK;
  PITH_TRY(pith_cholesky_f64(context, p->factor, count, count));
  pith_triangular_solve_f64(p->factor, count, count, PITH_PLAIN, p->forward, p->columns, p->columns);
  return PITH_OK;
}

typedef struct fitting {
  const pith_pivots *pivots;
  size_t first;         /* so many pivots, in their order, ... */
  size_t *out, dropped; /* ... but for these */
  double *fit;          /* (first, columns); rows of dropped pivots are 0 */
} fitting;

/* Takes from `fit`, the forward solution so far, what the dropped pivots explain beyond the others. */
static pith_status leave_out(pith_context *context, const fitting *f) {
  size_t first = f->first, dropped = f->dropped, columns = f->pivots->columns;
  double *inverse =
      pith_allocate_zero(context, first * dropped + dropped * dropped + dropped * columns, sizeof *inverse);
  if (!inverse) return PITH_E_MEMORY;
  double *square = inverse + first * dropped, *share = square + dropped * dropped;
  for (size_t k = 0; k < dropped; k++) inverse[f->out[k] * dropped + k] = 1;
  pith_triangular_solve_f64(f->pivots->factor, first, f->pivots->count, PITH_PLAIN, inverse, dropped, dropped);
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, dropped, dropped, first, 1, inverse, dropped, inverse, dropped, 0,
                square, dropped);
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, dropped, columns, first, 1, inverse, dropped, f->fit, columns, 0,
                share, columns);
  pith_status status = pith_cholesky_f64(context, square, dropped, dropped);
  if (status == PITH_OK) {
    pith_cholesky_solve_f64(square, dropped, dropped, share, columns, columns);
    pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, first, columns, dropped, -1, inverse, dropped, share, columns, 1,
                  f->fit, columns);
  }
  pith_release(context, inverse);
  return status;
}

static pith_status fit_all(pith_context *context, const fitting *f) {
  const pith_pivots *p = f->pivots;
  memcpy(f->fit, p->forward, f->first * p->columns * sizeof *f->fit);
  if (f->dropped > 0) PITH_TRY(leave_out(context, f));
  pith_triangular_solve_f64(p->factor, f->first, p->count, PITH_TRANSPOSED, f->fit, p->columns, p->columns);
  return PITH_OK;
}

/* Drops what weighs less than `least`. Returns how many did. */
static size_t drop_weightless(fitting *f, double least, bool *is_out) {
  size_t before = f->dropped, columns = f->pivots->columns;
  for (size_t i = 0; i < f->first; i++)
    if (!is_out[i] && f->fit[i * columns + columns - 1] < least) {
      is_out[i] = true;
      f->out[f->dropped++] = i;
    }
  return f->dropped - before;
}

pith_status pith_pivots_fit(pith_context *context, const pith_pivots *p, double least, int rounds, size_t *count,
                            size_t *active, double *fit) {
  size_t columns = p->columns, wanted = *count = pith_min_size(*count, p->count);
  fitting f = {.pivots = p, .first = wanted};
  f.out = pith_allocate(context, p->count, sizeof *f.out);
  f.fit = pith_allocate(context, p->count * columns, sizeof *f.fit);
  bool *is_out = pith_allocate_zero(context, p->count, sizeof *is_out);
  pith_status status = f.out && f.fit && is_out ? fit_all(context, &f) : PITH_E_MEMORY;
  for (int round = 0; status == PITH_OK && round < rounds; round++) {
    if (drop_weightless(&f, least, is_out) == 0) break;
    f.first = pith_min_size(wanted + f.dropped, p->count);
    status = fit_all(context, &f);
  }
  if (status == PITH_OK) {
    *count = 0;
    for (size_t i = 0; i < f.first; i++) {
      if (is_out[i]) continue;
      memcpy(fit + *count * columns, f.fit + i * columns, columns * sizeof *fit);
      active[(*count)++] = i;
    }
  }
  pith_release(context, f.out);
  pith_release(context, f.fit);
  pith_release(context, is_out);
  return status;
}
