/* sparsity_experiment.c - pith sparsity experiment: the claims of arXiv 2404.02690 on Gaussian logits.
 *
 * Two errors are told of keeping the k largest weights P_k, made to sum to 1, in place of all, P. `tail` is the mass of
 * the others: the total variation, and the error of the answer for the worst values of diameter 1. `rms` is |P -
 * P_k|_2: the root mean square error of the answer when values are independent with variance 1. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "plot.h"
#include "sparsity.h"
#include "sparsity/profile.h"
#include "sparsity_rows.h"

enum { RULES = 4, LARGEST = 1 << 20, DRAWN = 1 << 22 };

static const char *const rule_names[RULES] = {"log n", "64", "n^0.6", "n^0.8"};
static const double LARGE = 0.01; /* weight that counts as large */

static size_t kept(size_t rule, double n) {
  const double k[RULES] = {log(n), 64, pow(n, 0.6), pow(n, 0.8)};
  return (size_t)fmin(n, ceil(k[rule]));
}

/* Means over draws at one regime and size. */
typedef struct cell {
  double above, entries, participation, largest;
  double tail[RULES], rms[RULES], norm; /* norm: |P|_2, the size of an answer from independent values */
} cell;

typedef struct results {
  cell at[REGIMES][SIZES];
  size_t draws[SIZES];
  double n[REGIMES][SIZES * MOST_DRAWS], k[REGIMES][SIZES * MOST_DRAWS]; /* every draw's entries, for the fit */
  size_t group[SIZES * MOST_DRAWS], points;
  double *collapse; /* (COLLAPSE_SIZES, STEPS, 3) */
} results;

static void add_row(const double *weight, size_t n, double share, cell *out, double *entries) {
  const row_ends all = row_behind(weight, n, 0);
  size_t above = 0;
  while (above < n && weight[above] >= LARGE) above++;
  *entries = (double)pith_entries_for(weight, n, 0.05);
  out->above += share * (double)above;
  out->entries += share * *entries;
  out->participation += share / all.squares;
  out->largest += share * weight[0];
  out->norm += share * sqrt(all.squares);
  for (size_t rule = 0; rule < RULES; rule++) {
    const row_ends tail = row_behind(weight, n, kept(rule, (double)n));
    out->tail[rule] += share * tail.mass;
    out->rms[rule] += share * row_rms_error(all, tail);
  }
}

static int draw_all(cli_session *session, results *r) {
  double *z = allocate_zero(2 * (size_t)LARGEST, sizeof *z), *weight = z + LARGEST;
  int code = EXIT_DONE;
  for (size_t s = 0; s < SIZES && !code; s++) {
    const size_t n = row_size(s);
    r->draws[s] = n * MOST_DRAWS < DRAWN ? MOST_DRAWS : DRAWN / n;
    for (size_t trial = 0; trial < r->draws[s] && !code; trial++) {
      if (progress_report(&session->progress, "drawing", s * MOST_DRAWS + trial, (size_t)SIZES * MOST_DRAWS))
        code = session_fail(session, PITH_E_CANCELLED);
      row_draw(session->common->seed, (uint32_t)(s * MOST_DRAWS + trial), n, z);
      for (size_t i = 0; i < REGIMES; i++) {
        row_weigh(z, n, row_sigma(row_regimes[i], (double)n), weight);
        r->n[i][r->points] = (double)n;
        add_row(weight, n, 1 / (double)r->draws[s], &r->at[i][s], &r->k[i][r->points]);
      }
      r->group[r->points] = r->points;
      r->points++;
    }
  }
  free(z);
  return code;
}

/* ---- Entries against n ---- */

