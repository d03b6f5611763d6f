/* model.h - what a model is made of, for the files of the runner. */
#ifndef PITH_LM_MODEL_H
#define PITH_LM_MODEL_H

#include "lm/lm.h"
#include "lm/weights.h"

/* One layer. Vectors are f32; NULL: the model has none. */
typedef struct lm_layer {
  const float *attention_norm, *feed_forward_norm; /* (width) */
  const float *query_norm, *key_norm;              /* (head size): each head is normalised before it is turned */
  const float *query_bias, *key_bias, *value_bias;
  lm_matrix query, key, value, output; /* attention */
  lm_matrix gate, up, down;            /* feed-forward */
} lm_layer;

struct lm_model {
  pith_memory *memory;
  pith_gguf *gguf;
  lm_model_info info;
  float epsilon; /* added to mean squares before their root is divided by */
  lm_matrix embedding, unembedding;
  const float *output_norm;
  double *frequency; /* (head size / 2): how far each pair turns from one position to the next */
  lm_layer *layer;
};

#endif
