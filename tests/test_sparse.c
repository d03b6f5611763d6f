/* test_sparse.c - certified sparse attention: the bounds against double precision on random, adversarial and stored
 * cases. */
#include "attention.h"
#include "kernels/kernels.h"
#include "sparse.h"
#include "sparsity/sparse.h"
#include "summary/store.h"
#include "test.h"

static double *widen(const float *x, size_t count) {
  double *out = malloc((count ? count : 1) * sizeof *out);
  assert_non_null(out);
  for (size_t i = 0; i < count; i++) out[i] = (double)x[i];
  return out;
}

static double distance(const float *a, const double *b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
  return sqrt(sum);
}

/* ---- A cache of one head, and what is asked of it ---- */

typedef struct cache {
  size_t n, d, dv, heads, queries;
  pith_dtype dtype;
  float *keys, *values, *log_weight, *query; /* f32; query: (heads, queries, d) */
  void *stored[2];
  uint16_t *scales[2];
  pith_rows rows;
} cache;

/* The kinds of keys and values that bounds have trouble with. */
typedef enum kind {
  PLAIN,      /* Gaussian */
  CLUSTERED,  /* sixteen clusters that follow each other */
  SHARP,      /* one key far above the others */
  EQUAL,      /* all keys the same */
  HUGE_KEY,   /* one coordinate large: codes are coarse */
  AGAINST,    /* values lie along the query's logits: unread keys all pull one way */
  LONE_VALUE, /* one value is large, and its key just misses */
  FLAT,       /* logits near 0 */
  KINDS
} kind;

static cache make_cache(uint64_t seed, kind what, size_t n, size_t d, size_t dv, size_t heads, size_t queries,
                        double sigma) {
  cache c = {.n = n, .d = d, .dv = dv, .heads = heads, .queries = queries, .dtype = PITH_F32};
  c.keys = test_gaussian(seed, n * d, 1);
  c.values = test_gaussian(seed + 1, n * dv, 1);
  c.query = test_gaussian(seed + 2, heads * queries * d, (what == FLAT ? 0.1 : sigma) / sqrt((double)d));
  float *centres = test_gaussian(seed + 3, 16 * d, 1);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < d; j++) {
      float *key = &c.keys[i * d + j];
      if (what == CLUSTERED) *key = 0.2F * *key + 2 * centres[i * 16 / n * d + j];
      if (what == EQUAL) *key = c.keys[j];
      if (what == HUGE_KEY && j == 0) *key *= 40;
      if (what == SHARP && i == n / 3) *key = 3 * c.query[j] * sqrtf((float)d);
    }
  for (size_t i = 0; i < n; i++) {
    double logit = 0;
    for (size_t j = 0; j < d; j++) logit += (double)c.keys[i * d + j] * (double)c.query[j];
    if (what == AGAINST)
      for (size_t j = 0; j < dv; j++)
        c.values[i * dv + j] = (float)(j == 0 ? logit : 0.01 * (double)c.values[i * dv + j]);
    if (what == LONE_VALUE && i == n / 2)
      for (size_t j = 0; j < dv; j++) c.values[i * dv + j] *= 100;
  }
  free(centres);
  c.rows = (pith_rows){.keys = c.keys,
                       .values = c.values,
                       .key_stride = (ptrdiff_t)(d * sizeof(float)),
                       .value_stride = (ptrdiff_t)(dv * sizeof(float)),
                       .dtype = PITH_F32,
                       .count = n,
                       .d = d,
                       .dv = dv};
  return c;
}

/* Rounds the cache to a store; keys and values become what is then read. */
static void restore(pith_context *context, cache *c, pith_dtype dtype) {
  const float *from[2] = {c->keys, c->values};
  const size_t width[2] = {c->d, c->dv};
  for (int i = 0; i < 2; i++) {
    c->stored[i] = malloc(c->n * pith_store_row_bytes(dtype, width[i]));
    c->scales[i] = malloc((c->n * pith_store_scales(dtype, width[i]) + 1) * sizeof(uint16_t));
    assert_ok(context, pith_store_write(context, "rows", dtype, from[i], c->n, width[i], c->stored[i], c->scales[i]));
  }
  pith_store_read(dtype, c->stored[0], c->scales[0], c->n, c->d, c->keys);
  pith_store_read(dtype, c->stored[1], c->scales[1], c->n, c->dv, c->values);
  c->dtype = c->rows.dtype = dtype;
  c->rows.keys = c->stored[0];
  c->rows.values = c->stored[1];
  c->rows.key_stride = (ptrdiff_t)pith_store_row_bytes(dtype, c->d);
  c->rows.value_stride = (ptrdiff_t)pith_store_row_bytes(dtype, c->dv);
  c->rows.key_scales = pith_store_quantised(dtype) ? c->scales[0] : NULL;
  c->rows.value_scales = pith_store_quantised(dtype) ? c->scales[1] : NULL;
}

