/* ball.c - a bound on the error that holds for every query up to the norm rho.
 *
 * With D_N(q) = sum_i s_i exp(<q,x_i>) v_i and D_Z(q) = sum_i s_i exp(<q,x_i>) (s: summary minus full weights,
 * x, v centred) the error is |D_N - D_Z a'| / Z with a' = Attn' - v-bar and, by Jensen, Z >= 1. The
 * exponential is taken apart by degree: |D_N(q)| <= sum_t rho^t/t! |T_t|, T_t = sum_i s_i x_i^{(x)t} (x) v_i.
 * With the Hilbert-Schmidt norm |T_t|^2 = sum_ij s_i s_j <x_i,x_j>^t <v_i,v_j> this is never worse than the
 * kernel bound exp(rho^2 / 2 lambda^2) |M_lambda| for any lambda (Cauchy-Schwarz over the degrees), so there
 * is no lambda to search. For the degrees that matter the norm is replaced by that of T_t as an operator
 * between one factor (x or v, the larger space) and the rest, up to sqrt(max(d, dv)) times smaller: this is
 * the split-operator norm, its largest eigenvalue taken of an explicit matrix, so that it is an upper bound.
 *
 * Everything is in double. `error` below bounds what rounding and the cut series may hide. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "certify/degrees.h"
#include "certify/frame.h"

enum {
  MAX_SPLIT = 12,    /* degrees up to which the operator norm is taken */
  SPLIT_ROWS = 8192, /* more rows than this: Hilbert-Schmidt norms from degree 2 on */
  DIRECTIONS = 8     /* queries that are tried before any work is done */
};

/* Sums of |s| |v| e^{rho |x|}, |s| e^{rho |x|} and the same for the full set: what every relative error is
 * relative to. */
typedef struct gross {
  double numerator, denominator, whole;
} gross;

static gross gross_sums(const pith_frame *frame, double rho, bool with_exact) {
  gross sum = {0, 0, 0};
  for (size_t i = 0; i < frame->rows; i++) {
    double weight = frame->full[i] + frame->summary[i];
    double growth = exp(rho * frame->reach[i]);
    if (frame->difference[i] != 0) {
      sum.denominator += weight * growth;
      if (frame->size[i] > 0) sum.numerator += weight * growth * frame->size[i];
    }
    if (with_exact && frame->size[i] > 0) sum.whole += frame->full[i] * growth * frame->size[i];
  }
  return sum;
}

/* Error of a norm sqrt(sum_ij ...) relative to its gross sum: inner products of d and dv numbers, up to
 * PITH_DEGREE_LIMIT factors, sums over a panel's rows and columns and over all panels; an eigenvalue solver's
 * backward error is of the same kind. Factor 4 for constants. */
static double relative_error(const pith_frame *frame) {
  double panels = (double)(pith_panel_count(frame->rows));
  double longest = (double)pith_min_size(PITH_DEGREE_PANEL, frame->rows);
  double depth = 2.0 * (double)(frame->d + frame->dv) + PITH_DEGREE_LIMIT + 2 * longest + panels * panels;
  return sqrt(4 * depth * DBL_EPSILON);
}

/* |D_N(q)|: no bound of this file is below it. */
static double numerator_at(const pith_frame *frame, const double *q, double *out) {
  memset(out, 0, frame->dv * sizeof *out);
  for (size_t i = 0; i < frame->rows; i++) {
    if (frame->difference[i] == 0) continue;
    double logit = 0;
    for (size_t j = 0; j < frame->d; j++) logit += q[j] * frame->keys[i * frame->d + j];
    double factor = frame->difference[i] * exp(fmin(logit, 600));
    for (size_t j = 0; j < frame->dv; j++) out[j] += factor * frame->values[i * frame->dv + j];
  }
  return pith_norm(out, frame->dv);
}

/* True when some query of the ball has |D_N(q)| >= limit, tried along the rows of largest weight there. */
static bool hopeless(const pith_frame *frame, double rho, double limit, double *query, double *out) {
  double last = INFINITY;
  size_t last_row = 0;
  for (int direction = 0; direction < DIRECTIONS; direction++) {
    double best = -INFINITY;
    size_t row = frame->rows;
    for (size_t i = 0; i < frame->rows; i++) {
      double s = fabs(frame->difference[i]), size = frame->size[i], reach = frame->reach[i];
      if (s == 0 || size == 0 || reach == 0) continue;
      double score = log(s) + log(size) + rho * reach;
      bool after = score < last || (score == last && i > last_row);
      if (after && score > best) {
        best = score;
        row = i;
      }
    }
    if (row == frame->rows) return false;
    last = best;
    last_row = row;
    for (size_t j = 0; j < frame->d; j++) query[j] = rho * frame->keys[row * frame->d + j] / frame->reach[row];
    if (numerator_at(frame, query, out) >= limit) return true;
  }
  return false;
}

/* Smallest number of terms that leaves a relative remainder of at most 1e-12 of e^z. */
static size_t series_length(double z) {
  double term = exp(-z); /* e^-z z^t / t! */
  for (size_t t = 1; t < PITH_DEGREE_LIMIT; t++) {
    term *= z / (double)t;
    if ((double)t + 1 > 2 * z && 2 * term <= 1e-12) return t;
  }
  return 0;
}

/* The rows that count, keys divided by their largest reach. The full set's own rows are needed for the bound
 * on |Attn - v-bar|; where they reach too far only the rows that differ are taken. */
