/* report.c - aligned tables, readable sizes, JSON. */
#include "report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct cli_table {
  size_t columns, cells, capacity;
  char **cell; /* the first `columns` are the headings */
};

static void add(cli_table *table, const char *format, va_list values) {
  if (table->cells == table->capacity) {
    table->capacity = 2 * table->capacity + 64;
    char **grown = allocate_zero(table->capacity, sizeof *grown);
    if (table->cells) memcpy(grown, table->cell, table->cells * sizeof *grown);
    free(table->cell);
    table->cell = grown;
  }
  char *copy = allocate_zero(256, 1);
  vsnprintf(copy, 256, format, values);
  table->cell[table->cells++] = copy;
}

void table_add(cli_table *table, const char *format, ...) {
  va_list values;
  va_start(values, format);
  add(table, format, values);
  va_end(values);
}

cli_table *table_create(const char *const *headings, size_t columns) {
  cli_table *table = allocate_zero(1, sizeof *table);
  table->columns = columns;
  for (size_t i = 0; i < columns; i++) table_add(table, "%s", headings[i]);
  return table;
}

void table_print(const cli_table *table, FILE *out) {
  size_t *width = allocate_zero(table->columns, sizeof *width);
  for (size_t i = 0; i < table->cells; i++) {
    size_t length = strlen(table->cell[i]), column = i % table->columns;
    if (i < table->columns && table->cell[i][0] == '<') length--;
    if (length > width[column]) width[column] = length;
  }
  for (size_t i = 0; i < table->cells; i++) {
    size_t column = i % table->columns;
    bool left = table->cell[column][0] == '<', last = column + 1 == table->columns;
    const char *text = table->cell[i] + (i < table->columns && left);
    fprintf(out, "%s%*s", column ? "  " : "", left ? (last ? 0 : -(int)width[column]) : (int)width[column], text);
    if (last) fputc('\n', out);
  }
  free(width);
}

void table_free(cli_table *table) {
  if (!table) return;
  for (size_t i = 0; i < table->cells; i++) free(table->cell[i]);
  free(table->cell);
  free(table);
}

cli_text text_bytes(size_t bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = (double)bytes;
  size_t unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    unit++;
  }
  cli_text out;
  snprintf(out.at, sizeof out.at, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return out;
}

cli_text text_error(double error) {
  cli_text out = {"-"};
  if (!isnan(error)) snprintf(out.at, sizeof out.at, "%.4g", error);
  return out;
}

cli_text text_share(double share) {
  cli_text out = {"-"};
  if (!isnan(share)) snprintf(out.at, sizeof out.at, "%.1f %%", 100 * share);
  return out;
}

cli_text text_certificate(const pith_certificate *certificate) {
  cli_text out = {"uncertified"};
  /* A bound that any answer inside the hull of the values meets says nothing: no number then. */
  if (certificate->kind == PITH_CERTIFICATE_NONE || !(certificate->bound < certificate->trivial)) return out;
  const char *name = pith_certificate_kind_name(certificate->kind);
  const char *verdict = certificate->certified ? "" : ", not certified";
  if (certificate->kind == PITH_CERTIFICATE_BALL)
    snprintf(out.at, sizeof out.at, "%s %.4g (rho %.4g)%s", name, certificate->bound, certificate->rho, verdict);
  else if (certificate->confidence < 1)
    snprintf(out.at, sizeof out.at, "%s %.4g (%g %%)%s", name, certificate->bound, 100 * certificate->confidence,
             verdict);
  else
    snprintf(out.at, sizeof out.at, "%s %.4g%s", name, certificate->bound, verdict);
  return out;
}

json_t *json_report(void) { return json_pack("{s:i}", "schema", 1); }

json_t *json_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

json_t *json_count(size_t value) { return json_integer((json_int_t)value); }

json_t *json_certificate(const pith_certificate *certificate) {
  bool says_something = certificate->bound < certificate->trivial;
  json_t *object = json_object();
  json_object_set_new(object, "kind", json_string(pith_certificate_kind_name(certificate->kind)));
  json_object_set_new(object, "bound", json_number(says_something ? certificate->bound : INFINITY));
  json_object_set_new(object, "confidence", json_number(certificate->confidence));
  json_object_set_new(object, "trivial", json_number(certificate->trivial));
  json_object_set_new(object, "rho", json_number(certificate->rho));
  json_object_set_new(object, "certified", json_boolean(certificate->certified));
  return object;
}

void json_print(json_t *object, FILE *out) {
  json_dumpf(object, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
  fputc('\n', out);
  json_decref(object);
}
