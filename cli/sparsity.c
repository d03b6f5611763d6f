/* sparsity.c - pith sparsity: how few keys carry the attention of each head. */
#include "sparsity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plot.h"

#define FIELD(member) .offset = offsetof(sparsity_arguments, member)

static const cli_option file_options[] = {
    {"summary", 0, OPTION_FILE, "C.safetensors",
     "instead of keys and values: a cache as 'pith compress --engine exact' keeps it, in any store", FIELD(summary)},
    {"keys", 0, OPTION_FILE, "K.npy", "keys: (n, d), (heads, n, d) or (layers, heads, n, d)", FIELD(keys)},
    {"queries", 0, OPTION_FILE, "Q.npy", "queries, with the same leading axes or more heads", FIELD(queries)},
    {"values", 0, OPTION_FILE, "V.npy", "values: then the error of the answer from the largest entries is told",
     FIELD(values)},
    {"plot", 0, OPTION_FILE, "OUT.svg",
     "draw mass against entries with gnuplot, and beside it OUT-map.svg, layers by heads", FIELD(plot)},
    {.name = NULL}};

static const cli_option profile_options[] = {
    {"causal", 0, OPTION_FLAG, NULL, "a query sees keys up to its own position; the last query stands at the last key",
     FIELD(causal)},
    {"eps", 0, OPTION_REAL, "E", "mass that may be missed, and weight that counts as large (default 0.05)", FIELD(eps),
     .most = 1, .open = true},
    {"scale", 0, OPTION_REAL, "S", "softmax scale (default 1/sqrt(d), or that of the summary)", FIELD(scale),
     .open = true},
    {"samples", 0, OPTION_COUNT, "N", "queries of each head that are looked at, evenly spread (default 256, 0: all)",
     FIELD(samples)},
    {.name = NULL}};

static const cli_group groups[] = {
    {"Files", file_options, 0}, {"Profile", profile_options, 0}, {"Common", common_options, 0}, {.title = NULL}};

static void defaults(void *arguments) {
  pith_profile_options options;
  pith_profile_options_init(&options);
  ((sparsity_arguments *)arguments)->eps = options.eps;
  ((sparsity_arguments *)arguments)->samples = options.queries;
}

static bool with_values(const sparsity_arguments *arguments) { return arguments->values || arguments->summary; }

/* ---- What is said ---- */

static json_t *json_head(const pith_head_profile *head) {
  json_t *object = json_object();
  const struct {
    const char *name;
    double value;
  } figures[] = {{"keys", head->keys},
                 {"mean", head->mean},
                 {"sigma", head->sigma},
                 {"above_eps", head->above_eps},
                 {"above_predicted", head->above_predicted},
                 {"above_bound", head->above_bound},
                 {"k50", head->k50},
                 {"k90", head->k90},
                 {"k99", head->k99},
                 {"k999", head->k999},
                 {"k_eps", head->k_eps},
                 {"k_predicted", head->k_predicted},
                 {"exponent", head->exponent},
                 {"alpha", head->alpha},
                 {"participation", head->participation},
                 {"sink_mass", head->sink_mass},
                 {"mean_error", head->error},
                 {"relative_error", head->relative_error}};
  json_object_set_new(object, "layer", json_count(head->layer));
  json_object_set_new(object, "head", json_count(head->head));
  json_object_set_new(object, "kv_head", json_count(head->kv_head));
  json_object_set_new(object, "queries", json_count(head->queries));
  for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
    json_object_set_new(object, figures[i].name, json_number(figures[i].value));
  json_t *interval = json_array(), *tail = json_array();
  for (size_t i = 0; i < 2; i++) json_array_append_new(interval, json_number(head->exponent_interval[i]));
  for (size_t i = 0; i < PITH_PROFILE_TAILS && (double)((size_t)1 << i) < head->keys; i++)
    json_array_append_new(tail, json_number(head->tail[i]));
  json_object_set_new(object, "exponent_interval", interval);
  json_object_set_new(object, "tail", tail); /* after 1, 2, 4 ... entries */
  return object;
}

