/* attend.c - pith attend: answers queries from all keys, or from a summary. */
#include <stdlib.h>

#include "report.h"

typedef struct attend_arguments {
  common_arguments common;
  const char *summary, *keys, *values, *queries, *output, *globals, *block_mask;
  int causal;
  size_t window, block;
  double scale, eps, confidence;
} attend_arguments;

#define FIELD(member) .offset = offsetof(attend_arguments, member)

static const cli_option file_options[] = {
    {"summary", 0, OPTION_FILE, "F.safetensors", "answer from this summary", FIELD(summary)},
    {"keys", 0, OPTION_FILE, "K.npy", "answer exactly, from these keys", FIELD(keys)},
    {"values", 0, OPTION_FILE, "V.npy", "and these values", FIELD(values)},
    {"queries", 0, OPTION_FILE, "Q.npy", "queries: (m, d), (heads, m, d) or (layers, heads, m, d)", FIELD(queries)},
    {"output", 'o', OPTION_FILE, "OUT.npy", "answers, f32 (layers, query heads, m, dv), with the axes of the queries",
     FIELD(output)},
    {.name = NULL}};

static const cli_option mask_options[] = {
    {"causal", 0, OPTION_FLAG, NULL, "a query sees keys up to its own position; the last query stands at the last key",
     FIELD(causal)},
    {"window", 0, OPTION_COUNT, "N", "a query sees keys less than N positions away", FIELD(window), .least = 1},
    {"scale", 0, OPTION_REAL, "S", "softmax scale (default 1/sqrt(d), or that of the summary)", FIELD(scale),
     .open = true},
    {"global", 0, OPTION_TEXT, "I,J,...",
     "positions, such as 0-3,100, that every query sees beside its window and blocks, and from which all keys are seen",
     FIELD(globals)},
    {"block-mask", 0, OPTION_FILE, "M.npy",
     "blocks of keys that each block of queries sees: (blocks of queries, blocks of keys), bool or u1, one for all "
     "heads "
     "or one for each query head",
     FIELD(block_mask)},
    {"block-size", 0, OPTION_COUNT, "N", "queries and keys of a block (default: what divides them evenly)",
     FIELD(block), .least = 1},
    {"eps", 0, OPTION_REAL, "E",
     "read only the keys (or points) that an error of at most E needs (L2 norm of each answer's), or exit code 4",
     FIELD(eps), .open = true},
    {"confidence", 0, OPTION_REAL, "C",
     "with --eps: each bound may hold with probability C only, such as 0.99, where drawing some of the keys saves "
     "reading",
     FIELD(confidence), .most = 1, .open = true},
    {.name = NULL}};

static const cli_group groups[] = {
    {"Files", file_options, 0}, {"Attention", mask_options, 0}, {"Common", common_options, 0}, {.title = NULL}};

static int check_usage(const cli_command *command, const attend_arguments *arguments) {
  if (!arguments->summary && !arguments->keys && !arguments->values)
    return usage_error(command, "nothing to answer from; give --summary F, or --keys K.npy --values V.npy");
  if (arguments->summary && (arguments->keys || arguments->values))
    return usage_error(command, "--summary together with --keys or --values; give one or the other");
  if (!arguments->summary && !arguments->keys) return usage_error(command, "--keys K.npy is missing");
  if (!arguments->summary && !arguments->values) return usage_error(command, "--values V.npy is missing");
  if (arguments->summary && arguments->causal)
    return usage_error(command,
                       "--causal means nothing with --summary: a summary holds no later keys, all its queries "
                       "are asked after it");
  const char *pattern = arguments->window       ? "--window"
                        : arguments->globals    ? "--global"
                        : arguments->block_mask ? "--block-mask"
                                                : NULL;
  if (arguments->summary && pattern)
    return usage_error(command, "%s means nothing with --summary: its points no longer stand at single positions",
                       pattern);
  if (arguments->confidence > 0 && !(arguments->eps > 0))
    return usage_error(command, "--confidence without --eps E: there is no bound for it to hold of; give both");
  if (arguments->globals && !arguments->window && !arguments->block_mask)
    return usage_error(
        command, "--global without --window N or --block-mask M.npy: all keys are seen already; give one of them");
  if (arguments->block && !arguments->block_mask)
    return usage_error(command, "--block-size without --block-mask M.npy; give the mask");
  if (!arguments->queries) return usage_error(command, "--queries Q.npy is missing");
  if (!arguments->output) return usage_error(command, "-o OUT.npy is missing");
  return EXIT_DONE;
}

