/* lm_judge.c - pith lm judge: every engine beside the others and beside whole caches, on text and on recall.
 *
 * A text is read once: what the full cache predicts after it, the prefix, and what exact attention answers later
 * queries. Every method at every ratio is then built from that prefix and held against it. */
#include "lm_judge.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "measure.h"

/* ---- Rows ---- */

static void label_row(judged_row *row) {
  bool exact = !strcmp(row->method.engine, "exact");
  const char *budget = exact ? "" : row->method.budget == PITH_BUDGET_SPREAD ? ":spread" : ":even";
  const char *store = row->method.store == PITH_STORE_AUTO ? "auto" : pith_dtype_name((pith_dtype)row->method.store);
  snprintf(row->label, sizeof row->label, "%s%s:%s%s%s", row->method.engine, budget, store, exact ? "" : ":",
           exact ? "" : row->ratio);
}

static void make_rows(lm_judgement *j) {
  size_t heads = j->run.info.layers * j->run.info.kv_heads;
  j->row = allocate_zero(j->request.methods * MOST_RATIOS, sizeof *j->row);
  for (size_t m = 0; m < j->request.methods; m++) {
    bool exact = !strcmp(j->request.method[m].engine, "exact"); /* has one size */
    for (size_t r = 0; r < (exact ? 1 : j->request.ratios); r++) {
      judged_row *row = &j->row[j->rows++];
      row->method = j->request.method[m];
      row->method.ratio = exact ? 0 : j->request.ratio[r].value;
      snprintf(row->ratio, sizeof row->ratio, "%s", exact ? "all" : j->request.ratio[r].label);
      row->piece = allocate_zero(j->texts, sizeof *row->piece);
      row->head_error = allocate_zero(heads, sizeof *row->head_error);
      label_row(row);
    }
  }
}

static const char *row_label(const void *judgement, size_t index) {
  const lm_judgement *j = judgement;
  return index < j->rows ? j->row[index].label : NULL;
}

/* The row whose heads are drawn: the one that was named, else the last of the default engine, else the last. */
static int choose_heat_map(lm_judgement *j) {
  const char *named = j->run.arguments->heat_map;
  for (size_t i = 0; i < j->rows; i++)
    if (named ? !strcmp(named, j->row[i].label) : !strcmp(j->row[i].method.engine, pith_engine_name(0)))
      j->heat_map = i + 1;
  if (!j->heat_map && named) {
    const char *near = nearest_name(named, row_label, j);
    return usage_error(j->run.session->command, "--heat-map: no row '%s'; such as %s", named,
                       near ? near : j->row[j->rows - 1].label);
  }
  j->heat_map = j->heat_map ? j->heat_map - 1 : j->rows - 1;
  return EXIT_DONE;
}

int judge_ended(const lm_judgement *j, pith_status status) {
  if (status >= 0) return EXIT_DONE;
  return status == PITH_E_CANCELLED ? EXIT_INTERRUPTED : session_fail(j->run.session, status);
}

int judge_settle(const lm_judgement *j, pith_status status, char **reason) {
  if (status >= 0 || status <= PITH_E_MEMORY) return judge_ended(j, status);
  if (*reason) return EXIT_DONE; /* the first one is told */
  const char *message = pith_context_message(j->run.session->context);
  *reason = allocate_zero(strlen(message) + 1, 1);
  memcpy(*reason, message, strlen(message));
  return EXIT_DONE;
}

int judge_step(lm_judgement *j, const judged_row *row) {
  cli_progress *progress = &j->run.session->progress;
  progress->label = row->label; /* not progress_label: the steps go on */
  size_t all = j->rows * (j->texts + j->cases.count);
  return progress_report(progress, "judging", j->steps_done++, all) ? EXIT_INTERRUPTED : EXIT_DONE;
}

int judge_save(const lm_judgement *j) {
  const char *folder = j->run.arguments->output;
  return folder ? judgement_write(j, folder, NULL) : EXIT_DONE;
}

/* ---- Text ---- */

/* One text, read. */
typedef struct judge_piece {
  lm_prefix prefix;
  float *logits; /* (rest, vocabulary) of the full cache */
  void *copies[3];
  cli_trial trial;
} judge_piece;

