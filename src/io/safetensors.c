/* safetensors.c - reading .safetensors: eight bytes of length, a JSON header, the tensors.
 *
 * All names, shapes and offsets are checked when the file is opened; what is asked for later cannot fail on
 * the file's account except for its type. The JSON library uses the C library's memory while it parses. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

enum { LENGTH_BYTES = 8, HEADER_LIMIT = 100000000 }; /* the limit of the format */

static const struct {
  const char *name;
  size_t size;
  int dtype; /* 0: known to the format, not to pith */
} types[] = {{"F32", 4, PITH_F32}, {"F16", 2, PITH_F16}, {"BF16", 2, PITH_BF16}, {"F64", 8, PITH_F64},
             {"I64", 8, PITH_I64}, {"U8", 1, PITH_U8},   {"I8", 1, PITH_I8},     {"BOOL", 1, 0},
             {"I16", 2, 0},        {"U16", 2, 0},        {"I32", 4, 0},          {"U32", 4, 0},
             {"U64", 8, 0},        {"F8_E4M3", 1, 0},    {"F8_E5M2", 1, 0}};

enum { TYPE_COUNT = sizeof types / sizeof *types };

static int by_name(const void *a, const void *b) {
  return strcmp(((const pith_file_tensor *)a)->name, ((const pith_file_tensor *)b)->name);
}

static int by_key(const void *a, const void *b) {
  return strcmp(((const pith_entry *)a)->key, ((const pith_entry *)b)->key);
}

static int by_place(const void *a, const void *b) {
  const pith_file_tensor *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end) return x->end < y->end ? -1 : 1;
  return strcmp(x->name, y->name);
}

/* Where the next string goes. A string is never longer than its text in the header, quotes included. */
static const char *keep_string(char **room, const char *text) {
  size_t length = strlen(text) + 1;
  char *kept = memcpy(*room, text, length);
  *room += length;
  return kept;
}

/* A count in JSON: a whole number, not negative. */
static bool read_count(const json_t *value, size_t *out) {
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *out = (size_t)json_integer_value(value);
  return true;
}

/* One entry of the header, all of it but the place of its bytes among the others. */
static pith_status read_tensor(pith_context *context, const pith_file *file, const char *name, const json_t *entry,
                               pith_file_tensor *tensor) {
  pith_quoted quoted = pith_quote(name, strlen(name));
  const char *dtype = json_string_value(json_object_get(entry, "dtype"));
  const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
  if (!dtype || !json_is_array(shape) || !json_is_array(offsets) || json_object_size(entry) != 3)
    return pith_fail(context, PITH_E_FORMAT, "%s: tensor \"%s\": must have dtype, shape, data_offsets and no more",
                     file->name, quoted.text);
  size_t type = 0;
  while (type < TYPE_COUNT && strcmp(types[type].name, dtype) != 0) type++;
  if (type == TYPE_COUNT)
    return pith_fail(context, PITH_E_TYPE, "%s: tensor \"%s\": dtype \"%s\" is not known", file->name, quoted.text,
                     pith_quote(dtype, strlen(dtype)).text);
  tensor->dtype_name = types[type].name;
  tensor->dtype = (pith_dtype)types[type].dtype;

  if (json_array_size(offsets) != 2 || !read_count(json_array_get(offsets, 0), &tensor->begin) ||
      !read_count(json_array_get(offsets, 1), &tensor->end) || tensor->begin > tensor->end)
    return pith_fail(context, PITH_E_FORMAT, "%s: tensor \"%s\": data_offsets are not two counts in order", file->name,
                     quoted.text);
  tensor->ndim = json_array_size(shape);
  size_t bytes = types[type].size;
  bool empty = false, fits = true;
  for (size_t i = 0; i < tensor->ndim; i++) {
    size_t count = 0;
    if (!read_count(json_array_get(shape, i), &count))
      return pith_fail(context, PITH_E_FORMAT, "%s: tensor \"%s\": shape: dimension %zu is not a count", file->name,
                       quoted.text, i);
    if (i < 4) tensor->shape[i] = count;
    empty |= count == 0;
    fits &= !__builtin_mul_overflow(bytes, count ? count : 1, &bytes) && bytes <= PTRDIFF_MAX;
  }
  if (!fits || (empty ? 0 : bytes) != tensor->end - tensor->begin)
    return pith_fail(context, PITH_E_FORMAT, "%s: tensor \"%s\": its shape does not match its %zu bytes", file->name,
                     quoted.text, tensor->end - tensor->begin);
  return PITH_OK;
}