/* What is answered from: a summary, or keys and values. */
typedef struct answer_source {
  pith_summary *summary;
  cli_input keys, values;
  size_t rows, dv;
} answer_source;

static int source_open(cli_session *session, answer_source *source) {
  const attend_arguments *arguments = session->arguments;
  if (arguments->summary) {
    pith_head_view head;
    pith_status status = pith_summary_load(session->context, arguments->summary, &source->summary);
    if (status == PITH_OK) status = pith_summary_head(session->context, source->summary, 0, 0, &head);
    if (status != PITH_OK) return session_fail(session, status);
    source->rows = head.source_rows;
    source->dv = head.dv;
    return EXIT_DONE;
  }
  int code = input_open(session, "--keys", arguments->keys, &source->keys);
  if (!code) code = input_open(session, "--values", arguments->values, &source->values);
  if (code) return code;
  const pith_array *values = &source->values.array;
  source->rows = values->ndim >= 2 ? values->shape[values->ndim - 2] : 0;
  source->dv = values->shape[values->ndim - 1];
  return EXIT_DONE;
}

static void source_close(answer_source *source) {
  pith_summary_free(source->summary);
  input_close(&source->values);
  input_close(&source->keys);
}

/* The answers, shaped as the queries but with dv columns. */
static pith_array answers_view(const pith_array *queries, size_t dv, const float *data) {
  pith_array out = {.data = data, .dtype = PITH_F32, .ndim = queries->ndim};
  ptrdiff_t stride = sizeof *data;
  for (size_t i = out.ndim; i-- > 0;) {
    out.shape[i] = i + 1 == out.ndim ? dv : queries->shape[i];
    out.stride[i] = stride;
    stride *= (ptrdiff_t)out.shape[i];
  }
  return out;
}

/* What limits the keys that a query sees. */
typedef struct cli_pattern {
  size_t *globals;
  cli_input block_mask;
} cli_pattern;

static int pattern_open(cli_session *session, size_t keys, cli_pattern *pattern, pith_attention_options *options) {
  const attend_arguments *arguments = session->arguments;
  pith_attention_options_init(options);
  options->scale = arguments->scale;
  options->causal = arguments->causal;
  options->window = arguments->window;
  options->block = arguments->block;
  if (arguments->globals) {
    size_t beyond = 0;
    if (!positions_parse(arguments->globals, keys, NULL, &options->global_count, &beyond)) {
      if (beyond < SIZE_MAX)
        return session_error(session, EXIT_INPUT, "--global %s: there is no position %zu in %zu keys",
                             arguments->globals, beyond, keys);
      return usage_error(session->command, "--global '%s': give positions such as 0,100 or 0-3,100",
                         arguments->globals);
    }
    options->globals = pattern->globals = allocate_zero(options->global_count, sizeof *pattern->globals);
    positions_parse(arguments->globals, keys, pattern->globals, &options->global_count, &beyond);
  }
  if (!arguments->block_mask) return EXIT_DONE;
  int code = input_open(session, "--block-mask", arguments->block_mask, &pattern->block_mask);
  options->block_mask = &pattern->block_mask.array;
  return code;
}

static void pattern_close(cli_pattern *pattern) {
  input_close(&pattern->block_mask);
  free(pattern->globals);
}

