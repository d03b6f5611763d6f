/* anomalies.c - anomalies of a time series, drawn by squared residual while data and model change.
 *
 *   cc anomalies.c $(pkg-config --cflags --libs pith) -lm -o anomalies
 *   ./anomalies ETTh1.csv > residuals.txt    (seven hourly series of a transformer: Zhou et al., AAAI 2021)
 *   gnuplot anomalies.gp                     (reads residuals.txt, draws anomalies.svg)
 *
 * Every reading of every series has a row of A: it, the LAGS readings before it, and a one, in units of the usual
 * change of its series; x holds the autoregressive model, (1, -w, -b), so that A x are its residuals. Each hour inserts
 * seven rows and deletes the seven that leave the window; the model learns (recursive least squares) and x follows it
 * day by day. Draws by (A x)_i^2 are then the readings that the model explains least. Two samplers follow the same
 * stream: the exact one (a Gram tree), and a sketch, which here takes less, and would take the same for any number of
 * rows. Some faults of the sensors are put in first, so that it is known what should be found; at the end they are
 * repaired, by edits of the rows that hold them, and draws go on to what is left. */
#include <math.h>
#include <pith.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  LAGS = 2,
  DIM = LAGS + 2,
  SERIES = 7,
  MOST = 17420,
  WINDOW = 8192,
  DRAWS = 30,
  EXACT_DRAWS = 300,
  BUCKETS = 1024,
  FAULTS = 12
};
static const double FAULT = 60; /* usual changes */

static double reading[SERIES][MOST];
static size_t hours;

/* Fault f is in series f mod 7, at this hour. */
static size_t hour_of(size_t f) { return 9600 + 617 * f; }

static void check(pith_status status, pith_context *context) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s\n", pith_status_name(status), pith_context_message(context));
  exit(1);
}

/* Lines: a date and seven numbers. Series end up in units of their mean change from hour to hour. */
static bool read_series(const char *path) {
  FILE *in = fopen(path, "r");
  char line[512];
  if (!in) return false;
  if (!fgets(line, sizeof line, in)) line[0] = '\0'; /* names */
  for (bool whole = true; whole && hours < MOST && fgets(line, sizeof line, in); hours += whole) {
    char *at = strchr(line, ',');
    for (size_t s = 0; s < SERIES && whole; s++) {
      whole = at && *at == ',';
      if (whole) reading[s][hours] = strtod(at + 1, &at);
    }
  }
  fclose(in);
  if (hours <= hour_of(FAULTS - 1) + LAGS) return false;
  for (size_t s = 0; s < SERIES; s++) {
    double change = 0;
    for (size_t t = 1; t < hours; t++) change += fabs(reading[s][t] - reading[s][t - 1]) / (double)(hours - 1);
    for (size_t t = 0; t < hours; t++) reading[s][t] /= change;
  }
  return true;
}

/* Row i is of series i mod 7 at hour i / 7. */
static void make_row(size_t i, double row[DIM]) {
  for (size_t j = 0; j <= LAGS; j++) row[j] = reading[i % SERIES][i / SERIES - j];
  row[DIM - 1] = 1;
}

static double residual(size_t i, const double x[DIM]) {
  double row[DIM], sum = 0;
  make_row(i, row);
  for (size_t j = 0; j < DIM; j++) sum += row[j] * x[j];
  return sum;
}

/* Recursive least squares of a reading on what came before it: `p` is the inverse of the Gram matrix. */
static void learn(size_t i, double w[DIM - 1], double p[DIM - 1][DIM - 1]) {
  enum { D = DIM - 1 };
  double row[DIM], gain[D], scale = 1, error = 0;
  make_row(i, row);
  for (size_t k = 0; k < D; k++) {
    gain[k] = 0;
    for (size_t j = 0; j < D; j++) gain[k] += p[k][j] * row[j + 1];
    scale += row[k + 1] * gain[k];
    error += w[k] * row[k + 1];
  }
  error = row[0] - error;
  for (size_t k = 0; k < D; k++) {
    w[k] += gain[k] / scale * error;
    for (size_t j = 0; j < D; j++) p[k][j] -= gain[k] * gain[j] / scale;
  }
}

/* Whether row i holds a fault, and which. */
static bool at_fault(size_t i, size_t *which) {
  for (size_t f = 0; f < FAULTS; f++)
    if (i % SERIES == f % SERIES && i / SERIES >= hour_of(f) && i / SERIES <= hour_of(f) + LAGS) {
      *which = f;
      return true;
    }
  return false;
}

static void judge(const char *name, const pith_draw *draws, size_t drawn, size_t words) {
  size_t hits = 0, deleted = 0, which = 0, named[FAULTS] = {0}, faults_named = 0;
  for (size_t i = 0; i < drawn; i++) {
    deleted += draws[i].row < (hours - WINDOW) * SERIES;
    if (!at_fault(draws[i].row, &which)) continue;
    hits++;
    named[which]++;
  }
  for (size_t f = 0; f < FAULTS; f++) faults_named += named[f] > 0;
  fprintf(stderr, "%-7s %3zu of %3zu draws at a fault, %2zu of %d faults named, %zu draws of deleted rows; %zu words\n",
          name, hits, drawn, faults_named, FAULTS, deleted, words);
}

