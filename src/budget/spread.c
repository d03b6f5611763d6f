/* spread.c - a total of bytes over many heads: menus, spending, and heads made at the sizes chosen.
 *
 * A first look at every head is cheap: few recorded queries, small sizes. Where the bytes then want to go, a closer
 * look takes more recorded queries and larger sizes, and the total is spent anew. Prepared heads are kept until they
 * are made while memory allows; where it does not, they are prepared again, to the same bits. Looks do without
 * refinement, and count on what it usually saves. */
#include <math.h>
#include <string.h>

#include "budget/job.h"
#include "budget/menu.h"
#include "summary/store.h"

/* The first look: recorded queries, and the largest size as a part of all rows. A head that would take half of the
 * largest size that it was looked at gets a closer look at sizes up to four times what it took, and so on up to the
 * last part. */
enum { LOOK_SAMPLES = 1024, CLOSER_SAMPLES = 4096, FIRST_PART = 8, LAST_PART = 2, LOOKS = 3 };
/* Sizes that are tried double from this many points beside the exact rows; between two, errors are interpolated. */
enum { SMALLEST = 8, MOST_SIZES = 32, MOST_STORES = 3, MOST_OPTIONS = 2 * MOST_SIZES * MOST_STORES };
/* A closer look is for the heads that cost most: so many, or one in so many where that is more. */
enum { CLOSER = 8, ONE_IN = 8 };
/* Prepared heads are kept while no more than this is held. */
static const size_t MOST_KEPT = (size_t)1 << 30;

/* Refinement leaves this part of the error that points have before they are stored (measured: .2 to .4). */
static const double REFINED = 0.3;
/* Heads that make up this share of the cost are refined with all steps, the others with one in so many. */
static const double SHARE = 0.8;
enum { FEWER_STEPS = 3, FEWER_LESSONS = 4096 };
/* Recorded queries from which on the fit can do without some of them. */
enum { FEW = 2048 };

typedef struct head_work {
  pith_menu menu;                       /* its hull */
  pith_job *job;                        /* NULL: let go of */
  size_t most;                          /* points that the engine is prepared for */
  const pith_compress_options *options; /* of the look it is at */
} head_work;

typedef struct spread {
  const pith_heads *heads;
  pith_compress_options first, closer;
  size_t count;
  head_work *work;     /* (count) */
  pith_option *option; /* (count, MOST_OPTIONS): room of the menus */
  size_t *chosen;      /* (count): option of each menu */
  bool plenty;         /* bytes for more than all rows in q8: only then f16 is among several stores, for all rows */
  size_t store_count;
  pith_dtype store[MOST_STORES];
} spread;

static double weight_of(const spread *s, size_t index) {
  return (s->heads->weight ? s->heads->weight[index] : 1.0) * (double)s->heads->group;
}

/* ---- Jobs ---- */

static size_t point_bytes(const spread *s, pith_dtype store) {
  return pith_store_point_bytes(store, s->heads->d, s->heads->dv);
}

static pith_status open_job(pith_context *context, spread *s, size_t index, bool choose) {
  head_work *work = &s->work[index];
  PITH_TRY(pith_job_open(context, s->heads, work->options, choose, index, &work->job));
  return pith_job_prepare(context, work->job, work->most);
}

static pith_status obtain(pith_context *context, spread *s, size_t index) {
  head_work *work = &s->work[index];
  if (work->job) return PITH_OK;
  PITH_TRY(open_job(context, s, index, true));
  return work->job->choosers.count > 0
             ? PITH_OK
             : pith_fail(context, PITH_E_ARGUMENT,
                         "budget: the recorded queries are too few to choose sizes by; give more, or use budget even "
                         "and a store of your choice");
}

static void let_go(pith_context *context, head_work *work) {
  pith_job_close(context, work->job);
  work->job = NULL;
}

static void spare_memory(pith_context *context, head_work *work) {
  if (pith_context_bytes(context) > MOST_KEPT) let_go(context, work);
}

/* ---- Menus ---- */