static pith_status read_metadata(pith_context *context, pith_file *file, json_t *metadata, char **room) {
  const char *key = NULL;
  json_t *value = NULL;
  if (!json_is_object(metadata))
    return pith_fail(context, PITH_E_FORMAT, "%s: __metadata__: not an object", file->name);
  file->metadata = pith_memory_allocate(file->memory, json_object_size(metadata), sizeof *file->metadata);
  if (!file->metadata) return pith_fail(context, PITH_E_MEMORY, "%s: no memory for its metadata", file->name);
  json_object_foreach(metadata, key, value) {
    if (!json_is_string(value))
      return pith_fail(context, PITH_E_FORMAT, "%s: __metadata__: \"%s\" is not a string", file->name,
                       pith_quote(key, strlen(key)).text);
    pith_entry *entry = &file->metadata[file->metadata_count++];
    entry->key = keep_string(room, key);
    entry->value = keep_string(room, json_string_value(value));
  }
  qsort(file->metadata, file->metadata_count, sizeof *file->metadata, by_key);
  return PITH_OK;
}

/* The tensors must cover the bytes after the header, one behind the other. */
static pith_status check_places(pith_context *context, pith_file *file, size_t data) {
  size_t at = 0;
  if (file->tensor_count > 0) qsort(file->tensor, file->tensor_count, sizeof *file->tensor, by_place);
  for (size_t i = 0; i < file->tensor_count; i++) {
    pith_file_tensor *tensor = &file->tensor[i];
    if (tensor->begin != at || tensor->end > file->size - data)
      return pith_fail(context, PITH_E_FORMAT,
                       "%s: tensor \"%s\": bytes %zu to %zu; it must begin at %zu and end by %zu, where the file ends",
                       file->name, pith_quote(tensor->name, strlen(tensor->name)).text, tensor->begin, tensor->end, at,
                       file->size - data);
    at = tensor->end;
  }
  if (at != file->size - data)
    return pith_fail(context, PITH_E_FORMAT, "%s: the tensors end at %zu, the file has %zu bytes after the header",
                     file->name, at, file->size - data);
  return PITH_OK;
}

/* Tensors that do not lie at multiples of their element size are copied to where they do. */
static pith_status align_tensors(pith_context *context, pith_file *file, const unsigned char *data) {
  size_t total = 0;
  for (size_t i = 0; i < file->tensor_count; i++) {
    pith_file_tensor *tensor = &file->tensor[i];
    tensor->data = data + tensor->begin;
    size_t size = pith_dtype_size(tensor->dtype);
    if (size > 1 && (uintptr_t)tensor->data % size != 0) total += (tensor->end - tensor->begin + 63) / 64 * 64;
  }
  if (total == 0) return PITH_OK;
  unsigned char *copy = pith_memory_allocate(file->memory, total, 1);
  if (!copy) return pith_fail(context, PITH_E_MEMORY, "%s: no memory for %zu bytes", file->name, total);
  file->aligned = copy;
  for (size_t i = 0; i < file->tensor_count; i++) {
    pith_file_tensor *tensor = &file->tensor[i];
    size_t size = pith_dtype_size(tensor->dtype), bytes = tensor->end - tensor->begin;
    if (size <= 1 || (uintptr_t)tensor->data % size == 0) continue;
    tensor->data = memcpy(copy, tensor->data, bytes);
    copy += (bytes + 63) / 64 * 64;
  }
  return PITH_OK;
}

static pith_status read_header(pith_context *context, pith_file *file, json_t *header, size_t length) {
  const char *name = NULL;
  json_t *entry = NULL;
  char *room = file->strings = pith_memory_allocate(file->memory, length, 1);
  file->tensor = pith_memory_allocate(file->memory, json_object_size(header), sizeof *file->tensor);
  if (!file->strings || !file->tensor)
    return pith_fail(context, PITH_E_MEMORY, "%s: no memory for its header of %zu bytes", file->name, length);
  json_object_foreach(header, name, entry) {
    if (strcmp(name, "__metadata__") == 0) {
      PITH_TRY(read_metadata(context, file, entry, &room));
      continue;
    }
    pith_file_tensor *tensor = &file->tensor[file->tensor_count];
    *tensor = (pith_file_tensor){.name = keep_string(&room, name)};
    PITH_TRY(read_tensor(context, file, name, entry, tensor));
    file->tensor_count++;
  }
  PITH_TRY(check_places(context, file, LENGTH_BYTES + length));
  PITH_TRY(align_tensors(context, file, file->bytes + LENGTH_BYTES + length));
  if (file->tensor_count > 0) qsort(file->tensor, file->tensor_count, sizeof *file->tensor, by_name);
  return PITH_OK;
}

