/* coreset.c - pith coreset experiment: how small a summary can be that errs at most eps in a whole ball. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"
#include "report.h"
#include "smallest.h"

typedef struct coreset_arguments {
  common_arguments common;
  size_t rows;
  int values_are_keys;
  const char *plot;
} coreset_arguments;

static const cli_choice value_choices[] = {{"keys", 1}, {"independent", 0}, {NULL, 0}};

static const cli_option experiment_options[] = {
    {"rows", 0, OPTION_COUNT, "N", "keys of the random instance (default 1024)",
     .offset = offsetof(coreset_arguments, rows), .least = 64, .most = 8192},
    {"values", 0, OPTION_CHOICE, "KIND", "values equal to the keys (default), or drawn as the keys are",
     .offset = offsetof(coreset_arguments, values_are_keys), .choices = value_choices},
    {"plot", 0, OPTION_FILE, "OUT.svg", "draw size against 1/eps with gnuplot",
     .offset = offsetof(coreset_arguments, plot)},
    {.name = NULL}};

static const cli_group groups[] = {
    {"Experiment", experiment_options, 0}, {"Common", common_options, 0}, {.title = NULL}};

static void defaults(void *arguments) {
  coreset_arguments *chosen = arguments;
  chosen->rows = 1024;
  chosen->values_are_keys = 1;
}

static const size_t dimensions[] = {4, 8, 16};
static const double rhos[] = {1, 2, 3, 4};
static const double levels[] = {0.2, 0.1, 0.05, 0.02, 0.01};
static const size_t hadamard_dimensions[] = {8, 32};
enum { DIMENSIONS = 3, RHOS = 4, LEVELS = 5, HADAMARDS = 2, PLOTTED = 1 /* index of the dimension drawn */ };
static const double SLOPE_LEVEL = 0.1; /* eps at which sizes are compared over rho and d */

typedef struct results {
  sweep sweeps[DIMENSIONS][RHOS][KINDS];
} results;

static double promised(size_t d, double rho, double eps) { return sqrt((double)d) * exp(rho) / eps; }

/* Least-squares slope of y against x; NaN with fewer than two points. */
typedef struct fit {
  double n, x, y, xx, xy;
} fit;

static void fit_add(fit *f, double x, double y) {
  if (!isfinite(y)) return;
  f->n++;
  f->x += x;
  f->y += y;
  f->xx += x * x;
  f->xy += x * y;
}

static double fit_slope(const fit *f) {
  return f->n < 2 ? NAN : (f->n * f->xy - f->x * f->y) / (f->n * f->xx - f->x * f->x);
}

static double size_of(const results *r, size_t d, size_t rho, kind which, double eps) {
  const sweep *s = &r->sweeps[d][rho][which];
  return smallest_within(s, s->error, eps);
}

/* d log size / d log(1/eps) at one dimension and rho; sizes below 4 say nothing. */
static double slope_in_eps(const results *r, size_t d, size_t rho, kind which) {
  fit f = {0};
  for (size_t k = 0; k < LEVELS; k++) {
    double size = size_of(r, d, rho, which, levels[k]);
    if (size >= 4) fit_add(&f, -log(levels[k]), log(size));
  }
  return fit_slope(&f);
}

/* d log size / d rho at one dimension. */
static double slope_in_rho(const results *r, size_t d, kind which) {
  fit f = {0};
  for (size_t k = 0; k < RHOS; k++) {
    double size = size_of(r, d, k, which, SLOPE_LEVEL);
    if (size >= 4) fit_add(&f, rhos[k], log(size));
  }
  return fit_slope(&f);
}

/* d log size / d log d at one rho. */
static double slope_in_d(const results *r, size_t rho, kind which) {
  fit f = {0};
  for (size_t k = 0; k < DIMENSIONS; k++)
    fit_add(&f, log((double)dimensions[k]), log(size_of(r, k, rho, which, SLOPE_LEVEL)));
  return fit_slope(&f);
}

static cli_text text_size(double size) {
  cli_text out = {"-"};
  if (isfinite(size)) snprintf(out.at, sizeof out.at, "%.*f", size < 10 ? 1 : 0, size);
  return out;
}

static cli_text text_slope(double slope) {
  cli_text out = {"-"};
  if (isfinite(slope)) snprintf(out.at, sizeof out.at, "%.2f", slope);
  return out;
}

/* ---- The three parts, each as a table and as JSON (`list` NULL: not wanted) ---- */

