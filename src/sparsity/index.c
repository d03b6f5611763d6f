/* index.c - the index of one head: blocks are sealed as rows come in. */
#include "sparsity/index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "linalg/linalg.h"

/* ---- Reading stored rows ---- */

static void read_row(const void *row, pith_dtype dtype, const uint16_t *scales, size_t width, float *out) {
  const pith_kernels *kernels = pith_kernels_active();
  uint16_t halves[256]; /* rows may lie at any address */
  if (dtype == PITH_F32) memcpy(out, row, width * sizeof *out);
  if (dtype == PITH_F16 || dtype == PITH_BF16)
    for (size_t i = 0; i < width; i += 256) {
      size_t count = pith_min_size(256, width - i);
      memcpy(halves, (const char *)row + i * sizeof *halves, count * sizeof *halves);
      (dtype == PITH_F16 ? kernels->f16_to_f32 : kernels->bf16_to_f32)(halves, out + i, count);
    }
  if ((dtype != PITH_Q8 && dtype != PITH_Q4) || !scales) return;
  for (size_t i = 0; i < width; i++) {
    const unsigned char *bytes = row;
    int level =
        dtype == PITH_Q8 ? ((const int8_t *)row)[i] : pith_q4_levels[i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15];
    out[i] = (float)level * pith_f16_to_f32(scales[i / PITH_SCALED]);
  }
}

void pith_sparse_read_key(const pith_rows *rows, size_t row, float *out) {
  read_row((const char *)rows->keys + (ptrdiff_t)row * rows->key_stride, rows->dtype,
           rows->key_scales ? rows->key_scales + row * pith_scales(rows->d) : NULL, rows->d, out);
}

void pith_sparse_read_value(const pith_rows *rows, size_t row, float *out) {
  read_row((const char *)rows->values + (ptrdiff_t)row * rows->value_stride, rows->dtype,
           rows->value_scales ? rows->value_scales + row * pith_scales(rows->dv) : NULL, rows->dv, out);
}

/* ---- Lengths, rounded up ---- */

static float up(double x) { return (float)(x * (1 + 4 * PITH_UNIT)); }

static double norm(const float *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
  return sqrt(sum);
}

static double distance(const float *x, const float *y, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double difference = (double)x[i] - (double)y[i];
    sum += difference * difference;
  }
  return sqrt(sum);
}

static void mean_of(const float *x, size_t rows, size_t width, float *out) {
  for (size_t j = 0; j < width; j++) {
    double sum = 0;
    for (size_t i = 0; i < rows; i++) sum += (double)x[i * width + j];
    out[j] = (float)(sum / (double)rows);
  }
}

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

/* ---- Blocks ---- */

/* Not less than the largest singular value of x (PITH_SPARSE_BLOCK, d), whose rows are no longer than `longest`: the
 * fourth root of |G^2| in the Frobenius norm, G = x x' or x'x. spare: 2 * PITH_SPARSE_BLOCK^2. */
static double largest_singular_value(pith_context *context, double *x, size_t d, double longest, double *spare) {
  if (!(longest > 0) || !isfinite(longest)) return longest;
  const size_t rows = PITH_SPARSE_BLOCK, side = pith_min_size(rows, d);
  double *gram = spare, *square = spare + side * side, sum = 0;
  for (size_t i = 0; i < rows * d; i++) x[i] /= longest;
  if (d < rows)
    pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, d, d, rows, 1, x, d, x, d, 0, gram, side);
  else
    pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, rows, rows, d, 1, x, d, x, d, 0, gram, side);
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, side, side, side, 1, gram, side, gram, side, 0, square, side);
  for (size_t i = 0; i < side * side; i++) sum += square[i] * square[i];
  return longest * sqrt(sqrt(sqrt(sum))) * (1 + 1e-9);
}

