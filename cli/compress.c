/* compress.c - pith compress: from keys, values and recorded queries to a summary. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "report.h"

typedef struct compress_arguments {
  common_arguments common;
  const char *keys, *values, *queries, *output;
  const char *head_weights;
  int plan, require_certificate;
  size_t prefix;
  pith_compress_options options;
} compress_arguments;

static const cli_choice budget_choices[] = {{"even", PITH_BUDGET_EVEN}, {"spread", PITH_BUDGET_SPREAD}, {NULL, 0}};

#define FIELD(member) .offset = offsetof(compress_arguments, member)

static const cli_option file_options[] = {
    {"keys", 0, OPTION_FILE, "K.npy", "keys: (n, d), (heads, n, d) or (layers, heads, n, d)", FIELD(keys)},
    {"values", 0, OPTION_FILE, "V.npy", "values, shaped as the keys", FIELD(values)},
    {"queries", 0, OPTION_FILE, "Q.npy", "queries recorded so far: what is kept depends on what is asked",
     FIELD(queries)},
    {"prefix", 0, OPTION_COUNT, "N", "use only the first N keys and values, and the queries that stand there",
     FIELD(prefix), .least = 1},
    {"output", 'o', OPTION_FILE, "OUT.safetensors", "the summary", FIELD(output)},
    {.name = NULL}};

static const cli_option budget_options[] = {
    {"points", 0, OPTION_COUNT, "N", "points a head, every kept row counted", FIELD(options.points), .least = 1},
    {"ratio", 0, OPTION_REAL, "R", "share of the f16 bytes of all keys and values: 0.25 or 1/4", FIELD(options.ratio),
     .open = true},
    {"bytes", 0, OPTION_SIZE, "SIZE", "bytes over all heads: 4096, 64K, 8MiB", FIELD(options.bytes), .least = 1},
    {"eps", 0, OPTION_REAL, "E", "the smallest summary whose certificate is at most E, or exit code 4",
     FIELD(options.eps), .open = true},
    {"plan", 0, OPTION_FLAG, NULL, "write nothing, print what each size costs and gives", FIELD(plan)},
    {"budget", 0, OPTION_CHOICE, "HOW",
     "how --ratio or --bytes is spent over heads: even (the same for all) or spread (where a byte saves most; default "
     "for several heads with queries)",
     FIELD(options.budget), .choices = budget_choices},
    {"head-weights", 0, OPTION_FILE, "W.npy",
     "what an error in each head costs the model, (layers, kv heads): spread follows it, and the KL is predicted",
     FIELD(head_weights)},
    {.name = NULL}};

static const cli_option method_options[] = {
    {"engine", 0, OPTION_NAME, "NAME", "how points are chosen (default nystrom); names below", FIELD(options.engine),
     .list = pith_engine_name, .list_help = pith_engine_help},
    {"require-certificate", 0, OPTION_FLAG, NULL, "exit code 4 when the summary is not certified",
     FIELD(require_certificate)},
    {.name = NULL}};

static const cli_group groups[] = {{"Files", file_options, 0},
                                   {"Budget (give one of the first five)", budget_options, 0},
                                   {"Method", method_options, 0},
                                   {"What is kept", keep_options, offsetof(compress_arguments, options)},
                                   {"Queries", query_options, offsetof(compress_arguments, options)},
                                   {"Common", common_options, 0},
                                   {.title = NULL}};

static void defaults(void *arguments) { pith_compress_options_init(&((compress_arguments *)arguments)->options); }

/* ---- Usage ---- */

static int check_usage(const cli_command *command, const compress_arguments *arguments) {
  const pith_compress_options *options = &arguments->options;
  int budgets = (options->points != PITH_UNSET) + (options->ratio > 0) + (options->bytes > 0) + (options->eps > 0) +
                (arguments->plan != 0);
  if (!arguments->keys) return usage_error(command, "--keys K.npy is missing");
  if (!arguments->values) return usage_error(command, "--values V.npy is missing");
  bool exact = options->engine && !strcmp(options->engine, "exact"); /* keeps all rows, needs no budget */
  if (budgets == 0 && !exact)
    return usage_error(command, "no budget; give --points, --ratio, --bytes, --eps or --plan");
  if (budgets > 1)
    return usage_error(command, "more than one budget; give one of --points, --ratio, --bytes, --eps and --plan");
  if (!arguments->output && !arguments->plan) return usage_error(command, "-o OUT.safetensors is missing");
  if (arguments->output && arguments->plan) return usage_error(command, "--plan writes nothing; leave -o out");
  if (options->rope && !arguments->queries) return usage_error(command, "--rope turns queries; give --queries too");
  return EXIT_DONE;
}

/* ---- The warning about keys too large for the ball model ---- */

