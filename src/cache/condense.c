/* condense.c - points for sampled queries, at a bounded cost (theory 4.8).
 *
 * What nystrom.c does to a whole head takes time n * m^2 for m points, too long for heads that hold thousands. Here the
 * rows that contribute most to answers stay as they are, and all others become at most MOST_PIVOTS refitted points.
 * One factor of the kernel of all pivots serves every number of points: its leading blocks are the factors of the
 * first pivots, and what is solved forward with it are coordinates in an orthogonal basis, so that the error of every
 * number of points is a running sum. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/work.h"
#include "linalg/linalg.h"
#include "summary/pivots.h"

enum {
  MOST_PIVOTS = 128,
  QUERIES_A_POINT = 3, /* to fit by, of those there are; at least */
  LEAST_QUERIES = 256,
  ROUGH_PIVOTS = 128, /* for other numbers of points than a head is to have */
  REFITS = 2
};
/* As in nystrom.c: ridge in parts of each point's own diagonal, least weight of a point, largest distance of a value
 * from the mean in parts of the largest there was. */
static const double RIDGE = 1e-4, LEAST_WEIGHT = 1e-3, FARTHEST = 16;
/* Part of its own mass that an answer keeps at least, where its error is worked out. */
static const double LEAST_SHARE = 0.05;

typedef struct condensing {
  cache_work *w;
  const pith_problem *p;
  size_t columns; /* of coefficients: dv + 1 */
  double *mean, balance, farthest;
  pith_kernel *kernel, *held; /* of the queries to fit, of those held out */
  float *coefficients;        /* (n, columns) */
  double *importance;         /* (n) */
  size_t *row, rows;          /* candidates: what contributes least to the answers comes first */
  size_t *every;              /* (n): 0, 1, 2 ... */
} condensing;

/* The first rows of that order, made into points; the others stay. */
typedef struct part {
  size_t count, stay; /* rows of its kernel, which may have some of importance 0; candidates that are not among them */
  const size_t *row;  /* (count): rows of the problem */
  pith_kernel kernel;
  float *coefficients;
  double *importance;
  pith_pivots *pivots;
  double *factor, *forward; /* of all pivots: (count, count), (count, columns) */
} part;

/* ---- Queries ---- */

/* So many of the queries to fit as that number of points calls for, evenly from the list. */
static pith_status create_kernel(pith_context *context, condensing *c, size_t points) {
  const pith_query_model *all = c->p->model;
  size_t wanted = pith_max_size(LEAST_QUERIES, QUERIES_A_POINT * points), count = pith_min_size(wanted, all->fit_count);
  pith_query_model some = *all;
  float *fit = pith_allocate(context, count, all->d * sizeof *fit);
  if (!fit) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++)
    memcpy(fit + i * all->d, all->fit + i * all->fit_count / count * all->d, all->d * sizeof *fit);
  some.fit = fit;
  some.fit_count = count;
  pith_status status = pith_kernel_create(context, &some, c->p->keys, c->p->log_weight, c->p->n, &c->kernel);
  pith_release(context, fit);
  return status;
}

/* ---- Rows ---- */

static void find_mean(condensing *c) {
  const pith_problem *p = c->p;
  double total = 0;
  for (size_t i = 0; i < c->rows; i++) {
    double weight = exp(pith_problem_log_weight(p, c->row[i]));
    const float *value = p->values + c->row[i] * p->dv;
    total += weight;
    for (size_t j = 0; j < p->dv; j++) c->mean[j] += weight * value[j];
  }
  for (size_t j = 0; j < p->dv; j++) c->mean[j] /= total > 0 ? total : 1;
}

/* out (queries, dv): what the first queries of a kernel are answered, from the mean value. */
static pith_status answer(pith_context *context, const condensing *c, const pith_kernel *k, size_t queries,
                          float *out) {
  const pith_problem *p = c->p;
  float *weighted = pith_allocate(context, p->n, p->dv * sizeof *weighted);
  if (!weighted) return PITH_E_MEMORY;
  for (size_t i = 0; i < p->n; i++) {
    float weight = (float)exp(pith_problem_log_weight(p, i));
    for (size_t j = 0; j < p->dv; j++)
      weighted[i * p->dv + j] = weight * (float)(p->values[i * p->dv + j] - c->mean[j]);
  }
  pith_gemm_f32(context, PITH_TRANSPOSED, PITH_PLAIN, queries, p->dv, p->n, sqrtf((float)k->features), k->feature,
                k->features, weighted, p->dv, 0, out, p->dv);
  pith_release(context, weighted);
  return PITH_OK;
}