static pith_status attend(cli_session *session, const answer_source *source, const pith_array *queries,
                          const pith_attention_options *options, float *out, pith_sparse_report *sparse) {
  const double eps = ((const attend_arguments *)session->arguments)->eps;
  if (eps > 0) {
    pith_sparse_options chosen;
    pith_sparse_options_init(&chosen);
    chosen.attention = *options;
    chosen.eps = eps;
    chosen.confidence = ((const attend_arguments *)session->arguments)->confidence;
    chosen.seed = session->common->seed;
    chosen.each = chosen.always = 1; /* what is asked for is few keys, and the index is made for this call alone */
    if (source->summary)
      return pith_sparse_attend_summary(session->context, NULL, source->summary, queries, &chosen, out, NULL, sparse);
    return pith_sparse_attend(session->context, NULL, queries, &source->keys.array, &source->values.array, &chosen, out,
                              NULL, sparse);
  }
  if (source->summary) return pith_summary_attend(session->context, source->summary, queries, options->scale, out);
  return pith_attention_compute(session->context, queries, &source->keys.array, &source->values.array, options, out);
}

/* Where no bound is owed to draws, all are certain. */
static pith_certificate certificate_of(const pith_sparse_report *sparse, const attend_arguments *arguments) {
  const double eps = arguments->eps;
  pith_certificate out = {.kind = PITH_CERTIFICATE_TAIL,
                          .bound = sparse->bound,
                          .confidence = sparse->drawn > 0 ? arguments->confidence : 1,
                          .trivial = sparse->trivial};
  out.certified = out.bound <= eps && (out.bound < out.trivial || out.bound == 0);
  return out;
}

/* `seen`: keys that a query sees, mean over queries. */
static void report(cli_session *session, const pith_array *answers, size_t keys, double seen, double seconds,
                   const pith_sparse_report *sparse) {
  const attend_arguments *arguments = session->arguments;
  size_t queries = 1;
  for (size_t i = 0; i + 1 < answers->ndim; i++) queries *= answers->shape[i];
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "queries", json_count(queries));
    json_object_set_new(object, "keys", json_count(keys));
    if (!arguments->summary) json_object_set_new(object, "keys_seen", json_number(seen));
    if (arguments->eps > 0) {
      pith_certificate certificate = certificate_of(sparse, arguments);
      json_object_set_new(object, "eps", json_number(arguments->eps));
      json_object_set_new(object, "fraction_read", json_number(sparse->fraction_read));
      json_object_set_new(object, "exact_queries", json_count(sparse->exact));
      if (arguments->confidence > 0) json_object_set_new(object, "drawn_queries", json_count(sparse->drawn));
      json_object_set_new(object, "mean_bound", json_number(sparse->mean_bound));
      json_object_set_new(object, "certificate", json_certificate(&certificate));
      json_object_set_new(object, "against", json_string(arguments->summary ? "summary" : "keys"));
    }
    json_object_set_new(object, "seconds", json_number(seconds));
    json_print(object, session->out);
  } else if (!session->common->quiet) {
    fprintf(session->out, "%s: %zu answers over %zu keys a head, %.3f s\n", arguments->output, queries, keys, seconds);
    if (arguments->window || arguments->block_mask) fprintf(session->out, "a query sees %.1f keys in the mean\n", seen);
    if (arguments->eps > 0) {
      pith_certificate certificate = certificate_of(sparse, arguments);
      fprintf(session->out, "read %.2f %% of the values of keys seen; %zu of %zu queries answered exactly\n",
              100 * sparse->fraction_read, sparse->exact, sparse->queries);
      if (sparse->drawn > 0)
        fprintf(session->out, "the bounds of %zu queries hold with probability %g each\n", sparse->drawn,
                arguments->confidence);
      fprintf(session->out, "certificate: %s%s\n", text_certificate(&certificate).at,
              arguments->summary ? "; the distance from what all points of the summary answer" : "");
    }
  }
}