/* Sizes to try, ascending: the exact rows alone, ever more points, all rows. */
static size_t list_sizes(const pith_job *job, size_t most, size_t *sizes) {
  size_t n = job->problem.n, exact = pith_job_exact(job);
  size_t count = 0;
  if (exact > 0 && exact < n) sizes[count++] = exact;
  for (double more = SMALLEST; exact + (size_t)more <= most && count + 1 < MOST_SIZES; more *= 2)
    sizes[count++] = exact + (size_t)more;
  sizes[count++] = n;
  return count;
}

static void add_option(const spread *s, size_t index, size_t points, pith_dtype store, double cost) {
  pith_menu *menu = &s->work[index].menu;
  menu->option[menu->count++] = (pith_option){points, store, points * point_bytes(s, store), cost};
}

/* What is to be reckoned with: the mean and its standard error, since a few queries may see little of the worst. Points
 * are refined once they are chosen, which leaves what storing them adds. */
static double expected_error(const pith_job *job, size_t points, const pith_met_error *error,
                             const pith_met_error *plain) {
  double squared = error->squared + error->deviation;
  if (job->problem.refine == 0 || points <= pith_job_exact(job) || points >= job->problem.n) return squared;
  return squared - (1 - REFINED) * fmin(squared, plain->squared + plain->deviation);
}

static pith_status look(pith_context *context, spread *s, size_t index) {
  head_work *work = &s->work[index];
  PITH_TRY(obtain(context, s, index));
  size_t sizes[MOST_SIZES], count = list_sizes(work->job, work->most, sizes);
  double before[MOST_STORES] = {0};
  work->menu = (pith_menu){.option = s->option + index * MOST_OPTIONS};
  for (size_t i = 0; i < count; i++) {
    bool whole = sizes[i] == work->job->problem.n;
    size_t first = s->store_count > 1 && !(whole && s->plenty), stores = s->store_count - first;
    pith_met_error errors[MOST_STORES];
    PITH_TRY(pith_job_try(context, work->job, sizes[i], s->store + first, stores, errors));
    for (size_t j = 0; j < stores; j++) {
      double cost = weight_of(s, index) * expected_error(work->job, sizes[i], &errors[j], &errors[0]);
      add_option(s, index, sizes[i], s->store[first + j], cost);
      if (i > 0 && !whole)
        add_option(s, index, (size_t)sqrt((double)(sizes[i - 1] * sizes[i])), s->store[first + j],
                   sqrt(before[j] * cost));
      before[j] = cost;
    }
  }
  pith_menu_hull(&work->menu);
  spare_memory(context, work);
  return PITH_OK;
}

/* ---- Choosing ---- */

static pith_status choose(pith_context *context, spread *s, size_t bytes, bool even) {
  pith_menu *menus = pith_allocate(context, s->count, sizeof *menus);
  if (!menus) return PITH_E_MEMORY;
  for (size_t i = 0; i < s->count; i++) menus[i] = s->work[i].menu;
  pith_status status = PITH_OK;
  if (even)
    for (size_t i = 0; status == PITH_OK && i < s->count; i++)
      status = pith_spend(context, &menus[i], 1, bytes / s->count, &s->chosen[i]);
  else
    status = pith_spend(context, menus, s->count, bytes, s->chosen);
  pith_release(context, menus);
  return status;
}

static const pith_option *chosen_of(const spread *s, size_t index) {
  return &s->work[index].menu.option[s->chosen[index]];
}

/* The size up to which a head is worth a closer look; 0: it is not. Whole caches of small numbers are seldom beaten. */
static size_t closer_size(const spread *s, size_t index, double least) {
  const pith_option *chosen = chosen_of(s, index);
  size_t most = s->work[index].most, last = s->heads->n / LAST_PART, wanted = 4 * chosen->points;
  if (chosen->cost < least) return 0;
  if (chosen->points == s->heads->n && pith_store_quantised(chosen->store)) return 0;
  return wanted >= 2 * most && most < last ? pith_min_size(wanted, last) : 0;
}

