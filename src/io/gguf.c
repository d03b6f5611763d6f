/* gguf.c - the reader. A file is: magic, version, counts; metadata; tensor descriptions; padding; tensor data. */
#include "io/gguf.h"

#include <math.h>
#include <stdlib.h>

struct pith_gguf {
  pith_memory *memory;
  pith_file *file;
  pith_gguf_value *value; /* both sorted by name */
  pith_gguf_tensor *tensor;
  size_t value_count, tensor_count;
};

enum {
  VERSION_FIRST = 2,
  VERSION_LAST = 3,
  ALIGNMENT = 32, /* unless general.alignment says otherwise */
  ALIGNMENT_LEAST = 8,
  ALIGNMENT_MOST = 1 << 16,
  VALUE_BYTES_LEAST = 8 + 4 + 1,
  TENSOR_BYTES_LEAST = 8 + 4 + 8 + 4 + 8,
  MAX_NDIM = 4
};

static const struct {
  const char *name;
  size_t bytes; /* 0: varies */
} kinds[] = {{"u8", 1},   {"i8", 1},   {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
             {"bool", 1}, {"text", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* By number: elements of a block and their bytes. */
static const struct {
  const char *name;
  size_t elements, bytes;
} types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},      [3] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},      [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},   [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},   [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17}};
enum { TYPES = sizeof types / sizeof *types };

/* ---- A cursor that never leaves the file ---- */

typedef struct cursor {
  pith_context *context;
  const pith_file *file;
  size_t at;
} cursor;

static size_t left(const cursor *c) { return c->file->size - c->at; }

static pith_status take(cursor *c, const char *what, size_t bytes, const unsigned char **out) {
  if (bytes > left(c))
    return pith_fail(c->context, PITH_E_FORMAT, "%s: %s takes %zu bytes at byte %zu, the file ends after %zu",
                     c->file->name, what, bytes, c->at, left(c));
  *out = c->file->bytes + c->at;
  c->at += bytes;
  return PITH_OK;
}

static pith_status take_u32(cursor *c, const char *what, uint32_t *out) {
  const unsigned char *bytes = NULL;
  PITH_TRY(take(c, what, sizeof *out, &bytes));
  memcpy(out, bytes, sizeof *out);
  return PITH_OK;
}

static pith_status take_u64(cursor *c, const char *what, uint64_t *out) {
  const unsigned char *bytes = NULL;
  PITH_TRY(take(c, what, sizeof *out, &bytes));
  memcpy(out, bytes, sizeof *out);
  return PITH_OK;
}

static pith_status take_text(cursor *c, const char *what, pith_gguf_text *out) {
  uint64_t length = 0;
  const unsigned char *bytes = NULL;
  PITH_TRY(take_u64(c, what, &length));
  PITH_TRY(take(c, what, (size_t)length, &bytes));
  *out = (pith_gguf_text){(const char *)bytes, (size_t)length};
  return PITH_OK;
}

/* A count of things that take at least `least` bytes each. */
static pith_status take_count(cursor *c, const char *what, size_t least, size_t *out) {
  uint64_t count = 0;
  PITH_TRY(take_u64(c, what, &count));
  if (count > left(c) / least)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: %s is %llu, more than the %zu bytes left can hold", c->file->name,
                     what, (unsigned long long)count, left(c));
  *out = (size_t)count;
  return PITH_OK;
}

/* ---- Metadata ---- */

static pith_status take_kind(cursor *c, const char *what, pith_gguf_kind *out) {
  uint32_t kind = 0;
  PITH_TRY(take_u32(c, what, &kind));
  if (kind >= KINDS)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: %s is of kind %u, which the format does not have", c->file->name,
                     what, kind);
  *out = (pith_gguf_kind)kind;
  return PITH_OK;
}

