/* compare.c - pith compare: measures summaries against exact attention, and engines against each other. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "judge.h"

typedef struct compare_arguments {
  common_arguments common;
  const char *summary, *keys, *values, *queries, *prompt_queries, *engines, *sizes, *plot;
  int per_head;
  size_t prefix;
  size_t worst; /* starts; PITH_UNSET: not given */
  pith_compress_options options;
} compare_arguments;

#define FIELD(member) .offset = offsetof(compare_arguments, member)

static const cli_option file_options[] = {
    {"summary", 0, OPTION_FILE, "F.safetensors", "the summary to measure", FIELD(summary)},
    {"keys", 0, OPTION_FILE, "K.npy", "the keys that it was made from", FIELD(keys)},
    {"values", 0, OPTION_FILE, "V.npy", "the values that it was made from", FIELD(values)},
    {"queries", 0, OPTION_FILE, "Q.npy", "the queries to ask, which the summary has not seen", FIELD(queries)},
    {"prefix", 0, OPTION_COUNT, "N",
     "only the first N keys and values are compressed; queries that stand there are what engines may know, later ones "
     "are asked, and they see the later keys exactly",
     FIELD(prefix), .least = 1},
    {"plot", 0, OPTION_FILE, "OUT.svg",
     "draw error against stored points; without --engines: all engines at sizes around that of the summary",
     FIELD(plot)},
    {.name = NULL}};

static const cli_option measure_options[] = {
    {"worst", 0, OPTION_COUNT, "N",
     "search every head for its worst query inside the ball from N starts, 0 for no search (default: 4 starts, and "
     "with "
     "more than 4 heads only the one with the largest relative error)",
     FIELD(worst), .most = 1e6},
    {"per-head", 0, OPTION_FLAG, NULL, "show where the error is left", FIELD(per_head)},
    {.name = NULL}};

static const cli_option judge_options[] = {
    {"engines", 0, OPTION_TEXT, "all|LIST",
     "build these engines and compare them, such as nystrom,uniform (names: pith help compress)", FIELD(engines)},
    {"sizes", 0, OPTION_TEXT, "LIST", "ratios or numbers of points (default 1/4,1/8,1/16)", FIELD(sizes)},
    {"prompt-queries", 0, OPTION_FILE, "P.npy", "recorded queries that the engines may know", FIELD(prompt_queries)},
    {.name = NULL}};

static const cli_group groups[] = {
    {"Files", file_options, 0},
    {"Measuring", measure_options, 0},
    {"Judging engines", judge_options, 0},
    {"What engines keep", keep_options, offsetof(compare_arguments, options)},
    {"What engines know of queries", query_options, offsetof(compare_arguments, options)},
    {"Common", common_options, 0},
    {.title = NULL}};

static void defaults(void *data) {
  compare_arguments *arguments = data;
  arguments->worst = PITH_UNSET;
  pith_compress_options_init(&arguments->options);
}

static int check_usage(const cli_command *command, const compare_arguments *arguments) {
  if (!arguments->summary && !arguments->engines)
    return usage_error(command, "nothing to compare; give --summary F, or --engines all");
  if (!arguments->keys) return usage_error(command, "--keys K.npy is missing");
  if (!arguments->values) return usage_error(command, "--values V.npy is missing");
  if (!arguments->queries) return usage_error(command, "--queries Q.npy is missing");
  bool judged = arguments->engines || arguments->plot;
  if (arguments->sizes && !arguments->engines) return usage_error(command, "--sizes needs --engines");
  if (arguments->prompt_queries && !judged) return usage_error(command, "--prompt-queries needs --engines");
  if (arguments->prefix && arguments->prompt_queries)
    return usage_error(command, "--prefix takes the recorded queries from --queries; leave --prompt-queries out");
  if (arguments->options.rope && !arguments->prompt_queries && !arguments->prefix)
    return usage_error(command, "--rope turns recorded queries; give --prompt-queries or --prefix too");
  return EXIT_DONE;
}

/* ---- The summary ---- */

typedef struct findings { /* what was found out about the summary of the command line */
  pith_summary *summary;
  cli_measures measures;
  double rho;
  size_t searched; /* heads searched: all, or 1: the one with the largest error */
} findings;

