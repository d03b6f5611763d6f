/* sparse.c - sparse attention over jobs: choices are made side by side, and what is better answered exactly is answered
 * together afterwards. */
#include "sparsity/sparse.h"

#include <math.h>
#include <string.h>

enum {
  CHUNK = 16,      /* rows of one task: where the first does not pay, the others are not tried */
  WORTH = 96 << 10 /* keys that all rows of a task see together, below which trying may cost a tenth of them */
};

typedef struct sparse_plan {
  const pith_sparse_job *jobs;
  size_t count;
  const size_t *first_task; /* (count + 1) */
  char *space;
  size_t space_bytes; /* of one thread */
} sparse_plan;

static size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

/* Heads that choose together. */
static size_t shared(const pith_sparse_job *job) {
  return job->each || job->confidence > 0 ? 1 : pith_min_size(job->heads, PITH_MAX_GROUP);
}

static size_t tasks_of(const pith_sparse_job *job) {
  return divide_up(job->heads, shared(job)) * divide_up(job->queries, CHUNK);
}

static void mark_exact(const pith_sparse_job *job, size_t head, size_t group, size_t row) {
  for (size_t q = head; q < head + group; q++)
    job->account[q * job->queries + row] = (pith_sparse_account){.exact = true};
}

static void run_task(void *argument, size_t index, int thread) {
  const sparse_plan *plan = argument;
  size_t number = 0;
  while (plan->first_task[number + 1] <= index) number++;
  const pith_sparse_job *job = &plan->jobs[number];
  const size_t chunks = divide_up(job->queries, CHUNK), task = index - plan->first_task[number];
  const size_t head = task / chunks * shared(job), group = pith_min_size(shared(job), job->heads - head);
  const size_t first = task % chunks * CHUNK, last = pith_min_size(first + CHUNK, job->queries);
  char *space = plan->space + (size_t)thread * plan->space_bytes;
  bool pays = job->always || pith_mask_count(&job->mask, first, job->rows.count) * (last - first) >= WORTH;
  for (size_t row = first; row < last; row++) {
    bool answered = pays && pith_sparse_choose(job, head, group, row, space);
    if (!answered) mark_exact(job, head, group, row);
    if (row == first && !job->always) pays = answered;
  }
}

/* ---- What is left to exact attention: runs of rows of one query head ---- */

typedef struct run {
  size_t job, head, first, count;
} run;

/* Yields the number of runs; `runs` may be NULL. */
static size_t find_runs(const pith_sparse_job *jobs, size_t count, run *runs) {
  size_t found = 0;
  for (size_t i = 0; i < count; i++)
    for (size_t head = 0; head < jobs[i].heads; head++)
      for (size_t row = 0; row < jobs[i].queries;) {
        const pith_sparse_account *account = jobs[i].account + head * jobs[i].queries;
        size_t first = row;
        while (row < jobs[i].queries && account[row].exact) row++;
        if (row > first && runs) runs[found] = (run){i, head, first, row - first};
        found += row > first;
        row += row == first;
      }
  return found;
}

/* Runs that differ in the head alone, one after the other: answered by one job. */
static size_t alike(const run *runs, size_t count, size_t first) {
  size_t end = first + 1;
  while (end < count && runs[end].job == runs[first].job && runs[end].head == runs[first].head + (end - first) &&
         runs[end].first == runs[first].first && runs[end].count == runs[first].count)
    end++;
  return end - first;
}

static void account_exact(const pith_sparse_job *job, const run *r) {
  for (size_t row = r->first; row < r->first + r->count; row++) {
    size_t place = r->head * job->queries + row, seen = pith_mask_count(&job->mask, row, job->rows.count);
    const float *query = job->query + place * job->rows.d;
    double bound = seen == 0 ? 0 : pith_sparse_rounding(job, query, job->out + place * job->rows.dv, seen);
    if (job->marks) memset(job->marks + place * job->rows.count, 1, job->rows.count);
    job->account[place] = (pith_sparse_account){
        .bound = bound >= 0 ? bound : (double)INFINITY, .read = seen, .seen = seen, .exact = true};
  }
}

static pith_status answer_exactly(pith_context *context, const pith_sparse_job *jobs, size_t count) {
  size_t found = find_runs(jobs, count, NULL), made = 0, queries = 0, answers = 0;
  if (found == 0) return PITH_OK;
  run *runs = pith_allocate(context, found, sizeof *runs);
  pith_attend_job *exact = pith_allocate(context, found, sizeof *exact);
  if (runs) (void)find_runs(jobs, count, runs);
  for (size_t i = 0; runs && i < found; i++) {
    queries += runs[i].count * jobs[runs[i].job].rows.d;
    answers += runs[i].count * jobs[runs[i].job].rows.dv;
  }
  float *query = pith_allocate(context, queries, sizeof *query), *out = pith_allocate(context, answers, sizeof *out);
  pith_status status = runs && exact && query && out ? PITH_OK : PITH_E_MEMORY;
  float *next_query = query, *next_out = out;
  for (size_t i = 0, heads; status == PITH_OK && i < found; i += heads, made++) {
    const pith_sparse_job *job = &jobs[runs[i].job];
    heads = alike(runs, found, i);
    exact[made] = (pith_attend_job){.rows = job->rows,
                                    .heads = heads,
                                    .queries = runs[i].count,
                                    .query = next_query,
                                    .mask = job->mask,
                                    .out = next_out};
    exact[made].mask.first += (ptrdiff_t)runs[i].first;
    for (size_t h = 0; h < heads; h++, next_query += runs[i].count * job->rows.d)
      memcpy(next_query, job->query + (runs[i + h].head * job->queries + runs[i].first) * job->rows.d,
             runs[i].count * job->rows.d * sizeof *query);
    next_out += heads * runs[i].count * job->rows.dv;
  }
  if (status == PITH_OK) status = pith_attend_jobs(context, exact, made);
  next_out = out;
  for (size_t i = 0; status == PITH_OK && i < found; i++) {
    const pith_sparse_job *job = &jobs[runs[i].job];
    memcpy(job->out + (runs[i].head * job->queries + runs[i].first) * job->rows.dv, next_out,
           runs[i].count * job->rows.dv * sizeof *out);
    next_out += runs[i].count * job->rows.dv;
    account_exact(job, &runs[i]);
  }
  pith_release(context, out);
  pith_release(context, query);
  pith_release(context, exact);
  pith_release(context, runs);
  return status;
}

pith_status pith_sparse_jobs(pith_context *context, const pith_sparse_job *jobs, size_t count) {
  sparse_plan plan = {.jobs = jobs, .count = count};
  size_t *first_task = pith_allocate(context, count + 1, sizeof *first_task);
  if (!first_task) return PITH_E_MEMORY;
  first_task[0] = 0;
  for (size_t i = 0; i < count; i++) {
    first_task[i + 1] = first_task[i] + tasks_of(&jobs[i]);
    size_t bytes = pith_sparse_space_bytes(jobs[i].rows.count, jobs[i].rows.d, jobs[i].rows.dv);
    plan.space_bytes = pith_max_size(plan.space_bytes, bytes);
  }
  plan.first_task = first_task;
  plan.space = pith_allocate(context, (size_t)pith_threads(context), plan.space_bytes);
  pith_status status = plan.space ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) pith_parallel_for(context, first_task[count], run_task, &plan);
  if (status == PITH_OK) status = answer_exactly(context, jobs, count);
  pith_release(context, plan.space);
  pith_release(context, first_task);
  return status;
}