static void print_head(cli_table *table, const pith_head_profile *head, bool with_values) {
  table_add(table, "%zu", head->layer);
  table_add(table, "%zu", head->head);
  table_add(table, "%.0f", head->keys);
  table_add(table, "%.2f", head->mean);
  table_add(table, "%.2f", head->sigma);
  const double counts[] = {head->k50,         head->k90,          head->k99,       head->k999,
                           head->k_eps,       head->k_predicted,  head->above_eps, head->above_predicted,
                           head->above_bound, head->participation};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    table_add(table, "%.*f", counts[i] < 10 ? 1 : 0, counts[i]);
  table_add(table, "%s", text_share(head->sink_mass).at);
  if (isfinite(head->exponent))
    table_add(table, "%.2f", head->exponent);
  else
    table_add(table, "-");
  if (isfinite(head->exponent_interval[0]))
    table_add(table, "%.2f..%.2f", head->exponent_interval[0], head->exponent_interval[1]);
  else
    table_add(table, "-");
  if (with_values) table_add(table, "%s", text_error(head->relative_error).at);
}

static void report(cli_session *session, const pith_head_profile *profile, size_t layers, size_t heads) {
  const sparsity_arguments *arguments = session->arguments;
  const size_t count = layers * heads;
  if (session->common->json) {
    json_t *object = json_report(), *list = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(list, json_head(&profile[i]));
    json_object_set_new(object, "eps", json_number(arguments->eps));
    json_object_set_new(object, "causal", json_boolean(arguments->causal));
    json_object_set_new(object, "heads", list);
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
    return;
  }
  if (session->common->quiet) return;
  static const char *const headings[] = {"layer", "head",      "keys",  "mean",  "sigma",     "k50",   "k90",
                                         "k99",   "k99.9",     "k eps", "Gauss", "above",     "Gauss", "paper",
                                         "part.", "sink mass", "C",     "95 %",  "rel. error"};
  cli_table *table = table_create(headings, with_values(arguments) ? 19 : 18);
  for (size_t i = 0; i < count; i++) print_head(table, &profile[i], with_values(arguments));
  table_print(table, session->out);
  table_free(table);
  fprintf(
      session->out,
      "k50 ... k99.9: fewest keys with that share of the mass; k eps: that leave %g of it; above: keys of weight %g "
      "or\n"
      "more; Gauss, paper: what Gaussian logits and the paper's bound say of the column before; part.: participation\n"
      "ratio; C: k eps = alpha n^C, with its interval; means over up to %zu queries\n",
      arguments->eps, arguments->eps, profile->queries);
  if (count < 2) return;
  double *share = allocate_zero(count, sizeof *share);
  for (size_t i = 0; i < count; i++) share[i] = profile[i].keys > 0 ? profile[i].k90 / profile[i].keys : 0;
  print_map(session, "share of the keys that holds 90 % of the mass", share, layers, heads);
  free(share);
}

/* ---- Pictures ---- */

static void gaussian_tail_line(cli_plot *plot, const pith_head_profile *head) {
  char title[64];
  snprintf(title, sizeof title, "Gaussian, sigma %.2f", head->sigma);
  plot_line(plot, title, true);
  double eps = 0.99;
  for (int step = 0; step < 42; step++, eps *= 0.8) { /* down to 1e-4 */
    const double entries = pith_gaussian_entries(head->keys, head->sigma, eps);
    if (entries >= 1) plot_point(plot, entries, eps);
  }
}

/* Mean tail mass after 1, 2, 4 ... entries of profiles first .. first+count-1. */
static void tail_line(cli_plot *plot, const char *title, const pith_head_profile *profile, size_t count) {
  plot_line(plot, title, false);
  for (size_t i = 0; i < PITH_PROFILE_TAILS; i++) {
    double tail = 0;
    for (size_t h = 0; h < count; h++) tail += profile[h].tail[i] / (double)count;
    if (tail > 1e-4) plot_point(plot, (double)((size_t)1 << i), tail);
  }
}

static void draw(cli_plot *plot, const pith_head_profile *profile, size_t layers, size_t heads) {
  enum { MOST = 16 };
  char title[64];
  const bool each = layers * heads <= MOST;
  const pith_head_profile *least = profile, *most = profile;
  for (size_t i = 0; i < layers * heads; i++) {
    if (profile[i].sigma < least->sigma) least = &profile[i];
    if (profile[i].sigma > most->sigma) most = &profile[i];
  }
  for (size_t i = 0; i < (each ? layers * heads : layers); i++) {
    if (each)
      snprintf(title, sizeof title, "layer %zu, head %zu", i / heads, i % heads);
    else
      snprintf(title, sizeof title, "layer %zu", i);
    tail_line(plot, title, profile + i * (each ? 1 : heads), each ? 1 : heads);
  }
  gaussian_tail_line(plot, least);
  if (most != least) gaussian_tail_line(plot, most);
}

