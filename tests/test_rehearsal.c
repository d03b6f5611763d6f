/* test_rehearsal.c - queries that came later, asked of what was there before them. */
#include "attention.h"
#include "budget/job.h"
#include "pith.h"
#include "test.h"

enum { LAYERS = 2, HEADS = 2, GROUP = 2, N = 768, LATER = 192, CUT = N - LATER, REST = 256, ALL = N + REST, D = 32 };

typedef struct fixture {
  float *keys, *values, *queries;
  pith_array k, v, q; /* the first N tokens */
  pith_array all_k, all_v, all_q;
  pith_compress_options options;
  float weight[LAYERS * HEADS];
  pith_array w;
  pith_heads heads;
} fixture;

static pith_array heads_of(const float *data, size_t heads) {
  ptrdiff_t row = D * sizeof(float), head = ALL * row;
  return (pith_array){data, PITH_F32, 4, {LAYERS, heads, ALL, D}, {(ptrdiff_t)heads * head, head, row, sizeof(float)}};
}

/* A token's query looks up its own key, in coordinates that rotary positions hardly turn: what is looked up is always
 * near, and never among the keys that a later query finds in a summary. */
static void make(fixture *f) {
  *f = (fixture){.keys = test_gaussian(1, LAYERS * HEADS * ALL * D, 1),
                 .values = test_gaussian(2, LAYERS * HEADS * ALL * D, 1),
                 .queries = test_gaussian(3, LAYERS * HEADS * GROUP * ALL * D, 0.5)};
  for (size_t i = 0; i < LAYERS * HEADS * ALL * D; i++)
    if (i % D < D / 4) f->keys[i] *= 0.1F;
  for (size_t head = 0; head < LAYERS * HEADS * GROUP; head++)
    for (size_t i = 0; i < ALL * D; i++)
      if (i % D >= D / 4) f->queries[head * ALL * D + i] += 3 * f->keys[head / GROUP * ALL * D + i];
  f->all_k = heads_of(f->keys, HEADS);
  f->all_v = heads_of(f->values, HEADS);
  f->all_q = heads_of(f->queries, HEADS * GROUP);
  f->k = pith_array_rows(&f->all_k, 0, N);
  f->v = pith_array_rows(&f->all_v, 0, N);
  f->q = pith_array_rows(&f->all_q, 0, N);
  for (size_t i = 0; i < LAYERS * HEADS; i++) f->weight[i] = 1;
  f->w = pith_array_matrix(f->weight, PITH_F32, LAYERS, HEADS);
  pith_compress_options_init(&f->options);
  f->options.ratio = 1.0 / 8;
  f->options.budget = PITH_BUDGET_EVEN;
  f->options.rope = PITH_ROPE_PAIRS;
  f->options.rope_base = 1e16;
  f->options.horizon = REST;
  f->options.refine = 0;
  f->options.head_weights = &f->w;
  f->heads = (pith_heads){.keys = &f->k,
                          .values = &f->v,
                          .queries = &f->q,
                          .options = &f->options,
                          .engine = pith_engine_find("nystrom"),
                          .weight = f->weight,
                          .layers = LAYERS,
                          .heads = HEADS,
                          .group = GROUP,
                          .n = N,
                          .d = D,
                          .dv = D};
}

static void unmake(fixture *f) {
  free(f->keys);
  free(f->values);
  free(f->queries);
}

/* What the choosers are to be answered is causal attention over all keys up to their own. */
static void test_asked(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f;
  make(&f);
  pith_rehearsal rehearsal;
  assert_true(pith_rehearsal_set(&f.heads, &rehearsal));
  assert_int_equal(rehearsal.heads.n, CUT);
  static double keys[N * D], values[N * D];
  double query[D], answer[D], largest = 0;
  for (size_t index = 0; index < LAYERS * HEADS; index++) {
    pith_job *job = NULL;
    pith_effort effort = {.samples = 256};
    assert_ok(context, pith_job_open(context, &rehearsal.heads, &effort, true, index, &job));
    assert_int_equal(job->problem.n, CUT);
    assert_int_equal(job->choosers.count, LATER * GROUP); /* all there are, in their order */
    for (size_t i = 0; i < N * D; i++) {
      keys[i] = f.keys[index * ALL * D + i];
      values[i] = f.values[index * ALL * D + i];
    }
    for (size_t r = 0; r < job->choosers.count; r += 7) {
      size_t position = CUT + r / GROUP, head = index * GROUP + r % GROUP;
      for (size_t j = 0; j < D; j++) query[j] = f.queries[(head * ALL + position) * D + j];
      reference_attention(query, 1, keys, values, NULL, position + 1, D, D, 1 / sqrt(D), NULL, answer);
      for (size_t j = 0; j < D; j++) largest = fmax(largest, fabs(answer[j] - job->choosers.met[r * D + j]));
    }
    pith_job_close(context, job);
  }
  assert_true(largest < 2e-5);
  unmake(&f);
  test_context_free(context);
}

