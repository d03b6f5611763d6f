/* summary_text.c - numbers go through the JSON library, whose decimal point does not depend on the locale. */
#include "io/summary_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "summary/summary.h"

enum { NAME_ROOM = 96, NUMBER_ROOM = 40, CERTIFICATE_ROOM = 256 };

static void join(char name[NAME_ROOM], const char *prefix, const char *key) {
  (void)snprintf(name, NAME_ROOM, "%s%s", prefix, key);
}

/* ---- Numbers: JSON's, with 17 digits, and "inf" ---- */

static bool print_number(double number, char text[NUMBER_ROOM]) {
  if (isinf(number) && number > 0) return memcpy(text, "inf", 4), true;
  json_t *value = json_real(number);
  size_t length = value ? json_dumpb(value, text, NUMBER_ROOM - 1, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) : 0;
  json_decref(value);
  if (length == 0 || length >= NUMBER_ROOM) return false;
  text[length] = 0;
  return true;
}

static bool parse_number(const char *text, size_t length, double *number) {
  if (length == 3 && memcmp(text, "inf", 3) == 0) return *number = INFINITY, true;
  json_t *value = json_loadb(text, length, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
  bool found = json_is_real(value);
  if (found) *number = json_real_value(value);
  json_decref(value);
  return found;
}

/* ---- Writing ---- */

bool pith_text_set(json_t *metadata, const char *prefix, const char *key, const char *text) {
  char name[NAME_ROOM];
  join(name, prefix, key);
  return json_object_set_new(metadata, name, json_string(text)) == 0;
}

bool pith_text_set_count(json_t *metadata, const char *prefix, const char *key, uint64_t count) {
  char text[NUMBER_ROOM];
  (void)snprintf(text, sizeof text, "%" PRIu64, count);
  return pith_text_set(metadata, prefix, key, text);
}

bool pith_text_set_number(json_t *metadata, const char *prefix, const char *key, double number) {
  char text[NUMBER_ROOM];
  return print_number(number, text) && pith_text_set(metadata, prefix, key, text);
}

/* "kind bound confidence trivial rho certified"; nothing for a certificate that says nothing. */
static bool set_certificate(json_t *metadata, const char *prefix, const char *key,
                            const pith_certificate *certificate) {
  if (certificate->kind == PITH_CERTIFICATE_NONE) return true;
  char bound[NUMBER_ROOM], confidence[NUMBER_ROOM], trivial[NUMBER_ROOM], rho[NUMBER_ROOM], text[CERTIFICATE_ROOM];
  if (!print_number(certificate->bound, bound) || !print_number(certificate->confidence, confidence) ||
      !print_number(certificate->trivial, trivial) || !print_number(certificate->rho, rho))
    return false;
  (void)snprintf(text, sizeof text, "%s %s %s %s %s %d", pith_certificate_kind_name(certificate->kind), bound,
                 confidence, trivial, rho, certificate->certified != 0);
  return pith_text_set(metadata, prefix, key, text);
}

bool pith_text_set_head(json_t *metadata, const char *prefix, const pith_head_view *view) {
  return pith_text_set_count(metadata, prefix, "source_rows", view->source_rows) &&
         (isnan(view->probe_error) || pith_text_set_number(metadata, prefix, "probe_error", view->probe_error)) &&
         (isnan(view->fold_error) || pith_text_set_number(metadata, prefix, "fold_error", view->fold_error)) &&
         set_certificate(metadata, prefix, "certificate", &view->binding) &&
         set_certificate(metadata, prefix, "certificate.ball", &view->ball) &&
         set_certificate(metadata, prefix, "certificate.gaussian", &view->gaussian) &&
         set_certificate(metadata, prefix, "certificate.probe", &view->probe);
}

/* ---- Reading ---- */

static const char *find(const pith_file *file, const char *prefix, const char *key) {
  char name[NAME_ROOM];
  join(name, prefix, key);
  return pith_safetensors_metadata(file, name);
}

static pith_status fail_text(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                             const char *text, const char *wanted) {
  return pith_fail(context, PITH_E_FORMAT, "%s: metadata: %s%s: \"%s\" is not %s", file->name, prefix, key,
                   pith_quote(text, strlen(text)).text, wanted);
}

pith_status pith_text_get(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                          const char **text) {
  *text = find(file, prefix, key);
  if (*text) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT, "%s: metadata: %s%s is missing", file->name, prefix, key);
}

