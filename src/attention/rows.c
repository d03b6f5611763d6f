/* rows.c - attention over stored rows: how the work is cut, and how the pieces are put together.
 *
 * A job is cut into blocks of queries, and where these are few, its keys into parts as well. Each (block,
 * part) is one task; the parts of a block are merged in order afterwards. Inside a task, keys are taken a
 * stretch at a time for all queries of the block, so that the stretch stays in the cache. */
#include <math.h>
#include <string.h>

#include "attention/attention.h"

enum {
  BLOCK = 64,     /* queries of one task */
  STRETCH = 512,  /* keys that all queries of a block see before the next */
  PART = 2048,    /* least keys of one part */
  SHORT = 16,     /* spans of fewer keys are gathered, */
  GATHERED = 64,  /* so many keys at most */
  UNLIKE = 128,   /* keys by which spans of one call differ at most, since all its queries meet all its keys */
  MOST_TASKS = 64 /* beyond that many blocks, keys are not split */
};

/* State of one task: largest[BLOCK], sum[BLOCK], queries (BLOCK, d), output (BLOCK, dv); and room of its thread for
 * gathered rows: keys, values, log-weights. */
typedef struct task_state {
  float *largest, *sum, *query, *output, *gathered;
} task_state;

typedef struct job_cut {
  size_t blocks, parts, part_rows;
} job_cut;

typedef struct job_plan {
  const pith_attend_job *jobs;
  size_t count;
  const size_t *first_task;  /* (count + 1) */
  const size_t *first_state; /* (count): state of a job's first task, when it keeps them */
  float *gathered;           /* of each thread */
  float *states;             /* one for each thread, then the kept ones */
  size_t state_size;         /* floats */
  size_t d, dv;              /* the largest of all jobs */
} job_plan;

static size_t divide_up(size_t a, size_t b) { return a / b + (a % b != 0); }

static size_t job_queries(const pith_attend_job *job) { return job->heads * job->queries; }

static job_cut cut_job(const pith_attend_job *job) {
  job_cut cut = {.blocks = divide_up(job_queries(job), BLOCK), .parts = 1, .part_rows = job->rows.count};
  if (cut.blocks == 0 || cut.blocks >= MOST_TASKS) return cut;
  size_t most = MOST_TASKS / cut.blocks;
  cut.part_rows = pith_max_size(PART, divide_up(divide_up(job->rows.count, most), STRETCH) * STRETCH);
  cut.parts = pith_max_size(1, divide_up(job->rows.count, cut.part_rows));
  return cut;
}

static task_state state_at(const job_plan *plan, size_t index) {
  float *at = plan->states + index * plan->state_size;
  return (task_state){at, at + BLOCK, at + 2 * BLOCK, at + 2 * BLOCK + BLOCK * plan->d, NULL};
}

/* Floats of a thread's room for gathered rows. */
static size_t gathered_size(const job_plan *plan) { return GATHERED * (plan->d + plan->dv + 1); }

/* Queries are numbered row by row, all heads of a row together, so that neighbours see about the same keys. */
static size_t query_place(const pith_attend_job *job, size_t index) {
  return index % job->heads * job->queries + index / job->heads;
}

/* The scales from row `row` on. */
static const uint16_t *scales_from(const uint16_t *scales, size_t row, size_t width) {
  return scales ? scales + row * pith_scales(width) : NULL;
}

/* The part of a query's next span before `stop`. */
static size_t next_length(const pith_spans *spans, size_t stop) {
  return pith_min_size(spans->end, stop) - pith_min_size(spans->begin, stop);
}

/* Takes what the queries of a group see next of the rows start .. stop-1: the span that begins first, and those of
 * about its length that begin before it ends. Of the others low = high. Yields the queries *first .. *last-1 that took
 * any; false: none of them sees any more there. */
