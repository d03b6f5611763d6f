/* sample_l2.c - pith sample l2: rows by the square of A x. */
#include <stdlib.h>
#include <string.h>

#include "sample.h"

static const sample_word stream_words[] = {{"A", PITH_UPDATE_A, 2}, {"x", PITH_UPDATE_X, 1}, {NULL, 0, 0}};

typedef struct l2_run {
  cli_session *session;
  const sample_arguments *arguments;
  pith_l2 *sampler;
  pith_l2_info info;
  sample_stream *stream;
  json_t *draws; /* with --json */
  size_t updates, wanted, taken;
  double stream_seconds, draw_seconds;
} l2_run;

/* ---- Options ---- */

static int check_usage(const cli_command *command, const sample_arguments *arguments) {
  if (arguments->method > PITH_METHOD_EXACT)
    return usage_error(command, "sample l2 has the methods auto, sketch and exact");
  if (arguments->load && (arguments->rows || arguments->x))
    return usage_error(command, "--load together with --rows or --x; the sketch knows its own");
  if (!arguments->load && !arguments->rows) return usage_error(command, "--rows N is missing");
  if (arguments->save && arguments->method == PITH_METHOD_EXACT)
    return usage_error(command, "--save with --method exact; only sketches are saved");
  if (arguments->load && arguments->method == PITH_METHOD_EXACT)
    return usage_error(command, "--load with --method exact; a saved sampler is a sketch");
  if (arguments->save && arguments->distinct == 0 && arguments->draws == 0)
    return usage_error(command, "--save with --draws 0; a sketch without draws is of no use");
  return EXIT_DONE;
}

/* --x as doubles, to be freed. */
static int read_x(cli_session *session, size_t dim, double **x) {
  const sample_arguments *arguments = session->arguments;
  cli_input input = {0};
  int code = input_open(session, "--x", arguments->x, &input);
  if (code) return code;
  const pith_array *array = &input.array;
  if (array->ndim != 1 || array->shape[0] != dim || (array->dtype != PITH_F32 && array->dtype != PITH_F64)) {
    code =
        session_error(session, EXIT_INPUT,
                      "--x %s: it must be %zu numbers (--dim) of type f32 or f64, in one dimension", arguments->x, dim);
  } else {
    *x = allocate_zero(dim, sizeof **x);
    for (size_t j = 0; j < dim; j++) {
      const char *at = (const char *)array->data + (ptrdiff_t)j * array->stride[0];
      float narrow = 0;
      if (array->dtype == PITH_F64) {
        memcpy(*x + j, at, sizeof **x);
      } else {
        memcpy(&narrow, at, sizeof narrow);
        (*x)[j] = narrow;
      }
    }
  }
  input_close(&input);
  return code;
}

static int create(l2_run *run) {
  cli_session *session = run->session;
  const sample_arguments *arguments = run->arguments;
  if (arguments->load) {
    pith_status status = pith_l2_load(session->context, arguments->load, &run->sampler);
    return status < 0 ? session_fail(session, status) : EXIT_DONE;
  }
  pith_l2_options options;
  pith_l2_options_init(&options);
  options.rows = arguments->rows;
  options.dim = arguments->dim;
  options.free_x = arguments->free_x || (!arguments->x && arguments->dim > 1);
  options.draws = arguments->draws;
  options.distinct = arguments->distinct;
  options.method = (pith_method)arguments->method;
  if (arguments->save) options.method = PITH_METHOD_SKETCH;
  options.decode = (pith_decode)arguments->decode;
  options.cells = (pith_cells)arguments->cells;
  options.unit = arguments->unit;
  options.strict = arguments->strict;
  options.copies = arguments->copies;
  options.depth = arguments->depth;
  options.buckets = arguments->buckets;
  options.eps = arguments->eps;
  options.memory = arguments->memory;
  options.seed = session->common->seed;
  double *x = NULL;
  int code = arguments->x ? read_x(session, options.dim, &x) : EXIT_DONE;
  options.x = x;
  if (!code) {
    pith_status status = pith_l2_create(session->context, &options, &run->sampler);
    if (status < 0) code = session_fail(session, status);
  }
  free(x);
  return code;
}

