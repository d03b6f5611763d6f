/* test_nystrom.c - pivots, refit and refinement against their double twins; the laws they must obey. */
#include "nystrom.h"
#include "pith.h"
#include "summary/engine.h"
#include "summary/pivots.h"
#include "summary/refine.h"
#include "test.h"

enum { N = 220, D = 8, DV = 5, ROWS = 200, GROUP = 2 };

typedef struct fixture {
  float *keys, *values, *queries;
  uint8_t exact[N];
  pith_array head[GROUP];
  pith_query_source source;
  pith_query_model *model;
  pith_problem problem;
} fixture;

static void make(pith_context *context, fixture *f, pith_query_kind kind, size_t probes) {
  memset(f, 0, sizeof *f);
  f->keys = test_gaussian(1, N * D, 1);
  f->values = test_gaussian(2, N * DV, 1);
  f->queries = test_gaussian(3, GROUP * ROWS * D, 1.5);
  for (size_t j = 0; j < GROUP; j++) f->head[j] = pith_array_matrix(f->queries + j * ROWS * D, PITH_F32, ROWS, D);
  f->source = (pith_query_source){.queries = f->head,
                                  .query_heads = GROUP,
                                  .d = D,
                                  .dv = DV,
                                  .keys = N,
                                  .key_rows = f->keys,
                                  .value_rows = f->values,
                                  .scale = 0.35,
                                  .query_start = PITH_UNSET,
                                  .horizon = 64,
                                  .probes = probes,
                                  .kind = kind,
                                  .seed = 5};
  assert_ok(context, pith_query_model_create(context, &f->source, &f->model));
  for (size_t i = 0; i < 4; i++) f->exact[i] = f->exact[N - 1 - i] = 1;
  f->problem = (pith_problem){.n = N,
                              .d = D,
                              .dv = DV,
                              .keys = f->keys,
                              .values = f->values,
                              .exact = f->exact,
                              .candidates = N - 8,
                              .model = f->model,
                              .seed = 11};
}

static void unmake(pith_context *context, fixture *f) {
  pith_query_model_free(context, f->model);
  free(f->keys);
  free(f->values);
  free(f->queries);
}

/* The whole kernel as the library computes it, in double. */
static double *whole_kernel(pith_context *context, const pith_kernel *kernel) {
  size_t rows[N];
  float *out = malloc(N * N * sizeof *out);
  double *whole = malloc(N * N * sizeof *whole);
  for (size_t i = 0; i < N; i++) rows[i] = i;
  assert_ok(context, pith_kernel_rows(context, kernel, rows, N, out));
  for (size_t i = 0; i < N * N; i++) whole[i] = out[i];
  free(out);
  return whole;
}

