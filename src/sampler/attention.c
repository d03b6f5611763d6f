/* attention.c - samplers of keys: keys, their features and the Gram tree over them. */
#include "sampler/attention.h"

#include <math.h>
#include <string.h>

enum { MOST_POWER = 8, DEFAULT_FEATURES = 1024 };

void pith_key_options_init(pith_key_options *options) {
  *options = (pith_key_options){
      .struct_size = sizeof *options, .power = 1, .features = DEFAULT_FEATURES, .memory = (size_t)1 << 30, .seed = 1};
}

/* ---- Creation ---- */

static pith_status check_options(pith_context *context, const pith_array *keys, const pith_key_options *options) {
  if (options->struct_size != sizeof *options)
    return pith_fail(context, PITH_E_ARGUMENT, "options.struct_size is %zu; call pith_key_options_init first",
                     options->struct_size);
  if (keys->ndim != 2 || keys->shape[0] == 0 || keys->shape[1] == 0)
    return pith_fail(context, PITH_E_SHAPE, "keys must be (n, d) with n and d at least 1");
  size_t most = options->law == PITH_LAW_SOFTMAX ? 2 : MOST_POWER;
  if (options->power < 1 || options->power > most)
    return pith_fail(context, PITH_E_ARGUMENT, "power is %zu; for this law it must be 1 to %zu", options->power, most);
  if (!isfinite(options->scale))
    return pith_fail(context, PITH_E_ARGUMENT, "scale is %g; it must be finite", options->scale);
  if (options->features < 16 || options->features > 4096 || options->features % 2)
    return pith_fail(context, PITH_E_ARGUMENT, "features is %zu; it must be even, 16 to 4096", options->features);
  return PITH_OK;
}

static double words_of_tree(double n, double features) {
  return n * features + (floor((n - 1) / fmax(features, 16)) + 1) * features * (features + 1);
}

/* Features of one key into sampler->feature, and how far it is from the centre. */
static double map_key(pith_key_sampler *sampler, const float *key) {
  double far = 0, *row = sampler->row;
  if (is_softmax(sampler)) *row++ = 1;
  for (size_t j = 0; j < sampler->d; j++) {
    row[j] = (double)key[j] - (sampler->centre ? sampler->centre[j] : 0);
    far += row[j] * row[j];
  }
  pith_poly_map(sampler->poly, sampler->row, sampler->feature);
  return sqrt(far);
}

static void find_centre(pith_key_sampler *sampler) {
  for (size_t i = 0; i < sampler->n; i++)
    for (size_t j = 0; j < sampler->d; j++)
      sampler->centre[j] += (double)sampler->keys[i * sampler->d + j] / (double)sampler->n;
}

static pith_status no_memory(pith_context *context) {
  return pith_fail(context, PITH_E_MEMORY, "no memory for a sampler of keys");
}

static pith_status make_tree(pith_context *context, pith_key_sampler *sampler) {
  const pith_key_options *options = &sampler->options;
  size_t length = is_approximate(sampler) ? options->features : 0;
  PITH_TRY(pith_poly_create(context, row_length(sampler), options->power, length, options->seed, &sampler->poly));
  size_t features = pith_poly_length(sampler->poly);
  PITH_TRY(pith_gram_create(context, sampler->n, features, &sampler->tree));
  sampler->row = pith_memory_allocate(sampler->memory, sampler->d + 1, sizeof *sampler->row);
  sampler->feature = pith_memory_allocate(sampler->memory, features, sizeof *sampler->feature);
  double *all = pith_allocate(context, sampler->n * features, sizeof *all);
  if (!sampler->row || !sampler->feature || !all) {
    pith_release(context, all);
    return no_memory(context);
  }
  for (size_t i = 0; i < sampler->n; i++) {
    sampler->radius = fmax(sampler->radius, map_key(sampler, sampler->keys + i * sampler->d));
    memcpy(all + i * features, sampler->feature, features * sizeof *all);
  }
  bool small = pith_gram_set(sampler->tree, all);
  pith_release(context, all);
  return small ? PITH_OK
               : pith_fail(context, PITH_E_VALUE, "keys to the power %zu grow beyond 1e40; scale them down",
                           options->power);
}

