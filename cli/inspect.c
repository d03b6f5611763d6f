/* inspect.c - pith inspect: what a summary holds and promises. */
#include "report.h"

typedef struct inspect_arguments {
  common_arguments common;
} inspect_arguments;

static const cli_group groups[] = {{"Common", common_options, 0}, {.title = NULL}};

static int run(cli_session *session) {
  pith_summary *summary = NULL;
  pith_status status = pith_summary_load(session->context, session->operands[0], &summary);
  if (status != PITH_OK) return session_fail(session, status);
  pith_summary_info info = pith_summary_describe(summary);
  int code = EXIT_DONE;
  if (session->common->json) {
    json_print(json_summary(session, summary), session->out);
  } else if (!session->common->quiet) {
    bool many = info.layers * info.heads > 16;
    code = print_heads(session, summary);
    if (!code && (session->common->verbose || many)) print_heat_map(session, summary);
    if (!code) print_totals(session, &info);
    if (!code) {
      fprintf(session->out, "softmax scale %g; checksum right", info.scale);
      if (info.other_bytes) fprintf(session->out, "; %s more for indices and marks", text_bytes(info.other_bytes).at);
      fputc('\n', session->out);
    }
  }
  pith_summary_free(summary);
  return code;
}

const cli_command command_inspect = {
    .name = "inspect",
    .summary = "show what a summary holds and promises",
    .usage = "F.safetensors [--json]",
    .description =
        "Loads a summary, which checks it against its checksum, and lists its heads: rows that it\n"
        "stands for, points kept, those that are exact rows, bytes, error over held-out queries, and\n"
        "the certificate. Of many heads (with -v: of any) it draws a map of points, stores and errors,\n"
        "layers down and heads across.",
    .examples =
        "    pith inspect S.safetensors\n"
        "    pith inspect S.safetensors --json | jq .certificate\n",
    .groups = groups,
    .arguments_size = sizeof(inspect_arguments),
    .least_operands = 1,
    .most_operands = 1,
    .operand = "summary file",
    .run = run};
