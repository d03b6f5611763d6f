/* spread.c - a total of bytes over many heads: menus, spending, and heads made at the sizes chosen.
 *
 * A first look at every head is cheap: few recorded queries, small sizes. Where the bytes then want to go, a closer
 * look takes all recorded queries and larger sizes, and the total is spent anew. Prepared heads are kept until they
 * are made while memory allows; where it does not, they are prepared again, to the same bits. Looks do without
 * refinement; with it, every head is made anew at its size, from all recorded queries. */
#include <math.h>
#include <string.h>

#include "budget/job.h"
#include "budget/menu.h"
#include "summary/store.h"

/* The first look: recorded queries, and the largest size as a part of all rows. A head that would take half of the
 * largest size that it was looked at gets a closer look at sizes up to four times what it took, and so on up to the
 * last part. */
enum { LOOK_SAMPLES = 1024, FIRST_PART = 8, LAST_PART = 2, LOOKS = 3 };
/* Sizes grow by a factor of sqrt(2) from this many points beside the exact rows. */
enum { SMALLEST = 8, MOST_SIZES = 64, MOST_STORES = 3, MOST_OPTIONS = MOST_SIZES * MOST_STORES };
/* A closer look is for the heads that cost most: so many, or one in so many where that is more. */
enum { CLOSER = 8, ONE_IN = 8 };
/* Prepared heads are kept while no more than this is held. */
static const size_t MOST_KEPT = (size_t)1 << 29;

typedef struct head_work {
  pith_menu menu;                       /* its hull */
  pith_job *job;                        /* NULL: let go of */
  size_t most;                          /* points that the engine is prepared for */
  const pith_compress_options *options; /* of the look it is at */
} head_work;

typedef struct spread {
  const pith_heads *heads;
  pith_compress_options first, closer; /* looks; heads are made with the caller's own */
  size_t count;
  head_work *work;     /* (count) */
  pith_option *option; /* (count, MOST_OPTIONS): room of the menus */
  size_t *chosen;      /* (count): option of each menu */
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

static pith_status obtain(pith_context *context, spread *s, size_t index) {
  head_work *work = &s->work[index];
  if (work->job) return PITH_OK;
  PITH_TRY(pith_job_open(context, s->heads, work->options, true, index, &work->job));
  if (work->job->choosers == 0)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "budget: the recorded queries are too few to choose sizes by; give more, or use budget even and a "
                     "store of your choice");
  return pith_job_prepare(context, work->job, work->most);
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
  for (double more = SMALLEST; exact + (size_t)more <= most && count + 1 < MOST_SIZES; more *= sqrt(2))
    sizes[count++] = exact + (size_t)more;
  sizes[count++] = n;
  return count;
}

static pith_status look(pith_context *context, spread *s, size_t index) {
  head_work *work = &s->work[index];
  PITH_TRY(obtain(context, s, index));
  size_t sizes[MOST_SIZES], count = list_sizes(work->job, work->most, sizes);
  work->menu = (pith_menu){.option = s->option + index * MOST_OPTIONS};
  for (size_t i = 0; i < count; i++) {
    double squared[MOST_STORES];
    PITH_TRY(pith_job_try(context, work->job, sizes[i], s->store, s->store_count, squared));
    for (size_t j = 0; j < s->store_count; j++)
      work->menu.option[work->menu.count++] = (pith_option){.points = sizes[i],
                                                            .store = s->store[j],
                                                            .bytes = sizes[i] * point_bytes(s, s->store[j]),
                                                            .cost = weight_of(s, index) * squared[j]};
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

/* Looks closer where it is worth it; *again: somewhere it was. */
static pith_status look_closer(pith_context *context, spread *s, bool *again) {
  double least = 0;
  *again = false;
  PITH_TRY(find_least_cost(context, s, &least));
  for (size_t i = 0; i < s->count; i++) {
    size_t most = closer_size(s, i, least);
    if (most == 0) continue;
    PITH_TRY(pith_report(context, "looking closer", i, s->count));
    let_go(context, &s->work[i]);
    s->work[i].options = &s->closer;
    s->work[i].most = most;
    PITH_TRY(look(context, s, i));
    *again = true;
  }
  return PITH_OK;
}

static pith_status look_at_all(pith_context *context, spread *s, size_t bytes, bool even) {
  for (size_t i = 0; i < s->count; i++) {
    PITH_TRY(pith_report(context, "looking at heads", i, s->count));
    s->work[i].options = &s->first;
    s->work[i].most = s->heads->n / FIRST_PART;
    PITH_TRY(look(context, s, i));
  }
  PITH_TRY(choose(context, s, bytes, even));
  bool again = true;
  for (int look = 1; again && look < LOOKS; look++) {
    PITH_TRY(look_closer(context, s, &again));
    if (again) PITH_TRY(choose(context, s, bytes, even));
  }
  return PITH_OK;
}

static pith_status make_all(pith_context *context, spread *s, size_t bytes, bool even, pith_summary *summary) {
  size_t *points = pith_allocate(context, s->count, sizeof *points);
  if (!points) return PITH_E_MEMORY;
  pith_status status = fill_up(context, s, bytes, even, points);
  for (size_t i = 0; status == PITH_OK && i < s->count; i++) {
    head_work *work = &s->work[i];
    status = pith_report(context, "compressing heads", i, s->count);
    if (s->heads->options->refine > 0) { /* the looks went without */
      let_go(context, work);
      work->options = s->heads->options;
      work->most = points[i];
    }
    if (status == PITH_OK) status = obtain(context, s, i);
    if (status == PITH_OK) status = pith_job_take(context, work->job, points[i], chosen_of(s, i)->store, summary);
    if (status == PITH_OK) status = pith_head_finish(context, s->heads, work->job, summary);
    let_go(context, work);
  }
  pith_release(context, points);
  return status;
}

static void set_up(spread *s) {
  const pith_compress_options *o = s->heads->options;
  s->first = s->closer = *o;
  s->first.refine = s->closer.refine = 0;
  s->first.samples = o->samples ? pith_min_size(o->samples, LOOK_SAMPLES) : LOOK_SAMPLES;
  static const pith_dtype all[] = {PITH_F16, PITH_Q8, PITH_Q4};
  bool automatic = o->store == PITH_STORE_AUTO;
  s->store_count = automatic ? sizeof all / sizeof *all : 1;
  memcpy(s->store, automatic ? all : &o->store, s->store_count * sizeof *all);
}

pith_status pith_spread(pith_context *context, const pith_heads *heads, size_t bytes, bool even,
                        pith_summary *summary) {
  spread s = {.heads = heads, .count = heads->layers * heads->heads};
  set_up(&s);
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
