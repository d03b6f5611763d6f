/* sparsity_windows.c - equal cost on mixed lengths: a fixed number of keys against one that grows as n^C. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sparsity_rows.h"

enum { MIXED = 6, BUDGETS = 2, POWERS = 4 };
static const size_t budgets[BUDGETS] = {64, 512};
static const double powers[POWERS] = {0, 0.4, 0.7, 1};

/* k at a length, such that the mean over the lengths is the budget; a row has no more than n. */
static void equal_cost(size_t budget, double power, size_t k[MIXED]) {
  double low = 0, high = 1e9;
  for (int step = 0; step < 200; step++) {
    double alpha = (low + high) / 2, total = 0;
    for (size_t s = 0; s < MIXED; s++) {
      double n = (double)row_size(s);
      k[s] = (size_t)fmin(n, fmax(1, floor(alpha * pow(n, power))));
      total += (double)k[s];
    }
    if (total > (double)(budget * MIXED))
      high = alpha;
    else
      low = alpha;
  }
  for (size_t s = 0; s < MIXED; s++)
    k[s] = (size_t)fmin((double)row_size(s), fmax(1, floor(low * pow((double)row_size(s), power))));
}

void sparsity_windows(cli_session *session, FILE *out, json_t *list) {
  static const char *const headings[] = {"<regime",     "mean k",    "C",          "k at 256",
                                         "k at 262144", "mean tail", "worst tail", "mean rms"};
  enum { DRAWS = 8 };
  const size_t longest = row_size(MIXED - 1);
  cli_table *table = table_create(headings, 8);
  double *z = allocate_zero(2 * longest, sizeof *z), *weight = z + longest;
  static double tail[REGIMES][BUDGETS][POWERS][MIXED], rms[REGIMES][BUDGETS][POWERS][MIXED];
  memset(tail, 0, sizeof tail);
  memset(rms, 0, sizeof rms);
  for (size_t s = 0; s < MIXED; s++)
    for (uint32_t trial = 0; trial < DRAWS; trial++) {
      const size_t n = row_size(s);
      row_draw(session->common->seed, (uint32_t)(s * MOST_DRAWS) + trial, n, z);
      for (size_t i = 0; i < REGIMES; i++) {
        row_weigh(z, n, row_sigma(row_regimes[i], (double)n), weight);
        const row_ends all = row_behind(weight, n, 0);
        for (size_t b = 0; b < BUDGETS; b++)
          for (size_t p = 0; p < POWERS; p++) {
            size_t k[MIXED];
            equal_cost(budgets[b], powers[p], k);
            const row_ends cut = row_behind(weight, n, k[s]);
            tail[i][b][p][s] += cut.mass / DRAWS;
            rms[i][b][p][s] += row_rms_error(all, cut) / DRAWS;
          }
      }
    }
  for (size_t i = 0; i < REGIMES; i++)
    for (size_t b = 0; b < BUDGETS; b++)
      for (size_t p = 0; p < POWERS; p++) {
        size_t k[MIXED];
        double mean = 0, worst = 0, mean_rms = 0;
        equal_cost(budgets[b], powers[p], k);
        for (size_t s = 0; s < MIXED; s++) {
          mean += tail[i][b][p][s] / MIXED;
          worst = fmax(worst, tail[i][b][p][s]);
          mean_rms += rms[i][b][p][s] / MIXED;
        }
        table_add(table, "%s", regime_name(row_regimes[i]).at);
        table_add(table, "%zu", budgets[b]);
        table_add(table, powers[p] > 0 ? "%g" : "fixed", powers[p]);
        table_add(table, "%zu", k[0]);
        table_add(table, "%zu", k[MIXED - 1]);
        table_add(table, "%.3g", mean);
        table_add(table, "%.3g", worst);
        table_add(table, "%.3g", mean_rms);
        json_t *row = json_object();
        json_object_set_new(row, "regime", json_string(regime_name(row_regimes[i]).at));
        json_object_set_new(row, "mean_k", json_count(budgets[b]));
        json_object_set_new(row, "power", json_number(powers[p]));
        json_object_set_new(row, "mean_tail", json_number(mean));
        json_object_set_new(row, "worst_tail", json_number(worst));
        json_object_set_new(row, "mean_rms", json_number(mean_rms));
        json_array_append_new(list, row);
      }
  if (out) table_print(table, out);
  table_free(table);
  free(z);
}