/* Largest distance of a key from the mean key, over all heads; negative when the keys cannot be read. */
static double key_radius(cli_session *session, const pith_array *keys) {
  if (keys->ndim < 2) return -1;
  size_t n = keys->shape[keys->ndim - 2], d = keys->shape[keys->ndim - 1];
  if (d == 0) return -1;
  float *row = allocate_zero(n * d, sizeof *row);
  double *mean = allocate_zero(d, sizeof *mean), largest = 0;
  for (size_t layer = 0; layer < pith_array_layers(keys); layer++)
    for (size_t number = 0; number < pith_array_heads(keys); number++) {
      pith_array head = pith_array_head(keys, layer, number);
      if (pith_array_to_f32(session->context, &head, "keys", 1, row) != PITH_OK) {
        largest = -1;
        goto done;
      }
      memset(mean, 0, d * sizeof *mean);
      for (size_t i = 0; i < n * d; i++) mean[i % d] += (double)row[i] / (double)n;
      for (size_t i = 0; i < n; i++) {
        double square = 0;
        for (size_t j = 0; j < d; j++) square += (row[i * d + j] - mean[j]) * (row[i * d + j] - mean[j]);
        largest = fmax(largest, sqrt(square));
      }
    }
done:
  free(mean);
  free(row);
  return largest;
}

static void warn_of_large_keys(cli_session *session, const compress_arguments *arguments, const pith_array *keys) {
  const char *engine = arguments->options.engine;
  if (arguments->queries || (engine && strcmp(engine, "nystrom") != 0)) return;
  double rho = arguments->options.rho > 0 ? arguments->options.rho : 2;
  double radius = key_radius(session, keys);
  if (rho * radius > 4)
    session_warn(session,
                 "rho times the key radius is %.3g, above 4: for such sharp attention, knowing only the norm of "
                 "queries is not enough. Give --queries recorded on calibration text, so that nystrom keeps what is "
                 "asked for",
                 rho * radius);
}

/* ---- Reports ---- */

static double mean_probe_error(cli_session *session, const pith_summary *summary, const pith_summary_info *info) {
  double sum = 0;
  for (size_t i = 0; i < info->layers * info->heads; i++) {
    pith_head_view head;
    if (pith_summary_head(session->context, summary, i / info->heads, i % info->heads, &head) != PITH_OK) return NAN;
    sum += head.probe_error;
  }
  return sum / (double)(info->layers * info->heads);
}

static int report(cli_session *session, const pith_summary *summary, double seconds) {
  const compress_arguments *arguments = session->arguments;
  pith_summary_info info = pith_summary_describe(summary);
  double probe_error = mean_probe_error(session, summary, &info);
  struct stat file;
  bool has_file = strcmp(arguments->output, "-") != 0 && stat(arguments->output, &file) == 0;
  if (session->common->json) {
    json_t *object = json_summary(session, summary);
    json_object_set_new(object, "probe_error", json_number(probe_error));
    if (has_file) json_object_set_new(object, "file_bytes", json_count((size_t)file.st_size));
    json_object_set_new(object, "seconds", json_number(seconds));
    json_print(object, session->out);
    return EXIT_DONE;
  }
  if (session->common->quiet) return EXIT_DONE;
  if (info.layers * info.heads <= 16 || session->common->verbose) {
    int code = print_heads(session, summary);
    if (code) return code;
  }
  print_totals(session, &info);
  if (!isnan(probe_error)) fprintf(session->out, "mean error over held-out queries: %.4g\n", probe_error);
  fprintf(session->out, "%s", arguments->output);
  if (has_file) fprintf(session->out, ", %s", text_bytes((size_t)file.st_size).at);
  fprintf(session->out, ", %.2f s\n", seconds);
  return EXIT_DONE;
}

static int print_plan(cli_session *session, const pith_plan_row *rows, size_t count) {
  if (session->common->json) {
    json_t *object = json_report(), *plan = json_array();
    json_object_set_new(object, "plan", plan);
    for (size_t i = 0; i < count; i++) {
      json_t *row = json_object();
      json_object_set_new(row, "points", json_count(rows[i].points));
      json_object_set_new(row, "bytes", json_count(rows[i].bytes));
      json_object_set_new(row, "ratio", json_number(rows[i].ratio));
      json_object_set_new(row, "predicted_kl", json_number(rows[i].predicted_kl));
      json_object_set_new(row, "mean_error", json_number(rows[i].mean_error));
      json_object_set_new(row, "max_error", json_number(rows[i].max_error));
      json_object_set_new(row, "certificate", json_certificate(&rows[i].certificate));
      json_array_append_new(plan, row);
    }
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
    return EXIT_DONE;
  }
  static const char *const headings[] = {"points",     "bytes",     "ratio",       "predicted KL",
                                         "mean error", "max error", "<certificate"};
  cli_table *table = table_create(headings, sizeof headings / sizeof *headings);
  for (size_t i = 0; i < count; i++) {
    table_add(table, "%zu", rows[i].points);
    table_add(table, "%s", text_bytes(rows[i].bytes).at);
    table_add(table, "%.4f", rows[i].ratio);
    table_add(table, "%s", text_error(rows[i].predicted_kl).at);
    table_add(table, "%s", text_error(rows[i].mean_error).at);
    table_add(table, "%s", text_error(rows[i].max_error).at);
    table_add(table, "%s", text_certificate(&rows[i].certificate).at);
  }
  table_print(table, session->out);
  table_free(table);
  fprintf(session->out,
          "Errors are over held-out queries. Pick a size: pith compress --ratio R ... -o OUT.safetensors\n");
  return EXIT_DONE;
}

