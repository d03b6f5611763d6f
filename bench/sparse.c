/* sparse.c - certified sparse attention: what it reads and errs on real heads, and what it costs on long caches.
 *
 * bench_sparse DATA [RELATIVE [NAME [fast]]]
 *                           shares of keys that a relative error (default .01) needs, beside other ways to choose keys;
 *                           arrays DATA/NAME_q.npy, _k, _v: (layers, heads, n, d), default those of the shipped data;
 *                           fast: without the other ways
 * bench_sparse --speed [N [ROWS [STORE-D-KEYS]]]
 *                           time against exact attention of the same keys in turn, N of them (default 131072), one
 * thread, ROWS rows (default 1) of eight queries of one key head; all cases, or one such as f16-64-topics */
#include "long_cache.h"

/* ---- Speed ---- */

enum { TURNS = 61 };

static void speed_of(pith_context *context, pith_dtype dtype, shape kind, size_t n, size_t d, size_t asked) {
  long_cache c = long_cache_make(context, dtype, kind, n, d, asked);
  double exact = INFINITY, sparse = INFINITY;
  for (size_t turn = 0; turn < TURNS; turn++) {
    exact = fmin(exact, long_cache_exact(context, &c));
    sparse = fmin(sparse, long_cache_sparse(context, &c));
  }
  size_t read = 0, exactly = 0;
  for (size_t q = 0; q < asked * GROUP; q++) {
    read += c.account[q].read;
    exactly += c.account[q].exact != 0;
  }
  pith_error error = pith_error_measure(c.exact, c.sparse, asked * GROUP, d);
  printf("%-5s %4zu %-7s | %8.2f %8.2f %6.2f | %6.3f %6zu %9.5f | %8.0f %6.1f\n", pith_dtype_name(dtype), d,
         shape_names[kind], 1e3 * exact, 1e3 * sparse, exact / sparse, (double)read / (double)(asked * GROUP * n),
         exactly, error.relative, 1e9 * c.built / (double)n, (double)pith_sparse_head_bytes(&c.head) / (double)n);
  fflush(stdout);
  long_cache_free(&c);
}

static void speed(pith_context *context, size_t n, size_t asked, const char *only) {
  printf("n = %zu, %zu rows of 8 queries of one key head, one thread, eps = 1 %% of the mean answer, %s\n", n, asked,
         pith_isa_name());
  printf("%-5s %4s %-7s | %8s %8s %6s | %6s %6s %9s | %8s %6s\n", "store", "d", "keys", "exact ms", "sparse", "ratio",
         "read", "exact", "rel.error", "build ns", "bytes");
  const pith_dtype stores[] = {PITH_F32, PITH_F16, PITH_Q8};
  for (size_t t = 0; t < sizeof stores / sizeof *stores; t++)
    for (size_t d = 64; d <= 128; d *= 2)
      for (shape kind = 0; kind < SHAPES; kind++) {
        char name[64];
        snprintf(name, sizeof name, "%s-%zu-%s", pith_dtype_name(stores[t]), d, shape_names[kind]);
        if (!only || strcmp(only, name) == 0) speed_of(context, stores[t], kind, n, d, asked);
      }
}

/* ---- Real heads ---- */

enum { ASKED = 24, MOST_N = 32768 }; /* queries of each query head, among the last quarter of the positions */

typedef struct real {
  const char *name, *title;
} real;

/* What methods read (share of keys) and err (relative to the mean exact answer). */
typedef struct row_sums {
  double read[8], error[8], bound;
  size_t sparse;
} row_sums;

static int by_weight(const void *a, const void *b) {
  const double *x = a, *y = b;
  return (x[0] < y[0]) - (x[0] > y[0]);
}

static double distance(const double *a, const double *b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sqrt(sum);
}

/* Attn over the first `count` of the keys in `order`, in double. */
static void attend_first(const double (*order)[2], size_t count, const float *values, size_t dv, double *out) {
  double mass = 0;
  memset(out, 0, dv * sizeof *out);
  for (size_t i = 0; i < count; i++) {
    size_t row = (size_t)order[i][1];
    mass += order[i][0];
    for (size_t j = 0; j < dv; j++) out[j] += order[i][0] * (double)values[row * dv + j];
  }
  for (size_t j = 0; j < dv; j++) out[j] /= mass > 0 ? mass : 1;
}

