/* frame.c - merging equal rows, weights, centring. */
#include "certify/frame.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef struct row_name {
  uint64_t hash;
  size_t row; /* of the full set, or n + row of the summary */
} row_name;

static const float *key_of(const pith_pairs *full, const pith_pairs *summary, size_t row) {
  return row < full->n ? full->keys + row * full->d : summary->keys + (row - full->n) * full->d;
}

static const float *value_of(const pith_pairs *full, const pith_pairs *summary, size_t row) {
  return row < full->n ? full->values + row * full->dv : summary->values + (row - full->n) * full->dv;
}

static double log_weight_of(const pith_pairs *full, const pith_pairs *summary, size_t row) {
  const pith_pairs *pairs = row < full->n ? full : summary;
  return pairs->log_weight ? pairs->log_weight[row < full->n ? row : row - full->n] : 0.0;
}

static int compare_names(const void *a, const void *b) {
  const row_name *x = a, *y = b;
  if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
  return x->row < y->row ? -1 : x->row > y->row;
}

static void name_rows(const pith_pairs *full, const pith_pairs *summary, row_name *names) {
  for (size_t row = 0; row < full->n + summary->n; row++) {
    uint64_t hash = XXH3_64bits(key_of(full, summary, row), full->d * sizeof(float));
    names[row] = (row_name){XXH3_64bits_withSeed(value_of(full, summary, row), full->dv * sizeof(float), hash), row};
  }
  qsort(names, full->n + summary->n, sizeof *names, compare_names);
}

static bool rows_equal(const pith_pairs *full, const pith_pairs *summary, size_t a, size_t b) {
  return memcmp(key_of(full, summary, a), key_of(full, summary, b), full->d * sizeof(float)) == 0 &&
         memcmp(value_of(full, summary, a), value_of(full, summary, b), full->dv * sizeof(float)) == 0;
}

/* Copies the distinct rows and adds up weights, relative to exp(shift). */
static void merge_rows(const pith_pairs *full, const pith_pairs *summary, const row_name *names,
                       const double *log_weight, double shift, pith_frame *frame) {
  size_t last = 0; /* row that the newest distinct row was copied from */
  for (size_t i = 0; i < full->n + summary->n; i++) {
    size_t row = names[i].row;
    if (frame->rows == 0 || !rows_equal(full, summary, row, last)) {
      size_t at = frame->rows++;
      for (size_t j = 0; j < frame->d; j++) frame->keys[at * frame->d + j] = key_of(full, summary, row)[j];
      for (size_t j = 0; j < frame->dv; j++) frame->values[at * frame->dv + j] = value_of(full, summary, row)[j];
      last = row;
    }
    *((row < full->n ? frame->full : frame->summary) + frame->rows - 1) += exp(log_weight[row] - shift);
  }
}

/* Normalises the weights; false when they leave the range of double. */
static bool weigh(pith_frame *frame) {
  double full = 0, summary = 0;
  for (size_t i = 0; i < frame->rows; i++) {
    full += frame->full[i];
    summary += frame->summary[i];
  }
  if (!(full > 0) || !(summary > 0) || !isfinite(full) || !isfinite(summary)) return false;
  double ratio = summary / full;
  double unit = ratio >= 0.5 && ratio <= 2 ? full : summary;
  for (size_t i = 0; i < frame->rows; i++) {
    frame->full[i] /= full;
    frame->summary[i] /= unit;
    frame->difference[i] = frame->summary[i] - frame->full[i];
  }
  return true;
}

/* Moves rows (n, width) to their weighted mean. The first row serves as a provisional origin, so that
 * equal rows end up at exactly zero. Returns the norm of the mean that is left. */
static double centre(double *rows, const double *weight, size_t n, size_t width, double *mean) {
  for (size_t j = 0; j < width; j++) mean[j] = 0;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < width; j++) mean[j] += weight[i] * (rows[i * width + j] - rows[j]);
  for (size_t j = 0; j < width; j++) mean[j] += rows[j];
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < width; j++) rows[i * width + j] -= mean[j];
  for (size_t j = 0; j < width; j++) mean[j] = 0;
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < width; j++) mean[j] += weight[i] * rows[i * width + j];
  return pith_norm(mean, width);
}

