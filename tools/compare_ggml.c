/* compare_ggml.c - flash attention of ggml's CPU backend beside ours, exact and sparse, in one process and in turns:
 * one thread, 131072 keys of one head in f16, eight queries. tools/compare-ggml builds it.
 *
 * usage: compare_ggml BACKENDS      the folder of llama.cpp's libraries */
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>

#include "bench/long_cache.h"

enum { LONG = 131072, TURNS = 31 };

static void stop(const char *what) {
  (void)fprintf(stderr, "compare_ggml: %s\n", what);
  exit(1);
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) (void)fputs(text, stderr);
}

static ggml_backend_t one_thread(const char *folder) {
  ggml_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(folder);
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (!device) stop("no CPU backend in that folder");
  ggml_backend_t backend = ggml_backend_dev_init(device, NULL);
  ggml_backend_set_n_threads_t set = NULL;
  *(void **)&set =
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads");
  if (!backend || !set) stop("the CPU backend does not start");
  set(backend, 1);
  return backend;
}

typedef struct flash {
  ggml_backend_t backend;
  struct ggml_context *tensors;
  ggml_backend_buffer_t buffer;
  struct ggml_tensor *out;
  struct ggml_cgraph *graph;
} flash;

static flash flash_make(ggml_backend_t backend, const long_cache *c) {
  const struct ggml_init_params parameters = {.mem_size = 1 << 20, .no_alloc = true};
  flash f = {.backend = backend, .tensors = ggml_init(parameters)};
  const int64_t n = (int64_t)c->n, d = (int64_t)c->d;
  struct ggml_tensor *q = ggml_new_tensor_4d(f.tensors, GGML_TYPE_F32, d, 1, GROUP, 1);
  struct ggml_tensor *k = ggml_new_tensor_4d(f.tensors, GGML_TYPE_F16, d, n, 1, 1);
  struct ggml_tensor *v = ggml_new_tensor_4d(f.tensors, GGML_TYPE_F16, d, n, 1, 1);
  f.out = ggml_flash_attn_ext(f.tensors, q, k, v, NULL, 1, 0, 0); /* the queries are scaled already */
  f.graph = ggml_new_graph(f.tensors);
  ggml_build_forward_expand(f.graph, f.out);
  f.buffer = ggml_backend_alloc_ctx_tensors(f.tensors, backend);
  if (!f.buffer) stop("no memory");
  ggml_backend_tensor_set(q, c->queries, 0, GROUP * c->d * sizeof(float));
  ggml_backend_tensor_set(k, c->keys, 0, c->n * c->d * 2);
  ggml_backend_tensor_set(v, c->values, 0, c->n * c->d * 2);
  return f;
}

/* Seconds of one turn. */
static double flash_run(const flash *f) {
  double start = now();
  if (ggml_backend_graph_compute(f->backend, f->graph) != GGML_STATUS_SUCCESS) stop("ggml does not compute");
  return now() - start;
}

static void flash_free(flash *f) {
  ggml_backend_buffer_free(f->buffer);
  ggml_free(f->tensors);
}

static void compare(pith_context *context, ggml_backend_t backend, shape kind, size_t d) {
  long_cache c = long_cache_make(context, PITH_F16, kind, LONG, d, 1);
  flash f = flash_make(backend, &c);
  double exact = INFINITY, sparse = INFINITY, theirs = INFINITY;
  for (size_t turn = 0; turn < TURNS; turn++) {
    exact = fmin(exact, long_cache_exact(context, &c));
    sparse = fmin(sparse, long_cache_sparse(context, &c));
    theirs = fmin(theirs, flash_run(&f));
  }
  float *answers = take(GROUP * d, sizeof *answers);
  ggml_backend_tensor_get(f.out, answers, 0, GROUP * d * sizeof *answers);
  printf("%3zu %-7s | %8.2f %8.2f %8.2f | %9.5f %9.5f | %6.3f\n", d, shape_names[kind], 1e3 * theirs, 1e3 * exact,
         1e3 * sparse, pith_error_measure(c.exact, answers, GROUP, d).relative,
         pith_error_measure(c.exact, c.sparse, GROUP, d).relative, (double)c.account[0].read / (double)c.n);
  (void)fflush(stdout);
  free(answers);
  flash_free(&f);
  long_cache_free(&c);
}

int main(int argc, char **argv) {
  if (argc != 2) stop("give the folder of llama.cpp's libraries");
  ggml_backend_t backend = one_thread(argv[1]);
  pith_context *context = NULL;
  check(pith_context_create(NULL, &context), context, "context");
  printf(
      "f16, n = %d, 8 queries of one key head, one thread; processor time in ms, the least of %d turns;\n"
      "relative errors are against our exact attention\n",
      LONG, TURNS);
  printf("%3s %-7s | %8s %8s %8s | %9s %9s | %6s\n", "d", "keys", "ggml", "exact", "sparse", "of ggml", "of sparse",
         "read");
  for (size_t d = 64; d <= 128; d *= 2)
    for (shape kind = 0; kind < SHAPES; kind++) compare(context, backend, kind, d);
  pith_context_free(context);
  ggml_backend_free(backend);
  return 0;
}
