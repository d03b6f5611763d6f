/* trials.c - what a head would err with other numbers of points, when they are condensed.
 *
 * A trial: rows that contribute most stay, and CONDENSE_FITTED of the others stand for all others. What those others
 * give to the held-out queries, and to the queries to fit, are sums over rows in the order of what they contribute, so
 * that all trials together go through the rows once; pivots are chosen from a sample of the rows. In an orthogonal
 * basis of the pivots the error of every number of them is a running sum. */
#include <math.h>
#include <string.h>

#include "cache/condense.h"
#include "kernels/kernels.h"
#include "linalg/linalg.h"

enum {
  ROUGH_QUERIES = 192,
  SAMPLE = 512, /* rows that pivots are chosen from, at most */
  BLOCK = 512,  /* rows that are added at a time */
  MOST_TRIALS = 16
};
/* Sizes grow by this factor from trial to trial. */
static const double GROWTH = 2;
/* Part of its own mass that an answer keeps at least, where its error is worked out. */
static const double LEAST_SHARE = 0.05;
/* Logarithm of next to nothing: switches the kernel's radial part off, which sums over rows do not have. */
static const float NOTHING = -60;

typedef struct trials {
  const pith_candidates *c;
  size_t held, fit;     /* queries */
  pith_kernel *kernel;  /* of the queries held out */
  float *answer;        /* (held, dv): of all rows, from the mean value */
  size_t added;         /* candidates that the sums are over: the first of their order */
  float *given, *taken; /* (held, columns), (fit, columns): sums of feature * coefficients */
  float *gathered;      /* (BLOCK, the more of held and fit) */
  double *left;         /* (held, columns): what is not yet explained */
  double *basis;        /* (CONDENSE_FITTED, held) */
  pith_cache_sizes sizes;
} trials;

static void close_trials(pith_context *context, trials *t) {
  pith_kernel_free(context, t->kernel);
  pith_release(context, t->answer);
  pith_release(context, t->given);
  pith_release(context, t->taken);
  pith_release(context, t->gathered);
  pith_release(context, t->left);
  pith_release(context, t->basis);
}

/* out (queries, columns) += factor * feature^T coefficients, over candidates from..to-1 of the order. */
static void add_rows(pith_context *context, const trials *t, const pith_kernel *k, size_t from, size_t to, float *out) {
  const pith_candidates *c = t->c;
  size_t queries = k->features;
  for (size_t at = from; at < to; at += BLOCK) {
    size_t count = pith_min_size(BLOCK, to - at);
    for (size_t i = 0; i < count; i++)
      memcpy(t->gathered + i * queries, k->feature + c->row[at + i] * queries, queries * sizeof(float));
    pith_gemm_f32(context, PITH_TRANSPOSED, PITH_PLAIN, queries, c->columns, count, 1, t->gathered, queries,
                  c->coefficients + at * c->columns, c->columns, 1, out, c->columns);
  }
}

/* Answers of all rows from the mean value: candidates have coefficients, exact rows weigh 1. */
static pith_status answer_held(pith_context *context, trials *t) {
  const pith_candidates *c = t->c;
  const pith_problem *p = c->problem;
  size_t dv = p->dv;
  float *all = pith_allocate_zero(context, t->held * c->columns + dv, sizeof *all);
  if (!all) return PITH_E_MEMORY;
  float *value = all + t->held * c->columns;
  add_rows(context, t, t->kernel, 0, c->rows, all);
  for (size_t i = 0; i < p->n; i++) {
    if (!p->exact[i]) continue;
    const float *feature = t->kernel->feature + i * t->held;
    for (size_t j = 0; j < dv; j++) value[j] = (float)(p->values[i * dv + j] - c->mean[j]);
    for (size_t r = 0; r < t->held; r++)
      for (size_t j = 0; j < dv; j++) all[r * c->columns + j] += feature[r] * value[j];
  }
  for (size_t r = 0; r < t->held; r++)
    for (size_t j = 0; j < dv; j++) t->answer[r * dv + j] = sqrtf((float)t->held) * all[r * c->columns + j];
  pith_release(context, all);
  return PITH_OK;
}