static int run(cli_session *session) {
  const attend_arguments *arguments = session->arguments;
  int code = check_usage(session->command, arguments);
  if (!code) code = session_output(session, "-o", arguments->output);
  if (code) return code;
  answer_source source = {0};
  cli_input queries = {0};
  cli_pattern pattern = {0};
  pith_attention_options options;
  pith_sparse_report sparse = {0};
  double seen = 0;
  float *out = NULL;
  code = source_open(session, &source);
  if (!code) code = input_open(session, "--queries", arguments->queries, &queries);
  if (!code) code = pattern_open(session, source.rows, &pattern, &options);
  if (code) goto done;

  pith_array answers = answers_view(&queries.array, source.dv, NULL);
  size_t count = 1;
  for (size_t i = 0; i < answers.ndim; i++)
    if (__builtin_mul_overflow(count, answers.shape[i], &count)) {
      code = session_error(session, EXIT_INPUT, "--queries %s has too many elements", arguments->queries);
      goto done;
    }
  answers.data = out = allocate_zero(count, sizeof *out);
  double started = seconds_now();
  pith_status status = attend(session, &source, &queries.array, &options, out, &sparse);
  double seconds = seconds_now() - started;
  if (status >= 0 && !source.summary)
    status = pith_attention_seen(session->context, &queries.array, &source.keys.array, &options, &seen);
  if (status >= 0) status = pith_npy_write(session->context, arguments->output, &answers);
  if (status < 0)
    code = session_fail(session, status);
  else
    report(session, &answers, source.rows, seen, seconds, &sparse);
  if (!code && arguments->eps > 0 && !certificate_of(&sparse, arguments).certified)
    code =
        session_error(session, EXIT_NOT_CERTIFIED,
                      "answers are known to within %g, which is not below --eps %g and the spread of the values; all "
                      "were written",
                      sparse.bound, arguments->eps);
done:
  free(out);
  pattern_close(&pattern);
  input_close(&queries);
  source_close(&source);
  return code;
}

const cli_command command_attend = {
    .name = "attend",
    .summary = "answer queries, exactly or from a summary",
    .usage = "(--summary~F~| --keys~K.npy --values~V.npy) --queries~Q.npy [OPTION]... -o~OUT.npy",
    .description =
        "Computes softmax attention. With --keys and --values the answers are exact (f32 arithmetic);\n"
        "with --summary they come from its few points, and 'pith inspect' says what is promised of\n"
        "them. Several query heads may share one key head, as in grouped-query attention.\n\n"
        "With --eps each answer errs by E at most, rounding included: small copies of the keys say which\n"
        "ones matter, those are read, and the rest counts at the means of its blocks; where that is not\n"
        "enough the answer is exact. 'fraction_read' is the share of the keys seen whose values were\n"
        "read, and the certificate is the largest bound of all answers. With --confidence keys that are\n"
        "not read may be sampled, and each bound then holds with that probability.\n\n"
        "With --summary and --eps the same is done over its points: a cache kept in q8 is a summary by\n"
        "'pith compress --engine exact --store q8'. The bound then is the distance from the answer of all\n"
        "points; how far these are from the cache 'pith compare' measures.\n\n"
        "A key is seen when --causal, --window and --block-mask all let it through, or when it or the\n"
        "query stands at a --global position (only --causal binds those). Blocks of keys that a query\n"
        "does not see are not read.",
    .examples =
        "  From a summary:\n"
        "    pith attend --summary S.safetensors --queries NEW.npy -o ANSWERS.npy\n"
        "  Exactly, with a causal mask, to a pipe:\n"
        "    pith attend --keys K.npy --values V.npy --queries Q.npy --causal -o - | consumer\n"
        "  To a certified error, reading only what that needs:\n"
        "    pith attend --keys K.npy --values V.npy --queries Q.npy --eps 0.05 -o A.npy --json\n"
        "  The same from a cache kept in q8:\n"
        "    pith compress --keys K.npy --values V.npy --engine exact --store q8 -o C.safetensors\n"
        "    pith attend --summary C.safetensors --queries Q.npy --eps 0.05 -o A.npy --json\n"
        "  A window and four sinks:\n"
        "    pith attend --keys K.npy --values V.npy --queries Q.npy --causal --window 512 --global 0-3 -o A.npy\n",
    .groups = groups,
    .arguments_size = sizeof(attend_arguments),
    .run = run};