static void report_sizes(const results *r, FILE *out, json_t *list) {
  static const char *const headings[] = {"d",        "rho",      "eps",       "subset",
                                         "weighted", "refitted", "certified", "sqrt(d) e^rho/eps"};
  cli_table *table = table_create(headings, 8);
  for (size_t d = 0; d < DIMENSIONS; d++)
    for (size_t rho = 0; rho < RHOS; rho++)
      for (size_t k = 0; k < LEVELS; k++) {
        const sweep *refitted = &r->sweeps[d][rho][KIND_REFITTED];
        double certified = smallest_within(refitted, refitted->bound, levels[k]);
        json_t *row = json_object();
        json_object_set_new(row, "d", json_count(dimensions[d]));
        json_object_set_new(row, "rho", json_number(rhos[rho]));
        json_object_set_new(row, "eps", json_number(levels[k]));
        table_add(table, "%zu", dimensions[d]);
        table_add(table, "%g", rhos[rho]);
        table_add(table, "%g", levels[k]);
        for (int which = 0; which < KINDS; which++) {
          double size = size_of(r, d, rho, (kind)which, levels[k]);
          table_add(table, "%s", text_size(size).at);
          json_object_set_new(row, kind_name((kind)which), json_number(size));
        }
        table_add(table, "%s", text_size(certified).at);
        table_add(table, "%.0f", promised(dimensions[d], rhos[rho], levels[k]));
        json_object_set_new(row, "certified", json_number(certified));
        json_object_set_new(row, "promised", json_number(promised(dimensions[d], rhos[rho], levels[k])));
        json_array_append_new(list, row);
      }
  if (out) table_print(table, out);
  table_free(table);
}

/* One line of slopes: `what` at fixed d or rho (NaN: not fixed). */
static void add_slopes(cli_table *table, json_t *list, const char *what, double d, double rho, const double *slope,
                       double paper) {
  json_t *row = json_object();
  json_object_set_new(row, "of", json_string(what));
  json_object_set_new(row, "d", json_number(d));
  json_object_set_new(row, "rho", json_number(rho));
  table_add(table, "%s", what);
  table_add(table, "%s", text_error(d).at);
  table_add(table, "%s", text_error(rho).at);
  for (int which = 0; which < KINDS; which++) {
    table_add(table, "%s", text_slope(slope[which]).at);
    json_object_set_new(row, kind_name((kind)which), json_number(slope[which]));
  }
  table_add(table, "%s", text_slope(paper).at);
  json_object_set_new(row, "paper", json_number(paper));
  json_array_append_new(list, row);
}

static void report_slopes(const results *r, FILE *out, json_t *list) {
  static const char *const headings[] = {"<log size against", "d", "rho", "subset", "weighted", "refitted", "paper"};
  cli_table *table = table_create(headings, 7);
  double slope[KINDS];
  for (size_t d = 0; d < DIMENSIONS; d++)
    for (size_t rho = 0; rho < RHOS; rho++) {
      for (int which = 0; which < KINDS; which++) slope[which] = slope_in_eps(r, d, rho, (kind)which);
      add_slopes(table, list, "log 1/eps", (double)dimensions[d], rhos[rho], slope, 1);
    }
  for (size_t d = 0; d < DIMENSIONS; d++) {
    for (int which = 0; which < KINDS; which++) slope[which] = slope_in_rho(r, d, (kind)which);
    add_slopes(table, list, "rho, eps 0.1", (double)dimensions[d], NAN, slope, 1);
  }
  for (size_t rho = 0; rho < RHOS; rho++) {
    for (int which = 0; which < KINDS; which++) slope[which] = slope_in_d(r, rho, (kind)which);
    add_slopes(table, list, "log d, eps 0.1", NAN, rhos[rho], slope, 0.5);
  }
  if (out) table_print(table, out);
  table_free(table);
}

/* Smallest a copies at u and b at -u, all of one weight, that stay within eps of t at u and n - t at -u: the
 * answer at q = x u is tanh(x + log(ratio) / 2). */
static size_t smallest_equal_weights(double few, double many, double rho, double eps) {
  double full = log(few / many) / 2;
  for (size_t size = 2;; size++)
    for (size_t a = 1; a < size; a++) {
      double own = log((double)a / (double)(size - a)) / 2, worst = 0;
      for (int x = -100; x <= 100 && worst <= eps; x++)
        worst = fmax(worst, fabs(tanh(rho * x / 100 + own) - tanh(rho * x / 100 + full)));
      if (worst <= eps) return size;
    }
}