static void say_method(const l2_run *run) {
  const pith_l2_info *info = &run->info;
  if (run->session->common->quiet || run->session->common->json || run->arguments->method != PITH_METHOD_AUTO) return;
  if (run->arguments->load || run->arguments->save) return;
  fprintf(stderr, "pith sample: method %s: %s for %zu rows", pith_method_name(info->method),
          text_bytes(8 * info->words).at, info->rows);
  if (info->method == PITH_METHOD_SKETCH) fprintf(stderr, ", %zu sketches", info->sketches);
  fputc('\n', stderr);
}

/* ---- Draws ---- */

static void put_draw(l2_run *run, const pith_draw *draw, bool weighted) {
  if (run->session->common->json) {
    json_t *object = json_pack("{sI}", "index", (json_int_t)draw->row);
    json_object_set_new(object, "value", json_number(draw->value));
    if (weighted) json_object_set_new(object, "weight", json_number(draw->weight));
    json_array_append_new(run->draws, object);
  } else if (weighted) {
    fprintf(run->session->out, "%llu %.9g %.9g\n", (unsigned long long)draw->row, draw->value, draw->weight);
  } else {
    fprintf(run->session->out, "%llu %.9g\n", (unsigned long long)draw->row, draw->value);
  }
}

enum { AT_ONCE = 840 * 64 }; /* draws: whole sketches of 1 to 8 */

static pith_status take_some(l2_run *run, size_t count, bool distinct, pith_draw *draws) {
  double started = seconds_now();
  size_t drawn = 0;
  pith_status status = distinct ? pith_l2_draw_distinct(run->session->context, run->sampler, count, draws, &drawn)
                                : pith_l2_draw(run->session->context, run->sampler, count, draws, &drawn);
  run->draw_seconds += seconds_now() - started;
  for (size_t i = 0; i < drawn && status >= 0; i++) put_draw(run, &draws[i], distinct);
  run->wanted += count;
  run->taken += drawn;
  return status;
}

static pith_status take(l2_run *run, size_t count, bool distinct) {
  pith_draw *draws = allocate_zero(count < AT_ONCE ? count : AT_ONCE, sizeof *draws);
  pith_status status = PITH_OK;
  for (size_t left = count; left > 0 && status >= 0 && !interrupted();) {
    size_t some = left < AT_ONCE ? left : AT_ONCE;
    status = take_some(run, some, distinct, draws);
    left -= some;
  }
  free(draws);
  return status;
}

/* Draws that one sketch serves; all of them at one moment, since a sketch that was drawn from is spent. */
static size_t draws_of_sketch(const l2_run *run) { return run->info.strict ? 1 : run->info.copies; }

static size_t fresh_draws(const l2_run *run) {
  pith_l2_info now = pith_l2_describe(run->sampler);
  return now.method == PITH_METHOD_EXACT ? SIZE_MAX : (now.sketches - now.spent) * draws_of_sketch(run);
}

/* The --draws that would have left fresh sketches for `count` more. */
static size_t draws_to_ask_for(const l2_run *run, size_t count) {
  size_t each = draws_of_sketch(run);
  return (pith_l2_describe(run->sampler).spent + count / each + (count % each != 0)) * each;
}

/* A line `draw T`. */
static int draw_here(l2_run *run) {
  const sample_stream *stream = run->stream;
  size_t fresh = fresh_draws(run);
  if (stream->wanted > fresh)
    return session_error(
        run->session, EXIT_INPUT,
        "%s: %s %zu: %zu draws, but the sketches left serve %zu (a line draw takes whole sketches, of %zu "
        "draws each); begin with --draws %zu or more",
        stream->name, stream->records ? "record" : "line", stream->number, stream->wanted, fresh, draws_of_sketch(run),
        draws_to_ask_for(run, stream->wanted));
  return take(run, stream->wanted, false) < 0 ? sample_stream_refused(run->session, stream, 0) : EXIT_DONE;
}