pith_status pith_safetensors_parse(pith_context *context, pith_file *file) {
  uint64_t length = 0;
  if (file->size >= LENGTH_BYTES) memcpy(&length, file->bytes, LENGTH_BYTES);
  if (length < 2 || length > HEADER_LIMIT || length > file->size - LENGTH_BYTES)
    return pith_fail(context, PITH_E_FORMAT,
                     "%s: not a .safetensors file: %zu bytes, and the length of the header is given as %llu (2 to %d)",
                     file->name, file->size, (unsigned long long)length, HEADER_LIMIT);
  const char *text = (const char *)file->bytes + LENGTH_BYTES;
  if (*text != '{') return pith_fail(context, PITH_E_FORMAT, "%s: header: does not begin with '{'", file->name);
  json_error_t error;
  json_t *header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
  if (!header) {
    pith_quoted quoted = pith_quote(error.text, strlen(error.text));
    return pith_fail(context, json_error_code(&error) == json_error_out_of_memory ? PITH_E_MEMORY : PITH_E_FORMAT,
                     "%s: header: byte %d: %s", file->name, error.position, quoted.text);
  }
  pith_status status = read_header(context, file, header, (size_t)length);
  json_decref(header);
  return status;
}

/* ---- The public calls ---- */

pith_status pith_safetensors_open(pith_context *context, const char *path, pith_file **file) {
  pith_file *opened = NULL;
  PITH_TRY(pith_file_open(context, path, &opened));
  pith_status status = pith_safetensors_parse(context, opened);
  if (status < 0) {
    pith_file_close(opened);
    return status;
  }
  *file = opened;
  return PITH_OK;
}

size_t pith_safetensors_count(const pith_file *file) { return file->tensor_count; }

const char *pith_safetensors_name(const pith_file *file, size_t index) {
  return index < file->tensor_count ? file->tensor[index].name : NULL;
}

const char *pith_safetensors_metadata(const pith_file *file, const char *key) {
  pith_entry wanted = {.key = key};
  if (file->metadata_count == 0) return NULL;
  const pith_entry *found = bsearch(&wanted, file->metadata, file->metadata_count, sizeof wanted, by_key);
  return found ? found->value : NULL;
}

pith_status pith_safetensors_tensor(pith_context *context, const pith_file *file, const char *name, pith_array *array) {
  pith_file_tensor wanted = {.name = name};
  const pith_file_tensor *tensor =
      file->tensor_count > 0 ? bsearch(&wanted, file->tensor, file->tensor_count, sizeof wanted, by_name) : NULL;
  if (!tensor)
    return pith_fail(context, PITH_E_FORMAT, "%s: no tensor \"%s\" among its %zu", file->name, name,
                     file->tensor_count);
  if (!tensor->dtype)
    return pith_fail(context, PITH_E_TYPE,
                     "%s: tensor \"%s\": %s is not supported; F32, F16, BF16, F64, I64, U8 and "
                     "I8 are",
                     file->name, name, tensor->dtype_name);
  if (tensor->ndim < 1 || tensor->ndim > 4)
    return pith_fail(context, PITH_E_SHAPE, "%s: tensor \"%s\": %zu dimensions; 1 to 4 are supported", file->name, name,
                     tensor->ndim);
  pith_array view = {.data = tensor->data, .dtype = tensor->dtype, .ndim = tensor->ndim};
  ptrdiff_t stride = (ptrdiff_t)pith_dtype_size(tensor->dtype);
  for (size_t i = tensor->ndim; i-- > 0;) {
    view.shape[i] = tensor->shape[i];
    view.stride[i] = stride;
    stride *= (ptrdiff_t)(tensor->shape[i] ? tensor->shape[i] : 1);
  }
  *array = view;
  return PITH_OK;
}