/* Fewest keys (in steps of 1/64 of n) whose attention errs by at most eps. */
static size_t fewest(const double (*order)[2], size_t n, size_t step, const float *values, size_t dv,
                     const double *exact, double eps, double *error) {
  double out[512];
  for (size_t k = step; k < n; k += step) {
    attend_first(order, k, values, dv, out);
    *error = distance(out, exact, dv);
    if (*error <= eps) return k;
  }
  *error = 0;
  return n;
}

/* One query, other methods than ours: how many keys until the true error is below eps. */
static void others(const float *query, const float *keys, const float *values, size_t n, size_t d, size_t dv,
                   const double *exact, double eps, uint64_t seed, row_sums *sums) {
  static double order[MOST_N][2], page[MOST_N][2];
  const size_t step = pith_max_size(1, n / 64), pages = n / 16;
  double top = -INFINITY, error = 0;
  for (size_t i = 0; i < n; i++) {
    double logit = 0;
    for (size_t j = 0; j < d; j++) logit += (double)query[j] * (double)keys[i * d + j];
    order[i][0] = logit;
    order[i][1] = (double)i;
    top = fmax(top, logit);
  }
  for (size_t i = 0; i < n; i++) order[i][0] = exp(order[i][0] - top);
  /* 1: uniform sampling, every key at its weight */
  static double drawn[MOST_N][2];
  static size_t permutation[MOST_N];
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 1);
  pith_random_permutation(&stream, permutation, n);
  for (size_t i = 0; i < n; i++) memcpy(drawn[i], order[permutation[i]], sizeof drawn[i]);
  sums->read[1] += (double)fewest((const double(*)[2])drawn, n, step, values, dv, exact, eps, &error) / (double)n;
  sums->error[1] += error;
  /* 2: Quest: pages of 16 keys by the bound of their boxes */
  for (size_t p = 0; p < pages; p++) {
    double bound = 0;
    for (size_t j = 0; j < d; j++) {
      float low = keys[p * 16 * d + j], high = low;
      for (size_t i = 1; i < 16; i++) {
        low = fminf(low, keys[(p * 16 + i) * d + j]);
        high = fmaxf(high, keys[(p * 16 + i) * d + j]);
      }
      bound += fmax((double)query[j] * (double)low, (double)query[j] * (double)high);
    }
    page[p][0] = bound;
    page[p][1] = (double)p;
  }
  qsort(page, pages, sizeof *page, by_weight);
  for (size_t i = 0; i < pages * 16; i++)
    memcpy(drawn[i], order[(size_t)page[i / 16][1] * 16 + i % 16], sizeof drawn[i]);
  sums->read[2] +=
      (double)fewest((const double(*)[2])drawn, pages * 16, step, values, dv, exact, eps, &error) / (double)n;
  sums->error[2] += error;
  /* 0: the largest weights, as an oracle picks them; 3: as many as a bound by the diameter of the values needs */
  qsort(order, n, sizeof *order, by_weight);
  sums->read[0] += (double)fewest((const double(*)[2])order, n, step, values, dv, exact, eps, &error) / (double)n;
  sums->error[0] += error;
  double mass = 0, far = 0, tail = 0, mean[512] = {0};
  for (size_t i = 0; i < n; i++) {
    mass += order[i][0];
    for (size_t j = 0; j < dv; j++) mean[j] += (double)values[i * dv + j] / (double)n;
  }
  for (size_t i = 0; i < n; i++) {
    double square = 0;
    for (size_t j = 0; j < dv; j++) square += pow((double)values[i * dv + j] - mean[j], 2);
    far = fmax(far, sqrt(square));
  }
  size_t k = n;
  for (double reach = far + distance(exact, mean, dv); k > 0 && (tail + order[k - 1][0]) / mass * reach <= eps; k--)
    tail += order[k - 1][0];
  sums->read[3] += (double)k / (double)n;
}