/* Codes are of keys about their mean: what a query makes of the mean is known without them. */
static void write_codes(pith_context *context, pith_sparse_head *head, size_t number, float *keys) {
  const size_t d = head->d, code_d = head->code_d;
  const float *mean = head->mean + number * d;
  const bool turns = pith_sparse_turns(head);
  pith_sparse_block *block = &head->block[number];
  for (size_t i = 0; i < PITH_SPARSE_BLOCK * d; i++) keys[i] -= mean[i % d];
  const double rounding = (turns ? log2((double)d) + 3 : 1) * PITH_UNIT * (double)block->radius;
  if (turns) pith_turn(keys, PITH_SPARSE_BLOCK, d);
  double longest = 0, *difference = head->spare;
  uint8_t *codes = head->codes + number * PITH_SPARSE_BLOCK * code_d;
  memset(codes, PITH_CODE_ZERO, PITH_SPARSE_BLOCK * code_d);
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) {
    const float *key = keys + i * d;
    float largest = 0;
    for (size_t j = 0; j < d; j++) largest = fabsf(key[j]) > largest ? fabsf(key[j]) : largest;
    float scale = largest / 127, inverse = scale > 0 && isfinite(1 / scale) ? 1 / scale : 0;
    double error = 0;
    for (size_t j = 0; j < d; j++) {
      float level = rintf(key[j] * inverse);
      level = level < -127 ? -127 : level > 127 ? 127 : level;
      codes[pith_sparse_code_place(code_d, i, j)] = (uint8_t)(level + PITH_CODE_ZERO);
      difference[i * d + j] = (double)key[j] - (double)scale * (double)level;
      error += difference[i * d + j] * difference[i * d + j];
    }
    head->scales[number * PITH_SPARSE_BLOCK + i] = scale;
    longest = fmax(longest, sqrt(error));
  }
  double spread = largest_singular_value(context, difference, d, longest, difference + PITH_SPARSE_BLOCK * d);
  block->residual = up(longest + rounding);
  block->residual_spread = up(spread + sqrt((double)PITH_SPARSE_BLOCK) * rounding);
  head->most_residual = fmaxf(head->most_residual, block->residual_spread);
  head->residual_squares += (double)block->residual_spread * (double)block->residual_spread;

  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
    for (size_t j = 0; j < d; j++) difference[i * d + j] = (double)keys[i * d + j] - longest * difference[i * d + j];
  block->code_spread = up(largest_singular_value(
      context, difference, d, (double)block->radius + (double)block->residual, difference + PITH_SPARSE_BLOCK * d));
  head->most_code = fmaxf(head->most_code, block->code_spread);
  head->code_squares += (double)block->code_spread * (double)block->code_spread;
}

static void add_values(pith_context *context, pith_sparse_head *head, const float *values, const float *mean) {
  const size_t dv = head->dv;
  double *u = head->spare;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
    for (size_t j = 0; j < dv; j++) {
      u[i * dv + j] = (double)values[i * dv + j] - (double)mean[j];
      head->values.trace += u[i * dv + j] * u[i * dv + j];
    }
  pith_gemm_f64(context, PITH_TRANSPOSED, PITH_PLAIN, dv, dv, PITH_SPARSE_BLOCK, 1, u, dv, u, dv, 1, head->values.sum,
                dv);
}

/* Makes block `number` of the rows head->order names. buffer: PITH_SPARSE_BLOCK * max(d, dv). */
static void seal(pith_context *context, pith_sparse_head *head, size_t number, const pith_rows *rows, size_t first,
                 float *buffer) {
  const size_t d = head->d, dv = head->dv;
  const uint32_t *order = head->order + number * PITH_SPARSE_BLOCK;
  pith_sparse_block *block = &head->block[number];
  *block = (pith_sparse_block){.lowest = UINT32_MAX, .most_bias = rows->log_weight ? -INFINITY : 0};

  float *value_mean = head->value_mean + number * dv;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) pith_sparse_read_value(rows, order[i] - first, buffer + i * dv);
  mean_of(buffer, PITH_SPARSE_BLOCK, dv, value_mean);
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
    block->value_radius = fmaxf(block->value_radius, up(distance(buffer + i * dv, value_mean, dv)));
  block->offset = up(distance(value_mean, head->anchor, dv));
  add_values(context, head, buffer, value_mean);

  float *low = head->low + number * d, *high = head->high + number * d, *mean = head->mean + number * d;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) pith_sparse_read_key(rows, order[i] - first, buffer + i * d);
  mean_of(buffer, PITH_SPARSE_BLOCK, d, mean);
  memcpy(low, buffer, d * sizeof *low);
  memcpy(high, buffer, d * sizeof *high);
  double bias = 0;
  for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++) {
    const float *key = buffer + i * d;
    for (size_t j = 0; j < d; j++) {
      low[j] = key[j] < low[j] ? key[j] : low[j];
      high[j] = key[j] > high[j] ? key[j] : high[j];
    }
    block->radius = fmaxf(block->radius, up(distance(key, mean, d)));
    block->key_norm = fmaxf(block->key_norm, up(norm(key, d)));
    block->lowest = order[i] < block->lowest ? order[i] : block->lowest;
    block->highest = order[i] > block->highest ? order[i] : block->highest;
    if (!rows->log_weight) continue;
    float weight = rows->log_weight[order[i] - first];
    head->log_weights[number * PITH_SPARSE_BLOCK + i] = weight;
    bias += (double)weight / PITH_SPARSE_BLOCK;
    block->most_bias = fmaxf(block->most_bias, weight);
  }
  block->bias = (float)bias;
  double corner = 0, halves = 0;
  for (size_t j = 0; j < d; j++) {
    double far = fmax(fabs((double)low[j]), fabs((double)high[j]));
    corner += far * far;
    halves += ((double)high[j] - (double)low[j]) / 2;
  }
  head->box_reach += 0.8 * halves / sqrt((double)d);
  head->ball_reach += (double)block->radius;
  block->corner = up(sqrt(corner));
  write_codes(context, head, number, buffer);
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
    mean_of(head->value_mean, head->blocks, dv, head->anchor);
    for (size_t p = 0; p < head->blocks; p++)
      head->block[p].offset = up(distance(head->value_mean + p * dv, head->anchor, dv));
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
    head->most_key = fmaxf(head->most_key, up(norm(buffer, rows->d)));
    pith_sparse_read_value(rows, row - first, buffer);
    head->most_value = fmaxf(head->most_value, up(norm(buffer, rows->dv)));
  }
  const size_t before = head->blocks;
  for (; head->blocks < blocks; head->blocks++) {
    for (size_t i = 0; i < PITH_SPARSE_BLOCK; i++)
      head->order[head->blocks * PITH_SPARSE_BLOCK + i] = (uint32_t)(head->blocks * PITH_SPARSE_BLOCK + i);
    seal(context, head, head->blocks, rows, first, buffer);
  }
  head->rows = count;
  refresh(context, head, before);
  return PITH_OK;
}

