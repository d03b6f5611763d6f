/* spread.c - a total of bytes over many heads: menus, spending, and heads made at the sizes chosen.
 *
 * Menus are rehearsed (rehearsal.c). A first look at every head is cheap: few recorded queries, small sizes. Where the
 * bytes then want to go, a closer look takes more recorded queries and larger sizes, and the total is spent anew. Looks
 * do without refinement, and count on what it usually saves. */
#include <math.h>
#include <string.h>

#include "budget/job.h"
#include "budget/menu.h"
#include "summary/store.h"

/* The first look: recorded queries, and the largest size as a part of all rows. A head that would take half of the
 * largest size that it was looked at gets a closer look at sizes up to four times what it took, and so on up to the
 * last part. */
enum { LOOK_SAMPLES = 1024, CLOSER_SAMPLES = 8192, FIRST_PART = 8, LAST_PART = 2, LOOKS = 3 };
/* Turned queries by which heads that matter, and others, are refined. */
enum { LESSONS = 8192, FEWER_LESSONS = 1024 };
/* Sizes that are tried double from this many points beside the exact rows; between two, errors are interpolated. */
enum { SMALLEST = 8, MOST_SIZES = 32, MOST_STORES = 3, MOST_OPTIONS = 2 * MOST_SIZES * MOST_STORES };
/* A closer look is for the heads that cost most: so many, or one in so many where that is more. */
enum { CLOSER = 8, ONE_IN = 8 };

/* Refinement leaves this part of the error that points have before they are stored (measured: .4 to .7). */
static const double REFINED = 0.55;
/* Heads that make up this share of the cost, and CLOSER at least, are made with full effort, the others refined with
 * one step in so many. A step takes as long as there are points: where there are MANY_POINTS in all, steps become fewer
 * for heads beyond so many points, which bounds the time (measured: a third of it at a quarter of all bytes of SmolLM2,
 * for a twentieth more error). */
static const double SHARE = 0.9;
enum { FEWER_STEPS = 3, MANY_POINTS = 4096, ALL_STEPS_POINTS = 256, FEWEST_STEPS = 20 };
/* What menus say of a head's cost is wrong by a factor of two and a half either way (measured on byte-lm: variance .8
 * of the logarithm). Where heads do not differ by about twice that at equal bytes, which of them are dear is not known,
 * and the bytes stay equal: there is little to win (there, a tenth), and a head that gets too few loses more. */
static const double LEAST_VARIANCE = 1.8;
/* Of so few recorded queries the fit needs all. */
enum { FEW = 2048 };

typedef struct head_work {
  pith_menu menu; /* its hull */
  size_t most;    /* points of the largest size looked at, beside all */
  bool closer;    /* it is looked at closely */
} head_work;

typedef struct spread {
  const pith_heads *heads;
  pith_rehearsal rehearsal;
  pith_effort first, closer, best; /* of looks, and of making the heads that matter */
  size_t count;
  head_work *work;     /* (count) */
  pith_option *option; /* (count, MOST_OPTIONS): room of the menus */
  size_t *chosen;      /* (count): option of each menu */
  bool even;           /* each head gets an equal part of the bytes */
  bool plenty;         /* bytes for more than all rows in q8: only then f16 is among several stores, for all rows */
  size_t store_count;
  pith_dtype store[MOST_STORES];
} spread;

static double weight_of(const spread *s, size_t index) {
  return (s->heads->weight ? s->heads->weight[index] : 1.0) * (double)s->heads->group;
}