static pith_status take_elements(cursor *c, const char *what, pith_memory *memory, pith_gguf_value *value) {
  if (value->kind == PITH_GGUF_TEXT) {
    pith_gguf_text *texts = pith_memory_allocate(memory, value->count, sizeof *texts);
    if (!texts) return pith_fail(c->context, PITH_E_MEMORY, "%s: no memory for %s", c->file->name, what);
    value->texts = texts;
    for (size_t i = 0; i < value->count; i++) PITH_TRY(take_text(c, what, &texts[i]));
    return PITH_OK;
  }
  size_t bytes = 0;
  if (__builtin_mul_overflow(value->count, kinds[value->kind].bytes, &bytes)) bytes = SIZE_MAX;
  PITH_TRY(take(c, what, bytes, &value->data));
  for (size_t i = 0; value->kind == PITH_GGUF_BOOL && i < value->count; i++)
    if (value->data[i] > 1)
      return pith_fail(c->context, PITH_E_FORMAT, "%s: %s is %d, neither true (1) nor false (0)", c->file->name, what,
                       value->data[i]);
  return PITH_OK;
}

static pith_status take_value(cursor *c, pith_memory *memory, pith_gguf_value *value) {
  PITH_TRY(take_text(c, "a metadata key", &value->key));
  const pith_quoted what = pith_quote(value->key.text, value->key.length);
  PITH_TRY(take_kind(c, what.text, &value->kind));
  value->count = 1;
  if (value->kind == PITH_GGUF_ARRAY) {
    value->array = true;
    PITH_TRY(take_kind(c, what.text, &value->kind));
    if (value->kind == PITH_GGUF_ARRAY)
      return pith_fail(c->context, PITH_E_FORMAT, "%s: %s is an array of arrays, which is not supported", c->file->name,
                       what.text);
    size_t least = value->kind == PITH_GGUF_TEXT ? sizeof(uint64_t) : kinds[value->kind].bytes;
    PITH_TRY(take_count(c, what.text, least, &value->count));
  }
  return take_elements(c, what.text, memory, value);
}

static int compare_texts(pith_gguf_text a, pith_gguf_text b) {
  int order = memcmp(a.text, b.text, pith_min_size(a.length, b.length));
  return order ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_values(const void *a, const void *b) {
  return compare_texts(((const pith_gguf_value *)a)->key, ((const pith_gguf_value *)b)->key);
}

static int compare_tensors(const void *a, const void *b) {
  return compare_texts(((const pith_gguf_tensor *)a)->name, ((const pith_gguf_tensor *)b)->name);
}

static pith_status take_values(cursor *c, pith_gguf *gguf) {
  gguf->value = pith_allocate_zero(c->context, gguf->value_count, sizeof *gguf->value);
  if (!gguf->value) return PITH_E_MEMORY;
  for (size_t i = 0; i < gguf->value_count; i++) PITH_TRY(take_value(c, gguf->memory, &gguf->value[i]));
  qsort(gguf->value, gguf->value_count, sizeof *gguf->value, compare_values);
  for (size_t i = 1; i < gguf->value_count; i++)
    if (compare_values(&gguf->value[i - 1], &gguf->value[i]) == 0)
      return pith_fail(c->context, PITH_E_FORMAT, "%s: metadata key %s is there twice", c->file->name,
                       pith_quote(gguf->value[i].key.text, gguf->value[i].key.length).text);
  return PITH_OK;
}

/* ---- Tensors ---- */

/* Bytes of a row and of the whole. */
static pith_status measure_tensor(cursor *c, const char *name, pith_gguf_tensor *tensor) {
  const size_t block = types[tensor->type].elements, row = tensor->shape[0];
  if (row % block != 0)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: tensor %s: rows of %zu elements are not whole %s blocks of %zu",
                     c->file->name, name, row, tensor->type_name, block);
  bool overflow = __builtin_mul_overflow(row / block, types[tensor->type].bytes, &tensor->row_bytes);
  tensor->bytes = tensor->row_bytes;
  for (size_t i = 1; i < MAX_NDIM; i++)
    overflow |= __builtin_mul_overflow(tensor->bytes, tensor->shape[i], &tensor->bytes);
  if (overflow)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: tensor %s is larger than memory can be", c->file->name, name);
  return PITH_OK;
}

