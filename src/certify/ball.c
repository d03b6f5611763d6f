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

#include "certify/frame.h"
#include "linalg/linalg.h"

enum {
  PANEL = PITH_FRAME_PANEL,
  MAX_DEGREE = 80,
  MAX_SPLIT = 12,    /* degrees up to which the operator norm is taken */
  SPLIT_ROWS = 8192, /* more rows than this: Hilbert-Schmidt norms from degree 2 on */
  DIRECTIONS = 8     /* queries that are tried before any work is done */
};

typedef struct ball {
  pith_context *context;
  const pith_frame *frame;
  double z; /* rho times the largest reach; keys below are divided by that reach */
  size_t rows, d, dv;
  size_t degrees; /* the series runs over 0 .. degrees-1 */
  double *keys, *values, *s, *full;
  double *key_gram, *value_gram, *power, *power_sums;                       /* panels; sums (PANEL, degrees, 3) */
  size_t panel_rows, panel_columns, first_row, first_column;                /* the panel at hand */
  double numerator[MAX_DEGREE], denominator[MAX_DEGREE], whole[MAX_DEGREE]; /* norms of T_t: D_N, D_Z, N */
} ball;

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
 * MAX_DEGREE factors, sums over a panel's rows and columns and over all panels; an eigenvalue solver's
 * backward error is of the same kind. Factor 4 for constants. */
static double relative_error(const pith_frame *frame) {
  double panels = (double)(frame->rows / PANEL + 1);
  double depth = 2.0 * (double)(frame->d + frame->dv) + MAX_DEGREE + 2 * PANEL + panels * panels;
  return sqrt(4 * depth * DBL_EPSILON);
}

/* |D_N(q)| at q, or infinity: no bound of this file is below it. */
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
  for (size_t t = 1; t < MAX_DEGREE; t++) {
    term *= z / (double)t;
    if ((double)t + 1 > 2 * z && 2 * term <= 1e-12) return t;
  }
  return 0;
}