static double norm_of(const double *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[i] * x[i];
  return sqrt(sum);
}

static void real_heads(pith_context *context, const char *folder, const real *which, double relative, int fast) {
  char path[3][4096];
  pith_file *file[3];
  pith_array array[3];
  const char *const letters[3] = {"q", "k", "v"};
  for (int i = 0; i < 3; i++) {
    snprintf(path[i], sizeof path[i], "%s/%s_%s.npy", folder, which->name, letters[i]);
    if (pith_npy_open(context, path[i], &file[i], &array[i]) < 0) {
      printf("%s: %s\n", which->title, pith_context_message(context));
      return;
    }
  }
  const size_t n = array[1].shape[2], d = array[1].shape[3], dv = array[2].shape[3];
  if (n > MOST_N) {
    printf("%s: %zu rows; at most %d\n", which->title, n, (int)MOST_N);
    return;
  }
  const size_t layers = array[1].shape[0], heads = array[1].shape[1], group = array[0].shape[1] / heads;
  printf(
      "\n%s: n = %zu, %zu queries a head, relative error %g %%. Shares of the keys read to a true error of that size:\n"
      "oracle: largest weights; uniform: sampled; quest: pages of 16 by their boxes. To a promise: dropped: the "
      "oracle\n"
      "with tail mass times diameter; pith: each query for itself, all query heads of a kv head together, clustered.\n",
      which->title, n, (size_t)ASKED, 100 * relative);
  printf("%-5s %7s %8s %6s | %8s | %6s %6s %9s | %9s %9s\n", "head", "oracle", "uniform", "quest", "dropped", "pith",
         "shared", "clustered", "rel.error", "bound");
  row_sums all = {0};
  size_t third = 0;
  for (size_t h = 0; h < layers * heads; h++) {
    float *keys = take(n * d, sizeof *keys), *values = take(n * dv, sizeof *values);
    float *query = take(group * ASKED * d, sizeof *query), *out = take(group * ASKED * dv, sizeof *out);
    float *rowq = take(n * d, sizeof *rowq);
    pith_array key = pith_array_head(&array[1], h / heads, h % heads),
               value = pith_array_head(&array[2], h / heads, h % heads);
    check(pith_array_to_f32(context, &key, "keys", 1, keys), context, "keys");
    check(pith_array_to_f32(context, &value, "values", 1, values), context, "values");
    for (size_t g = 0; g < group; g++) {
      pith_array q = pith_array_head(&array[0], h / heads, h % heads * group + g);
      check(pith_array_to_f32(context, &q, "queries", 1 / sqrt((double)d), rowq), context, "queries");
      for (size_t i = 0; i < ASKED; i++)
        memcpy(query + (g * ASKED + i) * d, rowq + (n - 1 - i * (n / 4 / ASKED)) * d, d * sizeof *query);
    }
    double *exact = take(group * ASKED * dv, sizeof *exact), length = 0;
    for (size_t q = 0; q < group * ASKED; q++) {
      double top = -INFINITY, mass = 0;
      double *logit = take(n, sizeof *logit), *o = exact + q * dv;
      for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < d; j++) logit[i] += (double)query[q * d + j] * (double)keys[i * d + j];
        top = fmax(top, logit[i]);
      }
      for (size_t i = 0; i < n; i++) {
        double w = exp(logit[i] - top);
        mass += w;
        for (size_t j = 0; j < dv; j++) o[j] += w * (double)values[i * dv + j];
      }
      for (size_t j = 0; j < dv; j++) o[j] /= mass;
      length += norm_of(o, dv) / (double)(group * ASKED);
      free(logit);
    }
    const double eps = relative * length;
    row_sums sums = {0};
    for (size_t q = 0; q < group * ASKED && !fast; q += 4)
      others(query + q * d, keys, values, n, d, dv, exact + q * dv, eps, h * 1000 + q, &sums);
    for (int i = 0; i < 4; i++) sums.read[i] *= 4.0 / (double)(group * ASKED);
    pith_rows rows = {.keys = keys,
                      .values = values,
                      .key_stride = (ptrdiff_t)(d * sizeof *keys),
                      .value_stride = (ptrdiff_t)(dv * sizeof *values),
                      .dtype = PITH_F32,
                      .count = n,
                      .d = d,
                      .dv = dv};
    pith_sparse_account *account = take(group * ASKED, sizeof *account);
    for (int way = 0; way < 3; way++) {
      pith_sparse_head head = {.memory = pith_memory_share(context)};
      check(way == 2 ? pith_sparse_head_cluster(context, &head, &rows)
                     : pith_sparse_head_append(context, &head, &rows, 0),
            context, "index");
      pith_sparse_job job = {.rows = rows,
                             .head = &head,
                             .heads = group,
                             .queries = ASKED,
                             .query = query,
                             .eps = eps,
                             .each = way != 1,
                             .always = true,
                             .fine = true,
                             .out = out,
                             .account = account};
      check(pith_sparse_jobs(context, &job, 1), context, "sparse");
      for (size_t q = 0; q < group * ASKED; q++) {
        double error = 0;
        for (size_t j = 0; j < dv; j++) error += pow((double)out[q * dv + j] - exact[q * dv + j], 2);
        if (sqrt(error) > account[q].bound) printf("BOUND BROKEN: %g > %g\n", sqrt(error), account[q].bound);
        sums.read[4 + way] += (double)account[q].read / (double)n / (double)(group * ASKED);
        if (way == 0) {
          sums.error[4] += sqrt(error) / length / (double)(group * ASKED);
          sums.bound = fmax(sums.bound, account[q].bound / length);
        }
      }
      pith_sparse_head_free(&head);
      pith_memory_unshare(head.memory);
    }
    printf("%zu.%zu   %7.3f %8.3f %6.3f | %8.3f | %6.3f %6.3f %9.3f | %9.5f %9.5f%s\n", h / heads, h % heads,
           sums.read[0], sums.read[1], sums.read[2], sums.read[3], sums.read[4], sums.read[5], sums.read[6],
           sums.error[4], sums.bound, sums.read[4] > 2.0 / 3 ? "  incompressible" : "");
    fflush(stdout);
    for (int i = 0; i < 7; i++) all.read[i] += sums.read[i] / (double)(layers * heads);
    third += sums.read[4] <= 1.0 / 3;
    free(account);
    free(exact);
    free(rowq);
    free(out);
    free(query);
    free(values);
    free(keys);
  }
  printf("mean  %7.3f %8.3f %6.3f | %8.3f | %6.3f %6.3f %9.3f | %zu of %zu heads read at most a third\n", all.read[0],
         all.read[1], all.read[2], all.read[3], all.read[4], all.read[5], all.read[6], third, layers * heads);
  for (int i = 0; i < 3; i++) pith_file_close(file[i]);
}

