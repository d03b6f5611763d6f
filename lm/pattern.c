/* pattern.c - from the pattern of a layer to a mask. */
#include "lm/session.h"

pith_mask lm_pattern_mask(const lm_pattern *pattern, size_t first, pith_block_mask *blocks) {
  *blocks = (pith_block_mask){.seen = pattern->seen,
                              .rows = pattern->block_count,
                              .columns = pattern->block_count,
                              .query_block = pattern->block,
                              .key_block = pattern->block};
  return (pith_mask){.causal = true,
                     .window = pattern->window,
                     .first = (ptrdiff_t)first,
                     .globals = pattern->globals,
                     .global_count = pattern->global_count,
                     .blocks = pattern->seen ? blocks : NULL};
}

double lm_pattern_seen(const lm_pattern *pattern, size_t first, size_t last) {
  pith_block_mask blocks;
  const pith_mask mask = lm_pattern_mask(pattern, 0, &blocks);
  double sum = 0;
  for (size_t token = first; token < last; token++) sum += (double)pith_mask_count(&mask, token, token + 1);
  return last > first ? sum / (double)(last - first) : 0;
}