/* OUT.svg: OUT-map.svg; to be freed. */
static char *map_path(const char *path) {
  size_t length = strlen(path), stem = length;
  if (length > 4 && !strcmp(path + length - 4, ".svg")) stem -= 4;
  char *out = allocate_zero(length + 5, 1);
  snprintf(out, length + 5, "%.*s-map%s", (int)stem, path, path + stem);
  return out;
}

static int draw_map(cli_session *session, const pith_head_profile *profile, size_t layers, size_t heads,
                    const char *path) {
  double *share = allocate_zero(layers * heads, sizeof *share);
  for (size_t i = 0; i < layers * heads; i++) share[i] = profile[i].keys > 0 ? profile[i].k90 / profile[i].keys : 0;
  char *name = map_path(path);
  int code = heat_map_write(session,
                            &(cli_heat_map){.title = "Share of the keys that holds 90 % of the mass",
                                            .x_label = "query head",
                                            .y_label = "layer",
                                            .value_label = "share",
                                            .rows = layers,
                                            .columns = heads,
                                            .value = share},
                            name);
  free(name);
  free(share);
  return code;
}

/* ---- The run ---- */

/* Keys and values from files, or of a summary that holds every row of a cache. */
typedef struct profile_source {
  cli_input keys, values;
  pith_summary *summary;
  float *rows; /* of the summary: keys (layers, heads, n, d), then values */
  pith_array key_array, value_array;
  double scale;
} profile_source;

static pith_array four_axes(const float *data, const pith_summary_info *info, size_t rows, size_t columns) {
  const ptrdiff_t row = (ptrdiff_t)(columns * sizeof *data), head = row * (ptrdiff_t)rows;
  return (pith_array){.data = data,
                      .dtype = PITH_F32,
                      .ndim = 4,
                      .shape = {info->layers, info->heads, rows, columns},
                      .stride = {head * (ptrdiff_t)info->heads, head, row, sizeof *data}};
}

/* Puts the points of a head at their positions. False: they are not the rows of a cache, each once. */
static bool place_points(const pith_head_view *view, float *keys, float *values) {
  bool *taken = allocate_zero(view->points, sizeof *taken);
  float *key = allocate_zero(view->points * view->d, sizeof *key);
  float *value = allocate_zero(view->points * view->dv, sizeof *value);
  bool good = view->points == view->source_rows;
  pith_head_to_f32(view, key, value);
  for (size_t i = 0; good && i < view->points; i++) {
    const int64_t at = view->index[i];
    good = at >= 0 && (uint64_t)at < view->points && !taken[at] && view->log_weight[i] == 0;
    if (!good) break;
    taken[at] = true;
    memcpy(keys + (size_t)at * view->d, key + i * view->d, view->d * sizeof *keys);
    memcpy(values + (size_t)at * view->dv, value + i * view->dv, view->dv * sizeof *values);
  }
  free(value);
  free(key);
  free(taken);
  return good;
}

static int open_summary(cli_session *session, const char *path, profile_source *source) {
  pith_head_view first;
  pith_status status = pith_summary_load(session->context, path, &source->summary);
  if (status == PITH_OK) status = pith_summary_head(session->context, source->summary, 0, 0, &first);
  if (status != PITH_OK) return session_fail(session, status);
  const pith_summary_info info = pith_summary_describe(source->summary);
  const size_t heads = info.layers * info.heads, n = first.points, d = first.d, dv = first.dv;
  source->rows = allocate_zero(heads * n * (d + dv) + 1, sizeof *source->rows);
  float *values = source->rows + heads * n * d;
  source->scale = info.scale;
  for (size_t i = 0; i < heads; i++) {
    pith_head_view view;
    status = pith_summary_head(session->context, source->summary, i / info.heads, i % info.heads, &view);
    if (status != PITH_OK) return session_fail(session, status);
    if (view.points != n || view.d != d || view.dv != dv ||
        !place_points(&view, source->rows + i * n * d, values + i * n * dv))
      return session_error(session, EXIT_INPUT,
                           "--summary %s: layer %zu, head %zu holds %zu points for %zu rows; what is profiled are all "
                           "rows of a cache, each once: make it with --engine exact, or give --keys",
                           path, i / info.heads, i % info.heads, view.points, view.source_rows);
  }
  source->key_array = four_axes(source->rows, &info, n, d);
  source->value_array = four_axes(values, &info, n, dv);
  return EXIT_DONE;
}

