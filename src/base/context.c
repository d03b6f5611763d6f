/* context.c - memory, messages, scratch and progress of a context. */
#include <cblas.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

struct pith_memory {
  pith_allocator allocator;
  omp_lock_t lock;   /* of the allocator */
  size_t references; /* atomic */
  size_t bytes;      /* atomic */
  size_t peak;       /* atomic, approximate under concurrency */
};

struct pith_context {
  pith_memory *memory;
  int threads;
  pith_team *team; /* awake; NULL: none */
  pith_progress progress;
  void *progress_user;
  void *scratch[PITH_SCRATCH_SLOTS];
  size_t scratch_bytes[PITH_SCRATCH_SLOTS];
  char message[512];
};

/* Before every block: its size, in a cache line of its own so that the block stays aligned. */
enum { HEADER = 64 };

static void *default_allocate(void *user, size_t size) {
  (void)user;
  return aligned_alloc(64, (size + 63) / 64 * 64);
}

static void default_release(void *user, void *pointer, size_t size) {
  (void)user;
  (void)size;
  free(pointer);
}

void *pith_memory_allocate(pith_memory *memory, size_t count, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
  omp_set_lock(&memory->lock);
  unsigned char *block = memory->allocator.allocate(memory->allocator.user, bytes + HEADER);
  omp_unset_lock(&memory->lock);
  if (!block) return NULL;
  memcpy(block, &bytes, sizeof bytes);
  size_t now = __atomic_add_fetch(&memory->bytes, bytes, __ATOMIC_RELAXED);
  if (now > __atomic_load_n(&memory->peak, __ATOMIC_RELAXED)) __atomic_store_n(&memory->peak, now, __ATOMIC_RELAXED);
  return block + HEADER;
}

void pith_memory_release(pith_memory *memory, void *pointer) {
  if (!pointer) return;
  unsigned char *block = (unsigned char *)pointer - HEADER;
  size_t bytes = 0;
  memcpy(&bytes, block, sizeof bytes);
  __atomic_sub_fetch(&memory->bytes, bytes, __ATOMIC_RELAXED);
  omp_set_lock(&memory->lock);
  memory->allocator.release(memory->allocator.user, block, bytes + HEADER);
  omp_unset_lock(&memory->lock);
}

pith_memory *pith_memory_share(pith_context *context) {
  __atomic_add_fetch(&context->memory->references, 1, __ATOMIC_RELAXED);
  return context->memory;
}

void pith_memory_unshare(pith_memory *memory) {
  if (!memory || __atomic_sub_fetch(&memory->references, 1, __ATOMIC_ACQ_REL) > 0) return;
  pith_allocator allocator = memory->allocator;
  omp_destroy_lock(&memory->lock);
  allocator.release(allocator.user, memory, sizeof *memory);
}

void *pith_allocate(pith_context *context, size_t count, size_t size) {
  void *pointer = pith_memory_allocate(context->memory, count, size);
  if (!pointer)
    (void)pith_fail(context, PITH_E_MEMORY, "no memory for %zu elements of %zu bytes; %zu bytes are held", count, size,
                    pith_context_bytes(context));
  return pointer;
}

void *pith_allocate_zero(pith_context *context, size_t count, size_t size) {
  void *pointer = pith_allocate(context, count, size);
  if (pointer) memset(pointer, 0, count * size);
  return pointer;
}

void pith_release(pith_context *context, void *pointer) { pith_memory_release(context->memory, pointer); }

void *pith_scratch(pith_context *context, int slot, size_t bytes) {
  if (context->scratch_bytes[slot] < bytes || !context->scratch[slot]) {
    pith_release(context, context->scratch[slot]);
    context->scratch[slot] = pith_allocate(context, bytes ? bytes : 1, 1);
    context->scratch_bytes[slot] = context->scratch[slot] ? bytes : 0;
  }
  return context->scratch[slot];
}

void pith_context_options_init(pith_context_options *options) {
  memset(options, 0, sizeof *options);
  options->struct_size = sizeof *options;
  options->threads = 1;
}

pith_status pith_context_create(const pith_context_options *options, pith_context **out) {
  pith_context_options chosen;
  pith_context_options_init(&chosen);
  if (options) {
    if (options->struct_size > sizeof chosen || options->threads < 0) return PITH_E_ARGUMENT;
    memcpy(&chosen, options, options->struct_size);
  }
  openblas_set_num_threads(1);

  pith_allocator allocator = {default_allocate, default_release, NULL};
  if (chosen.allocator) allocator = *chosen.allocator;
  pith_memory *memory = allocator.allocate(allocator.user, sizeof *memory);
  if (!memory) return PITH_E_MEMORY;
  memset(memory, 0, sizeof *memory);
  memory->allocator = allocator;
  memory->references = 1;
  omp_init_lock(&memory->lock);
  pith_context *context = pith_memory_allocate(memory, 1, sizeof *context);
  if (!context) {
    pith_memory_unshare(memory);
    return PITH_E_MEMORY;
  }
  memset(context, 0, sizeof *context);
  context->memory = memory;
  context->threads = chosen.threads > 0 ? chosen.threads : 1;
  context->progress = chosen.progress;
  context->progress_user = chosen.progress_user;
  *out = context;
  return PITH_OK;
}

void pith_context_free(pith_context *context) {
  if (!context) return;
  for (int slot = 0; slot < PITH_SCRATCH_SLOTS; slot++) pith_release(context, context->scratch[slot]);
  pith_memory *memory = context->memory;
  pith_memory_release(memory, context);
  pith_memory_unshare(memory);
}

pith_status pith_context_worker(pith_context *context, pith_context **out) {
  pith_context *worker = pith_allocate_zero(context, 1, sizeof *worker);
  if (!worker) return PITH_E_MEMORY;
  worker->memory = pith_memory_share(context);
  worker->threads = 1;
  *out = worker;
  return PITH_OK;
}

const char *pith_context_message(const pith_context *context) { return context->message; }
size_t pith_context_bytes(const pith_context *context) {
  return __atomic_load_n(&context->memory->bytes, __ATOMIC_RELAXED);
}
size_t pith_context_peak_bytes(const pith_context *context) {
  return __atomic_load_n(&context->memory->peak, __ATOMIC_RELAXED);
}
int pith_threads(const pith_context *context) { return context->threads; }

pith_team **pith_context_team(pith_context *context) { return &context->team; }

void pith_set_message(pith_context *context, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(context->message, sizeof context->message, format, arguments);
  va_end(arguments);
}

pith_status pith_report(pith_context *context, const char *stage, size_t done, size_t total) {
  if (context->progress && context->progress(context->progress_user, stage, done, total) != 0)
    return pith_fail(context, PITH_E_CANCELLED, "stopped on request while at \"%s\", step %zu of %zu", stage, done,
                     total);
  return PITH_OK;
}
