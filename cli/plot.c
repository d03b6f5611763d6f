/* plot.c - a gnuplot script in a temporary file, run with its output on a pipe, written whole. */
#include "plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file.h"

extern char **environ;

typedef struct cli_line {
  char title[96];
  bool dashed;
  size_t points, capacity;
  double *xy;
} cli_line;

enum { MOST_LINES = 24 };

struct cli_plot {
  char x_label[96], y_label[96];
  size_t lines;
  cli_line line[MOST_LINES];
};

/* Starts gnuplot with the given standard input and output. */
static int start_gnuplot(char *const arguments[], int input, int output, pid_t *child) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  int failed = posix_spawnp(child, "gnuplot", &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  return failed;
}

static bool finished_well(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return false;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool gnuplot_runs(void) {
  int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (nothing < 0) return false;
  char *const arguments[] = {(char[]){"gnuplot"}, (char[]){"--version"}, NULL};
  pid_t child = 0;
  bool runs = start_gnuplot(arguments, nothing, nothing, &child) == 0 && finished_well(child);
  close(nothing);
  return runs;
}

int plot_create(cli_session *session, const char *x_label, const char *y_label, cli_plot **out) {
  if (!gnuplot_runs())
    return session_error(session, EXIT_FAILED,
                         "--plot needs gnuplot, which does not run here; install it (apt install gnuplot-nox) or leave "
                         "--plot out");
  cli_plot *made = allocate_zero(1, sizeof *made);
  snprintf(made->x_label, sizeof made->x_label, "%s", x_label);
  snprintf(made->y_label, sizeof made->y_label, "%s", y_label);
  *out = made;
  return EXIT_DONE;
}

void plot_line(cli_plot *plot, const char *title, bool dashed) {
  if (plot->lines == MOST_LINES) return;
  cli_line *line = &plot->line[plot->lines++];
  snprintf(line->title, sizeof line->title, "%s", title);
  line->dashed = dashed;
}

void plot_point(cli_plot *plot, double x, double y) {
  if (plot->lines == 0 || !(x > 0) || !(y > 0) || !isfinite(x) || !isfinite(y)) return;
  cli_line *line = &plot->line[plot->lines - 1];
  if (line->points == line->capacity) {
    line->capacity = 2 * line->capacity + 16;
    double *grown = allocate_zero(2 * line->capacity, sizeof *grown);
    if (line->points) memcpy(grown, line->xy, 2 * line->points * sizeof *grown);
    free(line->xy);
    line->xy = grown;
  }
  line->xy[2 * line->points] = x;
  line->xy[2 * line->points + 1] = y;
  line->points++;
}

static void write_script(const cli_plot *plot, FILE *script) {
  for (size_t i = 0; i < plot->lines; i++) {
    fprintf(script, "$line%zu << END\n", i);
    for (size_t j = 0; j < plot->line[i].points; j++)
      fprintf(script, "%.9g %.9g\n", plot->line[i].xy[2 * j], plot->line[i].xy[2 * j + 1]);
    fputs("END\n", script);
  }
  fprintf(script,
          "set terminal svg size 1100,640 font 'Helvetica,18' background 'white'\n"
          "set logscale x 2\nset logscale y\nset format y '%%g'\n"
          "set grid lc rgb '#dddddd'\nset key outside right top Left reverse\n"
          "set xlabel '%s'\nset ylabel '%s'\nset offsets graph 0.03, graph 0.03\nplot ",
          plot->x_label, plot->y_label);
  bool first = true;
  size_t color = 0;
  for (size_t i = 0; i < plot->lines; i++) {
    const cli_line *line = &plot->line[i];
    if (!line->points) continue;
    fprintf(script, "%s$line%zu with ", first ? "" : ", ", i);
    if (line->dashed)
      fputs("lines dashtype 2 linewidth 2 linecolor 'black'", script);
    else
      fprintf(script, "linespoints linetype %zu linewidth 2", ++color);
    fprintf(script, " title '%s'", line->title);
    first = false;
  }
  fputc('\n', script);
}

static bool has_points(const cli_plot *plot) {
  for (size_t i = 0; i < plot->lines; i++)
    if (plot->line[i].points) return true;
  return false;
}

/* Copies what gnuplot writes into the target, which appears only if gnuplot ends well. */
static pith_status copy_picture(cli_session *session, int from, pid_t child, const char *path) {
  pith_writer writer;
  pith_status status = pith_writer_open(session->context, path, &writer);
  bool open = status == PITH_OK;
  unsigned char block[4096];
  for (;;) {
    ssize_t got = read(from, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (status == PITH_OK) status = pith_writer_put(&writer, block, (size_t)got);
  }
  if (!finished_well(child) && status == PITH_OK)
    status = pith_fail(session->context, PITH_E_IO, "%s: gnuplot failed to draw the picture", path);
  return open ? pith_writer_close(&writer, status) : status;
}

int plot_write(cli_session *session, cli_plot *plot, const char *path) {
  if (!has_points(plot))
    return session_error(session, EXIT_FAILED, "%s: no errors above zero to plot, not written", path);
  FILE *script = tmpfile();
  int pipe_ends[2];
  if (!script || pipe(pipe_ends) < 0)
    return session_error(session, EXIT_IO, "%s: no temporary file for gnuplot: %s", path, strerror(errno));
  write_script(plot, script);
  fflush(script);
  rewind(script);
  fcntl(pipe_ends[0], F_SETFD, FD_CLOEXEC);
  fcntl(pipe_ends[1], F_SETFD, FD_CLOEXEC);
  char *const arguments[] = {(char[]){"gnuplot"}, (char[]){"-"}, NULL};
  pid_t child = 0;
  int failed = start_gnuplot(arguments, fileno(script), pipe_ends[1], &child);
  close(pipe_ends[1]);
  pith_status status = failed ? pith_fail(session->context, PITH_E_IO, "%s: gnuplot: %s", path, strerror(failed))
                              : copy_picture(session, pipe_ends[0], child, path);
  close(pipe_ends[0]);
  fclose(script);
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

void plot_free(cli_plot *plot) {
  if (!plot) return;
  for (size_t i = 0; i < plot->lines; i++) free(plot->line[i].xy);
  free(plot);
}
