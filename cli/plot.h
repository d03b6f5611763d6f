/* plot.h - line plots and heat maps as SVG, drawn by gnuplot. */
#ifndef PITH_CLI_PLOT_H
#define PITH_CLI_PLOT_H

#include "command.h"

typedef struct cli_plot cli_plot;

/* Starts a log-log plot; says so and yields an exit code where gnuplot is missing. Call it before long work. `option`
 * is the one that asks for pictures. */
int plot_create(cli_session *session, const char *option, const char *x_label, const char *y_label, cli_plot **out);
void plot_title(cli_plot *plot, const char *title);
/* A new line: solid with marks, or dashed. */
void plot_line(cli_plot *plot, const char *title, bool dashed);
/* A point of the last line; what a log scale cannot show is left out. */
void plot_point(cli_plot *plot, double x, double y);
/* A single mark beside the lines, named where `label` is not NULL; `title` is what all marks together are. */
void plot_marks_title(cli_plot *plot, const char *title);
void plot_mark(cli_plot *plot, double x, double y, const char *label);
/* Writes the picture to `path` ("-": standard output). Yields an exit code. */
int plot_write(cli_session *session, cli_plot *plot, const char *path);
/* The same for several in one picture, two in a row. */
int plots_write(cli_session *session, cli_plot *const *plots, size_t count, const char *path);
void plot_free(cli_plot *plot); /* NULL is fine */

/* Writes (rows, columns) values as shades. Yields an exit code. */
typedef struct cli_heat_map {
  const char *title, *x_label, *y_label, *value_label;
  size_t rows, columns;
  const double *value;
} cli_heat_map;
int heat_map_write(cli_session *session, const cli_heat_map *map, const char *path);

#endif