static bool take_spans(pith_spans *spans, size_t group, size_t start, size_t stop, size_t *low, size_t *high,
                       size_t *first, size_t *last) {
  size_t begin = stop, end = stop, length = 0;
  for (size_t q = 0; q < group; q++)
    if (spans[q].begin < begin && spans[q].begin < spans[q].end) {
      begin = spans[q].begin;
      end = pith_min_size(spans[q].end, stop);
      length = end - begin;
    }
  if (begin == stop) return false;
  *first = group;
  for (size_t q = 0; q < group; q++) {
    low[q] = high[q] = 0;
    const size_t own = next_length(&spans[q], stop);
    if (own == 0 || spans[q].begin >= end || own > length + UNLIKE || length > own + UNLIKE) continue;
    low[q] = spans[q].begin - start;
    high[q] = low[q] + own;
    *first = pith_min_size(*first, q);
    *last = q + 1;
    if (spans[q].end > stop)
      spans[q].begin = stop;
    else
      pith_spans_next(&spans[q]);
  }
  return true;
}

/* The first row that any of the queries sees next; `to` if there is none. */
static size_t first_seen(const pith_spans *spans, size_t count, size_t to) {
  size_t first = to;
  for (size_t i = 0; i < count; i++)
    if (spans[i].begin < spans[i].end) first = pith_min_size(first, spans[i].begin);
  return first;
}

static bool see_the_same(const pith_spans *spans, size_t group) {
  for (size_t q = 1; q < group; q++)
    if (spans[q].begin != spans[0].begin || spans[q].end != spans[0].end) return false;
  return true;
}

/* Copies rows that all queries of a group see next, span by span, as long as these are short, and lets *block stand for
 * them. Scattered rows would cost a call of the kernel each. */
static bool gather_spans(const pith_rows *rows, pith_spans *spans, size_t group, float *room,
                         pith_attend_block *block) {
  if (rows->key_scales) return false;
  const size_t size = pith_dtype_size(rows->dtype);
  char *keys = (char *)room, *values = keys + GATHERED * rows->d * size;
  float *log_weights = room + GATHERED * (rows->d + rows->dv);
  size_t count = 0;
  while (spans[0].end - spans[0].begin < SHORT && spans[0].begin < spans[0].end && see_the_same(spans, group)) {
    const size_t begin = spans[0].begin, length = spans[0].end - begin;
    if (count + length > GATHERED) break;
    for (size_t row = begin; row < begin + length; row++, count++) {
      memcpy(keys + count * rows->d * size, (const char *)rows->keys + (ptrdiff_t)row * rows->key_stride,
             rows->d * size);
      memcpy(values + count * rows->dv * size, (const char *)rows->values + (ptrdiff_t)row * rows->value_stride,
             rows->dv * size);
      if (rows->log_weight) log_weights[count] = rows->log_weight[row];
    }
    for (size_t q = 0; q < group; q++) pith_spans_next(&spans[q]);
  }
  *block = (pith_attend_block){.d = rows->d,
                               .dv = rows->dv,
                               .rows = count,
                               .keys = keys,
                               .values = values,
                               .key_stride = (ptrdiff_t)(rows->d * size),
                               .value_stride = (ptrdiff_t)(rows->dv * size),
                               .log_weights = rows->log_weight ? log_weights : NULL};
  return count > 0;
}

/* Lets *block stand for the rows from .. stop-1, of which its query q sees low[q] .. high[q]-1. */
static void take_stretch(const pith_rows *rows, size_t from, size_t stop, const size_t *low, const size_t *high,
                         pith_attend_block *block) {
  *block = (pith_attend_block){.d = rows->d,
                               .dv = rows->dv,
                               .rows = stop - from,
                               .keys = (const char *)rows->keys + (ptrdiff_t)from * rows->key_stride,
                               .values = (const char *)rows->values + (ptrdiff_t)from * rows->value_stride,
                               .key_stride = rows->key_stride,
                               .value_stride = rows->value_stride,
                               .key_scales = scales_from(rows->key_scales, from, rows->d),
                               .value_scales = scales_from(rows->value_scales, from, rows->dv),
                               .log_weights = rows->log_weight ? rows->log_weight + from : NULL,
                               .begin = low,
                               .end = high};
}

