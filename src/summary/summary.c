/* summary.c - the points of all heads: filled, looked at, asked, merged. */
#include "summary/summary.h"

#include <math.h>
#include <string.h>

#include "attention/attention.h"
#include "summary/store.h"

enum { SCRATCH_QUERIES = 0, SCRATCH_JOBS = 1 }; /* attention has its own slot */

const char *pith_certificate_kind_name(pith_certificate_kind kind) {
  switch (kind) {
    case PITH_CERTIFICATE_NONE: return "none";
    case PITH_CERTIFICATE_BALL: return "ball";
    case PITH_CERTIFICATE_TAIL: return "tail";
    case PITH_CERTIFICATE_GAUSSIAN: return "gaussian";
    case PITH_CERTIFICATE_PROBE: return "probe";
  }
  return "unknown";
}

const char *pith_query_kind_name(pith_query_kind kind) {
  switch (kind) {
    case PITH_QUERIES_AUTO: return "auto";
    case PITH_QUERIES_BALL: return "ball";
    case PITH_QUERIES_GAUSSIAN: return "gaussian";
    case PITH_QUERIES_SAMPLES: return "samples";
  }
  return "unknown";
}

pith_certificate pith_certificate_none(void) {
  return (pith_certificate){.kind = PITH_CERTIFICATE_NONE, .bound = INFINITY, .trivial = INFINITY};
}

void pith_head_bind(pith_head_view *view, pith_certificate_kind kind) {
  switch (kind) {
    case PITH_CERTIFICATE_BALL: view->binding = view->ball; break;
    case PITH_CERTIFICATE_GAUSSIAN: view->binding = view->gaussian; break;
    case PITH_CERTIFICATE_PROBE: view->binding = view->probe; break;
    default: view->binding = pith_certificate_none(); break;
  }
}

/* ---- Making ---- */

pith_status pith_summary_create(pith_context *context, size_t layers, size_t heads, pith_summary **out) {
  size_t count = 0;
  if (layers == 0 || heads == 0 || __builtin_mul_overflow(layers, heads, &count))
    return pith_fail(context, PITH_E_SHAPE, "summary: %zu layers of %zu heads; both must be at least 1", layers, heads);
  pith_summary *summary = pith_allocate_zero(context, 1, sizeof *summary);
  if (!summary) return PITH_E_MEMORY;
  summary->slot = pith_allocate_zero(context, count, sizeof *summary->slot);
  if (!summary->slot) {
    pith_release(context, summary);
    return PITH_E_MEMORY;
  }
  summary->memory = pith_memory_share(context);
  summary->info.layers = layers;
  summary->info.heads = heads;
  summary->info.predicted_kl = NAN;
  for (size_t i = 0; i < count; i++) {
    pith_head_view *view = &summary->slot[i].view;
    view->store = PITH_F32;
    view->probe_error = view->fold_error = NAN;
    view->binding = view->ball = view->gaussian = view->probe = pith_certificate_none();
  }
  *out = summary;
  return PITH_OK;
}

void pith_summary_free(pith_summary *summary) {
  if (!summary) return;
  pith_memory *memory = summary->memory;
  for (size_t i = 0; i < summary->info.layers * summary->info.heads; i++)
    pith_memory_release(memory, summary->slot[i].block);
  pith_memory_release(memory, summary->slot);
  pith_memory_release(memory, summary);
  pith_memory_unshare(memory);
}

size_t pith_summary_held_bytes(const pith_summary *summary) {
  size_t count = summary->info.layers * summary->info.heads, bytes = sizeof *summary + count * sizeof *summary->slot;
  for (size_t i = 0; i < count; i++) bytes += summary->slot[i].block_bytes;
  return bytes;
}

pith_head_view *pith_summary_view(pith_summary *summary, size_t layer, size_t head) {
  return &summary->slot[layer * summary->info.heads + head].view;
}

/* Adds room for count x width elements of `size` bytes at the next cache line; false on overflow. */
static bool reserve(size_t *total, size_t count, size_t width, size_t size, size_t *offset) {
  size_t bytes = 0;
  *offset = *total;
  return !__builtin_mul_overflow(count, width, &bytes) && !__builtin_mul_overflow(bytes, size, &bytes) &&
         !__builtin_add_overflow(bytes, *total, &bytes) && !__builtin_add_overflow(bytes, 63, &bytes) &&
         (*total = bytes & ~(size_t)63, true);
}

