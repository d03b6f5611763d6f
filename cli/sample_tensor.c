/* sample_tensor.c - pith sample tensor: pairs of rows by the square of A1 X A2^T. */
#include <stdlib.h>

#include "sample.h"

static const sample_word stream_words[] = {
    {"A1", PITH_TENSOR_A1, 2}, {"A2", PITH_TENSOR_A2, 2}, {"X", PITH_TENSOR_X, 2}, {NULL, 0, 0}};

typedef struct tensor_run {
  cli_session *session;
  const sample_arguments *arguments;
  pith_tensor *sampler;
  sample_stream *stream;
  json_t *draws; /* with --json */
  size_t updates, wanted, taken;
  double stream_seconds, draw_seconds;
} tensor_run;

static int check_usage(const cli_command *command, const sample_arguments *arguments) {
  if (arguments->load && (arguments->rows1 || arguments->rows2 || arguments->method != PITH_METHOD_AUTO))
    return usage_error(command, "--load together with --rows1, --rows2 or --method; the sampler knows its own");
  if (!arguments->load && !arguments->rows1) return usage_error(command, "--rows1 N1 is missing");
  if (!arguments->load && !arguments->rows2) return usage_error(command, "--rows2 N2 is missing");
  if (arguments->method > SAMPLE_PAIRS)
    return usage_error(command, "sample tensor has the methods auto, exact, sketch and pairs");
  return EXIT_DONE;
}

