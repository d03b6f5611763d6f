/* file.c - opening, mapping and atomic writing, for all file formats. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian and read in place");

enum { READ_START = 1 << 16, WRITE_BUFFER = 1 << 16, TEMPORARY_NAMES = 100 };

pith_quoted pith_quote(const char *text, size_t length) {
  pith_quoted quoted = {{0}};
  size_t room = sizeof quoted.text - 4, kept = pith_min_size(length, room);
  for (size_t i = 0; i < kept; i++) quoted.text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
  if (length > room) memcpy(quoted.text + kept, "...", 3);
  return quoted;
}

/* ---- Reading ---- */

static pith_status create(pith_context *context, const char *name, pith_file **out) {
  pith_file *file = pith_allocate_zero(context, 1, sizeof *file);
  if (!file) return PITH_E_MEMORY;
  file->memory = pith_memory_share(context);
  size_t length = strlen(name) + 1;
  file->name = pith_memory_allocate(file->memory, length, 1);
  if (!file->name) {
    pith_file_close(file);
    return pith_fail(context, PITH_E_MEMORY, "%s: no memory for the name", name);
  }
  memcpy(file->name, name, length);
  *out = file;
  return PITH_OK;
}

void pith_file_close(pith_file *file) {
  if (!file) return;
  pith_memory *memory = file->memory;
  if (file->mapped) munmap((void *)(uintptr_t)file->bytes, file->size);
  pith_memory_release(memory, file->owned);
  pith_memory_release(memory, file->aligned);
  pith_memory_release(memory, file->tensor);
  pith_memory_release(memory, file->metadata);
  pith_memory_release(memory, file->strings);
  pith_memory_release(memory, file->name);
  pith_memory_release(memory, file);
  pith_memory_unshare(memory);
}

pith_status pith_file_lend(pith_context *context, const void *bytes, size_t size, const char *name, pith_file **out) {
  PITH_TRY(create(context, name, out));
  (*out)->bytes = bytes;
  (*out)->size = size;
  return PITH_OK;
}