static void report_entries(const results *r, FILE *out, json_t *list) {
  static const char *const headings[] = {"<regime", "n",      "draws", "sigma",         "above 0.01",  "Gauss",
                                         "paper",   "k 0.05", "Gauss", "participation", "n e^-sigma^2"};
  cli_table *table = table_create(headings, 11);
  for (size_t i = 0; i < REGIMES; i++)
    for (size_t s = 0; s < SIZES; s++) {
      const cell *c = &r->at[i][s];
      const double n = (double)row_size(s), sigma = row_sigma(row_regimes[i], n);
      const struct {
        const char *name;
        double value;
      } figures[] = {{"sigma", sigma},
                     {"above", c->above},
                     {"above_predicted", pith_gaussian_above(n, sigma, LARGE)},
                     {"above_bound", pith_gaussian_above_bound(n, sigma, LARGE, 0.05)},
                     {"k_eps", c->entries},
                     {"k_predicted", pith_gaussian_entries(n, sigma, 0.05)},
                     {"participation", c->participation},
                     {"participation_predicted", n * exp(-sigma * sigma)}};
      json_t *row = json_object();
      json_object_set_new(row, "regime", json_string(regime_name(row_regimes[i]).at));
      json_object_set_new(row, "n", json_count(row_size(s)));
      table_add(table, "%s", regime_name(row_regimes[i]).at);
      table_add(table, "%zu", row_size(s));
      table_add(table, "%zu", r->draws[s]);
      for (size_t f = 0; f < sizeof figures / sizeof *figures; f++) {
        json_object_set_new(row, figures[f].name, json_number(figures[f].value));
        table_add(table, "%.4g", figures[f].value);
      }
      json_array_append_new(list, row);
    }
  if (out) table_print(table, out);
  table_free(table);
}

/* C of k_0.05 = alpha n^C over all sizes, and the slope between the last two. */
static void report_exponents(const results *r, FILE *out, json_t *list) {
  static const char *const headings[] = {"<regime", "C", "95 %", "alpha", "last slope"};
  cli_table *table = table_create(headings, 5);
  for (size_t i = 0; i < REGIMES; i++) {
    const pith_power_law law = pith_power_law_fit(r->n[i], r->k[i], r->group, r->points);
    const double last = log(r->at[i][SIZES - 1].entries / r->at[i][SIZES - 2].entries) / log(4);
    table_add(table, "%s", regime_name(row_regimes[i]).at);
    table_add(table, "%.3f", law.exponent);
    table_add(table, "%.3f..%.3f", law.low, law.high);
    table_add(table, "%.3g", law.alpha);
    table_add(table, "%.3f", last);
    json_t *row = json_object();
    json_object_set_new(row, "regime", json_string(regime_name(row_regimes[i]).at));
    json_object_set_new(row, "exponent", json_number(law.exponent));
    json_object_set_new(row, "exponent_interval", json_pack("[ff]", law.low, law.high));
    json_object_set_new(row, "alpha", json_number(law.alpha));
    json_object_set_new(row, "last_slope", json_number(last));
    json_array_append_new(list, row);
  }
  if (out) table_print(table, out);
  table_free(table);
}

/* ---- Errors of k = log n, 64, n^C against n ---- */

static void report_errors(const results *r, FILE *out, json_t *list) {
  static const char *const headings[] = {"<regime",   "n",  "tail log n", "64",    "n^0.6", "n^0.8",
                                         "rms log n", "64", "n^0.6",      "n^0.8", "|P|_2"};
  cli_table *table = table_create(headings, 11);
  for (size_t i = 0; i < REGIMES; i++)
    for (size_t s = 0; s < SIZES; s++) {
      const cell *c = &r->at[i][s];
      json_t *row = json_object(), *tail = json_object(), *rms = json_object();
      table_add(table, "%s", regime_name(row_regimes[i]).at);
      table_add(table, "%zu", row_size(s));
      for (size_t rule = 0; rule < RULES; rule++) {
        table_add(table, "%.3g", c->tail[rule]);
        json_object_set_new(tail, rule_names[rule], json_number(c->tail[rule]));
      }
      for (size_t rule = 0; rule < RULES; rule++) {
        table_add(table, "%.3g", c->rms[rule]);
        json_object_set_new(rms, rule_names[rule], json_number(c->rms[rule]));
      }
      table_add(table, "%.3g", c->norm);
      json_object_set_new(row, "regime", json_string(regime_name(row_regimes[i]).at));
      json_object_set_new(row, "n", json_count(row_size(s)));
      json_object_set_new(row, "tail", tail);
      json_object_set_new(row, "rms", rms);
      json_object_set_new(row, "norm", json_number(c->norm));
      json_array_append_new(list, row);
    }
  if (out) table_print(table, out);
  table_free(table);
}