static void test_pivots_match_reference(void **state) {
  (void)state;
  enum { MOST = 60, COLUMNS = 3 };
  pith_context *context = test_context(2);
  for (int kind = PITH_QUERIES_BALL; kind <= PITH_QUERIES_SAMPLES; kind++) {
    fixture f;
    make(context, &f, (pith_query_kind)kind, 20);
    pith_kernel *kernel = NULL;
    assert_ok(context, pith_kernel_create(context, f.model, f.keys, NULL, N, &kernel));
    double importance[N], *whole = whole_kernel(context, kernel), *wide = malloc(N * COLUMNS * sizeof *wide);
    float *coefficients = test_gaussian(9, N * COLUMNS, 1);
    for (size_t i = 0; i < N; i++) importance[i] = f.exact[i] ? 0 : 1 + (double)(i % 3);
    for (size_t i = 0; i < N * COLUMNS; i++) wide[i] = coefficients[i];
    pith_pivots *p = NULL;
    assert_ok(context, pith_pivots_choose(context, kernel, importance, coefficients, COLUMNS, MOST, 3, 0, &p));
    bool seen[N] = {false};
    for (size_t s = 0; s < p->count; s++) {
      assert_true(!f.exact[p->row[s]] && !seen[p->row[s]]);
      seen[p->row[s]] = true;
      for (size_t t = 0; t <= s; t++)
        assert_true(fabs(p->kernel[s * MOST + t] - whole[p->row[s] * N + p->row[t]]) <=
                    1e-5 * fabs(whole[p->row[s] * N + p->row[s]]));
      for (size_t j = 0; j < COLUMNS; j++) {
        double sum = 0, size = 0;
        for (size_t i = 0; i < N; i++) {
          sum += whole[p->row[s] * N + i] * wide[i * COLUMNS + j];
          size += fabs(whole[p->row[s] * N + i] * wide[i * COLUMNS + j]);
        }
        assert_true(fabs(p->target[s * COLUMNS + j] - sum) <= 1e-4 * size);
      }
    }
    double start = reference_trace_left(whole, N, importance, p->row, 0);
    double left = reference_trace_left(whole, N, importance, p->row, p->count);
    assert_true(fabs(p->remaining - left / start) < 2e-5);
    assert_true(p->count == MOST || p->remaining < 1e-5);
    pith_pivots_free(context, p);
    pith_kernel_free(context, kernel);
    free(whole);
    free(wide);
    free(coefficients);
    unmake(context, &f);
  }
  pith_context_free(context);
}

/* The law of the choice. The first pivot is drawn with probability proportional to the diagonal, the second to what is
 * left of it; with blocks and rejection as without. Rows lie in four clusters. Over 3000 seeds the clusters of the
 * first two pivots are held against the law by chi-square over 16 cells: 15 degrees of freedom, p = 1e-4 at 44.3. The
 * control forgets the elimination, so that a second pivot of the same cluster keeps its share of about a quarter where
 * the law gives it less than two thirds of that: 3000 / 4 * (1/3)^2 > 80. */
static void test_pivot_law(void **state) {
  (void)state;
  enum { SMALL = 24, CLUSTERS = 4, CELLS = CLUSTERS * CLUSTERS, SEEDS = 3000 };
  pith_context *context = test_context(1);
  float *feature = test_gaussian(4, SMALL * 4, 1);
  float mapped[SMALL] = {0}, log_scale[SMALL], diagonal[SMALL];
  double kernel_whole[SMALL * SMALL], importance[SMALL], law[CELLS] = {0}, naive[CELLS] = {0};
  float coefficients[SMALL] = {0};
  for (size_t i = 0; i < SMALL; i++) {
    for (size_t j = 0; j < 4; j++) feature[i * 4 + j] += 2.0f * (i % CLUSTERS == j); /* four clusters */
    log_scale[i] = -30;
    importance[i] = 1;
  }
  double trace = 0;
  for (size_t i = 0; i < SMALL; i++)
    for (size_t j = 0; j < SMALL; j++) {
      double sum = 0;
      for (size_t k = 0; k < 4; k++) sum += (double)feature[i * 4 + k] * feature[j * 4 + k];
      kernel_whole[i * SMALL + j] = sum;
      if (i == j) {
        diagonal[i] = (float)sum;
        trace += sum;
      }
    }
  for (size_t a = 0; a < SMALL; a++) {
    double left[SMALL], total = 0;
    for (size_t i = 0; i < SMALL; i++) {
      double c = kernel_whole[i * SMALL + a];
      left[i] = i == a ? 0 : kernel_whole[i * SMALL + i] - c * c / kernel_whole[a * SMALL + a];
      total += left[i];
    }
    for (size_t i = 0; i < SMALL; i++) {
      size_t cell = a % CLUSTERS * CLUSTERS + i % CLUSTERS;
      double first = kernel_whole[a * SMALL + a] / trace;
      law[cell] += first * left[i] / total;
      naive[cell] += first * kernel_whole[i * SMALL + i] / trace;
    }
  }
  pith_kernel kernel = {.n = SMALL,
                        .features = 4,
                        .feature = feature,
                        .d = 1,
                        .mapped = mapped,
                        .log_scale = log_scale,
                        .diagonal = diagonal};
  double count[CELLS] = {0}, chi = 0, control = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    pith_pivots *p = NULL;
    assert_ok(context, pith_pivots_choose(context, &kernel, importance, coefficients, 1, 4, seed, 0, &p));
    assert_true(p->count >= 2);
    count[p->row[0] % CLUSTERS * CLUSTERS + p->row[1] % CLUSTERS]++;
    pith_pivots_free(context, p);
  }
  for (size_t c = 0; c < CELLS; c++) {
    chi += pow(count[c] - SEEDS * law[c], 2) / (SEEDS * law[c]);
    control += pow(count[c] - SEEDS * naive[c], 2) / (SEEDS * naive[c]);
  }
  if (chi > 44.3) fail_msg("chi-square %g over 15 degrees of freedom", chi);
  if (control < 44.3) fail_msg("the control passes: chi-square %g", control);
  free(feature);
  pith_context_free(context);
}

