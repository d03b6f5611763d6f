/* tensor.h - the inside of the tensor sampler: one engine per method behind one table. */
#ifndef PITH_SRC_SAMPLER_TENSOR_H
#define PITH_SRC_SAMPLER_TENSOR_H

#include "base/base.h"
#include "pith/sampler.h"
#include "sampler/l2.h"

typedef struct tensor_engine tensor_engine;

struct pith_tensor {
  pith_memory *memory;
  pith_tensor_options options; /* as given, method and buckets as chosen */
  const tensor_engine *engine;
  double *x; /* (dim, dim) */
  void *state;
  bool begun; /* there was an update of A1 */
  size_t spent, failures;
};

/* Numbers of the state that are sums over updates: what is saved, and added when samplers are merged. */
typedef struct tensor_span {
  double *values;
  size_t count;
  double largest; /* of a sound one, in absolute value */
} tensor_span;
enum { TENSOR_SPANS = 4 };
#define TENSOR_LARGEST PITH_GRAM_LARGEST /* of entries of A1, A2 and X */
#define TENSOR_LARGEST_CELL 1e200        /* of sums of them, scaled */

/* What the calls of pith/sampler.h say, with arguments checked and x kept by the caller. */
struct tensor_engine {
  const char *name;
  double (*words)(const pith_tensor_options *options); /* of the state, roughly: to judge what fits */
  pith_status (*create)(pith_context *context, pith_tensor *sampler);
  void (*release)(pith_tensor *sampler); /* state may be NULL */
  /* Updates of A1 and A2, checked, in their order; *done: how many stand. */
  pith_status (*update)(pith_context *context, pith_tensor *sampler, const pith_update *updates, size_t count,
                        size_t *done);
  bool fixed; /* A2 and x may not change once A1 has begun */
  /* Draws number spent .. spent + count - 1, for those that come out; Y may be 0. */
  pith_status (*draw)(pith_context *context, pith_tensor *sampler, size_t count, pith_pair *pairs, size_t *drawn);
  pith_status (*norm)(pith_context *context, const pith_tensor *sampler, double *norm);
  size_t (*kept)(const pith_tensor *sampler); /* words */
  size_t (*left)(const pith_tensor *sampler); /* draws that it can still serve */

  size_t (*spans)(const pith_tensor *sampler, tensor_span *spans); /* of the state; yields how many */
  void (*settle)(pith_tensor *sampler);                            /* spans have changed; NULL: nothing follows */
  pith_l2 *(*sketch)(const pith_tensor *sampler);                  /* the rest of the state; NULL: there is none */
  /* Words of spans and sketch, before there is a sampler; negative, with a message, where there cannot be one. */
  double (*saved)(pith_context *context, const pith_tensor_options *options);
};

extern const tensor_engine tensor_exact, tensor_pairs, tensor_rows;

/* Options with what was left open filled in, and their engine. PITH_E_ARGUMENT, PITH_E_BUDGET. */
pith_status pith_tensor_resolve(pith_context *context, const pith_tensor_options *options, pith_tensor_options *out);
/* Bytes of X, spans and sketch of resolved options; negative, with a message, where there cannot be such a sampler. */
double pith_tensor_saved_bytes(pith_context *context, const pith_tensor_options *resolved);
/* X first, then those of the engine. Yields how many, at most TENSOR_SPANS. */
size_t pith_tensor_spans(const pith_tensor *sampler, tensor_span spans[TENSOR_SPANS]);

/* Memory of the sampler, zeroed; NULL with the message set. */
void *tensor_zeros(pith_context *context, pith_tensor *sampler, size_t count, size_t size);
/* out = X G X^T, all (d, d). */
void tensor_sandwich(pith_context *context, const double *x, const double *g, size_t d, double *work, double *out);
/* out = X^T a. */
void tensor_turn(const double *x, const double *a, size_t d, double *out);

/* <a, b>, summed in order. */
static inline double tensor_dot(const double *a, const double *b, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < d; i++) sum += a[i] * b[i];
  return sum;
}

#endif
