/* pith/file.h - reading and writing: .npy arrays, .safetensors tensors, summaries.
 *
 * Every reader treats its input as hostile: sizes are checked before use, and a refusal names the
 * file, the field and the value. Writers write a temporary file beside the target and rename it:
 * nothing is ever half-written, and an existing file is replaced whole. "-" is standard input or
 * output. */
#ifndef PITH_FILE_H
#define PITH_FILE_H

#include "pith/summary.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pith_file pith_file; /* an opened array file; owns or maps its bytes */

/* .npy, versions 1 to 3, f16, f32, f64, i64, u8, i8, little or big endian, C or Fortran order, one to four
 * dimensions; memory-mapped where the path is a regular file. Fails if the file has more or fewer bytes than its
 * header says. */
PITH_API PITH_CHECK pith_status pith_npy_open(pith_context *context, const char *path, pith_file **file,
                                              pith_array *array);
/* C-ordered little-endian .npy, version 1. */
PITH_API PITH_CHECK pith_status pith_npy_write(pith_context *context, const char *path, const pith_array *array);

/* One tensor of a .safetensors file (F16, BF16, F32, F64, I64, U8, I8). */
PITH_API PITH_CHECK pith_status pith_safetensors_open(pith_context *context, const char *path, pith_file **file);
PITH_API size_t pith_safetensors_count(const pith_file *file);
PITH_API const char *pith_safetensors_name(const pith_file *file, size_t index);
PITH_API PITH_CHECK pith_status pith_safetensors_tensor(pith_context *context, const pith_file *file, const char *name,
                                                        pith_array *array);
PITH_API const char *pith_safetensors_metadata(const pith_file *file, const char *key); /* NULL: absent */

PITH_API void pith_file_close(pith_file *file); /* NULL is fine; its arrays are dead afterwards */

/* Summaries as .safetensors (docs/format.md). */
PITH_API PITH_CHECK pith_status pith_summary_save(pith_context *context, const pith_summary *summary, const char *path);
PITH_API PITH_CHECK pith_status pith_summary_load(pith_context *context, const char *path, pith_summary **out);

#ifdef __cplusplus
}
#endif
#endif
