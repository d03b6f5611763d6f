/* budget.c - what a cache budget buys on real heads: the prefix is compressed knowing only its own queries, and asked
 * by the true later queries, which see the later tokens exactly beside the summary.
 *
 *   bench_budget DATA_DIR [--set NAME] [--samples N] [--refine N] [--probes N] [--threads N] [--part N]
 *                [--auto] [--spread] [--heads]
 *
 * For each total of bytes: sum over query heads of head weight * mean squared error, as predicted and as measured
 * (times 2: the KL of the model, by the law of theory.md 4.8), and the seconds that compressing took. Sets without
 * head weights count every head once. DATA_DIR holds kv/{byte3m_text,byte3m_rep200,smollm2_book}_{q,k,v}.npy. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const struct dataset {
  const char *name;
  size_t prefix;
  double rope_base;
  bool weighted;
} datasets[] = {
    {"byte3m_text", 1536, 1e4, false}, {"byte3m_rep200", 1536, 1e4, false}, {"smollm2_book", 3072, 1e5, true}};

typedef struct task {
  pith_array keys, values, prompt;            /* the prefix and its recorded queries */
  pith_array asked, later_keys, later_values; /* what comes later */
  size_t layers, kv_heads, query_heads, rows, dv;
  const float *weight; /* (layers, kv_heads); NULL: all 1 */
  float *exact, *answer;
} task;

/* Weight * mean squared error, summed over the query heads of one kv head. */
static double head_cost(const task *t, size_t layer, size_t head) {
  size_t group = t->query_heads / t->kv_heads, size = t->rows * t->dv;
  double cost = 0;
  for (size_t j = 0; j < group; j++) {
    size_t at = (layer * t->query_heads + head * group + j) * size;
    double rms = pith_error_measure(t->exact + at, t->answer + at, t->rows, t->dv).rms;
    cost += rms * rms;
  }
  return cost * (t->weight ? t->weight[layer * t->kv_heads + head] : 1);
}

static void run(pith_context *context, const task *t, const pith_compress_options *options, const char *label,
                bool heads) {
  pith_summary *summary = NULL;
  double start = seconds(CLOCK_MONOTONIC), busy = seconds(CLOCK_PROCESS_CPUTIME_ID);
  check(pith_compress(context, &t->keys, &t->values, &t->prompt, options, &summary), context, label);
  double cost = 0;
  start = seconds(CLOCK_MONOTONIC) - start;
  busy = seconds(CLOCK_PROCESS_CPUTIME_ID) - busy;
  check(pith_summary_attend_beside(context, summary, &t->asked, &t->later_keys, &t->later_values, 0, t->answer),
        context, label);
  for (size_t i = 0; i < t->layers * t->kv_heads; i++) cost += head_cost(t, i / t->kv_heads, i % t->kv_heads);
  pith_summary_info info = pith_summary_describe(summary);
  printf("  %-12s %.4f %11.5f %11.5f %6.2f s %6.2f s\n", label, info.ratio, info.predicted_kl, 2 * cost, start, busy);
  for (size_t i = 0; heads && i < t->layers * t->kv_heads; i++) {
    pith_head_view view;
    check(pith_summary_head(context, summary, i / t->kv_heads, i % t->kv_heads, &view), context, label);
    printf("    %2zu.%zu %5zu %-4s %11.6f\n", i / t->kv_heads, i % t->kv_heads, view.points,
           pith_dtype_name(view.store), 2 * head_cost(t, i / t->kv_heads, i % t->kv_heads));
  }
  fflush(stdout);
  pith_summary_free(summary);
}

