/* kernels.c - which table of kernels is used.
 *
 * Error bounds that every table keeps (u = 2^-24, held in tests/test_kernels.c):
 *   dot       |error| <= n u sum |a_i b_i|, in practice far less, since several sums run side by side
 *   exp       PITH_EXP_ULP units in the last place
 *   f16, bf16 exact from storage to f32, rounded to nearest even on the way back
 *   q8, q4    level times scale, rounded to f32 once
 *   attend    a logit errs like a dot product; the rest adds a few u times the largest |value| */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static bool has_avx2(void) {
  unsigned a, b, c, d; /* F16C is asked of the processor itself: not all compilers know its name */
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
         (c & bit_F16C);
}

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

static bool has_scalar(void) { return true; }

/* Best first. */
static const struct {
  const pith_kernels *table;
  bool (*supported)(void);
} tables[] = {
#if defined(__x86_64__)
    {&pith_kernels_avx512, has_avx512},
    {&pith_kernels_avx2, has_avx2},
#endif
    {&pith_kernels_scalar, has_scalar},
};
enum { TABLES = sizeof tables / sizeof *tables };

const pith_kernels *pith_kernels_named(const char *name) {
  for (size_t i = 0; i < TABLES; i++)
    if (strcmp(tables[i].table->name, name) == 0) return tables[i].supported() ? tables[i].table : NULL;
  return NULL;
}

static const pith_kernels *choose(void) {
  const char *wanted = getenv("PITH_ISA");
  const pith_kernels *named = wanted ? pith_kernels_named(wanted) : NULL;
  for (size_t i = 0; !named && i < TABLES; i++)
    if (tables[i].supported()) named = tables[i].table;
  return named;
}

pith_attend_kernel pith_kernels_attend(const pith_kernels *table, pith_dtype dtype) {
  switch (dtype) {
    case PITH_F16: return table->attend_f16;
    case PITH_BF16: return table->attend_bf16;
    case PITH_Q8: return table->attend_q8;
    case PITH_Q4: return table->attend_q4;
    default: return table->attend_f32;
  }
}

const pith_kernels *pith_kernels_active(void) {
  static const pith_kernels *active; /* threads that come first together all choose the same */
  const pith_kernels *table = __atomic_load_n(&active, __ATOMIC_ACQUIRE);
  if (!table) {
    table = choose();
    __atomic_store_n(&active, table, __ATOMIC_RELEASE);
  }
  return table;
}

const char *pith_isa_name(void) { return pith_kernels_active()->name; }
