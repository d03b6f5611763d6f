/* options.c - a command line into a struct, by the command's tables. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "seeds are parsed as counts");

static const cli_choice progress_choices[] = {
    {"auto", PROGRESS_AUTO}, {"always", PROGRESS_ALWAYS}, {"never", PROGRESS_NEVER}, {NULL, 0}};

#define FIELD(member) .offset = offsetof(common_arguments, member)
const cli_option common_options[] = {
    {"threads", 0, OPTION_COUNT, "N", "threads (default: all cores); results do not depend on it", FIELD(threads),
     .least = 1, .most = 4096},
    {"seed", 0, OPTION_COUNT, "N", "names the random numbers (default 1): same seed, same bytes", FIELD(seed)},
    {"json", 0, OPTION_FLAG, NULL, "report one JSON object", FIELD(json)},
    {"progress", 0, OPTION_CHOICE, "WHEN", "show progress on standard error (default auto: on a terminal)",
     FIELD(progress), .choices = progress_choices},
    {"quiet", 'q', OPTION_FLAG, NULL, "no report and no warnings", FIELD(quiet)},
    {"verbose", 'v', OPTION_FLAG, NULL, "report more", FIELD(verbose)},
    {"help", 'h', OPTION_FLAG, NULL, "show this help", FIELD(help)},
    {.name = NULL}};
#undef FIELD

/* ---- What is allowed, in words ---- */

static void append(char *out, size_t size, const char *text) {
  size_t length = strlen(out);
  snprintf(out + length, size - length, "%s", text);
}

static void append_range(const cli_option *option, char *out, size_t size) {
  char text[96] = "";
  bool limited = option->most > 0;
  if (option->open && limited)
    snprintf(text, sizeof text, " above %g and below %g", option->least, option->most);
  else if (option->open)
    snprintf(text, sizeof text, " above %g", option->least);
  else if (limited)
    snprintf(text, sizeof text, " from %g to %g", option->least, option->most);
  else if (option->least > 0 || option->kind == OPTION_REAL)
    snprintf(text, sizeof text, ", %g or more", option->least);
  append(out, size, text);
}

void option_allowed(const cli_option *option, char *out, size_t size) {
  out[0] = '\0';
  switch (option->kind) {
    case OPTION_COUNT:
      append(out, size, "a whole number");
      append_range(option, out, size);
      break;
    case OPTION_SIZE: append(out, size, "a number of bytes such as 4096, 64K or 8MiB"); break;
    case OPTION_REAL:
      append(out, size, "a number");
      append_range(option, out, size);
      break;
    case OPTION_CHOICE:
    case OPTION_NAME:
      for (size_t i = 0;; i++) {
        const char *name = option->list ? option->list(i) : option->choices[i].name;
        if (!name) break;
        append(out, size, i ? ", " : "one of ");
        append(out, size, name);
      }
      break;
    case OPTION_CUSTOM: append(out, size, option->allowed); break;
    default: append(out, size, "a text");
  }
  if (option->word) {
    append(out, size, " or ");
    append(out, size, option->word);
  }
}

/* ---- Values ---- */

static bool count_parse(const char *text, size_t *value, const char **end) {
  if (*text < '0' || *text > '9') return false; /* strtoull would take spaces and signs */
  errno = 0;
  char *stop = NULL;
  unsigned long long number = strtoull(text, &stop, 10);
  if (errno) return false;
  *value = (size_t)number;
  *end = stop;
  return true;
}

static bool size_parse(const char *text, size_t *value) {
  static const struct {
    const char *suffix;
    int shift;
  } units[] = {{"", 0}, {"B", 0}, {"K", 10}, {"KiB", 10}, {"M", 20}, {"MiB", 20}, {"G", 30}, {"GiB", 30}};
  const char *end = NULL;
  if (!count_parse(text, value, &end)) return false;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (!strcmp(end, units[i].suffix)) return !__builtin_mul_overflow(*value, (size_t)1 << units[i].shift, value);
  return false;
}