pith_status pith_summary_place_head(pith_context *context, pith_summary *summary, size_t layer, size_t head,
                                    size_t points, size_t d, size_t dv, pith_dtype store, pith_head_memory *out) {
  PITH_TRY(pith_store_check(context, store, d, dv));
  size_t key_bytes = pith_store_row_bytes(store, d), value_bytes = pith_store_row_bytes(store, dv);
  size_t key_scales = pith_store_scales(store, d), value_scales = pith_store_scales(store, dv);
  size_t total = 0, keys = 0, values = 0, key_scale = 0, value_scale = 0, log_weight = 0, index = 0, exact = 0;
  if (d == 0 || dv == 0 || !reserve(&total, points, key_bytes, 1, &keys) ||
      !reserve(&total, points, value_bytes, 1, &values) ||
      !reserve(&total, points, key_scales, sizeof(uint16_t), &key_scale) ||
      !reserve(&total, points, value_scales, sizeof(uint16_t), &value_scale) ||
      !reserve(&total, points, 1, sizeof(float), &log_weight) || !reserve(&total, points, 1, sizeof(int64_t), &index) ||
      !reserve(&total, points, 1, 1, &exact))
    return pith_fail(context, PITH_E_SHAPE, "summary: a head of %zu points with keys of %zu and values of %zu numbers",
                     points, d, dv);
  unsigned char *block = pith_memory_allocate(summary->memory, total, 1);
  if (!block) return pith_fail(context, PITH_E_MEMORY, "no memory for a head of %zu points (%zu bytes)", points, total);

  *out = (pith_head_memory){.keys = block + keys,
                            .values = block + values,
                            .key_scales = key_scales ? (uint16_t *)(void *)(block + key_scale) : NULL,
                            .value_scales = value_scales ? (uint16_t *)(void *)(block + value_scale) : NULL,
                            .log_weight = (float *)(void *)(block + log_weight),
                            .index = (int64_t *)(void *)(block + index),
                            .exact = block + exact};
  pith_summary_slot *slot = &summary->slot[layer * summary->info.heads + head];
  pith_memory_release(summary->memory, slot->block);
  slot->block = block;
  slot->block_bytes = total;
  pith_head_view *view = &slot->view;
  view->points = points;
  view->d = d;
  view->dv = dv;
  view->store = store;
  view->keys = out->keys;
  view->values = out->values;
  view->key_scales = out->key_scales;
  view->value_scales = out->value_scales;
  view->log_weight = out->log_weight;
  view->index = out->index;
  view->exact = out->exact;
  view->bytes = points * pith_store_point_bytes(store, d, dv);
  return PITH_OK;
}

pith_status pith_summary_set_head(pith_context *context, pith_summary *summary, size_t layer, size_t head,
                                  size_t points, size_t d, size_t dv, pith_dtype store, const float *keys,
                                  const float *values, const float *log_weight, const int64_t *index,
                                  const uint8_t *exact) {
  pith_head_memory memory;
  PITH_TRY(pith_summary_place_head(context, summary, layer, head, points, d, dv, store, &memory));
  PITH_TRY(pith_store_write(context, "keys", store, keys, points, d, memory.keys, memory.key_scales));
  PITH_TRY(pith_store_write(context, "values", store, values, points, dv, memory.values, memory.value_scales));
  for (size_t i = 0; i < points; i++) {
    memory.log_weight[i] = log_weight ? log_weight[i] : 0;
    memory.index[i] = index ? index[i] : -1;
    memory.exact[i] = exact ? exact[i] : 0;
    if (!isfinite(memory.log_weight[i]))
      return pith_fail(context, PITH_E_VALUE, "log_weight: row %zu is %g; all weights must be positive and finite", i,
                       (double)memory.log_weight[i]);
  }
  return PITH_OK;
}

/* ---- Looking ---- */

/* Order of promises: what is not certified is worse than what is, then the larger bound is worse. */
static bool worse(const pith_certificate *a, const pith_certificate *b) {
  return a->certified != b->certified ? !a->certified : a->bound > b->bound;
}

