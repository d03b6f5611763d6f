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

/* ---- Tasks ---- */

enum { TASKS = 50 };

typedef struct tasks {
  size_t fail_at;
  size_t runs[TASKS];
  float *kept[TASKS];
} tasks;

static pith_status work(pith_context *context, void *argument, size_t index) {
  tasks *t = argument;
  t->runs[index]++;
  float *scratch = pith_scratch(context, 0, 64 * (index + 1)); /* each thread has its own */
  t->kept[index] = pith_allocate(context, 8, sizeof(float));
  if (!scratch || !t->kept[index]) return PITH_E_MEMORY;
  memset(scratch, (int)index, 64 * (index + 1));
  for (int i = 0; i < 8; i++) t->kept[index][i] = (float)((const unsigned char *)scratch)[i];
  return index == t->fail_at ? pith_fail(context, PITH_E_VALUE, "task %zu cannot", index) : PITH_OK;
}

static void tasks_have_contexts_of_their_own(void **state) {
  (void)state;
  for (int threads = 1; threads <= 4; threads++)
    for (int failure = 0; failure < 3; failure++) {
      const size_t fail_at = (const size_t[]){TASKS, TASKS - 1, 7}[failure];
      pith_context *context = test_context(threads);
      tasks t = {.fail_at = fail_at};
      pith_status status = pith_parallel_tasks(context, "working", TASKS, work, &t);
      if (fail_at == TASKS) assert_int_equal(status, PITH_OK);
      if (fail_at < TASKS) {
        char message[32];
        (void)snprintf(message, sizeof message, "task %zu cannot", fail_at);
        assert_int_equal(status, PITH_E_VALUE);
        assert_string_equal(pith_context_message(context), message);
      }
      for (size_t i = 0; i < TASKS; i++) {
        if (i == fail_at || fail_at == TASKS) assert_int_equal(t.runs[i], 1);
        assert_true(t.runs[i] <= 1);
        for (int j = 0; t.kept[i] && j < 8; j++) assert_true(t.kept[i][j] == (float)i);
        pith_release(context, t.kept[i]);
      }
      test_context_free(context); /* nothing is left behind */
    }
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(awake_threads_run_every_item_once),
                                     cmocka_unit_test(tasks_have_contexts_of_their_own)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