static pith_status open_trials(pith_context *context, const pith_candidates *c, const cache_queries *queries,
                               trials *t) {
  pith_query_model model = *c->problem->model;
  size_t held = model.fit_count = queries->held_count, fit = c->kernel->features, dv = c->problem->dv;
  model.fit = queries->held;
  *t = (trials){.c = c, .held = held, .fit = fit};
  PITH_TRY(pith_kernel_create(context, &model, c->problem->keys, c->problem->log_weight, c->problem->n, &t->kernel));
  t->answer = pith_allocate(context, held * dv, sizeof *t->answer);
  t->given = pith_allocate_zero(context, held * c->columns, sizeof *t->given);
  t->taken = pith_allocate_zero(context, fit * c->columns, sizeof *t->taken);
  t->gathered = pith_allocate(context, BLOCK * pith_max_size(held, fit), sizeof *t->gathered);
  t->left = pith_allocate(context, held * c->columns, sizeof *t->left);
  t->basis = pith_allocate(context, CONDENSE_FITTED * held, sizeof *t->basis);
  if (!t->answer || !t->given || !t->taken || !t->gathered || !t->left || !t->basis) return PITH_E_MEMORY;
  return answer_held(context, t);
}

/* ---- One trial ---- */

/* Candidates to choose pivots from, of the first `count`: where those are many, so many that one is taken for each
 * equal share of what they contribute. What stands for more in such a sample is likelier to be chosen. */
static pith_status gather_sample(pith_context *context, const trials *t, size_t count, pith_part *part) {
  const pith_candidates *c = t->c;
  size_t place[SAMPLE], taken = 0;
  double total = 0, sum = 0, step;
  for (size_t i = 0; i < count; i++) total += c->share[i];
  step = total / SAMPLE;
  for (size_t i = 0; i < count && taken < SAMPLE; i++) {
    double before = floor(sum / step);
    sum += c->share[i];
    if (count <= SAMPLE || floor(sum / step) > before) place[taken++] = i;
  }
  PITH_TRY(pith_part_gather(context, c, place, taken, part));
  pith_kernel *k = &part->kernel;
  for (size_t i = 0; i < taken; i++) {
    k->diagonal[i] -=
        expf(2 * k->log_scale[i] + pith_kernels_active()->dot(k->mapped + i * k->d, k->mapped + i * k->d, k->d));
    k->diagonal[i] = fmaxf(k->diagonal[i], 0);
    k->log_scale[i] = NOTHING;
    if (count > SAMPLE && c->share[place[i]] < step && c->share[place[i]] > 0)
      part->importance[i] *= step / c->share[place[i]];
  }
  return PITH_OK;
}

/* Targets of the pivots: over all rows that they stand for, not over the sample alone. */
static pith_status aim_at_all(pith_context *context, const trials *t, pith_part *part) {
  const pith_pivots *v = part->pivots;
  size_t columns = t->c->columns, fit = t->fit;
  float *feature = pith_allocate(context, v->count, (fit + columns) * sizeof *feature);
  if (!feature) return PITH_E_MEMORY;
  float *target = feature + v->count * fit;
  for (size_t a = 0; a < v->count; a++)
    memcpy(feature + a * fit, part->kernel.feature + v->row[a] * fit, fit * sizeof *feature);
  pith_gemm_f32(context, PITH_PLAIN, PITH_PLAIN, v->count, columns, fit, 1, feature, fit, t->taken, columns, 0, target,
                columns);
  for (size_t i = 0; i < v->count * columns; i++) v->target[i] = target[i];
  pith_release(context, feature);
  return PITH_OK;
}

/* Mean over held-out queries of the squared error, and its standard error on top: a few queries may see little of the
 * worst. */
