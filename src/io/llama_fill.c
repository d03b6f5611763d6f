/* llama_fill.c - heads with fewer points than there are cells. */
#include "io/llama_fill.h"

#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "kernels/kernels.h"
#include "linalg/linalg.h"
#include "query/model.h"

/* Some of the queries, turned to where they will be asked from and times the softmax scale. */
typedef struct query_sample {
  size_t count, d;
  float *queries; /* (count, d) */
} query_sample;

static pith_status sample_queries(pith_context *context, const pith_llama_heads *heads, const pith_llama_asked *asked,
                                  query_sample *out) {
  enum { QUERIES = 256 };
  const size_t d = heads->key_size, count = asked->queries->shape[asked->queries->ndim - 2],
               group = heads->query_heads / heads->kv_heads;
  const size_t step = pith_max_size(1, count / QUERIES), each = (count + step - 1) / step;
  *out =
      (query_sample){.count = group * each, .d = d, .queries = pith_allocate(context, group * each * d, sizeof(float))};
  float *all = pith_allocate(context, count * d, sizeof *all);
  pith_status status = out->queries && all ? PITH_OK : PITH_E_MEMORY;
  for (size_t g = 0; g < group && status >= 0; g++) {
    const pith_array one = pith_array_head(asked->queries, asked->layer, asked->head * group + g);
    status = pith_array_to_f32(context, &one, "queries", heads->scale, all);
    for (size_t i = 0; i < each && status >= 0; i++) {
      const size_t r = i * step;
      float *q = out->queries + (g * each + i) * d;
      const double target = (double)(asked->rows + i * 127 % asked->horizon);
      memcpy(q, all + r * d, d * sizeof *q);
      if (heads->rope) pith_rope_turn(q, d, heads->rope, heads->rope_base, target - (double)(asked->query_start + r));
    }
  }
  pith_release(context, all);
  return status;
}

/* u = (Q^T Q + ridge)^-1 Q^T 1: <q, u> is nearly 1, and 1 in the mean. Of length d. */
static pith_status common_direction(pith_context *context, const query_sample *asked, double *u) {
  const double ridge = 1e-3;
  const size_t d = asked->d;
  double *gram = pith_allocate_zero(context, d * d + d, sizeof *gram), trace = 0, mean = 0;
  if (!gram) return PITH_E_MEMORY;
  double *sum = gram + d * d;
  for (size_t r = 0; r < asked->count; r++) {
    const float *q = asked->queries + r * d;
    for (size_t i = 0; i < d; i++) {
      sum[i] += q[i];
      for (size_t j = 0; j <= i; j++) gram[i * d + j] += (double)q[i] * q[j];
    }
  }
  memcpy(u, sum, d * sizeof *u);
  for (size_t i = 0; i < d; i++) trace += gram[i * d + i];
  for (size_t i = 0; i < d; i++) gram[i * d + i] += ridge * trace / (double)d + 1e-30;
  pith_status status = pith_cholesky_f64(context, gram, d, d);
  if (status >= 0) pith_cholesky_solve_f64(gram, d, d, u, 1, 1);
  for (size_t i = 0; i < d; i++) mean += u[i] * sum[i] / (double)asked->count;
  if (status >= 0 && !(mean > 0))
    status = pith_fail(context, PITH_E_NUMERIC,
                       "a head's queries have no common direction, so it cannot have fewer points than others; choose "
                       "another engine or fewer cells");
  for (size_t i = 0; i < d && status >= 0; i++) u[i] /= mean;
  pith_release(context, gram);
  return status;
}

typedef struct attended {
  size_t point;
  float most; /* logarithm of its largest share of any query's attention */
  bool exact;
} attended;

static int least_first(const void *a, const void *b) {
  const attended *first = a, *second = b;
  if (first->exact != second->exact) return first->exact ? 1 : -1;
  return (first->most > second->most) - (first->most < second->most);
}

/* points (count): those that stand for themselves last, else by how much they are attended to. */
static pith_status rank_points(pith_context *context, const query_sample *asked, const float *keys,
                               const uint8_t *exact, size_t count, attended *points) {
  const size_t d = asked->d;
  float *logits = pith_allocate(context, count, sizeof *logits);
  if (!logits) return PITH_E_MEMORY;
  for (size_t i = 0; i < count; i++) points[i] = (attended){i, -INFINITY, exact[i] != 0};
  for (size_t r = 0; r < asked->count; r++) {
    float largest = -INFINITY;
    double mass = 0;
    for (size_t i = 0; i < count; i++) {
      logits[i] = pith_kernels_active()->dot(asked->queries + r * d, keys + i * d, d);
      largest = fmaxf(largest, logits[i]);
    }
    for (size_t i = 0; i < count; i++) mass += exp((double)logits[i] - largest);
    for (size_t i = 0; i < count; i++) points[i].most = fmaxf(points[i].most, logits[i] - largest - (float)log(mass));
  }
  qsort(points, count, sizeof *points, least_first);
  pith_release(context, logits);
  return PITH_OK;
}

/* The least attended points in turn get a copy each. */
static void share_points(const pith_llama_heads *heads, const attended *ranked, const double *u, size_t points,
                         size_t cells, float *keys, float *values) {
  const size_t d = heads->key_size, dv = heads->value_size;
  size_t sharing = 1; /* of the ranked points */
  while (sharing < points && !ranked[sharing].exact) sharing++;
  const size_t fill = cells - points;
  for (size_t i = 0; i < sharing && i < fill; i++) {
    const size_t copies = (fill - i + sharing - 1) / sharing;
    const double log_share = -log((double)(copies + 1));
    for (size_t j = 0; j < d; j++) keys[ranked[i].point * d + j] += (float)(log_share * u[j]);
  }
  for (size_t i = 0; i < fill; i++) {
    const size_t point = ranked[i % sharing].point;
    memcpy(keys + (points + i) * d, keys + point * d, d * sizeof *keys);
    memcpy(values + (points + i) * dv, values + point * dv, dv * sizeof *values);
  }
}

pith_status pith_llama_fill(pith_context *context, const pith_llama_heads *heads, const pith_llama_asked *asked,
                            const uint8_t *exact, size_t points, size_t cells, float *keys, float *values) {
  query_sample sample = {0};
  double *u = pith_allocate(context, heads->key_size, sizeof *u);
  attended *ranked = pith_allocate(context, points, sizeof *ranked);
  pith_status status = u && ranked ? sample_queries(context, heads, asked, &sample) : PITH_E_MEMORY;
  if (status >= 0) status = common_direction(context, &sample, u);
  if (status >= 0) status = rank_points(context, &sample, keys, exact, points, ranked);
  if (status >= 0) share_points(heads, ranked, u, points, cells, keys, values);
  pith_release(context, sample.queries);
  pith_release(context, ranked);
  pith_release(context, u);
  return status;
}
