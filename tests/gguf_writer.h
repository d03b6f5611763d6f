/* gguf_writer.h - writes small GGUF files in memory, for tests. */
#ifndef PITH_TESTS_GGUF_WRITER_H
#define PITH_TESTS_GGUF_WRITER_H

#include "io/gguf.h"
#include "test.h"

typedef struct gguf_bytes {
  unsigned char *bytes;
  size_t size, capacity;
} gguf_bytes;

typedef struct gguf_writer {
  gguf_bytes values, tensors, data;
  uint64_t value_count, tensor_count;
} gguf_writer;

enum { GGUF_WRITER_ALIGNMENT = 32 };

static inline void gguf_put(gguf_bytes *to, const void *bytes, size_t size) {
  if (to->size + size > to->capacity) {
    to->capacity = 2 * (to->size + size);
    to->bytes = realloc(to->bytes, to->capacity);
    assert_non_null(to->bytes);
  }
  if (size > 0) memcpy(to->bytes + to->size, bytes, size);
  to->size += size;
}

static inline void gguf_put_u32(gguf_bytes *to, uint32_t value) { gguf_put(to, &value, sizeof value); }
static inline void gguf_put_u64(gguf_bytes *to, uint64_t value) { gguf_put(to, &value, sizeof value); }

static inline void gguf_put_text(gguf_bytes *to, const char *text) {
  gguf_put_u64(to, strlen(text));
  gguf_put(to, text, strlen(text));
}

static inline void gguf_align(gguf_bytes *to) {
  static const unsigned char zeros[GGUF_WRITER_ALIGNMENT];
  gguf_put(to, zeros, (GGUF_WRITER_ALIGNMENT - to->size % GGUF_WRITER_ALIGNMENT) % GGUF_WRITER_ALIGNMENT);
}

static inline void gguf_key(gguf_writer *w, const char *key, pith_gguf_kind kind) {
  gguf_put_text(&w->values, key);
  gguf_put_u32(&w->values, kind);
  w->value_count++;
}

static inline void gguf_u32(gguf_writer *w, const char *key, uint32_t value) {
  gguf_key(w, key, PITH_GGUF_U32);
  gguf_put_u32(&w->values, value);
}

static inline void gguf_f32(gguf_writer *w, const char *key, float value) {
  gguf_key(w, key, PITH_GGUF_F32);
  gguf_put(&w->values, &value, sizeof value);
}

static inline void gguf_text(gguf_writer *w, const char *key, const char *value) {
  gguf_key(w, key, PITH_GGUF_TEXT);
  gguf_put_text(&w->values, value);
}

/* The head of an array; its elements are to be put into w->values. */
static inline void gguf_array(gguf_writer *w, const char *key, pith_gguf_kind kind, uint64_t count) {
  gguf_key(w, key, PITH_GGUF_ARRAY);
  gguf_put_u32(&w->values, kind);
  gguf_put_u64(&w->values, count);
}

/* rows 0: a vector. */
static inline void gguf_tensor(gguf_writer *w, const char *name, uint32_t type, uint64_t rows, uint64_t columns,
                               const void *data, size_t bytes) {
  gguf_put_text(&w->tensors, name);
  gguf_put_u32(&w->tensors, rows ? 2 : 1);
  gguf_put_u64(&w->tensors, columns);
  if (rows) gguf_put_u64(&w->tensors, rows);
  gguf_put_u32(&w->tensors, type);
  gguf_put_u64(&w->tensors, w->data.size);
  gguf_put(&w->data, data, bytes);
  gguf_align(&w->data);
  w->tensor_count++;
}

/* Ends the writing: the whole file, to be freed. */
static inline gguf_bytes gguf_finish(gguf_writer *w) {
  gguf_bytes file = {NULL, 0, 0};
  gguf_put(&file, "GGUF", 4);
  gguf_put_u32(&file, 3);
  gguf_put_u64(&file, w->tensor_count);
  gguf_put_u64(&file, w->value_count);
  gguf_put(&file, w->values.bytes, w->values.size);
  gguf_put(&file, w->tensors.bytes, w->tensors.size);
  if (w->tensor_count > 0) gguf_align(&file);
  gguf_put(&file, w->data.bytes, w->data.size);
  free(w->values.bytes), free(w->tensors.bytes), free(w->data.bytes);
  *w = (gguf_writer){0};
  return file;
}

/* A file of exactly these bytes in exactly their room, so that sanitisers see any step beyond them. */
static inline pith_status gguf_read(pith_context *context, const unsigned char *bytes, size_t size, void **room,
                                    pith_gguf **out) {
  pith_file *file = NULL;
  *room = malloc(size ? size : 1);
  assert_non_null(*room);
  memcpy(*room, bytes, size);
  assert_ok(context, pith_file_lend(context, *room, size, "test.gguf", &file));
  return pith_gguf_parse(context, file, out);
}

#endif