static bool real_parse(const char *text, double *value, const char **end) {
  if (!strchr("0123456789.+-", *text) || strpbrk(text, "xXnN")) return false; /* no hex, no nan, no inf */
  char *stop = NULL;
  *value = strtod(text, &stop);
  *end = stop;
  return stop != text && isfinite(*value);
}

bool positions_parse(const char *text, size_t limit, size_t *out, size_t *count, size_t *beyond) {
  *count = 0;
  *beyond = SIZE_MAX;
  for (;; text++) {
    const char *end = NULL;
    size_t first = 0, last = 0;
    if (!count_parse(text, &first, &end)) return false;
    last = first;
    if (*end == '-' && (!count_parse(end + 1, &last, &end) || last < first)) return false;
    if (last >= limit) {
      *beyond = last;
      return false;
    }
    for (size_t i = first; out && i <= last; i++) out[*count + i - first] = i;
    if (__builtin_add_overflow(*count, last - first + 1, count)) return false;
    text = end;
    if (*text != ',') break;
  }
  return !*text;
}

bool number_parse(const char *text, double *value) {
  const char *end = NULL;
  double number = 0, divisor = 1;
  if (!*text || !real_parse(text, &number, &end)) return false;
  if (*end == '/' && (!end[1] || !real_parse(end + 1, &divisor, &end) || divisor == 0)) return false;
  *value = number / divisor;
  return !*end && isfinite(*value);
}

static bool in_range(const cli_option *option, double value) {
  bool low = option->open ? value > option->least : value >= option->least;
  bool high = option->most <= 0 || (option->open ? value < option->most : value <= option->most);
  return low && high;
}

static bool value_set(const cli_option *option, const char *text, void *group) {
  void *field = (char *)group + option->offset;
  const char *end = NULL;
  size_t count = 0;
  double number = 0;
  switch (option->kind) {
    case OPTION_FLAG: *(int *)field = 1; return true;
    case OPTION_TEXT:
    case OPTION_FILE: *(const char **)field = text; return *text != '\0';
    case OPTION_COUNT:
      if (option->word && !strcmp(text, option->word)) {
        *(size_t *)field = option->word_value;
        return true;
      }
      if (!count_parse(text, &count, &end) || *end || !in_range(option, (double)count)) return false;
      *(size_t *)field = count;
      return true;
    case OPTION_SIZE:
      if (!size_parse(text, &count) || !in_range(option, (double)count)) return false;
      *(size_t *)field = count;
      return true;
    case OPTION_REAL:
      if (!number_parse(text, &number) || !in_range(option, number)) return false;
      *(double *)field = number;
      return true;
    case OPTION_CHOICE:
      for (const cli_choice *one = option->choices; one->name; one++)
        if (!strcmp(text, one->name)) {
          *(int *)field = one->value;
          return true;
        }
      return false;
    case OPTION_NAME:
      for (size_t i = 0; option->list(i); i++)
        if (!strcmp(text, option->list(i))) {
          *(const char **)field = option->list(i);
          return true;
        }
      return false;
    case OPTION_CUSTOM: return option->parse(text, group);
  }
  return false;
}

static int option_set(const cli_command *command, const cli_option *option, const char *text, void *group) {
  if (value_set(option, text, group)) return EXIT_DONE;
  char allowed[256];
  option_allowed(option, allowed, sizeof allowed);
  return usage_error(command, "--%s is '%s'; it must be %s", option->name, text, allowed);
}

/* ---- Mistyped names ---- */

static size_t edit_distance(const char *a, const char *b) {
  size_t row[64], length = strlen(b);
  if (length >= 64) return SIZE_MAX;
  for (size_t j = 0; j <= length; j++) row[j] = j;
  for (size_t i = 1; a[i - 1]; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= length; j++) {
      size_t replace = diagonal + (a[i - 1] != b[j - 1]), insert = row[j - 1] + 1, remove = row[j] + 1;
      diagonal = row[j];
      row[j] = replace < insert ? replace : insert;
      if (remove < row[j]) row[j] = remove;
    }
  }
  return row[length];
}