static bool choose_rows(const pith_frame *frame, double rho, bool *with_whole, double *reach) {
  double all = 0, differing = 0;
  size_t active = 0;
  for (size_t i = 0; i < frame->rows; i++) {
    all = fmax(all, frame->reach[i]);
    if (frame->difference[i] == 0) continue;
    differing = fmax(differing, frame->reach[i]);
    active++;
  }
  *with_whole = series_length(rho * all) > 0;
  *reach = *with_whole ? all : differing;
  return active > 0;
}

/* Copies them; the arrays have room for all. */
static void copy_rows(const pith_frame *frame, bool with_whole, double reach, pith_degrees *g) {
  double factor = reach > 0 ? 1 / reach : 1;
  for (size_t i = 0; i < frame->rows; i++) {
    if (!with_whole && frame->difference[i] == 0) continue;
    for (size_t j = 0; j < g->d; j++) g->keys[g->rows * g->d + j] = factor * frame->keys[i * g->d + j];
    memcpy(g->values + g->rows * g->dv, frame->values + i * g->dv, g->dv * sizeof(double));
    g->s[g->rows] = frame->difference[i];
    g->full[g->rows++] = frame->full[i];
  }
}

/* sum_t z^t / t! norms_t */
static double series(const double *norms, size_t count, double z) {
  double sum = 0, factor = 1;
  for (size_t t = 0; t < count; t++) {
    sum += factor * norms[t];
    factor *= z / (double)(t + 1);
  }
  return sum;
}

static double combine(const pith_frame *frame, const pith_degrees *g, double rho, double z, bool with_whole,
                      gross sums) {
  double error = relative_error(frame) + frame->weight_error + 1e-12;
  double least = exp(-rho * frame->drift) * (1 - 1e-12); /* of Z */
  double numerator = series(g->numerator, g->count, z) + error * sums.numerator;
  double denominator = series(g->denominator, g->count, z) + error * sums.denominator;
  /* The answer of the summary lies in the hull of its values ... */
  double bound = numerator / least;
  if (frame->summary_radius > 0) bound += frame->summary_radius * denominator / least;
  /* ... or, with the roles changed, that of the full set in its own, and Z' >= Z - |D_Z|. */
  double answer = frame->full_radius;
  if (with_whole) answer = fmin(answer, (series(g->whole, g->count, z) + error * sums.whole) / least);
  if (denominator < least) bound = fmin(bound, (numerator + answer * denominator) / (least - denominator));
  return bound * (1 + 1e-9);
}

/* The last degree whose term is worth an operator norm: more than a hundredth of the largest. */
static size_t last_to_split(const pith_degrees *g, double z) {
  double largest = 0, factor = 1, term[PITH_DEGREE_LIMIT];
  for (size_t t = 0; t < g->count; t++) {
    term[t] = factor * (g->numerator[t] + g->denominator[t]);
    largest = fmax(largest, term[t]);
    factor *= z / (double)(t + 1);
  }
  size_t last = 0;
  for (size_t t = 2; t < pith_min_size(g->count, MAX_SPLIT + 1); t++)
    if (term[t] > 0.01 * largest) last = t;
  return last;
}

static pith_status bound_frame(pith_context *context, const pith_frame *frame, double rho, double trivial,
                               double *bound) {
  bool with_whole = false;
  double reach = 0;
  *bound = 0;
  if (!choose_rows(frame, rho, &with_whole, &reach)) return PITH_OK;
  if (frame->full_radius == 0 && frame->summary_radius == 0) return PITH_OK;
  *bound = INFINITY;
  gross sums = gross_sums(frame, rho, with_whole);
  pith_degrees g = {.d = frame->d, .dv = frame->dv, .count = series_length(rho * reach)};
  /* Rounding alone would be no less than the trivial bound. */
  if (g.count == 0 || !(relative_error(frame) * sums.numerator < trivial)) return PITH_OK;

  double *block = pith_allocate(context, (frame->rows + 1) * (g.d + g.dv + 2), sizeof *block);
  if (!block) return PITH_E_MEMORY;
  g.keys = block;
  g.values = g.keys + frame->rows * g.d;
  g.s = g.values + frame->rows * g.dv;
  g.full = g.s + frame->rows;
  pith_status status = PITH_OK;
  if (!hopeless(frame, rho, trivial, block, block + g.d)) {
    copy_rows(frame, with_whole, reach, &g);
    PITH_TRY_GOTO(pith_degrees_measure(context, &g), status, done);
    if (g.rows <= SPLIT_ROWS)
      PITH_TRY_GOTO(pith_degrees_split(context, &g, last_to_split(&g, rho * reach)), status, done);
    *bound = combine(frame, &g, rho, rho * reach, with_whole, sums);
  }
done:
  pith_release(context, block);
  return status;
}

pith_status pith_certify_ball(pith_context *context, const pith_pairs *full, const pith_pairs *summary, double rho,
                              pith_certificate *out) {
  if (!(rho >= 0) || !isfinite(rho))
    return pith_fail(context, PITH_E_ARGUMENT, "rho is %g; it must be a number of at least 0", rho);
  pith_certificate certificate = {.kind = PITH_CERTIFICATE_BALL, .confidence = 1, .rho = rho};
  certificate.trivial = pith_value_diameter(full->values, full->n, full->dv);
  if (full->n > 0 || summary->n > 0) {
    pith_frame *frame = NULL;
    PITH_TRY(pith_frame_create(context, full, summary, NULL, &frame));
    certificate.bound = INFINITY;
    pith_status status = PITH_OK;
    if (frame->finite) status = bound_frame(context, frame, rho, certificate.trivial, &certificate.bound);
    pith_frame_free(context, frame);
    PITH_TRY(status);
  }
  certificate.certified = certificate.bound < certificate.trivial || certificate.bound == 0;
  *out = certificate;
  return PITH_OK;
}
