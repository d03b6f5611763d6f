/* report.h - results for people (aligned tables) and for programs (JSON). */
#ifndef PITH_CLI_REPORT_H
#define PITH_CLI_REPORT_H

#include <jansson.h>

#include "command.h"

/* A table: cells are added left to right, row by row, and printed with columns aligned: numbers and other short
 * cells to the right, columns whose heading starts with '<' to the left. */
typedef struct cli_table cli_table;
cli_table *table_create(const char *const *headings, size_t columns);
void table_add(cli_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_print(const cli_table *table, FILE *out);
void table_free(cli_table *table);

enum { SHORT_TEXT = 64 };
typedef struct cli_text {
  char at[SHORT_TEXT];
} cli_text;

cli_text text_bytes(size_t bytes);                              /* "1.5 MiB" */
cli_text text_error(double error);                              /* four digits; "-" when not a number */
cli_text text_certificate(const pith_certificate *certificate); /* "probe 0.012 (90 %)" or "uncertified" */

cli_text text_share(double share); /* "89.5 %"; "-" when not a number */

/* {"schema": 1} */
json_t *json_report(void);
json_t *json_number(double value); /* null when not finite */
json_t *json_count(size_t value);
json_t *json_certificate(const pith_certificate *certificate);
/* Prints the object and lets go of it. */
void json_print(json_t *object, FILE *out);

/* A summary as a table or as JSON: heads, totals, certificate. */
json_t *json_summary(cli_session *session, const pith_summary *summary);
int print_heads(cli_session *session, const pith_summary *summary);
void print_totals(cli_session *session, const pith_summary_info *info);
/* (layers, heads) values as shades. */
void print_map(cli_session *session, const char *title, const double *value, size_t layers, size_t heads);
/* layers x heads: points as shades, stores, and probe errors as shades where there are probes. */
void print_heat_map(cli_session *session, const pith_summary *summary);

#endif
