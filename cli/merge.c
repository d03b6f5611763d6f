/* merge.c - pith merge: one summary for the tokens of several, one sketch for the parts of a stream. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "pith/sampler.h"
#include "report.h"

typedef struct merge_arguments {
  common_arguments common;
  const char *output;
} merge_arguments;

static const cli_option file_options[] = {
    {"output", 'o', OPTION_FILE, "OUT", "the merged summary or sketch", .offset = offsetof(merge_arguments, output)},
    {.name = NULL}};

static const cli_group groups[] = {{"Files", file_options, 0}, {"Common", common_options, 0}, {.title = NULL}};

/* The files, summaries or sketches alike, and what is made of them. */
typedef struct merge_parts {
  pith_file **file;
  pith_summary **summary, *merged;
  pith_l2 *sketch; /* or tensor: to which the others are added as they are read */
  pith_tensor *tensor;
} merge_parts;

static pith_status merge_sketches(cli_session *session, merge_parts *parts) {
  const merge_arguments *arguments = session->arguments;
  for (size_t i = 0; i < session->operand_count; i++) {
    pith_l2 *sketch = NULL;
    pith_status status = pith_l2_parse(session->context, parts->file[i], &sketch);
    if (status >= 0 && i > 0) {
      status = pith_l2_merge(session->context, parts->sketch, sketch);
      pith_l2_free(sketch);
    } else {
      parts->sketch = sketch;
    }
    if (status < 0) return status;
  }
  return pith_l2_save(session->context, parts->sketch, arguments->output);
}

static pith_status merge_tensors(cli_session *session, merge_parts *parts) {
  const merge_arguments *arguments = session->arguments;
  for (size_t i = 0; i < session->operand_count; i++) {
    pith_tensor *tensor = NULL;
    pith_status status = pith_tensor_parse(session->context, parts->file[i], &tensor);
    if (status >= 0 && i > 0) {
      status = pith_tensor_merge(session->context, parts->tensor, tensor);
      pith_tensor_free(tensor);
    } else {
      parts->tensor = tensor;
    }
    if (status < 0) return status;
  }
  return pith_tensor_save(session->context, parts->tensor, arguments->output);
}

static pith_status merge_summaries(cli_session *session, merge_parts *parts) {
  const merge_arguments *arguments = session->arguments;
  const size_t count = session->operand_count;
  for (size_t i = 0; i < count; i++) {
    pith_status status = pith_summary_parse(session->context, parts->file[i], &parts->summary[i]);
    if (status < 0) return status;
  }
  pith_status status =
      pith_summary_merge(session->context, (const pith_summary *const *)parts->summary, count, &parts->merged);
  return status < 0 ? status : pith_summary_save(session->context, parts->merged, arguments->output);
}

static pith_status merge(cli_session *session, merge_parts *parts) {
  for (size_t i = 0; i < session->operand_count; i++) {
    pith_status status = pith_file_open(session->context, session->operands[i], &parts->file[i]);
    if (status < 0) return status;
  }
  switch (pith_sketch_kind_of(parts->file[0])) {
    case PITH_SKETCH_L2: return merge_sketches(session, parts);
    case PITH_SKETCH_TENSOR: return merge_tensors(session, parts);
    default: return merge_summaries(session, parts);
  }
}

static int report_sketch(cli_session *session, const pith_l2 *sketch) {
  const merge_arguments *arguments = session->arguments;
  pith_l2_info info = pith_l2_describe(sketch);
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "rows", json_count(info.rows));
    json_object_set_new(object, "dim", json_count(info.dim));
    json_object_set_new(object, "seed", json_count(info.seed));
    json_object_set_new(object, "sketches", json_count(info.sketches));
    json_object_set_new(object, "memory_words", json_count(info.words));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
  } else if (!session->common->quiet) {
    fprintf(session->out, "%s: %zu rows, %zu sketches, %s, from %zu files\n", arguments->output, info.rows,
            info.sketches, text_bytes(8 * info.words).at, session->operand_count);
  }
  return EXIT_DONE;
}

static int report_tensor(cli_session *session, const pith_tensor *tensor) {
  const merge_arguments *arguments = session->arguments;
  pith_tensor_info info = pith_tensor_describe(tensor);
  const char *method = pith_tensor_method_name(info.method);
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "method", json_string(method));
    json_object_set_new(object, "rows1", json_count(info.rows1));
    json_object_set_new(object, "rows2", json_count(info.rows2));
    json_object_set_new(object, "dim", json_count(info.dim));
    json_object_set_new(object, "seed", json_count(info.seed));
    json_object_set_new(object, "memory_words", json_count(info.words));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
  } else if (!session->common->quiet) {
    fprintf(session->out, "%s: %zu x %zu pairs, method %s, %s, from %zu files\n", arguments->output, info.rows1,
            info.rows2, method, text_bytes(8 * info.words).at, session->operand_count);
  }
  return EXIT_DONE;
}

static int report_summary(cli_session *session, const pith_summary *summary) {
  const merge_arguments *arguments = session->arguments;
  if (session->common->json) {
    json_t *object = json_summary(session, summary);
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
    return EXIT_DONE;
  }
  if (session->common->quiet) return EXIT_DONE;
  pith_summary_info info = pith_summary_describe(summary);
  int code = session->common->verbose || info.layers * info.heads <= 16 ? print_heads(session, summary) : EXIT_DONE;
  if (code) return code;
  print_totals(session, &info);
  fprintf(session->out, "%s, from %zu summaries\n", arguments->output, session->operand_count);
  return EXIT_DONE;
}

static int run(cli_session *session) {
  const merge_arguments *arguments = session->arguments;
  if (!arguments->output) return usage_error(session->command, "-o OUT is missing");
  size_t standard = 0;
  for (size_t i = 0; i < session->operand_count; i++) standard += !strcmp(session->operands[i], "-");
  if (standard > 1)
    return usage_error(session->command, "'-' is given %zu times, but there is one standard input", standard);
  int code = session_output(session, "-o", arguments->output);
  if (code) return code;
  const size_t count = session->operand_count;
  merge_parts parts = {.file = allocate_zero(count, sizeof *parts.file),
                       .summary = allocate_zero(count, sizeof *parts.summary)};
  pith_status status = merge(session, &parts);
  code = status < 0     ? session_fail(session, status)
         : parts.sketch ? report_sketch(session, parts.sketch)
         : parts.tensor ? report_tensor(session, parts.tensor)
                        : report_summary(session, parts.merged);
  pith_l2_free(parts.sketch);
  pith_tensor_free(parts.tensor);
  pith_summary_free(parts.merged);
  for (size_t i = 0; i < count; i++) {
    pith_summary_free(parts.summary[i]);
    pith_file_close(parts.file[i]);
  }
  free(parts.summary);
  free(parts.file);
  return code;
}

const cli_command command_merge = {
    .name = "merge",
    .summary = "put summaries of consecutive texts, or sketches of one stream, together",
    .usage = "A B [C]... -o~OUT",
    .description =
        "The result answers for the tokens of all parts, in their order. Points add up, nothing is\n"
        "thrown away. The parts must agree in layers, heads, dimensions and softmax scale. Sketches\n"
        "('pith sample --save') of parts of a stream become that of the whole, in any order; they must\n"
        "agree in seed, options and x. Tensor samplers add up what each was told of A1, A2 and X.",
    .examples = "    pith merge chapter1.safetensors chapter2.safetensors -o book.safetensors\n",
    .groups = groups,
    .arguments_size = sizeof(merge_arguments),
    .least_operands = 2,
    .most_operands = SIZE_MAX,
    .operand = "file",
    .run = run};
