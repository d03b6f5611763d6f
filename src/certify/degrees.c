/* degrees.c - Hilbert-Schmidt and operator norms from panels of the Gram matrices.
 *
 * Threads share the rows of panels. Each row of panels adds up its own part, and the parts are added in
 * order, so that the bytes do not depend on the number of threads. */
#include "certify/degrees.h"

#include <math.h>
#include <string.h>

#include "linalg/linalg.h"

enum { PANEL = PITH_DEGREE_PANEL };

/* One thread's panels (PANEL, PANEL). */
typedef struct workspace {
  double *key_gram, *value_gram, *power, *product;
  size_t first_row, first_column, rows, columns;
} workspace;

typedef struct pass {
  pith_context *context;
  const pith_degrees *degrees;
  workspace *workspaces; /* one a thread */
  double *parts;         /* one a row of panels */
  size_t part;           /* its size */
  size_t last;           /* operator norms of degrees 2 .. last */
  bool by_key;           /* numerator split between x and the rest */
} pass;

static double *workspaces_create(pass *p, size_t width) {
  size_t threads = (size_t)pith_threads(p->context), each = 3 * PANEL * PANEL + PANEL * width;
  double *block = pith_allocate(p->context, threads * each, sizeof *block);
  p->workspaces = pith_allocate_zero(p->context, threads, sizeof *p->workspaces);
  for (size_t k = 0; block && p->workspaces && k < threads; k++) {
    workspace *w = p->workspaces + k;
    w->key_gram = block + k * each;
    w->value_gram = w->key_gram + PANEL * PANEL;
    w->power = w->value_gram + PANEL * PANEL;
    w->product = w->power + PANEL * PANEL;
  }
  return block;
}

static void load_panel(const pass *p, workspace *w, size_t first_row, size_t first_column) {
  const pith_degrees *g = p->degrees;
  w->first_row = first_row;
  w->first_column = first_column;
  w->rows = pith_panel_rows(g->rows, first_row);
  w->columns = pith_panel_rows(g->rows, first_column);
  pith_gemm_f64(p->context, PITH_PLAIN, PITH_TRANSPOSED, w->rows, w->columns, g->d, 1, g->keys + first_row * g->d, g->d,
                g->keys + first_column * g->d, g->d, 0, w->key_gram, PANEL);
  pith_gemm_f64(p->context, PITH_PLAIN, PITH_TRANSPOSED, w->rows, w->columns, g->dv, 1, g->values + first_row * g->dv,
                g->dv, g->values + first_column * g->dv, g->dv, 0, w->value_gram, PANEL);
}

/* Adds one row of the panel at hand to the sums (count, 3): numerator, denominator, whole. */
static void sum_row(const pith_degrees *g, const workspace *w, size_t row, double *sums) {
  const double *gram = w->key_gram + row * PANEL, *value = w->value_gram + row * PANEL;
  const double *s = g->s + w->first_column, *full = g->full + w->first_column;
  double *power = w->power, twice = w->first_row == w->first_column ? 1 : 2;
  double own = twice * g->s[w->first_row + row], own_full = twice * g->full[w->first_row + row];
  for (size_t j = 0; j < w->columns; j++) power[j] = 1;
  for (size_t t = 0; t < g->count; t++) {
    double numerator = 0, denominator = 0, whole = 0;
#pragma omp simd reduction(+ : numerator, denominator, whole)
    for (size_t j = 0; j < w->columns; j++) {
      double p = power[j], pv = p * value[j];
      numerator += s[j] * pv;
      denominator += s[j] * p;
      whole += full[j] * pv;
      power[j] = p * gram[j];
    }
    sums[3 * t] += own * numerator;
    sums[3 * t + 1] += own * denominator;
    sums[3 * t + 2] += own_full * whole;
  }
}

static void sum_panels(void *argument, size_t index, int thread) {
  const pass *p = argument;
  workspace *w = p->workspaces + thread;
  for (size_t column = index * PANEL; column < p->degrees->rows; column += PANEL) {
    load_panel(p, w, index * PANEL, column);
    for (size_t row = 0; row < w->rows; row++) sum_row(p->degrees, w, row, p->parts + index * p->part);
  }
}

