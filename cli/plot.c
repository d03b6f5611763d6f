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

typedef struct cli_mark {
  double x, y;
  char label[64]; /* "": none */
} cli_mark;

enum { MOST_LINES = 64 };

struct cli_plot {
  char title[96], x_label[96], y_label[96], marks_title[96];
  size_t lines, marks, mark_capacity;
  cli_line line[MOST_LINES];
  cli_mark *mark;
};

/* Text that cannot leave the quotes of a script. */
static void copy_plain(char *out, size_t size, const char *text) {
  snprintf(out, size, "%s", text);
  for (char *c = out; *c; c++)
    if (*c < ' ' || strchr("'\"\\`", *c)) *c = ' ';
}

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

int plot_create(cli_session *session, const char *option, const char *x_label, const char *y_label, cli_plot **out) {
  if (!gnuplot_runs())
    return session_error(session, EXIT_FAILED,
                         "%s needs gnuplot, which does not run here; install it (apt install gnuplot-nox) or leave %s "
                         "out",
                         option, option);
  cli_plot *made = allocate_zero(1, sizeof *made);
  copy_plain(made->x_label, sizeof made->x_label, x_label);
  copy_plain(made->y_label, sizeof made->y_label, y_label);
  *out = made;
  return EXIT_DONE;
}

void plot_title(cli_plot *plot, const char *title) { copy_plain(plot->title, sizeof plot->title, title); }