static pith_status fill(pith_context *context, pith_key_sampler *sampler, const pith_array *keys) {
  size_t n = sampler->n, d = sampler->d;
  sampler->keys = pith_memory_allocate(sampler->memory, n * d, sizeof *sampler->keys);
  sampler->present = pith_memory_allocate(sampler->memory, n, 1);
  sampler->centre = pith_memory_allocate(sampler->memory, d, sizeof *sampler->centre);
  if (!sampler->keys || !sampler->present || !sampler->centre) return no_memory(context);
  memset(sampler->present, 1, n);
  memset(sampler->centre, 0, d * sizeof *sampler->centre);
  PITH_TRY(pith_array_to_f32(context, keys, "keys", 1, sampler->keys));
  if (is_softmax(sampler)) find_centre(sampler);
  double length = (double)row_length(sampler);
  double features = sampler->options.power == 1 ? length
                    : is_approximate(sampler)   ? (double)sampler->options.features
                                                : length * (length + 1) / 2;
  double bytes = 8 * (words_of_tree((double)n, features) + (double)n * features) + 4 * (double)n * (double)d;
  bool fits = bytes <= (double)sampler->options.memory;
  if (sampler->options.method == PITH_KEYS_TREE && !fits)
    return pith_fail(
        context, PITH_E_BUDGET,
        "a tree over %zu keys with %.0f features takes %.0f bytes, and %zu are allowed; allow more, or scan", n,
        features, bytes, sampler->options.memory);
  /* A tree of one leaf would be scanned anyway, and an approximate one is made only where it was asked for. */
  bool helps = fits && (double)n > features && !is_approximate(sampler);
  if (sampler->options.method == PITH_KEYS_TREE || (sampler->options.method == PITH_KEYS_AUTO && helps))
    return make_tree(context, sampler);
  return PITH_OK;
}

pith_status pith_key_sampler_create(pith_context *context, const pith_array *keys, const pith_key_options *options,
                                    pith_key_sampler **out) {
  PITH_TRY(check_options(context, keys, options));
  pith_memory *memory = pith_memory_share(context);
  pith_key_sampler *sampler = pith_memory_allocate(memory, 1, sizeof *sampler);
  if (!sampler) {
    pith_memory_unshare(memory);
    return no_memory(context);
  }
  *sampler = (pith_key_sampler){.memory = memory, .options = *options, .n = keys->shape[0], .d = keys->shape[1]};
  if (sampler->options.scale == 0) sampler->options.scale = 1 / sqrt((double)sampler->d);
  pith_status status = fill(context, sampler, keys);
  if (status < 0) {
    pith_key_sampler_free(sampler);
    return status;
  }
  *out = sampler;
  return PITH_OK;
}

void pith_key_sampler_free(pith_key_sampler *sampler) {
  if (!sampler) return;
  pith_memory *memory = sampler->memory;
  pith_gram_free(sampler->tree);
  pith_poly_free(sampler->poly);
  pith_memory_release(memory, sampler->feature);
  pith_memory_release(memory, sampler->row);
  pith_memory_release(memory, sampler->centre);
  pith_memory_release(memory, sampler->present);
  pith_memory_release(memory, sampler->keys);
  pith_memory_release(memory, sampler);
  pith_memory_unshare(memory);
}

pith_status pith_key_sampler_set(pith_context *context, pith_key_sampler *sampler, size_t row, const float *key) {
  if (row >= sampler->n)
    return pith_fail(context, PITH_E_ARGUMENT, "there is no key %zu: keys go from 0 to %zu", row, sampler->n - 1);
  for (size_t j = 0; key && j < sampler->d; j++)
    if (!isfinite(key[j]))
      return pith_fail(context, PITH_E_VALUE, "key %zu, column %zu is %g; it must be finite", row, j, (double)key[j]);
  if (sampler->tree) {
    double far = 0;
    if (key)
      far = map_key(sampler, key);
    else
      memset(sampler->feature, 0, pith_poly_length(sampler->poly) * sizeof *sampler->feature);
    if (!pith_gram_set_row(sampler->tree, row, sampler->feature))
      return pith_fail(context, PITH_E_VALUE, "key %zu to the power %zu grows beyond 1e40", row,
                       sampler->options.power);
    sampler->radius = fmax(sampler->radius, far);
  }
  sampler->present[row] = key != NULL;
  if (key) memcpy(sampler->keys + row * sampler->d, key, sampler->d * sizeof *key);
  return PITH_OK;
}
