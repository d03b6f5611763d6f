/* sample_stream.c - updates from lines of text or from .npy records. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sample.h"

static const char RECORD_TYPE[] = "'descr':[('kind','<u4'),('column','<u4'),('row','<u8'),('delta','<f8')]";
_Static_assert(sizeof(pith_update) == 24, "a record is an update as it lies in memory");

static const char *place_name(const sample_stream *stream) { return stream->records ? "record" : "line"; }

/* Notes why the stream ends here; yields false. */
static bool fail(sample_stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool fail(sample_stream *stream, const char *format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(stream->reason, sizeof stream->reason, format, values);
  va_end(values);
  stream->failed = true;
  return false;
}

/* ---- Text ---- */

static char *next_word(char **rest) {
  char *word = *rest + strspn(*rest, " \t\r\n");
  if (!*word) return NULL;
  char *end = word + strcspn(word, " \t\r\n");
  *rest = *end ? end + 1 : end;
  *end = '\0';
  return word;
}

static bool read_index(sample_stream *stream, char **rest, const char *what, uint64_t *index) {
  const char *word = next_word(rest);
  if (!word) return fail(stream, "%s is missing", what);
  char *end = NULL;
  errno = 0;
  *index = strtoull(word, &end, 10);
  if (*word < '0' || *word > '9' || *end || errno)
    return fail(stream, "%s is '%.40s'; it must be a whole number, 0 or more", what, word);
  return true;
}

static bool read_number(sample_stream *stream, char **rest, const char *what, double *value) {
  const char *word = next_word(rest);
  if (!word) return fail(stream, "%s is missing", what);
  char *end = NULL;
  *value = strtod(word, &end);
  if (end == word || *end) return fail(stream, "%s is '%.40s'; it must be a number", what, word);
  if (!isfinite(*value)) return fail(stream, "%s is %.40s; it must be finite", what, word);
  return true;
}

static bool read_end(sample_stream *stream, char **rest) {
  const char *word = next_word(rest);
  return !word || fail(stream, "'%.40s' is one word too many", word);
}

static bool read_column(sample_stream *stream, char **rest, pith_update *update) {
  uint64_t column = 0;
  if (!read_index(stream, rest, "the column", &column)) return false;
  if (column > UINT32_MAX) return fail(stream, "column %llu is out of range", (unsigned long long)column);
  update->column = (uint32_t)column;
  return true;
}

static bool read_update(sample_stream *stream, const sample_word *word, char **rest) {
  pith_update update = {.kind = word->kind};
  if (word->indices == 2 && !read_index(stream, rest, "the row", &update.row)) return false;
  if (!read_column(stream, rest, &update) || !read_number(stream, rest, "the delta", &update.delta)) return false;
  if (!read_end(stream, rest)) return false;
  stream->at[stream->count] = stream->number;
  stream->update[stream->count++] = update;
  stream->batch = SAMPLE_UPDATES;
  return true;
}

static bool read_row(sample_stream *stream, char **rest) {
  if (!read_index(stream, rest, "the row", &stream->row)) return false;
  for (size_t j = 0; j < stream->width; j++) {
    char what[64];
    (void)snprintf(what, sizeof what, "value %zu of %zu", j + 1, stream->width);
    if (!read_number(stream, rest, what, &stream->values[j])) return false;
  }
  stream->batch = SAMPLE_ROW;
  return read_end(stream, rest);
}

static bool read_draw(sample_stream *stream, char **rest) {
  uint64_t wanted = 0;
  if (!read_index(stream, rest, "the number of draws", &wanted)) return false;
  stream->wanted = (size_t)wanted;
  stream->batch = SAMPLE_DRAW;
  return read_end(stream, rest);
}

/* The words there are, for a message. */
static void list_words(const sample_stream *stream, char *out, size_t size) {
  size_t used = 0;
  for (const sample_word *word = stream->words; word->word; word++)
    used += (size_t)snprintf(out + used, size - used, "%s, ", word->word);
  (void)snprintf(out + used, size - used, "%sdraw", stream->width ? "row, " : "");
}

/* Takes the line in hand, unless it is to begin the next batch. */
static bool read_line(sample_stream *stream) {
  char *rest = stream->line + strspn(stream->line, " \t\r\n");
  stream->pending = false;
  if (!*rest || *rest == '#') return true;
  size_t length = strcspn(rest, " \t\r\n");
  const sample_word *word = stream->words;
  while (word->word && (strlen(word->word) != length || strncmp(word->word, rest, length) != 0)) word++;
  if (!word->word && stream->count > 0) { /* the updates before it go first */
    stream->pending = true;
    return true;
  }
  const char *first = next_word(&rest);
  if (word->word) return read_update(stream, word, &rest);
  if (stream->width && !strcmp(first, "row")) return read_row(stream, &rest);
  if (!strcmp(first, "draw")) return read_draw(stream, &rest);
  char words[64];
  list_words(stream, words, sizeof words);
  return fail(stream, "'%.40s' begins no update; there are: %s", first, words);
}

static void read_lines(sample_stream *stream) {
  while (!stream->failed && !stream->pending && stream->count < SAMPLE_BATCH && stream->batch <= SAMPLE_UPDATES) {
    ssize_t length = getline(&stream->line, &stream->room, stream->in);
    if (length < 0) return;
    stream->number++;
    if (memchr(stream->line, '\0', (size_t)length))
      (void)fail(stream, "a zero byte; this is not text");
    else
      (void)read_line(stream);
  }
}

/* ---- Records ---- */

/* The header of a .npy file, whose first byte was seen. */
static bool read_header(sample_stream *stream) {
  unsigned char start[8];
  uint32_t length = 0;
  if (fread(start, 1, sizeof start, stream->in) != sizeof start || memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 ||
      start[6] > 3)
    return fail(stream, "not a .npy file of version 1, 2 or 3");
  if (fread(&length, 1, start[6] == 1 ? 2 : 4, stream->in) != (start[6] == 1 ? 2U : 4U) || length > 4096)
    return fail(stream, "the length of the .npy header is %u; it must be at most 4096", length);
  char header[4097], packed[4097];
  if (fread(header, 1, length, stream->in) != length) return fail(stream, "cut short within the .npy header");
  size_t used = 0;
  for (size_t i = 0; i < length; i++)
    if (header[i] && !strchr(" \t\r\n", header[i])) packed[used++] = header[i];
  packed[used] = '\0';
  const char *shape = strstr(packed, "'shape':(");
  char *end = NULL;
  if (!strstr(packed, RECORD_TYPE) || !strstr(packed, "'fortran_order':False") || !shape)
    return fail(stream, "the records must have the type %s", RECORD_TYPE + 8);
  errno = 0;
  stream->records_left = strtoull(shape + 9, &end, 10);
  if (end == shape + 9 || strncmp(end, ",)", 2) != 0 || errno)
    return fail(stream, "the records must be an array of one dimension");
  return true;
}

static bool read_record(sample_stream *stream, pith_update *update) {
  if (stream->pending) {
    *update = stream->held;
    stream->pending = false;
    return true;
  }
  if (stream->records_left == 0) {
    if (getc(stream->in) != EOF) (void)fail(stream, "the file goes on after its last record");
    return false;
  }
  if (fread(update, sizeof *update, 1, stream->in) != 1)
    return fail(stream, "cut short, %zu records before its end", stream->records_left);
  stream->records_left--;
  stream->number++;
  return true;
}

static void read_records(sample_stream *stream) {
  pith_update update;
  while (!stream->failed && stream->count < SAMPLE_BATCH && read_record(stream, &update)) {
    if (update.kind != PITH_UPDATE_DRAW) {
      stream->at[stream->count] = stream->number;
      stream->update[stream->count++] = update;
      stream->batch = SAMPLE_UPDATES;
      continue;
    }
    if (stream->count > 0) { /* the updates before it go first */
      stream->held = update;
      stream->pending = true;
    } else {
      stream->wanted = (size_t)update.row;
      stream->batch = SAMPLE_DRAW;
    }
    return;
  }
}

/* ---- Both ---- */

int sample_stream_open(cli_session *session, const char *path, const sample_word *words, size_t width,
                       sample_stream **out) {
  bool standard = !strcmp(path, "-");
  if (standard && session->standard_input)
    return usage_error(session->command, "%s and --updates are both '-', but there is one standard input",
                       session->standard_input);
  FILE *in = standard ? stdin : fopen(path, "rb");
  if (!in) return session_error(session, EXIT_IO, "%s: cannot open: %s", path, strerror(errno));
  sample_stream *stream = allocate_zero(1, sizeof *stream);
  stream->in = in;
  stream->name = standard ? "standard input" : path;
  stream->words = words;
  stream->width = width;
  stream->values = allocate_zero(width, sizeof *stream->values);
  int first = getc(in);
  if (first != EOF) ungetc(first, in);
  stream->records = first == 0x93;
  *out = stream;
  if (!stream->records || read_header(stream)) return EXIT_DONE;
  return session_error(session, EXIT_INPUT, "%s: %s", stream->name, stream->reason);
}

int sample_stream_next(cli_session *session, sample_stream *stream) {
  stream->batch = SAMPLE_END;
  stream->count = 0;
  if (stream->records) {
    read_records(stream);
  } else {
    if (stream->pending) (void)read_line(stream);
    read_lines(stream);
  }
  if (ferror(stream->in)) return session_error(session, EXIT_IO, "%s: cannot read: %s", stream->name, strerror(errno));
  if (!stream->failed) return EXIT_DONE;
  if (stream->count > 0) { /* those first; the failure stays */
    stream->batch = SAMPLE_UPDATES;
    return EXIT_DONE;
  }
  return session_error(session, EXIT_INPUT, "%s: %s %zu: %s", stream->name, place_name(stream), stream->number,
                       stream->reason);
}

int sample_stream_refused(cli_session *session, const sample_stream *stream, size_t index) {
  size_t at = stream->batch == SAMPLE_UPDATES ? stream->at[index] : stream->number;
  return session_error(session, EXIT_INPUT, "%s: %s %zu: %s", stream->name, place_name(stream), at,
                       pith_context_message(session->context));
}

void sample_stream_close(sample_stream *stream) {
  if (!stream) return;
  if (stream->in != stdin) fclose(stream->in);
  free(stream->line);
  free(stream->values);
  free(stream);
}

void sample_set_updates(json_t *object, size_t updates, double seconds) {
  json_object_set_new(object, "updates", json_count(updates));
  json_object_set_new(object, "updates_per_second", json_number(seconds > 0 ? (double)updates / seconds : 0));
}