static void add_parts(const pass *p, size_t count) {
  for (size_t i = 1; i < count; i++)
    for (size_t k = 0; k < p->part; k++) p->parts[k] += p->parts[i * p->part + k];
}

static pith_status hilbert_schmidt(pith_context *context, pith_degrees *g) {
  size_t panels = pith_panel_count(g->rows);
  pass p = {.context = context, .degrees = g, .part = 3 * g->count};
  double *block = workspaces_create(&p, 0);
  p.parts = pith_allocate_zero(context, panels * p.part, sizeof *p.parts);
  pith_status status = PITH_E_MEMORY;
  if (block && p.workspaces && p.parts) {
    pith_parallel_for(context, panels, sum_panels, &p);
    add_parts(&p, panels);
    for (size_t t = 0; t < g->count; t++) {
      g->numerator[t] = sqrt(fmax(p.parts[3 * t], 0));
      g->denominator[t] = sqrt(fmax(p.parts[3 * t + 1], 0));
      g->whole[t] = sqrt(fmax(p.parts[3 * t + 2], 0));
    }
    status = PITH_OK;
  }
  pith_release(context, block);
  pith_release(context, p.workspaces);
  pith_release(context, p.parts);
  return status;
}

/* Square root of the largest eigenvalue of the symmetric part of a (n x n). */
static pith_status top_root(pith_context *context, double *a, size_t n, double *root) {
  double *values = pith_allocate(context, n, sizeof *values);
  double *vectors = pith_allocate(context, n * n, sizeof *vectors);
  pith_status status = PITH_E_MEMORY;
  if (values && vectors) {
    for (size_t i = 0; i < n; i++)
      for (size_t j = 0; j < i; j++) a[i * n + j] = a[j * n + i] = (a[i * n + j] + a[j * n + i]) / 2;
    status = pith_eigen_symmetric_f64(context, a, n, values, vectors);
    if (status >= 0) *root = sqrt(fmax(values[n - 1], 0));
  }
  pith_release(context, values);
  pith_release(context, vectors);
  return status;
}

/* Degrees 0 and 1 written out: a vector and a d x dv matrix. */
static pith_status low_degrees(pith_context *context, pith_degrees *g) {
  size_t d = g->d, dv = g->dv, small = pith_min_size(d, dv);
  double *vector = pith_allocate_zero(context, d + dv, sizeof *vector);
  double *weighted = pith_allocate(context, g->rows * dv, sizeof *weighted);
  double *matrix = pith_allocate(context, d * dv + small * small, sizeof *matrix);
  pith_status status = PITH_E_MEMORY;
  if (!vector || !weighted || !matrix) goto done;
  double sum = 0, *gram = matrix + d * dv;
  for (size_t i = 0; i < g->rows; i++) {
    sum += g->s[i];
    for (size_t j = 0; j < d; j++) vector[j] += g->s[i] * g->keys[i * d + j];
    for (size_t j = 0; j < dv; j++) vector[d + j] += weighted[i * dv + j] = g->s[i] * g->values[i * dv + j];
  }
  double square = 0, value_square = 0;
  for (size_t j = 0; j < d; j++) square += vector[j] * vector[j];
  for (size_t j = 0; j < dv; j++) value_square += vector[d + j] * vector[d + j];
  g->denominator[0] = fabs(sum);
  g->numerator[0] = sqrt(value_square);
  status = PITH_OK;
  if (g->count == 1) goto done;
  g->denominator[1] = sqrt(square);
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, d, dv, g->rows, 1, g->keys, d, weighted, dv, 0, matrix, dv);
  if (d <= dv)
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, d, d, dv, 1, matrix, dv, matrix, dv, 0, gram, d);
  else
    pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, dv, dv, d, 1, matrix, dv, matrix, dv, 0, gram, dv);
  status = top_root(context, gram, small, &g->numerator[1]);
