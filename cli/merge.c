/* merge.c - pith merge: one summary for the tokens of several. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

typedef struct merge_arguments {
  common_arguments common;
  const char *output;
} merge_arguments;

static const cli_option file_options[] = {
    {"output", 'o', OPTION_FILE, "OUT.safetensors", "the merged summary", .offset = offsetof(merge_arguments, output)},
    {.name = NULL}};

static const cli_group groups[] = {{"Files", file_options, 0}, {"Common", common_options, 0}, {.title = NULL}};

static pith_status merge(cli_session *session, pith_summary **parts, pith_summary **out) {
  const merge_arguments *arguments = session->arguments;
  for (size_t i = 0; i < session->operand_count; i++) {
    pith_status status = pith_summary_load(session->context, session->operands[i], &parts[i]);
    if (status < 0) return status;
  }
  pith_status status =
      pith_summary_merge(session->context, (const pith_summary *const *)parts, session->operand_count, out);
  return status < 0 ? status : pith_summary_save(session->context, *out, arguments->output);
}

static int report(cli_session *session, const pith_summary *summary) {
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
  if (!arguments->output) return usage_error(session->command, "-o OUT.safetensors is missing");
  size_t standard = 0;
  for (size_t i = 0; i < session->operand_count; i++) standard += !strcmp(session->operands[i], "-");
  if (standard > 1)
    return usage_error(session->command, "'-' is given %zu times, but there is one standard input", standard);
  int code = session_output(session, "-o", arguments->output);
  if (code) return code;
  pith_summary **parts = allocate_zero(session->operand_count, sizeof *parts), *merged = NULL;
  pith_status status = merge(session, parts, &merged);
  code = status < 0 ? session_fail(session, status) : report(session, merged);
  pith_summary_free(merged);
  for (size_t i = 0; i < session->operand_count; i++) pith_summary_free(parts[i]);
  free(parts);
  return code;
}

const cli_command command_merge = {
    .name = "merge",
    .summary = "put summaries of consecutive texts together",
    .usage = "A B [C]... -o~OUT.safetensors",
    .description =
        "The result answers for the tokens of all parts, in their order. Points add up, nothing is\n"
        "thrown away. The parts must agree in layers, heads, dimensions and softmax scale.",
    .examples = "    pith merge chapter1.safetensors chapter2.safetensors -o book.safetensors\n",
    .groups = groups,
    .arguments_size = sizeof(merge_arguments),
    .least_operands = 2,
    .most_operands = SIZE_MAX,
    .operand = "summary file",
    .run = run};
