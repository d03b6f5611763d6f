/* pivots.c - randomly pivoted Cholesky by blocks. */
#include "summary/pivots.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"

enum { PROPOSALS = 96, COLUMN_PANEL = 512 };

/* Done when this share of the weighted trace is left: below it, f32 has nothing more to say. */
static const double TRACE_LEFT = 1e-7;
/* A residual below this share of its own diagonal is rounding. */
static const double NOISE = 2e-6;

typedef struct choice {
  pith_context *context;
  const pith_kernel *kernel;
  const double *importance;
  pith_stream stream;
  uint64_t draws;
  size_t n;
  float *factor;      /* (most, n): rows of the Cholesky factor */
  double *residual;   /* (n): what is left of the diagonal */
  double *cumulative; /* (n) */
  float *products;    /* (PROPOSALS, columns) */
  float *gathered;    /* (most, PROPOSALS): columns of the factor at the proposals */
  pith_pivots *pivots;
} choice;

/* Draws distinct rows with probability proportional to importance * residual (duplicates are dropped:
 * the rejection step would refuse them). Returns their number; 0 when nothing is left. */
static size_t propose(choice *c, size_t wanted, size_t *proposal) {
  double total = 0;
  for (size_t i = 0; i < c->n; i++) c->cumulative[i] = total += c->importance[i] * c->residual[i];
  if (!(total > 0)) return 0;
  size_t count = 0;
  for (size_t draw = 0; draw < wanted; draw++) {
    double mark = total * pith_random_uniform(&c->stream, c->draws++);
    size_t low = 0, high = c->n - 1;
    while (low < high) {
      size_t middle = low + (high - low) / 2;
      if (c->cumulative[middle] > mark)
        high = middle;
      else
        low = middle + 1;
    }
    bool seen = false;
    for (size_t k = 0; k < count; k++) seen |= proposal[k] == low;
    if (!seen) proposal[count++] = low;
  }
  return count;
}

static void gather_factor(choice *c, const size_t *rows, size_t count) {
  for (size_t k = 0; k < c->pivots->count; k++)
    for (size_t j = 0; j < count; j++) c->gathered[k * count + j] = c->factor[k * c->n + rows[j]];
}

/* Walks through the proposals: each is accepted with probability (what is left of it now) / (what was
 * left when it was proposed), and eliminated from those behind it. accepted[] and the Cholesky factor
 * `corner` (PROPOSALS, PROPOSALS) of the accepted come back. */
static pith_status thin(choice *c, const size_t *proposal, size_t count, size_t *accepted, size_t *accepted_count,
                        double *corner) {
  static const size_t stride = PROPOSALS;
  float block[PROPOSALS * PROPOSALS] = {0};
  double left[PROPOSALS * PROPOSALS] = {0};
  size_t place[PROPOSALS], kept = 0;
  PITH_TRY(pith_kernel_block(c->context, c->kernel, proposal, count, proposal, count, block));
  gather_factor(c, proposal, count);
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)count, (int)count, (int)c->pivots->count, -1, c->gathered,
              (int)count, c->gathered, (int)count, 1, block, (int)count);
  for (size_t i = 0; i < count * count; i++) left[i] = block[i];

  for (size_t j = 0; j < count; j++) {
    double now = left[j * count + j], then = c->residual[proposal[j]];
    double mark = pith_random_uniform(&c->stream, c->draws++);
    if (now <= NOISE * c->kernel->diagonal[proposal[j]]) {
      if (j == 0) c->residual[proposal[0]] = 0; /* nothing is left of it but rounding */
      continue;
    }
    if (j > 0 && mark * then > now) continue;
    double pivot = sqrt(now);
    place[kept] = j;
    accepted[kept] = proposal[j];
    /* Row of the factor: h_i = left(j,i) / pivot for all proposals behind j. */
    for (size_t i = j + 1; i < count; i++) left[j * count + i] /= pivot;
    left[j * count + j] = pivot;
    for (size_t a = j + 1; a < count; a++)
      for (size_t b = a; b < count; b++) left[a * count + b] -= left[j * count + a] * left[j * count + b];
    kept++;
  }
  for (size_t a = 0; a < kept; a++)
    for (size_t b = 0; b <= a; b++) corner[a * stride + b] = left[place[b] * count + place[a]];
  *accepted_count = kept;
  return PITH_OK;
}

typedef struct elimination {
  const choice *c;
  size_t count;
  const float *corner; /* (count, count) lower */
} elimination;

/* One panel of columns: rows -= gathered^T factor; rows = corner^-1 rows; residual -= rows^2. */
static void eliminate_panel(void *argument, size_t index, int thread) {
  (void)thread;
  const elimination *e = argument;
  const choice *c = e->c;
  size_t begin = index * COLUMN_PANEL, width = pith_min_size(COLUMN_PANEL, c->n - begin), before = c->pivots->count;
  float *rows = c->factor + before * c->n + begin;
  if (before > 0)
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)e->count, (int)width, (int)before, -1, c->gathered,
                (int)e->count, c->factor + begin, (int)c->n, 1, rows, (int)c->n);
  cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (int)e->count, (int)width, 1, e->corner,
              (int)e->count, rows, (int)c->n);
  for (size_t k = 0; k < e->count; k++)
    for (size_t i = 0; i < width; i++) {
      double x = rows[k * c->n + i];
      c->residual[begin + i] -= x * x;
    }
}