/* Reads to the end into memory that doubles whenever it is full. */
static pith_status read_whole(pith_context *context, pith_file *file, int descriptor) {
  size_t capacity = READ_START;
  unsigned char *bytes = pith_memory_allocate(file->memory, capacity, 1);
  if (!bytes) return pith_fail(context, PITH_E_MEMORY, "%s: no memory to read it", file->name);
  file->owned = bytes;
  for (;;) {
    if (file->size == capacity) {
      unsigned char *larger = pith_memory_allocate(file->memory, capacity, 2);
      if (!larger) return pith_fail(context, PITH_E_MEMORY, "%s: no memory beyond %zu bytes", file->name, capacity);
      memcpy(larger, bytes, capacity);
      pith_memory_release(file->memory, bytes);
      file->owned = bytes = larger;
      capacity *= 2;
    }
    ssize_t got = read(descriptor, bytes + file->size, capacity - file->size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return pith_fail(context, PITH_E_IO, "%s: cannot read: %s", file->name, strerror(errno));
    if (got == 0) break;
    file->size += (size_t)got;
  }
  file->bytes = bytes;
  return PITH_OK;
}

static pith_status map_or_read(pith_context *context, pith_file *file, int descriptor) {
  struct stat status;
  if (fstat(descriptor, &status) != 0)
    return pith_fail(context, PITH_E_IO, "%s: cannot read: %s", file->name, strerror(errno));
  if (!S_ISREG(status.st_mode) || status.st_size == 0) return read_whole(context, file, descriptor);
  void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (bytes == MAP_FAILED) return read_whole(context, file, descriptor);
  file->bytes = bytes;
  file->size = (size_t)status.st_size;
  file->mapped = true;
  return PITH_OK;
}

pith_status pith_file_open(pith_context *context, const char *path, pith_file **out) {
  bool standard = strcmp(path, "-") == 0;
  int descriptor = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return pith_fail(context, PITH_E_IO, "%s: cannot open: %s", path, strerror(errno));
  pith_file *file = NULL;
  pith_status status = create(context, standard ? "standard input" : path, &file);
  /* Standard input may be a regular file that was read from already, so it is never mapped. */
  if (file) status = standard ? read_whole(context, file, descriptor) : map_or_read(context, file, descriptor);
  if (!standard) close(descriptor);
  if (status < 0) {
    pith_file_close(file);
    return status;
  }
  *out = file;
  return PITH_OK;
}

/* ---- Writing ---- */

static pith_status fail_writing(pith_writer *writer) {
  return pith_fail(writer->context, PITH_E_IO, "%s: cannot write: %s", writer->path, strerror(errno));
}

/* A file of a new name beside the target, with the permissions that any new file gets. */
static pith_status open_temporary(pith_writer *writer) {
  size_t room = strlen(writer->path) + 40;
  writer->temporary = pith_allocate(writer->context, room, 1);
  if (!writer->temporary) return PITH_E_MEMORY;
  for (int attempt = 0; attempt < TEMPORARY_NAMES && writer->descriptor < 0; attempt++) {
    (void)snprintf(writer->temporary, room, "%s.%ld-%d.tmp", writer->path, (long)getpid(), attempt);
    writer->descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (writer->descriptor < 0 && errno != EEXIST) break;
  }
  return writer->descriptor < 0 ? fail_writing(writer) : PITH_OK;
}

pith_status pith_writer_open(pith_context *context, const char *path, pith_writer *writer) {
  *writer = (pith_writer){.context = context, .path = path, .descriptor = -1};
  pith_status status = PITH_OK;
  struct stat found;
  writer->buffer = pith_allocate(context, WRITE_BUFFER, 1);
  if (!writer->buffer) {
    status = PITH_E_MEMORY;
  } else if (strcmp(path, "-") == 0) {
    writer->path = "standard output";
    writer->descriptor = STDOUT_FILENO;
  } else if (stat(path, &found) == 0 && !S_ISREG(found.st_mode)) { /* renaming would put a file in a device's place */
    writer->descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (writer->descriptor < 0) status = fail_writing(writer);
  } else {
    status = open_temporary(writer);
  }
  if (status < 0) {
    pith_release(context, writer->buffer);
    pith_release(context, writer->temporary);
  }
  return status;
}

static pith_status put_through(pith_writer *writer, const unsigned char *bytes, size_t size) {
  while (size > 0) {
    ssize_t put = write(writer->descriptor, bytes, size);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_writing(writer);
    bytes += put;
    size -= (size_t)put;
  }
  return PITH_OK;
}

static pith_status flush(pith_writer *writer) {
  size_t used = writer->used;
  writer->used = 0;
  return put_through(writer, writer->buffer, used);
}

pith_status pith_writer_put(pith_writer *writer, const void *bytes, size_t size) {
  if (size > WRITE_BUFFER - writer->used) PITH_TRY(flush(writer));
  if (size > WRITE_BUFFER) return put_through(writer, bytes, size);
  if (size > 0) memcpy(writer->buffer + writer->used, bytes, size);
  writer->used += size;
  return PITH_OK;
}

pith_status pith_writer_close(pith_writer *writer, pith_status status) {
  if (status >= 0) {
    pith_status flushed = flush(writer);
    if (flushed < 0) status = flushed;
  }
  if (writer->descriptor != STDOUT_FILENO && close(writer->descriptor) != 0 && status >= 0)
    status = fail_writing(writer);
  if (writer->temporary) {
    if (status >= 0 && rename(writer->temporary, writer->path) != 0) status = fail_writing(writer);
    if (status < 0) (void)unlink(writer->temporary);
  }
  pith_release(writer->context, writer->temporary);
  pith_release(writer->context, writer->buffer);
  return status;
}
