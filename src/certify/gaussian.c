/* gaussian.c - root mean square error under q ~ N(mean, covariance), from a closed form.
 *
 * exp(<q,k>) = exp(<mean,k>) exp(<g,k>) with g = q - mean ~ N(0, S): the mean goes into the weights, and the
 * frame is centred at the means under these tilted weights, so that Z >= 1 for every g. Then with D_N, D_Z as
 * in ball.c and a' within the radius r of the summary's values
 *
 *   E |D_N|^2 = sum_ij s_i s_j <v_i,v_j> exp((x_i+x_j)^T S (x_i+x_j) / 2),   E D_Z^2 likewise,
 *   rms error <= sqrt(E |D_N|^2) + r sqrt(E D_Z^2)     (Minkowski). */
#include <float.h>
#include <math.h>
#include <string.h>

#include "certify/degrees.h"
#include "certify/frame.h"
#include "linalg/linalg.h"

enum { PANEL = PITH_DEGREE_PANEL };

typedef struct gaussian {
  pith_context *context;
  const pith_frame *frame;
  double *mapped; /* (rows, d): S x */
  double *level;  /* (rows): x^T S x / 2 - shift */
  double *gram;   /* two panels a thread: of keys, of values */
  double *parts;  /* (rows of panels, 2) */
  bool need_rms;
} gaussian;

/* Adds one row of a panel to the parts. Exponents are at most 0: that of (i,j) is at most the mean of those of
 * (i,i) and (j,j), which the shift keeps below. */
static void sum_row(const gaussian *g, const double *gram, const double *value, size_t row, size_t first_column,
                    double *part) {
  const double *s = g->frame->difference + first_column, *level = g->level + first_column;
  double own = g->frame->difference[row], numerator = 0, denominator = 0;
  size_t columns = pith_panel_rows(g->frame->rows, first_column);
  for (size_t j = 0; j < columns && own != 0; j++) {
    double factor = s[j] == 0 ? 0 : s[j] * exp(g->level[row] + level[j] + gram[j]);
    numerator += factor * value[j];
    denominator += factor;
  }
  part[0] += own * numerator;
  part[1] += own * denominator;
}

static void sum_panels(void *argument, size_t index, int thread) {
  const gaussian *g = argument;
  const pith_frame *f = g->frame;
  double *key_gram = g->gram + (size_t)thread * 2 * PANEL * PANEL, *value_gram = key_gram + PANEL * PANEL;
  size_t i = index * PANEL, rows = pith_panel_rows(f->rows, i);
  for (size_t j = i; j < f->rows; j += PANEL) {
    size_t columns = pith_panel_rows(f->rows, j);
    double part[2] = {0, 0};
    pith_gemm_f64(g->context, PITH_PLAIN, PITH_TRANSPOSED, rows, columns, f->d, 1, f->keys + i * f->d, f->d,
                  g->mapped + j * f->d, f->d, 0, key_gram, PANEL);
    pith_gemm_f64(g->context, PITH_PLAIN, PITH_TRANSPOSED, rows, columns, f->dv, 1, f->values + i * f->dv, f->dv,
                  f->values + j * f->dv, f->dv, 0, value_gram, PANEL);
    for (size_t row = 0; row < rows; row++)
      sum_row(g, key_gram + row * PANEL, value_gram + row * PANEL, i + row, j, part);
    for (int k = 0; k < 2; k++) g->parts[2 * index + (size_t)k] += i == j ? part[k] : 2 * part[k];
  }
}

/* The two quadratic forms, times exp(-2 shift). */
static void quadratic_forms(gaussian *g, double *numerator, double *denominator) {
  size_t panels = pith_panel_count(g->frame->rows);
  memset(g->parts, 0, 2 * panels * sizeof *g->parts);
  pith_parallel_for(g->context, panels, sum_panels, g);
  for (size_t i = 0; i < panels; i++) {
    *numerator += g->parts[2 * i];
    *denominator += g->parts[2 * i + 1];
  }
}

/* Relative error of the root of a form: inner products of d and dv numbers, the exponents' own rounding (their
 * size is at most `exponent`), sums over panels; and of the weights. */