static void sum_row(void *argument, size_t row, int thread) {
  (void)thread;
  const ball *b = argument;
  const double *gram = b->key_gram + row * PANEL, *value = b->value_gram + row * PANEL;
  const double *s = b->s + b->first_column, *full = b->full + b->first_column;
  double *power = b->power + row * PANEL, *sums = b->power_sums + row * b->degrees * 3;
  double own = b->s[b->first_row + row], own_full = b->full[b->first_row + row];
  size_t n = b->panel_columns;
  for (size_t j = 0; j < n; j++) power[j] = 1;
  for (size_t t = 0; t < b->degrees; t++) {
    double numerator = 0, denominator = 0, whole = 0;
#pragma omp simd reduction(+ : numerator, denominator, whole)
    for (size_t j = 0; j < n; j++) {
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

/* Fills key_gram and value_gram for rows I.. and columns J... */
static void load_panel(ball *b, size_t first_row, size_t first_column) {
  b->first_row = first_row;
  b->first_column = first_column;
  b->panel_rows = pith_min_size(PANEL, b->rows - first_row);
  b->panel_columns = pith_min_size(PANEL, b->rows - first_column);
  pith_gemm_f64(b->context, PITH_PLAIN, PITH_TRANSPOSED, b->panel_rows, b->panel_columns, b->d, 1,
                b->keys + first_row * b->d, b->d, b->keys + first_column * b->d, b->d, 0, b->key_gram, PANEL);
  pith_gemm_f64(b->context, PITH_PLAIN, PITH_TRANSPOSED, b->panel_rows, b->panel_columns, b->dv, 1,
                b->values + first_row * b->dv, b->dv, b->values + first_column * b->dv, b->dv, 0, b->value_gram, PANEL);
}

/* Hilbert-Schmidt norms of all degrees, one pass over the upper panels. */
static pith_status hilbert_schmidt(ball *b) {
  double total[MAX_DEGREE * 3] = {0};
  for (size_t i = 0; i < b->rows; i += PANEL) {
    PITH_TRY(pith_report(b->context, "certify", i, b->rows));
    for (size_t j = i; j < b->rows; j += PANEL) {
      load_panel(b, i, j);
      memset(b->power_sums, 0, b->panel_rows * b->degrees * 3 * sizeof(double));
      pith_parallel_for(b->context, b->panel_rows, sum_row, b);
      for (size_t k = 0; k < b->degrees * 3; k++) {
        double sum = 0;
        for (size_t row = 0; row < b->panel_rows; row++) sum += b->power_sums[row * b->degrees * 3 + k];
        total[k] += i == j ? sum : 2 * sum;
      }
    }
  }
  for (size_t t = 0; t < b->degrees; t++) {
    b->numerator[t] = sqrt(fmax(total[3 * t], 0));
    b->denominator[t] = sqrt(fmax(total[3 * t + 1], 0));
    b->whole[t] = sqrt(fmax(total[3 * t + 2], 0));
  }
  return PITH_OK;
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

/* Degrees 0 and 1, whose tensors are small enough to write down: a vector and a d x dv matrix. */
static pith_status low_degrees(ball *b) {
  size_t d = b->d, dv = b->dv, small = pith_min_size(d, dv);
  double *vector = pith_allocate_zero(b->context, d + dv, sizeof *vector);
  double *weighted = pith_allocate(b->context, b->rows * dv, sizeof *weighted);
  double *matrix = pith_allocate(b->context, d * dv + small * small, sizeof *matrix);
  pith_status status = PITH_E_MEMORY;
  if (!vector || !weighted || !matrix) goto done;
  double sum = 0;
  for (size_t i = 0; i < b->rows; i++) {
    sum += b->s[i];
    for (size_t j = 0; j < d; j++) vector[j] += b->s[i] * b->keys[i * d + j];
    for (size_t j = 0; j < dv; j++) vector[d + j] += weighted[i * dv + j] = b->s[i] * b->values[i * dv + j];
  }
  b->denominator[0] = fabs(sum);
  b->numerator[0] = pith_norm(vector + d, dv);
  status = PITH_OK;
  if (b->degrees == 1) goto done;
  b->denominator[1] = pith_norm(vector, d);
  double *gram = matrix + d * dv;
  pith_gemm_f64(b->context, PITH_TRANSPOSED, PITH_PLAIN, d, dv, b->rows, 1, b->keys, d, weighted, dv, 0, matrix, dv);
  if (d <= dv)
    pith_gemm_f64(b->context, PITH_PLAIN, PITH_TRANSPOSED, d, d, dv, 1, matrix, dv, matrix, dv, 0, gram, d);
  else
    pith_gemm_f64(b->context, PITH_TRANSPOSED, PITH_PLAIN, dv, dv, d, 1, matrix, dv, matrix, dv, 0, gram, dv);
  status = top_root(b->context, gram, small, &b->numerator[1]);
done:
  pith_release(b->context, vector);
  pith_release(b->context, weighted);
  pith_release(b->context, matrix);
  return status;
}

typedef struct split {
  ball *ball;
  const double *first, *second; /* panels whose product the powers of key_gram begin with; second may be NULL */
  double *power;                /* (PANEL, PANEL) */
  const double *rows;           /* the factor on one side (rows, width) */
  size_t width;
  double *product; /* (PANEL, width) */
  double *forms;   /* (degrees, width, width): sum_ij s_i s_j start_ij g_ij^t rows_i rows_j^T */
} split;

static void raise_row(void *argument, size_t row, int thread) {
  (void)thread;
  split *p = argument;
  double *power = p->power + row * PANEL;
  const double *gram = p->ball->key_gram + row * PANEL;
  for (size_t j = 0; j < p->ball->panel_columns; j++) power[j] *= gram[j];
}

static void start_row(void *argument, size_t row, int thread) {
  (void)thread;
  split *p = argument;
  const ball *b = p->ball;
  double own = b->s[b->first_row + row];
  for (size_t j = 0; j < b->panel_columns; j++) {
    double start = p->first[row * PANEL + j] * (p->second ? p->second[row * PANEL + j] : 1);
    p->power[row * PANEL + j] = own * b->s[b->first_column + j] * start;
  }
}

/* Adds the panel at hand to the forms of `count` degrees. */
static void split_panel(split *p, size_t count) {
  ball *b = p->ball;
  double twice = b->first_row == b->first_column ? 1 : 2;
  pith_parallel_for(b->context, b->panel_rows, start_row, p);
  for (size_t t = 0; t < count; t++) {
    if (t > 0) pith_parallel_for(b->context, b->panel_rows, raise_row, p);
    pith_gemm_f64(b->context, PITH_PLAIN, PITH_PLAIN, b->panel_rows, p->width, b->panel_columns, 1, p->power, PANEL,
                  p->rows + b->first_column * p->width, p->width, 0, p->product, p->width);
    pith_gemm_f64(b->context, PITH_TRANSPOSED, PITH_PLAIN, p->width, p->width, b->panel_rows, twice,
                  p->rows + b->first_row * p->width, p->width, p->product, p->width, 1,
                  p->forms + t * p->width * p->width, p->width);
  }
}

/* Operator norms of degrees 2 .. count+1 where they are smaller. T_t of D_N is split between x (d >= dv) or v
 * and the rest, T_t of D_Z between x and the rest. */
static pith_status split_operator(ball *b, size_t count) {
  bool by_key = b->d >= b->dv;
  /* One factor x or v stands outside: what begins degree 2 is g <v,v> around x, g g around v. */
  split n = {.ball = b, .rows = by_key ? b->keys : b->values, .width = by_key ? b->d : b->dv};
  n.first = b->key_gram;
  n.second = by_key ? b->value_gram : b->key_gram;
  split z = {.ball = b, .rows = b->keys, .width = b->d, .first = b->key_gram};
  split *sides[2] = {&n, &z};
  pith_status status = PITH_OK;
  for (int k = 0; k < 2; k++) {
    sides[k]->power = pith_allocate(b->context, PANEL * PANEL, sizeof(double));
    sides[k]->product = pith_allocate(b->context, PANEL * sides[k]->width, sizeof(double));
    sides[k]->forms = pith_allocate_zero(b->context, count * sides[k]->width * sides[k]->width, sizeof(double));
    if (!sides[k]->power || !sides[k]->product || !sides[k]->forms) status = PITH_E_MEMORY;
  }
  for (size_t i = 0; i < b->rows && status >= 0; i += PANEL) {
    status = pith_report(b->context, "certify", i, b->rows);
    for (size_t j = i; j < b->rows && status >= 0; j += PANEL) {
      load_panel(b, i, j);
      split_panel(&n, count);
      split_panel(&z, count);
    }
  }
  for (size_t t = 0; t < count && status >= 0; t++) {
    double root[2] = {0, 0};
    for (int k = 0; k < 2 && status >= 0; k++)
      status = top_root(b->context, sides[k]->forms + t * sides[k]->width * sides[k]->width, sides[k]->width, &root[k]);
    b->numerator[t + 2] = fmin(b->numerator[t + 2], root[0]);
    b->denominator[t + 2] = fmin(b->denominator[t + 2], root[1]);
  }
  for (int k = 0; k < 2; k++) {
    pith_release(b->context, sides[k]->power);
    pith_release(b->context, sides[k]->product);
    pith_release(b->context, sides[k]->forms);
  }
  return status;
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

static void copy_rows(ball *b, bool with_whole, double reach) {
  const pith_frame *frame = b->frame;
  double factor = reach > 0 ? 1 / reach : 1;
  for (size_t i = 0; i < frame->rows; i++) {
    if (!with_whole && frame->difference[i] == 0) continue;
    for (size_t j = 0; j < b->d; j++) b->keys[b->rows * b->d + j] = factor * frame->keys[i * b->d + j];
    memcpy(b->values + b->rows * b->dv, frame->values + i * b->dv, b->dv * sizeof(double));
    b->s[b->rows] = frame->difference[i];
    b->full[b->rows++] = frame->full[i];
  }
}

static double series(const ball *b, const double *norms) {
  double sum = 0, factor = 1;
  for (size_t t = 0; t < b->degrees; t++) {
    sum += factor * norms[t];
    factor *= b->z / (double)(t + 1);
  }
  return sum;
}

/* The bound from the norms so far. */
static double combine(const ball *b, double rho, bool with_whole, gross sums) {
  const pith_frame *frame = b->frame;
  double error = relative_error(frame) + frame->weight_error + 1e-12;
  double floor_z = exp(-rho * frame->drift) * (1 - 1e-12);
  double numerator = series(b, b->numerator) + error * sums.numerator;
  double denominator = series(b, b->denominator) + error * sums.denominator;
  double answer = frame->full_radius;
  if (with_whole) answer = fmin(answer, (series(b, b->whole) + error * sums.whole) / floor_z);
  double bound = numerator / floor_z;
  if (frame->summary_radius > 0) bound += frame->summary_radius * denominator / floor_z;
  if (denominator < floor_z) bound = fmin(bound, (numerator + answer * denominator) / (floor_z - denominator));
  return bound * (1 + 1e-9);
}

/* Degrees from 2 on whose terms are worth an operator norm: more than a hundredth of the largest. */
static size_t degrees_to_split(const ball *b) {
  double largest = 0, factor = 1;
  size_t last = 1;
  for (int pass = 0; pass < 2; pass++, factor = 1)
    for (size_t t = 0; t < b->degrees; t++) {
      double term = factor * (b->numerator[t] + b->denominator[t]);
      if (pass == 0) largest = fmax(largest, term);
      if (pass == 1 && t >= 2 && term > 0.01 * largest) last = t;
      factor *= b->z / (double)(t + 1);
    }
  return pith_min_size(last, MAX_SPLIT) - 1;
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
  ball b = {.context = context, .frame = frame, .z = rho * reach, .d = frame->d, .dv = frame->dv};
  b.degrees = series_length(b.z);
  if (b.degrees == 0 || !(relative_error(frame) * sums.numerator < trivial)) return PITH_OK;

  double *block =
      pith_allocate(context, frame->rows * (b.d + b.dv + 2) + 3 * PANEL * PANEL + PANEL * b.degrees * 3, sizeof *block);
  if (!block) return PITH_E_MEMORY;
  b.keys = block;
  b.values = b.keys + frame->rows * b.d;
  b.s = b.values + frame->rows * b.dv;
  b.full = b.s + frame->rows;
  b.key_gram = b.full + frame->rows;
  b.value_gram = b.key_gram + PANEL * PANEL;
  b.power = b.value_gram + PANEL * PANEL;
  b.power_sums = b.power + PANEL * PANEL;
  pith_status status = PITH_OK;
  if (!hopeless(frame, rho, trivial, block, block + b.d)) {
    copy_rows(&b, with_whole, reach);
    PITH_TRY_GOTO(hilbert_schmidt(&b), status, done);
    PITH_TRY_GOTO(low_degrees(&b), status, done);
    size_t split_degrees = degrees_to_split(&b);
    if (split_degrees > 0 && b.rows <= SPLIT_ROWS) PITH_TRY_GOTO(split_operator(&b, split_degrees), status, done);
    *bound = combine(&b, rho, with_whole, sums);
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
