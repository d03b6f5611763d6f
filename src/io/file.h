/* file.h - the bytes of a file: mapped or read whole, and written whole or not at all.
 *
 * Readers parse bytes in memory, wherever they came from, so that tests and fuzzers need no files. A file
 * that another program shortens while it is mapped ends the process, as with any mapped file. */
#ifndef PITH_SRC_FILE_H
#define PITH_SRC_FILE_H

#include "base/base.h"
#include "pith/cache.h"
#include "pith/file.h"
#include "pith/sampler.h"

/* A name from a hostile file, cut and cleaned for a message. */
typedef struct pith_quoted {
  char text[80];
} pith_quoted;
pith_quoted pith_quote(const char *text, size_t length);

typedef struct pith_file_tensor {
  const char *name;
  const char *dtype_name;
  pith_dtype dtype; /* 0: a type that pith does not compute with */
  size_t ndim, shape[4];
  size_t begin, end; /* bytes after the header */
  const unsigned char *data;
} pith_file_tensor;

typedef struct pith_entry {
  const char *key, *value;
} pith_entry;

struct pith_file {
  pith_memory *memory;
  char *name; /* for messages */
  const unsigned char *bytes;
  size_t size;
  bool mapped;
  void *owned;   /* bytes read into memory; NULL when mapped or lent */
  void *aligned; /* copies of what could not be read in place */

  /* safetensors only; both sorted by name */
  pith_file_tensor *tensor;
  pith_entry *metadata;
  size_t tensor_count, metadata_count;
  char *strings;
};

/* Maps a regular file; reads anything else (pipes, "-") into memory. */
pith_status pith_file_open(pith_context *context, const char *path, pith_file **out);
/* The same over bytes that the caller keeps alive. */
pith_status pith_file_lend(pith_context *context, const void *bytes, size_t size, const char *name, pith_file **out);

/* What the public calls do once the bytes are there. On failure the file is still to be closed. */
pith_status pith_npy_parse(pith_context *context, pith_file *file, pith_array *array);
pith_status pith_safetensors_parse(pith_context *context, pith_file *file);
pith_status pith_summary_parse(pith_context *context, pith_file *file, pith_summary **out);

/* The 16 hex digits of the checksum of a summary file, and where they stand in it; PITH_E_FORMAT where
 * the file does not begin as one. */
enum { PITH_CHECKSUM_DIGITS = 16 };
pith_status pith_summary_checksum(pith_context *context, const pith_file *file, char digits[PITH_CHECKSUM_DIGITS + 1],
                                  size_t *at);

/* Sketch files: which kind a file begins as; what pith_l2_load and pith_tensor_load do with the bytes; the checksum a
 * file should have, and where that stands in it, PITH_E_FORMAT where the file does not begin as a sketch. */
typedef enum pith_sketch_kind { PITH_SKETCH_NONE = 0, PITH_SKETCH_L2 = 1, PITH_SKETCH_TENSOR = 2 } pith_sketch_kind;
pith_sketch_kind pith_sketch_kind_of(const pith_file *file);
pith_status pith_l2_parse(pith_context *context, const pith_file *file, pith_l2 **out);
pith_status pith_tensor_parse(pith_context *context, const pith_file *file, pith_tensor **out);
pith_status pith_sketch_checksum(pith_context *context, const pith_file *file, uint64_t *checksum, size_t *at);

/* Cache files: what pith_cache_load does with the bytes (model NULL: of any); and their checksum, as for sketches. */
pith_status pith_cache_parse(pith_context *context, const pith_file *file, const char *model, pith_cache **out);
pith_status pith_cache_checksum(pith_context *context, const pith_file *file, uint64_t *checksum, size_t *at);

/* ---- Writing: into a temporary file in the folder of the target, renamed over it at the end. Pipes and
 * devices, and "-", are written straight. ---- */

typedef struct pith_writer {
  pith_context *context;
  const char *path;
  int descriptor;  /* -1: closed */
  char *temporary; /* NULL: written straight */
  unsigned char *buffer;
  size_t used;
} pith_writer;

pith_status pith_writer_open(pith_context *context, const char *path, pith_writer *writer);
pith_status pith_writer_put(pith_writer *writer, const void *bytes, size_t size);
/* Ends the writing: the target appears if `status`, which is handed back, is not a failure, else nothing is
 * left behind. */
pith_status pith_writer_close(pith_writer *writer, pith_status status);

#endif
