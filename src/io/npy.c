/* npy.c - NumPy's array files. The header is a Python dictionary literal of three fixed keys, read here by a
 * strict little parser: whatever NumPy would not write is refused. */
#include <stdio.h>
#include <string.h>

#include "io/file.h"

static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
enum { HEADER_LIMIT = 1 << 16, MAX_NDIM = 4 };

static const struct {
  char code[3];
  pith_dtype dtype;
} types[] = {{"f2", PITH_F16}, {"f4", PITH_F32}, {"f8", PITH_F64}, {"i8", PITH_I64},
             {"u1", PITH_U8},  {"i1", PITH_I8},  {"b1", PITH_U8}};

typedef struct header {
  pith_dtype dtype;
  bool swapped; /* big-endian */
  bool fortran;
  size_t ndim, shape[MAX_NDIM];
} header;

typedef struct cursor {
  pith_context *context;
  const char *name; /* of the file */
  const char *at, *end;
} cursor;

/* ---- The header's few words ---- */

static void skip_spaces(cursor *c) {
  while (c->at < c->end && *c->at == ' ') c->at++;
}

static bool accept(cursor *c, char wanted) {
  skip_spaces(c);
  if (c->at == c->end || *c->at != wanted) return false;
  c->at++;
  return true;
}

static pith_status expect(cursor *c, char wanted) {
  if (accept(c, wanted)) return PITH_OK;
  size_t left = (size_t)(c->end - c->at);
  return pith_fail(c->context, PITH_E_FORMAT, "%s: header: '%c' is missing before \"%s\"", c->name, wanted,
                   pith_quote(c->at, left).text);
}

static pith_status read_string(cursor *c, const char **text, size_t *length) {
  skip_spaces(c);
  char quote = c->at < c->end ? *c->at : 0;
  if (quote == '\'' || quote == '"') {
    const char *close = memchr(c->at + 1, quote, (size_t)(c->end - c->at - 1));
    if (close) {
      *text = c->at + 1;
      *length = (size_t)(close - *text);
      c->at = close + 1;
      return PITH_OK;
    }
  }
  return pith_fail(c->context, PITH_E_FORMAT, "%s: header: a quoted word is missing before \"%s\"", c->name,
                   pith_quote(c->at, (size_t)(c->end - c->at)).text);
}

static bool accept_word(cursor *c, const char *word) {
  size_t length = strlen(word);
  skip_spaces(c);
  if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0) return false;
  c->at += length;
  return true;
}

static pith_status read_descr(cursor *c, header *h) {
  const char *text = NULL;
  size_t length = 0;
  if (accept(c, '['))
    return pith_fail(c->context, PITH_E_TYPE, "%s: descr: records are not supported; save one plain array", c->name);
  PITH_TRY(read_string(c, &text, &length));
  if (length == 3 && strchr("<>|", text[0]))
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
      if (memcmp(text + 1, types[i].code, 2) == 0 && (text[0] != '|' || types[i].code[1] == '1')) {
        h->dtype = types[i].dtype;
        h->swapped = text[0] == '>' && pith_dtype_size(h->dtype) > 1;
        return PITH_OK;
      }
  return pith_fail(c->context, PITH_E_TYPE,
                   "%s: descr: elements are \"%s\"; f2, f4, f8, i8, u1, i1 and b1 are supported (with < or >)", c->name,
                   pith_quote(text, length).text);
}

static pith_status read_size(cursor *c, size_t *out) {
  skip_spaces(c);
  const char *start = c->at;
  size_t value = 0;
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
    if (__builtin_mul_overflow(value, (size_t)10, &value) ||
        __builtin_add_overflow(value, (size_t)(*c->at - '0'), &value))
      return pith_fail(c->context, PITH_E_SHAPE, "%s: shape: dimension %s... is too large", c->name,
                       pith_quote(start, (size_t)(c->at - start)).text);
  if (c->at == start || (*start == '0' && c->at > start + 1))
    return pith_fail(c->context, PITH_E_FORMAT, "%s: shape: a count is missing before \"%s\"", c->name,
                     pith_quote(start, (size_t)(c->end - start)).text);
  *out = value;
  return PITH_OK;
}

/* (), (n,), (n, d), (n, d,) and so on. */
static pith_status read_shape(cursor *c, header *h) {
  PITH_TRY(expect(c, '('));
  size_t counts = 0;
  bool comma = true;
  while (!accept(c, ')')) {
    size_t count = 0;
    if (!comma) return expect(c, ')');
    PITH_TRY(read_size(c, &count));
    if (counts < MAX_NDIM) h->shape[counts] = count;
    counts++;
    comma = accept(c, ',');
  }
  if (counts == 1 && !comma) /* (n) is a number, not a shape */
    return pith_fail(c->context, PITH_E_FORMAT, "%s: shape: the comma of a one-dimensional shape is missing", c->name);
  if (counts == 0 || counts > MAX_NDIM)
    return pith_fail(c->context, PITH_E_SHAPE, "%s: shape: %zu dimensions; 1 to %d are supported", c->name, counts,
                     MAX_NDIM);
  h->ndim = counts;
  return PITH_OK;
}