/* ---- Collapse across sigma_c = sqrt(2 ln n) ---- */

enum { COLLAPSE_SIZES = 3, STEPS = 8, COLLAPSE_DRAWS = 8, FIGURES = 3 };
static const size_t collapse_size[COLLAPSE_SIZES] = {1, 3, 5}; /* 2^10, 2^14, 2^18 */

static double collapse_step(size_t step) { return 0.25 * (double)(step + 1); }

static double *collapse_at(const results *r, size_t size, size_t step) {
  return r->collapse + (size * STEPS + step) * FIGURES;
}

static void report_collapse(cli_session *session, results *r, FILE *out, json_t *list) {
  static const char *const headings[] = {"n",      "sigma_c",      "sigma / sigma_c", "largest weight",
                                         "k 0.05", "participation"};
  cli_table *table = table_create(headings, 6);
  double *z = allocate_zero(2 * row_size(collapse_size[COLLAPSE_SIZES - 1]), sizeof *z);
  r->collapse = allocate_zero((size_t)COLLAPSE_SIZES * STEPS * FIGURES, sizeof *r->collapse);
  for (size_t c = 0; c < COLLAPSE_SIZES; c++) {
    const size_t n = row_size(collapse_size[c]);
    const double freezing = sqrt(2 * log((double)n));
    double *weight = z + n;
    for (uint32_t trial = 0; trial < COLLAPSE_DRAWS; trial++) {
      row_draw(session->common->seed, (uint32_t)(collapse_size[c] * MOST_DRAWS) + trial, n, z);
      for (size_t step = 0; step < STEPS; step++) {
        double *figure = collapse_at(r, c, step);
        row_weigh(z, n, collapse_step(step) * freezing, weight);
        figure[0] += weight[0] / COLLAPSE_DRAWS;
        figure[1] += (double)pith_entries_for(weight, n, 0.05) / COLLAPSE_DRAWS;
        figure[2] += 1 / row_behind(weight, n, 0).squares / COLLAPSE_DRAWS;
      }
    }
    for (size_t step = 0; step < STEPS; step++) {
      const double *figure = collapse_at(r, c, step);
      table_add(table, "%zu", n);
      table_add(table, "%.2f", freezing);
      table_add(table, "%g", collapse_step(step));
      for (size_t f = 0; f < FIGURES; f++) table_add(table, "%.4g", figure[f]);
      json_t *row = json_object();
      json_object_set_new(row, "n", json_count(n));
      json_object_set_new(row, "sigma", json_number(collapse_step(step) * freezing));
      json_object_set_new(row, "of_critical", json_number(collapse_step(step)));
      json_object_set_new(row, "largest", json_number(figure[0]));
      json_object_set_new(row, "k_eps", json_number(figure[1]));
      json_object_set_new(row, "participation", json_number(figure[2]));
      json_array_append_new(list, row);
    }
  }
  if (out) table_print(table, out);
  table_free(table);
  free(z);
}

/* ---- The picture: entries, tail mass, rms error, collapse ---- */

enum { PANELS = 4 };
enum { FIXED_SHOWN = 1, GROWING_SHOWN = 6 }; /* row_regimes whose errors are drawn: sigma = 2, sigma^2 = 2 ln n */

static void draw_entries(cli_plot *plot, const results *r) {
  plot_title(plot, "Entries that hold 95 % of the mass; dashed: the Gaussian formula");
  for (size_t i = 0; i < REGIMES; i++) {
    plot_line(plot, regime_name(row_regimes[i]).at, false);
    for (size_t s = 0; s < SIZES; s++) plot_point(plot, (double)row_size(s), r->at[i][s].entries);
  }
  for (size_t i = 0; i < REGIMES; i++) {
    plot_line(plot, "", true);
    for (size_t s = 0; s < SIZES; s++) {
      const double n = (double)row_size(s), k = pith_gaussian_entries(n, row_sigma(row_regimes[i], n), 0.05);
      if (k >= 1) plot_point(plot, n, k);
    }
  }
}