static int search(cli_session *session, const cli_trial *trial, findings *found) {
  const compare_arguments *arguments = session->arguments;
  size_t starts = arguments->worst == PITH_UNSET ? 4 : arguments->worst;
  if (starts == 0) return EXIT_DONE;
  size_t heads = found->measures.heads;
  bool all = arguments->worst != PITH_UNSET || heads <= 4;
  found->searched = all ? heads : 1;
  int code = EXIT_DONE;
  progress_label(&session->progress, "worst queries");
  for (size_t i = 0; i < found->searched && !code; i++) {
    if (progress_report(&session->progress, "heads", i, found->searched))
      code = session_fail(session, PITH_E_CANCELLED);
    else
      code = search_worst(session, trial, found->summary, all ? i : found->measures.worst, found->rho, starts,
                          &found->measures);
  }
  progress_label(&session->progress, NULL);
  return code;
}

static int measure_file(cli_session *session, cli_trial *trial, findings *found) {
  const compare_arguments *arguments = session->arguments;
  int code = measure_summary(session, trial, found->summary, &found->measures);
  if (code) return code;
  pith_head_view head;
  pith_status status = pith_summary_head(session->context, found->summary, 0, 0, &head);
  if (status < 0) return session_fail(session, status);
  found->rho = arguments->options.rho > 0 ? arguments->options.rho
               : head.ball.rho > 0        ? head.ball.rho
                                          : trial_rho(session, trial);
  return search(session, trial, found);
}

static void add_head(cli_session *session, const cli_trial *trial, const findings *found, size_t i, cli_table *table) {
  pith_head_view head;
  if (pith_summary_head(session->context, found->summary, i / trial->kv_heads, i % trial->kv_heads, &head) != PITH_OK)
    return;
  const cli_measure *measure = &found->measures.head[i];
  table_add(table, "%zu", i / trial->kv_heads);
  table_add(table, "%zu", i % trial->kv_heads);
  table_add(table, "%zu", head.points);
  table_add(table, "%s", text_error(measure->mean).at);
  table_add(table, "%s", text_error(measure->max).at);
  table_add(table, "%s", text_error(measure->rms).at);
  table_add(table, "%.4f", measure->relative);
  table_add(table, "%s", text_error(head.probe_error).at);
  table_add(table, "%s", text_share(measure->within).at);
  table_add(table, "%s", text_error(measure->worst).at);
  table_add(table, "%s", text_certificate(&head.ball).at);
  table_add(table, "%s", text_certificate(&head.binding).at);
}

static void print_search(cli_session *session, const cli_trial *trial, const findings *found) {
  if (!found->searched) return;
  fprintf(session->out, "worst query found with norm up to %.4g: error %.4g", found->rho, found->measures.all.worst);
  if (found->searched == found->measures.heads)
    fprintf(session->out, " (every head searched)\n");
  else
    fprintf(session->out, " (only head %zu.%zu searched, the one with the largest relative error; --worst N: all)\n",
            found->measures.worst / trial->kv_heads, found->measures.worst % trial->kv_heads);
}

static void print_findings(cli_session *session, const cli_trial *trial, const findings *found) {
  const compare_arguments *arguments = session->arguments;
  pith_summary_info info = pith_summary_describe(found->summary);
  if (arguments->per_head || found->measures.heads <= 16) {
    static const char *const headings[] = {"layer",    "head",        "points", "mean error",  "max",   "rms",
                                           "relative", "probe error", "within", "worst found", "<ball", "<certificate"};
    cli_table *table = table_create(headings, sizeof headings / sizeof *headings);
    for (size_t i = 0; i < found->measures.heads; i++) add_head(session, trial, found, i, table);
    table_print(table, session->out);
    table_free(table);
  }
  const cli_measure *all = &found->measures.all;
  print_totals(session, &info);
  fprintf(session->out, "%zu queries a head: mean error %.4g, max %.4g, rms %.4g, relative %.4f\n", trial->rows,
          all->mean, all->max, all->rms, all->relative);
  if (!isnan(all->within))
    fprintf(session->out, "%.1f %% of the queries are within the probe bound of their head\n", 100 * all->within);
  print_search(session, trial, found);
}