pith_summary_info pith_summary_describe(const pith_summary *summary) {
  pith_summary_info info = summary->info;
  info.points = info.bytes = info.full_bytes = 0;
  info.certificate = summary->slot[0].view.binding;
  for (size_t i = 0; i < info.layers * info.heads; i++) {
    const pith_head_view *view = &summary->slot[i].view;
    info.points = pith_max_size(info.points, view->points);
    info.bytes += view->bytes;
    info.full_bytes += view->source_rows * (view->d + view->dv) * 2; /* f16 */
    if (worse(&view->binding, &info.certificate)) info.certificate = view->binding;
  }
  info.ratio = info.full_bytes ? (double)info.bytes / (double)info.full_bytes : 0;
  return info;
}

pith_status pith_summary_head(pith_context *context, const pith_summary *summary, size_t layer, size_t head,
                              pith_head_view *out) {
  if (layer >= summary->info.layers || head >= summary->info.heads)
    return pith_fail(context, PITH_E_ARGUMENT, "summary: no layer %zu, head %zu; it has %zu layers of %zu heads", layer,
                     head, summary->info.layers, summary->info.heads);
  *out = summary->slot[layer * summary->info.heads + head].view;
  return PITH_OK;
}

/* ---- Asking ---- */

pith_status pith_summary_check_queries(pith_context *context, const pith_summary *summary, const pith_array *queries) {
  size_t layers = summary->info.layers, heads = summary->info.heads;
  if (queries->ndim < 2 || queries->ndim > 4)
    return pith_fail(context, PITH_E_SHAPE, "queries: %zu dimensions; 2 to 4 are needed", queries->ndim);
  size_t query_layers = pith_array_layers(queries), query_heads = pith_array_heads(queries);
  if (query_layers != layers || query_heads == 0 || query_heads % heads != 0)
    return pith_fail(
        context, PITH_E_SHAPE,
        "queries: %zu layers of %zu heads; the summary has %zu layers of %zu kv heads, and the query heads "
        "must be a multiple of them",
        query_layers, query_heads, layers, heads);
  for (size_t i = 0; i < layers * heads; i++)
    if (summary->slot[i].view.d != queries->shape[queries->ndim - 1])
      return pith_fail(context, PITH_E_SHAPE, "queries: rows of %zu numbers; the keys of layer %zu, head %zu have %zu",
                       queries->shape[queries->ndim - 1], i / heads, i % heads, summary->slot[i].view.d);
  return PITH_OK;
}

pith_rows pith_summary_rows(const pith_summary *summary, size_t index) {
  const pith_head_view *view = &summary->slot[index].view;
  pith_rows rows = pith_head_rows(view);
  if (summary->info.folded) rows.log_weight = NULL;
  return rows;
}

/* later: NULL, or the rows that come after the summary. */
static pith_status attend(pith_context *context, const pith_summary *summary, const pith_array *queries,
                          const pith_row_source *later, double scale, float *out) {
  if (scale == 0) scale = summary->info.scale;
  if (!isfinite(scale)) return pith_fail(context, PITH_E_ARGUMENT, "scale: %g is not finite", scale);
  size_t layers = summary->info.layers, heads = summary->info.heads, query_heads = pith_array_heads(queries);
  size_t group = query_heads / heads, m = queries->shape[queries->ndim - 2], d = queries->shape[queries->ndim - 1];

  /* All queries are read before the first answer is written: a failure leaves `out` as it was. */
  size_t numbers = 0;
  if (__builtin_mul_overflow(layers * query_heads, m * d, &numbers) || numbers > SIZE_MAX / sizeof(float))
    return pith_fail(context, PITH_E_SHAPE, "queries: %zu rows of %zu numbers for %zu heads do not fit in memory", m, d,
                     query_heads);
  float *scaled = pith_scratch(context, SCRATCH_QUERIES, numbers * sizeof *scaled);
  pith_attend_job *jobs = pith_scratch(context, SCRATCH_JOBS, layers * heads * sizeof *jobs);
  if (!scaled || !jobs) return PITH_E_MEMORY;
  PITH_TRY(pith_queries_to_f32(context, queries, scale, scaled));

  /* The query heads of a group lie together, so that one job over the points of a head answers all of them. */
  for (size_t i = 0; i < layers * heads; i++) {
    jobs[i] = (pith_attend_job){.rows = pith_summary_rows(summary, i),
                                .heads = group,
                                .queries = m,
                                .query = scaled + i * group * m * d,
                                .out = out};
    if (later) {
      jobs[i].later = pith_row_source_head(later, i);
      jobs[i].later_mask = (pith_mask){.causal = true, .first = (ptrdiff_t)jobs[i].later.count - (ptrdiff_t)m};
    }
    out += group * m * jobs[i].rows.dv;
  }
  return pith_attend_jobs(context, jobs, layers * heads);
}