static void run_dataset(pith_context *context, const char *folder, const struct dataset *set, pith_compress_options o,
                        double only, bool even, bool heads) {
  pith_file *file[4] = {NULL};
  pith_array array[4];
  for (int i = 0; i < 3 + set->weighted; i++) {
    char path[1024], name[2] = {"qkv"[i], 0};
    (void)snprintf(path, sizeof path, "%s/kv/%s_%s.npy", folder, set->name, i < 3 ? name : "head_weights");
    check(pith_npy_open(context, path, &file[i], &array[i]), context, path);
  }
  size_t later = array[0].shape[2] - set->prefix;
  task t = {.keys = pith_array_rows(&array[1], 0, set->prefix),
            .values = pith_array_rows(&array[2], 0, set->prefix),
            .prompt = pith_array_rows(&array[0], 0, set->prefix),
            .asked = pith_array_rows(&array[0], set->prefix, later),
            .later_keys = pith_array_rows(&array[1], set->prefix, later),
            .later_values = pith_array_rows(&array[2], set->prefix, later),
            .layers = array[0].shape[0],
            .kv_heads = array[1].shape[1],
            .query_heads = array[0].shape[1],
            .rows = later,
            .dv = array[2].shape[3],
            .weight = set->weighted ? array[3].data : NULL};
  size_t size = t.layers * t.query_heads * t.rows * t.dv;
  t.exact = malloc(size * sizeof(float));
  t.answer = malloc(size * sizeof(float));
  if (!t.exact || !t.answer) exit(1);
  pith_attention_options causal;
  pith_attention_options_init(&causal);
  causal.causal = 1;
  check(pith_attention_compute(context, &t.asked, &array[1], &array[2], &causal, t.exact), context, "exact");
  printf("%s: prefix %zu, asked by %zu later queries\n", set->name, set->prefix, later);
  o.rope = PITH_ROPE_PAIRS;
  o.rope_base = set->rope_base;
  printf("  %-12s %-6s %11s %11s %8s %8s\n", "budget", "ratio", "predicted", "measured", "wall", "cpu");
  for (double part = 4; part <= 64; part *= 2) {
    if (only > 0 && part != only) continue;
    for (int spread = !even; spread < 2; spread++) {
      char label[32];
      o.ratio = 1 / part;
      o.budget = spread ? PITH_BUDGET_SPREAD : PITH_BUDGET_EVEN;
      o.head_weights = set->weighted ? &array[3] : NULL;
      (void)snprintf(label, sizeof label, "%s 1/%g", spread ? "spread" : "even", part);
      if ((double)set->prefix / part >= 24) run(context, &t, &o, label, heads);
    }
  }
  free(t.exact);
  free(t.answer);
  for (int i = 0; i < 4; i++) pith_file_close(file[i]);
}

int main(int argc, char **argv) {
  const char *only = NULL;
  bool even = true, heads = false;
  double part = 0;
  pith_compress_options o;
  pith_compress_options_init(&o);
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (argc < 2) {
    fprintf(stderr,
            "usage: %s DATA_DIR [--set NAME] [--samples N] [--refine N] [--probes N] [--threads N] [--part N] [--auto] "
            "[--spread] [--heads]\n",
            argv[0]);
    return 2;
  }
  for (int i = 2; i < argc; i++) {
    if (!strcmp(argv[i], "--set") && i + 1 < argc) only = argv[++i];
    if (!strcmp(argv[i], "--samples") && i + 1 < argc) o.samples = (size_t)strtoul(argv[++i], NULL, 10);
    if (!strcmp(argv[i], "--refine") && i + 1 < argc) o.refine = (size_t)strtoul(argv[++i], NULL, 10);
    if (!strcmp(argv[i], "--probes") && i + 1 < argc) o.probes = (size_t)strtoul(argv[++i], NULL, 10);
    if (!strcmp(argv[i], "--part") && i + 1 < argc) part = strtod(argv[++i], NULL);
    if (!strcmp(argv[i], "--threads") && i + 1 < argc) options.threads = atoi(argv[++i]);
    if (!strcmp(argv[i], "--auto")) o.store = PITH_STORE_AUTO;
    if (!strcmp(argv[i], "--spread")) even = false;
    if (!strcmp(argv[i], "--heads")) heads = true;
  }
  pith_context *context = NULL;
  if (pith_context_create(&options, &context) < 0) return 1;
  for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++)
    if (!only || !strcmp(only, datasets[i].name)) run_dataset(context, argv[1], &datasets[i], o, part, even, heads);
  pith_context_free(context);
  return 0;
}