static int source_open(cli_session *session, profile_source *source) {
  const sparsity_arguments *arguments = session->arguments;
  if (arguments->summary) return open_summary(session, arguments->summary, source);
  int code = input_open(session, "--keys", arguments->keys, &source->keys);
  if (!code && arguments->values) code = input_open(session, "--values", arguments->values, &source->values);
  source->key_array = source->keys.array;
  source->value_array = source->values.array;
  return code;
}

static void source_close(profile_source *source) {
  free(source->rows);
  pith_summary_free(source->summary);
  input_close(&source->values);
  input_close(&source->keys);
}

static int profile(cli_session *session) {
  const sparsity_arguments *arguments = session->arguments;
  cli_plot *plot = NULL;
  cli_input queries = {0};
  profile_source source = {0};
  pith_head_profile *found = NULL;
  int code = EXIT_DONE;
  if (arguments->plot) code = session_output(session, "--plot", arguments->plot);
  if (!code && arguments->plot) code = plot_create(session, "--plot", "entries", "mass of all others", &plot);
  if (!code) code = source_open(session, &source);
  if (!code) code = input_open(session, "--queries", arguments->queries, &queries);
  if (code) goto done;

  pith_profile_options options;
  pith_profile_options_init(&options);
  options.causal = arguments->causal;
  options.scale = arguments->scale != 0 ? arguments->scale : source.scale;
  options.eps = arguments->eps;
  options.queries = arguments->samples;
  size_t layers = pith_array_layers(&queries.array), heads = 0;
  if (queries.array.ndim >= 2) heads = pith_array_heads(&queries.array);
  found = allocate_zero(layers * heads, sizeof *found);
  pith_status status = pith_attention_profile(session->context, &queries.array, &source.key_array,
                                              with_values(arguments) ? &source.value_array : NULL, &options, found);
  if (status < 0) {
    code = session_fail(session, status);
    goto done;
  }
  report(session, found, layers, heads);
  if (plot) {
    draw(plot, found, layers, heads);
    code = plot_write(session, plot, arguments->plot);
    if (!code && layers * heads > 1 && strcmp(arguments->plot, "-") != 0)
      code = draw_map(session, found, layers, heads, arguments->plot);
  }
done:
  free(found);
  plot_free(plot);
  input_close(&queries);
  source_close(&source);
  return code;
}

static int run(cli_session *session) {
  const sparsity_arguments *arguments = session->arguments;
  if (session->operand_count > 0) {
    if (strcmp(session->operands[0], "experiment") != 0)
      return usage_error(session->command, "unknown word '%s'; there is: experiment", session->operands[0]);
    if (arguments->summary || arguments->keys || arguments->values || arguments->queries || arguments->causal ||
        arguments->scale != 0)
      return usage_error(session->command,
                         "experiment makes its own logits; leave the files, --causal and --scale out");
    return sparsity_experiment(session);
  }
  if (arguments->summary && (arguments->keys || arguments->values))
    return usage_error(session->command, "--summary together with --keys or --values; give one or the other");
  if (!arguments->summary && !arguments->keys)
    return usage_error(session->command, "--keys K.npy is missing, or --summary C.safetensors");
  if (!arguments->queries) return usage_error(session->command, "--queries Q.npy is missing");
  return profile(session);
}

const cli_command command_sparsity = {
    .name = "sparsity",
    .summary = "how few keys carry the attention of each head",
    .usage = "[experiment] (--keys~K.npy [--values~V.npy]~| --summary~C) --queries~Q.npy [OPTION]...",
    .description =
        "Counts, for every query head, how many keys hold 50, 90, 99 and 99.9 % of the attention, beside what\n"
        "Gaussian logits of the same deviation would do and the bound of arXiv 2404.02690, and how that number\n"
        "grows with the length. 'experiment' takes no files: it puts the claims of that paper to the test on\n"
        "Gaussian logits, where they hold and where they fail. docs/sparsity.md reads the figures.",
    .examples =
        "    pith sparsity --keys K.npy --queries Q.npy --values V.npy --causal --plot sparsity.svg\n"
        "    pith sparsity --summary C.safetensors --queries Q.npy --causal     (of pith compress --engine exact)\n"
        "    pith sparsity experiment --plot experiment.svg\n",
    .groups = groups,
    .arguments_size = sizeof(sparsity_arguments),
    .defaults = defaults,
    .most_operands = 1,
    .operand = "word, 'experiment',",
    .run = run};