/* Lets *block ask for `group` queries from number `first` of the task on. */
static void take_queries_of(const pith_rows *rows, size_t first, size_t group, task_state state,
                            pith_attend_block *block) {
  block->group = group;
  block->queries = state.query + first * rows->d;
  block->largest = state.largest + first;
  block->sum = state.sum + first;
  block->output = state.output + first * rows->dv;
}

/* Brings queries first .. first+count-1 of a job together with the rows from .. to-1 that they see; stretches that
 * none of them sees are passed over. */
static void attend_range(const pith_attend_job *job, const pith_rows *rows, const pith_mask *mask, size_t first,
                         size_t count, size_t from, size_t to, task_state state) {
  pith_spans spans[BLOCK];
  pith_attend_kernel attend = pith_kernels_attend(pith_kernels_active(), rows->dtype);
  for (size_t i = 0; i < count; i++) spans[i] = pith_mask_spans(mask, (first + i) / job->heads, from, to);
  while ((from = first_seen(spans, count, to)) < to) {
    size_t stop = from + pith_min_size(STRETCH, to - from), low[PITH_MAX_GROUP], high[PITH_MAX_GROUP];
    size_t begin = 0, end = 0;
    for (size_t i = 0; i < count; i += PITH_MAX_GROUP) {
      const size_t group = pith_min_size(PITH_MAX_GROUP, count - i);
      pith_attend_block block;
      while (gather_spans(rows, spans + i, group, state.gathered, &block)) {
        take_queries_of(rows, i, group, state, &block);
        attend(&block);
      }
      while (take_spans(spans + i, group, from, stop, low, high, &begin, &end)) {
        take_stretch(rows, from, stop, low + begin, high + begin, &block);
        take_queries_of(rows, i + begin, end - begin, state, &block);
        attend(&block);
      }
    }
  }
}

/* Queries first .. first+count-1 of a job, as these rows are to be asked. */
static void take_queries(const pith_attend_job *job, const pith_rows *rows, size_t first, size_t count,
                         task_state state) {
  size_t d = rows->d;
  for (size_t i = 0; i < count; i++)
    memcpy(state.query + i * d, job->query + query_place(job, first + i) * d, d * sizeof(float));
  if (pith_turned(rows->dtype, d)) pith_turn(state.query, count, d);
}

/* Queries first .. first+count-1 of a job over part number `part` of its rows; the last part has the later rows. */
static void attend_block(const pith_attend_job *job, const job_cut *cut, size_t first, size_t count, size_t part,
                         task_state state) {
  const pith_rows *rows = &job->rows;
  size_t from = part * cut->part_rows, to = pith_min_size(from + cut->part_rows, rows->count);
  for (size_t i = 0; i < count; i++) {
    state.largest[i] = -INFINITY;
    state.sum[i] = 0;
  }
  memset(state.output, 0, count * rows->dv * sizeof(float));
  take_queries(job, rows, first, count, state);
  attend_range(job, rows, &job->mask, first, count, from, to, state);
  if (pith_turned(rows->dtype, rows->dv)) pith_turn(state.output, count, rows->dv);
  if (part + 1 < cut->parts || job->later.count == 0) return;
  if (pith_turned(rows->dtype, rows->d)) take_queries(job, &job->later, first, count, state);
  attend_range(job, &job->later, &job->later_mask, first, count, 0, job->later.count, state);
}

static void write_answers(const pith_attend_job *job, size_t first, size_t count, task_state state) {
  size_t dv = job->rows.dv;
  for (size_t i = 0; i < count; i++) {
    float *out = job->out + query_place(job, first + i) * dv;
    for (size_t j = 0; j < dv; j++) out[j] = state.sum[i] > 0 ? state.output[i * dv + j] / state.sum[i] : 0;
  }
}

