/* lm_judge_stream.c - the streaming half of pith lm judge: the model runs on a bounded cache from the first token on.
 *
 * A text is read once by the full cache, whose predictions after the first tokens are kept; every method at every
 * ratio then reads the same text on a cache of its own. */
#include <math.h>
#include <stdlib.h>

#include "lm_judge.h"

/* What the full cache predicts after every token of the rest: (rest, vocabulary), to be freed. */
static pith_status read_full(lm_judgement *j, judge_text *text, float **logits) {
  pith_context *context = j->run.session->context;
  const size_t rest = j->context - j->prefix;
  lm_session *full = NULL;
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = j->context;
  pith_status status = lm_session_create(context, j->run.model, &options, &full);
  const double started = seconds_now();
  if (status >= 0) status = lm_session_read(context, full, text->tokens, j->prefix, j->prefix, NULL);
  text->prefill_seconds = seconds_now() - started;
  *logits = allocate_zero(rest * j->run.info.vocabulary, sizeof **logits);
  if (status >= 0) status = lm_session_read(context, full, text->tokens + j->prefix, rest, 0, *logits);
  lm_session_free(full);
  return status;
}

/* Reads the text on a cache, and scores its rest. */
static pith_status score_stream(lm_judgement *j, const uint32_t *tokens, const float *logits, const lm_method *method,
                                lm_stream *stream, lm_score *score) {
  pith_context *context = j->run.session->context;
  const lm_reference full = {.kept = logits};
  const double bytes = method->ratio * (double)lm_full_bytes(&j->run, j->context);
  pith_status status = lm_stream_open(&j->run, method, bytes, stream);
  if (status >= 0) status = lm_session_read(context, stream->session, tokens, j->prefix, j->prefix, NULL);
  if (status < 0) return status;
  return lm_score_rest(&j->run, &full, stream->session, tokens + j->prefix, j->context - j->prefix, score);
}

static void take_figures(const lm_judgement *j, const lm_stream *stream, const lm_score *score, judged_piece *out) {
  const pith_cache_info info = pith_cache_describe(stream->cache);
  *out = (judged_piece){.figures = lm_score_figures(score),
                        .predicted_kl = NAN,
                        .attention_error = NAN,
                        .compress_seconds = info.fold_seconds,
                        .max_step_seconds = info.max_step_seconds,
                        .bytes = info.bytes,
                        .full_bytes = lm_full_bytes(&j->run, j->context),
                        .other_bytes = info.held_bytes - info.bytes};
}

static int judge_row(lm_judgement *j, const uint32_t *tokens, const float *logits, judged_row *row) {
  lm_stream stream = {NULL, NULL};
  lm_score score = {.kl = NULL};
  judged_piece *out = &row->piece[row->pieces];
  pith_status status = score_stream(j, tokens, logits, &row->method, &stream, &score);
  if (status >= 0) {
    take_figures(j, &stream, &score, out);
    lm_score_add(&row->score, &score);
    row->pieces++;
  }
  int code = judge_settle(j, status, &row->reason);
  lm_score_free(&score);
  out->held_bytes = lm_stream_close(&j->run, &stream);
  return code ? code : judge_save(j);
}

int judge_stream_text(lm_judgement *j, judge_text *text) {
  float *logits = NULL;
  int code = judge_ended(j, read_full(j, text, &logits));
  if (!code) j->texts_done++;
  for (size_t i = 0; i < j->rows && !code; i++) {
    judged_row *row = &j->row[i];
    code = judge_step(j, row);
    if (!code && !row->reason) code = judge_row(j, text->tokens, logits, row);
  }
  free(logits);
  return code;
}

static int judge_case_row(lm_judgement *j, const lm_case *one, judged_row *row) {
  lm_stream stream;
  pith_status status = lm_case_stream(&j->run, one, &row->method, &stream);
  if (status >= 0) status = lm_case_ask(&j->run, one, stream.session, &row->recall);
  int code = judge_settle(j, status, &row->recall_reason);
  lm_stream_close(&j->run, &stream);
  return code;
}

int judge_stream_case(lm_judgement *j, const lm_case *one) {
  int code = EXIT_DONE;
  for (size_t i = 0; i < j->rows && !code; i++) {
    code = judge_step(j, &j->row[i]);
    if (!code) code = judge_case_row(j, one, &j->row[i]);
  }
  if (!code) j->cases_done++;
  return code ? code : judge_save(j);
}
