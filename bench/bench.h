/* bench.h - what every bench needs: a clock, and an end with a sentence when the library refuses. */
#ifndef PITH_BENCH_H
#define PITH_BENCH_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "pith.h"

static inline double seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void check(pith_status status, pith_context *context, const char *what) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s: %s\n", what, pith_status_name(status), pith_context_message(context));
  exit(1);
}

#endif