void plot_line(cli_plot *plot, const char *title, bool dashed) {
  if (plot->lines == MOST_LINES) return;
  cli_line *line = &plot->line[plot->lines++];
  copy_plain(line->title, sizeof line->title, title);
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

void plot_marks_title(cli_plot *plot, const char *title) {
  copy_plain(plot->marks_title, sizeof plot->marks_title, title);
}

void plot_mark(cli_plot *plot, double x, double y, const char *label) {
  if (!(x > 0) || !(y > 0) || !isfinite(x) || !isfinite(y)) return;
  if (plot->marks == plot->mark_capacity) {
    plot->mark_capacity = 2 * plot->mark_capacity + 16;
    cli_mark *grown = allocate_zero(plot->mark_capacity, sizeof *grown);
    if (plot->marks) memcpy(grown, plot->mark, plot->marks * sizeof *grown);
    free(plot->mark);
    plot->mark = grown;
  }
  cli_mark *mark = &plot->mark[plot->marks++];
  *mark = (cli_mark){.x = x, .y = y};
  if (label) copy_plain(mark->label, sizeof mark->label, label);
}

static void write_marks(const cli_plot *plot, FILE *script) {
  fputs("$marks << END\n", script);
  for (size_t i = 0; i < plot->marks; i++)
    fprintf(script, "%.9g %.9g \"%s\"\n", plot->mark[i].x, plot->mark[i].y, plot->mark[i].label);
  fputs("END\n", script);
}

static void write_terminal(FILE *script, size_t width, size_t height) {
  fprintf(script, "set terminal svg size %zu,%zu noenhanced font 'Helvetica,18' background 'white'\n", width, height);
}

static void write_panel(const cli_plot *plot, FILE *script) {
  if (plot->marks) write_marks(plot, script);
  for (size_t i = 0; i < plot->lines; i++) {
    fprintf(script, "$line%zu << END\n", i);
    for (size_t j = 0; j < plot->line[i].points; j++)
      fprintf(script, "%.9g %.9g\n", plot->line[i].xy[2 * j], plot->line[i].xy[2 * j + 1]);
    fputs("END\n", script);
  }
  fprintf(script,
          "set title '%s'\nset logscale x 2\nset logscale y\nset format y '%%g'\n"
          "set for [i = 1:12] xtics add (sprintf('1/%%d', 2**i) 2.0**-i)\n"
          "set grid lc rgb '#dddddd'\nset key outside right top Left reverse%s\n"
          "set xlabel '%s'\nset ylabel '%s'\nset offsets graph 0.03, graph 0.03\nplot ",
          plot->title, plot->lines > 16 ? " font ',13'" : "", plot->x_label, plot->y_label);
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
  if (plot->marks)
    fprintf(script,
            "%s$marks using 1:2 with points pointtype 2 pointsize 0.7 linecolor rgb '#888888' title '%s'"
            ", $marks using 1:2:3 with labels left offset 0.6,-0.5 font ',11' textcolor rgb '#666666' notitle",
            first ? "" : ", ", plot->marks_title);
  fputc('\n', script);
}

enum { WIDTH = 1100, HEIGHT = 640 };

static void write_plot(const void *what, FILE *script) {
  write_terminal(script, WIDTH, HEIGHT);
  write_panel(what, script);
}

typedef struct cli_panels {
  cli_plot *const *plot;
  size_t count;
} cli_panels;

static void write_panels(const void *what, FILE *script) {
  const cli_panels *panels = what;
  const size_t rows = (panels->count + 1) / 2;
  write_terminal(script, 2 * WIDTH, rows * HEIGHT);
  fprintf(script, "set multiplot layout %zu,2\nset format x '2^%%L'\n", rows);
  for (size_t i = 0; i < panels->count; i++) write_panel(panels->plot[i], script);
  fputs("unset multiplot\n", script);
}

static bool has_points(const cli_plot *plot) {
  if (plot->marks) return true;
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

/* Runs what `write` writes of `what`. */
static int run_script(cli_session *session, void (*write)(const void *what, FILE *script), const void *what,
                      const char *path) {
  FILE *script = tmpfile();
  int pipe_ends[2];
  if (!script || pipe(pipe_ends) < 0)
    return session_error(session, EXIT_IO, "%s: no temporary file for gnuplot: %s", path, strerror(errno));
  write(what, script);
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

int plot_write(cli_session *session, cli_plot *plot, const char *path) {
  if (!has_points(plot))
    return session_error(session, EXIT_FAILED, "%s: no errors above zero to plot, not written", path);
  return run_script(session, write_plot, plot, path);
}

int plots_write(cli_session *session, cli_plot *const *plots, size_t count, const char *path) {
  for (size_t i = 0; i < count; i++)
    if (!has_points(plots[i]))
      return session_error(session, EXIT_FAILED, "%s: nothing above zero to plot, not written", path);
  return run_script(session, write_panels, &(cli_panels){plots, count}, path);
}

void plot_free(cli_plot *plot) {
  if (!plot) return;
  for (size_t i = 0; i < plot->lines; i++) free(plot->line[i].xy);
  free(plot->mark);
  free(plot);
}

/* ---- Heat maps ---- */

static void write_heat_map(const void *what, FILE *script) {
  const cli_heat_map *map = what;
  char title[160];
  copy_plain(title, sizeof title, map->title);
  fputs("$map << END\n", script);
  for (size_t i = 0; i < map->rows * map->columns; i++)
    if (isfinite(map->value[i])) fprintf(script, "%zu %zu %.6g\n", i % map->columns, i / map->columns, map->value[i]);
  fprintf(script,
          "END\n"
          "set terminal svg size %zu,%zu noenhanced font 'Helvetica,16' background 'white'\n"
          "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\nset cblabel '%s'\nunset key\n"
          "set xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\nset xtics 1\nset ytics 0,%d\nset tics scale 0\n"
          "set cbrange [0:*]\nset palette defined (0 '#ffffff', 1 '#fdc086', 2 '#d7301f', 3 '#7f0000')\n"
          "plot $map using 1:2:(0.5):(0.5):3 with boxxyerror fillstyle solid noborder linecolor palette\n",
          320 + 60 * (map->columns < 20 ? map->columns : 20), 200 + 20 * (map->rows < 60 ? map->rows : 60), title,
          map->x_label, map->y_label, map->value_label, map->columns - 1, map->rows - 1, map->rows > 12 ? 5 : 1);
}

int heat_map_write(cli_session *session, const cli_heat_map *map, const char *path) {
  return run_script(session, write_heat_map, map, path);
}