static pith_status read_fortran(cursor *c, header *h) {
  h->fortran = accept_word(c, "True");
  if (h->fortran || accept_word(c, "False")) return PITH_OK;
  return pith_fail(c->context, PITH_E_FORMAT, "%s: fortran_order: \"%s\" is neither True nor False", c->name,
                   pith_quote(c->at, (size_t)(c->end - c->at)).text);
}

static pith_status read_header(cursor *c, header *h) {
  static const char *const names[] = {"descr", "fortran_order", "shape"};
  static pith_status (*const readers[])(cursor *, header *) = {read_descr, read_fortran, read_shape};
  bool seen[3] = {false, false, false}, comma = true;
  PITH_TRY(expect(c, '{'));
  while (!accept(c, '}')) {
    const char *key = NULL;
    size_t length = 0, i = 0;
    if (!comma) return expect(c, '}');
    PITH_TRY(read_string(c, &key, &length));
    while (i < 3 && (strlen(names[i]) != length || memcmp(names[i], key, length) != 0)) i++;
    if (i == 3 || seen[i])
      return pith_fail(c->context, PITH_E_FORMAT, "%s: header: key \"%s\" is %s", c->name, pith_quote(key, length).text,
                       i == 3 ? "not known" : "there twice");
    seen[i] = true;
    PITH_TRY(expect(c, ':'));
    PITH_TRY(readers[i](c, h));
    comma = accept(c, ',');
  }
  for (size_t i = 0; i < 3; i++)
    if (!seen[i]) return pith_fail(c->context, PITH_E_FORMAT, "%s: header: %s is missing", c->name, names[i]);
  skip_spaces(c);
  if (c->end - c->at != 1 || *c->at != '\n')
    return pith_fail(c->context, PITH_E_FORMAT, "%s: header: more follows the dictionary, or no newline ends it",
                     c->name);
  return PITH_OK;
}

/* ---- The file ---- */

/* Finds the header's text and where the elements begin. */
static pith_status find_header(cursor *c, const pith_file *file, size_t *data) {
  const unsigned char *b = file->bytes;
  if (file->size < 10 || memcmp(b, magic, sizeof magic) != 0)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: not a .npy file (%zu bytes, and the first six must be "
                     "\\x93NUMPY)",
                     file->name, file->size);
  if (b[6] < 1 || b[6] > 3 || b[7] != 0)
    return pith_fail(c->context, PITH_E_VERSION, "%s: .npy version %d.%d; 1.0, 2.0 and 3.0 are supported", file->name,
                     b[6], b[7]);
  size_t start = b[6] == 1 ? 10 : 12, length = (size_t)b[8] | (size_t)b[9] << 8;
  if (b[6] > 1) length = file->size < start ? SIZE_MAX : length | (size_t)b[10] << 16 | (size_t)b[11] << 24;
  if (length > HEADER_LIMIT || length > file->size - start)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: header: its length is outside the file of %zu bytes or above %d",
                     file->name, file->size, HEADER_LIMIT);
  c->at = (const char *)b + start;
  c->end = c->at + length;
  *data = start + length;
  return PITH_OK;
}

/* Bytes of all elements. Counts of zero stand for one here, so that strides cannot overflow either. */
static pith_status count_bytes(cursor *c, const header *h, size_t *bytes) {
  size_t total = pith_dtype_size(h->dtype);
  bool empty = false;
  for (size_t i = 0; i < h->ndim; i++) {
    empty |= h->shape[i] == 0;
    if (__builtin_mul_overflow(total, h->shape[i] ? h->shape[i] : 1, &total) || total > PTRDIFF_MAX)
      return pith_fail(c->context, PITH_E_SHAPE,
                       "%s: shape: dimension %zu (%zu) makes the array larger than memory "
                       "can be",
                       c->name, i, h->shape[i]);
  }
  *bytes = empty ? 0 : total;
  return PITH_OK;
}

/* Elements that are big-endian, or do not lie at multiples of their size, are copied. */
static pith_status place(pith_context *context, pith_file *file, const header *h, const unsigned char *data,
                         size_t bytes, pith_array *array) {
  size_t size = pith_dtype_size(h->dtype);
  array->data = data;
  if (!h->swapped && (uintptr_t)data % size == 0) return PITH_OK;
  unsigned char *copy = pith_memory_allocate(file->memory, bytes, 1);
  if (!copy) return pith_fail(context, PITH_E_MEMORY, "%s: no memory for %zu bytes", file->name, bytes);
  file->aligned = copy;
  if (bytes > 0) memcpy(copy, data, bytes);
  for (size_t at = 0; h->swapped && at < bytes; at += size)
    for (size_t i = 0; i < size; i++) copy[at + i] = data[at + size - 1 - i];
  array->data = copy;
  return PITH_OK;
}