/* What is left goes into more points of heads, those first that cost most: at first of heads that are prepared for
 * more, then of any that are not whole. */
static pith_status fill_up(pith_context *context, spread *s, size_t bytes, bool even, size_t *points) {
  size_t *order = pith_allocate(context, s->count, sizeof *order), left = bytes;
  if (!order) return PITH_E_MEMORY;
  for (size_t i = 0; i < s->count; i++) {
    size_t at = i;
    for (; at > 0 && chosen_of(s, order[at - 1])->cost < chosen_of(s, i)->cost; at--) order[at] = order[at - 1];
    order[at] = i;
    points[i] = chosen_of(s, i)->points;
    left -= chosen_of(s, i)->bytes;
  }
  for (size_t k = 0; k < 2 * s->count; k++) {
    size_t i = order[k % s->count], size = point_bytes(s, chosen_of(s, i)->store);
    head_work *work = &s->work[i];
    size_t limit = k < s->count ? work->most : pith_max_size(work->most, s->heads->n - s->heads->n / 4);
    size_t share = even ? bytes / s->count - points[i] * size : left;
    if (points[i] >= limit || share < size) continue;
    size_t more = pith_min_size(share / size, limit - points[i]);
    points[i] += more;
    left -= more * size;
    if (points[i] <= work->most) continue;
    work->most = points[i];
    let_go(context, work);
  }
  pith_release(context, order);
  return PITH_OK;
}

/* ---- All heads ---- */

/* The cost from which on a head is among those that get a closer look. */
static pith_status find_least_cost(pith_context *context, const spread *s, double *least) {
  double *cost = pith_allocate(context, s->count, sizeof *cost);
  if (!cost) return PITH_E_MEMORY;
  for (size_t i = 0; i < s->count; i++) cost[i] = chosen_of(s, i)->cost;
  pith_sort_f64(cost, s->count);
  *least = cost[s->count - pith_min_size(s->count, pith_max_size(CLOSER, s->count / ONE_IN))];
  pith_release(context, cost);
  return PITH_OK;
}

/* Heads that are looked at together. */
typedef struct look_list {
  spread *s;
  const size_t *head;
} look_list;

static pith_status look_task(pith_context *context, void *argument, size_t index) {
  const look_list *list = argument;
  return look(context, list->s, list->head[index]);
}

/* Looks closer where it is worth it; *count: at so many heads. head (s->count) is room. */
static pith_status look_closer(pith_context *context, spread *s, size_t *head, size_t *count) {
  double least = 0;
  *count = 0;
  PITH_TRY(find_least_cost(context, s, &least));
  for (size_t i = 0; i < s->count; i++) {
    size_t most = closer_size(s, i, least);
    if (most == 0) continue;
    let_go(context, &s->work[i]);
    s->work[i].options = &s->closer;
    s->work[i].most = most;
    head[(*count)++] = i;
  }
  return pith_parallel_tasks(context, "looking closer", *count, look_task, &(look_list){s, head});
}

static pith_status look_at_all(pith_context *context, spread *s, size_t bytes, bool even) {
  size_t *head = pith_allocate(context, s->count, sizeof *head), count = s->count;
  if (!head) return PITH_E_MEMORY;
  for (size_t i = 0; i < s->count; i++) {
    head[i] = i;
    s->work[i].options = &s->first;
    s->work[i].most = s->heads->n / FIRST_PART;
  }
  pith_status status = pith_parallel_tasks(context, "looking at heads", count, look_task, &(look_list){s, head});
  if (status == PITH_OK) status = choose(context, s, bytes, even);
  for (int look = 1; status == PITH_OK && count > 0 && look < LOOKS; look++) {
    status = look_closer(context, s, head, &count);
    if (status == PITH_OK && count > 0) status = choose(context, s, bytes, even);
  }
  pith_release(context, head);
  return status;
}