pith_status pith_summary_attend(pith_context *context, const pith_summary *summary, const pith_array *queries,
                                double scale, float *out) {
  PITH_TRY(pith_summary_check_queries(context, summary, queries));
  return attend(context, summary, queries, NULL, scale, out);
}

pith_status pith_summary_attend_beside(pith_context *context, const pith_summary *summary, const pith_array *queries,
                                       const pith_array *later_keys, const pith_array *later_values, double scale,
                                       float *out) {
  PITH_TRY(pith_summary_check_queries(context, summary, queries));
  PITH_TRY(pith_check_shapes(context, queries, later_keys, later_values));
  size_t layers = summary->info.layers, heads = summary->info.heads;
  if (pith_array_layers(later_keys) != layers || pith_array_heads(later_keys) != heads)
    return pith_fail(context, PITH_E_SHAPE,
                     "later keys: %zu layers of %zu heads; the summary has %zu layers of %zu kv heads",
                     pith_array_layers(later_keys), pith_array_heads(later_keys), layers, heads);
  for (size_t i = 0; i < layers * heads; i++)
    if (summary->slot[i].view.dv != later_values->shape[later_values->ndim - 1])
      return pith_fail(context, PITH_E_SHAPE,
                       "later values: rows of %zu numbers; the values of layer %zu, head %zu have %zu",
                       later_values->shape[later_values->ndim - 1], i / heads, i % heads, summary->slot[i].view.dv);
  pith_row_source later;
  PITH_TRY(pith_row_source_open(context, later_keys, later_values, &later));
  pith_status status = attend(context, summary, queries, &later, scale, out);
  pith_row_source_close(context, &later);
  return status;
}

/* ---- Merging ---- */

static pith_status check_parts(pith_context *context, const pith_summary *const *parts, size_t count) {
  if (count == 0) return pith_fail(context, PITH_E_ARGUMENT, "merge: no summaries given; at least one is needed");
  const pith_summary *first = parts[0];
  for (size_t part = 0; part < count; part++) {
    const pith_summary_info *info = &parts[part]->info;
    if (info->folded)
      return pith_fail(context, PITH_E_ARGUMENT,
                       "merge: the weights of summary %zu are folded into its keys and cannot be set against those of "
                       "others; compress again without folding",
                       part);
    if (info->layers != first->info.layers || info->heads != first->info.heads)
      return pith_fail(context, PITH_E_SHAPE,
                       "merge: summary %zu has %zu layers of %zu heads, summary 0 has %zu of %zu", part, info->layers,
                       info->heads, first->info.layers, first->info.heads);
    if (info->scale != first->info.scale)
      return pith_fail(context, PITH_E_ARGUMENT, "merge: summary %zu has softmax scale %g, summary 0 has %g", part,
                       info->scale, first->info.scale);
    for (size_t i = 0; i < info->layers * info->heads; i++) {
      const pith_head_view *view = &parts[part]->slot[i].view, *other = &first->slot[i].view;
      if (view->d != other->d || view->dv != other->dv)
        return pith_fail(context, PITH_E_SHAPE,
                         "merge: layer %zu, head %zu of summary %zu has keys of %zu and values of %zu numbers, "
                         "summary 0 has %zu and %zu",
                         i / info->heads, i % info->heads, part, view->d, view->dv, other->d, other->dv);
    }
  }
  return PITH_OK;
}

/* Log-weights are absolute (a point of weight w stands for w tokens), so points are simply put side by side. Parts of
 * the same store are copied as they are; different ones meet in f32, which holds all of them without loss. */
