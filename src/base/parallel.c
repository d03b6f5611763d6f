/* parallel.c - the one place that knows how threads are run. */
#include <omp.h>

#include "base/base.h"

void pith_parallel_for(pith_context *context, size_t count, pith_body body, void *argument) {
  int threads = pith_threads(context);
  if (threads == 1 || count < 2) {
    for (size_t index = 0; index < count; index++) body(argument, index, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t index = 0; index < count; index++) body(argument, index, omp_get_thread_num());
}