const char *nearest_name(const char *typed, name_list list, const void *names) {
  const char *best = NULL;
  size_t least = strlen(typed) / 3 + 1; /* more typing errors than that are another word */
  for (size_t i = 0; list(names, i); i++) {
    size_t distance = edit_distance(typed, list(names, i));
    if (distance <= least && (!best || distance < least)) {
      best = list(names, i);
      least = distance;
    }
  }
  return best;
}

/* ---- The command line ---- */

enum { MOST_OPTIONS = 64, LONG_BASE = 256 };

typedef struct flat_option {
  const cli_option *option;
  size_t group_offset;
} flat_option;

typedef struct flat_table {
  flat_option entry[MOST_OPTIONS];
  size_t count;
} flat_table;

static flat_table flatten(const cli_command *command) {
  flat_table table = {.count = 0};
  for (const cli_group *group = command->groups; group->title; group++)
    for (const cli_option *option = group->options; option->name; option++)
      if (table.count < MOST_OPTIONS) table.entry[table.count++] = (flat_option){option, group->offset};
  return table;
}

static const char *flat_name(const void *table, size_t index) {
  const flat_table *flat = table;
  return index < flat->count ? flat->entry[index].option->name : NULL;
}

static int unknown_option(const cli_command *command, const flat_table *table, const char *typed) {
  if (typed[0] != '-' || typed[1] != '-') return usage_error(command, "unknown option '%s'", typed);
  char name[64];
  snprintf(name, sizeof name, "%s", typed + 2);
  name[strcspn(name, "=")] = '\0';
  const char *near = nearest_name(name, flat_name, table);
  if (near) return usage_error(command, "unknown option '--%s'; did you mean --%s?", name, near);
  return usage_error(command, "unknown option '--%s'", name);
}

int options_parse(const cli_command *command, int argc, char **argv, void *arguments, size_t *operands) {
  flat_table table = flatten(command);
  struct option names[MOST_OPTIONS + 1] = {0};
  char letters[2 * MOST_OPTIONS + 2] = ":";
  for (size_t i = 0; i < table.count; i++) {
    const cli_option *option = table.entry[i].option;
    int has_argument = option->argument ? required_argument : no_argument;
    names[i] = (struct option){option->name, has_argument, NULL, LONG_BASE + (int)i};
    if (option->letter) {
      char letter[] = {option->letter, option->argument ? ':' : '\0', '\0'};
      append(letters, sizeof letters, letter);
    }
  }
  opterr = 0;
  for (;;) {
    int at = optind; /* the word that getopt_long looks at next */
    int found = getopt_long(argc, argv, letters, names, NULL);
    if (found == -1) break;
    if (found == ':') return usage_error(command, "%s needs a value", argv[optind - 1]);
    if (found == '?') {
      char letter[] = {'-', (char)optopt, '\0'};
      if (optopt >= LONG_BASE && (size_t)(optopt - LONG_BASE) < table.count && table.entry[optopt - LONG_BASE].option)
        return usage_error(command, "--%s takes no value", table.entry[optopt - LONG_BASE].option->name);
      const char *typed = optopt ? letter : argv[optind > at ? optind - 1 : at];
      return unknown_option(command, &table, typed);
    }
    for (size_t i = 0; i < table.count; i++) {
      const cli_option *option = table.entry[i].option;
      if (found != LONG_BASE + (int)i && found != option->letter) continue;
      int code = option_set(command, option, optarg, (char *)arguments + table.entry[i].group_offset);
      if (code) return code;
      break;
    }
  }
  *operands = (size_t)optind;
  return EXIT_DONE;
}