static size_t point_bytes(const spread *s, pith_dtype store) {
  return pith_store_point_bytes(store, s->heads->d, s->heads->dv);
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

/* Points will be refined once they are chosen, which leaves what storing them adds. */
static double expected_error(const spread *s, const pith_job *job, size_t points, const pith_tried *tried,
                             const pith_tried *plain) {
  double squared = pith_expected_error(tried->error);
  if (s->heads->options->refine == 0 || points <= pith_job_exact(job) || points >= job->problem.n) return squared;
  return squared - (1 - REFINED) * fmin(squared, pith_expected_error(plain->error));
}

static void add_option(const spread *s, size_t index, size_t rehearsed, pith_dtype store, double cost, double drift) {
  pith_menu *menu = &s->work[index].menu;
  size_t points = pith_points_meant(&s->rehearsal, s->heads->n, rehearsed);
  menu->option[menu->count++] = (pith_option){points, store, points * point_bytes(s, store), cost, drift};
}

/* Beyond the sizes tried, twice as many points are taken to halve the cost (measured: they do better), down to what
 * storing all rows costs, so that bytes go to where a closer look is called for. */
static void add_untried(const spread *s, size_t index, size_t rows, size_t size, pith_dtype store, double cost,
                        double least, double drift) {
  for (size_t more = 2 * size; more <= rows / LAST_PART; more *= 2)
    add_option(s, index, more, store, fmax(least, cost * (double)size / (double)more), drift);
}

/* Fills the menu of a head that is prepared; between two sizes, errors are interpolated. */
static pith_status try_sizes(pith_context *context, spread *s, size_t index, pith_job *job, size_t most) {
  size_t sizes[MOST_SIZES], count = list_sizes(job, most, sizes);
  double before[MOST_STORES] = {0};
  if (job->choosers.count == 0)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "budget: the recorded queries are too few to choose sizes by; give more, or use budget even "
                     "and a store of your choice");
  s->work[index].menu = (pith_menu){.option = s->option + index * MOST_OPTIONS};
  for (size_t i = 0; i < count; i++) {
    bool whole = sizes[i] == job->problem.n;
    size_t first = s->store_count > 1 && !(whole && s->plenty), stores = s->store_count - first;
    pith_tried tried[MOST_STORES];
    PITH_TRY(pith_job_try(context, job, sizes[i], s->store + first, stores, tried));
    for (size_t j = 0; j < stores; j++) {
      pith_dtype store = s->store[first + j];
      double cost = weight_of(s, index) * expected_error(s, job, sizes[i], &tried[j], &tried[0]);
      add_option(s, index, sizes[i], store, cost, tried[j].drift);
      double *last = &before[first + j];
      if (i > 0 && !whole)
        add_option(s, index, (size_t)sqrt((double)(sizes[i - 1] * sizes[i])), store, sqrt(*last * cost),
                   tried[j].drift);
      if (i > 0 && whole && *last > 0)
        add_untried(s, index, sizes[i], sizes[i - 1], store, *last, cost, tried[j].drift);
      *last = cost;
    }
  }
  pith_menu_hull(&s->work[index].menu);
  return PITH_OK;
}

static pith_status look(pith_context *context, spread *s, size_t index) {
  const head_work *work = &s->work[index];
  size_t most = pith_points_rehearsed(&s->rehearsal, s->heads->n, work->most);
  pith_job *job = NULL;
  PITH_TRY(pith_job_open(context, &s->rehearsal.heads, work->closer ? &s->closer : &s->first, true, index, &job));
  pith_status status = pith_job_prepare(context, job, most);
  if (status == PITH_OK) status = try_sizes(context, s, index, job, most);
  pith_job_close(context, job);
  return status;
}

/* ---- Choosing ---- */

static const pith_option *chosen_of(const spread *s, size_t index) {
  return &s->work[index].menu.option[s->chosen[index]];
}

/* Variance over heads of the logarithm of what they cost as chosen; none counts as less than a part of the largest. */
static double cost_variance(const spread *s) {
  const double least = 1e-6;
  double largest = 0, sum = 0, squares = 0, count = (double)s->count;
  for (size_t i = 0; i < s->count; i++) largest = fmax(largest, chosen_of(s, i)->cost);
  if (s->count < 2 || largest <= 0) return 0;
  for (size_t i = 0; i < s->count; i++) {
    double x = log(fmax(chosen_of(s, i)->cost / largest, least));
    sum += x;
    squares += x * x;
  }
  return (squares - sum * sum / count) / (count - 1);
}

