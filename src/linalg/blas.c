/* blas.c - which kernels OpenBLAS should have, and whether it has them. */
#include <cblas.h>
#include <string.h>
#include <strings.h>

#include "base/base.h"

const char *pith_blas_core(void) {
  const char *isa = pith_isa_name();
  return !strcmp(isa, "avx512") ? "SkylakeX" : !strcmp(isa, "avx2") ? "Haswell" : "Prescott";
}

/* A name that is not here may be of a processor newer than these lines: nothing is said of it. */
static bool before_avx2(const char *core) {
  static const char *const old[] = {"Unknown",   "Katmai",       "Coppermine", "Northwood",  "Prescott",    "Banias",
                                    "Atom",      "Core2",        "Penryn",     "Dunnington", "Nehalem",     "Athlon",
                                    "Opteron",   "Opteron_SSE3", "Barcelona",  "Nano",       "Sandybridge", "Bobcat",
                                    "Bulldozer", "Piledriver",   "Steamroller"};
  for (size_t i = 0; i < sizeof old / sizeof *old; i++)
    if (!strcasecmp(core, old[i])) return true;
  return false;
}

#define ADVICE(core)                                                                                   \
  "OpenBLAS did not recognise this processor and multiplies matrices several times too slowly; start " \
  "the program with OPENBLAS_CORETYPE=" core " in its environment"

const char *pith_blas_advice(void) {
  const char *isa = pith_isa_name();
  if (!before_avx2(openblas_get_corename())) return NULL;
  if (!strcmp(isa, "avx512")) return ADVICE("SkylakeX");
  if (!strcmp(isa, "avx2")) return ADVICE("Haswell");
  return NULL;
}