/* ---- Neighbours together ---- */

typedef struct clustering {
  const float *keys; /* (rows, d) */
  size_t d;
  double *direction, *next;
  struct placed {
    float place;
    uint32_t row;
  } * placed;
} clustering;

/* A direction in which the rows spread, by a few rounds of the power method over a sample of them. */
static void find_direction(const clustering *c, const uint32_t *order, size_t count) {
  enum { ROUNDS = 4, SAMPLE = 512 };
  const size_t d = c->d, step = count > SAMPLE ? count / SAMPLE : 1;
  double *mean = c->next + d;
  size_t taken = 0;
  memset(mean, 0, d * sizeof *mean);
  for (size_t i = 0; i < count; i += step, taken++)
    for (size_t j = 0; j < d; j++) mean[j] += (double)c->keys[order[i] * d + j];
  for (size_t j = 0; j < d; j++) mean[j] /= (double)taken;
  const float *first = c->keys + (size_t)order[0] * d;
  for (size_t j = 0; j < d; j++) c->direction[j] = (double)first[j] - mean[j] + 1e-3;
  for (int round = 0; round < ROUNDS; round++) {
    memset(c->next, 0, d * sizeof *c->next);
    for (size_t i = 0; i < count; i += step) {
      const float *key = c->keys + (size_t)order[i] * d;
      double place = 0;
      for (size_t j = 0; j < d; j++) place += ((double)key[j] - mean[j]) * c->direction[j];
      for (size_t j = 0; j < d; j++) c->next[j] += place * ((double)key[j] - mean[j]);
    }
    double size = 0;
    for (size_t j = 0; j < d; j++) size += c->next[j] * c->next[j];
    if (!(size > 0)) return;
    for (size_t j = 0; j < d; j++) c->direction[j] = c->next[j] / sqrt(size);
  }
}

static int by_place(const void *a, const void *b) {
  const struct placed *x = a, *y = b;
  return x->place != y->place ? (x->place > y->place) - (x->place < y->place) : (x->row > y->row) - (x->row < y->row);
}

/* Halves the rows until a part is one block. */
static void halve(const clustering *c, uint32_t *order, size_t count) {
  if (count <= PITH_SPARSE_BLOCK) return;
  find_direction(c, order, count);
  for (size_t i = 0; i < count; i++) {
    const float *key = c->keys + (size_t)order[i] * c->d;
    double place = 0;
    for (size_t j = 0; j < c->d; j++) place += (double)key[j] * c->direction[j];
    c->placed[i] = (struct placed){(float)place, order[i]};
  }
  qsort(c->placed, count, sizeof *c->placed, by_place);
  for (size_t i = 0; i < count; i++) order[i] = c->placed[i].row;
  size_t half = count / PITH_SPARSE_BLOCK / 2 * PITH_SPARSE_BLOCK;
  halve(c, order, half);
  halve(c, order + half, count - half);
}

pith_status pith_sparse_head_cluster(pith_context *context, pith_sparse_head *head, const pith_rows *rows) {
  PITH_TRY(pith_sparse_head_append(context, head, rows, 0));
  const size_t count = head->blocks * PITH_SPARSE_BLOCK, d = head->d, widest = pith_max_size(d, head->dv);
  if (count == 0) return PITH_OK;
  float *keys = pith_allocate(context, count, d * sizeof *keys);
  double *direction = pith_allocate(context, 3 * d, sizeof *direction);
  struct placed *placed = pith_allocate(context, count, sizeof *placed);
  float *buffer = pith_scratch(context, 2, PITH_SPARSE_BLOCK * widest * sizeof *buffer);
  pith_status status = keys && direction && placed && buffer ? PITH_OK : PITH_E_MEMORY;
  if (status == PITH_OK) {
    clustering c = {.keys = keys, .d = d, .direction = direction, .next = direction + d, .placed = placed};
    for (size_t row = 0; row < count; row++) {
      pith_sparse_read_key(rows, row, keys + row * d);
      head->order[row] = (uint32_t)row;
    }
    halve(&c, head->order, count);
    clear_gram(&head->values, head->dv);
    head->anchored = 0;
    head->most_residual = head->most_code = 0;
    head->code_squares = head->residual_squares = head->box_reach = head->ball_reach = 0;
    for (size_t p = 0; p < head->blocks; p++) seal(context, head, p, rows, 0, buffer);
    refresh(context, head, 0);
  }
  pith_release(context, placed);
  pith_release(context, direction);
  pith_release(context, keys);
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