/* Adds the accepted rows as pivots: their kernel rows, targets, factor rows. */
static pith_status accept(choice *c, const size_t *accepted, size_t count, const double *corner,
                          const float *coefficients) {
  pith_pivots *p = c->pivots;
  size_t n = c->n, before = p->count;
  float *rows = c->factor + before * n, small[PROPOSALS * PROPOSALS];
  PITH_TRY(pith_kernel_rows(c->context, c->kernel, accepted, count, rows));
  memcpy(p->row + before, accepted, count * sizeof *accepted);
  for (size_t k = 0; k < count; k++)
    for (size_t j = 0; j <= before + k; j++) p->kernel[(before + k) * p->most + j] = rows[k * n + p->row[j]];

  float *target = c->products;
  pith_gemm_f32(c->context, PITH_PLAIN, PITH_PLAIN, count, p->columns, n, 1, rows, n, coefficients, p->columns, 0,
                target, p->columns);
  for (size_t i = 0; i < count * p->columns; i++) p->target[before * p->columns + i] = target[i];

  gather_factor(c, accepted, count);
  for (size_t a = 0; a < count; a++)
    for (size_t b = 0; b < count; b++) small[a * count + b] = b <= a ? (float)corner[a * PROPOSALS + b] : 0;
  elimination e = {c, count, small};
  pith_parallel_for(c->context, (n + COLUMN_PANEL - 1) / COLUMN_PANEL, eliminate_panel, &e);
  for (size_t i = 0; i < n; i++) c->residual[i] = fmax(c->residual[i], 0);
  for (size_t k = 0; k < count; k++) c->residual[accepted[k]] = 0;
  p->count += count;
  return PITH_OK;
}

static double weighted_trace(const choice *c) {
  double trace = 0;
  for (size_t i = 0; i < c->n; i++) trace += c->importance[i] * c->residual[i];
  return trace;
}

static pith_status choose(choice *c, const float *coefficients) {
  for (size_t i = 0; i < c->n; i++) c->residual[i] = c->kernel->diagonal[i];
  double start = weighted_trace(c);
  pith_pivots *p = c->pivots;
  p->remaining = 1;
  double corner[PROPOSALS * PROPOSALS];
  while (p->count < p->most && p->remaining > TRACE_LEFT) {
    size_t proposal[PROPOSALS], accepted[PROPOSALS], count = 0;
    size_t proposals = propose(c, pith_min_size(PROPOSALS, p->most - p->count), proposal);
    if (proposals == 0) break;
    PITH_TRY(thin(c, proposal, proposals, accepted, &count, corner));
    if (count > 0) PITH_TRY(accept(c, accepted, count, corner, coefficients));
    p->remaining = start > 0 ? weighted_trace(c) / start : 0;
    PITH_TRY(pith_report(c->context, "choosing points", p->count, p->most));
  }
  return PITH_OK;
}

pith_status pith_pivots_choose(pith_context *context, const pith_kernel *kernel, const double *importance,
                               const float *coefficients, size_t columns, size_t most, uint64_t seed, uint32_t object,
                               pith_pivots **out) {
  pith_pivots *p = pith_allocate_zero(context, 1, sizeof *p);
  if (!p) return PITH_E_MEMORY;
  p->most = most;
  p->columns = columns;
  p->row = pith_allocate(context, most, sizeof *p->row);
  p->kernel = pith_allocate(context, most * most, sizeof *p->kernel);
  p->target = pith_allocate(context, most * columns, sizeof *p->target);
  size_t n = kernel->n;
  choice c = {.context = context,
              .kernel = kernel,
              .importance = importance,
              .stream = pith_stream_make(seed, PITH_STREAM_PIVOTS, object),
              .n = n,
              .pivots = p};
  c.factor = pith_allocate(context, most * n, sizeof *c.factor);
  c.residual = pith_allocate(context, n, sizeof *c.residual);
  c.cumulative = pith_allocate(context, n, sizeof *c.cumulative);
  c.products = pith_allocate(context, PROPOSALS * columns, sizeof *c.products);
  c.gathered = pith_allocate(context, most * PROPOSALS, sizeof *c.gathered);
  pith_status status = PITH_E_MEMORY;
  if (p->row && p->kernel && p->target && c.factor && c.residual && c.cumulative && c.products && c.gathered)
    status = choose(&c, coefficients);
  pith_release(context, c.factor);
  pith_release(context, c.residual);
  pith_release(context, c.cumulative);
  pith_release(context, c.products);
  pith_release(context, c.gathered);
  if (status < 0)
    pith_pivots_free(context, p);
  else
    *out = p;
  return status;
}

void pith_pivots_free(pith_context *context, pith_pivots *pivots) {
  if (!pivots) return;
  pith_release(context, pivots->row);
  pith_release(context, pivots->kernel);
  pith_release(context, pivots->target);
  pith_release(context, pivots->factor);
  pith_release(context, pivots->forward);
  pith_release(context, pivots);
}