/* A copy of rows begin.. of an array of four dimensions whose rows lie whole in memory. */
static pith_array copy_rows(const pith_array *from, size_t begin, void **owned) {
  pith_array out = *from;
  size_t size = pith_dtype_size(from->dtype), rows = out.shape[2] = from->shape[2] - begin;
  out.stride[2] = (ptrdiff_t)(size * out.shape[3]);
  out.stride[1] = out.stride[2] * (ptrdiff_t)rows;
  out.stride[0] = out.stride[1] * (ptrdiff_t)out.shape[1];
  char *bytes = allocate_zero(out.shape[0] * out.shape[1] * rows * out.shape[3], size);
  out.data = *owned = bytes;
  for (size_t i = 0; i < out.shape[0] * out.shape[1]; i++) {
    size_t layer = i / out.shape[1], head = i % out.shape[1];
    memcpy(bytes + i * rows * out.shape[3] * size,
           (const char *)from->data + (ptrdiff_t)layer * from->stride[0] + (ptrdiff_t)head * from->stride[1] +
               (ptrdiff_t)begin * from->stride[2],
           rows * out.shape[3] * size);
  }
  return out;
}

/* Reads the rest with the full cache and goes back to the prefix, from which caches are then made. */
static pith_status read_rest(lm_judgement *j, const uint32_t *tokens, judge_piece *p) {
  pith_context *context = j->run.session->context;
  lm_session *session = p->prefix.session;
  size_t rest = j->context - j->prefix;
  pith_array keys, values, queries;
  p->logits = allocate_zero(rest * j->run.info.vocabulary, sizeof *p->logits);
  pith_status status = lm_session_read(context, session, tokens + j->prefix, rest, 0, p->logits);
  if (status >= 0) status = lm_session_arrays(context, session, &keys, &values, &queries);
  if (status < 0) return status;
  p->trial.all_keys = copy_rows(&keys, 0, &p->copies[0]);
  p->trial.all_values = copy_rows(&values, 0, &p->copies[1]);
  p->trial.queries = copy_rows(&queries, j->prefix, &p->copies[2]);
  p->trial.keys = pith_array_rows(&p->trial.all_keys, 0, j->prefix);
  p->trial.values = pith_array_rows(&p->trial.all_values, 0, j->prefix);
  p->trial.later = rest;
  return lm_session_truncate(context, session, j->prefix);
}

static int open_piece(lm_judgement *j, const uint32_t *tokens, judge_piece *p) {
  *p = (judge_piece){.logits = NULL};
  pith_status status = lm_prefix_read(&j->run, tokens, j->prefix, j->context, &p->prefix);
  if (status >= 0) status = read_rest(j, tokens, p);
  return status < 0 ? judge_ended(j, status) : trial_open(j->run.session, &p->trial);
}

static void close_piece(judge_piece *p) {
  trial_close(&p->trial);
  for (size_t i = 0; i < sizeof p->copies / sizeof *p->copies; i++) free(p->copies[i]);
  free(p->logits);
  lm_prefix_free(&p->prefix);
}

/* Scores a compressed cache, and takes its heads' errors. */
static int score_cache(lm_judgement *j, const uint32_t *tokens, const judge_piece *p, const lm_compressed *c,
                       judged_row *row, judged_piece *out) {
  lm_reference full = {.kept = p->logits};
  lm_score score = {.kl = NULL};
  cli_measures measures = {.heads = 0};
  pith_summary_info info = pith_summary_describe(c->summary);
  out->bytes = info.bytes;
  out->full_bytes = info.full_bytes;
  out->other_bytes = info.other_bytes;
  out->predicted_kl = info.predicted_kl;
  out->compress_seconds = c->seconds;
  int code =
      judge_ended(j, lm_score_rest(&j->run, &full, c->after, tokens + j->prefix, j->context - j->prefix, &score));
  if (!code) code = measure_summary(j->run.session, &p->trial, c->summary, &measures);
  if (!code) {
    out->figures = lm_score_figures(&score);
    out->attention_error = measures.all.relative;
    for (size_t i = 0; i < measures.heads; i++) row->head_error[i] += measures.head[i].relative;
    lm_score_add(&row->score, &score);
  }
  measures_free(&measures);
  lm_score_free(&score);
  return code;
}

static int judge_text_row(lm_judgement *j, const uint32_t *tokens, const judge_piece *p, judged_row *row) {
  lm_compressed c;
  judged_piece *out = &row->piece[row->pieces];
  pith_status status = lm_compress(&j->run, &p->prefix, &row->method, &c);
  if (status < 0) return judge_settle(j, status, &row->reason);
  int code = score_cache(j, tokens, p, &c, row, out);
  out->held_bytes = lm_compressed_free(&c);
  if (code) return code;
  row->pieces++;
  return judge_save(j);
}