static double relative_error(const pith_frame *frame, double exponent) {
  double panels = (double)(pith_panel_count(frame->rows));
  double longest = (double)pith_min_size(PITH_DEGREE_PANEL, frame->rows);
  double depth = (double)(frame->d + frame->dv) * (1 + exponent) + 2 * longest + panels * panels;
  return sqrt(4 * depth * DBL_EPSILON) + frame->weight_error;
}

/* *bound stays infinite where rounding alone is no less than the trivial bound. */
static void bound_frame(gaussian *g, const double *covariance, double trivial, double *bound, double *rms) {
  const pith_frame *f = g->frame;
  double shift = -INFINITY, exponent = 0; /* of x^T S x, half the exponent of a diagonal entry */
  pith_gemm_f64(g->context, PITH_PLAIN, PITH_PLAIN, f->rows, f->d, f->d, 1, f->keys, f->d, covariance, f->d, 0,
                g->mapped, f->d);
  for (size_t i = 0; i < f->rows; i++) {
    g->level[i] = 0;
    for (size_t j = 0; j < f->d; j++) g->level[i] += f->keys[i * f->d + j] * g->mapped[i * f->d + j];
    g->level[i] = fmax(g->level[i], 0);
    exponent = fmax(exponent, g->level[i]);
    if (f->difference[i] != 0) shift = fmax(shift, g->level[i]);
  }
  if (shift == -INFINITY) { /* nothing differs */
    *bound = *rms = 0;
    return;
  }
  if (!isfinite(exponent)) return;
  double gross = 0, gross_denominator = 0;
  for (size_t i = 0; i < f->rows; i++) {
    double weight = f->difference[i] == 0 ? 0 : (f->full[i] + f->summary[i]) * exp(g->level[i] - shift);
    gross += weight * f->size[i];
    gross_denominator += weight;
    g->level[i] = g->level[i] / 2 - shift;
  }
  double error = relative_error(f, exponent), radius = f->summary_radius, numerator = 0, denominator = 0;
  bool vacuous = !(error * gross * exp(shift) < trivial) && (gross > 0 || radius > 0);
  if (vacuous && !g->need_rms) return;
  quadratic_forms(g, &numerator, &denominator);
  numerator = fmax(numerator, 0);
  denominator = fmax(denominator, 0);
  *rms = exp(shift) * sqrt(numerator + radius * radius * denominator);
  if (!vacuous)
    *bound = exp(shift) * (sqrt(numerator) + error * gross + radius * (sqrt(denominator) + error * gross_denominator));
}

pith_status pith_certify_gaussian(pith_context *context, const pith_pairs *full, const pith_pairs *summary,
                                  const double *mean, const double *covariance, pith_certificate *out,
                                  double *numerator_rms) {
  pith_certificate certificate = {.kind = PITH_CERTIFICATE_GAUSSIAN, .confidence = 1};
  certificate.trivial = pith_value_diameter(full->values, full->n, full->dv);
  double rms = 0;
  if (full->n > 0 || summary->n > 0) {
    pith_frame *frame = NULL;
    PITH_TRY(pith_frame_create(context, full, summary, mean, &frame));
    size_t grams = (size_t)pith_threads(context) * 2 * PANEL * PANEL, panels = pith_panel_count(frame->rows);
    double *block = pith_allocate(context, frame->rows * (frame->d + 1) + grams + 2 * panels, sizeof *block);
    pith_status status = block ? PITH_OK : PITH_E_MEMORY;
    certificate.bound = rms = INFINITY;
    if (block && frame->finite) {
      gaussian g = {.context = context, .frame = frame, .need_rms = numerator_rms != NULL, .mapped = block};
      g.level = g.mapped + frame->rows * frame->d;
      g.gram = g.level + frame->rows;
      g.parts = g.gram + grams;
      bound_frame(&g, covariance, certificate.trivial, &certificate.bound, &rms);
    }
    pith_release(context, block);
    pith_frame_free(context, frame);
    PITH_TRY(status);
  }
  certificate.certified = certificate.bound < certificate.trivial || certificate.bound == 0;
  *out = certificate;
  if (numerator_rms) *numerator_rms = rms;
  return PITH_OK;
}