static void free_cache(cache *c) {
  for (int i = 0; i < 2; i++) {
    free(c->stored[i]);
    free(c->scales[i]);
  }
  free(c->keys);
  free(c->values);
  free(c->log_weight);
  free(c->query);
}

typedef struct tally {
  size_t queries, read, seen, exact, bad_bound, bad_tail, certified;
  double closest; /* largest error / bound */
} tally;

/* Asks, and holds every answer against double precision. `damage`: 1 spoils the index, as a negative control. */
static void ask(pith_context *context, const cache *c, double eps, bool each, bool fine, bool clustered, bool damage,
                tally *t) {
  const size_t count = c->heads * c->queries;
  float *out = malloc(count * c->dv * sizeof *out);
  unsigned char *marks = malloc(count * c->n);
  pith_sparse_account *account = calloc(count, sizeof *account);
  pith_sparse_head head = {.memory = pith_memory_share(context)};
  if (clustered)
    assert_ok(context, pith_sparse_head_cluster(context, &head, &c->rows));
  else
    assert_ok(context, pith_sparse_head_append(context, &head, &c->rows, 0));
  if (damage) {
    head.values.spread = head.means.spread = head.residual_squares = head.code_squares = 0;
    head.most_residual = head.most_code = 0;
    for (size_t p = 0; p < head.blocks; p++) head.block[p].residual = head.block[p].value_radius = 0;
  }
  pith_sparse_job job = {.rows = c->rows,
                         .head = &head,
                         .heads = c->heads,
                         .queries = c->queries,
                         .query = c->query,
                         .eps = eps,
                         .each = each,
                         .always = true,
                         .fine = fine,
                         .out = out,
                         .account = account,
                         .marks = marks};
  assert_ok(context, pith_sparse_jobs(context, &job, 1));
  double *keys = widen(c->keys, c->n * c->d), *values = widen(c->values, c->n * c->dv);
  double *query = widen(c->query, count * c->d), *weight = c->log_weight ? widen(c->log_weight, c->n) : NULL;
  double *exact = malloc(count * c->dv * sizeof *exact);
  reference_attention(query, count, keys, values, weight, c->n, c->d, c->dv, 1, NULL, exact);
  for (size_t i = 0; i < count; i++) {
    double error = distance(out + i * c->dv, exact + i * c->dv, c->dv), top = -INFINITY, mass = 0, tail = 0;
    for (int pass = 0; pass < 2; pass++)
      for (size_t r = 0; r < c->n; r++) {
        double logit = weight ? weight[r] : 0;
        for (size_t j = 0; j < c->d; j++) logit += query[i * c->d + j] * keys[r * c->d + j];
        if (pass == 0) {
          top = fmax(top, logit);
          continue;
        }
        mass += exp(logit - top);
        if (!marks[i * c->n + r]) tail += exp(logit - top);
      }
    tail /= mass;
    t->queries++;
    t->seen += account[i].seen;
    t->read += account[i].read;
    t->exact += account[i].exact != 0;
    t->certified += account[i].bound <= eps || account[i].exact; /* exact: only rounding is left */
    t->bad_bound += !(error <= account[i].bound);
    t->bad_tail += !account[i].exact && !(tail <= account[i].tail * (1 + 1e-12));
    t->closest = fmax(t->closest, error / account[i].bound);
  }
  pith_sparse_head_free(&head);
  pith_memory_unshare(head.memory);
  free(exact);
  free(weight);
  free(query);
  free(values);
  free(keys);
  free(account);
  free(marks);
  free(out);
}