static int judge_one_text(lm_judgement *j, judge_text *text) {
  judge_piece piece;
  int code = open_piece(j, text->tokens, &piece);
  text->prefill_seconds = piece.prefix.seconds;
  if (!code) j->texts_done++;
  for (size_t i = 0; i < j->rows && !code; i++) {
    judged_row *row = &j->row[i];
    code = judge_step(j, row);
    if (!code && !row->reason) code = judge_text_row(j, text->tokens, &piece, row);
  }
  close_piece(&piece);
  return code;
}

/* ---- Recall ---- */

static int judge_case_row(lm_judgement *j, const lm_case *one, const lm_prefix *prefix, judged_row *row) {
  lm_compressed c;
  pith_status status = lm_compress(&j->run, prefix, &row->method, &c);
  if (status < 0) return judge_settle(j, status, &row->recall_reason);
  status = lm_case_ask(&j->run, one, c.after, &row->recall);
  lm_compressed_free(&c);
  return judge_ended(j, status);
}

static int judge_one_case(lm_judgement *j, const lm_case *one) {
  lm_prefix prefix;
  pith_status status =
      lm_prefix_read(&j->run, one->prefix.id, one->prefix.count, one->prefix.count + lm_case_fed(one), &prefix);
  int code = judge_ended(j, status);
  for (size_t i = 0; i < j->rows && !code; i++) {
    judged_row *row = &j->row[i];
    code = judge_step(j, row);
    if (!code) code = judge_case_row(j, one, &prefix, row); /* long cases may fit where short ones do not */
  }
  lm_prefix_free(&prefix);
  if (!code) j->cases_done++;
  return code ? code : judge_save(j);
}

/* ---- Where texts begin ---- */

enum { STREAM_PREFIX = 1024 }; /* tokens after which a stream is scored */

/* Where `words` first stand in the text, however they are spaced there; NULL: nowhere. */
static const char *find_words(const char *text, const char *words) {
  for (const char *start = text; *start; start++) {
    const char *a = start, *b = words;
    while (*b && *a) {
      if (isspace((unsigned char)*b) && isspace((unsigned char)*a)) {
        while (isspace((unsigned char)*a)) a++;
        while (isspace((unsigned char)*b)) b++;
      } else if (*a++ != *b++) {
        break;
      }
      if (!*b) return start;
    }
  }
  return NULL;
}

static int encode_place(lm_judgement *j, const char *text, const char *end, const char *from, lm_tokens *tokens) {
  const lm_arguments *arguments = j->run.arguments;
  cli_session *session = j->run.session;
  const char *start = from ? find_words(text, from) : text;
  if (!start) return session_error(session, EXIT_INPUT, "--from '%s': not in %s", from, arguments->text);
  size_t needed = j->context * arguments->chunks;
  int code = lm_encode(&j->run, start, (size_t)(end - start), LM_ENCODE_BEGIN, tokens);
  if (code || tokens->count >= needed) return code;
  return session_error(session, EXIT_INPUT, "--text %s: %zu tokens are needed%s%s%s, there are %zu", arguments->text,
                       needed, from ? " from '" : "", from ? from : "", from ? "' on" : "", tokens->count);
}

static int read_texts(lm_judgement *j) {
  const lm_arguments *arguments = j->run.arguments;
  if (!arguments->text) return EXIT_DONE;
  char *text = NULL;
  size_t size = 0, places = arguments->places ? arguments->places : 1;
  int code = lm_lengths(&j->run, &j->context, &j->prefix);
  if (judgement_streams(j) && !arguments->prefix)
    j->prefix = j->context / 2 < STREAM_PREFIX ? j->context / 2 : STREAM_PREFIX;
  if (!code && arguments->chunks > 4096)
    code = session_error(j->run.session, EXIT_USAGE, "--chunks %zu: at most 4096", arguments->chunks);
  if (!code) code = lm_read_file(j->run.session, "--text", arguments->text, &text, &size);
  if (code) return code;
  j->text = allocate_zero(places * arguments->chunks, sizeof *j->text);
  for (size_t i = 0; i < places && !code; i++) {
    const char *from = arguments->places ? arguments->from[i] : NULL;
    code = encode_place(j, text, text + size, from, &j->tokens[i]);
    for (size_t chunk = 0; chunk < arguments->chunks && !code; chunk++)
      j->text[j->texts++] = (judge_text){.from = chunk ? NULL : from, .tokens = j->tokens[i].id + chunk * j->context};
  }
  free(text);
  return code;
}

/* ---- The command ---- */

