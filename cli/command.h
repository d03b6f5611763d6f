/* command.h - what a command is: tables of options, a function, and the manners all commands share.
 *
 * The tables yield the parser (options.c), --help, completion and the OPTIONS of the man pages (help.c).
 * A new command is one file that defines a `command`, and one line in main.c. */
#ifndef PITH_CLI_COMMAND_H
#define PITH_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "pith.h"

/* ---- Options ---- */

typedef enum option_kind {                /* and the type of the field that receives the value */
                           OPTION_FLAG,   /* int, set to 1 */
                           OPTION_TEXT,   /* const char * */
                           OPTION_FILE,   /* const char *, completed as a path */
                           OPTION_COUNT,  /* size_t */
                           OPTION_SIZE,   /* size_t, bytes: 4096, 64K, 8MiB */
                           OPTION_REAL,   /* double: 0.25 or 1/4 */
                           OPTION_CHOICE, /* int or enum: the value of one of `choices` */
                           OPTION_NAME,   /* const char *: one of the names that `list` yields */
                           OPTION_CUSTOM  /* whatever `parse` makes of it */
} option_kind;

typedef struct cli_choice { /* a list ends with name NULL */
  const char *name;
  int value;
} cli_choice;

typedef struct {
  const char *name; /* NULL ends a table */
  char letter;      /* one-letter form; 0: none */
  option_kind kind;
  const char *argument; /* how help calls the value; NULL for flags */
  const char *help;
  size_t offset;      /* of the field in the group's struct */
  double least, most; /* allowed values of counts, sizes and reals; most 0: no limit */
  bool open;          /* least and most themselves are not allowed */
  const char *word;   /* a word allowed in place of a count, and what it stands for */
  size_t word_value;
  const cli_choice *choices;
  const char *(*list)(size_t index), *(*list_help)(size_t index); /* names, and a line about each */
  bool (*parse)(const char *text, void *group);                   /* false: not understood */
  const char *allowed;                                            /* what `parse` understands */
} cli_option;

typedef struct { /* a list ends with title NULL */
  const char *title;
  const cli_option *options;
  size_t offset; /* of the group's struct in the command's arguments */
} cli_group;

/* Every command's arguments begin with these. */
typedef struct common_arguments {
  size_t threads;
  uint64_t seed;
  int json, progress, quiet, verbose, help;
} common_arguments;

enum { PROGRESS_AUTO, PROGRESS_ALWAYS, PROGRESS_NEVER };

extern const cli_option common_options[];
/* The fields of pith_compress_options that commands share: what is kept, and the queries. */
extern const cli_option keep_options[], query_options[];

/* ---- Commands ---- */

typedef struct cli_session cli_session;

typedef struct cli_command {
  const char *name;
  const char *summary;     /* one line */
  const char *usage;       /* what follows "pith NAME", a form a line; ~ is a space that is not broken at */
  const char *description; /* a paragraph or two */
  const char *examples;
  const cli_group *groups;
  size_t arguments_size;
  void (*defaults)(void *arguments); /* after zeros and the common defaults; may be NULL */
  size_t least_operands, most_operands;
  const char *operand;              /* what an operand is called: "summary file" */
  int (*run)(cli_session *session); /* yields the exit code */
} cli_command;

extern const cli_command *const commands[]; /* ends with NULL */
const cli_command *command_find(const char *name);

/* Fills `arguments` (of command->arguments_size bytes) from the command line; argv[0] is the command's name.
 * Operands are left at argv[*operands ..]. Yields EXIT_DONE, or EXIT_USAGE after having said why. */
int options_parse(const cli_command *command, int argc, char **argv, void *arguments, size_t *operands);
/* A number as options take it: 0.25, 1e-3, 1/4. False: not one, or not finite. */
bool number_parse(const char *text, double *value);
/* A list of positions such as 0,7 or 0-3,100: their number goes to *count, and they to `out` (NULL: not wanted). False:
 * not one, or a position of `limit` or more, which *beyond then is (else SIZE_MAX). */
bool positions_parse(const char *text, size_t limit, size_t *out, size_t *count, size_t *beyond);
/* What an option's value may be: "a whole number, 1 or more". */
void option_allowed(const cli_option *option, char *out, size_t size);
/* The nearest of some names to a mistyped one; NULL when none is near. */
typedef const char *(*name_list)(const void *names, size_t index);
const char *nearest_name(const char *typed, name_list list, const void *names);

void help_overview(FILE *out);
void help_command(FILE *out, const cli_command *command);
void help_scdoc(FILE *out, const cli_command *command); /* OPTIONS of the man page */
void help_completion(FILE *out);

/* ---- A run of a command ---- */

enum { /* exit codes: pinned, documented in pith(1) */
       EXIT_DONE = 0,
       EXIT_FAILED = 1,
       EXIT_USAGE = 2,
       EXIT_INPUT = 3,
       EXIT_NOT_CERTIFIED = 4,
       EXIT_IO = 5,
       EXIT_INTERRUPTED = 130
};

typedef struct cli_progress {
  int mode;
  bool terminal, drawn;
  const char *label; /* said before the stage; NULL: nothing */
  char outer[48];    /* the stage in whose steps other stages are reported; "": none is running */
  double started, outer_started, shown;
  size_t done, total, tenth; /* of the outer stage */
} cli_progress;

enum { MOST_INPUTS = 8 };

struct cli_session {
  const cli_command *command;
  void *arguments;
  const common_arguments *common; /* the beginning of arguments */
  char **operands;
  size_t operand_count;
  pith_context *context;
  FILE *out;                  /* for reports: stdout, or stderr when stdout carries the output file */
  const char *standard_input; /* option that has taken it */
  struct {
    const char *option, *path;
  } opened[MOST_INPUTS]; /* so that a failure can name the file */
  size_t opened_count;
  cli_progress progress;
  double started;
};

int session_run(const cli_command *command, void *arguments, char **operands, size_t operand_count);
double session_seconds(const cli_session *session);

/* "pith NAME: sentence", and where help is; yields EXIT_USAGE. */
int usage_error(const cli_command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Says why a call of the library failed, naming the file of the argument that it complains of; yields the exit code
 * of the status. */
int session_fail(cli_session *session, pith_status status);
/* Says why the command itself failed; yields `code`. */
int session_error(cli_session *session, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void session_warn(cli_session *session, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Names the file that results go to, before anything is computed: "-" sends reports to stderr. Yields an exit
 * code. `option` is as typed, such as "-o". */
int session_output(cli_session *session, const char *option, const char *path);

/* An array named on the command line: F.npy, or F.safetensors:TENSOR. */
typedef struct cli_input {
  pith_file *file;
  pith_array array;
} cli_input;
int input_open(cli_session *session, const char *option, const char *path, cli_input *input);
void input_close(cli_input *input);
/* Checks --prefix against the arrays. Yields an exit code, and the row of `queries` (NULL: none) that stands at
 * position `prefix` when the last query stands at the last key. */
int prefix_check(cli_session *session, size_t prefix, const pith_array *keys, const pith_array *values,
                 const pith_array *queries, size_t *first_later);

/* Memory of the tool itself; says so and exits where there is none. */
void *allocate_zero(size_t count, size_t size);

/* progress.c */
void progress_start(cli_progress *progress, int mode);
void progress_label(cli_progress *progress, const char *label); /* of the work that begins; NULL: none */
int progress_report(void *progress, const char *stage, size_t done, size_t total); /* a pith_progress */
void progress_clear(cli_progress *progress); /* takes the bar off the terminal before anything else is said */
bool interrupted(void);
double seconds_now(void);

#endif
