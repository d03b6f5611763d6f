/* lm.c - see lm.h. */
#include "lm.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- The transformer ---- */

static double *numbers(size_t count) {
  double *out = calloc(count ? count : 1, sizeof *out);
  if (!out) abort();
  return out;
}

static void normalise(const double *x, const float *weight, size_t n, double epsilon, double *out) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
  for (size_t i = 0; i < n; i++) out[i] = x[i] / sqrt(sum / (double)n + epsilon) * (double)weight[i];
}

static void multiply(const float *matrix, const float *bias, const double *x, size_t rows, size_t columns,
                     double *out) {
  for (size_t r = 0; r < rows; r++) {
    double sum = bias ? (double)bias[r] : 0;
    for (size_t c = 0; c < columns; c++) sum += (double)matrix[r * columns + c] * x[c];
    out[r] = sum;
  }
}

static void turn(const reference_lm *m, double *x, size_t position) {
  size_t half = m->head_size / 2;
  for (size_t i = 0; i < half; i++) {
    double angle = (double)position * pow(m->base, -2.0 * (double)i / (double)m->head_size);
    if (m->rope_factors) angle /= (double)m->rope_factors[i];
    size_t a = m->halves ? i : 2 * i, b = m->halves ? i + half : 2 * i + 1;
    double xa = x[a], xb = x[b];
    x[a] = xa * cos(angle) - xb * sin(angle);
    x[b] = xb * cos(angle) + xa * sin(angle);
  }
}

/* One kind of projection of one token, by head: (heads, n, head_size), row t written. */
static void project(const reference_lm *m, const float *matrix, const float *bias, const float *norm, int turned,
                    const double *h, size_t heads, size_t n, size_t t, double *out) {
  double *all = numbers(heads * m->head_size);
  multiply(matrix, bias, h, heads * m->head_size, m->width, all);
  for (size_t head = 0; head < heads; head++) {
    double *x = all + head * m->head_size;
    if (norm) normalise(x, norm, m->head_size, m->epsilon, x);
    if (turned) turn(m, x, t);
    memcpy(out + (head * n + t) * m->head_size, x, m->head_size * sizeof *x);
  }
  free(all);
}

static void attend(const reference_lm *m, const unsigned char *seen, const double *q, const double *k, const double *v,
                   size_t n, size_t head, size_t t, double *out) {
  size_t d = m->head_size, kv = head / (m->query_heads / m->kv_heads);
  double *weight = numbers(t + 1), top = -INFINITY, sum = 0;
  for (size_t s = 0; s <= t; s++) {
    for (size_t i = 0; i < d; i++) weight[s] += q[(head * n + t) * d + i] * k[(kv * n + s) * d + i];
    weight[s] /= sqrt((double)d);
    if (seen && !seen[t * n + s]) weight[s] = -INFINITY;
    if (weight[s] > top) top = weight[s];
  }
  for (size_t s = 0; s <= t; s++) sum += weight[s] = exp(weight[s] - top);
  for (size_t i = 0; i < d; i++) {
    out[i] = 0;
    for (size_t s = 0; s <= t; s++) out[i] += weight[s] / sum * v[(kv * n + s) * d + i];
  }
  free(weight);
}

static void run_layer(const reference_lm *m, const reference_lm_layer *l, size_t n, double *x, double *q, double *k,
                      double *v, double *residual) {
  size_t width = m->width, all = m->query_heads * m->head_size;
  double *h = numbers(width), *o = numbers(all), *added = numbers(width);
  double *gate = numbers(m->feed_forward), *up = numbers(m->feed_forward);
  for (size_t t = 0; t < n; t++) {
    normalise(x + t * width, l->attention_norm, width, m->epsilon, h);
    project(m, l->query, l->query_bias, l->query_norm, 1, h, m->query_heads, n, t, q);
    project(m, l->key, l->key_bias, l->key_norm, 1, h, m->kv_heads, n, t, k);
    project(m, l->value, l->value_bias, NULL, 0, h, m->kv_heads, n, t, v);
  }
  for (size_t t = 0; t < n; t++) {
    for (size_t head = 0; head < m->query_heads; head++)
      attend(m, l->seen, q, k, v, n, head, t, o + head * m->head_size);
    multiply(l->output, NULL, o, width, all, added);
    for (size_t i = 0; i < width; i++) x[t * width + i] += added[i];
    if (residual) residual[t] = 0;
    for (size_t i = 0; residual && i < width; i++) residual[t] += x[t * width + i] * x[t * width + i];
    normalise(x + t * width, l->feed_forward_norm, width, m->epsilon, h);
    multiply(l->gate, NULL, h, m->feed_forward, width, gate);
    multiply(l->up, NULL, h, m->feed_forward, width, up);
    for (size_t i = 0; i < m->feed_forward; i++) gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    multiply(l->down, NULL, gate, width, m->feed_forward, added);
    for (size_t i = 0; i < width; i++) x[t * width + i] += added[i];
  }
  free(h), free(o), free(added), free(gate), free(up);
}

static void copy_out(double *to, const double *from, size_t layer, size_t count) {
  if (to) memcpy(to + layer * count, from, count * sizeof *to);
}