static pith_l2 *create(pith_context *context, pith_method method, size_t draws) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  options.rows = (size_t)MOST * SERIES;
  options.dim = DIM;
  options.free_x = 1;
  options.method = method;
  options.draws = draws;
  options.decode = PITH_DECODE_SCAN; /* a draw may look all rows up: it takes milliseconds */
  options.buckets = BUCKETS;
  pith_l2 *sampler = NULL;
  check(pith_l2_create(context, &options, &sampler), context);
  return sampler;
}

int main(int argc, char **argv) {
  if (argc != 2 || !read_series(argv[1])) {
    fprintf(stderr, "usage: anomalies ETTh1.csv\n");
    return 1;
  }
  for (size_t f = 0; f < FAULTS; f++) reading[f % SERIES][hour_of(f)] += f % 2 ? -FAULT : FAULT;
  pith_context *context = NULL;
  if (pith_context_create(NULL, &context) < 0) return 1;
  pith_l2 *samplers[2] = {create(context, PITH_METHOD_EXACT, 1), create(context, PITH_METHOD_SKETCH, 2 * DRAWS)};
  double w[DIM - 1] = {1}, p[DIM - 1][DIM - 1] = {{0}}, x[DIM] = {0}, row[DIM];
  for (size_t i = 0; i < DIM - 1; i++) p[i][i] = 1;
  for (size_t i = (size_t)LAGS * SERIES; i < hours * SERIES; i++) {
    make_row(i, row);
    for (size_t s = 0; s < 2; s++) check(pith_l2_update_row(context, samplers[s], i, row, 1), context);
    if (i >= (size_t)(WINDOW + LAGS) * SERIES) {
      const size_t old = i - (size_t)WINDOW * SERIES;
      make_row(old, row);
      for (size_t s = 0; s < 2; s++) check(pith_l2_update_row(context, samplers[s], old, row, -1), context);
    }
    learn(i, w, p);
    if (i % (24 * (size_t)SERIES) && i + 1 < hours * SERIES) continue;
    pith_update change[DIM]; /* x follows the model */
    for (size_t j = 0; j < DIM; j++) {
      double next = j == 0 ? 1 : -w[j - 1];
      change[j] = (pith_update){.kind = PITH_UPDATE_X, .column = (uint32_t)j, .delta = next - x[j]};
      x[j] = next;
    }
    for (size_t s = 0; s < 2; s++) check(pith_l2_update(context, samplers[s], change, DIM, NULL), context);
  }
  static pith_draw draws[2][EXACT_DRAWS];
  size_t drawn[2] = {0};
  for (size_t s = 0; s < 2; s++) {
    check(pith_l2_draw(context, samplers[s], s ? DRAWS : EXACT_DRAWS, draws[s], &drawn[s]), context);
    judge(s ? "sketch" : "exact", draws[s], drawn[s], pith_l2_describe(samplers[s]).words);
  }
  double total = 0, of_faults = 0;
  size_t which = 0;
  for (size_t i = (hours - WINDOW) * SERIES; i < hours * SERIES; i++) {
    double y = residual(i, x);
    total += y * y;
    if (at_fault(i, &which)) of_faults += y * y;
  }
  fprintf(stderr, "law     %.3f of all draws at a fault, where %d of %d rows are\n", of_faults / total,
          FAULTS * (LAGS + 1), WINDOW * SERIES);
  for (size_t s = 0; s < 2; s++) { /* what was drawn, for the picture */
    for (size_t i = 0; i < drawn[s]; i++)
      printf("%llu %.6g %d\n", (unsigned long long)draws[s][i].row / SERIES, fabs(residual(draws[s][i].row, x)),
             (int)at_fault(draws[s][i].row, &which));
    printf("\n\n");
  }
  /* Repairs: the reading halfway between its neighbours, in every row that holds it. */
  for (size_t f = 0; f < FAULTS; f++) {
    double *at = &reading[f % SERIES][hour_of(f)], right = (at[-1] + at[1]) / 2, delta = right - *at;
    for (size_t j = 0; j <= LAGS; j++) {
      pith_update edit = {
          .kind = PITH_UPDATE_A, .column = (uint32_t)j, .row = (hour_of(f) + j) * SERIES + f % SERIES, .delta = delta};
      for (size_t s = 0; s < 2; s++) check(pith_l2_update(context, samplers[s], &edit, 1, NULL), context);
    }
    *at = right;
  }
  fprintf(stderr, "after the repairs:\n");
  for (size_t s = 0; s < 2; s++) {
    check(pith_l2_draw(context, samplers[s], s ? DRAWS : EXACT_DRAWS, draws[s], &drawn[s]), context);
    judge(s ? "sketch" : "exact", draws[s], drawn[s], pith_l2_describe(samplers[s]).words);
    pith_l2_free(samplers[s]);
  }
  pith_context_free(context);
  return 0;
}