/* Equal parts at first; over all heads where that is asked for and they are seen to differ. */
static pith_status choose(pith_context *context, spread *s, size_t bytes, bool even) {
  pith_menu *menus = pith_allocate(context, s->count, sizeof *menus);
  if (!menus) return PITH_E_MEMORY;
  for (size_t i = 0; i < s->count; i++) menus[i] = s->work[i].menu;
  pith_status status = PITH_OK;
  for (size_t i = 0; status == PITH_OK && i < s->count; i++)
    status = pith_spend(context, &menus[i], 1, bytes / s->count, &s->chosen[i]);
  s->even = even || (status == PITH_OK && cost_variance(s) < LEAST_VARIANCE);
  if (!s->even) status = pith_spend(context, menus, s->count, bytes, s->chosen);
  pith_release(context, menus);
  return status;
}

/* The size up to which a head is worth a closer look; 0: it is not. Whole caches of small numbers are seldom beaten. */
static size_t closer_size(const spread *s, size_t index) {
  const pith_option *chosen = chosen_of(s, index);
  size_t most = s->work[index].most, last = s->heads->n / LAST_PART, wanted = 4 * chosen->points;
  if (chosen->points == s->heads->n && pith_store_quantised(chosen->store)) return 0;
  return wanted >= 2 * most && most < last ? pith_min_size(wanted, last) : 0;
}

/* order (s->count): the heads, those first that cost most. */
static void order_by_cost(const spread *s, size_t *order) {
  for (size_t i = 0; i < s->count; i++) {
    size_t at = i;
    for (; at > 0 && chosen_of(s, order[at - 1])->cost < chosen_of(s, i)->cost; at--) order[at] = order[at - 1];
    order[at] = i;
  }
}

/* What is left goes into more points of heads, in the order given: at first up to sizes that were looked at, then of
 * any that are not whole. */
static void fill_up(const spread *s, size_t bytes, const size_t *order, size_t *points) {
  size_t left = bytes;
  for (size_t i = 0; i < s->count; i++) {
    points[i] = chosen_of(s, i)->points;
    left -= chosen_of(s, i)->bytes;
  }
  for (size_t k = 0; k < 2 * s->count; k++) {
    size_t i = order[k % s->count], size = point_bytes(s, chosen_of(s, i)->store);
    const head_work *work = &s->work[i];
    size_t limit = k < s->count ? work->most : pith_max_size(work->most, s->heads->n - s->heads->n / 4);
    size_t share = s->even ? bytes / s->count - points[i] * size : left;
    if (points[i] >= limit || share < size) continue;
    size_t more = pith_min_size(share / size, limit - points[i]);
    points[i] += more;
    left -= more * size;
  }
}

/* ---- All heads ---- */

/* Heads that are looked at together. */
typedef struct look_list {
  spread *s;
  const size_t *head;
} look_list;

static pith_status look_task(pith_context *context, void *argument, size_t index) {
  const look_list *list = argument;
  return look(context, list->s, list->head[index]);
}

/* Looks closer, in the order given, where it is worth it; *count: at so many heads. head (s->count) is room. */
static pith_status look_closer(pith_context *context, spread *s, const size_t *order, size_t *head, size_t *count) {
  *count = 0;
  for (size_t k = 0; k < pith_min_size(s->count, pith_max_size(CLOSER, s->count / ONE_IN)); k++) {
    size_t i = order[k], most = closer_size(s, i);
    if (most == 0) continue;
    s->work[i].closer = true;
    s->work[i].most = most;
    head[(*count)++] = i;
  }
  return pith_parallel_tasks(context, "looking closer", *count, look_task, &(look_list){s, head});
}

/* head (2 * s->count) is room. */
static pith_status look_at_all(pith_context *context, spread *s, size_t bytes, bool even, size_t *head) {
  size_t count = s->count, *order = head + s->count;
  for (size_t i = 0; i < s->count; i++) {
    head[i] = i;
    s->work[i].most = s->heads->n / FIRST_PART;
  }
  PITH_TRY(pith_parallel_tasks(context, "looking at heads", count, look_task, &(look_list){s, head}));
  PITH_TRY(choose(context, s, bytes, even));
  for (int look = 1; count > 0 && look < LOOKS; look++) {
    order_by_cost(s, order);
    PITH_TRY(look_closer(context, s, order, head, &count));
    if (count > 0) PITH_TRY(choose(context, s, bytes, even));
  }
  return PITH_OK;
}