static void test_when_possible(void **state) {
  (void)state;
  fixture f;
  make(&f);
  pith_rehearsal rehearsal;
  f.options.rope = PITH_ROPE_NONE; /* no positions */
  assert_false(pith_rehearsal_set(&f.heads, &rehearsal));
  assert_ptr_equal(rehearsal.heads.keys, &f.k);
  f.options.rope = PITH_ROPE_PAIRS;
  f.options.outliers = 3; /* not known before the rows are seen */
  assert_false(pith_rehearsal_set(&f.heads, &rehearsal));
  f.options.outliers = 0;
  pith_array few = pith_array_rows(&f.q, N - LATER - 10, LATER + 10); /* hardly any before the cut */
  f.heads.queries = &few;
  assert_false(pith_rehearsal_set(&f.heads, &rehearsal));
  pith_array half = pith_array_rows(&f.q, N / 2, N / 2);
  f.heads.queries = &half;
  assert_true(pith_rehearsal_set(&f.heads, &rehearsal));
  assert_int_equal(rehearsal.options.query_start, N / 2);
  f.options.query_start = N; /* recorded after the keys */
  assert_false(pith_rehearsal_set(&f.heads, &rehearsal));
  f.heads.queries = NULL;
  assert_false(pith_rehearsal_set(&f.heads, &rehearsal));
  unmake(&f);
}

/* Points of a part stand for points of all. */
static void test_sizes(void **state) {
  (void)state;
  fixture f;
  make(&f);
  pith_rehearsal rehearsal;
  assert_true(pith_rehearsal_set(&f.heads, &rehearsal));
  assert_int_equal(pith_points_meant(&rehearsal, N, CUT), N);
  assert_int_equal(pith_points_rehearsed(&rehearsal, N, N), CUT);
  for (size_t points = 0; points <= N; points++) {
    size_t back = pith_points_meant(&rehearsal, N, pith_points_rehearsed(&rehearsal, N, points));
    assert_true(back <= points && points <= back + 2);
  }
  unmake(&f);
}

/* What predicted_kl makes of errors, four times the square, of the tokens after the first N. */
static double measure(pith_context *context, const fixture *f, const pith_summary *summary) {
  size_t heads = LAYERS * HEADS * GROUP, size = (size_t)REST * D;
  float *exact = malloc(heads * ALL * D * sizeof *exact), *answer = malloc(heads * size * sizeof *answer);
  pith_attention_options causal;
  pith_attention_options_init(&causal);
  causal.causal = 1;
  pith_array asked = pith_array_rows(&f->all_q, N, REST), later_k = pith_array_rows(&f->all_k, N, REST);
  pith_array later_v = pith_array_rows(&f->all_v, N, REST);
  assert_ok(context, pith_attention_compute(context, &asked, &f->all_k, &f->all_v, &causal, exact));
  assert_ok(context, pith_summary_attend_beside(context, summary, &asked, &later_k, &later_v, 0, answer));
  double cost = 0;
  for (size_t i = 0; i < heads; i++) {
    double rms = pith_error_measure(exact + i * size, answer + i * size, REST, D).rms;
    cost += 4 * rms * rms;
  }
  free(exact);
  free(answer);
  return cost;
}

/* The prediction is near what later tokens meet, at every budget. 4 * 384 later queries a size: a factor of two is far
 * outside their noise. The control: turned probes find what they look up twice, near and among all keys, so that the
 * rest counts for less, and foretell two thirds of the error at most, in the geometric mean over heads. */
static void test_prediction(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  fixture f;
  make(&f);
  for (int part = 4; part <= 16; part *= 2)
    for (int budget = 0; budget < 2; budget++) {
      f.options.ratio = 1.0 / part;
      f.options.budget = budget ? PITH_BUDGET_SPREAD : PITH_BUDGET_EVEN;
      pith_summary *summary = NULL;
      assert_ok(context, pith_compress(context, &f.k, &f.v, &f.q, &f.options, &summary));
      double predicted = pith_summary_describe(summary).predicted_kl, measured = measure(context, &f, summary);
      if (predicted > 2 * measured || predicted < measured / 2)
        fail_msg("1/%d, budget %d: predicted %g, measured %g", part, budget, predicted, measured);
      pith_summary_free(summary);
    }
  size_t points = N / 8;
  double product = 1;
  for (size_t index = 0; index < LAYERS * HEADS; index++) {
    double drift = 1;
    assert_ok(context, pith_rehearse(context, &f.heads, index, &points, 1, &drift));
    product *= drift;
  }
  if (!(product > pow(1.5, LAYERS * HEADS))) fail_msg("drifts multiply to %g", product);
  unmake(&f);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_asked), cmocka_unit_test(test_when_possible),
                                     cmocka_unit_test(test_sizes), cmocka_unit_test(test_prediction)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
