/* base.h - the inside of pith/base.h: memory, messages, parallel loops, random numbers. */
#ifndef PITH_SRC_BASE_H
#define PITH_SRC_BASE_H

#include <stdbool.h>
#include <stdint.h>

#include "pith/base.h"

/* ---- Memory: everything held is counted, everything is aligned to 64 bytes. ---- */

/* NULL on overflow or when there is none (the message is set). count or size may be 0. */
void *pith_allocate(pith_context *context, size_t count, size_t size);
void *pith_allocate_zero(pith_context *context, size_t count, size_t size);
void pith_release(pith_context *context, void *pointer); /* NULL is fine */

/* Scratch of at least `bytes`, valid until the next call with the same slot: grown, never shrunk,
 * so that a query path that asks for the same size again allocates nothing. */
enum { PITH_SCRATCH_SLOTS = 4 };
void *pith_scratch(pith_context *context, int slot, size_t bytes);

/* An object that must outlive the context that made it keeps the allocator, not the context. */
typedef struct pith_memory pith_memory; /* counted allocator, shared by reference count */
pith_memory *pith_memory_share(pith_context *context);
void pith_memory_unshare(pith_memory *memory);
void *pith_memory_allocate(pith_memory *memory, size_t count, size_t size);
void pith_memory_release(pith_memory *memory, void *pointer);

/* ---- Messages ---- */

void pith_set_message(pith_context *context, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Sets the message and gives the status, so that a failure is one line. */
#define pith_fail(context, status, ...) (pith_set_message((context), __VA_ARGS__), (status))

/* Runs `expression`; returns from the enclosing function if it failed (status < 0). */
#define PITH_TRY(expression)                         \
  do {                                               \
    pith_status pith_try_status = (expression);      \
    if (pith_try_status < 0) return pith_try_status; \
  } while (0)

/* The same, but sets `status` and jumps to the clean-up at `label`. */
#define PITH_TRY_GOTO(expression, status, label) \
  do {                                           \
    (status) = (expression);                     \
    if ((status) < 0) goto label;                \
  } while (0)

/* Reports progress; PITH_E_CANCELLED when the caller wants to stop. */
pith_status pith_report(pith_context *context, const char *stage, size_t done, size_t total);

/* ---- Parallel loops ---- */

/* Calls body(argument, index, thread) for index 0 .. count-1, spread over the context's threads.
 * Bodies must not touch the context (no allocation, no messages): all that is done before. What
 * the loop computes must not depend on which thread runs which index. */
typedef void (*pith_body)(void *argument, size_t index, int thread);
void pith_parallel_for(pith_context *context, size_t count, pith_body body, void *argument);
int pith_threads(const pith_context *context);

/* Runs `work` with the context's threads kept awake: a loop in it starts at once, where it would otherwise wait for
 * threads to be woken. For many short loops in a row; between them the threads wait busily for a tenth of a
 * millisecond, then give way to others. */
typedef pith_status (*pith_work)(void *argument);
pith_status pith_parallel_awake(pith_context *context, pith_work work, void *argument);

/* Tasks that have nothing to do with each other: each runs on one thread and has a context of its own, in which it may
 * allocate and fail. With fewer tasks than threads they run one after another instead, on all threads. Progress is
 * reported as `stage`. After a failure no further task is begun; the failure of lowest index is given. */
typedef pith_status (*pith_task)(pith_context *context, void *argument, size_t index);
pith_status pith_parallel_tasks(pith_context *context, const char *stage, size_t count, pith_task task, void *argument);

/* A context for one of several threads: it shares the memory of `context` and has one thread and no progress. To be
 * freed with pith_context_free. */
pith_status pith_context_worker(pith_context *context, pith_context **out);

typedef struct pith_team pith_team;                   /* the threads that are awake: parallel.c */
pith_team **pith_context_team(pith_context *context); /* where a context remembers them */

/* ---- Random numbers: counter-based (Philox 4x32-10), so that the same bytes come at any thread
 * count. A stream is named by a seed, a purpose and an object (head, level ...). ---- */

typedef struct pith_stream {
  uint32_t key[2];
  uint32_t purpose, object;
} pith_stream;

enum { /* purposes: one number each, never reused */
       PITH_STREAM_PIVOTS = 1,
       PITH_STREAM_ROTATION = 2,
       PITH_STREAM_PROBES = 3,
       PITH_STREAM_COINS = 4,
       PITH_STREAM_PROPOSALS = 5,
       PITH_STREAM_ASCENT = 6,
       PITH_STREAM_QUERIES = 7,
       PITH_STREAM_BATCHES = 8,
       PITH_STREAM_SKETCHES = 9,
       PITH_STREAM_DRAWS = 10,
       PITH_STREAM_FEATURES = 11,
       PITH_STREAM_PAIRS = 20,
       PITH_STREAM_ROW_CELLS = 21,
       PITH_STREAM_KEYS = 22,
       PITH_STREAM_GUMBEL = 23,
       PITH_STREAM_TENSOR_SKETCH = 24,
       PITH_STREAM_LOGITS = 30,
       PITH_STREAM_CACHE_SAMPLES = 40,
       PITH_STREAM_CACHE_HELD = 41,
       PITH_STREAM_RESERVOIR = 42,
       PITH_STREAM_TAIL = 43,
       PITH_STREAM_TEST = 100
};

pith_stream pith_stream_make(uint64_t seed, uint32_t purpose, uint32_t object);
uint64_t pith_random_u64(const pith_stream *stream, uint64_t index);
double pith_random_uniform(const pith_stream *stream, uint64_t index);  /* in (0, 1) */
double pith_random_gaussian(const pith_stream *stream, uint64_t index); /* N(0, 1) */
size_t pith_random_below(const pith_stream *stream, uint64_t index, size_t bound);
/* A uniform permutation of 0 .. count-1. */
void pith_random_permutation(const pith_stream *stream, size_t *permutation, size_t count);

/* ---- Arrays ---- */

/* Copies a (rows, columns) view of any float type into C-ordered f32, times `factor`. Refuses NaN
 * and infinities (naming `what`, row and column) and types that are not floats. */
pith_status pith_array_to_f32(pith_context *context, const pith_array *array, const char *what, double factor,
                              float *out);

/* True when rows lie whole in memory (column stride = element size). */
bool pith_array_rows_contiguous(const pith_array *array);

float pith_f16_to_f32(uint16_t half);
uint16_t pith_f32_to_f16(float value); /* round to nearest even; overflow gives infinity */
float pith_bf16_to_f32(uint16_t half);
uint16_t pith_f32_to_bf16(float value);

/* Ascending; what is not a number must not be among them. */
void pith_sort_f64(double *values, size_t count);

static inline size_t pith_min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t pith_max_size(size_t a, size_t b) { return a > b ? a : b; }

#endif
