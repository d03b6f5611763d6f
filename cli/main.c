/* main.c - from the command line to a command. */
#include <errno.h>
#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

extern const cli_command command_compress, command_attend, command_compare, command_inspect, command_merge,
    command_coreset, command_sample, command_sparsity, command_lm, command_llama, command_completion;

const cli_command *const commands[] = {
    &command_compress, &command_attend, &command_compare, &command_inspect, &command_merge,
#ifdef PITH_WITH_CORESET
    &command_coreset,
#endif
    &command_sparsity, &command_sample, &command_lm,      &command_llama,   &command_completion, NULL};

const cli_command *command_find(const char *name) {
  for (size_t i = 0; commands[i]; i++)
    if (!strcmp(commands[i]->name, name)) return commands[i];
  return NULL;
}

/* OpenBLAS chooses its kernels when it is loaded: slow ones on some virtual machines, and not by PITH_ISA.
 * So its core type is pinned beside ours, in a second start of the same program. A user's own choice stays. */
static void pin_blas(char **argv) {
#if defined(__linux__) && defined(__x86_64__)
  if (getenv("OPENBLAS_CORETYPE") || getenv("PITH_BLAS_PINNED")) return;
  setenv("OPENBLAS_CORETYPE", pith_blas_core(), 1);
  setenv("OPENBLAS_NUM_THREADS", "1", 1);
  setenv("OMP_WAIT_POLICY", "passive", 0); /* threads that spin while they wait starve others on a busy machine */
  setenv("PITH_BLAS_PINNED", "1", 1);      /* were the first variable lost, this ends the loop */
  execv("/proc/self/exe", argv);           /* comes back only where there is no /proc: then without the pin */
#else
  (void)argv;
#endif
}

static const char *command_name(const void *names, size_t index) {
  (void)names;
  return commands[index] ? commands[index]->name : NULL;
}

static int unknown_command(const char *name) {
  if (*name == '-') return usage_error(NULL, "unknown option '%s'; a command comes first", name);
  const char *near = nearest_name(name, command_name, NULL);
  if (near) return usage_error(NULL, "unknown command '%s'; did you mean %s?", name, near);
  return usage_error(NULL, "unknown command '%s'", name);
}

/* pith help [--scdoc] [COMMAND]; --scdoc is for the build, which makes man pages of it. */
static int help(int argc, char **argv) {
  bool scdoc = argc > 2 && !strcmp(argv[1], "--scdoc");
  const char *name = argv[scdoc ? 2 : 1];
  if (!name) {
    help_overview(stdout);
    return EXIT_DONE;
  }
  const cli_command *command = command_find(name);
  if (!command) return unknown_command(name);
  if (scdoc)
    help_scdoc(stdout, command);
  else
    help_command(stdout, command);
  return EXIT_DONE;
}

static int run(const cli_command *command, int argc, char **argv) {
  common_arguments *arguments = allocate_zero(1, command->arguments_size);
  arguments->seed = 1;
  if (command->defaults) command->defaults(arguments);
  size_t operands = 0;
  int code = options_parse(command, argc, argv, arguments, &operands);
  size_t count = (size_t)argc - operands;
  if (code) goto done;
  if (arguments->help) {
    help_command(stdout, command);
    goto done;
  }
  if (count == 0 && command->least_operands == 1)
    code = usage_error(command, "the %s is missing", command->operand);
  else if (count < command->least_operands)
    code = usage_error(command, "at least %zu %ss are needed, %zu given", command->least_operands, command->operand,
                       count);
  else if (count > command->most_operands)
    code = usage_error(command, "unexpected argument '%s'", argv[operands + command->most_operands]);
  else
    code = session_run(command, arguments, argv + operands, count);
done:
  free(arguments);
  return code;
}

static int dispatch(int argc, char **argv) {
  const char *name = argc > 1 ? argv[1] : "--help";
  if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
    help_overview(stdout);
    return EXIT_DONE;
  }
  if (!strcmp(name, "--version")) {
    printf("pith %s (%s)\n", pith_version(), pith_isa_name());
    return EXIT_DONE;
  }
  if (!strcmp(name, "help")) return help(argc - 1, argv + 1);
  const cli_command *command = command_find(name);
  if (!command) return unknown_command(name);
  return run(command, argc - 1, argv + 1);
}

/* Compressing takes and frees blocks of some megabytes for every head. glibc would give each back to the system, which
 * then has to clear it anew: a twentieth of the time of compression. */
static void keep_freed_memory(void) {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
#endif
}

int main(int argc, char **argv) {
  if (argc == 0) return EXIT_USAGE;
  pin_blas(argv);
  keep_freed_memory();
  signal(SIGPIPE, SIG_IGN); /* a reader that left shows as a write error */
  int code = dispatch(argc, argv);
  errno = 0;
  if (fflush(stdout) || ferror(stdout)) {
    fprintf(stderr, "pith: standard output: %s\n", errno ? strerror(errno) : "write error");
    return code ? code : EXIT_IO;
  }
  return code;
}