/* The description; `data` is left for later, its offset goes to *offset. */
static pith_status take_tensor(cursor *c, pith_gguf_tensor *tensor, uint64_t *offset) {
  PITH_TRY(take_text(c, "a tensor name", &tensor->name));
  const pith_quoted name = pith_quote(tensor->name.text, tensor->name.length);
  uint32_t ndim = 0, type = 0;
  PITH_TRY(take_u32(c, name.text, &ndim));
  if (ndim < 1 || ndim > MAX_NDIM)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: tensor %s has %u dimensions; 1 to %d are possible", c->file->name,
                     name.text, ndim, MAX_NDIM);
  tensor->ndim = ndim;
  for (size_t i = 0; i < MAX_NDIM; i++) {
    uint64_t count = 1;
    if (i < ndim) PITH_TRY(take_u64(c, name.text, &count));
    if (count == 0)
      return pith_fail(c->context, PITH_E_FORMAT, "%s: tensor %s: dimension %zu is 0", c->file->name, name.text, i);
    tensor->shape[i] = (size_t)count;
  }
  PITH_TRY(take_u32(c, name.text, &type));
  if (type >= TYPES || !types[type].name)
    return pith_fail(c->context, PITH_E_TYPE, "%s: tensor %s is of type %u, which is not known", c->file->name,
                     name.text, type);
  tensor->type = (pith_gguf_type)type;
  tensor->type_name = types[type].name;
  PITH_TRY(measure_tensor(c, name.text, tensor));
  return take_u64(c, name.text, offset);
}

static pith_status find_alignment(pith_context *context, const pith_gguf *gguf, size_t *out) {
  *out = ALIGNMENT;
  if (!pith_gguf_find(gguf, "general.alignment")) return PITH_OK;
  PITH_TRY(pith_gguf_size(context, gguf, "general.alignment", out));
  if (*out < ALIGNMENT_LEAST || *out > ALIGNMENT_MOST || (*out & (*out - 1)) != 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: general.alignment is %zu; a power of two from %d to %d is needed",
                     gguf->file->name, *out, ALIGNMENT_LEAST, ALIGNMENT_MOST);
  return PITH_OK;
}

static pith_status place_tensor(cursor *c, pith_gguf_tensor *tensor, uint64_t offset, size_t alignment) {
  const size_t room = left(c);
  if (offset % alignment != 0 || offset > room || tensor->bytes > room - offset)
    return pith_fail(c->context, PITH_E_FORMAT,
                     "%s: tensor %s: %zu bytes at offset %llu do not fit the %zu bytes of data, or not its alignment "
                     "of %zu",
                     c->file->name, pith_quote(tensor->name.text, tensor->name.length).text, tensor->bytes,
                     (unsigned long long)offset, room, alignment);
  tensor->data = c->file->bytes + c->at + offset;
  return PITH_OK;
}

static pith_status take_tensors(cursor *c, pith_gguf *gguf) {
  size_t alignment = 0, padding = 0;
  PITH_TRY(find_alignment(c->context, gguf, &alignment));
  gguf->tensor = pith_allocate_zero(c->context, gguf->tensor_count, sizeof *gguf->tensor);
  uint64_t *offset = pith_allocate(c->context, gguf->tensor_count, sizeof *offset);
  pith_status status = gguf->tensor && offset ? PITH_OK : PITH_E_MEMORY;
  for (size_t i = 0; status >= 0 && i < gguf->tensor_count; i++) status = take_tensor(c, &gguf->tensor[i], &offset[i]);
  if (status >= 0 && gguf->tensor_count > 0) {
    const unsigned char *skipped = NULL;
    padding = (alignment - c->at % alignment) % alignment;
    status = take(c, "the padding before the tensors", padding, &skipped);
  }
  for (size_t i = 0; status >= 0 && i < gguf->tensor_count; i++)
    status = place_tensor(c, &gguf->tensor[i], offset[i], alignment);
  pith_release(c->context, offset);
  PITH_TRY(status);
  qsort(gguf->tensor, gguf->tensor_count, sizeof *gguf->tensor, compare_tensors);
  for (size_t i = 1; i < gguf->tensor_count; i++)
    if (compare_tensors(&gguf->tensor[i - 1], &gguf->tensor[i]) == 0)
      return pith_fail(c->context, PITH_E_FORMAT, "%s: tensor %s is there twice", c->file->name,
                       pith_quote(gguf->tensor[i].name.text, gguf->tensor[i].name.length).text);
  return PITH_OK;
}

