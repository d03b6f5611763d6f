/* lm_score.h - how far a model's predictions move when its cache is compressed, and whether facts of a prefix are
 * still found: what perplexity, recall and judge share. */
#ifndef PITH_CLI_LM_SCORE_H
#define PITH_CLI_LM_SCORE_H

#include "lm_stream.h"

/* ---- Text ---- */

/* What the full cache predicts after every token of a text's rest. */
typedef struct lm_reference {
  lm_session *session; /* that reads along */
  const float *kept;   /* or, where it has done so before: (rest, vocabulary); NULL: it reads */
} lm_reference;

typedef struct lm_score {
  double *kl; /* of each prediction, in nats; room for `capacity` */
  size_t rows, capacity, agreed;
  double nll; /* of `targets` tokens, in nats */
  size_t targets, target_bytes;
  double read_seconds;
} lm_score;

typedef struct lm_figures {
  double kl_mean, kl_p99, top1_agreement; /* against the full cache; NaN without predictions */
  double nll, bits_per_byte, tokens_per_second;
} lm_figures;

/* Reads the tokens after a prefix in `after` and adds to the score. Predictions after every one of them count for
 * KL; those of all but the first, for the loss. */
pith_status lm_score_rest(lm_run *run, const lm_reference *full, lm_session *after, const uint32_t *rest, size_t count,
                          lm_score *score);
void lm_score_add(lm_score *score, const lm_score *part);
void lm_score_free(lm_score *score);
lm_figures lm_score_figures(const lm_score *score);
void json_figures(json_t *object, const lm_figures *figures);

/* ---- Recall ---- */

typedef struct lm_case {
  lm_tokens prefix, query, answer;
} lm_case;

typedef struct lm_cases {
  lm_case *list;
  size_t count;
} lm_cases;

typedef struct lm_recall_score {
  size_t cases, exact, answer_tokens;
  double nll; /* of the answer tokens, in nats */
} lm_recall_score;

/* All lines of --cases. Yields an exit code after having said which line is wrong. */
int lm_cases_read(lm_run *run, lm_cases *out);
void lm_cases_free(lm_run *run, lm_cases *cases);
/* Tokens read after the prefix. */
size_t lm_case_fed(const lm_case *one);
/* A bounded cache that has read the prefix; the ratio is of the bytes of all tokens of the case. Closing what a failure
 * left is fine. */
pith_status lm_case_stream(lm_run *run, const lm_case *one, const lm_method *method, lm_stream *out);
/* Asks a session that has read the prefix, compressed or not. */
pith_status lm_case_ask(lm_run *run, const lm_case *one, lm_session *after, lm_recall_score *score);

#endif