/* ---- The property: 10^5 queries over random caches of every kind; bound and tail mass must hold in every one. ---- */

static void bounds_hold(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_stream stream = pith_stream_make(11, PITH_STREAM_TEST, 0);
  tally t = {0};
  const double eps[] = {0.003, 0.03, 0.3, 1.5};
  for (uint64_t trial = 0; t.queries < 100000; trial++) {
    size_t n = 65 + pith_random_below(&stream, 8 * trial, 200), d = 1 + pith_random_below(&stream, 8 * trial + 1, 12);
    size_t dv = 1 + pith_random_below(&stream, 8 * trial + 2, 6),
           group = 1 + pith_random_below(&stream, 8 * trial + 3, 8);
    kind what = (kind)(trial % KINDS);
    cache c = make_cache(1000 + trial, what, n, d, dv, group, 40, 1 + 4 * pith_random_uniform(&stream, 8 * trial + 4));
    if (trial % 7 == 0) {
      c.log_weight = test_gaussian(trial, n, 1);
      c.rows.log_weight = c.log_weight;
    }
    ask(context, &c, eps[trial / KINDS % 4], trial % 3 == 0, trial % 2 == trial / KINDS % 2, trial % 5 == 0, false, &t);
    free_cache(&c);
  }
  print_message("%zu queries: read %.3f of the keys, %zu exact, largest error / bound %.3f\n", t.queries,
                (double)t.read / (double)t.seen, t.exact, t.closest);
  assert_int_equal(t.bad_bound, 0);
  assert_int_equal(t.bad_tail, 0);
  assert_int_equal(t.certified, t.queries);
  assert_true(t.exact * 4 < t.queries); /* or nothing would have been tested */
  assert_true((double)t.read < 0.7 * (double)t.seen);
  assert_true(t.closest > 0.3); /* the bound is not so wide that any code would pass */
  test_context_free(context);
}

/* Codes of queries may be rounded as badly as they can be, all errors to one side: half of the keys are u and half are
 * -u, whose codes are exact, and the query's numbers lie just below the middle between two levels. All their values are
 * 1 and that of one key behind the blocks is 0, so that the answer is the mass of the codes. */
static void query_codes_are_bounded(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  enum { D = 6, N = 8 * PITH_SPARSE_BLOCK + 1 };
  const float u[D] = {127, 60, -33, 101, 5, -90};
  for (int fine = 0; fine < 2; fine++)
    for (size_t step = 1; step <= 8; step++) {
      cache c = make_cache(300, PLAIN, N, D, 1, 1, 1, 1);
      const float scale = (float)step * 6e-5F;
      for (size_t j = 0; j < D; j++) c.query[j] = scale * (j == 0 ? 127 : u[j] > 0 ? 1.45F : -1.45F);
      for (size_t i = 0; i < N; i++) {
        for (size_t j = 0; j < D; j++) c.keys[i * D + j] = i % 2 ? u[j] : -u[j];
        c.values[i] = i + 1 < N;
      }
      const double far = 16540 * (double)scale; /* the logit of u: the last key weighs as much as all others */
      for (size_t j = 0; j < D; j++)
        c.keys[(N - 1) * D + j] = j == 0 ? (float)((far + 5.5) / (127 * (double)scale)) : 0;
      tally t = {0};
      ask(context, &c, 0.2, true, fine, false, false, &t);
      assert_int_equal(t.bad_bound, 0);
      assert_int_equal(t.bad_tail, 0);
      assert_true(t.read == 1 && t.exact == 0);
      assert_true(t.closest > (fine ? 0 : 0.4)); /* the bound says no more than it must */

      free_cache(&c);
    }
  test_context_free(context);
}

/* With an index that claims no rounding and no spread of values, most answers must miss what is promised. */
static void damage_is_seen(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  tally t = {0};
  for (uint64_t trial = 0; trial < 20; trial++) {
    cache c = make_cache(50 + trial, AGAINST, 256, 8, 4, 4, 8, 2);
    ask(context, &c, 0.01, false, trial % 2 == 0, false, true, &t);
    free_cache(&c);
  }
  assert_true(t.bad_bound * 2 > t.queries);
  test_context_free(context);
}

