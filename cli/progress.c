/* progress.c - a bar on standard error for work that takes longer than a second, and Ctrl-C. */
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

static volatile sig_atomic_t stop_asked;

static void on_interrupt(int number) {
  (void)number;
  stop_asked = 1;
}

bool interrupted(void) { return stop_asked != 0; }

double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_start(cli_progress *progress, int mode) {
  *progress = (cli_progress){.mode = mode, .terminal = isatty(STDERR_FILENO), .started = seconds_now()};
  /* The first Ctrl-C asks the library to stop at its next report, the second one kills. */
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
  sigaction(SIGINT, &action, NULL);
}

void progress_label(cli_progress *progress, const char *label) {
  progress->label = label;
  progress->outer[0] = '\0';
}

void progress_clear(cli_progress *progress) {
  if (progress->drawn) fputs("\r\033[K", stderr);
  progress->drawn = false;
}

/* The bar shows the outer stage; `inner`, NULL or the stage of its current step, is said after it. */
static void draw_bar(cli_progress *progress, double part, const char *inner, double inner_part, double now) {
  char bar[31];
  size_t filled = (size_t)(part * (sizeof bar - 1));
  for (size_t i = 0; i + 1 < sizeof bar; i++) bar[i] = i < filled ? '#' : '.';
  bar[sizeof bar - 1] = '\0';
  double left = part > 0 ? (now - progress->outer_started) * (1 - part) / part : NAN;
  fprintf(stderr, "\r\033[K%s%s%s [%s] %zu of %zu", progress->label ? progress->label : "", progress->label ? ", " : "",
          progress->outer, bar, progress->done, progress->total);
  if (inner) fprintf(stderr, ", %s %.0f %%", inner, 100 * inner_part);
  if (isfinite(left) && left >= 1) fprintf(stderr, ", %.0f s left", left);
  fflush(stderr);
  progress->drawn = true;
  progress->shown = now;
}

/* In a log: one line for each tenth of the outer stage. */
static void log_tenth(cli_progress *progress, double part) {
  if ((size_t)(10 * part) <= progress->tenth) return;
  progress->tenth = (size_t)(10 * part);
  fprintf(stderr, "%s%s%s: %zu %%\n", progress->label ? progress->label : "", progress->label ? ", " : "",
          progress->outer, 10 * progress->tenth);
}

int progress_report(void *user, const char *stage, size_t done, size_t total) {
  cli_progress *progress = user;
  if (stop_asked) return 1;
  if (progress->mode == PROGRESS_NEVER || (progress->mode == PROGRESS_AUTO && !progress->terminal)) return 0;
  if (total == 0) return 0;
  double now = seconds_now();
  if (!progress->outer[0]) {
    snprintf(progress->outer, sizeof progress->outer, "%s", stage);
    progress->outer_started = now;
    progress->tenth = 0;
  }
  bool is_outer = strncmp(stage, progress->outer, sizeof progress->outer - 1) == 0;
  if (is_outer) {
    progress->done = done;
    progress->total = total;
  }
  double part = fmin(1, (double)progress->done / (double)progress->total);
  if (now - progress->started >= 1) {
    if (!progress->terminal)
      log_tenth(progress, part);
    else if (now - progress->shown >= 0.1)
      draw_bar(progress, part, is_outer ? NULL : stage, (double)done / (double)total, now);
  }
  if (is_outer && done >= total) {
    progress->outer[0] = '\0';
    progress_clear(progress);
  }
  return 0;
}