/* ---- The file ---- */

static pith_status read_all(cursor *c, pith_gguf *gguf) {
  const unsigned char *magic = NULL;
  uint32_t version = 0;
  PITH_TRY(take(c, "the magic number", 4, &magic));
  if (memcmp(magic, "GGUF", 4) != 0)
    return pith_fail(c->context, PITH_E_FORMAT, "%s: not a GGUF file: it begins with \"%s\"", c->file->name,
                     pith_quote((const char *)magic, 4).text);
  PITH_TRY(take_u32(c, "the version", &version));
  if (version < VERSION_FIRST || version > VERSION_LAST)
    return pith_fail(c->context, PITH_E_VERSION, "%s: GGUF version %u; %d and %d, little-endian, are supported",
                     c->file->name, version, VERSION_FIRST, VERSION_LAST);
  PITH_TRY(take_count(c, "the number of tensors", TENSOR_BYTES_LEAST, &gguf->tensor_count));
  PITH_TRY(take_count(c, "the number of metadata values", VALUE_BYTES_LEAST, &gguf->value_count));
  PITH_TRY(take_values(c, gguf));
  return take_tensors(c, gguf);
}

pith_status pith_gguf_parse(pith_context *context, pith_file *file, pith_gguf **out) {
  pith_gguf *gguf = pith_allocate_zero(context, 1, sizeof *gguf);
  if (!gguf) {
    pith_file_close(file);
    return PITH_E_MEMORY;
  }
  gguf->memory = pith_memory_share(context);
  gguf->file = file;
  pith_status status = read_all(&(cursor){.context = context, .file = file}, gguf);
  if (status < 0) {
    pith_gguf_close(gguf);
    return status;
  }
  *out = gguf;
  return PITH_OK;
}

pith_status pith_gguf_open(pith_context *context, const char *path, pith_gguf **out) {
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  return pith_gguf_parse(context, file, out);
}

void pith_gguf_close(pith_gguf *gguf) {
  if (!gguf) return;
  pith_memory *memory = gguf->memory;
  for (size_t i = 0; gguf->value && i < gguf->value_count; i++)
    pith_memory_release(memory, (void *)(uintptr_t)gguf->value[i].texts);
  pith_memory_release(memory, gguf->value);
  pith_memory_release(memory, gguf->tensor);
  pith_file_close(gguf->file);
  pith_memory_release(memory, gguf);
  pith_memory_unshare(memory);
}

const char *pith_gguf_name(const pith_gguf *gguf) { return gguf->file->name; }

/* ---- Looking up ---- */

const pith_gguf_value *pith_gguf_find(const pith_gguf *gguf, const char *key) {
  const pith_gguf_value wanted = {.key = {key, strlen(key)}};
  if (gguf->value_count == 0) return NULL;
  return bsearch(&wanted, gguf->value, gguf->value_count, sizeof wanted, compare_values);
}

static pith_status find(pith_context *context, const pith_gguf *gguf, const char *key, bool array,
                        const pith_gguf_value **out) {
  *out = pith_gguf_find(gguf, key);
  if (!*out) return pith_fail(context, PITH_E_FORMAT, "%s: metadata key %s is missing", gguf->file->name, key);
  if ((*out)->array != array)
    return pith_fail(context, PITH_E_FORMAT, "%s: %s is %s array", gguf->file->name, key, array ? "no" : "an");
  return PITH_OK;
}

