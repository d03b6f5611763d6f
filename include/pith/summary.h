/* pith/summary.h - a small memory that answers attention queries, and what it promises.
 *
 * A summary stands for the keys and values of a whole model (layers x kv heads) or of one head.
 * Each head holds its own number of points: a key, a value, and a weight whose logarithm is added to
 * the logit. Points marked exact are true rows of the input (sinks, recent window, outliers). */
#ifndef PITH_SUMMARY_H
#define PITH_SUMMARY_H

#include "pith/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pith_summary pith_summary;

/* What is known of the queries that will be asked (theory: docs/theory.md). */
typedef enum pith_query_kind {
  PITH_QUERIES_AUTO = 0,     /* samples when queries are given, else ball */
  PITH_QUERIES_BALL = 1,     /* any query up to the norm rho */
  PITH_QUERIES_GAUSSIAN = 2, /* a mean and a covariance, taken from the recorded queries */
  PITH_QUERIES_SAMPLES = 3   /* the recorded queries, turned to the positions they will be asked from */
} pith_query_kind;

/* What a certificate says about the L2 error of one answer. */
typedef enum pith_certificate_kind {
  PITH_CERTIFICATE_NONE = 0,
  PITH_CERTIFICATE_BALL = 1,     /* every query of norm up to rho errs at most `bound` (2605.05602) */
  PITH_CERTIFICATE_TAIL = 2,     /* this answer errs at most `bound` (certified sparse attention) */
  PITH_CERTIFICATE_GAUSSIAN = 3, /* root mean square error under the Gaussian model is at most `bound` */
  PITH_CERTIFICATE_PROBE = 4     /* a query exchangeable with the held-out ones errs at most `bound` with
                                    probability `confidence` */
} pith_certificate_kind;

typedef struct pith_certificate {
  pith_certificate_kind kind;
  double bound;      /* L2 error; infinity when nothing can be said */
  double confidence; /* 1 for deterministic statements */
  double trivial;    /* diameter of the values: what any answer inside their hull achieves */
  double rho;        /* ball: largest query norm after scaling */
  int certified;     /* bound < trivial, and <= eps where an eps was asked for */
} pith_certificate;

PITH_API const char *pith_certificate_kind_name(pith_certificate_kind kind); /* "ball", ... */

/* One head, seen from outside. Pointers stay valid as long as the summary does. */
typedef struct pith_head_view {
  size_t points, d, dv;
  pith_dtype store;           /* of keys and values: f32, f16, bf16, q8 or q4 */
  const void *keys;           /* (points, d); q4: (points, d / 2, rounded up) bytes */
  const void *values;         /* (points, dv); likewise */
  const uint16_t *key_scales; /* q8, q4: f16, one for every 32 numbers of a row; else NULL */
  const uint16_t *value_scales;
  const float *log_weight;  /* (points) */
  const int64_t *index;     /* (points); -1: no single token */
  const uint8_t *exact;     /* (points); 1: a true row, weight 1 */
  size_t source_rows;       /* rows of the input that this head stands for */
  size_t bytes;             /* keys, values, scales and log-weights: what attention reads */
  double probe_error;       /* mean L2 error over the held-out probes; NaN without probes */
  double fold_error;        /* by how much folding raised probe_error; NaN when not folded */
  pith_certificate binding; /* the one that fits the query model */
  pith_certificate ball, gaussian, probe;
} pith_head_view;

typedef struct pith_summary_info {
  size_t layers, heads; /* kv heads */
  size_t points;        /* largest over heads */
  size_t bytes, full_bytes, other_bytes;
  double ratio; /* bytes / bytes of all keys and values in f16 */
  double scale; /* softmax scale */
  uint64_t seed;
  double predicted_kl; /* 4 * sum over query heads of head weight * mean squared error to be expected of later queries,
                          near keys seen exactly; NaN without head weights or probes */
  int folded;          /* log-weights are folded into the keys; those stored are zero */
  pith_query_kind query_model;
  char engine[32];
  pith_certificate certificate; /* of the worst head */
} pith_summary_info;

/* The points of a head in f32, whatever their store: keys (points, d), values (points, dv). A row of q8 or q4
 * is made of small integers, each times the scale of its 32 numbers, and turned where its width is a power of
 * two; docs/format.md has it in full. This undoes all of that. */
PITH_API void pith_head_to_f32(const pith_head_view *view, float *keys, float *values);

PITH_API void pith_summary_free(pith_summary *summary); /* NULL is fine */
PITH_API pith_summary_info pith_summary_describe(const pith_summary *summary);
PITH_API PITH_CHECK pith_status pith_summary_head(pith_context *context, const pith_summary *summary, size_t layer,
                                                  size_t head, pith_head_view *out);

/* Answers: queries (..., m, d) as in pith_attention_compute, `out` C-ordered f32 (layers, query heads,
 * m, dv). Queries that lie after all keys are meant: there is no causal mask inside a summary. Does
 * not allocate once the context has seen the same shapes. scale 0: the summary's own. */
PITH_API PITH_CHECK pith_status pith_summary_attend(pith_context *context, const pith_summary *summary,
                                                    const pith_array *queries, double scale, float *out);

/* The same with later tokens beside the summary: later_keys (..., t, d) and later_values (..., t, dv) come after
 * all rows that it stands for and are seen exactly and causally: query row r of m stands at the later row
 * t - m + r. This is how a compressed prompt is used while a model goes on reading or writing. */
PITH_API PITH_CHECK pith_status pith_summary_attend_beside(pith_context *context, const pith_summary *summary,
                                                           const pith_array *queries, const pith_array *later_keys,
                                                           const pith_array *later_values, double scale, float *out);

/* A new summary that answers for the tokens of all parts together, in their order (the indices of
 * each part are moved behind those of the parts before it). Parts must agree in layers, heads, d, dv
 * and scale. Nothing is thrown away: points add up. The result is not certified: a part bounds the
 * error of its own answer, not of the weight with which it enters the common one. */
PITH_API PITH_CHECK pith_status pith_summary_merge(pith_context *context, const pith_summary *const *parts,
                                                   size_t count, pith_summary **out);

#ifdef __cplusplus
}
#endif
#endif