/* Points taken without refinement solve the equations of the refit, to f32 accuracy; another ridge would not. */
static void test_fit_matches_reference(void **state) {
  (void)state;
  enum { COUNT = 30 };
  pith_context *context = test_context(1);
  fixture f;
  make(context, &f, PITH_QUERIES_SAMPLES, 20);
  void *engine = NULL;
  pith_points *points = NULL;
  assert_ok(context, pith_engine_nystrom.prepare(context, &f.problem, COUNT, &engine));
  assert_ok(context, pith_points_create(context, COUNT, D, DV, &points));
  assert_ok(context, pith_engine_nystrom.take(context, &f.problem, engine, COUNT, points));
  assert_int_equal(points->count, COUNT);

  pith_kernel *kernel = NULL;
  assert_ok(context, pith_kernel_create(context, f.model, f.keys, NULL, N, &kernel));
  double *whole = whole_kernel(context, kernel), mean[DV] = {0}, coefficients[N * (DV + 1)], fit[COUNT * (DV + 1)];
  for (size_t i = 0; i < N; i++)
    for (size_t j = 0; j < DV && !f.exact[i]; j++) mean[j] += f.values[i * DV + j] / (double)(N - 8);
  for (size_t i = 0; i < N; i++) {
    for (size_t j = 0; j < DV; j++) coefficients[i * (DV + 1) + j] = f.exact[i] ? 0 : f.values[i * DV + j] - mean[j];
    coefficients[i * (DV + 1) + DV] = f.exact[i] ? 0 : 1;
  }
  size_t pivot[COUNT];
  for (size_t s = 0; s < COUNT; s++) pivot[s] = (size_t)points->index[s];
  for (size_t s = 0; s < COUNT; s++) {
    double weight = exp(points->log_weight[s]);
    for (size_t j = 0; j < DV; j++) fit[s * (DV + 1) + j] = weight * (points->values[s * DV + j] - mean[j]);
    fit[s * (DV + 1) + DV] = weight;
  }
  double right = reference_fit_violation(whole, N, pivot, COUNT, 1e-4, coefficients, DV + 1, fit);
  double wrong = reference_fit_violation(whole, N, pivot, COUNT, 1e-2, coefficients, DV + 1, fit);
  if (!(right < 2e-5 && wrong > 5 * right)) fail_msg("violation %g, with another ridge %g", right, wrong);
  pith_engine_nystrom.release(context, engine);
  pith_points_free(context, points);
  pith_kernel_free(context, kernel);
  free(whole);
  unmake(context, &f);
  pith_context_free(context);
}

static double *widen(const float *x, size_t count) {
  double *out = malloc(count * sizeof *out);
  for (size_t i = 0; i < count; i++) out[i] = x[i];
  return out;
}

/* Points without weight make room for the next pivots, round by round, and what remains solves its own equations; it
 * would not without leaving them out. */
