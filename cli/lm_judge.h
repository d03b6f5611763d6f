/* lm_judge.h - what `pith lm judge` runs and what it finds. */
#ifndef PITH_CLI_LM_JUDGE_H
#define PITH_CLI_LM_JUDGE_H

#include "lm_score.h"
#include "plot.h"

enum { MOST_METHODS = 64, MOST_RATIOS = 16 };

/* ---- What is asked for (lm_judge_request.c) ---- */

typedef struct lm_ratio {
  double value;
  char label[16]; /* as typed */
} lm_ratio;

typedef struct lm_request {
  lm_method method[MOST_METHODS];
  size_t methods;
  lm_ratio ratio[MOST_RATIOS];
  size_t ratios;
} lm_request;

/* Reads "all" or "nystrom,heavy:even,exact:q4": ENGINE[:BUDGET][:STORE], where what is left out stands for all that
 * suits; and "1/4,1/16". EXIT_USAGE after having said what is wrong. */
int lm_request_methods(const cli_command *command, const char *text, bool stream, lm_request *request);
int lm_request_ratios(const cli_command *command, const char *text, lm_request *request);

/* A figure that someone published for a method. */
typedef struct lm_mark {
  char method[64];
  double ratio, kl;
} lm_mark;

typedef struct lm_marks {
  lm_mark *list;
  size_t count;
} lm_marks;

/* {"rows": [{"method", "bytes_ratio", "kl_mean"}, ...]}. Yields an exit code. */
int lm_marks_read(cli_session *session, const char *path, lm_marks *out);

/* ---- What is found ---- */

/* One method at one ratio on one piece of text. */
typedef struct judged_piece {
  lm_figures figures;
  double predicted_kl, attention_error; /* relative, mean over heads */
  double compress_seconds;              /* stream: all folds */
  double max_step_seconds;              /* stream: the longest of one head */
  size_t bytes, full_bytes, other_bytes, held_bytes;
} judged_piece;

/* A row of the table. */
typedef struct judged_row {
  lm_method method;
  char label[80]; /* engine:budget:store:ratio */
  char ratio[16]; /* as typed; "all" */
  judged_piece *piece;
  size_t pieces;      /* of text, finished */
  double *head_error; /* (layers, kv heads), summed over pieces */
  lm_score score;     /* of all pieces */
  lm_recall_score recall;
  char *reason, *recall_reason; /* why there is no result; NULL: there is or will be */
} judged_row;

/* A piece of the text. */
typedef struct judge_text {
  const char *from; /* the words it begins with; NULL: where the text or the piece before ends */
  const uint32_t *tokens;
  double prefill_seconds;
} judge_text;

typedef struct lm_judgement {
  lm_run run;
  lm_request request;
  lm_marks marks;
  size_t context, prefix;
  lm_tokens tokens[MOST_PLACES]; /* of each place */
  judge_text *text;
  size_t texts, texts_done;
  lm_cases cases;
  size_t cases_done;
  judged_row *row;
  size_t rows, heat_map; /* heat_map: the row that is drawn */
  size_t steps_done;     /* rows times texts and cases */
  bool complete;
} lm_judgement;

static inline bool judgement_streams(const lm_judgement *judgement) {
  return judgement->run.arguments->mode == MODE_STREAM;
}

/* Mean over the finished pieces. */
judged_piece judged_mean(const judged_row *row);

/* ---- Judging (lm_judge.c; the streaming half is lm_judge_stream.c) ---- */

/* An exit code, having said why but for an interruption, of which the end of the run speaks. */
int judge_ended(const lm_judgement *judgement, pith_status status);
/* A method that cannot work at this size is a row that says why; the machine's failures end the run. */
int judge_settle(const lm_judgement *judgement, pith_status status, char **reason);
/* Begins a step: says which, and counts it. Not EXIT_DONE: interrupted. */
int judge_step(lm_judgement *judgement, const judged_row *row);
/* What is finished is on disk, whatever happens later. */
int judge_save(const lm_judgement *judgement);

/* Every method at every ratio on a text or a case, the model running on the bounded cache from its first token on. */
int judge_stream_text(lm_judgement *judgement, judge_text *text);
int judge_stream_case(lm_judgement *judgement, const lm_case *one);

/* ---- Reports (lm_judge_report.c) ---- */

void judgement_print(const lm_judgement *judgement, FILE *out);
json_t *judgement_json(const lm_judgement *judgement);
/* Writes judge.json into the folder `path`; judge.txt, kl.svg and heads.svg too where `plot` is not NULL. Yields an
 * exit code. */
int judgement_write(const lm_judgement *judgement, const char *path, cli_plot *plot);

#endif
