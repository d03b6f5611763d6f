/* sample_attention.c - pith sample attention: keys by the laws of attention. */
#include <math.h>
#include <stdlib.h>

#include "sample.h"

typedef struct attention_run {
  cli_session *session;
  const sample_arguments *arguments;
  cli_input keys, queries, values;
  size_t n, m, dv, count;
  pith_draw *draws; /* (m, count) */
  size_t *drawn;    /* (m) */
  double *norms;    /* (m) */
  pith_key_report report;
  double key_seconds, draw_seconds; /* reservoirs draw while keys come */
  double *mean, *half_width;        /* (m, dv) with --values */
} attention_run;

static int check_usage(const cli_command *command, const sample_arguments *arguments) {
  if (!arguments->keys) return usage_error(command, "--keys K.npy is missing");
  if (!arguments->queries) return usage_error(command, "--queries Q.npy is missing");
  if (!arguments->power && !arguments->softmax) return usage_error(command, "no law; give --power P or --softmax");
  if (arguments->registered && !arguments->softmax) return usage_error(command, "--registered needs --softmax");
  if (arguments->registered && arguments->method != PITH_METHOD_AUTO)
    return usage_error(command, "--registered together with --method; keys then pass once, whatever the method");
  if (arguments->method != PITH_METHOD_AUTO && arguments->method < SAMPLE_SCAN)
    return usage_error(command, "sample attention has the methods auto, scan and tree");
  if (arguments->draws == 0) return usage_error(command, "--draws is 0; it must be 1 or more");
  if (arguments->values && arguments->draws < 2)
    return usage_error(command, "--values needs --draws 2 or more, for an interval");
  if (arguments->output && !arguments->values) return usage_error(command, "-o needs --values V.npy");
  if (arguments->values && arguments->power > 2 && arguments->method == SAMPLE_TREE && !arguments->softmax)
    return usage_error(command,
                       "--values with --power %zu --method tree: its law is approximate, and an interval would "
                       "not hold; take --method scan",
                       arguments->power);
  return EXIT_DONE;
}

static int open_inputs(attention_run *run) {
  cli_session *session = run->session;
  const sample_arguments *arguments = run->arguments;
  int code = input_open(session, "--keys", arguments->keys, &run->keys);
  if (!code) code = input_open(session, "--queries", arguments->queries, &run->queries);
  if (!code && arguments->values) code = input_open(session, "--values", arguments->values, &run->values);
  if (code) return code;
  const pith_array *keys = &run->keys.array, *queries = &run->queries.array, *values = &run->values.array;
  if (keys->ndim != 2 || queries->ndim != 2)
    return session_error(session, EXIT_INPUT, "--keys and --queries must have two dimensions, (n, d) and (m, d)");
  if (arguments->values && (values->ndim != 2 || values->shape[0] != keys->shape[0]))
    return session_error(session, EXIT_INPUT, "--values %s: it must be (%zu, dv), a row for every key",
                         arguments->values, keys->shape[0]);
  run->n = keys->shape[0];
  run->m = queries->shape[0];
  run->dv = arguments->values ? values->shape[1] : 0;
  run->count = arguments->draws;
  size_t places = 0;
  if (__builtin_mul_overflow(run->m, run->count, &places) || places > arguments->memory / sizeof *run->draws)
    return session_error(session, EXIT_INPUT,
                         "%zu draws for each of %zu queries do not fit into --memory; at most "
                         "--draws %zu does",
                         run->count, run->m, run->m ? arguments->memory / sizeof *run->draws / run->m : 0);
  run->draws = allocate_zero(places, sizeof *run->draws);
  run->drawn = allocate_zero(run->m, sizeof *run->drawn);
  run->norms = allocate_zero(run->m, sizeof *run->norms);
  return EXIT_DONE;
}