typedef struct making {
  const spread *s;
  size_t *order, *points; /* points of each head */
  size_t refined;         /* so many heads of the order are refined with all steps, those with all rows left out */
  size_t total;           /* of points */
  pith_summary *summary;
} making;

static bool is_whole(const spread *s, size_t index) { return chosen_of(s, index)->points == s->heads->n; }

/* How many heads make up SHARE of all that refinement can lower. */
static size_t count_refined(const spread *s, const size_t *order) {
  double total = 0, sum = 0;
  size_t k = 0;
  for (size_t i = 0; i < s->count; i++) total += is_whole(s, i) ? 0 : chosen_of(s, i)->cost;
  for (size_t count = 0; k < s->count && (sum < SHARE * total || count < CLOSER); k++) {
    if (is_whole(s, order[k])) continue;
    sum += chosen_of(s, order[k])->cost;
    count++;
  }
  return k;
}

static pith_effort effort_of(const making *m, size_t place) {
  const spread *s = m->s;
  size_t index = m->order[place], points = m->points[index];
  pith_effort effort = s->best;
  if (place >= m->refined || is_whole(s, index))
    effort = (pith_effort){s->first.samples, FEWER_LESSONS, s->best.refine / FEWER_STEPS};
  if (m->total > MANY_POINTS && points > ALL_STEPS_POINTS) {
    size_t steps = effort.refine * ALL_STEPS_POINTS / points;
    effort.refine = pith_min_size(effort.refine, pith_max_size(steps, FEWEST_STEPS));
  }
  return effort;
}

static pith_status make_head(pith_context *context, void *argument, size_t place) {
  const making *m = argument;
  const spread *s = m->s;
  size_t index = m->order[place];
  const pith_option *chosen = chosen_of(s, index);
  pith_effort effort = effort_of(m, place);
  pith_job *job = NULL;
  PITH_TRY(pith_job_open(context, s->heads, &effort, false, index, &job));
  pith_status status = pith_job_prepare(context, job, m->points[index]);
  if (status == PITH_OK) status = pith_job_take(context, job, m->points[index], chosen->store, m->summary);
  if (status == PITH_OK) status = pith_head_finish(context, s->heads, job, chosen->drift, m->summary);
  pith_job_close(context, job);
  return status;
}

/* room (2 * s->count). Heads that take long come first, so that no thread is left with one of them at the end. */
static pith_status make_all(pith_context *context, const spread *s, size_t bytes, size_t *room, pith_summary *summary) {
  making m = {.s = s, .order = room, .points = room + s->count, .summary = summary};
  order_by_cost(s, m.order);
  fill_up(s, bytes, m.order, m.points);
  m.refined = count_refined(s, m.order);
  for (size_t i = 0; i < s->count; i++) m.total += m.points[i];
  PITH_TRY(pith_parallel_tasks(context, "compressing heads", s->count, make_head, &m));
  pith_heads_conclude(s->heads, summary);
  return PITH_OK;
}

static size_t at_most(size_t samples, size_t most) { return samples ? pith_min_size(samples, most) : most; }

static void set_up(spread *s, size_t bytes) {
  const pith_compress_options *o = s->heads->options;
  size_t recorded = s->heads->queries->shape[s->heads->queries->ndim - 2] * s->heads->group;
  s->first = (pith_effort){.samples = recorded > FEW ? at_most(o->samples, LOOK_SAMPLES) : o->samples};
  s->closer = (pith_effort){.samples = at_most(o->samples, CLOSER_SAMPLES)};
  s->best = (pith_effort){s->closer.samples, LESSONS, o->refine};
  (void)pith_rehearsal_set(s->heads, &s->rehearsal);
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
  size_t *room = pith_allocate(context, s.count, 2 * sizeof *room);
  pith_status status = s.work && s.option && s.chosen && room ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) status = look_at_all(context, &s, bytes, even, room);
  if (status == PITH_OK) status = make_all(context, &s, bytes, room, summary);
  pith_release(context, s.work);
  pith_release(context, s.option);
  pith_release(context, s.chosen);
  pith_release(context, room);
  return status;
}