static void test_weightless_points_are_replaced(void **state) {
  (void)state;
  enum { PIVOTS = 48, WANTED = 40, RANK = 60, COLUMNS = 3, ROUNDS = 3 };
  const double least = -0.5;
  pith_context *context = test_context(1);
  float *root = test_gaussian(31, PIVOTS * RANK, 1), *random = test_gaussian(32, PIVOTS * COLUMNS, 1);
  double whole[PIVOTS * PIVOTS] = {0}, target[PIVOTS * COLUMNS] = {0}, fit[WANTED * COLUMNS];
  double *coefficients = widen(random, PIVOTS * COLUMNS);
  for (size_t a = 0; a < PIVOTS; a++)
    for (size_t b = 0; b < PIVOTS; b++) {
      for (size_t r = 0; r < RANK; r++) whole[a * PIVOTS + b] += (double)root[a * RANK + r] * root[b * RANK + r];
      for (size_t j = 0; j < COLUMNS; j++)
        target[a * COLUMNS + j] += whole[a * PIVOTS + b] * coefficients[b * COLUMNS + j];
    }
  pith_pivots pivots = {.count = PIVOTS, .most = PIVOTS, .columns = COLUMNS, .kernel = whole, .target = target};
  assert_ok(context, pith_pivots_factor(context, &pivots));

  size_t expected[WANTED], expected_count = WANTED, next = WANTED, dropped = 0;
  for (size_t a = 0; a < WANTED; a++) expected[a] = a;
  for (int round = 0; round <= ROUNDS; round++) {
    size_t active[WANTED], count = WANTED;
    assert_ok(context, pith_pivots_fit(context, &pivots, least, round, &count, active, fit));
    assert_int_equal(count, expected_count);
    assert_memory_equal(active, expected, count * sizeof *active);
    double right = reference_fit_violation(whole, PIVOTS, active, count, 1e-4, coefficients, COLUMNS, fit);
    if (right > 1e-10) fail_msg("round %d: violation %g", round, right);
    expected_count = 0;
    for (size_t a = 0; a < count; a++)
      if (fit[a * COLUMNS + COLUMNS - 1] >= least) expected[expected_count++] = active[a];
    dropped += count - expected_count;
    while (expected_count < WANTED && next < PIVOTS) expected[expected_count++] = next++;
    double wrong = reference_fit_violation(whole, PIVOTS, expected, expected_count, 1e-4, coefficients, COLUMNS, fit);
    if (round == 0 && wrong < 1e-3) fail_msg("the control passes: violation %g", wrong);
  }
  assert_in_range(dropped, PIVOTS - WANTED + 1, WANTED); /* so many that pivots ran out */
  pith_release(context, pivots.factor);
  pith_release(context, pivots.forward);
  free(root);
  free(random);
  free(coefficients);
  pith_context_free(context);
}

/* What refinement works towards is exact attention, with and without near keys, for weighted rows too; what is fixed
 * are the near keys and the exact rows. Held against plain sums in double. */
