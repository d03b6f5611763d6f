/* pith/sparsity.h - how few keys carry the attention of a query.
 *
 * Of one query over n keys: logits z_j, weights a_j = exp(z_j) / sum exp(z), tail mass of k: the sum of all but the k
 * largest weights, which is the total variation between the weights and their k largest made to sum to 1. */
#ifndef PITH_SPARSITY_H
#define PITH_SPARSITY_H

#include "pith/attention.h"
#include "pith/summary.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Gaussian logits, as arXiv 2404.02690 assumes them. z_j independent, N(0, sigma^2), sigma^2 < 2 ln n. ---- */

/* Entries that hold all but `eps` of the mass: n Phi^c(sigma + Phi^-1(eps)), for n so large that the mass does not
 * hang on single entries (sigma well below sqrt(2 ln n)). NaN unless 0 < eps < 1 and sigma >= 0. */
PITH_API double pith_gaussian_entries(double n, double sigma, double eps);
/* Entries whose weight is at least `eps`: n Phi^c((ln(eps n) + sigma^2 / 2) / sigma). */
PITH_API double pith_gaussian_above(double n, double sigma, double eps);
/* The bound of the paper on the same (v1: eps <= exp(O(R) sqrt(log(n (n - k) / delta))) / (n - k) when n - k entries
 * exceed eps), with R = sigma and the constant that the paper leaves open taken as 1: the most entries, at most n, that
 * it allows above eps with probability 1 - delta. The true number is at most 1 / eps whatever the logits are. */
PITH_API double pith_gaussian_above_bound(double n, double sigma, double eps, double delta);

/* ---- Profiles ---- */

typedef struct pith_profile_options {
  size_t struct_size;
  double scale;   /* softmax scale; 0: 1/sqrt(d) */
  int causal;     /* query row r of m stands at position n - m + r and sees keys up to there */
  double eps;     /* the mass that may be missed, and the weight that counts as large; in (0, 1), default 0.05 */
  size_t queries; /* of each head that are looked at, evenly spread; 0: all; default 256 */
  size_t sinks;   /* first keys whose mass is called that of the sink; default 4 */
} pith_profile_options;

PITH_API void pith_profile_options_init(pith_profile_options *options);

enum { PITH_PROFILE_TAILS = 32 };

/* One query head; means over its queries that see at least one key. All zero where none does. */
typedef struct pith_head_profile {
  size_t layer, head, kv_head;
  size_t queries;                  /* looked at */
  double keys;                     /* that a query sees */
  double mean, sigma;              /* of a query's logits; sigma: root of the mean variance */
  double above_eps;                /* entries whose weight is at least eps */
  double k50, k90, k99, k999;      /* fewest entries with that share of the mass */
  double k_eps;                    /* with 1 - eps of it */
  double k_predicted;              /* pith_gaussian_entries(keys, sigma, eps) */
  double above_predicted;          /* pith_gaussian_above(keys, sigma, eps) */
  double above_bound;              /* pith_gaussian_above_bound(keys, sigma, eps, 0.05) */
  double participation;            /* 1 / sum a_j^2 */
  double sink_mass;                /* of the first `sinks` keys */
  double exponent;                 /* C of k_eps = alpha n^C, over growing prefixes; NaN where there are too few */
  double exponent_interval[2];     /* of 95 %, by query; NaN with fewer than two queries */
  double alpha;                    /* of that fit */
  double error, relative_error;    /* of the answer from the k_eps largest: mean L2 norm, and over that of the exact
                                      ones; NaN without values */
  double tail[PITH_PROFILE_TAILS]; /* tail mass of 2^i entries */
} pith_head_profile;

/* The profile of every query head, C-ordered (layers, query heads). Shapes as in pith_attention_compute; values
 * may be NULL.
 *
 * Prefixes: with `causal`, where some query sees eight times the keys of another, each query's own keys are its
 * prefix; else each query is asked of the first n, n/2, n/4 ... keys (64 at least) that it sees. The exponent is the
 * least-squares slope of ln k_eps against ln n, its interval from residuals grouped by query: it speaks of other
 * queries to these keys. Arithmetic is f64 from f32 logits. Not a number and infinities are refused. Deterministic at
 * any thread count; concurrent calls need their own contexts. Costs a sort of each query's weights. */
PITH_API PITH_CHECK pith_status pith_attention_profile(pith_context *context, const pith_array *queries,
                                                       const pith_array *keys, const pith_array *values,
                                                       const pith_profile_options *options, pith_head_profile *out);

/* ---- Attention that reads only what it must ----
 *
 * An index beside a cache tells, for a query, which keys can matter. Those are read and answered exactly; each block of
 * 64 keys adds the rest of its weight at the mean of its values. Every answer comes with a bound of the L2 norm of its
 * error, which holds for the numbers as computed (docs/sparsity.md has the proof). The bound is deterministic: it holds
 * for this query and these keys, whatever they are; with a confidence it is probabilistic where that reads less. Errors
 * are those against exact arithmetic on the stored rows and the given queries; f64 arrays are rounded to f32 first. */

