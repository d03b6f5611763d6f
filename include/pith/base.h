/* pith/base.h - what every other header builds on: status codes, arrays, contexts.
 *
 * Conventions of the whole library:
 *   - Counts are size_t, strides are ptrdiff_t in bytes, tolerances are double.
 *   - Inputs are views: never kept, never changed. Outputs are untouched when a call fails.
 *   - A call that can fail returns a pith_status; pith_context_message() has the sentence.
 *   - A context belongs to one thread at a time. Objects other than contexts may be read by
 *     many threads at once (calls that take them const), each with its own context.
 *   - Nothing prints, nothing aborts. The only global state is the table of kernels, chosen once.
 */
#ifndef PITH_BASE_H
#define PITH_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PITH_VERSION_MAJOR 0
#define PITH_VERSION_MINOR 1
#define PITH_VERSION_PATCH 0
#define PITH_VERSION_STRING "0.1.0"

#if defined(__GNUC__)
#define PITH_API __attribute__((visibility("default")))
#define PITH_CHECK __attribute__((warn_unused_result))
#else
#define PITH_API
#define PITH_CHECK
#endif

/* Version of the library in use, such as "0.1.0". */
PITH_API const char *pith_version(void);

/* ---- Status -------------------------------------------------------------------------------- */

/* 0: done. > 0: done, but read the result. -1..-99: the caller's doing. <= -100: the machine's.
 * The numbers are pinned: they never change meaning and are never reused. */
typedef enum pith_status {
  PITH_OK = 0,
  PITH_NOT_CERTIFIED = 1, /* the result is valid, the certificate asked for was not reached */
  PITH_E_ARGUMENT = -1,   /* an argument is out of range or contradicts another */
  PITH_E_SHAPE = -2,      /* shapes do not fit together */
  PITH_E_TYPE = -3,       /* element type not supported here */
  PITH_E_VALUE = -4,      /* not a number, or infinite */
  PITH_E_BUDGET = -5,     /* the budget is too small or larger than what there is */
  PITH_E_UNKNOWN = -6,    /* no engine, model or instruction set of that name */
  PITH_E_FORMAT = -20,    /* a file is not what it says, or is cut short */
  PITH_E_VERSION = -21,   /* a file of a version this library does not know */
  PITH_E_CHECKSUM = -22,  /* a file was changed after it was written */
  PITH_E_MEMORY = -100,   /* no memory */
  PITH_E_IO = -101,       /* the system could not read or write */
  PITH_E_NUMERIC = -102,  /* a factorisation failed although the input looked sound */
  PITH_E_CANCELLED = -103 /* the progress callback asked to stop */
} pith_status;

/* Name of a status ("PITH_E_SHAPE"), and a sentence for it. Never NULL. */
PITH_API const char *pith_status_name(pith_status status);
PITH_API const char *pith_status_sentence(pith_status status);

/* ---- Arrays -------------------------------------------------------------------------------- */

typedef enum pith_dtype {
  PITH_F32 = 1,
  PITH_F16 = 2,
  PITH_BF16 = 3,
  PITH_F64 = 4,
  PITH_I64 = 5,
  PITH_U8 = 6,
  PITH_I8 = 7,
  PITH_Q8 = 8, /* these two only as the store of a summary (pith/summary.h), never of an array */
  PITH_Q4 = 9
} pith_dtype;

PITH_API size_t pith_dtype_size(pith_dtype dtype);      /* bytes of one element; 0: none of its own */
PITH_API const char *pith_dtype_name(pith_dtype dtype); /* "f32", ... */

/* A strided view of up to four dimensions: (rows, columns), (heads, rows, columns) or
 * (layers, heads, rows, columns). Never owns its data. */
typedef struct pith_array {
  const void *data;
  pith_dtype dtype;
  size_t ndim;         /* 1..4 */
  size_t shape[4];     /* the first ndim entries count */
  ptrdiff_t stride[4]; /* bytes; may be negative */
} pith_array;

/* A C-ordered view of rows x columns elements. */
PITH_API pith_array pith_array_matrix(const void *data, pith_dtype dtype, size_t rows, size_t columns);

/* The (rows, columns) view of one head of an array of two, three or four dimensions. Missing
 * leading dimensions count as 1. The indices must be in range. */
PITH_API pith_array pith_array_head(const pith_array *array, size_t layer, size_t head);

/* Rows begin .. begin+count-1 of every head (the second dimension from the end). */
PITH_API pith_array pith_array_rows(const pith_array *array, size_t begin, size_t count);

PITH_API size_t pith_array_layers(const pith_array *array);
PITH_API size_t pith_array_heads(const pith_array *array);

/* ---- Context ------------------------------------------------------------------------------- */

/* Memory hook. `size` is handed back on free. Memory must be aligned to 64 bytes. Called from any thread that works for
 * a call, never from two at once. */
typedef struct pith_allocator {
  void *(*allocate)(void *user, size_t size);
  void (*release)(void *user, void *pointer, size_t size);
  void *user;
} pith_allocator;

/* Called now and then from the thread that made the call. Returning non-zero cancels. */
typedef int (*pith_progress)(void *user, const char *stage, size_t done, size_t total);

typedef struct pith_context pith_context; /* memory, threads, the last message, scratch space */

typedef struct pith_context_options {
  size_t struct_size;
  int threads;                     /* >= 1; 0 means 1 */
  const pith_allocator *allocator; /* NULL: the C library's; copied */
  pith_progress progress;          /* NULL: none */
  void *progress_user;
} pith_context_options;

PITH_API void pith_context_options_init(pith_context_options *options);

/* options NULL: defaults. The first call keeps OpenBLAS to one thread in this process, since
 * results must not depend on its thread count; pith runs its own threads over fixed panels. Which kernels OpenBLAS
 * runs is decided before: see pith_blas_advice. */
PITH_API PITH_CHECK pith_status pith_context_create(const pith_context_options *options, pith_context **out);
PITH_API void pith_context_free(pith_context *context); /* NULL is fine */

/* The sentence of the last failed call with this context; "" if none. */
PITH_API const char *pith_context_message(const pith_context *context);

/* Bytes now held through this context, and the most ever held. */
PITH_API size_t pith_context_bytes(const pith_context *context);
PITH_API size_t pith_context_peak_bytes(const pith_context *context);

/* Name of the instruction set in use: "scalar", "avx2", "avx512". PITH_ISA=... in the environment
 * of the first call lowers it. */
PITH_API const char *pith_isa_name(void);

/* OpenBLAS picks its kernels when it is loaded, before any call can reach it: those that OPENBLAS_CORETYPE in the
 * environment names, else those for the processor. Some virtual machines have processors that it does not know, and
 * then it multiplies matrices up to four times too slowly. The tool `pith` sets the variable and starts itself again; a
 * program that links the library, or one that loads it, has to be started with the variable set:
 *
 *   const char *advice = pith_blas_advice();
 *   if (advice) fprintf(stderr, "%s\n", advice);
 *
 * pith_blas_core: the value that goes with the instruction set in use ("SkylakeX" with avx512, "Haswell" with avx2).
 * pith_blas_advice: a sentence that says what to set where OpenBLAS runs kernels older than AVX2 beside newer ones of
 * ours; NULL: all is well. Neither can fail, both may be called from any thread, and the strings last. */
PITH_API const char *pith_blas_core(void);
PITH_API const char *pith_blas_advice(void);

#ifdef __cplusplus
}
#endif
#endif
