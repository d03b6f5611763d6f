/* bench_cache KEYS.npy VALUES.npy QUERIES.npy [HEAD_WEIGHTS.npy]: a stream of real heads through caches that do not
 * grow, block after block of 512 tokens, the byte limit in parts of what all tokens take. Error: mean over heads of
 * |answer - exact| / |exact| over the last 1024 tokens, each asked when it was in the newest block. PITH_CACHE_LINE:
 * one line "engine ratio budget store recent older window refine" instead of the table. */
#include <pith.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 512, ASKED = 2 }; /* tokens pushed at once; last blocks that are judged */

/* Processor time of all threads: the machine may be busy with other things. */
static double now(void) {
  struct timespec t;
  (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(pith_context *context, pith_status status) {
  if (status >= 0) return;
  fprintf(stderr, "bench_cache: %s\n", pith_context_message(context));
  exit(1);
}

typedef struct heads {
  pith_array keys, values, queries, weights;
  int weighted;
} heads;

static pith_array layer_rows(const pith_array *all, size_t layer, size_t from, size_t count) {
  pith_array rows = pith_array_rows(all, from, count);
  rows.data = (const char *)rows.data + (ptrdiff_t)layer * rows.stride[0];
  rows.ndim = 3;
  for (size_t i = 0; i < 3; i++) {
    rows.shape[i] = rows.shape[i + 1];
    rows.stride[i] = rows.stride[i + 1];
  }
  return rows;
}

/* The answers of block `at`, over all keys up to there. */
static void answer_exactly(pith_context *context, const heads *h, size_t layer, size_t at, float *out) {
  pith_attention_options options;
  pith_attention_options_init(&options);
  options.causal = 1;
  pith_array k = layer_rows(&h->keys, layer, 0, at + BLOCK), v = layer_rows(&h->values, layer, 0, at + BLOCK);
  pith_array q = layer_rows(&h->queries, layer, at, BLOCK);
  must(context, pith_attention_compute(context, &q, &k, &v, &options, out));
}

/* Adds the errors of one block's answers: relative, and 2 * head weight * squared error of every kv head. */
static void judge(const heads *h, const pith_cache_options *o, const float *exact, const float *out, double *error,
                  double *predicted) {
  size_t count = o->layers * o->query_heads, size = BLOCK * o->dv;
  for (size_t i = 0; i < count; i++) {
    pith_error stats = pith_error_measure(exact + i * size, out + i * size, BLOCK, o->dv);
    double weight = h->weighted ? (double)((const float *)h->weights.data)[i / (o->query_heads / o->kv_heads)] : 1;
    *error += stats.relative / (double)(count * ASKED);
    predicted[i / (o->query_heads / o->kv_heads)] += 2 * weight * stats.rms * stats.rms / ASKED;
  }
}

static void run(pith_context *context, const heads *h, const pith_cache_options *o, double ratio, const float *exact) {
  size_t n = h->keys.shape[2] / BLOCK * BLOCK, size = o->query_heads * BLOCK * o->dv;
  float *out = malloc(o->layers * size * sizeof *out);
  pith_cache *cache = NULL;
  must(context, pith_cache_create(context, o, &cache));
  if (h->weighted) must(context, pith_cache_set_head_weights(context, cache, &h->weights));
  size_t all = o->layers * o->kv_heads;
  double folding = 0, pushing = 0, asking = 0, error = 0, sum = 0, *predicted = calloc(all, sizeof *predicted);
  for (size_t at = 0; at < n; at += BLOCK) {
    for (size_t layer = 0; layer < o->layers; layer++) {
      pith_array k = layer_rows(&h->keys, layer, at, BLOCK), v = layer_rows(&h->values, layer, at, BLOCK);
      pith_array q = layer_rows(&h->queries, layer, at, BLOCK);
      double t = now();
      must(context, pith_cache_push(context, cache, layer, &k, &v, &q));
      pushing += now() - t;
      t = now();
      must(context, pith_cache_attend(context, cache, layer, &q, out + layer * size, NULL));
      asking += now() - t;
    }
    if (at >= n - ASKED * BLOCK)
      judge(h, o, exact + (at / BLOCK - (n / BLOCK - ASKED)) * o->layers * size, out, &error, predicted);
    double t = now();
    must(context, pith_cache_fold(context, cache, PITH_CACHE_ALL));
    folding += now() - t;
  }
  pith_cache_info info = pith_cache_describe(cache);
  for (size_t i = 0; i < all; i++) sum += predicted[i];
  printf("%-12s %7.4f %-7s %-5s %8.4f %9.5f %9.2f %9.2f %9.2f %9.2f\n", info.engine, ratio,
         o->budget == PITH_BUDGET_EVEN ? "even" : "spread", o->store ? pith_dtype_name(o->store) : "auto", error, sum,
         1e6 * folding / (double)(n * all), 1e6 * pushing / (double)(n * all), 1e6 * asking / (double)(n * all),
         1e3 * info.max_step_seconds);
  for (size_t i = 0; getenv("PITH_CACHE_HEADS") && i < all; i++) {
    pith_cache_head head;
    must(context, pith_cache_look(context, cache, i / o->kv_heads, i % o->kv_heads, &head, NULL));
    printf("%zu.%zu: %zu points of %s, predicted %.6f\n", i / o->kv_heads, i % o->kv_heads, head.points,
           pith_dtype_name(head.store), predicted[i]);
  }
  fflush(stdout);
  pith_cache_free(cache);
  free(predicted);
  free(out);
}

/* The same bytes for all but the last block, compressed at once and without refinement, the last block exact beside. */
static void run_at_once(pith_context *context, const heads *h, const pith_cache_options *o, double ratio,
                        const float *exact) {
  size_t n = h->keys.shape[2] / BLOCK * BLOCK, rows = n - BLOCK, count = o->layers * o->query_heads;
  float *out = malloc(count * BLOCK * o->dv * sizeof *out);
  pith_compress_options c;
  pith_compress_options_init(&c);
  c.engine = o->engine;
  c.bytes = o->bytes;
  c.budget = PITH_BUDGET_EVEN;
  c.rope = o->rope;
  c.rope_base = o->rope_base;
  c.window = o->window;
  c.refine = 0;
  c.samples = o->recent + o->older;
  pith_array k = pith_array_rows(&h->keys, 0, rows), v = pith_array_rows(&h->values, 0, rows);
  pith_array q = pith_array_rows(&h->queries, 0, rows), asked = pith_array_rows(&h->queries, rows, BLOCK);
  pith_array later_k = pith_array_rows(&h->keys, rows, BLOCK), later_v = pith_array_rows(&h->values, rows, BLOCK);
  pith_summary *summary = NULL;
  must(context, pith_compress(context, &k, &v, &q, &c, &summary));
  must(context, pith_summary_attend_beside(context, summary, &asked, &later_k, &later_v, 0, out));
  const float *last = exact + (ASKED - 1) * count * BLOCK * o->dv;
  double error = 0;
  for (size_t i = 0; i < count; i++)
    error +=
        pith_error_measure(last + i * BLOCK * o->dv, out + i * BLOCK * o->dv, BLOCK, o->dv).relative / (double)count;
  printf("%-12s %7.4f even, all at once: %.4f\n", o->engine, ratio, error);
  pith_summary_free(summary);
  free(out);
}

static pith_cache_options options_for(const heads *h, double ratio, const char *engine) {
  pith_cache_options o;
  pith_cache_options_init(&o);
  o.layers = h->keys.shape[0];
  o.kv_heads = h->keys.shape[1];
  o.query_heads = h->queries.shape[1];
  o.d = h->keys.shape[3];
  o.dv = h->values.shape[3];
  o.engine = engine;
  o.rope = PITH_ROPE_PAIRS;
  o.rope_base = getenv("PITH_ROPE_BASE") ? atof(getenv("PITH_ROPE_BASE")) : 100000;
  size_t n = h->keys.shape[2] / BLOCK * BLOCK;
  o.bytes = (size_t)(ratio * (double)(o.layers * o.kv_heads * n * 2 * (o.d + o.dv)));
  return o;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: bench_cache KEYS VALUES QUERIES [HEAD_WEIGHTS]\n"), 2;
  pith_context_options context_options;
  pith_context_options_init(&context_options);
  context_options.threads = 2;
  pith_context *context = NULL;
  if (pith_context_create(&context_options, &context) < 0) return 1;
  heads h = {.weighted = argc > 4};
  pith_file *file[4] = {NULL};
  must(context, pith_npy_open(context, argv[1], &file[0], &h.keys));
  must(context, pith_npy_open(context, argv[2], &file[1], &h.values));
  must(context, pith_npy_open(context, argv[3], &file[2], &h.queries));
  if (h.weighted) must(context, pith_npy_open(context, argv[4], &file[3], &h.weights));
  size_t layers = h.keys.shape[0], n = h.keys.shape[2] / BLOCK * BLOCK;
  size_t size = h.queries.shape[1] * BLOCK * h.values.shape[3];
  float *exact = malloc(ASKED * layers * size * sizeof *exact);
  for (size_t block = 0; block < ASKED; block++)
    for (size_t layer = 0; layer < layers; layer++)
      answer_exactly(context, &h, layer, n - (ASKED - block) * BLOCK, exact + (block * layers + layer) * size);
  printf(
      "engine         ratio budget  store    error  predicted  fold us   push us  attend us  step ms  (us a token and "
      "kv head)\n");
  const char *line = getenv("PITH_CACHE_LINE");
  if (line) {
    char engine[32], budget[16], store[16];
    double ratio = 0.125;
    size_t recent = 768, older = 256, window = 64, refine = 0;
    (void)sscanf(line, "%31s %lf %15s %15s %zu %zu %zu %zu", engine, &ratio, budget, store, &recent, &older, &window,
                 &refine);
    pith_cache_options o = options_for(&h, ratio, engine);
    o.budget = strcmp(budget, "even") == 0 ? PITH_BUDGET_EVEN : PITH_BUDGET_SPREAD;
    o.store = strcmp(store, "auto") == 0 ? PITH_STORE_AUTO : strcmp(store, "q8") == 0 ? PITH_Q8 : PITH_F16;
    o.recent = recent;
    o.older = older;
    o.window = window;
    o.refine = refine;
    if (o.budget == PITH_BUDGET_EVEN) run_at_once(context, &h, &o, ratio, exact);
    run(context, &h, &o, ratio, exact);
  } else {
    const char *engines[] = {"nystrom", "accumulated", "heavy", "recent", "uniform"};
    for (double ratio = 0.25; ratio > 0.05; ratio /= 2) {
      pith_cache_options o = options_for(&h, ratio, "nystrom");
      o.budget = PITH_BUDGET_SPREAD;
      run(context, &h, &o, ratio, exact);
      for (size_t e = 0; e < sizeof engines / sizeof *engines; e++) {
        o = options_for(&h, ratio, engines[e]);
        o.budget = PITH_BUDGET_EVEN;
        run(context, &h, &o, ratio, exact);
      }
    }
  }
  free(exact);
  for (size_t i = 0; i < 4; i++) pith_file_close(file[i]);
  pith_context_free(context);
  return 0;
}