static pith_status report_two_points(cli_session *session, FILE *out, json_t *list) {
  enum { N = 2048 };
  static const char *const headings[] = {"rho", "keys at u", "equal weights", "e^(2 rho)", "2 weighted", "2 refitted"};
  cli_table *table = table_create(headings, 6);
  pith_status status = PITH_OK;
  for (size_t k = 0; k < 3 && status >= 0; k++) {
    instance set = instance_two_points(N, rhos[k]);
    size_t few = 0;
    while (set.keys[2 * few] > 0) few++;
    size_t size = smallest_equal_weights((double)few, (double)(N - few), rhos[k], SLOPE_LEVEL);
    double error[KINDS] = {0}, bound = 0, trivial = 0;
    for (int which = KIND_WEIGHTED; which < KINDS && status >= 0; which++)
      status = measure_size(session, &set, rhos[k], (kind)which, 2, &error[which], &bound, &trivial);
    table_add(table, "%g", rhos[k]);
    table_add(table, "%zu of %d", few, N);
    table_add(table, "%zu", size);
    table_add(table, "%.0f", exp(2 * rhos[k]));
    table_add(table, "%.1e", error[KIND_WEIGHTED]);
    table_add(table, "%.1e", error[KIND_REFITTED]);
    json_t *row = json_object();
    json_object_set_new(row, "rho", json_number(rhos[k]));
    json_object_set_new(row, "eps", json_number(SLOPE_LEVEL));
    json_object_set_new(row, "equal_weights", json_count(size));
    json_object_set_new(row, "error_of_2_weighted", json_number(error[KIND_WEIGHTED]));
    json_object_set_new(row, "error_of_2_refitted", json_number(error[KIND_REFITTED]));
    json_array_append_new(list, row);
    instance_free(&set);
  }
  if (out && status >= 0) table_print(table, out);
  table_free(table);
  return status;
}

/* Error that every set of true rows without e_1 has at q = rho e_1, whatever its weights. */
static double hadamard_floor(size_t d, double rho) { return 2 * sinh(rho) / (2 * cosh(rho) + 2 * (double)d - 2); }

static pith_status report_hadamard(cli_session *session, FILE *out, json_t *list) {
  static const char *const headings[] = {"d", "rho", "rows", "points", "subset", "weighted", "refitted", "floor"};
  cli_table *table = table_create(headings, 8);
  pith_status status = PITH_OK;
  for (size_t h = 0; h < HADAMARDS; h++)
    for (size_t k = 0; k < 3 && status >= 0; k++) {
      size_t d = hadamard_dimensions[h];
      instance set = instance_hadamard(d);
      double lower = hadamard_floor(d, rhos[k]);
      table_add(table, "%zu", d);
      table_add(table, "%g", rhos[k]);
      table_add(table, "%zu", set.n);
      table_add(table, "%zu", set.n - 1);
      json_t *row = json_object();
      json_object_set_new(row, "d", json_count(d));
      json_object_set_new(row, "rho", json_number(rhos[k]));
      json_object_set_new(row, "points", json_count(set.n - 1));
      for (int which = 0; which < KINDS && status >= 0; which++) {
        double error = 0, bound = 0, trivial = 0;
        status = measure_size(session, &set, rhos[k], (kind)which, set.n - 1, &error, &bound, &trivial);
        table_add(table, "%s", text_error(error).at);
        json_object_set_new(row, kind_name((kind)which), json_number(error));
      }
      table_add(table, "%s", text_error(lower).at);
      json_object_set_new(row, "floor", json_number(lower));
      json_array_append_new(list, row);
      instance_free(&set);
    }
  if (out && status >= 0) table_print(table, out);
  table_free(table);
  return status;
}

/* ---- The run ---- */

static pith_status sweep_all(cli_session *session, results *r) {
  const coreset_arguments *arguments = session->arguments;
  for (size_t d = 0; d < DIMENSIONS; d++) {
    instance set = instance_sphere(arguments->rows, dimensions[d], session->common->seed, arguments->values_are_keys);
    for (size_t rho = 0; rho < RHOS; rho++)
      for (int which = 0; which < KINDS; which++) {
        char label[64];
        snprintf(label, sizeof label, "d %zu, rho %g, %s", dimensions[d], rhos[rho], kind_name((kind)which));
        session->progress.label = label;
        pith_status status =
            sweep_run(session, &set, rhos[rho], (kind)which, levels[LEVELS - 1], &r->sweeps[d][rho][which]);
        session->progress.label = NULL;
        if (status < 0) {
          instance_free(&set);
          return status;
        }
      }
    instance_free(&set);
  }
  return PITH_OK;
}