int main(int argc, char **argv) {
  pith_context *context = NULL;
  check(pith_context_create(NULL, &context), context, "context");
  if (argc > 1 && strcmp(argv[1], "--speed") == 0)
    speed(context, argc > 2 ? (size_t)strtoull(argv[2], NULL, 10) : 131072,
          argc > 3 ? (size_t)strtoull(argv[3], NULL, 10) : 1, argc > 4 ? argv[4] : NULL);
  else if (argc > 1) {
    static const real known[] = {{"byte3m_text", "byte-lm, prose"},
                                 {"byte3m_rep200", "byte-lm, a repeated string"},
                                 {"smollm2_book", "SmolLM2-135M, a novel"}};
    const double relative = argc > 2 ? strtod(argv[2], NULL) : 0.01;
    const real given = {argc > 3 ? argv[3] : NULL, argc > 3 ? argv[3] : NULL};
    for (size_t i = 0; i < (argc > 3 ? 1 : sizeof known / sizeof *known); i++)
      real_heads(context, argv[1], argc > 3 ? &given : &known[i], relative, argc > 4);
  } else {
    fprintf(stderr, "usage: bench_sparse DATA [RELATIVE [NAME [fast]]] | --speed [N [ROWS [STORE-D-KEYS]]]\n");
    return 2;
  }
  pith_context_free(context);
  return 0;
}