static int draw_at_end(l2_run *run) {
  if (run->arguments->save) return EXIT_DONE;
  if (run->arguments->distinct) {
    pith_status status = take(run, run->arguments->distinct, true);
    return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
  }
  size_t rest = run->arguments->draws > run->wanted ? run->arguments->draws - run->wanted : 0;
  size_t fresh = fresh_draws(run), count = rest < fresh ? rest : fresh;
  if (count < rest)
    session_warn(run->session,
                 "%zu draws instead of %zu: a sketch serves %zu draws of one moment; begin with --draws %zu", count,
                 rest, draws_of_sketch(run), draws_to_ask_for(run, rest));
  pith_status status = take(run, count, false);
  if (status < 0) return session_fail(run->session, status);
  if (run->taken < run->wanted)
    session_warn(run->session, "%zu of %zu draws failed: %s", run->wanted - run->taken, run->wanted,
                 run->info.strict ? "entries could not be told apart" : "A x is zero, or the sketch too small");
  return EXIT_DONE;
}

/* ---- The stream ---- */

static int apply(l2_run *run) {
  cli_session *session = run->session;
  sample_stream *stream = run->stream;
  size_t done = 0;
  pith_status status = stream->batch == SAMPLE_ROW
                           ? pith_l2_update_row(session->context, run->sampler, stream->row, stream->values, 1)
                           : pith_l2_update(session->context, run->sampler, stream->update, stream->count, &done);
  run->updates += stream->batch == SAMPLE_ROW ? (status < 0 ? 0 : stream->width) : done;
  return status < 0 ? sample_stream_refused(session, stream, done) : EXIT_DONE;
}

static int follow(l2_run *run) {
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

/* After a bad line too: all that stands before it is sound. */
static int save(l2_run *run, int code) {
  if (!run->arguments->save || (code && code != EXIT_INPUT)) return code;
  pith_status status = pith_l2_save(run->session->context, run->sampler, run->arguments->save);
  if (status < 0) return session_fail(run->session, status);
  if (code) session_warn(run->session, "%s holds the stream up to there", run->arguments->save);
  return code;
}

static int report(l2_run *run) {
  cli_session *session = run->session;
  pith_l2_info info = pith_l2_describe(run->sampler);
  double norm = 0;
  if (!session->common->json) return EXIT_DONE;
  pith_status status = pith_l2_norm(session->context, run->sampler, &norm);
  if (status < 0) return session_fail(session, status);
  json_t *object = json_report();
  json_object_set_new(object, "method", json_string(pith_method_name(info.method)));
  if (info.method == PITH_METHOD_SKETCH) {
    json_object_set_new(object, "decode", json_string(pith_decode_name(info.decode)));
    json_object_set_new(object, "sketches", json_count(info.sketches));
    json_object_set_new(object, "copies", json_count(info.copies));
    json_object_set_new(object, "depth", json_count(info.depth));
    json_object_set_new(object, "buckets", json_count(info.buckets));
  }
  json_object_set_new(object, "rows", json_count(info.rows));
  json_object_set_new(object, "dim", json_count(info.dim));
  json_object_set_new(object, "seed", json_count(info.seed));
  json_object_set_new(object, "draws", json_incref(run->draws));
  json_object_set_new(object, "failures", json_count(run->arguments->distinct ? 0 : run->wanted - run->taken));
  json_object_set_new(object, "norm", json_number(norm));
  json_object_set_new(object, "memory_words", json_count(info.words));
  sample_set_updates(object, run->updates, run->stream_seconds);
  json_object_set_new(object, "seconds", json_number(session_seconds(session)));
  json_print(object, session->out);
  return EXIT_DONE;
}

int sample_l2(cli_session *session) {
  l2_run run = {.session = session, .arguments = session->arguments};
  int code = check_usage(session->command, run.arguments);
  if (!code && run.arguments->save) code = session_output(session, "--save", run.arguments->save);
  if (!code) code = create(&run);
  if (code) return code;
  run.info = pith_l2_describe(run.sampler);
  run.draws = json_array();
  say_method(&run);
  code = sample_stream_open(session, run.arguments->updates, stream_words, run.info.dim, &run.stream);
  if (!code) code = follow(&run);
  if (!code) code = draw_at_end(&run);
  if (run.stream) code = save(&run, code);
  if (!code) code = report(&run);
  sample_stream_close(run.stream);
  json_decref(run.draws);
  pith_l2_free(run.sampler);
  return code;
}
