/* real_heads.c - attention error on real heads: the prefix is compressed knowing only its own queries, and
 * asked by the true later queries.
 *
 *   bench_real_heads DATA_DIR [--engines a,b,...] [--set NAME] [--samples N] [--refine N] [--fold] [--per-head]
 *
 * The later queries see the later tokens exactly and causally, beside the summary of the prefix.
 * DATA_DIR holds kv/{byte3m_text,byte3m_rep200,smollm2_book}_{q,k,v}.npy. */
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
} datasets[] = {{"byte3m_text", 1536, 1e4}, {"byte3m_rep200", 1536, 1e4}, {"smollm2_book", 3072, 1e5}};

typedef struct task {
  pith_array keys, values, prompt;            /* the prefix and its recorded queries */
  pith_array asked, later_keys, later_values; /* what comes later */
  size_t layers, query_heads, rows, dv;
  float *exact, *answer;
} task;

static double relative_error(const task *t, bool per_head) {
  double sum = 0;
  size_t heads = t->layers * t->query_heads, size = t->rows * t->dv;
  for (size_t h = 0; h < heads; h++) {
    double error = pith_error_measure(t->exact + h * size, t->answer + h * size, t->rows, t->dv).relative;
    if (per_head) printf("    layer %zu query head %zu: %.4f\n", h / t->query_heads, h % t->query_heads, error);
    sum += error / (double)heads;
  }
  return sum;
}

static void run(pith_context *context, const task *t, const char *engine, double rope_base, size_t samples,
                size_t refine, bool fold, bool per_head) {
  printf("  %-12s", engine);
  double spent[3] = {0};
  size_t size = 0;
  for (double ratio = 0.25; ratio > 0.06; ratio /= 2) {
    pith_compress_options options;
    pith_compress_options_init(&options);
    options.engine = engine;
    options.ratio = ratio;
    options.budget = PITH_BUDGET_EVEN;
    options.rope = PITH_ROPE_PAIRS;
    options.rope_base = rope_base;
    options.samples = samples;
    options.refine = refine;
    options.fold_weights = fold;
    pith_summary *summary = NULL;
    double start = seconds(CLOCK_MONOTONIC);
    check(pith_compress(context, &t->keys, &t->values, &t->prompt, &options, &summary), context, engine);
    spent[size++] = seconds(CLOCK_MONOTONIC) - start;
    check(pith_summary_attend_beside(context, summary, &t->asked, &t->later_keys, &t->later_values, 0, t->answer),
          context, engine);
    printf("  %.4f", relative_error(t, false));
    if (per_head) {
      printf("\n");
      (void)relative_error(t, true);
    }
    fflush(stdout);
    pith_summary_free(summary);
  }
  printf("  %6.1f %6.1f %6.1f s\n", spent[0], spent[1], spent[2]);
}

static void run_dataset(pith_context *context, const char *folder, const struct dataset *set, const char *engines,
                        size_t samples, size_t refine, bool fold, bool per_head) {
  pith_file *file[3];
  pith_array array[3];
  for (int i = 0; i < 3; i++) {
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/kv/%s_%c.npy", folder, set->name, "qkv"[i]);
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
            .query_heads = array[0].shape[1],
            .rows = later,
            .dv = array[2].shape[3]};
  size_t size = t.layers * t.query_heads * t.rows * t.dv;
  t.exact = malloc(size * sizeof(float));
  t.answer = malloc(size * sizeof(float));
  if (!t.exact || !t.answer) exit(1);
  pith_attention_options causal;
  pith_attention_options_init(&causal);
  causal.causal = 1;
  check(pith_attention_compute(context, &t.asked, &array[1], &array[2], &causal, t.exact), context, "exact");
  printf("%s: prefix %zu, asked by %zu later queries; mean over query heads of mean error / mean norm\n", set->name,
         set->prefix, later);
  printf("  %-12s  %-6s  %-6s  %-6s  %s\n", "engine", "1/4", "1/8", "1/16", "seconds, all heads");
  char list[512];
  (void)snprintf(list, sizeof list, "%s", engines);
  for (char *name = strtok(list, ","); name; name = strtok(NULL, ","))
    run(context, &t, name, set->rope_base, samples, refine, fold, per_head);
  free(t.exact);
  free(t.answer);
  for (int i = 0; i < 3; i++) pith_file_close(file[i]);
}

int main(int argc, char **argv) {
  const char *engines = "nystrom,halving,expected,heavy,accumulated,recent,uniform,balance", *only = NULL;
  size_t samples = 0, refine = 300;
  bool per_head = false, fold = false;
  if (argc < 2) {
    fprintf(stderr,
            "usage: %s DATA_DIR [--engines LIST] [--set NAME] [--samples N] [--refine N] [--fold] [--per-head]\n",
            argv[0]);
    return 2;
  }
  for (int i = 2; i < argc; i++) {
    if (!strcmp(argv[i], "--engines") && i + 1 < argc) engines = argv[++i];
    if (!strcmp(argv[i], "--set") && i + 1 < argc) only = argv[++i];
    if (!strcmp(argv[i], "--samples") && i + 1 < argc) samples = (size_t)strtoul(argv[++i], NULL, 10);
    if (!strcmp(argv[i], "--refine") && i + 1 < argc) refine = (size_t)strtoul(argv[++i], NULL, 10);
    if (!strcmp(argv[i], "--fold")) fold = true;
    if (!strcmp(argv[i], "--per-head")) per_head = true;
  }
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
  pith_context *context = NULL;
  if (pith_context_create(&options, &context) < 0) return 1;
  for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++)
    if (!only || !strcmp(only, datasets[i].name))
      run_dataset(context, argv[1], &datasets[i], engines, samples, refine, fold, per_head);
  pith_context_free(context);
  return 0;
}
