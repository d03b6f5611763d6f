/* lm_recall.c - pith lm recall: are facts of a compressed prefix still found? */
#include <stdlib.h>

#include "lm_score.h"

static int run_case(lm_run *run, const lm_case *one, lm_recall_score *score) {
  lm_prefix prefix;
  lm_method method = lm_chosen(run->arguments);
  lm_compressed compressed;
  pith_status status =
      lm_prefix_read(run, one->prefix.id, one->prefix.count, one->prefix.count + lm_case_fed(one), &prefix);
  if (status >= 0) status = lm_compress(run, &prefix, &method, &compressed);
  if (status >= 0) {
    status = lm_case_ask(run, one, compressed.after, score);
    lm_compressed_free(&compressed);
  }
  lm_prefix_free(&prefix);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

/* Prefix, query and answer are read on the bounded cache. */
static int run_case_streamed(lm_run *run, const lm_case *one, lm_recall_score *score) {
  lm_method method = lm_chosen(run->arguments);
  lm_stream stream;
  pith_status status = lm_case_stream(run, one, &method, &stream);
  if (status >= 0) status = lm_case_ask(run, one, stream.session, score);
  lm_stream_close(run, &stream);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

static void report(const lm_run *run, const lm_recall_score *score) {
  cli_session *session = run->session;
  double nll = score->nll / (double)score->answer_tokens;
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "engine", json_string(lm_engine(run->arguments)));
    json_object_set_new(object, "mode", json_string(run->arguments->mode == MODE_STREAM ? "stream" : "oneshot"));
    json_object_set_new(object, "cases", json_count(score->cases));
    json_object_set_new(object, "exact", json_count(score->exact));
    json_object_set_new(object, "nll_mean", json_number(nll));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
  } else if (!session->common->quiet) {
    fprintf(session->out, "%zu of %zu answers exact, %.4f nats an answer token\n", score->exact, score->cases, nll);
  }
}

int lm_recall(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->cases) return usage_error(session->command, "--cases F.jsonl is missing");
  const bool stream = arguments->mode == MODE_STREAM;
  if (stream && !(arguments->options.ratio > 0))
    return usage_error(session->command, "no size; give --ratio R, the share of the bytes of all tokens");
  if (!lm_is_compressed(arguments))
    return usage_error(session->command, "no size; give --ratio R, or --engine exact for the whole cache");
  lm_run run;
  lm_cases cases;
  lm_recall_score score = {0};
  int code = lm_open(session, &run);
  if (code) return code;
  code = lm_cases_read(&run, &cases);
  for (size_t i = 0; i < cases.count && !code; i++)
    code = (stream ? run_case_streamed : run_case)(&run, &cases.list[i], &score);
  if (!code) report(&run, &score);
  lm_cases_free(&run, &cases);
  lm_close(&run);
  return code;
}