/* ---- The command ---- */

enum { PLAN_ROWS = 32 };

static int plan(cli_session *session, const cli_input *keys, const cli_input *values, const pith_array *queries) {
  const compress_arguments *arguments = session->arguments;
  pith_plan_row rows[PLAN_ROWS];
  size_t count = PLAN_ROWS;
  pith_status status =
      pith_plan(session->context, &keys->array, &values->array, queries, &arguments->options, rows, &count);
  return status < 0 ? session_fail(session, status) : print_plan(session, rows, count);
}

static int write_summary(cli_session *session, const cli_input *keys, const cli_input *values,
                         const pith_array *queries) {
  const compress_arguments *arguments = session->arguments;
  double started = seconds_now();
  pith_summary *summary = NULL;
  pith_status status =
      pith_compress(session->context, &keys->array, &values->array, queries, &arguments->options, &summary);
  if (status < 0) return session_fail(session, status);
  double seconds = seconds_now() - started;
  pith_status saved = pith_summary_save(session->context, summary, arguments->output);
  if (saved != PITH_OK) {
    pith_summary_free(summary);
    return session_fail(session, saved);
  }
  bool certified = pith_summary_describe(summary).certificate.certified;
  int code = report(session, summary, seconds);
  pith_summary_free(summary);
  if (code) return code;
  if (status == PITH_NOT_CERTIFIED)
    return session_error(session, EXIT_NOT_CERTIFIED,
                         "no summary meets --eps %g; the most accurate one found was written. Raise --eps or use "
                         "--store f32",
                         arguments->options.eps);
  if (arguments->require_certificate && !certified)
    return session_error(session, EXIT_NOT_CERTIFIED,
                         "the summary was written but is not certified; give more points or more recorded queries");
  return EXIT_DONE;
}

static int run(cli_session *session) {
  compress_arguments *arguments = session->arguments;
  int code = check_usage(session->command, arguments);
  if (!code && arguments->output) code = session_output(session, "-o", arguments->output);
  if (code) return code;
  arguments->options.seed = arguments->common.seed;
  arguments->options.certify = arguments->require_certificate;
  cli_input keys = {0}, values = {0}, queries = {0}, weights = {0};
  code = input_open(session, "--keys", arguments->keys, &keys);
  if (!code) code = input_open(session, "--values", arguments->values, &values);
  if (!code && arguments->queries) code = input_open(session, "--queries", arguments->queries, &queries);
  if (!code && arguments->head_weights) code = input_open(session, "--head-weights", arguments->head_weights, &weights);
  if (arguments->head_weights) arguments->options.head_weights = &weights.array;
  const pith_array *recorded = arguments->queries ? &queries.array : NULL;
  if (!code && arguments->prefix) {
    size_t count = 0;
    code = prefix_check(session, arguments->prefix, &keys.array, &values.array, recorded, &count);
    if (!code) {
      keys.array = pith_array_rows(&keys.array, 0, arguments->prefix);
      values.array = pith_array_rows(&values.array, 0, arguments->prefix);
      if (recorded) queries.array = pith_array_rows(&queries.array, 0, count);
    }
  }
  if (!code) {
    warn_of_large_keys(session, arguments, &keys.array);
    code = arguments->plan ? plan(session, &keys, &values, recorded) : write_summary(session, &keys, &values, recorded);
  }
  input_close(&weights);
  input_close(&queries);
  input_close(&values);
  input_close(&keys);
  return code;
}

const cli_command command_compress = {
    .name = "compress",
    .summary = "make a small summary of keys and values",
    .usage =
        "--keys~K.npy --values~V.npy [--queries~Q.npy] "
        "(--points~N~| --ratio~R~| --bytes~SIZE~| --eps~E~| --plan) [OPTION]... -o~OUT.safetensors",
    .description =
        "Chooses a few weighted points that answer attention queries almost as all keys and values\n"
        "would, writes them as a .safetensors file, and says how large the error can be. A good\n"
        "summary needs to know what will be asked: give --queries recorded from the same model.\n"
        "Without them only the norm of queries is assumed.",
    .examples =
        "  A quarter of the bytes, for a model with rotary positions of base 10000:\n"
        "    pith compress --keys K.npy --values V.npy --queries Q.npy --rope 10000 --ratio 1/4 -o S.safetensors\n"
        "  The smallest loss of the model for a sixteenth, stores chosen head by head:\n"
        "    pith compress --keys K.npy --values V.npy --queries Q.npy --rope 10000 --ratio 1/16 --store auto \\\n"
        "      --head-weights W.npy -o S.safetensors\n"
        "  What each size would cost and give:\n"
        "    pith compress --keys K.npy --values V.npy --queries Q.npy --rope 10000 --plan\n",
    .groups = groups,
    .arguments_size = sizeof(compress_arguments),
    .defaults = defaults,
    .run = run};