static int create(tensor_run *run) {
  cli_session *session = run->session;
  const sample_arguments *arguments = run->arguments;
  if (arguments->load) {
    pith_status status = pith_tensor_load(session->context, arguments->load, &run->sampler);
    return status < 0 ? session_fail(session, status) : EXIT_DONE;
  }
  pith_tensor_options options;
  pith_tensor_options_init(&options);
  options.rows1 = arguments->rows1;
  options.rows2 = arguments->rows2;
  options.dim = arguments->dim;
  options.draws = arguments->draws ? arguments->draws : 1;
  options.method = arguments->method == SAMPLE_PAIRS         ? PITH_TENSOR_PAIRS
                   : arguments->method == PITH_METHOD_SKETCH ? PITH_TENSOR_SKETCH
                   : arguments->method == PITH_METHOD_EXACT  ? PITH_TENSOR_EXACT
                                                             : PITH_TENSOR_AUTO;
  options.buckets = arguments->buckets;
  options.memory = arguments->memory;
  options.seed = session->common->seed;
  pith_status status = pith_tensor_create(session->context, &options, &run->sampler);
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

static void say_method(const tensor_run *run) {
  if (run->session->common->quiet || run->session->common->json || run->arguments->method != PITH_METHOD_AUTO) return;
  if (run->arguments->load) return;
  pith_tensor_info info = pith_tensor_describe(run->sampler);
  fprintf(stderr, "pith sample: method %s: %s for %zu x %zu pairs\n", pith_tensor_method_name(info.method),
          text_bytes(8 * info.words).at, info.rows1, info.rows2);
}

static pith_status take(tensor_run *run, size_t count) {
  double started = seconds_now();
  size_t drawn = 0;
  pith_pair *pairs = allocate_zero(count, sizeof *pairs);
  pith_status status = pith_tensor_draw(run->session->context, run->sampler, count, pairs, &drawn);
  run->draw_seconds += seconds_now() - started;
  for (size_t i = 0; i < drawn && status >= 0; i++) {
    if (run->session->common->json) {
      json_t *pair = json_pack("{s[II]}", "pair", (json_int_t)pairs[i].row1, (json_int_t)pairs[i].row2);
      json_object_set_new(pair, "value", json_number(pairs[i].value));
      json_array_append_new(run->draws, pair);
    } else {
      fprintf(run->session->out, "%llu %llu %.9g\n", (unsigned long long)pairs[i].row1,
              (unsigned long long)pairs[i].row2, pairs[i].value);
    }
  }
  run->wanted += count;
  run->taken += drawn;
  free(pairs);
  return status;
}

/* The --draws that would have left sketches for `count` more. */
static size_t draws_to_ask_for(const tensor_run *run, size_t count) {
  pith_tensor_info now = pith_tensor_describe(run->sampler);
  return now.draws + (count - now.left);
}

/* A line `draw T`. */
static int draw_here(tensor_run *run) {
  const sample_stream *stream = run->stream;
  size_t fresh = pith_tensor_describe(run->sampler).left;
  if (stream->wanted > fresh)
    return session_error(run->session, EXIT_INPUT,
                         "%s: %s %zu: %zu draws, but the sketches left serve %zu; begin with --draws %zu or more",
                         stream->name, stream->records ? "record" : "line", stream->number, stream->wanted, fresh,
                         draws_to_ask_for(run, stream->wanted));
  return take(run, stream->wanted) < 0 ? sample_stream_refused(run->session, stream, 0) : EXIT_DONE;
}

static int apply(tensor_run *run) {
  sample_stream *stream = run->stream;
  size_t done = 0;
  pith_status status = pith_tensor_update(run->session->context, run->sampler, stream->update, stream->count, &done);
  run->updates += done;
  return status < 0 ? sample_stream_refused(run->session, stream, done) : EXIT_DONE;
}

static int follow(tensor_run *run) {
  double started = seconds_now();
  int code = EXIT_DONE;
  while (!code) {
    code = sample_stream_next(run->session, run->stream);
    if (code || run->stream->batch == SAMPLE_END) break;
    code = run->stream->batch == SAMPLE_DRAW ? draw_here(run) : apply(run);
    if (!code && interrupted()) code = session_fail(run->session, PITH_E_CANCELLED);
  }
  run->stream_seconds = seconds_now() - started - run->draw_seconds;
  return code;
}

static int draw_at_end(tensor_run *run) {
  if (run->arguments->save) return EXIT_DONE;
  size_t rest = run->arguments->draws > run->wanted ? run->arguments->draws - run->wanted : 0;
  size_t fresh = pith_tensor_describe(run->sampler).left, left = rest < fresh ? rest : fresh;
  if (left < rest)
    session_warn(run->session, "%zu draws instead of %zu: the sketches serve no more; begin with --draws %zu", left,
                 rest, draws_to_ask_for(run, rest));
  pith_status status = left ? take(run, left) : PITH_OK;
  if (status < 0) return session_fail(run->session, status);
  if (run->taken < run->wanted)
    session_warn(run->session, "%zu of %zu draws failed: A1 X A2^T is zero, or the sketch too small",
                 run->wanted - run->taken, run->wanted);
  return EXIT_DONE;
}

/* After a bad line too: all that stands before it is sound. */
static int save(tensor_run *run, int code) {
  if (!run->arguments->save || (code && code != EXIT_INPUT)) return code;
  pith_status status = pith_tensor_save(run->session->context, run->sampler, run->arguments->save);
  if (status < 0) return session_fail(run->session, status);
  if (code) session_warn(run->session, "%s holds the stream up to there", run->arguments->save);
  return code;
}

static int report(tensor_run *run) {
  cli_session *session = run->session;
  if (!session->common->json) return EXIT_DONE;
  pith_tensor_info info = pith_tensor_describe(run->sampler);
  double norm = 0;
  pith_status status = pith_tensor_norm(session->context, run->sampler, &norm);
  if (status < 0) return session_fail(session, status);
  json_t *object = json_report();
  json_object_set_new(object, "method", json_string(pith_tensor_method_name(info.method)));
  if (info.buckets) json_object_set_new(object, "buckets", json_count(info.buckets));
  json_object_set_new(object, "rows1", json_count(info.rows1));
  json_object_set_new(object, "rows2", json_count(info.rows2));
  json_object_set_new(object, "dim", json_count(info.dim));
  json_object_set_new(object, "seed", json_count(info.seed));
  json_object_set_new(object, "draws", json_incref(run->draws));
  json_object_set_new(object, "failures", json_count(run->wanted - run->taken));
  json_object_set_new(object, "norm", json_number(norm));
  json_object_set_new(object, "memory_words", json_count(info.words));
  sample_set_updates(object, run->updates, run->stream_seconds);
  json_object_set_new(object, "seconds", json_number(session_seconds(session)));
  json_print(object, session->out);
  return EXIT_DONE;
}

int sample_tensor(cli_session *session) {
  tensor_run run = {.session = session, .arguments = session->arguments};
  int code = check_usage(session->command, run.arguments);
  if (!code && run.arguments->save) code = session_output(session, "--save", run.arguments->save);
  if (!code) code = create(&run);
  if (code) return code;
  run.draws = json_array();
  say_method(&run);
  code = sample_stream_open(session, run.arguments->updates, stream_words, 0, &run.stream);
  if (!code) code = follow(&run);
  if (!code) code = draw_at_end(&run);
  if (run.stream) code = save(&run, code);
  if (!code) code = report(&run);
  sample_stream_close(run.stream);
  json_decref(run.draws);
  pith_tensor_free(run.sampler);
  return code;
}
