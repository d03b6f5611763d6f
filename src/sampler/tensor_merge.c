/* tensor_merge.c - tensor samplers of parts of a stream, put together: all they keep are sums over updates. */
#include <math.h>
#include <string.h>

#include "sampler/tensor.h"

size_t pith_tensor_spans(const pith_tensor *sampler, tensor_span spans[TENSOR_SPANS]) {
  spans[0] = (tensor_span){sampler->x, sampler->options.dim * sampler->options.dim, TENSOR_LARGEST};
  return 1 + sampler->engine->spans(sampler, spans + 1);
}

static pith_status differ(pith_context *context, const char *what, size_t a, size_t b) {
  return pith_fail(context, PITH_E_ARGUMENT, "tensor samplers of different %s cannot be merged: %zu and %zu", what, a,
                   b);
}

static pith_status check_alike(pith_context *context, const pith_tensor *a, const pith_tensor *b) {
  const pith_tensor_options *first = &a->options, *second = &b->options;
  if (first->method != second->method)
    return pith_fail(context, PITH_E_ARGUMENT, "tensor samplers of different methods cannot be merged: %s and %s",
                     a->engine->name, b->engine->name);
#define ALIKE(field) \
  if (first->field != second->field) return differ(context, #field, (size_t)first->field, (size_t)second->field)
  ALIKE(seed);
  ALIKE(rows1);
  ALIKE(rows2);
  ALIKE(dim);
  ALIKE(buckets);
  if (first->method != PITH_TENSOR_EXACT) ALIKE(draws);
#undef ALIKE
  return PITH_OK;
}

/* What a sketch over pairs holds fixed is the same in every part; only A1 adds up. */
static pith_status merge_fixed(pith_context *context, pith_tensor *sampler, const pith_tensor *other,
                               const tensor_span *mine, const tensor_span *theirs, size_t count) {
  bool same = sampler->begun == other->begun;
  for (size_t s = 0; s < count && same; s++)
    same = memcmp(mine[s].values, theirs[s].values, mine[s].count * sizeof *mine[s].values) == 0;
  if (!same)
    return pith_fail(context, PITH_E_ARGUMENT,
                     "sketches over pairs with different A2 or X cannot be merged: every part of the stream must begin "
                     "with all of A2 and X, and go on with its part of A1");
  return pith_l2_merge(context, sampler->engine->sketch(sampler), sampler->engine->sketch(other));
}

static pith_status merge_sums(pith_context *context, pith_tensor *sampler, const tensor_span *mine,
                              const tensor_span *theirs, size_t count) {
  for (size_t s = 0; s < count; s++)
    for (size_t i = 0; i < mine[s].count; i++)
      if (!(fabs(mine[s].values[i] + theirs[s].values[i]) <= mine[s].largest))
        return pith_fail(context, PITH_E_VALUE, "a sum of the two samplers is %g; it may reach %g",
                         mine[s].values[i] + theirs[s].values[i], mine[s].largest);
  for (size_t s = 0; s < count; s++)
    for (size_t i = 0; i < mine[s].count; i++) mine[s].values[i] += theirs[s].values[i];
  if (sampler->engine->settle) sampler->engine->settle(sampler);
  return PITH_OK;
}

pith_status pith_tensor_merge(pith_context *context, pith_tensor *sampler, const pith_tensor *other) {
  PITH_TRY(check_alike(context, sampler, other));
  tensor_span mine[TENSOR_SPANS], theirs[TENSOR_SPANS];
  size_t count = pith_tensor_spans(sampler, mine);
  (void)pith_tensor_spans(other, theirs);
  PITH_TRY(sampler->engine->fixed && (sampler->begun || other->begun)
               ? merge_fixed(context, sampler, other, mine, theirs, count)
               : merge_sums(context, sampler, mine, theirs, count));
  sampler->begun = sampler->begun || other->begun;
  sampler->spent = pith_max_size(sampler->spent, other->spent);
  sampler->failures = pith_max_size(sampler->failures, other->failures);
  return PITH_OK;
}