static int check_output(cli_session *session, const char *folder) {
  if (mkdir(folder, 0777) != 0 && errno != EEXIST)
    return session_error(session, EXIT_IO, "-o %s: %s", folder, strerror(errno));
  struct stat about;
  if (stat(folder, &about) != 0 || !S_ISDIR(about.st_mode))
    return session_error(session, EXIT_IO, "-o %s: not a folder", folder);
  if (access(folder, W_OK | X_OK) != 0) return session_error(session, EXIT_IO, "-o %s: %s", folder, strerror(errno));
  return EXIT_DONE;
}

/* All that can be wrong with what was given is found before anything is run. */
static int prepare(lm_judgement *j, cli_plot **plot) {
  cli_session *session = j->run.session;
  const lm_arguments *arguments = session->arguments;
  int code = read_texts(j);
  if (!code && arguments->cases) code = lm_cases_read(&j->run, &j->cases);
  if (code) return code;
  make_rows(j);
  code = choose_heat_map(j);
  if (!code && arguments->output)
    code = plot_create(
        session, "-o", "bytes of the compressed cache, share of f16",
        j->marks.count ? "KL against the full cache (nats), first text" : "KL against the full cache (nats)", plot);
  return !code && arguments->output ? check_output(session, arguments->output) : code;
}

static int report(lm_judgement *j, cli_plot *plot, bool interrupted) {
  cli_session *session = j->run.session;
  size_t all = j->rows * (j->texts + j->cases.count);
  j->complete = !interrupted;
  progress_label(&session->progress, NULL);
  progress_clear(&session->progress);
  int code = j->run.arguments->output ? judgement_write(j, j->run.arguments->output, plot) : EXIT_DONE;
  if (session->common->json)
    json_print(judgement_json(j), session->out);
  else if (!session->common->quiet)
    judgement_print(j, session->out);
  if (interrupted)
    return session_error(session, EXIT_INTERRUPTED, "interrupted at step %zu of %zu; what was finished is reported",
                         j->steps_done, all);
  return code;
}

static int judge(lm_judgement *j) {
  cli_plot *plot = NULL;
  int code = prepare(j, &plot);
  const bool stream = judgement_streams(j);
  for (size_t i = 0; i < j->texts && !code; i++) code = (stream ? judge_stream_text : judge_one_text)(j, &j->text[i]);
  for (size_t i = 0; i < j->cases.count && !code; i++)
    code = (stream ? judge_stream_case : judge_one_case)(j, &j->cases.list[i]);
  if (code == EXIT_INTERRUPTED && !j->steps_done) session_fail(j->run.session, PITH_E_CANCELLED);
  if (!code || (code == EXIT_INTERRUPTED && j->steps_done)) code = report(j, plot, code != EXIT_DONE);
  plot_free(plot);
  return code;
}

static void judgement_free(lm_judgement *j) {
  for (size_t i = 0; i < j->rows; i++) {
    free(j->row[i].piece);
    free(j->row[i].head_error);
    free(j->row[i].reason);
    free(j->row[i].recall_reason);
    lm_score_free(&j->row[i].score);
  }
  free(j->row);
  free(j->text);
  for (size_t i = 0; i < MOST_PLACES; i++) lm_tokens_free(j->run.session->context, &j->tokens[i]);
  lm_cases_free(&j->run, &j->cases);
  free(j->marks.list);
  lm_close(&j->run);
}

int lm_judge(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  const cli_command *command = session->command;
  if (!arguments->text && !arguments->cases)
    return usage_error(command, "nothing to judge by; give --text FILE, --cases F.jsonl or both");
  if (arguments->places && !arguments->text) return usage_error(command, "--from needs --text");
  if (arguments->marks && !arguments->output) return usage_error(command, "--marks are drawn; give -o DIR too");
  const bool stream = arguments->mode == MODE_STREAM;
  if (stream && arguments->heat_map)
    return usage_error(command, "--heat-map: errors of heads are not measured with --mode stream");
  const char *engines = arguments->engines ? arguments->engines : "all";
  const char *ratios = arguments->ratios ? arguments->ratios : stream ? "1/2,1/4,1/8,1/16,1/32" : "1/4,1/8,1/16";
  lm_judgement *j = allocate_zero(1, sizeof *j);
  int code = lm_request_methods(command, engines, stream, &j->request);
  if (!code) code = lm_request_ratios(command, ratios, &j->request);
  if (!code && arguments->marks) code = lm_marks_read(session, arguments->marks, &j->marks);
  if (!code) code = lm_open(session, &j->run);
  j->run.session = session;
  if (!code) code = judge(j);
  judgement_free(j);
  free(j);
  return code;
}