static void append_points(const pith_head_view *view, const pith_head_memory *memory, pith_dtype store, size_t at) {
  size_t d = view->d, dv = view->dv, points = view->points;
  size_t key_bytes = pith_store_row_bytes(store, d), value_bytes = pith_store_row_bytes(store, dv);
  void *keys = (unsigned char *)memory->keys + at * key_bytes;
  void *values = (unsigned char *)memory->values + at * value_bytes;
  if (view->store != store) {
    pith_head_to_f32(view, keys, values);
    return;
  }
  memcpy(keys, view->keys, points * key_bytes);
  memcpy(values, view->values, points * value_bytes);
  if (!memory->key_scales || !memory->value_scales) return; /* a store without scales */
  size_t key_scales = pith_scales(d), value_scales = pith_scales(dv);
  memcpy(memory->key_scales + at * key_scales, view->key_scales, points * key_scales * sizeof(uint16_t));
  memcpy(memory->value_scales + at * value_scales, view->value_scales, points * value_scales * sizeof(uint16_t));
}

static pith_status merge_head(pith_context *context, const pith_summary *const *parts, size_t count,
                              pith_summary *merged, size_t i) {
  const pith_head_view *first = &parts[0]->slot[i].view;
  size_t points = 0, source_rows = 0, heads = merged->info.heads, d = first->d, dv = first->dv;
  pith_dtype store = first->store;
  for (size_t part = 0; part < count; part++) {
    const pith_head_view *view = &parts[part]->slot[i].view;
    if (view->store != store) store = PITH_F32;
    if (__builtin_add_overflow(points, view->points, &points) ||
        __builtin_add_overflow(source_rows, view->source_rows, &source_rows) || source_rows > INT64_MAX)
      return pith_fail(context, PITH_E_SHAPE, "merge: too many rows in layer %zu, head %zu", i / heads, i % heads);
  }
  pith_head_memory memory;
  PITH_TRY(pith_summary_place_head(context, merged, i / heads, i % heads, points, d, dv, store, &memory));
  size_t at = 0, shift = 0;
  for (size_t part = 0; part < count; part++) {
    const pith_head_view *view = &parts[part]->slot[i].view;
    if (view->points == 0) {
      shift += view->source_rows;
      continue;
    }
    append_points(view, &memory, store, at);
    memcpy(memory.log_weight + at, view->log_weight, view->points * sizeof *view->log_weight);
    memcpy(memory.exact + at, view->exact, view->points);
    for (size_t row = 0; row < view->points; row++)
      memory.index[at + row] = view->index[row] < 0 ? -1 : view->index[row] + (int64_t)shift;
    at += view->points;
    shift += view->source_rows;
  }
  pith_summary_view(merged, i / heads, i % heads)->source_rows = source_rows;
  return PITH_OK;
}

/* No certificate survives. The merged answer is the mean of the parts' answers weighted by the parts' own sums of
 * weights; each part bounds the error of its answer, none bounds the error of its sum, and two parts with perfect
 * answers still mix in a wrong proportion. Certificates have to be worked out again from the full keys and values. */
pith_status pith_summary_merge(pith_context *context, const pith_summary *const *parts, size_t count,
                               pith_summary **out) {
  PITH_TRY(check_parts(context, parts, count));
  pith_summary *merged = NULL;
  PITH_TRY(pith_summary_create(context, parts[0]->info.layers, parts[0]->info.heads, &merged));
  merged->info = parts[0]->info;
  merged->info.other_bytes = 0;
  merged->info.predicted_kl = NAN;
  merged->rho = parts[0]->rho;
  for (size_t part = 0; part < count; part++) {
    const pith_summary_info *info = &parts[part]->info;
    merged->info.other_bytes += info->other_bytes;
    if (strcmp(info->engine, merged->info.engine) != 0) memcpy(merged->info.engine, "mixed", sizeof "mixed");
    if (info->query_model != merged->info.query_model) merged->info.query_model = PITH_QUERIES_AUTO;
    merged->rho = fmin(merged->rho, parts[part]->rho);
  }
  for (size_t i = 0; i < merged->info.layers * merged->info.heads; i++) {
    pith_status status = merge_head(context, parts, count, merged, i);
    if (status < 0) {
      pith_summary_free(merged);
      return status;
    }
  }
  *out = merged;
  return PITH_OK;
}
