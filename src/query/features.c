/* features.c - attention weights of all fit queries, or of those that matter. */
#include "query/features.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

enum { PANEL = 256 };

typedef struct panels {
  const pith_feature_source *source;
  size_t features;
  float *feature; /* (n, features) */
  /* Of every query, for drawing. */
  float *log_mass;
  double *norm;
  float *weight, *squared_weight; /* (n): of rows; the second is 0 for those that are kept exactly */
  float *scratch;                 /* (threads, PANEL, n) */
  float *squares;                 /* (panels, n): squared weights, summed over each panel of queries */
  /* Of those drawn. */
  const size_t *drawn;
  const float *factor;
  float *query; /* (features, d) */
} panels;

static void find_logits(const pith_feature_source *s, const float *queries, size_t count, float *out, size_t stride) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)s->n, (int)count, (int)s->model->d, 1, s->keys,
              (int)s->model->d, queries, (int)s->model->d, 0, out, (int)stride);
}

/* Turns logits into exp(logit - largest), and finds what they are to be divided by. */
static void find_weights(const pith_feature_source *s, const float *local_log_mass, size_t count, float *logits,
                         size_t stride, float *largest, double *sum) {
  const pith_kernels *kernels = pith_kernels_active();
  for (size_t r = 0; r < count; r++) {
    largest[r] = local_log_mass[r];
    sum[r] = 0;
  }
  for (size_t i = 0; i < s->n; i++) {
    const float *row = logits + i * stride;
    for (size_t r = 0; r < count; r++) largest[r] = row[r] > largest[r] ? row[r] : largest[r];
  }
  for (size_t i = 0; i < s->n; i++) {
    float *row = logits + i * stride, weight = s->log_weight ? expf(s->log_weight[i]) : 1.0f;
    for (size_t r = 0; r < count; r++) row[r] -= largest[r];
    (void)kernels->exp_sum(row, count, 0);
    for (size_t r = 0; r < count; r++) sum[r] += weight * row[r];
  }
  for (size_t r = 0; r < count; r++) sum[r] += exp((double)local_log_mass[r] - largest[r]);
}

/* ---- All queries ---- */

static void fill_panel(void *argument, size_t index, int thread) {
  (void)thread;
  const panels *p = argument;
  const pith_feature_source *s = p->source;
  size_t begin = index * PANEL, count = pith_min_size(PANEL, p->features - begin);
  float *panel = p->feature + begin, largest[PANEL], factor[PANEL];
  double sum[PANEL];
  find_logits(s, s->model->fit + begin * s->model->d, count, panel, p->features);
  find_weights(s, s->model->local_log_mass + begin, count, panel, p->features, largest, sum);
  for (size_t r = 0; r < count; r++) factor[r] = (float)(1.0 / (sum[r] * sqrt((double)p->features)));
  for (size_t i = 0; i < s->n; i++) {
    float *row = panel + i * p->features;
    for (size_t r = 0; r < count; r++) row[r] *= factor[r];
  }
}

/* ---- Those drawn ---- */

/* log_mass and norm of a panel of queries, and the sum of their squared weights on every row. */
static void weigh_panel(void *argument, size_t index, int thread) {
  const panels *p = argument;
  const pith_feature_source *s = p->source;
  const pith_kernels *kernels = pith_kernels_active();
  size_t n = s->n, d = s->model->d, begin = index * PANEL, count = pith_min_size(PANEL, s->model->fit_count - begin);
  float *panel = p->scratch + (size_t)thread * n * PANEL, *total = p->squares + index * n;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)n, (int)d, 1, s->model->fit + begin * d, (int)d,
              s->keys, (int)d, 0, panel, (int)n);
  memset(total, 0, n * sizeof *total);
  for (size_t r = 0; r < count; r++) {
    float *row = panel + r * n, local = s->model->local_log_mass[begin + r],
          largest = fmaxf(kernels->max(row, n), local);
    float seen = kernels->exp_sum(row, n, -largest);
    if (s->log_weight) seen = kernels->dot(row, p->weight, n);
    float sum = seen + expf(local - largest);
    for (size_t i = 0; i < n; i++) row[i] *= row[i];
    kernels->axpy(1 / (sum * sum), row, total, n);
    p->log_mass[begin + r] = largest + logf(sum);
    p->norm[begin + r] = sqrt(kernels->dot(row, p->squared_weight, n)) / sum;
  }
}

/* norm becomes the probability to be drawn: in proportion, but 1 at most, and `most` in all. */
static void find_chances(double *norm, size_t count, size_t most) {
  double total = 0, left = (double)most;
  for (size_t r = 0; r < count; r++) total += norm[r];
  for (bool changed = true; changed && total > 0;) { /* those that are certain leave more for the others */
    double taken = 0, gone = 0;
    for (size_t r = 0; r < count; r++)
      if (norm[r] >= 0 && norm[r] * left >= total) {
        taken++;
        gone += norm[r];
        norm[r] = -1;
      }
    changed = taken > 0;
    left -= taken;
    total -= gone;
  }
  for (size_t r = 0; r < count; r++) norm[r] = norm[r] < 0 ? 1 : total > 0 ? norm[r] * left / total : 0;
}