static void test_lessons(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  for (int turned = 0; turned < 2; turned++) {
    fixture f;
    make(context, &f, PITH_QUERIES_SAMPLES, 0);
    pith_query_model *model = NULL;
    f.source.rope = turned ? PITH_ROPE_PAIRS : PITH_ROPE_NONE;
    f.source.rope_base = 100;
    assert_ok(context, pith_query_model_create(context, &f.source, &model));
    float *log_weight = test_gaussian(8, N, 0.5);
    f.problem.model = model;
    if (turned) f.problem.log_weight = log_weight;
    double mean[DV] = {0.5, -0.25, 0, 1, 2};
    pith_lessons *lessons = NULL;
    assert_ok(context, pith_lessons_create(context, &f.problem, mean, &lessons));
    for (size_t r = 0; r < lessons->count; r++) {
      double mass[2], answer[2][DV];
      for (int all = 0; all < 2; all++) {
        double local = exp(model->local_log_mass[r]);
        mass[all] = local;
        for (size_t j = 0; j < DV; j++) answer[all][j] = local > 0 ? local * model->local_answer[r * DV + j] : 0;
        for (size_t i = 0; i < N; i++) {
          double logit = turned ? log_weight[i] : 0;
          if (!all && !f.exact[i]) continue;
          for (size_t j = 0; j < D; j++) logit += (double)lessons->queries[r * D + j] * f.keys[i * D + j];
          mass[all] += exp(logit);
          for (size_t j = 0; j < DV; j++) answer[all][j] += exp(logit) * f.values[i * DV + j];
        }
      }
      assert_float_equal(lessons->fixed_log_mass[r], log(mass[0]), 1e-4);
      for (size_t j = 0; j < DV; j++) {
        assert_float_equal(lessons->fixed_answer[r * DV + j], answer[0][j] / mass[0] - mean[j], 1e-4);
        assert_float_equal(lessons->answer[r * DV + j], answer[1][j] / mass[1] - mean[j], 1e-4);
      }
    }
    pith_lessons_free(context, lessons);
    pith_query_model_free(context, model);
    free(log_weight);
    unmake(context, &f);
  }
  pith_context_free(context);
}

/* One step of Adam moves every number against the sign of its gradient: held against finite differences of the double
 * loss. Many steps lower the plain loss. There are as many lessons as a batch takes, so that a batch has each of them
 * once; signs are compared where the gradient is not small. */
static void test_refinement(void **state) {
  (void)state;
  enum { COUNT = 20, BATCH = 256 };
  pith_context *context = test_context(2);
  fixture f;
  make(context, &f, PITH_QUERIES_SAMPLES, 0);
  f.problem.lessons = BATCH;
  void *engine = NULL;
  pith_points *start = NULL, *points = NULL;
  assert_ok(context, pith_engine_nystrom.prepare(context, &f.problem, COUNT, &engine));
  assert_ok(context, pith_points_create(context, COUNT, D, DV, &start));
  assert_ok(context, pith_engine_nystrom.take(context, &f.problem, engine, COUNT, start));
  double value_mean[DV] = {0};
  pith_lessons *lessons = NULL;
  assert_ok(context, pith_lessons_create(context, &f.problem, value_mean, &lessons));
  size_t count = lessons->count;
  assert_int_equal(count, BATCH);
  double *queries = widen(lessons->queries, count * D), *mass = widen(lessons->fixed_log_mass, count),
         *fixed = widen(lessons->fixed_answer, count * DV), *target = widen(lessons->answer, count * DV);
  double *keys = widen(start->keys, COUNT * D), *weights = widen(start->log_weight, COUNT),
         *values = widen(start->values, COUNT * DV);
#define LOSS(soft) reference_refine_loss(queries, count, keys, weights, values, COUNT, D, DV, mass, fixed, target, soft)
  double before = LOSS(0), soft = 0.1 * before;

  for (size_t steps = 2; steps <= 200; steps += 198) {
    assert_ok(context, pith_points_create(context, COUNT, D, DV, &points));
    for (size_t s = 0; s < COUNT; s++)
      pith_points_append(points, &f.problem, (size_t)start->index[s], start->log_weight[s]);
    memcpy(points->values, start->values, COUNT * DV * sizeof(float));
    assert_ok(context, pith_refine(context, &f.problem, lessons, steps, true, points));
    if (steps == 2) {
      size_t right = 0, wrong = 0;
      struct {
        double *x;
        const float *from, *to;
        size_t size;
      } part[3] = {{keys, start->keys, points->keys, COUNT * D},
                   {weights, start->log_weight, points->log_weight, COUNT},
                   {values, start->values, points->values, COUNT * DV}};
      for (int k = 0; k < 3; k++) {
        double gradient[COUNT * D], largest = 0;
        for (size_t i = 0; i < part[k].size; i++) {
          double keep = part[k].x[i];
          part[k].x[i] = keep + 1e-5;
          double up = LOSS(soft);
          part[k].x[i] = keep - 1e-5;
          gradient[i] = (up - LOSS(soft)) / 2e-5;
          part[k].x[i] = keep;
          largest = fmax(largest, fabs(gradient[i]));
        }
        for (size_t i = 0; i < part[k].size; i++) {
          if (fabs(gradient[i]) < 0.3 * largest) continue;
          bool against = (part[k].to[i] < part[k].from[i]) == (gradient[i] > 0);
          right += against;
          wrong += !against;
        }
      }
      assert_true(right >= 20);
      if (wrong > 0) fail_msg("%zu of %zu steps go up the slope", wrong, right + wrong);
    } else {
      double *moved[3] = {widen(points->keys, COUNT * D), widen(points->log_weight, COUNT),
                          widen(points->values, COUNT * DV)};
      double after =
          reference_refine_loss(queries, count, moved[0], moved[1], moved[2], COUNT, D, DV, mass, fixed, target, 0);
      if (after > 0.85 * before) fail_msg("loss %g -> %g", before, after);
      for (int k = 0; k < 3; k++) free(moved[k]);
    }
    pith_points_free(context, points);
  }
  pith_lessons_free(context, lessons);
  pith_points_free(context, start);
  pith_engine_nystrom.release(context, engine);
  double *all[] = {queries, mass, fixed, target, keys, weights, values};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  unmake(context, &f);
  pith_context_free(context);
}

