/* completion.c - pith completion: command-line completion for a shell. */
#include <string.h>

#include "command.h"

typedef struct completion_arguments {
  common_arguments common;
} completion_arguments;

static const cli_group groups[] = {{"Common", common_options, 0}, {.title = NULL}};

static int run(cli_session *session) {
  if (strcmp(session->operands[0], "bash") != 0)
    return usage_error(session->command, "no completion for '%s'; there is one for bash", session->operands[0]);
  help_completion(stdout);
  return EXIT_DONE;
}

const cli_command command_completion = {
    .name = "completion",
    .summary = "print command-line completion for bash",
    .usage = "bash",
    .description = "Prints a script that completes commands, options and their values.",
    .examples = "    source <(pith completion bash)\n",
    .groups = groups,
    .arguments_size = sizeof(completion_arguments),
    .least_operands = 1,
    .most_operands = 1,
    .operand = "name of a shell (bash)",
    .run = run};
