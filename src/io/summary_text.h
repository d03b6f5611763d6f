/* summary_text.h - the strings of a summary file: numbers and certificates as text and back, without loss. */
#ifndef PITH_SRC_SUMMARY_TEXT_H
#define PITH_SRC_SUMMARY_TEXT_H

#include <jansson.h>

#include "io/file.h"

/* Set prefix + key; false without memory. */
bool pith_text_set(json_t *metadata, const char *prefix, const char *key, const char *text);
bool pith_text_set_count(json_t *metadata, const char *prefix, const char *key, uint64_t count);
bool pith_text_set_number(json_t *metadata, const char *prefix, const char *key, double number);
/* source_rows, errors and certificates of a head. */
bool pith_text_set_head(json_t *metadata, const char *prefix, const pith_head_view *view);

/* Read them; fail with file, field and value where one is missing or malformed. */
pith_status pith_text_get(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                          const char **text);
pith_status pith_text_count(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                            size_t most, size_t *count);
pith_status pith_text_number(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                             double *number);
/* NaN where it is missing. */
pith_status pith_text_error(pith_context *context, const pith_file *file, const char *prefix, const char *key,
                            double *error);
pith_status pith_text_head(pith_context *context, const pith_file *file, const char *prefix, pith_head_view *view);

#endif