static json_t *json_findings(cli_session *session, const cli_trial *trial, const findings *found) {
  json_t *report = json_summary(session, found->summary);
  json_measure(report, &found->measures.all);
  json_object_set_new(report, "rho", json_number(found->rho));
  json_object_set_new(report, "worst_error", json_number(found->measures.all.worst));
  json_object_set_new(report, "heads_searched", json_count(found->searched));
  json_t *heads = json_object_get(report, "heads");
  for (size_t i = 0; i < json_array_size(heads); i++) {
    json_t *head = json_array_get(heads, i);
    pith_head_view view;
    json_measure(head, &found->measures.head[i]);
    json_object_set_new(head, "worst_error", json_number(found->measures.head[i].worst));
    if (pith_summary_head(session->context, found->summary, i / trial->kv_heads, i % trial->kv_heads, &view) == PITH_OK)
      json_object_set_new(head, "ball", json_certificate(&view.ball));
  }
  return report;
}

/* ---- The engines ---- */

/* Sizes of the picture of a summary alone: around its own. */
static void sizes_around(const pith_summary *summary, const cli_trial *trial, judge_request *request) {
  size_t points = pith_summary_describe(summary).points;
  static const size_t times[][2] = {{4, 1}, {2, 1}, {1, 1}, {1, 2}, {1, 4}};
  for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
    size_t size = points * times[i][0] / times[i][1];
    size_t exact = request->options.sinks + request->options.window;
    if (size <= exact || size > trial->n) continue;
    judge_size *out = &request->size[request->sizes++];
    out->points = size;
    snprintf(out->label, sizeof out->label, "%zu", size);
  }
}

static int read_request(const compare_arguments *arguments, const cli_command *command, judge_request *request) {
  request->options = arguments->options;
  request->options.seed = arguments->common.seed;
  int code = judge_parse_engines(command, arguments->engines ? arguments->engines : "all", request);
  if (code || !arguments->engines) return code; /* sizes follow from the summary */
  return judge_parse_sizes(command, arguments->sizes ? arguments->sizes : "1/4,1/8,1/16", request);
}

/* ---- The command ---- */

typedef struct compare_inputs {
  cli_input keys, values, queries, prompt;
  pith_array recorded;
  bool has_recorded;
} compare_inputs;

