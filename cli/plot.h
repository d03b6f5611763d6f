/* plot.h - line plots as SVG, drawn by gnuplot. */
#ifndef PITH_CLI_PLOT_H
#define PITH_CLI_PLOT_H

#include "command.h"

typedef struct cli_plot cli_plot;

/* Starts a log-log plot; says so and yields an exit code where gnuplot is missing. Call it before long work. */
int plot_create(cli_session *session, const char *x_label, const char *y_label, cli_plot **out);
/* A new line: solid with marks, or dashed. */
void plot_line(cli_plot *plot, const char *title, bool dashed);
/* A point of the last line; what a log scale cannot show is left out. */
void plot_point(cli_plot *plot, double x, double y);
/* Writes the picture to `path` ("-": standard output). Yields an exit code. */
int plot_write(cli_session *session, cli_plot *plot, const char *path);
void plot_free(cli_plot *plot); /* NULL is fine */

#endif