static double error_left(const trials *t) {
  const pith_candidates *c = t->c;
  size_t dv = c->problem->dv;
  double sum = 0, squares = 0;
  for (size_t r = 0; r < t->held; r++) {
    const double *left = t->left + r * c->columns;
    const float *answer = t->answer + r * dv;
    double share = fmax(1 - left[dv] / c->balance, LEAST_SHARE), squared = 0;
    for (size_t j = 0; j < dv; j++) {
      double x = answer[j] - (answer[j] - left[j]) / share;
      squared += x * x;
    }
    sum += squared / (double)t->held;
    squares += squared * squared / (double)t->held;
  }
  return sum + sqrt(fmax(squares - sum * sum, 0) / (double)t->held);
}

/* Errors with the first so many pivots of a part beside `stay` rows, from `first` on in growing numbers. */
static void try_part(pith_context *context, trials *t, const pith_part *p, size_t stay, size_t first) {
  const pith_candidates *c = t->c;
  size_t held = t->held, done = 0, count = p->pivots->count;
  float factor = sqrtf((float)held);
  for (size_t i = 0; i < held * c->columns; i++) t->left[i] = factor * t->given[i];
  for (size_t k = 0; k < count; k++) {
    const float *feature = t->kernel->feature + c->row[p->place[p->pivots->row[k]]] * held;
    for (size_t r = 0; r < held; r++) t->basis[k * held + r] = factor * feature[r];
  }
  pith_triangular_solve_f64(p->pivots->factor, count, count, PITH_PLAIN, t->basis, held, held);
  for (size_t size = pith_min_size(first, count);; size = pith_min_size(size + pith_max_size(4, size / 2), count)) {
    pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, held, c->columns, size - done, -1, t->basis + done * held, held,
                  p->pivots->forward + done * c->columns, c->columns, 1, t->left, c->columns);
    done = size;
    pith_cache_menu_size(&t->sizes, stay + size, error_left(t));
    if (size == count) return;
  }
}

/* The first `others` candidates become points, the others stay. Smaller sizes come later, with more others. */
static pith_status try_size(pith_context *context, trials *t, size_t others, size_t pivots) {
  const pith_candidates *c = t->c;
  add_rows(context, t, c->kernel, t->added, others, t->taken);
  add_rows(context, t, t->kernel, t->added, others, t->given);
  t->added = others;
  pith_part part;
  pith_status status = gather_sample(context, t, others, &part);
  if (status == PITH_OK) status = pith_part_choose(context, c, part.count, pivots, &part);
  if (status == PITH_OK) status = aim_at_all(context, t, &part);
  if (status == PITH_OK) status = pith_pivots_factor(context, part.pivots);
  if (status == PITH_OK) try_part(context, t, &part, c->rows - others, others == c->rows ? 0 : part.pivots->count);
  pith_part_close(context, &part);
  return status;
}

/* Sizes from large to small, the last without rows that stay. */
static pith_status try_all(pith_context *context, trials *t) {
  size_t rows = t->c->rows, size[MOST_TRIALS], count = 0;
  size_t smallest = pith_min_size(CONDENSE_FITTED, (rows + 1) / 2);
  double next = (double)smallest;
  for (; count == 0 || (count < MOST_TRIALS && next < (double)rows); next *= GROWTH) size[count++] = (size_t)next;
  while (count-- > 0) PITH_TRY(try_size(context, t, rows - (size[count] - smallest), smallest));
  return PITH_OK;
}

pith_status pith_cache_try_sizes(pith_context *context, cache_work *w) {
  pith_candidates c;
  trials t = {0};
  pith_status status = pith_condensing_open(context, w, ROUGH_QUERIES, &c);
  if (status == PITH_OK) status = open_trials(context, &c, &w->queries, &t);
  if (status == PITH_OK) status = try_all(context, &t);
  if (status == PITH_OK) status = pith_cache_fill_menu(context, w, &t.sizes);
  close_trials(context, &t);
  pith_candidates_close(context, &c);
  return status;
}