/* Systematic sampling: a comb of teeth 1 apart over the chances laid end to end. */
static size_t draw(const pith_feature_source *s, const double *chance, size_t *drawn, float *factor) {
  pith_stream stream = pith_stream_make(s->seed, PITH_STREAM_FEATURES, s->object);
  size_t all = s->model->fit_count, count = 0;
  double at = pith_random_uniform(&stream, 0);
  for (size_t r = 0; r < all; r++) {
    at += chance[r];
    if (at < 1) continue;
    at -= 1;
    factor[count] = (float)(1 / sqrt(chance[r] * (double)all));
    drawn[count++] = r;
  }
  return count;
}

static void fill_drawn(void *argument, size_t index, int thread) {
  (void)thread;
  const panels *p = argument;
  const pith_feature_source *s = p->source;
  size_t begin = index * PANEL, count = pith_min_size(PANEL, p->features - begin);
  float *panel = p->feature + begin;
  find_logits(s, p->query + begin * s->model->d, count, panel, p->features);
  for (size_t i = 0; i < s->n; i++) {
    float *row = panel + i * p->features;
    for (size_t r = 0; r < count; r++) row[r] -= p->log_mass[p->drawn[begin + r]];
    (void)pith_kernels_active()->exp_sum(row, count, 0);
    for (size_t r = 0; r < count; r++) row[r] *= p->factor[begin + r];
  }
}

static void add_squares(const panels *p, size_t count, float *diagonal) {
  for (size_t k = 0; k < count; k++) {
    const float *squares = p->squares + k * p->source->n;
    for (size_t i = 0; i < p->source->n; i++) diagonal[i] += squares[i] / (float)p->source->model->fit_count;
  }
}

static void weigh_rows(const pith_feature_source *s, float *weight, float *squared) {
  for (size_t i = 0; i < s->n; i++) {
    weight[i] = s->log_weight ? expf(s->log_weight[i]) : 1;
    squared[i] = s->exact && s->exact[i] ? 0 : weight[i] * weight[i];
  }
}

static pith_status create_drawn(pith_context *context, const pith_feature_source *s, panels *p, float *diagonal) {
  size_t all = s->model->fit_count, d = s->model->d, count = (all + PANEL - 1) / PANEL;
  size_t *drawn = pith_allocate(context, all, sizeof *drawn);
  float *factor = pith_allocate(context, 2 * all, sizeof *factor);
  p->norm = pith_allocate(context, all, sizeof *p->norm);
  p->weight = pith_allocate(context, s->n, 2 * sizeof *p->weight);
  p->scratch = pith_allocate(context, (size_t)pith_threads(context) * s->n, PANEL * sizeof *p->scratch);
  p->squares = pith_allocate(context, count, s->n * sizeof *p->squares);
  pith_status status = drawn && factor && p->norm && p->weight && p->scratch && p->squares ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) {
    p->log_mass = factor + all;
    p->squared_weight = p->weight + s->n;
    weigh_rows(s, p->weight, p->squared_weight);
    pith_parallel_for(context, count, weigh_panel, p);
    add_squares(p, count, diagonal);
    find_chances(p->norm, all, s->most);
    p->features = draw(s, p->norm, drawn, factor);
    p->drawn = drawn;
    p->factor = factor;
    p->query = pith_allocate(context, p->features, d * sizeof *p->query);
    p->feature = pith_allocate(context, s->n * p->features, sizeof *p->feature);
    status = p->query && p->feature ? PITH_OK : PITH_E_MEMORY;
  }
  if (status == PITH_OK) {
    for (size_t r = 0; r < p->features; r++) memcpy(p->query + r * d, s->model->fit + drawn[r] * d, d * sizeof(float));
    pith_parallel_for(context, (p->features + PANEL - 1) / PANEL, fill_drawn, p);
  }
  pith_release(context, drawn);
  pith_release(context, factor);
  pith_release(context, p->norm);
  pith_release(context, p->weight);
  pith_release(context, p->scratch);
  pith_release(context, p->squares);
  pith_release(context, p->query);
  return status;
}

pith_status pith_features_create(pith_context *context, const pith_feature_source *source, pith_features *out) {
  panels p = {.source = source, .features = source->model->fit_count};
  bool all = p.features <= source->most;
  *out = (pith_features){0};
  if (all) {
    p.feature = pith_allocate(context, source->n * p.features, sizeof *p.feature);
    if (!p.feature) return PITH_E_MEMORY;
    pith_parallel_for(context, (p.features + PANEL - 1) / PANEL, fill_panel, &p);
  } else {
    out->diagonal = pith_allocate_zero(context, source->n, sizeof *out->diagonal);
    if (!out->diagonal) return PITH_E_MEMORY;
    pith_status status = create_drawn(context, source, &p, out->diagonal);
    if (status < 0) {
      pith_release(context, out->diagonal);
      out->diagonal = NULL;
      return status;
    }
  }
  out->count = p.features;
  out->feature = p.feature;
  return PITH_OK;
}