/* Root mean square distance of an answer from the mean value. */
static pith_status find_balance(pith_context *context, condensing *c) {
  enum { QUERIES = 256 };
  size_t queries = pith_min_size(c->kernel->features, QUERIES), count = queries * c->p->dv;
  float *answers = pith_allocate(context, count, sizeof *answers);
  if (!answers) return PITH_E_MEMORY;
  pith_status status = answer(context, c, c->kernel, queries, answers);
  double sum = 0;
  for (size_t i = 0; status == PITH_OK && i < count; i++) sum += (double)answers[i] * answers[i] / (double)queries;
  c->balance = sum > 0 ? sqrt(sum) : 1;
  pith_release(context, answers);
  return status;
}

/* coefficients = w [v - mean ; b], importance = its squared norm: 0 for rows that are no candidates. */
static void weigh_rows(condensing *c) {
  const pith_problem *p = c->p;
  for (size_t i = 0; i < c->rows; i++) {
    size_t row = c->row[i];
    float weight = (float)exp(pith_problem_log_weight(p, row)), *out = c->coefficients + row * c->columns;
    double distance = 0;
    for (size_t j = 0; j < p->dv; j++) {
      float x = (float)(p->values[row * p->dv + j] - c->mean[j]);
      out[j] = weight * x;
      distance += x * x;
    }
    out[p->dv] = weight * (float)c->balance;
    c->importance[row] = (double)weight * weight * (distance + c->balance * c->balance);
    bool token = row >= c->w->first || c->w->leaving == 0; /* not a point that was fitted itself */
    if (token) c->farthest = fmax(c->farthest, sqrt(distance));
  }
}

typedef struct scored {
  double score;
  size_t row;
} scored;

static int compare_scored(const void *left, const void *right) {
  const scored *a = left, *b = right;
  if (a->score != b->score) return a->score < b->score ? -1 : 1;
  return (a->row > b->row) - (a->row < b->row);
}

static pith_status order_rows(pith_context *context, condensing *c) {
  scored *order = pith_allocate(context, c->rows, sizeof *order);
  if (!order) return PITH_E_MEMORY;
  for (size_t i = 0; i < c->rows; i++)
    order[i] = (scored){c->importance[c->row[i]] * c->kernel->diagonal[c->row[i]], c->row[i]};
  qsort(order, c->rows, sizeof *order, compare_scored);
  for (size_t i = 0; i < c->rows; i++) c->row[i] = order[i].row;
  pith_release(context, order);
  return PITH_OK;
}

/* ---- Parts ---- */

static void close_part(pith_context *context, const condensing *c, part *t) {
  pith_pivots_free(context, t->pivots);
  pith_release(context, t->factor);
  pith_release(context, t->forward);
  if (t->kernel.feature == c->kernel->feature) return;
  pith_release(context, t->kernel.feature);
  pith_release(context, t->kernel.mapped);
  pith_release(context, t->kernel.log_scale);
  pith_release(context, t->kernel.diagonal);
  pith_release(context, t->coefficients);
  pith_release(context, t->importance);
}

static pith_status gather_part(pith_context *context, const condensing *c, part *t) {
  const pith_kernel *from = c->kernel;
  pith_kernel *k = &t->kernel;
  size_t count = k->n = t->count;
  k->log_mass = NULL;
  k->feature = pith_allocate(context, count, k->features * sizeof(float));
  k->mapped = pith_allocate(context, count, k->d * sizeof(float));
  k->log_scale = pith_allocate(context, count, sizeof(float));
  k->diagonal = pith_allocate(context, count, sizeof(float));
  t->coefficients = pith_allocate(context, count, c->columns * sizeof(float));
  t->importance = pith_allocate(context, count, sizeof(double));
  if (!k->feature || !k->mapped || !k->log_scale || !k->diagonal || !t->coefficients || !t->importance)
    return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++) {
    size_t row = t->row[i];
    memcpy(k->feature + i * k->features, from->feature + row * k->features, k->features * sizeof(float));
    memcpy(k->mapped + i * k->d, from->mapped + row * k->d, k->d * sizeof(float));
    memcpy(t->coefficients + i * c->columns, c->coefficients + row * c->columns, c->columns * sizeof(float));
    k->log_scale[i] = from->log_scale[row];
    k->diagonal[i] = from->diagonal[row];
    t->importance[i] = c->importance[row];
  }
  return PITH_OK;
}

