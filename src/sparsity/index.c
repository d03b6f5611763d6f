/* index.c - the index of one head: grown as rows come in, or laid anew. */
#include "sparsity/index.h"

#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "sparsity/lengths.h"

/* ---- Room ---- */

typedef struct field { /* an array with so many bytes for each block */
  void **pointer;
  size_t bytes;
} field;

enum { FIELDS = 9 };

static void list_fields(pith_sparse_head *head, field out[FIELDS]) {
  const size_t d = head->d * sizeof(float), dv = head->dv * sizeof(float), block = PITH_SPARSE_BLOCK;
  const field fields[FIELDS] = {{(void **)&head->order, block * sizeof *head->order},
                                {(void **)&head->codes, block * head->code_d},
                                {(void **)&head->scales, block * sizeof(float)},
                                {(void **)&head->log_weights, head->weighted ? block * sizeof(float) : 0},
                                {(void **)&head->low, d},
                                {(void **)&head->high, d},
                                {(void **)&head->mean, d},
                                {(void **)&head->value_mean, dv},
                                {(void **)&head->block, sizeof *head->block}};
  memcpy(out, fields, sizeof fields);
}

static pith_status make_room(pith_context *context, pith_sparse_head *head, size_t blocks) {
  if (blocks <= head->capacity) return PITH_OK;
  size_t capacity = pith_max_size(blocks, head->capacity + head->capacity / 2);
  field fields[FIELDS];
  void *fresh[FIELDS] = {NULL};
  list_fields(head, fields);
  bool good = true;
  for (size_t i = 0; i < FIELDS && good; i++)
    if (fields[i].bytes > 0) good = (fresh[i] = pith_memory_allocate(head->memory, capacity, fields[i].bytes)) != NULL;
  for (size_t i = 0; i < FIELDS; i++) {
    if (good && fields[i].bytes > 0) {
      if (head->blocks > 0) memcpy(fresh[i], *fields[i].pointer, head->blocks * fields[i].bytes);
      pith_memory_release(head->memory, *fields[i].pointer);
      *fields[i].pointer = fresh[i];
    } else if (!good) {
      pith_memory_release(head->memory, fresh[i]);
    }
  }
  if (!good) return pith_fail(context, PITH_E_MEMORY, "no memory for an index of %zu blocks", capacity);
  head->capacity = capacity;
  return PITH_OK;
}

/* ---- What holds of all blocks ---- */

/* The largest eigenvalue of G is at most |G^(2^s)|^(1/2^s) in the Frobenius norm, and that at most dv^(1/2^(s+1)) too
 * large. Powers are scaled down as they are taken. spare: (2, dv, dv). */
static double largest_eigenvalue(pith_context *context, const double *gram, size_t dv, double *spare) {
  enum { SQUARINGS = 6 };
  double *power = spare, *square = spare + dv * dv, log_scale = 0, frobenius = 0;
  memcpy(power, gram, dv * dv * sizeof *power);
  for (int s = 0;; s++) {
    frobenius = 0;
    for (size_t i = 0; i < dv * dv; i++) frobenius += power[i] * power[i];
    frobenius = sqrt(frobenius);
    if (!(frobenius > 0) || !isfinite(frobenius)) return frobenius;
    if (s == SQUARINGS) break;
    for (size_t i = 0; i < dv * dv; i++) power[i] /= frobenius;
    log_scale = 2 * (log_scale + log(frobenius));
    pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, dv, dv, dv, 1, power, dv, power, dv, 0, square, dv);
    memcpy(power, square, dv * dv * sizeof *power);
  }
  return exp((log_scale + log(frobenius)) / (1 << SQUARINGS)) * (1 + 1e-9);
}

/* An eigenvalue grows by no more than the trace does, so that it need not be computed for every block. */
static void refresh_gram(pith_context *context, pith_sparse_gram *gram, size_t dv, double *spare) {
  if (gram->trace > gram->before * 1.0625) {
    gram->known = largest_eigenvalue(context, gram->sum, dv, spare);
    gram->before = gram->trace;
  }
  gram->spread = gram->known + (gram->trace - gram->before) * (1 + 1e-9);
}

static void clear_gram(pith_sparse_gram *gram, size_t dv) {
  *gram = (pith_sparse_gram){.sum = gram->sum};
  memset(gram->sum, 0, dv * dv * sizeof *gram->sum);
}

/* After new blocks from block `first` on. */
static void refresh(pith_context *context, pith_sparse_head *head, size_t first) {
  const size_t dv = head->dv;
  if (head->blocks == 0) return;
  if (head->blocks > head->anchored + head->anchored / 8) {
    pith_mean_of(head->value_mean, head->blocks, dv, head->anchor);
    for (size_t p = 0; p < head->blocks; p++)
      head->block[p].offset = pith_up(pith_distance(head->value_mean + p * dv, head->anchor, dv));
    head->anchored = head->blocks;
    clear_gram(&head->means, dv);
    first = 0;
  }
  double *x = head->spare;
  for (size_t p = first; p < head->blocks; p++) {
    for (size_t j = 0; j < dv; j++) {
      x[j] = (double)head->value_mean[p * dv + j] - (double)head->anchor[j];
      head->means.trace += x[j] * x[j];
    }
    for (size_t i = 0; i < dv; i++)
      for (size_t j = 0; j < dv; j++) head->means.sum[i * dv + j] += x[i] * x[j];
  }
  refresh_gram(context, &head->values, dv, head->spare);
  refresh_gram(context, &head->means, dv, head->spare);
}