static int open_inputs(cli_session *session, compare_inputs *inputs, findings *found) {
  const compare_arguments *arguments = session->arguments;
  int code = input_open(session, "--keys", arguments->keys, &inputs->keys);
  if (!code) code = input_open(session, "--values", arguments->values, &inputs->values);
  if (!code) code = input_open(session, "--queries", arguments->queries, &inputs->queries);
  if (!code && arguments->prompt_queries) {
    code = input_open(session, "--prompt-queries", arguments->prompt_queries, &inputs->prompt);
    inputs->recorded = inputs->prompt.array;
    inputs->has_recorded = true;
  }
  if (code || !arguments->summary) return code;
  pith_status status = pith_summary_load(session->context, arguments->summary, &found->summary);
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

/* What is compressed and what is asked: all of the arrays, or the two sides of --prefix. */
static int set_trial(cli_session *session, compare_inputs *inputs, cli_trial *trial) {
  size_t prefix = ((const compare_arguments *)session->arguments)->prefix, asked = 0;
  trial->keys = inputs->keys.array;
  trial->values = inputs->values.array;
  trial->queries = inputs->queries.array;
  if (!prefix) return EXIT_DONE;
  int code = prefix_check(session, prefix, &trial->keys, &trial->values, &trial->queries, &asked);
  if (code) return code;
  size_t n = trial->keys.shape[trial->keys.ndim - 2], m = trial->queries.shape[trial->queries.ndim - 2];
  if (asked == m)
    return session_error(session, EXIT_INPUT, "--prefix %zu leaves no query to ask: there are %zu keys", prefix, n);
  trial->later = n - prefix;
  trial->all_keys = trial->keys;
  trial->all_values = trial->values;
  inputs->has_recorded = asked > 0;
  inputs->recorded = pith_array_rows(&trial->queries, 0, asked);
  trial->keys = pith_array_rows(&trial->keys, 0, prefix);
  trial->values = pith_array_rows(&trial->values, 0, prefix);
  trial->queries = pith_array_rows(&trial->queries, asked, m - asked);
  return EXIT_DONE;
}

static int report(cli_session *session, const cli_trial *trial, const findings *found, const cli_judge *judge) {
  const compare_arguments *arguments = session->arguments;
  if (session->common->json) {
    json_t *object = found->summary ? json_findings(session, trial, found) : json_report();
    if (judge->rows) json_object_set_new(object, "engines", judge_json(trial, judge, arguments->per_head));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
    return EXIT_DONE;
  }
  if (session->common->quiet) return EXIT_DONE;
  if (found->summary) print_findings(session, trial, found);
  if (!judge->rows) return EXIT_DONE;
  if (found->summary) fputc('\n', session->out);
  judge_print(session, trial, judge);
  if (arguments->per_head) judge_print_heads(session, trial, judge);
  return EXIT_DONE;
}

static int compare(cli_session *session, compare_inputs *inputs, findings *found, judge_request *request,
                   cli_plot *plot) {
  const compare_arguments *arguments = session->arguments;
  double scale = arguments->options.scale;
  if (!(scale > 0) && found->summary) scale = pith_summary_describe(found->summary).scale;
  cli_trial trial = {.scale = scale};
  cli_judge judge = {0};
  int code = set_trial(session, inputs, &trial);
  if (!code) code = trial_open(session, &trial);
  if (!code && found->summary) code = measure_file(session, &trial, found);
  if (!code && (arguments->engines || plot)) {
    request->options.scale = scale;
    request->recorded = inputs->has_recorded ? &inputs->recorded : NULL;
    if (!arguments->engines) sizes_around(found->summary, &trial, request);
    code = judge_run(session, &trial, request, &judge);
  }
  if (!code) code = report(session, &trial, found, &judge); /* before the picture, which may fail */
  if (!code && plot) {
    judge_plot(&judge, plot);
    if (found->summary) {
      plot_line(plot, "the summary", false);
      plot_point(plot, (double)pith_summary_describe(found->summary).points, found->measures.all.mean);
    }
    code = plot_write(session, plot, arguments->plot);
  }
  judge_free(&judge);
  trial_close(&trial);
  return code;
}

static int run(cli_session *session) {
  const compare_arguments *arguments = session->arguments;
  judge_request request = {.engines = 0};
  int code = check_usage(session->command, arguments);
  if (!code) code = read_request(arguments, session->command, &request);
  cli_plot *plot = NULL;
  if (!code && arguments->plot) {
    if (!strcmp(arguments->plot, "-")) session->out = stderr;
    code = plot_create(session, "--plot", "points stored a head", "mean L2 error of an answer", &plot);
  }
  compare_inputs inputs = {0};
  findings found = {0};
  if (!code) code = open_inputs(session, &inputs, &found);
  if (!code) code = compare(session, &inputs, &found, &request, plot);
  measures_free(&found.measures);
  pith_summary_free(found.summary);
  input_close(&inputs.prompt);
  input_close(&inputs.queries);
  input_close(&inputs.values);
  input_close(&inputs.keys);
  plot_free(plot);
  return code;
}

const cli_command command_compare = {
    .name = "compare",
    .summary = "measure summaries against exact attention",
    .usage =
        "[--summary~F] --keys~K.npy --values~V.npy --queries~Q.npy [--engines~all|LIST] [--plot~OUT.svg] [OPTION]...",
    .description =
        "With --summary: the errors of a summary on queries that it has not seen, beside what its\n"
        "certificates say, and the worst query that a search inside the ball finds.\n"
        "With --engines: builds engines at several sizes from the keys, values and --prompt-queries,\n"
        "asks them --queries, and prints one table.",
    .examples =
        "  How wrong is this file on later queries?\n"
        "    pith compare --summary S.safetensors --keys K.npy --values V.npy --queries LATER.npy\n"
        "  Which engine is best on this model, at which size?\n"
        "    pith compare --keys K.npy --values V.npy --prompt-queries Q.npy --rope 10000 --queries LATER.npy "
        "--engines all --plot engines.svg\n",
    .groups = groups,
    .arguments_size = sizeof(compare_arguments),
    .defaults = defaults,
    .run = run};