done:
  pith_release(context, vector);
  pith_release(context, weighted);
  pith_release(context, matrix);
  return status;
}

pith_status pith_degrees_measure(pith_context *context, pith_degrees *degrees) {
  PITH_TRY(hilbert_schmidt(context, degrees));
  return low_degrees(context, degrees);
}

/* Adds the panel at hand to forms (last-1, width, width): degree t has sum_ij s_i s_j c_ij g_ij^(t-1) y_i y_j^T with
 * y = rows and c_ij = key_gram or value_gram, whichever is not that of y. */
static void split_panel(const pass *p, workspace *w, const double *rows, size_t width, const double *other,
                        double *forms) {
  const pith_degrees *g = p->degrees;
  double twice = w->first_row == w->first_column ? 1 : 2;
  for (size_t t = 2; t <= p->last; t++) {
    for (size_t i = 0; i < w->rows; i++) {
      double *power = w->power + i * PANEL;
      const double *gram = w->key_gram + i * PANEL, *s = g->s + w->first_column;
      double own = g->s[w->first_row + i];
      for (size_t j = 0; j < w->columns && t == 2; j++) power[j] = own * s[j] * (other ? other[i * PANEL + j] : 1);
      for (size_t j = 0; j < w->columns; j++) power[j] *= gram[j];
    }
    double *form = forms + (t - 2) * width * width;
    pith_gemm_f64(p->context, PITH_PLAIN, PITH_PLAIN, w->rows, width, w->columns, 1, w->power, PANEL,
                  rows + w->first_column * width, width, 0, w->product, width);
    pith_gemm_f64(p->context, PITH_TRANSPOSED, PITH_PLAIN, width, width, w->rows, twice, rows + w->first_row * width,
                  width, w->product, width, 1, form, width);
  }
}

static void split_panels(void *argument, size_t index, int thread) {
  const pass *p = argument;
  const pith_degrees *g = p->degrees;
  workspace *w = p->workspaces + thread;
  double *numerator = p->parts + index * p->part, *denominator = numerator;
  denominator += (p->last - 1) * (p->by_key ? g->d * g->d : g->dv * g->dv);
  for (size_t column = index * PANEL; column < g->rows; column += PANEL) {
    load_panel(p, w, index * PANEL, column);
    if (p->by_key)
      split_panel(p, w, g->keys, g->d, w->value_gram, numerator);
    else
      split_panel(p, w, g->values, g->dv, w->key_gram, numerator);
    split_panel(p, w, g->keys, g->d, NULL, denominator);
  }
}

pith_status pith_degrees_split(pith_context *context, pith_degrees *g, size_t last) {
  if (last < 2) return PITH_OK;
  size_t panels = pith_panel_count(g->rows), width = pith_max_size(g->d, g->dv);
  pass p = {.context = context, .degrees = g, .last = last, .by_key = g->d >= g->dv};
  p.part = (last - 1) * (width * width + g->d * g->d);
  double *block = workspaces_create(&p, width);
  p.parts = pith_allocate_zero(context, panels * p.part, sizeof *p.parts);
  pith_status status = PITH_E_MEMORY;
  if (!block || !p.workspaces || !p.parts) goto done;
  pith_parallel_for(context, panels, split_panels, &p);
  add_parts(&p, panels);
  for (size_t t = 2; t <= last; t++) {
    double root = 0;
    PITH_TRY_GOTO(top_root(context, p.parts + (t - 2) * width * width, width, &root), status, done);
    g->numerator[t] = fmin(g->numerator[t], root);
    double *form = p.parts + (last - 1) * width * width + (t - 2) * g->d * g->d;
    PITH_TRY_GOTO(top_root(context, form, g->d, &root), status, done);
    g->denominator[t] = fmin(g->denominator[t], root);
  }
  status = PITH_OK;
done:
  pith_release(context, block);
  pith_release(context, p.workspaces);
  pith_release(context, p.parts);
  return status;
}