pith_status pith_text_count(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                            size_t most, size_t *count) {
  const char *text = NULL;
  PITH_TRY(pith_text_get(context, file, prefix, key, &text));
  size_t value = 0, digits = 0;
  bool sound = true;
  for (; sound && text[digits]; digits++)
    sound = text[digits] >= '0' && text[digits] <= '9' && !__builtin_mul_overflow(value, (size_t)10, &value) &&
            !__builtin_add_overflow(value, (size_t)(text[digits] - '0'), &value);
  if (!sound || digits == 0 || (digits > 1 && text[0] == '0') || value > most)
    return fail_text(context, file, prefix, key, text, "a count, or is too large");
  *count = value;
  return PITH_OK;
}

pith_status pith_text_number(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                             double *number) {
  const char *text = NULL;
  PITH_TRY(pith_text_get(context, file, prefix, key, &text));
  if (!parse_number(text, strlen(text), number)) return fail_text(context, file, prefix, key, text, "a number");
  return PITH_OK;
}

pith_status pith_text_error(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                            double *error) {
  *error = NAN;
  return find(file, prefix, key) ? pith_text_number(context, file, prefix, key, error) : PITH_OK;
}

static pith_certificate_kind parse_kind(const char *text, size_t length) {
  for (int kind = PITH_CERTIFICATE_BALL; kind <= PITH_CERTIFICATE_PROBE; kind++) {
    const char *name = pith_certificate_kind_name((pith_certificate_kind)kind);
    if (strlen(name) == length && memcmp(name, text, length) == 0) return (pith_certificate_kind)kind;
  }
  return PITH_CERTIFICATE_NONE;
}

static pith_status read_certificate(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                                    pith_certificate *out) {
  const char *text = find(file, prefix, key), *at = text;
  *out = pith_certificate_none();
  if (!text) return PITH_OK;
  size_t length = strcspn(at, " ");
  out->kind = parse_kind(at, length);
  bool sound = out->kind != PITH_CERTIFICATE_NONE;
  double certified = 0, *numbers[5] = {&out->bound, &out->confidence, &out->trivial, &out->rho, &certified};
  for (int i = 0; sound && i < 5; i++) {
    sound = at[length] == ' ';
    at += length + (sound ? 1 : 0);
    length = strcspn(at, " ");
    sound = sound && parse_number(at, length, numbers[i]);
  }
  if (!sound || at[length] || (certified != 0 && certified != 1))
    return fail_text(context, file, prefix, key, text, "a certificate: kind bound confidence trivial rho certified");
  out->certified = certified != 0;
  return PITH_OK;
}

pith_status pith_text_head(pith_context *context, const pith_file *file, const char *prefix, pith_head_view *view) {
  PITH_TRY(pith_text_count(context, file, prefix, "source_rows", SIZE_MAX, &view->source_rows));
  PITH_TRY(pith_text_error(context, file, prefix, "probe_error", &view->probe_error));
  PITH_TRY(pith_text_error(context, file, prefix, "fold_error", &view->fold_error));
  PITH_TRY(read_certificate(context, file, prefix, "certificate", &view->binding));
  PITH_TRY(read_certificate(context, file, prefix, "certificate.ball", &view->ball));
  PITH_TRY(read_certificate(context, file, prefix, "certificate.gaussian", &view->gaussian));
  return read_certificate(context, file, prefix, "certificate.probe", &view->probe);
}
