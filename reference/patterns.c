/* patterns.c - which keys a query sees, decided key by key. */
#include "patterns.h"

static bool is_global(const reference_pattern *pattern, long long position) {
  for (size_t i = 0; i < pattern->global_count; i++)
    if ((long long)pattern->globals[i] == position) return true;
  return false;
}

static bool sees(const reference_pattern *pattern, size_t row, long long position, long long key) {
  if (pattern->causal && key > position) return false;
  if (is_global(pattern, key) || is_global(pattern, position)) return true;
  long long gap = position > key ? position - key : key - position;
  if (pattern->window > 0 && (size_t)gap >= pattern->window) return false;
  return !pattern->blocks ||
         pattern->blocks[row / pattern->query_block * pattern->block_columns + (size_t)key / pattern->key_block];
}

void reference_pattern_mask(const reference_pattern *pattern, size_t m, size_t n, unsigned char *mask) {
  for (size_t r = 0; r < m; r++)
    for (size_t j = 0; j < n; j++)
      mask[r * n + j] = sees(pattern, r, (long long)n - (long long)m + (long long)r, (long long)j);
}
