/* parallel.c - the one place that knows how threads are run. */
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/base.h"

/* Threads that are awake and take the items of one loop after another. `left` counts the items that nobody has taken
 * and `done` those that are finished: the calling thread changes loops only when all are, so that whoever took an item
 * reads the right loop. */
struct pith_team {
  _Alignas(64) atomic_size_t left;
  _Alignas(64) atomic_size_t done;
  pith_body body;
  void *argument;
  size_t count;
  atomic_bool over;
};

/* One moment of waiting: short at first, then the processor is left to others. */
static void wait_a_moment(unsigned *waited) {
  enum { SPINS = 10000 }; /* a tenth of a millisecond */
  if ((*waited)++ > SPINS) {
    sched_yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

static bool take_item(pith_team *team, int thread) {
  size_t left = atomic_load_explicit(&team->left, memory_order_relaxed);
  do {
    if (left == 0) return false;
  } while (
      !atomic_compare_exchange_weak_explicit(&team->left, &left, left - 1, memory_order_acquire, memory_order_relaxed));
  team->body(team->argument, team->count - left, thread);
  atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
  return true;
}

static void run_loop(pith_team *team, size_t count, pith_body body, void *argument) {
  team->body = body;
  team->argument = argument;
  team->count = count;
  atomic_store_explicit(&team->done, 0, memory_order_relaxed);
  atomic_store_explicit(&team->left, count, memory_order_release);
  while (take_item(team, 0)) continue;
  for (unsigned waited = 0; atomic_load_explicit(&team->done, memory_order_acquire) < count;) wait_a_moment(&waited);
}

static void help(pith_team *team, int thread) {
  for (unsigned waited = 0; !atomic_load_explicit(&team->over, memory_order_acquire);)
    if (take_item(team, thread))
      waited = 0;
    else
      wait_a_moment(&waited);
}

pith_status pith_parallel_awake(pith_context *context, pith_work work, void *argument) {
  const int threads = pith_threads(context);
  pith_team **current = pith_context_team(context), team = {0};
  if (threads == 1 || *current) return work(argument);
  pith_status status = PITH_OK;
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_thread_num() > 0) {
      help(&team, omp_get_thread_num());
    } else {
      *current = &team;
      status = work(argument);
      *current = NULL;
      atomic_store_explicit(&team.over, true, memory_order_release);
    }
  }
  return status;
}

void pith_parallel_for(pith_context *context, size_t count, pith_body body, void *argument) {
  int threads = pith_threads(context);
  if (threads == 1 || count < 2) {
    for (size_t index = 0; index < count; index++) body(argument, index, 0);
    return;
  }
  pith_team *team = *pith_context_team(context);
  if (team) {
    run_loop(team, count, body, argument);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t index = 0; index < count; index++) body(argument, index, omp_get_thread_num());
}

/* ---- Tasks ---- */

typedef struct task_list {
  pith_context *context;
  const char *stage;
  size_t count, done, failed; /* done: finished so far; failed: lowest index that did, or count */
  pith_task task;
  void *argument;
  pith_status status;
  omp_lock_t lock; /* of the failure */
} task_list;

static bool has_failed(const task_list *list) { return __atomic_load_n(&list->status, __ATOMIC_RELAXED) < 0; }

static void note_failure(task_list *list, size_t index, pith_status status, const char *message) {
  omp_set_lock(&list->lock);
  if (index < list->failed) {
    list->failed = index;
    pith_set_message(list->context, "%s", message);
    __atomic_store_n(&list->status, status, __ATOMIC_RELAXED);
  }
  omp_unset_lock(&list->lock);
}

/* Only the calling thread speaks of progress, since that is where callers expect to be called. */
static void run_task(task_list *list, pith_context *worker, size_t index) {
  if (has_failed(list)) return;
  pith_status status = list->task(worker, list->argument, index);
  if (status < 0) note_failure(list, index, status, pith_context_message(worker));
  size_t done = __atomic_add_fetch(&list->done, 1, __ATOMIC_RELAXED);
  if (status < 0 || omp_get_thread_num() != 0) return;
  status = pith_report(list->context, list->stage, done, list->count);
  if (status < 0) note_failure(list, 0, status, pith_context_message(list->context));
}

static pith_status run_in_order(task_list *list) {
  for (size_t index = 0; index < list->count; index++) {
    PITH_TRY(pith_report(list->context, list->stage, index, list->count));
    PITH_TRY(list->task(list->context, list->argument, index));
  }
  return pith_report(list->context, list->stage, list->count, list->count);
}

pith_status pith_parallel_tasks(pith_context *context, const char *stage, size_t count, pith_task task,
                                void *argument) {
  task_list list = {
      .context = context, .stage = stage, .count = count, .failed = count, .task = task, .argument = argument};
  size_t threads = (size_t)pith_threads(context);
  if (threads == 1 || count < threads) return run_in_order(&list);
  PITH_TRY(pith_report(context, stage, 0, count));
  pith_context **worker = pith_allocate_zero(context, threads, sizeof(pith_context *));
  pith_status status = worker ? PITH_OK : PITH_E_MEMORY;
  for (size_t i = 0; i < threads && status == PITH_OK; i++) status = pith_context_worker(context, &worker[i]);
  if (status == PITH_OK) {
    omp_init_lock(&list.lock);
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)threads)
    for (size_t index = 0; index < count; index++) run_task(&list, worker[omp_get_thread_num()], index);
    status = list.status;
    omp_destroy_lock(&list.lock);
  }
  for (size_t i = 0; i < threads && worker; i++) pith_context_free(worker[i]);
  pith_release(context, worker);
  return status;
}