typedef struct pith_sparse_index pith_sparse_index;

/* Takes in the rows that are new. keys (..., n, d), values (..., n, dv): all rows so far, as in pith_attention_compute;
 * those that the index has seen are not looked at and must be unchanged. *index NULL: a new index. On failure the index
 * holds what it held, or for some heads already the new rows: call again with the same rows. Costs about d + dv
 * operations a number; keeps d + (3 d + dv) / 16 + 10 bytes a key or so (pith_sparse_index_bytes). Not a number and
 * infinities are refused. */
PITH_API PITH_CHECK pith_status pith_sparse_index_append(pith_context *context, pith_sparse_index **index,
                                                         const pith_array *keys, const pith_array *values);
/* Puts keys that lie near each other into the same blocks; what is appended later stays in order. The rows must be
 * those the index has seen. Worth it where near keys do not come after each other. */
PITH_API PITH_CHECK pith_status pith_sparse_index_cluster(pith_context *context, pith_sparse_index *index,
                                                          const pith_array *keys, const pith_array *values);
/* An index of the points of a summary, as they are stored: q8 and q4 too. The summary must outlive its use. */
PITH_API PITH_CHECK pith_status pith_sparse_index_summary(pith_context *context, const pith_summary *summary,
                                                          pith_sparse_index **out);
PITH_API size_t pith_sparse_index_rows(const pith_sparse_index *index);
PITH_API size_t pith_sparse_index_bytes(const pith_sparse_index *index);
PITH_API void pith_sparse_index_free(pith_sparse_index *index); /* NULL is fine */

typedef struct pith_sparse_options {
  size_t struct_size;
  pith_attention_options attention; /* scale and masks */
  double eps;                       /* of every answer's error (L2 norm); > 0 */
  int each;   /* every query chooses its own keys; else the query heads of a kv head share (up to 8), which is faster */
  int always; /* do not turn to exact attention where that would be faster */
  double confidence; /* 0, the default: bounds are certain. In (0, 1): where that reads fewer keys, unread ones are
                        sampled, and each bound holds with at least that probability over the draws (empirical
                        Bernstein); `each` is then set */
  uint64_t seed;     /* of the draws */
} pith_sparse_options;

PITH_API void pith_sparse_options_init(pith_sparse_options *options);

/* What one query was answered from. */
typedef struct pith_sparse_account {
  double bound; /* of the L2 norm of the answer's error, rounding included; infinity: none is known */
  double tail;  /* share of the mass that its unread keys have at most */
  size_t read;  /* keys whose values were read */
  size_t seen;  /* keys that the query sees */
  size_t drawn; /* draws among them that the bound is owed to; 0: it is certain */
  int exact;    /* answered by exact attention: nothing else paid, or nothing else reached eps */
} pith_sparse_account;

typedef struct pith_sparse_report {
  double fraction_read;     /* mean over queries of read / seen */
  double bound, mean_bound; /* the largest, the mean */
  double trivial;           /* not less than the distance of any two values: bounds above it say nothing */
  size_t queries, exact;    /* how many; how many of them were answered by exact attention */
  size_t drawn;             /* how many have bounds that hold with the confidence asked for only */
} pith_sparse_report;

/* Answers all queries; shapes, types and `out` as in pith_attention_compute. index NULL: one is made for this call;
 * else it must have seen exactly the rows of keys and values. A query that sees no key is answered with zeros, with
 * bound 0. PITH_NOT_CERTIFIED when rounding alone keeps some bound above eps; the answers are then as exact as f32
 * allows. accounts (layers, query heads, m) and report may be NULL. The index may be shared by concurrent calls, each
 * with its own context. Does not depend on the number of threads. */
PITH_API PITH_CHECK pith_status pith_sparse_attend(pith_context *context, const pith_sparse_index *index,
                                                   const pith_array *queries, const pith_array *keys,
                                                   const pith_array *values, const pith_sparse_options *options,
                                                   float *out, pith_sparse_account *accounts,
                                                   pith_sparse_report *report);

/* The same over the points of a summary, weights included: the way to ask a cache that is kept in q8 or q4 (a summary
 * by the engine `exact`). A bound is of the distance from the answer that all its points give, pith_summary_attend's in
 * exact arithmetic; how far the summary is from the rows it stands for is another matter (pith_head_view). All points
 * are seen: masks are refused. scale 0: the summary's own. index NULL: one is made for this call; else one of
 * pith_sparse_index_summary. The rest is as above. */
PITH_API PITH_CHECK pith_status pith_sparse_attend_summary(pith_context *context, const pith_sparse_index *index,
                                                           const pith_summary *summary, const pith_array *queries,
                                                           const pith_sparse_options *options, float *out,
                                                           pith_sparse_account *accounts, pith_sparse_report *report);

#ifdef __cplusplus
}
#endif
#endif