static void run_task(void *argument, size_t index, int thread) {
  const job_plan *plan = argument;
  size_t low = 0, high = plan->count; /* first_task[low] <= index < first_task[high] */
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (plan->first_task[middle] <= index)
      low = middle;
    else
      high = middle;
  }
  const pith_attend_job *job = &plan->jobs[low];
  job_cut cut = cut_job(job);
  size_t task = index - plan->first_task[low], first = task / cut.parts * BLOCK;
  size_t count = pith_min_size(BLOCK, job_queries(job) - first);
  task_state state = state_at(plan, cut.parts > 1 ? plan->first_state[low] + task : (size_t)thread);
  state.gathered = plan->gathered + (size_t)thread * gathered_size(plan);
  attend_block(job, &cut, first, count, task % cut.parts, state);
  if (cut.parts == 1) write_answers(job, first, count, state);
}

static void merge_parts(const job_plan *plan, size_t number) {
  const pith_attend_job *job = &plan->jobs[number];
  job_cut cut = cut_job(job);
  size_t dv = job->rows.dv;
  for (size_t block = 0; block < cut.blocks; block++) {
    size_t first = block * BLOCK, count = pith_min_size(BLOCK, job_queries(job) - first);
    task_state whole = state_at(plan, plan->first_state[number] + block * cut.parts);
    for (size_t part = 1; part < cut.parts; part++) {
      task_state more = state_at(plan, plan->first_state[number] + block * cut.parts + part);
      for (size_t i = 0; i < count; i++)
        pith_attention_state_merge(&whole.largest[i], &whole.sum[i], whole.output + i * dv, more.largest[i],
                                   more.sum[i], more.output + i * dv, dv);
    }
    write_answers(job, first, count, whole);
  }
}

pith_status pith_attend_jobs(pith_context *context, const pith_attend_job *jobs, size_t count) {
  job_plan plan = {.jobs = jobs, .count = count};
  size_t states = (size_t)pith_threads(context), tasks = 0;
  for (size_t i = 0; i < count; i++) {
    job_cut cut = cut_job(&jobs[i]);
    if (cut.parts > 1) states += cut.blocks * cut.parts;
    plan.d = pith_max_size(plan.d, jobs[i].rows.d);
    plan.dv = pith_max_size(plan.dv, jobs[i].rows.dv);
  }
  plan.state_size = BLOCK * (2 + plan.d + plan.dv);
  size_t numbers = divide_up((2 * count + 1) * sizeof(size_t), 64) * 64;
  size_t gathered = (size_t)pith_threads(context) * gathered_size(&plan);
  char *scratch = pith_scratch(context, 3, numbers + (gathered + states * plan.state_size) * sizeof(float));
  if (!scratch) return PITH_E_MEMORY;
  size_t *first_task = (size_t *)(void *)scratch, *first_state = first_task + count + 1;
  plan.first_task = first_task;
  plan.first_state = first_state;
  plan.gathered = (float *)(void *)(scratch + numbers);
  plan.states = plan.gathered + gathered;

  states = (size_t)pith_threads(context);
  for (size_t i = 0; i < count; i++) {
    job_cut cut = cut_job(&jobs[i]);
    first_task[i] = tasks;
    first_state[i] = states;
    tasks += cut.blocks * cut.parts;
    if (cut.parts > 1) states += cut.blocks * cut.parts;
  }
  first_task[count] = tasks;
  pith_parallel_for(context, tasks, run_task, &plan);
  for (size_t i = 0; i < count; i++)
    if (cut_job(&jobs[i]).parts > 1) merge_parts(&plan, i);
  return PITH_OK;
}

pith_status pith_attend_rows(pith_context *context, const pith_rows *rows, const float *queries, size_t query_count,
                             float *out) {
  pith_attend_job job = {.rows = *rows, .heads = 1, .queries = query_count, .query = queries, .out = out};
  return pith_attend_jobs(context, &job, 1);
}

void pith_attention_state_merge(float *largest_a, float *sum_a, float *output_a, float largest_b, float sum_b,
                                const float *output_b, size_t dv) {
  if (largest_b == -INFINITY) return;
  float largest = fmaxf(*largest_a, largest_b), factor_a = expf(*largest_a - largest),
        factor_b = expf(largest_b - largest);
  *largest_a = largest;
  *sum_a = *sum_a * factor_a + sum_b * factor_b;
  for (size_t i = 0; i < dv; i++) output_a[i] = output_a[i] * factor_a + output_b[i] * factor_b;
}
