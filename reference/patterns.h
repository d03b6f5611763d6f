/* patterns.h - which keys a query sees, decided key by key. */
#ifndef PITH_REFERENCE_PATTERNS_H
#define PITH_REFERENCE_PATTERNS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct reference_pattern {
  bool causal;
  size_t window; /* 0: none */
  const size_t *globals;
  size_t global_count;
  const unsigned char *blocks; /* (., block_columns), row 0 begins with query 0; NULL: none */
  size_t block_columns, query_block, key_block;
} reference_pattern;

/* mask (m, n): 1 where query r, at position n - m + r, sees key j. */
void reference_pattern_mask(const reference_pattern *pattern, size_t m, size_t n, unsigned char *mask);

#endif