static void draw(cli_plot *plot, const results *r) {
  char title[64];
  for (size_t rho = 0; rho < RHOS; rho += 2) {
    for (int which = 0; which < KINDS; which++) {
      const sweep *s = &r->sweeps[PLOTTED][rho][which];
      snprintf(title, sizeof title, "%s, rho %g", kind_name((kind)which), rhos[rho]);
      plot_line(plot, title, false);
      for (size_t k = 0; k < s->count; k++) plot_point(plot, (double)s->points[k], s->error[k]);
    }
    const sweep *s = &r->sweeps[PLOTTED][rho][KIND_REFITTED];
    snprintf(title, sizeof title, "certified, rho %g", rhos[rho]);
    plot_line(plot, title, false);
    for (size_t k = 0; k < s->count; k++)
      if (s->bound[k] < s->trivial) plot_point(plot, (double)s->points[k], s->bound[k]);
    snprintf(title, sizeof title, "sqrt(d) exp(rho) / points, rho %g", rhos[rho]);
    plot_line(plot, title, true);
    for (size_t k = 0; k < r->sweeps[PLOTTED][rho][KIND_SUBSET].count; k++) {
      double points = (double)r->sweeps[PLOTTED][rho][KIND_SUBSET].points[k];
      double error = promised(dimensions[PLOTTED], rhos[rho], 1) / points;
      if (error <= 2) plot_point(plot, points, error);
    }
  }
}

static pith_status report(cli_session *session, const results *r) {
  const coreset_arguments *arguments = session->arguments;
  FILE *out = session->common->json || session->common->quiet ? NULL : session->out;
  json_t *object = json_report(), *sizes = json_array(), *slopes = json_array(), *two = json_array(),
         *hadamard = json_array();
  if (out)
    fprintf(out,
            "%zu unit-norm keys, values %s; smallest size whose error is at most eps for all |q| <= rho,\n"
            "as far as a search finds it; certified: the smallest refitted one whose ball bound is at most eps\n\n",
            arguments->rows, value_choices[!arguments->values_are_keys].name);
  report_sizes(r, out, sizes);
  if (out) fputs("\nSlopes\n\n", out);
  report_slopes(r, out, slopes);
  if (out)
    fputs("\nTwo keys u and -u: smallest size within 0.1 with equal weights, and the error of two points\n\n", out);
  pith_status status = report_two_points(session, out, two);
  if (out && status >= 0) fputs("\nKeys e_i and -e_i with Hadamard values: error with one point missing\n\n", out);
  if (status >= 0) status = report_hadamard(session, out, hadamard);
  json_object_set_new(object, "rows", json_count(arguments->rows));
  json_object_set_new(object, "values", json_string(value_choices[!arguments->values_are_keys].name));
  json_object_set_new(object, "seed", json_count(session->common->seed));
  json_object_set_new(object, "sizes", sizes);
  json_object_set_new(object, "slopes", slopes);
  json_object_set_new(object, "two_points", two);
  json_object_set_new(object, "hadamard", hadamard);
  json_object_set_new(object, "seconds", json_number(session_seconds(session)));
  if (status >= 0 && session->common->json)
    json_print(object, session->out);
  else
    json_decref(object);
  return status;
}

static int run(cli_session *session) {
  const coreset_arguments *arguments = session->arguments;
  if (strcmp(session->operands[0], "experiment") != 0)
    return usage_error(session->command, "unknown word '%s'; there is: experiment", session->operands[0]);
  cli_plot *plot = NULL;
  int code = EXIT_DONE;
  if (arguments->plot) code = session_output(session, "--plot", arguments->plot);
  if (!code && arguments->plot)
    code = plot_create(session, "--plot", "points", "largest error found in the ball", &plot);
  if (code) return code;
  results *r = allocate_zero(1, sizeof *r);
  pith_status status = sweep_all(session, r);
  if (status >= 0) status = report(session, r);
  if (status < 0) code = session_fail(session, status);
  if (!code && plot) {
    draw(plot, r);
    code = plot_write(session, plot, arguments->plot);
  }
  plot_free(plot);
  free(r);
  return code;
}

const cli_command command_coreset = {
    .name = "coreset",
    .summary = "how small a summary can be for a whole ball of queries",
    .usage = "experiment [--values~keys|independent] [--rows~N] [--json] [--plot~OUT.svg]",
    .description =
        "Measures the smallest summary whose error is at most eps for every query up to the norm rho, against\n"
        "eps, rho and d, for true subsets, weighted subsets and refitted points, beside the size\n"
        "sqrt(d) e^rho / eps that is known to suffice (arXiv 2605.05602). docs/coresets.md reads the figures.",
    .examples = "    pith coreset experiment --plot coresets.svg\n",
    .groups = groups,
    .arguments_size = sizeof(coreset_arguments),
    .defaults = defaults,
    .least_operands = 1,
    .most_operands = 1,
    .operand = "word, 'experiment',",
    .run = run};
