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

#include "certify/frame.h"
#include "linalg/linalg.h"

enum { PANEL = PITH_FRAME_PANEL };

typedef struct gaussian {
  pith_context *context;
  const pith_frame *frame;
  double *mapped; /* (rows, d): S x */
  double *level;  /* (rows): x^T S x / 2 - shift */
  bool need_rms;
  double *key_gram, *value_gram, *sums;
  size_t first_row, first_column, panel_columns;
} gaussian;

static void sum_row(void *argument, size_t row, int thread) {
  (void)thread;
  const gaussian *g = argument;
  const double *gram = g->key_gram + row * PANEL, *value = g->value_gram + row * PANEL;
  const double *s = g->frame->difference + g->first_column, *level = g->level + g->first_column;
  double own = g->frame->difference[g->first_row + row], own_level = g->level[g->first_row + row];
  double numerator = 0, denominator = 0;
  for (size_t j = 0; j < g->panel_columns && own != 0; j++) {
    /* <= |s_i s_j| exp of the mean of both diagonal exponents, which the shift keeps at most 0 */
    double factor = s[j] == 0 ? 0 : s[j] * exp(own_level + level[j] + gram[j]);
    numerator += factor * value[j];
    denominator += factor;
  }
  g->sums[2 * row] = own * numerator;
  g->sums[2 * row + 1] = own * denominator;
}

/* The two quadratic forms, times exp(-2 shift). */
static pith_status quadratic_forms(gaussian *g, double *numerator, double *denominator) {
  const pith_frame *f = g->frame;
  for (size_t i = 0; i < f->rows; i += PANEL) {
    PITH_TRY(pith_report(g->context, "certify", i, f->rows));
    for (size_t j = i; j < f->rows; j += PANEL) {
      size_t rows = pith_min_size(PANEL, f->rows - i);
      g->first_row = i;
      g->first_column = j;
      g->panel_columns = pith_min_size(PANEL, f->rows - j);
      pith_gemm_f64(g->context, PITH_PLAIN, PITH_TRANSPOSED, rows, g->panel_columns, f->d, 1, f->keys + i * f->d, f->d,
                    g->mapped + j * f->d, f->d, 0, g->key_gram, PANEL);
      pith_gemm_f64(g->context, PITH_PLAIN, PITH_TRANSPOSED, rows, g->panel_columns, f->dv, 1, f->values + i * f->dv,
                    f->dv, f->values + j * f->dv, f->dv, 0, g->value_gram, PANEL);
      pith_parallel_for(g->context, rows, sum_row, g);
      for (size_t row = 0; row < rows; row++) {
        *numerator += (i == j ? 1 : 2) * g->sums[2 * row];
        *denominator += (i == j ? 1 : 2) * g->sums[2 * row + 1];
      }
    }
  }
  return PITH_OK;
}

/* Relative error of the root of a form: inner products of d and dv numbers, the exponents' own rounding (their
 * size is at most `exponent`), sums over panels; and of the weights. */
static double relative_error(const pith_frame *frame, double exponent) {
  double panels = (double)(frame->rows / PANEL + 1);
  double depth = (double)(frame->d + frame->dv) * (1 + exponent) + 2 * PANEL + panels * panels;
  return sqrt(4 * depth * DBL_EPSILON) + frame->weight_error;
}

/* *bound stays infinite where rounding alone is no less than the trivial bound. */
static pith_status bound_frame(gaussian *g, const double *covariance, double trivial, double *bound, double *rms) {
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
    return PITH_OK;
  }
  if (!isfinite(exponent)) return PITH_OK;
  double gross = 0, gross_denominator = 0;
  for (size_t i = 0; i < f->rows; i++) {
    double weight = f->difference[i] == 0 ? 0 : (f->full[i] + f->summary[i]) * exp(g->level[i] - shift);
    gross += weight * f->size[i];
    gross_denominator += weight;
    g->level[i] = g->level[i] / 2 - shift;
  }
  double error = relative_error(f, exponent), radius = f->summary_radius, numerator = 0, denominator = 0;
  bool vacuous = !(error * gross * exp(shift) < trivial) && (gross > 0 || radius > 0);
  if (vacuous && !g->need_rms) return PITH_OK;
  PITH_TRY(quadratic_forms(g, &numerator, &denominator));
  numerator = fmax(numerator, 0);
  denominator = fmax(denominator, 0);
  *rms = exp(shift) * sqrt(numerator + radius * radius * denominator);
  if (!vacuous)
    *bound = exp(shift) * (sqrt(numerator) + error * gross + radius * (sqrt(denominator) + error * gross_denominator));
  return PITH_OK;
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
    size_t sizes[] = {frame->rows * frame->d, frame->rows, PANEL * PANEL, PANEL * PANEL, 2 * PANEL};
    size_t total = 0;
    for (size_t k = 0; k < 5; k++) total += sizes[k];
    double *block = pith_allocate(context, total, sizeof *block);
    pith_status status = block ? PITH_OK : PITH_E_MEMORY;
    certificate.bound = rms = INFINITY;
    if (block && frame->finite) {
      gaussian g = {.context = context, .frame = frame, .need_rms = numerator_rms != NULL, .mapped = block};
      g.level = g.mapped + sizes[0];
      g.key_gram = g.level + sizes[1];
      g.value_gram = g.key_gram + sizes[2];
      g.sums = g.value_gram + sizes[3];
      status = bound_frame(&g, covariance, certificate.trivial, &certificate.bound, &rms);
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
