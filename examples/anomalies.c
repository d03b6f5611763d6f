/* anomalies.c - anomalies of a time series, drawn by squared residual while data and model change.
 *
 *   cc anomalies.c $(pkg-config --cflags --libs pith) -lm -o anomalies
 *   ./anomalies ETTh1.csv > residuals.txt    (hourly oil temperature, Zhou et al., AAAI 2021; the last column)
 *   gnuplot anomalies.gp                     (reads residuals.txt, draws anomalies.svg)
 *
 * Row t of A holds a reading, the LAGS readings before it and a one; x holds the autoregressive model, (1, -w, -b), so
 * that A x are its residuals. Each hour inserts a row and deletes the one that leaves the window; the model learns
 * (recursive least squares) and x follows it day by day. Draws by (A x)_t^2 are then the hours that the model explains
 * least. Two samplers follow the same stream: the exact one (a Gram tree), and a sketch, whose size would be the same
 * for any window. Some faults of the sensor are put in first, so that it is known what should be found; at the end
 * those that were found are repaired, by edits of the rows that hold them, and draws go on to what is left. */
#include <math.h>
#include <pith.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAGS = 2, DIM = LAGS + 2, MOST = 20000, WINDOW = 8192, DRAWS = 90, EXACT_DRAWS = 300, FAULTS = 6 };
static const size_t faults[FAULTS] = {9600, 10800, 12345, 13700, 15000, 16800}; /* hours */
static const double FAULT = 15;                                                 /* degrees */

static double reading[MOST];
static size_t hours;

static void check(pith_status status, pith_context *context) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s\n", pith_status_name(status), pith_context_message(context));
  exit(1);
}

static bool read_series(const char *path) {
  FILE *in = fopen(path, "r");
  char line[512];
  if (!in) return false;
  if (!fgets(line, sizeof line, in)) line[0] = '\0'; /* names */
  while (hours < MOST && fgets(line, sizeof line, in)) {
    const char *last = strrchr(line, ',');
    if (last) reading[hours++] = strtod(last + 1, NULL);
  }
  fclose(in);
  return hours > faults[FAULTS - 1];
}

static void make_row(size_t t, double row[DIM]) {
  for (size_t j = 0; j <= LAGS; j++) row[j] = reading[t - j];
  row[DIM - 1] = 1;
}

static double residual(size_t t, const double x[DIM]) {
  double row[DIM], sum = 0;
  make_row(t, row);
  for (size_t j = 0; j < DIM; j++) sum += row[j] * x[j];
  return sum;
}

/* Recursive least squares of a reading on what came before it: `p` is the inverse of the Gram matrix. */
static void learn(size_t t, double w[DIM - 1], double p[DIM - 1][DIM - 1]) {
  enum { D = DIM - 1 };
  double row[DIM], gain[D], scale = 1, error = 0;
  make_row(t, row);
  for (size_t i = 0; i < D; i++) {
    gain[i] = 0;
    for (size_t j = 0; j < D; j++) gain[i] += p[i][j] * row[j + 1];
    scale += row[i + 1] * gain[i];
    error += w[i] * row[i + 1];
  }
  error = row[0] - error;
  for (size_t i = 0; i < D; i++) {
    w[i] += gain[i] / scale * error;
    for (size_t j = 0; j < D; j++) p[i][j] -= gain[i] * gain[j] / scale;
  }
}

/* How many of the draws name a faulty hour, or one whose lags hold it; and how many faults they name. */
static size_t near_fault(size_t t, size_t *which) {
  for (size_t f = 0; f < FAULTS; f++)
    if (t >= faults[f] && t <= faults[f] + LAGS) {
      *which = f;
      return 1;
    }
  return 0;
}

static void judge(const char *name, const pith_draw *draws, size_t drawn, size_t words) {
  size_t hits = 0, which = 0, found[FAULTS] = {0}, faults_found = 0;
  for (size_t i = 0; i < drawn; i++)
    if (near_fault(draws[i].row, &which)) {
      hits++;
      found[which]++;
    }
  for (size_t f = 0; f < FAULTS; f++) faults_found += found[f] > 0;
  fprintf(stderr, "%-7s %zu of %zu draws at a fault, %zu of %d faults named; %zu words\n", name, hits, drawn,
          faults_found, FAULTS, words);
}

static pith_l2 *create(pith_context *context, pith_method method, size_t draws) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  options.rows = MOST;
  options.dim = DIM;
  options.free_x = 1;
  options.method = method;
  options.draws = draws;
  options.decode = PITH_DECODE_SCAN; /* a draw may look all hours up: they are few */
  options.buckets = 512;
  pith_l2 *sampler = NULL;
  check(pith_l2_create(context, &options, &sampler), context);
  return sampler;
}

int main(int argc, char **argv) {
  if (argc != 2 || !read_series(argv[1])) {
    fprintf(stderr, "usage: anomalies ETTh1.csv\n");
    return 1;
  }
  for (size_t f = 0; f < FAULTS; f++) reading[faults[f]] += f % 2 ? -FAULT : FAULT;
  pith_context *context = NULL;
  if (pith_context_create(NULL, &context) < 0) return 1;
  pith_l2 *samplers[2] = {create(context, PITH_METHOD_EXACT, 1), create(context, PITH_METHOD_SKETCH, 2 * DRAWS)};
  double w[DIM - 1] = {1}, p[DIM - 1][DIM - 1] = {{0}}, x[DIM] = {0}, row[DIM];
  for (size_t i = 0; i < DIM - 1; i++) p[i][i] = 1;
  for (size_t t = LAGS; t < hours; t++) {
    make_row(t, row);
    for (size_t s = 0; s < 2; s++) check(pith_l2_update_row(context, samplers[s], t, row, 1), context);
    if (t >= WINDOW + LAGS) {
      make_row(t - WINDOW, row);
      for (size_t s = 0; s < 2; s++) check(pith_l2_update_row(context, samplers[s], t - WINDOW, row, -1), context);
    }
    learn(t, w, p);
    if (t % 24 && t + 1 < hours) continue;
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
  double total = 0, at_faults = 0;
  size_t which = 0;
  for (size_t t = hours - WINDOW; t < hours; t++) {
    double y = residual(t, x);
    total += y * y;
    if (near_fault(t, &which)) at_faults += y * y;
  }
  fprintf(stderr, "law     %.3f of all draws at a fault, which are %zu of %d hours\n", at_faults / total,
          (size_t)FAULTS * (LAGS + 1), WINDOW);
  for (size_t s = 0; s < 2; s++) { /* what was drawn, for the picture */
    for (size_t i = 0; i < drawn[s]; i++)
      printf("%llu %.6g %d\n", (unsigned long long)draws[s][i].row, fabs(residual(draws[s][i].row, x)),
             (int)near_fault(draws[s][i].row, &which));
    printf("\n\n");
  }
  /* Repairs: the reading halfway between its neighbours, in every row that holds it. */
  for (size_t f = 0; f < FAULTS; f++) {
    double right = (reading[faults[f] - 1] + reading[faults[f] + 1]) / 2, delta = right - reading[faults[f]];
    for (size_t j = 0; j <= LAGS; j++) {
      pith_update edit = {.kind = PITH_UPDATE_A, .column = (uint32_t)j, .row = faults[f] + j, .delta = delta};
      for (size_t s = 0; s < 2; s++) check(pith_l2_update(context, samplers[s], &edit, 1, NULL), context);
    }
    reading[faults[f]] = right;
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
