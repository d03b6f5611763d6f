/* session.c - one run of a command: context, messages, exit codes, files. */
#define _GNU_SOURCE /* sched_getaffinity counts the cores we may use */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attention/attention.h"
#include "command.h"

static void say(const cli_command *command, const char *kind, const char *format, va_list values) {
  fprintf(stderr, "pith%s%s: %s", command ? " " : "", command ? command->name : "", kind);
  vfprintf(stderr, format, values);
  fputc('\n', stderr);
}

int usage_error(const cli_command *command, const char *format, ...) {
  va_list values;
  va_start(values, format);
  say(command, "", format, values);
  va_end(values);
  fprintf(stderr, "Try: pith %s%s--help\n", command ? command->name : "", command ? " " : "");
  return EXIT_USAGE;
}

int session_error(cli_session *session, int code, const char *format, ...) {
  progress_clear(&session->progress);
  va_list values;
  va_start(values, format);
  say(session->command, "", format, values);
  va_end(values);
  return code;
}

void session_warn(cli_session *session, const char *format, ...) {
  if (session->common->quiet) return;
  progress_clear(&session->progress);
  va_list values;
  va_start(values, format);
  say(session->command, "warning: ", format, values);
  va_end(values);
}

static int exit_code(pith_status status) {
  switch (status) {
    case PITH_OK: return EXIT_DONE;
    case PITH_NOT_CERTIFIED: return EXIT_NOT_CERTIFIED;
    case PITH_E_ARGUMENT:
    case PITH_E_UNKNOWN: return EXIT_USAGE;
    case PITH_E_SHAPE:
    case PITH_E_TYPE:
    case PITH_E_VALUE:
    case PITH_E_BUDGET:
    case PITH_E_FORMAT:
    case PITH_E_VERSION:
    case PITH_E_CHECKSUM: return EXIT_INPUT;
    case PITH_E_IO: return EXIT_IO;
    case PITH_E_CANCELLED: return EXIT_INTERRUPTED;
    default: return EXIT_FAILED;
  }
}

/* "keys: row 3 ..." is about the file of --keys; NULL when the message is about none. */
static const char *blamed_file(const cli_session *session, const char *message) {
  for (size_t i = 0; i < session->opened_count; i++) {
    const char *name = session->opened[i].option + 2; /* after "--" */
    size_t length = strlen(name);
    if (!strncmp(message, name, length) && message[length] == ':') return session->opened[i].path;
  }
  return NULL;
}

int session_fail(cli_session *session, pith_status status) {
  if (status == PITH_E_CANCELLED) return session_error(session, EXIT_INTERRUPTED, "interrupted, nothing written");
  const char *message = pith_context_message(session->context);
  if (!*message) message = pith_status_sentence(status);
  const char *file = blamed_file(session, message);
  return session_error(session, exit_code(status), "%s%s%s", file ? file : "", file ? ": " : "", message);
}

double session_seconds(const cli_session *session) { return seconds_now() - session->started; }

void *allocate_zero(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size ? size : 1);
  if (memory) return memory;
  fputs("pith: no memory\n", stderr);
  exit(EXIT_FAILED);
}

static int all_cores(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return 1;
}

int session_run(const cli_command *command, void *arguments, char **operands, size_t operand_count) {
  cli_session session = {.command = command,
                         .arguments = arguments,
                         .common = arguments,
                         .operands = operands,
                         .operand_count = operand_count,
                         .out = stdout};
  progress_start(&session.progress, session.common->quiet ? PROGRESS_NEVER : session.common->progress);
  session.started = session.progress.started;
  pith_context_options options;
  pith_context_options_init(&options);
  options.threads = session.common->threads ? (int)session.common->threads : all_cores();
  options.progress = progress_report;
  options.progress_user = &session.progress;
  pith_status status = pith_context_create(&options, &session.context);
  if (status != PITH_OK) return session_error(&session, exit_code(status), "%s", pith_status_sentence(status));
  int code = command->run(&session);
  progress_clear(&session.progress);
  pith_context_free(session.context);
  return code;
}

int session_output(cli_session *session, const char *option, const char *path) {
  if (strcmp(path, "-") != 0) return EXIT_DONE;
  if (isatty(STDOUT_FILENO))
    return usage_error(session->command, "%s - would write a binary file to the terminal; name a file or a pipe",
                       option);
  session->out = stderr;
  return EXIT_DONE;
}

static int tensor_open(cli_session *session, const char *path, const char *tensor, cli_input *input) {
  size_t length = (size_t)(tensor - path);
  char *file = allocate_zero(length + 1, 1);
  memcpy(file, path, length);
  pith_status status = pith_safetensors_open(session->context, file, &input->file);
  free(file);
  if (status == PITH_OK) status = pith_safetensors_tensor(session->context, input->file, tensor + 1, &input->array);
  return status == PITH_OK ? EXIT_DONE : session_fail(session, status);
}

int input_open(cli_session *session, const char *option, const char *path, cli_input *input) {
  if (!strcmp(path, "-")) {
    if (session->standard_input)
      return usage_error(session->command, "%s and %s are both '-', but there is one standard input",
                         session->standard_input, option);
    session->standard_input = option;
  }
  if (session->opened_count < MOST_INPUTS) {
    session->opened[session->opened_count].option = option;
    session->opened[session->opened_count++].path = path;
  }
  const char *colon = strrchr(path, ':');
  static const char suffix[] = ".safetensors";
  size_t length = sizeof suffix - 1;
  if (colon && (size_t)(colon - path) >= length && !strncmp(colon - length, suffix, length))
    return tensor_open(session, path, colon, input);
  pith_status status = pith_npy_open(session->context, path, &input->file, &input->array);
  return status == PITH_OK ? EXIT_DONE : session_fail(session, status);
}

void input_close(cli_input *input) {
  pith_file_close(input->file);
  input->file = NULL;
}

/* ---- A prefix of rows ---- */

int prefix_check(cli_session *session, size_t prefix, const pith_array *keys, const pith_array *values,
                 const pith_array *queries, size_t *first_later) {
  pith_status status = pith_check_shapes(session->context, queries, keys, values);
  if (status < 0) return session_fail(session, status);
  size_t n = keys->shape[keys->ndim - 2], m = queries ? queries->shape[queries->ndim - 2] : 0;
  if (prefix > n)
    return session_error(session, EXIT_INPUT, "--prefix %zu is more than the %zu keys of a head", prefix, n);
  if (m > n)
    return session_error(session, EXIT_INPUT,
                         "--prefix: a head has %zu queries and only %zu keys; the last query is taken to stand at the "
                         "last key",
                         m, n);
  size_t start = n - m; /* position of the first query */
  *first_later = prefix > start ? prefix - start : 0;
  return EXIT_DONE;
}
