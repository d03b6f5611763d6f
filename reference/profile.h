/* profile.h - the weights of one query, counted and cut as they are defined. */
#ifndef PITH_REFERENCE_PROFILE_H
#define PITH_REFERENCE_PROFILE_H

#include <stddef.h>

/* weights (n): softmax of the logits. */
void reference_weights(const double *logits, size_t n, double *weights);
/* Fewest of the largest weights that leave at most eps of the mass; at least 1. */
size_t reference_entries_for(const double *weights, size_t n, double eps);
size_t reference_entries_above(const double *weights, size_t n, double eps);
double reference_participation(const double *weights, size_t n);

/* Attention from the k largest weights, made to sum to 1; ties go to the earlier key. All C-ordered, values (n, dv). */
typedef struct reference_cut {
  double tail;                   /* mass of the other weights */
  double *head_mean, *tail_mean; /* (dv): mean values under the weights of either part; tail_mean 0 if all are kept */
} reference_cut;
void reference_top_k(const double *weights, const double *values, size_t n, size_t dv, size_t k, reference_cut *out);

#endif