static pith_status factor_pivots(pith_context *context, const condensing *c, part *t) {
  const pith_pivots *v = t->pivots;
  size_t count = v->count;
  t->factor = pith_allocate(context, count * count, sizeof *t->factor);
  t->forward = pith_allocate(context, count * c->columns, sizeof *t->forward);
  if (!t->factor || !t->forward) return PITH_E_MEMORY;
  for (size_t a = 0; a < count; a++) {
    memcpy(t->factor + a * count, v->kernel + a * v->most, (a + 1) * sizeof *t->factor);
    t->factor[a * count + a] *= 1 + RIDGE;
  }
  memcpy(t->forward, v->target, count * c->columns * sizeof *t->forward);
  PITH_TRY(pith_cholesky_f64(context, t->factor, count, count));
  pith_triangular_solve_f64(t->factor, count, count, PITH_PLAIN, t->forward, c->columns, c->columns);
  return PITH_OK;
}

/* All candidates but the last `stay`, and up to `most` pivots of them. */
static pith_status open_part(pith_context *context, const condensing *c, size_t stay, size_t most, part *t) {
  *t = (part){.count = stay ? c->rows - stay : c->p->n,
              .stay = stay,
              .row = stay ? c->row : c->every,
              .kernel = *c->kernel,
              .coefficients = c->coefficients,
              .importance = c->importance};
  if (stay > 0) PITH_TRY(gather_part(context, c, t));
  PITH_TRY(pith_pivots_choose(context, &t->kernel, t->importance, t->coefficients, c->columns,
                              pith_min_size(most, c->rows - stay), c->p->seed, c->p->object, &t->pivots));
  return t->pivots ? factor_pivots(context, c, t) : PITH_E_MEMORY;
}

/* fit (count, columns) of the pivots named by active[]. */
static pith_status fit_active(pith_context *context, const condensing *c, const part *t, const size_t *active,
                              size_t count, double *fit) {
  const pith_pivots *v = t->pivots;
  double *matrix = pith_allocate(context, count * count, sizeof *matrix);
  if (!matrix) return PITH_E_MEMORY;
  for (size_t a = 0; a < count; a++) {
    for (size_t b = 0; b <= a; b++) matrix[a * count + b] = v->kernel[active[a] * v->most + active[b]];
    matrix[a * count + a] *= 1 + RIDGE;
    memcpy(fit + a * c->columns, v->target + active[a] * c->columns, c->columns * sizeof *fit);
  }
  pith_status status = pith_cholesky_f64(context, matrix, count, count);
  if (status == PITH_OK) pith_cholesky_solve_f64(matrix, count, count, fit, c->columns, c->columns);
  pith_release(context, matrix);
  return status;
}

/* Points of too little weight make room for the next pivots. Returns how many did. */
static size_t replace_weightless(const condensing *c, const part *t, const double *fit, size_t *active, size_t *count,
                                 size_t *next) {
  size_t kept = 0, wanted = *count;
  for (size_t a = 0; a < wanted; a++)
    if (fit[a * c->columns + c->columns - 1] / c->balance >= LEAST_WEIGHT) active[kept++] = active[a];
  size_t dropped = wanted - kept;
  while (kept < wanted && *next < t->pivots->count) active[kept++] = (*next)++;
  *count = kept;
  return dropped;
}

static void append_fitted(const condensing *c, const part *t, const double *fit, size_t pivot, pith_points *points) {
  size_t dv = c->p->dv;
  double squares = 0, weight = fmax(fit[dv] / c->balance, LEAST_WEIGHT);
  for (size_t j = 0; j < dv; j++) squares += fit[j] * fit[j];
  if (c->farthest > 0) weight = fmax(weight, sqrt(squares) / (FARTHEST * c->farthest));
  float *value = points->values + points->count * dv;
  pith_points_append(points, c->p, t->row[t->pivots->row[pivot]], log(weight));
  for (size_t j = 0; j < dv; j++) value[j] = (float)(fit[j] / weight + c->mean[j]);
}

static void append_row(const condensing *c, size_t row, pith_points *points) {
  pith_points_append(points, c->p, row, pith_problem_log_weight(c->p, row));
}