void reference_lm_run(const reference_lm *m, const unsigned *tokens, size_t n, const reference_lm_result *out) {
  size_t width = m->width, queries = m->query_heads * n * m->head_size, keys = m->kv_heads * n * m->head_size;
  double *x = numbers(n * width), *q = numbers(queries), *k = numbers(keys), *v = numbers(keys), *h = numbers(width);
  for (size_t t = 0; t < n; t++)
    for (size_t i = 0; i < width; i++) x[t * width + i] = (double)m->embedding[tokens[t] * width + i];
  for (size_t layer = 0; layer < m->layers; layer++) {
    run_layer(m, &m->layer[layer], n, x, q, k, v, out->residual ? out->residual + layer * n : NULL);
    copy_out(out->queries, q, layer, queries);
    copy_out(out->keys, k, layer, keys);
    copy_out(out->values, v, layer, keys);
  }
  for (size_t t = 0; out->logits && t < n; t++) {
    normalise(x + t * width, m->output_norm, width, m->epsilon, h);
    multiply(m->unembedding, NULL, h, m->vocabulary, width, out->logits + t * m->vocabulary);
  }
  free(x), free(q), free(k), free(v), free(h);
}

/* ---- Storage types ---- */

/* f16 from its definition: sign, five bits of exponent, ten of fraction. */
static double half(const unsigned char *at) {
  unsigned bits = at[0] | (unsigned)at[1] << 8, exponent = bits >> 10 & 31, fraction = bits & 1023;
  double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexp(fraction, -24);
  return sign * ldexp(1024.0 + fraction, (int)exponent - 25);
}

static double single(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return (double)value;
}

/* Bits first .. first+count-1 of a string of bytes, the lowest bit of each byte first. */
static unsigned bits_at(const unsigned char *bytes, size_t first, unsigned count) {
  unsigned value = 0;
  for (unsigned i = 0; i < count; i++) value |= (unsigned)(bytes[(first + i) / 8] >> (first + i) % 8 & 1) << i;
  return value;
}

/* The six-bit scale (which = 0) or offset (1) of group g of eight. Groups 0-3 lie whole in the low bits of bytes
 * 0-3 and 4-7. Of groups 4-7 the low four bits are the nibbles of bytes 8-11, and the upper two are the top bits
 * of bytes 0-3 and 4-7. */
static double scale_k(const unsigned char *packed, size_t g, int which) {
  const unsigned char *own = packed + (which ? 4 : 0);
  if (g < 4) return bits_at(own + g, 0, 6);
  return bits_at(packed + 4 + g, which ? 4 : 0, 4) + 16 * bits_at(own + g - 4, 6, 2);
}

double reference_lm_weight(const char *type, const unsigned char *row, size_t index) {
  if (strcmp(type, "F32") == 0) return single(bits_at(row, 32 * index, 32));
  if (strcmp(type, "F16") == 0) return half(row + 2 * index);
  if (strcmp(type, "BF16") == 0) return single(bits_at(row, 16 * index, 16) << 16);

  size_t block = index / 32, j = index % 32; /* small blocks */
  unsigned nibble = j < 16 ? 0 : 4;
  if (strcmp(type, "Q8_0") == 0) {
    const unsigned char *b = row + block * 34;
    return half(b) * (double)(int8_t)b[2 + j];
  }
  if (strcmp(type, "Q4_0") == 0) {
    const unsigned char *b = row + block * 18;
    return half(b) * ((double)bits_at(b + 2 + j % 16, nibble, 4) - 8);
  }
  if (strcmp(type, "Q4_1") == 0) {
    const unsigned char *b = row + block * 20;
    return half(b) * bits_at(b + 4 + j % 16, nibble, 4) + half(b + 2);
  }

  block = index / 256, j = index % 256; /* large ones */
  size_t group = j / 32, lane = j % 32;
  if (strcmp(type, "Q4_K") == 0) {
    const unsigned char *b = row + block * 144;
    double q = bits_at(b + 16 + group / 2 * 32 + lane, group % 2 * 4, 4);
    return half(b) * scale_k(b + 4, group, 0) * q - half(b + 2) * scale_k(b + 4, group, 1);
  }
  if (strcmp(type, "Q5_K") == 0) {
    const unsigned char *b = row + block * 176;
    double q = bits_at(b + 48 + group / 2 * 32 + lane, group % 2 * 4, 4) + 16 * bits_at(b + 16 + lane, group, 1);
    return half(b) * scale_k(b + 4, group, 0) * q - half(b + 2) * scale_k(b + 4, group, 1);
  }
  if (strcmp(type, "Q6_K") == 0) {
    const unsigned char *b = row + block * 210;
    size_t side = j / 128, quarter = j % 128 / 32; /* each half of 128 has 64 low bytes and 32 high bytes */
    unsigned low = bits_at(b + side * 64 + quarter % 2 * 32 + lane, quarter / 2 * 4, 4);
    unsigned high = bits_at(b + 128 + side * 32 + lane, quarter * 2, 2);
    return half(b + 208) * (double)(int8_t)b[192 + j / 16] * ((double)(low + 16 * high) - 32);
  }
  return NAN;
}