/* The cost from which on heads make up SHARE of all that refinement can lower. */
static pith_status find_refined_cost(pith_context *context, const spread *s, double *least) {
  double *cost = pith_allocate(context, s->count, sizeof *cost), total = 0, sum = 0;
  if (!cost) return PITH_E_MEMORY;
  for (size_t i = 0; i < s->count; i++) {
    cost[i] = chosen_of(s, i)->points < s->heads->n ? chosen_of(s, i)->cost : 0;
    total += cost[i];
  }
  pith_sort_f64(cost, s->count);
  size_t i = s->count;
  while (i > 0 && sum < SHARE * total) sum += cost[--i];
  *least = i < s->count ? cost[i] : 0;
  pith_release(context, cost);
  return PITH_OK;
}

typedef struct making {
  spread *s;
  size_t *points; /* of each head */
  double refined_cost;
  pith_summary *summary;
} making;

static pith_status make_head(pith_context *context, void *argument, size_t index) {
  const making *m = argument;
  head_work *work = &m->s->work[index];
  const pith_option *chosen = chosen_of(m->s, index);
  PITH_TRY(obtain(context, m->s, index));
  if (work->job->model->distinct_count <= FEW) { /* the fit needs those too that sizes were chosen by */
    let_go(context, work);
    work->options = m->s->heads->options;
    PITH_TRY(open_job(context, m->s, index, false));
  }
  if (chosen->cost < m->refined_cost) {
    work->job->problem.refine /= FEWER_STEPS;
    work->job->problem.lessons = FEWER_LESSONS;
  }
  PITH_TRY(pith_job_take(context, work->job, m->points[index], chosen->store, m->summary));
  PITH_TRY(pith_head_finish(context, m->s->heads, work->job, m->summary));
  let_go(context, work);
  return PITH_OK;
}

static pith_status make_all(pith_context *context, spread *s, size_t bytes, bool even, pith_summary *summary) {
  making m = {s, pith_allocate(context, s->count, sizeof *m.points), 0, summary};
  if (!m.points) return PITH_E_MEMORY;
  pith_status status = fill_up(context, s, bytes, even, m.points);
  if (status == PITH_OK) status = find_refined_cost(context, s, &m.refined_cost);
  if (status == PITH_OK) status = pith_parallel_tasks(context, "compressing heads", s->count, make_head, &m);
  if (status == PITH_OK) pith_heads_conclude(s->heads, summary);
  pith_release(context, m.points);
  return status;
}

static void set_up(spread *s, size_t bytes) {
  const pith_compress_options *o = s->heads->options;
  s->first = s->closer = *o;
  s->first.samples = o->samples ? pith_min_size(o->samples, LOOK_SAMPLES) : LOOK_SAMPLES;
  s->closer.samples = o->samples ? o->samples : CLOSER_SAMPLES;
  static const pith_dtype all[] = {PITH_F16, PITH_Q8, PITH_Q4};
  bool automatic = o->store == PITH_STORE_AUTO;
  s->plenty = bytes > s->count * s->heads->n * point_bytes(s, PITH_Q8);
  s->store_count = automatic ? sizeof all / sizeof *all : 1;
  memcpy(s->store, automatic ? all : &o->store, s->store_count * sizeof *all);
}

pith_status pith_spread(pith_context *context, const pith_heads *heads, size_t bytes, bool even,
                        pith_summary *summary) {
  spread s = {.heads = heads, .count = heads->layers * heads->heads};
  set_up(&s, bytes);
  s.work = pith_allocate_zero(context, s.count, sizeof *s.work);
  s.option = pith_allocate(context, s.count, MOST_OPTIONS * sizeof *s.option);
  s.chosen = pith_allocate_zero(context, s.count, sizeof *s.chosen);
  pith_status status = s.work && s.option && s.chosen ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) status = look_at_all(context, &s, bytes, even);
  if (status == PITH_OK) status = make_all(context, &s, bytes, even, summary);
  for (size_t i = 0; s.work && i < s.count; i++) let_go(context, &s.work[i]);
  pith_release(context, s.work);
  pith_release(context, s.option);
  pith_release(context, s.chosen);
  return status;
}
