/* attention.h - the inside of a sampler of keys. */
#ifndef PITH_SRC_SAMPLER_ATTENTION_H
#define PITH_SRC_SAMPLER_ATTENTION_H

#include "pith/sampler.h"
#include "sampler/gram.h"
#include "sampler/poly.h"

struct pith_key_sampler {
  pith_memory *memory;
  pith_key_options options; /* as given, scale and features as chosen */
  size_t n, d;
  float *keys; /* (n, d) */
  unsigned char *present;
  double *centre, radius; /* of softmax with a tree: radius only grows */
  pith_poly *poly;        /* NULL, as is the tree: scans only */
  pith_gram *tree;
  double *row, *feature; /* workspace of updates: (d + 1), (features) */
  uint64_t calls;
};

static inline bool is_softmax(const pith_key_sampler *sampler) { return sampler->options.law == PITH_LAW_SOFTMAX; }
/* Of the rows that features are made of: softmax takes a one before the key. */
static inline size_t row_length(const pith_key_sampler *sampler) { return sampler->d + is_softmax(sampler); }
static inline bool is_approximate(const pith_key_sampler *sampler) {
  return sampler->options.law == PITH_LAW_POWER && sampler->options.power > 2;
}

#endif