static pith_status begin(pith_context *context, pith_sparse_head *head, const pith_rows *rows) {
  head->d = rows->d;
  head->dv = rows->dv;
  head->code_d = pith_sparse_code_width(rows->d);
  head->dtype = rows->dtype;
  head->weighted = rows->log_weight != NULL;
  const size_t block = PITH_SPARSE_BLOCK, square = head->dv * head->dv;
  size_t spare = pith_max_size(pith_max_size(2 * square, block * head->dv), block * (head->d + 2 * block));
  size_t numbers = 2 * square + spare;
  double *gram = pith_memory_allocate(head->memory, numbers, sizeof *gram);
  float *anchor = pith_memory_allocate(head->memory, head->dv, sizeof *anchor);
  if (!gram || !anchor) {
    pith_memory_release(head->memory, gram);
    pith_memory_release(head->memory, anchor);
    return pith_fail(context, PITH_E_MEMORY, "no memory for the index of a head");
  }
  memset(anchor, 0, head->dv * sizeof *anchor);
  head->values.sum = gram;
  head->means.sum = gram + square;
  head->spare = gram + 2 * square;
  head->spare_numbers = spare;
  clear_gram(&head->values, head->dv);
  clear_gram(&head->means, head->dv);
  head->anchor = anchor;
  return PITH_OK;
}

pith_status pith_sparse_head_append(pith_context *context, pith_sparse_head *head, const pith_rows *rows,
                                    size_t first) {
  const size_t count = first + rows->count;
  if (count >= UINT32_MAX)
    return pith_fail(context, PITH_E_SHAPE, "keys: %zu rows; an index holds fewer than 2^32", count);
  if (!head->values.sum) PITH_TRY(begin(context, head, rows));
  size_t widest = pith_max_size(rows->d, rows->dv), blocks = count / PITH_SPARSE_BLOCK;
  float *buffer = pith_scratch(context, 2, PITH_SPARSE_BLOCK * widest * sizeof *buffer);
  if (!buffer) return PITH_E_MEMORY;
  PITH_TRY(make_room(context, head, blocks));
  for (size_t row = head->rows; row < count; row++) {
    pith_sparse_read_key(rows, row - first, buffer);
    head->most_key = fmaxf(head->most_key, pith_up(pith_norm(buffer, rows->d)));
    pith_sparse_read_value(rows, row - first, buffer);
    head->most_value = fmaxf(head->most_value, pith_up(pith_norm(buffer, rows->dv)));
  }
  const size_t before = head->blocks;
  for (; head->blocks < blocks; head->blocks++) {
    for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
      head->order[head->blocks * PITH_SPARSE_BLOCK + i] = (uint32_t)(head->blocks * PITH_SPARSE_BLOCK + i);
    pith_sparse_seal(context, head, head->blocks, rows, first, buffer);
  }
  head->rows = count;
  refresh(context, head, before);
  return PITH_OK;
}

pith_status pith_sparse_head_cluster(pith_context *context, pith_sparse_head *head, const pith_rows *rows) {
  PITH_TRY(pith_sparse_head_append(context, head, rows, 0));
  const size_t count = head->blocks * PITH_SPARSE_BLOCK, widest = pith_max_size(head->d, head->dv);
  if (count == 0) return PITH_OK;
  float *buffer = pith_scratch(context, 2, PITH_SPARSE_BLOCK * widest * sizeof *buffer);
  pith_status status = buffer ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) status = pith_sparse_neighbours(context, rows, count, head->order);
  if (status == PITH_OK) {
    clear_gram(&head->values, head->dv);
    head->anchored = 0;
    head->most_residual = head->most_code = 0;
    head->code_squares = head->residual_squares = head->box_reach = head->ball_reach = 0;
    for (size_t p = 0; p < head->blocks; p++) pith_sparse_seal(context, head, p, rows, 0, buffer);
    refresh(context, head, 0);
  }
  return status;
}

size_t pith_sparse_head_bytes(const pith_sparse_head *head) {
  field fields[FIELDS];
  pith_sparse_head copy = *head;
  list_fields(&copy, fields);
  size_t bytes = 0;
  for (size_t i = 0; i < FIELDS; i++) bytes += head->blocks * fields[i].bytes;
  if (!head->values.sum) return bytes;
  return bytes + (2 * head->dv * head->dv + head->spare_numbers) * sizeof(double) + head->dv * sizeof *head->anchor;
}

void pith_sparse_head_free(pith_sparse_head *head) {
  field fields[FIELDS];
  list_fields(head, fields);
  for (size_t i = 0; i < FIELDS; i++) pith_memory_release(head->memory, *fields[i].pointer);
  pith_memory_release(head->memory, head->values.sum);
  pith_memory_release(head->memory, head->anchor);
  *head = (pith_sparse_head){.memory = head->memory};
}
