/* pith/compress.h - the main job: from keys, values and recorded queries to a summary. */
#ifndef PITH_COMPRESS_H
#define PITH_COMPRESS_H

#include "pith/summary.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How positions turn vectors (rotary embedding). */
typedef enum pith_rope {
  PITH_ROPE_NONE = 0,
  PITH_ROPE_PAIRS = 1, /* coordinates 2i and 2i+1 turn together (GGUF llama models) */
  PITH_ROPE_HALVES = 2 /* coordinates i and d/2+i turn together (Hugging Face) */
} pith_rope;

#define PITH_UNSET SIZE_MAX
#define PITH_CERTIFY_ROWS 8192
#define PITH_OUTLIERS_AUTO (SIZE_MAX - 1)
#define PITH_STORE_AUTO ((pith_dtype)0) /* each head's best for its bytes, by its recorded queries */

/* How a total of bytes (ratio or bytes) is spent over heads. */
typedef enum pith_budget {
  PITH_BUDGET_AUTO = 0,  /* spread for several heads with recorded queries and a total, else even */
  PITH_BUDGET_EVEN = 1,  /* the same for every head */
  PITH_BUDGET_SPREAD = 2 /* where a byte saves most: head weight times mean squared error; even where heads differ by
                            less than these are known */
} pith_budget;

typedef struct pith_compress_options {
  size_t struct_size;
  const char *engine; /* NULL: "nystrom"; pith_engine_name() lists them */

  /* The budget: exactly one of the four. */
  size_t points; /* per head, every kept row counted; PITH_UNSET: not given */
  double ratio;  /* of the f16 bytes of all keys and values; 0: not given */
  size_t bytes;  /* total over all heads; 0: not given */
  double eps;    /* the smallest summary whose certificate is at most eps; 0: not given */

  pith_budget budget;
  const pith_array *head_weights; /* (layers, kv heads): what one unit of squared error in a query head costs; NULL:
                                     all the same */

  pith_dtype store;  /* f32, f16, bf16, q8 or q4; default f16; or PITH_STORE_AUTO */
  size_t sinks;      /* first rows kept exactly; default 4 */
  size_t window;     /* last rows kept exactly; default 16 */
  size_t outliers;   /* rows of outstanding kernel weight kept exactly; default 0; or PITH_OUTLIERS_AUTO */
  double scale;      /* softmax scale; 0: 1/sqrt(d) */
  uint64_t seed;     /* default 1 */
  double confidence; /* of the probe certificate; default 0.9 */
  int fold_weights;  /* write the weights into the keys, for engines that know none */

  pith_query_kind query_model;
  double rho;         /* largest query norm after scaling; 0: the largest recorded, or 2 without queries */
  pith_rope rope;     /* default PITH_ROPE_NONE: queries are taken as they are */
  double rope_base;   /* > 1 */
  size_t query_start; /* position of the first recorded query; PITH_UNSET: n - m */
  size_t horizon;     /* future queries are asked from n .. n+horizon-1; default 1024 */
  size_t samples;     /* recorded queries that the fit looks at per kv head; 0: all (budget spread: 8192 at most). Of
                         more than 2048, and twice the points, nystrom keeps those that matter most */
  size_t probes;      /* recorded queries held out per kv head for its error and certificate; default 192. Sizes and
                         stores are chosen by others, since an error that was chosen for being small promises nothing */
  size_t refine;      /* nystrom with samples: gradient steps on keys, values and weights; default 300 */
  int certify;        /* ball and gaussian certificates take n^2 time: 0 (default) leaves them out above
                         PITH_CERTIFY_ROWS keys unless eps is given; 1 always works them out */
} pith_compress_options;

PITH_API void pith_compress_options_init(pith_compress_options *options);

/* The engines, one list everywhere: name and a line of help; NULL past the end. */
PITH_API const char *pith_engine_name(size_t index);
PITH_API const char *pith_engine_help(size_t index);

/* keys (..., n, d), values (..., n, dv), queries NULL or (..., m, d) recorded at positions
 * query_start + row, shapes as in pith_attention_compute.
 *
 * PITH_NOT_CERTIFIED when eps was asked for and the largest summary tried does not meet it; the
 * summary is then the most accurate one found. The result depends on the input, the options and the
 * instruction set, not on the number of threads.
 * Time: per head about n * (samples * d + max(2048, 2 points) * points) for `nystrom` with recorded queries, n * points
 * * (d + points) with the ball model. */
PITH_API PITH_CHECK pith_status pith_compress(pith_context *context, const pith_array *keys, const pith_array *values,
                                              const pith_array *queries, const pith_compress_options *options,
                                              pith_summary **out);

/* One row of the menu: what a size costs and what it gives. */
typedef struct pith_plan_row {
  size_t points; /* of the largest head */
  size_t bytes;
  double ratio;
  double predicted_kl;          /* NaN without head weights */
  double mean_error, max_error; /* over probes and heads; NaN without probes */
  pith_certificate certificate; /* of the worst head */
} pith_plan_row;

/* Fills rows[0 .. *count-1], largest first (*count in: capacity, out: rows written): what half of the bytes, a
 * quarter, an eighth ... would give, spent as the options say (budget, head_weights, store). The four that say how
 * much are not read. */
PITH_API PITH_CHECK pith_status pith_plan(pith_context *context, const pith_array *keys, const pith_array *values,
                                          const pith_array *queries, const pith_compress_options *options,
                                          pith_plan_row *rows, size_t *count);

/* The largest error of a summary that a search inside the ball of radius rho finds for one head
 * (projected gradient ascent from `starts` random and data-driven starts): a lower bound of the true
 * supremum, to hold against the ball certificate. `query` (d, may be NULL) receives the worst query,
 * before scaling. */
PITH_API PITH_CHECK pith_status pith_worst_query(pith_context *context, const pith_array *keys,
                                                 const pith_array *values, const pith_head_view *head, double scale,
                                                 double rho, size_t starts, uint64_t seed, double *error, float *query);

#ifdef __cplusplus
}
#endif
#endif