static void stores_are_bounded(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const pith_dtype stores[] = {PITH_F32, PITH_F16, PITH_BF16, PITH_Q8, PITH_Q4};
  const size_t shapes[][2] = {{64, 64}, {40, 24}, {33, 65}};
  for (size_t s = 0; s < 5; s++)
    for (size_t k = 0; k < 3; k++)
      for (int each = 0; each < 2; each++) {
        tally t = {0};
        cache c = make_cache(70 + s, k == 0 ? SHARP : PLAIN, 700, shapes[k][0], shapes[k][1], 8, 3, 2.5);
        restore(context, &c, stores[s]);
        ask(context, &c, 0.3, each, each, false, false, &t);
        assert_int_equal(t.bad_bound, 0);
        assert_int_equal(t.bad_tail, 0);
        assert_int_equal(t.certified, t.queries);
        assert_int_equal(t.exact, 0);
        assert_true(t.read < t.seen * 9 / 10);
        free_cache(&c);
      }
  test_context_free(context);
}

/* Where a query looks at one cluster or at few keys, few are read. */
static void few_keys_are_read(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const kind kinds[] = {CLUSTERED, SHARP};
  for (size_t k = 0; k < 2; k++) {
    tally t = {0};
    cache c = make_cache(90, kinds[k], 4096, 32, 32, 4, 2, 5);
    ask(context, &c, 0.05, true, true, false, false, &t);
    assert_int_equal(t.bad_bound, 0);
    assert_true(t.read * 3 < t.seen);
    free_cache(&c);
  }
  test_context_free(context);
}

/* ---- The reference: the identity of the error, and that our bound is not below what it must be ---- */

static void identity_holds(void **state) {
  (void)state;
  for (uint64_t trial = 0; trial < 50; trial++) {
    enum { N = 150, D = 8, DV = 5 };
    float *random = test_gaussian(trial, N * (D + DV) + D, 1);
    double *wide = widen(random, N * (D + DV) + D);
    unsigned char read[N];
    for (size_t i = 0; i < N; i++) read[i] = random[i] > 0.5F;
    reference_sparse r =
        reference_sparse_attend(wide + N * (D + DV), wide, wide + N * D, NULL, read, N, D, DV, 64, NULL);
    assert_true(fabs(r.dropped - r.identity) <= 1e-12);
    assert_true(r.error <= r.bound && r.error > 0 && r.tail > 0 && r.tail < 1);
    free(wide);
    free(random);
  }
}

/* The answer is that of the reference with the same keys read, to within what the codes leave open. */
static void answer_is_the_reference(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  enum { N = 512, D = 32, DV = 16 };
  cache c = make_cache(21, PLAIN, N, D, DV, 1, 1, 2);
  float out[DV];
  unsigned char marks[N];
  pith_sparse_account account;
  pith_sparse_head head = {.memory = pith_memory_share(context)};
  assert_ok(context, pith_sparse_head_append(context, &head, &c.rows, 0));
  pith_sparse_job job = {.rows = c.rows,
                         .head = &head,
                         .heads = 1,
                         .queries = 1,
                         .query = c.query,
                         .eps = 0.25,
                         .always = true,
                         .fine = true,
                         .out = out,
                         .account = &account,
                         .marks = marks};
  assert_ok(context, pith_sparse_jobs(context, &job, 1));
  double *keys = widen(c.keys, N * D), *values = widen(c.values, N * DV), *query = widen(c.query, D), answer[DV];
  reference_sparse r = reference_sparse_attend(query, keys, values, NULL, marks, N, D, DV, 64, answer);
  assert_true(account.read > 10 && account.read < N / 2);
  assert_true(distance(out, answer, DV) < 0.1 * r.bound);
  assert_true(account.bound >= r.bound && account.bound < 2 * r.bound);
  assert_true(account.tail >= r.tail && account.tail < 1.2 * r.tail);
  free(query);
  free(values);
  free(keys);
  pith_sparse_head_free(&head);
  pith_memory_unshare(head.memory);
  free_cache(&c);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(identity_holds),    cmocka_unit_test(answer_is_the_reference),
      cmocka_unit_test(bounds_hold),       cmocka_unit_test(query_codes_are_bounded),
      cmocka_unit_test(damage_is_seen),    cmocka_unit_test(stores_are_bounded),
      cmocka_unit_test(few_keys_are_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