static void draw_errors(cli_plot *plot, const results *r, bool tails) {
  plot_title(plot, tails ? "Mass lost by k entries (total variation)" : "Error of the answer, independent values");
  const size_t shown[] = {FIXED_SHOWN, GROWING_SHOWN};
  for (size_t j = 0; j < 2; j++)
    for (size_t rule = 0; rule < RULES; rule++) {
      char title[96];
      snprintf(title, sizeof title, "k = %s, %s", rule_names[rule], regime_name(row_regimes[shown[j]]).at);
      plot_line(plot, title, false);
      for (size_t s = 0; s < SIZES; s++) {
        const cell *c = &r->at[shown[j]][s];
        plot_point(plot, (double)row_size(s), tails ? c->tail[rule] : c->rms[rule]);
      }
    }
}

static void draw_collapse(cli_plot *plot, const results *r) {
  plot_title(plot, "Collapse: participation ratio across sigma_c = sqrt(2 ln n)");
  for (size_t c = 0; c < COLLAPSE_SIZES; c++) {
    char title[32];
    snprintf(title, sizeof title, "n = %zu", row_size(collapse_size[c]));
    plot_line(plot, title, false);
    for (size_t step = 0; step < STEPS; step++) plot_point(plot, collapse_step(step), collapse_at(r, c, step)[2]);
  }
}

static int create_panels(cli_session *session, cli_plot *panels[PANELS]) {
  static const char *const axes[PANELS][2] = {{"n", "entries"},
                                              {"n", "tail mass"},
                                              {"n", "root mean square error"},
                                              {"sigma / sigma_c", "participation ratio"}};
  int code = EXIT_DONE;
  for (size_t i = 0; i < PANELS && !code; i++)
    code = plot_create(session, "--plot", axes[i][0], axes[i][1], &panels[i]);
  return code;
}

static int draw(cli_session *session, const results *r, cli_plot *panels[PANELS], const char *path) {
  draw_entries(panels[0], r);
  draw_errors(panels[1], r, true);
  draw_errors(panels[2], r, false);
  draw_collapse(panels[3], r);
  return plots_write(session, panels, PANELS, path);
}

/* ---- The run ---- */

static void report(cli_session *session, results *r) {
  FILE *out = session->common->json || session->common->quiet ? NULL : session->out;
  json_t *object = json_report(), *entries = json_array(), *exponents = json_array(), *errors = json_array(),
         *windows = json_array(), *collapse = json_array();
  if (out) fputs("Entries: weight 0.01 or more, 95 % of the mass, participation ratio\n\n", out);
  report_entries(r, out, entries);
  if (out) fputs("\nExponent of k 0.05 = alpha n^C over these sizes\n\n", out);
  report_exponents(r, out, exponents);
  if (out) fputs("\nErrors of keeping the k largest: tail mass, and rms for independent values\n\n", out);
  report_errors(r, out, errors);
  if (out) fputs("\nEqual cost on lengths 256 ... 262144: fixed k against k = alpha n^C\n\n", out);
  sparsity_windows(session, out, windows);
  if (out) fputs("\nCollapse across sigma_c = sqrt(2 ln n)\n\n", out);
  report_collapse(session, r, out, collapse);
  json_object_set_new(object, "seed", json_count(session->common->seed));
  json_object_set_new(object, "entries", entries);
  json_object_set_new(object, "exponents", exponents);
  json_object_set_new(object, "errors", errors);
  json_object_set_new(object, "windows", windows);
  json_object_set_new(object, "collapse", collapse);
  json_object_set_new(object, "seconds", json_number(session_seconds(session)));
  if (session->common->json)
    json_print(object, session->out);
  else
    json_decref(object);
}

int sparsity_experiment(cli_session *session) {
  const sparsity_arguments *arguments = session->arguments;
  cli_plot *panels[PANELS] = {0};
  int code = EXIT_DONE;
  if (arguments->plot) code = session_output(session, "--plot", arguments->plot);
  if (!code && arguments->plot) code = create_panels(session, panels);
  results *r = allocate_zero(1, sizeof *r);
  if (!code) code = draw_all(session, r);
  if (!code) report(session, r);
  if (!code && arguments->plot) code = draw(session, r, panels, arguments->plot);
  for (size_t i = 0; i < PANELS; i++) plot_free(panels[i]);
  free(r->collapse);
  free(r);
  return code;
}