static pith_status draw_registered(attention_run *run) {
  pith_context *context = run->session->context;
  double started = seconds_now();
  pith_reservoirs *reservoirs = NULL;
  pith_status status = pith_reservoirs_create(context, &run->queries.array, run->count, run->arguments->scale,
                                              run->session->common->seed, &reservoirs);
  if (status < 0) return status;
  status = pith_reservoirs_push(context, reservoirs, &run->keys.array, 0);
  if (status >= 0 && pith_reservoirs_draws(reservoirs, run->draws))
    for (size_t i = 0; i < run->m; i++) run->drawn[i] = run->count;
  pith_reservoirs_norms(reservoirs, run->norms);
  run->key_seconds = seconds_now() - started;
  run->report.words = pith_reservoirs_words(reservoirs);
  pith_reservoirs_free(reservoirs);
  return status;
}

static pith_status draw_stored(attention_run *run) {
  const sample_arguments *arguments = run->arguments;
  pith_key_options options;
  pith_key_options_init(&options);
  options.law = arguments->softmax ? PITH_LAW_SOFTMAX : PITH_LAW_POWER;
  options.power = arguments->power ? arguments->power : 1;
  options.scale = arguments->scale;
  options.method = arguments->method == SAMPLE_SCAN   ? PITH_KEYS_SCAN
                   : arguments->method == SAMPLE_TREE ? PITH_KEYS_TREE
                                                      : PITH_KEYS_AUTO;
  options.features = arguments->features;
  options.memory = arguments->memory;
  options.seed = run->session->common->seed;
  pith_key_sampler *sampler = NULL;
  double started = seconds_now();
  pith_status status = pith_key_sampler_create(run->session->context, &run->keys.array, &options, &sampler);
  run->key_seconds = seconds_now() - started;
  if (status >= 0)
    status = pith_key_sampler_draw(run->session->context, sampler, &run->queries.array, run->count, run->draws,
                                   run->drawn, run->norms, &run->report);
  run->draw_seconds = seconds_now() - started - run->key_seconds;
  pith_key_sampler_free(sampler);
  return status;
}

/* Outputs of queries without draws stay 0, with a width that says nothing. */
static pith_status estimate(attention_run *run) {
  if (!run->dv) return PITH_OK;
  run->mean = allocate_zero(run->m * run->dv, sizeof *run->mean);
  run->half_width = allocate_zero(run->m * run->dv, sizeof *run->half_width);
  pith_status status = PITH_OK;
  for (size_t i = 0; i < run->m && status >= 0; i++)
    if (run->drawn[i] == run->count)
      status = pith_draws_attend(run->session->context, &run->values.array, run->draws + i * run->count, 1, run->count,
                                 run->arguments->confidence, run->mean + i * run->dv, run->half_width + i * run->dv);
  if (status < 0 || !run->arguments->output) return status;
  pith_array mean = pith_array_matrix(run->mean, PITH_F64, run->m, run->dv);
  return pith_npy_write(run->session->context, run->arguments->output, &mean);
}

static void print_draws(const attention_run *run) {
  for (size_t i = 0; i < run->m; i++)
    for (size_t t = 0; t < run->drawn[i]; t++) {
      const pith_draw *draw = &run->draws[i * run->count + t];
      if (run->m > 1) fprintf(run->session->out, "%zu ", i);
      fprintf(run->session->out, "%llu %.9g\n", (unsigned long long)draw->row, draw->value);
    }
}

/* Whether intervals can say anything: the bound is below the range of the values at least for equal draws. */
static bool is_certified(const attention_run *run) {
  double logarithm = log(4 * (double)run->dv / (1 - run->arguments->confidence));
  return 7 * logarithm / (3 * ((double)run->count - 1)) < 1;
}

static json_t *row_of_numbers(const double *values, size_t count) {
  json_t *row = json_array();
  for (size_t i = 0; i < count; i++) json_array_append_new(row, json_number(values[i]));
  return row;
}