static pith_status take(pith_context *context, const condensing *c, const part *t, size_t count, pith_points *points) {
  size_t next = count = pith_min_size(count, t->pivots->count);
  size_t *active = pith_allocate(context, count, sizeof *active);
  double *fit = pith_allocate(context, count * c->columns, sizeof *fit);
  pith_status status = active && fit ? PITH_OK : PITH_E_MEMORY;
  for (size_t a = 0; status == PITH_OK && a < count; a++) active[a] = a;
  if (status == PITH_OK) {
    memcpy(fit, t->forward, count * c->columns * sizeof *fit);
    pith_triangular_solve_f64(t->factor, count, t->pivots->count, PITH_TRANSPOSED, fit, c->columns, c->columns);
  }
  for (int refit = 0; status == PITH_OK && refit < REFITS; refit++) {
    if (replace_weightless(c, t, fit, active, &count, &next) == 0) break;
    status = fit_active(context, c, t, active, count, fit);
  }
  for (size_t i = c->rows - t->stay; status == PITH_OK && i < c->rows; i++) append_row(c, c->row[i], points);
  for (size_t a = 0; status == PITH_OK && a < count; a++) append_fitted(c, t, fit + a * c->columns, active[a], points);
  pith_release(context, active);
  pith_release(context, fit);
  return status;
}

/* ---- What other numbers of points would err ---- */

typedef struct trial {
  const condensing *c;
  size_t held;
  float *answer;   /* (held, dv): of all rows, from the mean value */
  float *gathered; /* (rows, held) */
  float *whole;    /* (held, columns) */
  double *left;    /* (held, columns): what is not yet explained */
  pith_cache_sizes menu;
  double *basis; /* (rows, held): held-out features in the orthogonal basis of the pivots */
} trial;

static void close_trial(pith_context *context, trial *t) {
  pith_release(context, t->answer);
  pith_release(context, t->gathered);
  pith_release(context, t->whole);
  pith_release(context, t->left);
  pith_release(context, t->basis);
}

static pith_status open_trial(pith_context *context, condensing *c, trial *t) {
  pith_query_model model = *c->p->model;
  size_t held = model.fit_count = c->w->queries.held_count, dv = c->p->dv;
  model.fit = c->w->queries.held;
  *t = (trial){.c = c, .held = held};
  PITH_TRY(pith_kernel_create(context, &model, c->p->keys, c->p->log_weight, c->p->n, &c->held));
  t->answer = pith_allocate(context, held * dv, sizeof *t->answer);
  t->gathered = pith_allocate(context, c->p->n * held, sizeof *t->gathered);
  t->whole = pith_allocate(context, held * c->columns, sizeof *t->whole);
  t->left = pith_allocate(context, held * c->columns, sizeof *t->left);
  t->basis = pith_allocate(context, c->rows * held, sizeof *t->basis);
  if (!t->answer || !t->gathered || !t->whole || !t->left || !t->basis) return PITH_E_MEMORY;
  return answer(context, c, c->held, held, t->answer);
}

/* Mean over held-out queries of the squared error, and its standard error on top: a few queries may see little of the
 * worst. */
static double error_left(const trial *t) {
  const condensing *c = t->c;
  size_t dv = c->p->dv;
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

/* Errors with the first so many pivots of a part beside the rows that stay, from `first` on in growing numbers. */
static pith_status try_part(pith_context *context, trial *t, const part *p, size_t first) {
  const condensing *c = t->c;
  const float *feature = c->held->feature;
  size_t held = t->held, done = 0, count = p->pivots->count;
  float factor = sqrtf((float)held);
  for (size_t i = 0; i < p->count; i++)
    memcpy(t->gathered + i * held, feature + p->row[i] * held, held * sizeof *feature);
  pith_gemm_f32(context, PITH_TRANSPOSED, PITH_PLAIN, held, c->columns, p->count, factor, t->gathered, held,
                p->coefficients, c->columns, 0, t->whole, c->columns);
  for (size_t i = 0; i < held * c->columns; i++) t->left[i] = t->whole[i];
  for (size_t k = 0; k < count; k++)
    for (size_t r = 0; r < held; r++) t->basis[k * held + r] = factor * t->gathered[p->pivots->row[k] * held + r];
  pith_triangular_solve_f64(p->factor, count, count, PITH_PLAIN, t->basis, held, held);
  for (size_t size = pith_min_size(first, count);; size = pith_min_size(size + pith_max_size(4, size / 2), count)) {
    pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, held, c->columns, size - done, -1, t->basis + done * held, held,
                  p->forward + done * c->columns, c->columns, 1, t->left, c->columns);
    done = size;
    pith_cache_menu_size(&t->menu, p->stay + size, error_left(t));
    if (size == count) return PITH_OK;
  }
}

