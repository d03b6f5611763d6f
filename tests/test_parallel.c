/* test_parallel.c - loops on threads that are kept awake: every item runs once, and before the loop returns. */
#include "test.h"

enum { MOST = 97, LOOPS = 3000 };

typedef struct loop {
  size_t *sum; /* (MOST): plain numbers, so that ThreadSanitizer sees any item that runs twice or too late */
  size_t round;
} loop;

static void add(void *argument, size_t index, int thread) {
  (void)thread;
  const loop *l = argument;
  l->sum[index] += l->round + index;
}

typedef struct many_loops {
  pith_context *context;
  size_t sum[MOST], wanted[MOST], wrong;
} many_loops;

static pith_status run_many(void *argument) {
  many_loops *m = argument;
  for (size_t round = 1; round <= LOOPS; round++) {
    const size_t count = round % (MOST + 1);
    loop l = {m->sum, round};
    pith_parallel_for(m->context, count, add, &l);
    for (size_t i = 0; i < count; i++) m->wanted[i] += round + i;
    for (size_t i = 0; i < MOST; i++) m->wrong += m->sum[i] != m->wanted[i];
  }
  return PITH_NOT_CERTIFIED;
}

static pith_status run_inside(void *argument) {
  const many_loops *m = argument;
  return pith_parallel_awake(m->context, run_many, argument);
}

static void awake_threads_run_every_item_once(void **state) {
  (void)state;
  for (int threads = 1; threads <= 4; threads++) {
    many_loops m = {.context = test_context(threads)};
    /* Twice, since a region must leave nothing behind, and once inside another. */
    assert_int_equal(pith_parallel_awake(m.context, run_many, &m), PITH_NOT_CERTIFIED);
    assert_int_equal(pith_parallel_awake(m.context, run_inside, &m), PITH_NOT_CERTIFIED);
    assert_null(*pith_context_team(m.context));
    assert_int_equal(m.wrong, 0);
    assert_true(m.sum[0] > LOOPS);
    test_context_free(m.context);
  }
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(awake_threads_run_every_item_once)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