static void print_json(const attention_run *run, size_t failures) {
  const sample_arguments *arguments = run->arguments;
  json_t *object = json_report(), *draws = json_array();
  for (size_t i = 0; i < run->m; i++)
    for (size_t t = 0; t < run->drawn[i]; t++) {
      const pith_draw *draw = &run->draws[i * run->count + t];
      json_t *one = json_pack("{sIsI}", "query", (json_int_t)i, "index", (json_int_t)draw->row);
      json_object_set_new(one, "value", json_number(draw->value));
      json_array_append_new(draws, one);
    }
  json_object_set_new(object, "law", json_string(arguments->softmax ? "softmax" : "power"));
  if (!arguments->softmax) json_object_set_new(object, "power", json_count(arguments->power));
  json_object_set_new(object, "keys", json_count(run->n));
  json_object_set_new(object, "queries", json_count(run->m));
  json_object_set_new(object, "seed", json_count(run->session->common->seed));
  json_object_set_new(object, "draws", draws);
  json_object_set_new(object, arguments->softmax ? "log_sums" : "norms", row_of_numbers(run->norms, run->m));
  json_object_set_new(object, "failures", json_count(failures));
  json_object_set_new(object, "proposals", json_count(run->report.proposals));
  json_object_set_new(object, "accepted", json_count(run->report.accepted));
  json_object_set_new(
      object, "acceptance",
      json_number(run->report.proposals ? (double)run->report.accepted / (double)run->report.proposals : NAN));
  json_object_set_new(object, "scanned_queries", json_count(run->report.scanned));
  json_object_set_new(object, "law_distance", json_number(run->report.distance));
  json_object_set_new(object, "memory_words", json_count(run->report.words));
  if (run->dv) {
    json_t *outputs = json_array();
    for (size_t i = 0; i < run->m; i++) {
      json_t *output = json_object();
      bool drawn = run->drawn[i] == run->count;
      json_object_set_new(output, "estimate", drawn ? row_of_numbers(run->mean + i * run->dv, run->dv) : json_null());
      json_object_set_new(output, "half_width",
                          drawn ? row_of_numbers(run->half_width + i * run->dv, run->dv) : json_null());
      json_array_append_new(outputs, output);
    }
    json_object_set_new(object, "outputs", outputs);
    json_object_set_new(object, "confidence", json_number(arguments->confidence));
    json_object_set_new(object, "certified", json_boolean(is_certified(run)));
  }
  sample_set_updates(object, run->n, run->key_seconds);
  json_object_set_new(object, "draw_seconds", json_number(run->draw_seconds));
  json_object_set_new(object, "seconds", json_number(session_seconds(run->session)));
  json_print(object, run->session->out);
}

static void say(const attention_run *run, size_t failures) {
  if (failures) session_warn(run->session, "%zu draws failed: all keys have weight 0 for their queries", failures);
  if (run->session->common->quiet) return;
  if (run->report.proposals > run->report.accepted)
    fprintf(stderr, "pith sample: %zu of %zu proposals accepted (%s)\n", run->report.accepted, run->report.proposals,
            text_share((double)run->report.accepted / (double)run->report.proposals).at);
  if (run->report.distance > 0)
    session_warn(run->session, "the law is approximate: total variation about %.3f, judged from the draws",
                 run->report.distance);
  if (!run->dv) return;
  double widest = 0;
  for (size_t i = 0; i < run->m * run->dv; i++)
    if (run->half_width[i] > widest) widest = run->half_width[i];
  if (is_certified(run))
    fprintf(stderr, "pith sample: outputs within %.4g in every coordinate (confidence %g for each query)\n", widest,
            run->arguments->confidence);
  else
    fprintf(stderr, "pith sample: outputs uncertified: %zu draws are too few for an interval\n", run->count);
}

int sample_attention(cli_session *session) {
  attention_run run = {.session = session, .arguments = session->arguments};
  int code = check_usage(session->command, run.arguments);
  if (!code && run.arguments->output) code = session_output(session, "-o", run.arguments->output);
  if (!code) code = open_inputs(&run);
  if (!code) {
    pith_status status = run.arguments->registered ? draw_registered(&run) : draw_stored(&run);
    if (status >= 0) status = estimate(&run);
    size_t failures = 0;
    for (size_t i = 0; i < run.m; i++) failures += run.count - run.drawn[i];
    if (status < 0) {
      code = session_fail(session, status);
    } else if (session->common->json) {
      print_json(&run, failures);
    } else {
      print_draws(&run);
      say(&run, failures);
    }
  }
  free(run.half_width);
  free(run.mean);
  free(run.norms);
  free(run.drawn);
  free(run.draws);
  input_close(&run.values);
  input_close(&run.queries);
  input_close(&run.keys);
  return code;
}