pith_status pith_npy_parse(pith_context *context, pith_file *file, pith_array *array) {
  cursor c = {.context = context, .name = file->name};
  header h = {0};
  size_t data = 0, bytes = 0;
  PITH_TRY(find_header(&c, file, &data));
  PITH_TRY(read_header(&c, &h));
  PITH_TRY(count_bytes(&c, &h, &bytes));
  if (bytes != file->size - data)
    return pith_fail(context, PITH_E_FORMAT, "%s: shape asks for %zu bytes of elements, the file has %zu", file->name,
                     bytes, file->size - data);
  pith_array view = {.dtype = h.dtype, .ndim = h.ndim};
  PITH_TRY(place(context, file, &h, file->bytes + data, bytes, &view));
  ptrdiff_t stride = (ptrdiff_t)pith_dtype_size(h.dtype);
  for (size_t i = 0; i < h.ndim; i++) {
    size_t axis = h.fortran ? i : h.ndim - 1 - i;
    view.shape[axis] = h.shape[axis];
    view.stride[axis] = stride;
    stride *= (ptrdiff_t)(h.shape[axis] ? h.shape[axis] : 1);
  }
  *array = view;
  return PITH_OK;
}

pith_status pith_npy_open(pith_context *context, const char *path, pith_file **file, pith_array *array) {
  pith_file *opened = NULL;
  PITH_TRY(pith_file_open(context, path, &opened));
  pith_status status = pith_npy_parse(context, opened, array);
  if (status < 0) {
    pith_file_close(opened);
    return status;
  }
  *file = opened;
  return PITH_OK;
}

/* ---- Writing ---- */

/* NumPy pads the header with spaces so that the elements begin at a multiple of 64. */
static size_t write_header(const pith_array *array, const char *code, char text[256]) {
  static const char start[10] = {(char)0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 0, 0};
  memcpy(text, start, sizeof start);
  size_t at = sizeof start;
  at += (size_t)snprintf(text + at, 256 - at, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                         code[1] == '1' ? '|' : '<', code);
  for (size_t i = 0; i < array->ndim; i++)
    at += (size_t)snprintf(text + at, 256 - at, "%zu%s", array->shape[i],
                           array->ndim == 1      ? ","
                           : i + 1 < array->ndim ? ", "
                                                 : "");
  at += (size_t)snprintf(text + at, 256 - at, "), }");
  while (at % 64 != 63) text[at++] = ' ';
  text[at++] = '\n';
  text[8] = (char)((at - 10) & 255);
  text[9] = (char)((at - 10) >> 8);
  return at;
}

/* All elements in C order; missing leading axes count as 1. */
static pith_status put_elements(pith_writer *writer, const pith_array *array) {
  size_t size = pith_dtype_size(array->dtype), shape[MAX_NDIM] = {1, 1, 1, 1}, missing = MAX_NDIM - array->ndim;
  ptrdiff_t stride[MAX_NDIM] = {0, 0, 0, 0};
  for (size_t i = 0; i < array->ndim; i++) {
    if (array->shape[i] == 0) return PITH_OK;
    shape[missing + i] = array->shape[i];
    stride[missing + i] = array->stride[i];
  }
  bool whole_rows = stride[3] == (ptrdiff_t)size;
  size_t pieces = whole_rows ? 1 : shape[3], piece = whole_rows ? shape[3] * size : size;
  for (size_t i = 0; i < shape[0]; i++)
    for (size_t j = 0; j < shape[1]; j++)
      for (size_t k = 0; k < shape[2]; k++) {
        const char *row =
            (const char *)array->data + (ptrdiff_t)i * stride[0] + (ptrdiff_t)j * stride[1] + (ptrdiff_t)k * stride[2];
        for (size_t l = 0; l < pieces; l++) PITH_TRY(pith_writer_put(writer, row + (ptrdiff_t)l * stride[3], piece));
      }
  return PITH_OK;
}

pith_status pith_npy_write(pith_context *context, const char *path, const pith_array *array) {
  const char *code = NULL;
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].dtype == array->dtype) code = types[i].code;
  if (!code)
    return pith_fail(context, PITH_E_TYPE, "%s: .npy has no elements of type %s; write f32 or f16", path,
                     pith_dtype_name(array->dtype));
  if (array->ndim < 1 || array->ndim > MAX_NDIM)
    return pith_fail(context, PITH_E_SHAPE, "%s: %zu dimensions; 1 to %d can be written", path, array->ndim, MAX_NDIM);
  char text[256];
  size_t length = write_header(array, code, text);
  pith_writer writer;
  PITH_TRY(pith_writer_open(context, path, &writer));
  pith_status status = pith_writer_put(&writer, text, length);
  if (status >= 0) status = put_elements(&writer, array);
  return pith_writer_close(&writer, status);
}