static void measure(pith_frame *frame) {
  for (size_t i = 0; i < frame->rows; i++) {
    frame->reach[i] = pith_norm(frame->keys + i * frame->d, frame->d);
    frame->size[i] = pith_norm(frame->values + i * frame->dv, frame->dv);
    if (frame->full[i] > 0) frame->full_radius = fmax(frame->full_radius, frame->size[i]);
    if (frame->summary[i] > 0) frame->summary_radius = fmax(frame->summary_radius, frame->size[i]);
  }
}

/* log-weights of all rows after the tilt; returns the largest of the full set. */
static double tilt_weights(const pith_pairs *full, const pith_pairs *summary, const double *tilt, double *log_weight,
                           double *error) {
  double largest = -INFINITY, magnitude = 0;
  for (size_t row = 0; row < full->n + summary->n; row++) {
    log_weight[row] = log_weight_of(full, summary, row);
    const float *key = key_of(full, summary, row);
    double sum = fabs(log_weight[row]);
    for (size_t j = 0; tilt && j < full->d; j++) {
      log_weight[row] += tilt[j] * key[j];
      sum += fabs(tilt[j] * key[j]);
    }
    if (row < full->n) largest = fmax(largest, log_weight[row]);
    if (isfinite(sum)) magnitude = fmax(magnitude, sum);
  }
  *error = DBL_EPSILON * ((double)(full->d + full->n + summary->n) + 4 * ((double)full->d + 1) * magnitude);
  return largest;
}

static pith_status check(pith_context *context, const pith_pairs *full, const pith_pairs *summary) {
  if (full->n == 0 || summary->n == 0)
    return pith_fail(context, PITH_E_SHAPE, "a certificate needs rows on both sides; there are %zu and %zu", full->n,
                     summary->n);
  if (full->d != summary->d || full->dv != summary->dv)
    return pith_fail(context, PITH_E_SHAPE, "the summary has rows of %zu and %zu numbers, the input of %zu and %zu",
                     summary->d, summary->dv, full->d, full->dv);
  return PITH_OK;
}

pith_status pith_frame_create(pith_context *context, const pith_pairs *full, const pith_pairs *summary,
                              const double *tilt, pith_frame **out) {
  PITH_TRY(check(context, full, summary));
  size_t rows = full->n + summary->n, d = full->d, dv = full->dv;
  pith_frame *frame = pith_allocate_zero(context, 1, sizeof *frame);
  row_name *names = pith_allocate(context, rows, sizeof *names);
  double *log_weight = pith_allocate(context, rows, sizeof *log_weight);
  double *mean = pith_allocate(context, pith_max_size(d, dv), sizeof *mean);
  pith_status status = PITH_E_MEMORY;
  if (!frame || !names || !log_weight || !mean) goto done;
  frame->d = d;
  frame->dv = dv;
  frame->keys = pith_allocate(context, rows * d, sizeof(double));
  frame->values = pith_allocate(context, rows * dv, sizeof(double));
  frame->full = pith_allocate_zero(context, rows, sizeof(double));
  frame->summary = pith_allocate_zero(context, rows, sizeof(double));
  frame->difference = pith_allocate_zero(context, rows, sizeof(double));
  frame->reach = pith_allocate(context, rows, sizeof(double));
  frame->size = pith_allocate(context, rows, sizeof(double));
  if (!frame->keys || !frame->values || !frame->full || !frame->summary || !frame->difference || !frame->reach ||
      !frame->size)
    goto done;

  name_rows(full, summary, names);
  double shift = tilt_weights(full, summary, tilt, log_weight, &frame->weight_error);
  merge_rows(full, summary, names, log_weight, shift, frame);
  frame->finite = weigh(frame);
  if (frame->finite) {
    frame->drift = centre(frame->keys, frame->full, frame->rows, d, mean);
    (void)centre(frame->values, frame->full, frame->rows, dv, mean);
    measure(frame);
  }
  *out = frame;
  frame = NULL;
  status = PITH_OK;
done:
  pith_frame_free(context, frame);
  pith_release(context, names);
  pith_release(context, log_weight);
  pith_release(context, mean);
  return status;
}

void pith_frame_free(pith_context *context, pith_frame *frame) {
  if (!frame) return;
  pith_release(context, frame->keys);
  pith_release(context, frame->values);
  pith_release(context, frame->full);
  pith_release(context, frame->summary);
  pith_release(context, frame->difference);
  pith_release(context, frame->reach);
  pith_release(context, frame->size);
  pith_release(context, frame);
}
