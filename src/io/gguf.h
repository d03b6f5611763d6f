/* gguf.h - models as the llama.cpp family stores them: named metadata and tensors, versions 2 and 3.
 *
 * The file is mapped and read in place; all that is found here points into it. Every length and count is
 * checked against the file before it is used. Text is not ended by a zero. */
#ifndef PITH_SRC_GGUF_H
#define PITH_SRC_GGUF_H

#include <string.h>

#include "io/file.h"

typedef enum pith_gguf_kind { /* of a metadata value */
                              PITH_GGUF_U8 = 0,
                              PITH_GGUF_I8 = 1,
                              PITH_GGUF_U16 = 2,
                              PITH_GGUF_I16 = 3,
                              PITH_GGUF_U32 = 4,
                              PITH_GGUF_I32 = 5,
                              PITH_GGUF_F32 = 6,
                              PITH_GGUF_BOOL = 7,
                              PITH_GGUF_TEXT = 8,
                              PITH_GGUF_ARRAY = 9,
                              PITH_GGUF_U64 = 10,
                              PITH_GGUF_I64 = 11,
                              PITH_GGUF_F64 = 12
} pith_gguf_kind;

typedef struct pith_gguf_text {
  const char *text;
  size_t length;
} pith_gguf_text;

typedef struct pith_gguf_value {
  pith_gguf_text key;
  pith_gguf_kind kind; /* of the value, or of the elements of an array */
  bool array;
  size_t count;                /* elements; 1 if not an array */
  const unsigned char *data;   /* the elements, not aligned; text: see texts */
  const pith_gguf_text *texts; /* (count) when the kind is text, else NULL */
} pith_gguf_value;

/* Storage types of tensors, by the numbers of the format. */
typedef enum pith_gguf_type {
  PITH_GGUF_TENSOR_F32 = 0,
  PITH_GGUF_TENSOR_F16 = 1,
  PITH_GGUF_TENSOR_Q4_0 = 2,
  PITH_GGUF_TENSOR_Q4_1 = 3,
  PITH_GGUF_TENSOR_Q8_0 = 8,
  PITH_GGUF_TENSOR_Q4_K = 12,
  PITH_GGUF_TENSOR_Q5_K = 13,
  PITH_GGUF_TENSOR_Q6_K = 14,
  PITH_GGUF_TENSOR_BF16 = 30
} pith_gguf_type;

typedef struct pith_gguf_tensor {
  pith_gguf_text name;
  pith_gguf_type type;       /* any number of the format, also those without a name above */
  const char *type_name;     /* "Q4_K" */
  size_t ndim, shape[4];     /* shape[0] counts the elements of a row; missing dimensions are 1 */
  const unsigned char *data; /* aligned as the file says, to 8 bytes at least */
  size_t row_bytes, bytes;
} pith_gguf_tensor;

typedef struct pith_gguf pith_gguf;

pith_status pith_gguf_open(pith_context *context, const char *path, pith_gguf **out);
/* Takes the file over, also when it fails. */
pith_status pith_gguf_parse(pith_context *context, pith_file *file, pith_gguf **out);
void pith_gguf_close(pith_gguf *gguf); /* NULL is fine */

const char *pith_gguf_name(const pith_gguf *gguf); /* of the file, for messages */

/* ---- Metadata. All but `find` fail when the key is missing or its value is of another kind. ---- */

const pith_gguf_value *pith_gguf_find(const pith_gguf *gguf, const char *key); /* NULL: absent */
pith_status pith_gguf_size(pith_context *context, const pith_gguf *gguf, const char *key, size_t *out); /* any whole
                                                                                                number >= 0 */
pith_status pith_gguf_number(pith_context *context, const pith_gguf *gguf, const char *key, double *out);
pith_status pith_gguf_flag(pith_context *context, const pith_gguf *gguf, const char *key, bool *out);
pith_status pith_gguf_string(pith_context *context, const pith_gguf *gguf, const char *key, pith_gguf_text *out);
/* An array whose elements are of that kind. */
pith_status pith_gguf_array(pith_context *context, const pith_gguf *gguf, const char *key, pith_gguf_kind kind,
                            const pith_gguf_value **out);

static inline float pith_gguf_f32_at(const pith_gguf_value *value, size_t index) {
  float element;
  memcpy(&element, value->data + index * sizeof element, sizeof element);
  return element;
}

static inline int32_t pith_gguf_i32_at(const pith_gguf_value *value, size_t index) {
  int32_t element;
  memcpy(&element, value->data + index * sizeof element, sizeof element);
  return element;
}

/* Compares with a word that is ended by a zero. */
static inline bool pith_gguf_text_is(pith_gguf_text text, const char *word) {
  return strlen(word) == text.length && memcmp(text.text, word, text.length) == 0;
}

/* ---- Tensors ---- */

const pith_gguf_tensor *pith_gguf_tensor_find(const pith_gguf *gguf, const char *name); /* NULL: absent */
size_t pith_gguf_tensor_count(const pith_gguf *gguf);
const pith_gguf_tensor *pith_gguf_tensor_at(const pith_gguf *gguf, size_t index); /* sorted by name */

#endif