/* The instance of theory 4.1: a few keys at u, many at -u, opposite values. At q = rho u both sides weigh the same and
 * the answer is 0; two weighted points must say so, where an equal-weight subset needs about e^(2 rho) rows. */
static void test_two_points(void **state) {
  (void)state;
  enum { COUNT = 2048 };
  pith_context *context = test_context(1);
  for (double rho = 1; rho <= 3; rho++) {
    float *keys = calloc(COUNT * D, sizeof *keys), *values = calloc(COUNT * DV, sizeof *values);
    size_t few = (size_t)(COUNT * exp(-2 * rho) + 0.5);
    for (size_t i = 0; i < COUNT; i++) keys[i * D] = values[i * DV] = i < few ? 1 : -1;
    pith_array k = pith_array_matrix(keys, PITH_F32, COUNT, D), v = pith_array_matrix(values, PITH_F32, COUNT, DV);
    pith_compress_options options;
    pith_compress_options_init(&options);
    options.points = 2;
    options.sinks = options.window = 0;
    options.store = PITH_F32;
    options.scale = 1;
    options.rho = rho;
    pith_summary *summary = NULL;
    assert_ok(context, pith_compress(context, &k, &v, NULL, &options, &summary));
    float query[3 * D] = {0}, exact[3 * DV], answer[3 * DV];
    query[0] = (float)rho;
    query[D] = (float)-rho;
    pith_array q = pith_array_matrix(query, PITH_F32, 3, D);
    pith_attention_options attention;
    pith_attention_options_init(&attention);
    attention.scale = 1;
    assert_ok(context, pith_attention_compute(context, &q, &k, &v, &attention, exact));
    assert_ok(context, pith_summary_attend(context, summary, &q, 0, answer));
    for (size_t j = 0; j < 3 * DV; j++)
      if (fabsf(exact[j] - answer[j]) > 2e-4f)
        fail_msg("rho %g: %g, should be %g", rho, (double)answer[j], (double)exact[j]);
    pith_summary_free(summary);
    free(keys);
    free(values);
  }
  pith_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pivots_match_reference),
                                     cmocka_unit_test(test_pivot_law),
                                     cmocka_unit_test(test_fit_matches_reference),
                                     cmocka_unit_test(test_weightless_points_are_replaced),
                                     cmocka_unit_test(test_lessons),
                                     cmocka_unit_test(test_refinement),
                                     cmocka_unit_test(test_two_points)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