static pith_status fail_kind(pith_context *context, const pith_gguf *gguf, const char *key,
                             const pith_gguf_value *value, const char *wanted) {
  return pith_fail(context, PITH_E_FORMAT, "%s: %s is of kind %s; %s is needed", gguf->file->name, key,
                   kinds[value->kind].name, wanted);
}

static bool is_signed(pith_gguf_kind kind) {
  return kind == PITH_GGUF_I8 || kind == PITH_GGUF_I16 || kind == PITH_GGUF_I32 || kind == PITH_GGUF_I64;
}

pith_status pith_gguf_size(pith_context *context, const pith_gguf *gguf, const char *key, size_t *out) {
  const pith_gguf_value *value = NULL;
  PITH_TRY(find(context, gguf, key, false, &value));
  switch (value->kind) {
    case PITH_GGUF_F32:
    case PITH_GGUF_F64:
    case PITH_GGUF_BOOL:
    case PITH_GGUF_TEXT:
    case PITH_GGUF_ARRAY: return fail_kind(context, gguf, key, value, "a whole number");
    default: break;
  }
  const size_t bytes = kinds[value->kind].bytes;
  uint64_t number = 0; /* little-endian: the missing high bytes are zeros */
  memcpy(&number, value->data, bytes);
  if (is_signed(value->kind) && value->data[bytes - 1] > INT8_MAX)
    return pith_fail(context, PITH_E_FORMAT, "%s: %s is negative", gguf->file->name, key);
  *out = (size_t)number;
  return PITH_OK;
}

pith_status pith_gguf_number(pith_context *context, const pith_gguf *gguf, const char *key, double *out) {
  const pith_gguf_value *value = NULL;
  PITH_TRY(find(context, gguf, key, false, &value));
  double number = 0;
  if (value->kind == PITH_GGUF_F32)
    number = pith_gguf_f32_at(value, 0);
  else if (value->kind == PITH_GGUF_F64)
    memcpy(&number, value->data, sizeof number);
  else
    return fail_kind(context, gguf, key, value, "f32 or f64");
  if (!isfinite(number)) return pith_fail(context, PITH_E_VALUE, "%s: %s is not finite", gguf->file->name, key);
  *out = number;
  return PITH_OK;
}

pith_status pith_gguf_flag(pith_context *context, const pith_gguf *gguf, const char *key, bool *out) {
  const pith_gguf_value *value = NULL;
  PITH_TRY(find(context, gguf, key, false, &value));
  if (value->kind != PITH_GGUF_BOOL) return fail_kind(context, gguf, key, value, "bool");
  *out = value->data[0] != 0;
  return PITH_OK;
}

pith_status pith_gguf_string(pith_context *context, const pith_gguf *gguf, const char *key, pith_gguf_text *out) {
  const pith_gguf_value *value = NULL;
  PITH_TRY(find(context, gguf, key, false, &value));
  if (value->kind != PITH_GGUF_TEXT) return fail_kind(context, gguf, key, value, "text");
  *out = value->texts[0];
  return PITH_OK;
}

pith_status pith_gguf_array(pith_context *context, const pith_gguf *gguf, const char *key, pith_gguf_kind kind,
                            const pith_gguf_value **out) {
  const pith_gguf_value *value = NULL;
  PITH_TRY(find(context, gguf, key, true, &value));
  if (value->kind != kind) return fail_kind(context, gguf, key, value, kinds[kind].name);
  *out = value;
  return PITH_OK;
}

const pith_gguf_tensor *pith_gguf_tensor_find(const pith_gguf *gguf, const char *name) {
  const pith_gguf_tensor wanted = {.name = {name, strlen(name)}};
  if (gguf->tensor_count == 0) return NULL;
  return bsearch(&wanted, gguf->tensor, gguf->tensor_count, sizeof wanted, compare_tensors);
}

size_t pith_gguf_tensor_count(const pith_gguf *gguf) { return gguf->tensor_count; }

const pith_gguf_tensor *pith_gguf_tensor_at(const pith_gguf *gguf, size_t index) { return &gguf->tensor[index]; }
