/* help.c - what the option tables say: --help, the OPTIONS of the man pages, completion. */
#include <string.h>

#include "command.h"

enum { WIDTH = 96, INDENT = 30 };

/* Prints `text` from `column` on, broken at spaces before WIDTH, continued at `indent`; ~ is a space not broken at. */
static void print_wrapped(FILE *out, const char *text, size_t column, size_t indent) {
  while (*text) {
    size_t word = strcspn(text, " ");
    if (column + word > WIDTH && column > indent) {
      fprintf(out, "\n%*s", (int)indent, "");
      column = indent;
    }
    for (size_t i = 0; i < word; i++) fputc(text[i] == '~' ? ' ' : text[i], out);
    column += word;
    text += word;
    if (*text == ' ') {
      text++;
      if (column + 1 + strcspn(text, " ") <= WIDTH) fputc(' ', out);
      column++;
    }
  }
  fputc('\n', out);
}

static void print_option(FILE *out, const cli_option *option) {
  char left[64];
  int length = option->letter ? snprintf(left, sizeof left, "  -%c, --%s", option->letter, option->name)
                              : snprintf(left, sizeof left, "      --%s", option->name);
  if (option->argument) length += snprintf(left + length, sizeof left - (size_t)length, " %s", option->argument);
  fputs(left, out);
  size_t column = (size_t)length;
  if (column + 2 > INDENT) {
    fputc('\n', out);
    column = 0;
  }
  fprintf(out, "%*s", (int)(INDENT - column), "");
  print_wrapped(out, option->help, INDENT, INDENT);
  if (!option->list_help) return;
  for (size_t i = 0; option->list(i); i++) {
    fprintf(out, "%*s%-12s", INDENT + 2, "", option->list(i));
    print_wrapped(out, option->list_help(i), INDENT + 14, INDENT + 14);
  }
}

void help_overview(FILE *out) {
  fputs(
      "pith - attention in small memory\n"
      "\n"
      "pith makes a small summary of the keys and values of attention, answers queries from it,\n"
      "and says how wrong the answers can be.\n"
      "\n"
      "Start with these two, on arrays saved by NumPy:\n"
      "  pith compress --keys K.npy --values V.npy --queries Q.npy --ratio 1/4 -o S.safetensors\n"
      "  pith attend --summary S.safetensors --queries NEW.npy -o ANSWERS.npy\n"
      "\n"
      "Commands:\n",
      out);
  for (size_t i = 0; commands[i]; i++) fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
  fputs("\n'pith help COMMAND' shows the options of a command, 'pith --version' the version.\n", out);
}

/* A form of the command on each line of its usage. */
static void print_usage(FILE *out, const cli_command *command) {
  size_t indent = sizeof "Usage: pith " + strlen(command->name);
  const char *before = "Usage:";
  for (const char *form = command->usage; *form; before = "      ") {
    char line[512];
    size_t length = strcspn(form, "\n");
    snprintf(line, sizeof line, "%.*s", (int)length, form);
    fprintf(out, "%s pith %s ", before, command->name);
    print_wrapped(out, line, indent, indent);
    form += length + (form[length] == '\n');
  }
}

void help_command(FILE *out, const cli_command *command) {
  fprintf(out, "pith %s - %s\n\n", command->name, command->summary);
  print_usage(out, command);
  fprintf(out, "\n%s\n", command->description);
  for (const cli_group *group = command->groups; group->title; group++) {
    fprintf(out, "\n%s:\n", group->title);
    for (const cli_option *option = group->options; option->name; option++) print_option(out, option);
  }
  fprintf(out, "\nExamples:\n%s", command->examples);
}

/* scdoc reads _ and * and \ as markup. */
static void print_scdoc_text(FILE *out, const char *text) {
  for (; *text; text++) {
    if (strchr("_*\\<>#[]", *text)) fputc('\\', out);
    fputc(*text, out);
  }
}

void help_scdoc(FILE *out, const cli_command *command) {
  for (const cli_group *group = command->groups; group->title; group++) {
    fprintf(out, "## %s\n\n", group->title);
    for (const cli_option *option = group->options; option->name; option++) {
      if (option->letter) fprintf(out, "*-%c*, ", option->letter);
      fprintf(out, "*--%s*", option->name);
      if (option->argument) {
        fputs(" _", out);
        print_scdoc_text(out, option->argument);
        fputc('_', out);
      }
      fputs("\n\t", out);
      print_scdoc_text(out, option->help);
      fputs("\n\n", out);
      for (size_t i = 0; option->list_help && option->list(i); i++) {
        fprintf(out, "\t- _%s_: ", option->list(i));
        print_scdoc_text(out, option->list_help(i));
        fputs(option->list(i + 1) ? "\n" : "\n\n", out);
      }
    }
  }
}

/* ---- Completion: one case a command, and one for every option with listed values. ---- */

static void print_command_words(FILE *out, const cli_command *command) {
  for (const cli_group *group = command->groups; group->title; group++)
    for (const cli_option *option = group->options; option->name; option++) {
      fprintf(out, " --%s", option->name);
      if (option->letter) fprintf(out, " -%c", option->letter);
    }
}

static void print_value_cases(FILE *out, const cli_command *command) {
  for (const cli_group *group = command->groups; group->title; group++)
    for (const cli_option *option = group->options; option->name; option++) {
      if (!option->argument) continue;
      fprintf(out, "    %s:--%s", command->name, option->name);
      if (option->letter) fprintf(out, "|%s:-%c", command->name, option->letter);
      fputs(") ", out);
      if (option->kind == OPTION_FILE) {
        fputs("COMPREPLY=($(compgen -f -- \"$word\")) ;;\n", out);
        continue;
      }
      fputs("COMPREPLY=($(compgen -W \"", out);
      if (option->kind == OPTION_CHOICE || option->kind == OPTION_NAME)
        for (size_t i = 0;; i++) {
          const char *name = option->list ? option->list(i) : option->choices[i].name;
          if (!name) break;
          fprintf(out, "%s%s", i ? " " : "", name);
        }
      else if (option->word)
        fputs(option->word, out);
      fputs("\" -- \"$word\")) ;;\n", out);
    }
}

void help_completion(FILE *out) {
  fputs(
      "# bash completion of pith, made by 'pith completion bash' from its tables of options.\n"
      "_pith() {\n"
      "  local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
      "  local command=\"${COMP_WORDS[1]}\"\n"
      "  COMPREPLY=()\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ] || { [ \"$COMP_CWORD\" -eq 2 ] && [ \"$command\" = help ]; }; then\n"
      "    COMPREPLY=($(compgen -W \"help --help --version",
      out);
  for (size_t i = 0; commands[i]; i++) fprintf(out, " %s", commands[i]->name);
  fputs("\" -- \"$word\"))\n    return\n  fi\n  case \"$command:$before\" in\n", out);
  for (size_t i = 0; commands[i]; i++) print_value_cases(out, commands[i]);
  fputs("    *)\n      local options=\"\"\n      case \"$command\" in\n", out);
  for (size_t i = 0; commands[i]; i++) {
    fprintf(out, "        %s) options=\"", commands[i]->name);
    print_command_words(out, commands[i]);
    fputs("\" ;;\n", out);
  }
  fputs(
      "      esac\n"
      "      case \"$word\" in\n"
      "        -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
      "        *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
      "      esac ;;\n"
      "  esac\n"
      "}\n"
      "complete -o filenames -F _pith pith\n",
      out);
}