/* Other numbers of points: rows stay, but for what ROUGH_PIVOTS can stand for. */
static pith_status try_others(pith_context *context, trial *t, size_t from, size_t to) {
  const condensing *c = t->c;
  for (size_t size = from; size < to && (size < c->rows || size == 1); size *= 4) {
    size_t pivots = pith_min_size(size, ROUGH_PIVOTS);
    part p = {0};
    pith_status status = open_part(context, c, size - pivots, pivots, &p);
    if (status == PITH_OK) status = try_part(context, t, &p, size == from && size <= ROUGH_PIVOTS ? 0 : pivots);
    close_part(context, c, &p);
    PITH_TRY(status);
  }
  return PITH_OK;
}

/* ---- One head ---- */

static pith_status open_rows(pith_context *context, cache_work *w, condensing *c) {
  const pith_problem *p = &w->reduction.problem;
  *c = (condensing){.w = w, .p = p, .columns = p->dv + 1};
  c->mean = pith_allocate_zero(context, p->dv, sizeof *c->mean);
  c->row = pith_allocate(context, p->candidates, sizeof *c->row);
  c->coefficients = pith_allocate_zero(context, p->n, c->columns * sizeof *c->coefficients);
  c->importance = pith_allocate_zero(context, p->n, sizeof *c->importance);
  c->every = pith_allocate(context, p->n, sizeof *c->every);
  if (!c->mean || !c->row || !c->coefficients || !c->importance || !c->every) return PITH_E_MEMORY;
  for (size_t i = 0; i < p->n; i++) c->every[i] = i;
  for (size_t i = 0; i < p->n; i++)
    if (!p->exact[i]) c->row[c->rows++] = i;
  return PITH_OK;
}

static void close_rows(pith_context *context, condensing *c) {
  pith_kernel_free(context, c->kernel);
  pith_kernel_free(context, c->held);
  pith_release(context, c->mean);
  pith_release(context, c->row);
  pith_release(context, c->every);
  pith_release(context, c->coefficients);
  pith_release(context, c->importance);
}

/* Numbers below and above those that the part is good for. */
static pith_status make_menu(pith_context *context, condensing *c, const part *p, size_t wanted,
                             const pith_points *points) {
  trial t = {0};
  pith_status status = open_trial(context, c, &t);
  size_t own = p->pivots ? p->pivots->count : 0;
  if (status == PITH_OK && (p->stay > 0 || !p->pivots))
    status = try_others(context, &t, pith_min_size(ROUGH_PIVOTS, (c->rows + 1) / 2), p->stay + own / 2);
  if (status == PITH_OK && p->pivots) status = try_part(context, &t, p, p->stay > 0 ? own / 2 : 0);
  size_t next = pith_max_size(256, 2 * (wanted - wanted / 4));
  if (status == PITH_OK && p->pivots) status = try_others(context, &t, next, SIZE_MAX);
  if (status == PITH_OK) status = pith_cache_fill_menu(context, c->w, &t.menu, points);
  close_trial(context, &t);
  return status;
}

static pith_status condense(pith_context *context, condensing *c, size_t wanted, bool measures, pith_points *points) {
  size_t kept = wanted > MOST_PIVOTS ? wanted - MOST_PIVOTS : 0, own = wanted - kept, most = own + own / 8 + 8;
  bool whole = wanted >= c->rows;
  if (measures && kept == 0) most = pith_max_size(own + own / 2, c->rows / 16);
  if (!whole || measures) {
    find_mean(c);
    PITH_TRY(create_kernel(context, c, whole ? ROUGH_PIVOTS : most));
    PITH_TRY(find_balance(context, c));
    weigh_rows(c);
    PITH_TRY(order_rows(context, c));
  }
  part p = {.stay = whole ? c->rows : kept};
  pith_status status = whole ? PITH_OK : open_part(context, c, kept, most, &p);
  if (status == PITH_OK && !whole) status = take(context, c, &p, own, points);
  for (size_t i = 0; status == PITH_OK && whole && i < c->rows; i++) append_row(c, c->row[i], points);
  if (status == PITH_OK && measures) status = make_menu(context, c, &p, wanted, points);
  if (!whole) close_part(context, c, &p);
  return status;
}

pith_status pith_cache_condense(pith_context *context, cache_work *w, size_t wanted, bool measures) {
  condensing c;
  pith_status status = open_rows(context, w, &c);
  if (status == PITH_OK) status = condense(context, &c, wanted, measures, w->points);
  close_rows(context, &c);
  return status;
}
