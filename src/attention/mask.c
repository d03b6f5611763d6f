/* mask.c - the spans of keys that a query sees under a mask.
 *
 * What is near passes window, blocks and causal mask; what is far is global. A span is what is left when spans of
 * both kinds that touch are joined. */
#include <string.h>

#include "attention/attention.h"

/* The first place from `from` on that holds `wanted`; `count` if none does. */
static size_t find_byte(const unsigned char *bytes, size_t from, size_t count, unsigned char wanted) {
  const unsigned char *found = from < count ? memchr(bytes + from, wanted, count - from) : NULL;
  return found ? (size_t)(found - bytes) : count;
}

/* The first span of near rows at or after `from`; at the end of all if there is none. */
static void find_near(pith_spans *spans, size_t from) {
  size_t begin = pith_max_size(from, spans->near_begin), end = spans->near_end;
  if (begin < end && spans->blocks) {
    size_t first = find_byte(spans->blocks, begin / spans->key_block, spans->columns, 1);
    size_t last = find_byte(spans->blocks, first, spans->columns, 0);
    begin = first == spans->columns ? end : pith_max_size(begin, first * spans->key_block);
    if (last <= end / spans->key_block) end = last * spans->key_block;
  }
  if (begin >= end) begin = end = spans->to;
  spans->near.begin = begin;
  spans->near.end = end;
}

/* The same of global rows. */
static void find_far(pith_spans *spans, size_t from) {
  for (; spans->global_count > 0 && spans->globals[0] < from; spans->globals++) spans->global_count--;
  size_t begin = spans->to, end = spans->to;
  if (spans->global_count > 0 && spans->globals[0] < spans->to) {
    begin = end = spans->globals[0];
    for (; spans->global_count > 0 && spans->globals[0] <= end && end < spans->to; spans->globals++) {
      end = spans->globals[0] + 1;
      spans->global_count--;
    }
  }
  spans->far.begin = begin;
  spans->far.end = end;
}

/* Looks anew where the span at hand ends at or before `from`. */
static void look_ahead(pith_spans *spans, size_t from) {
  if (spans->near.end <= from) find_near(spans, from);
  if (spans->far.end <= from) find_far(spans, from);
}

static void find_span(pith_spans *spans, size_t from) {
  look_ahead(spans, from);
  size_t begin = pith_max_size(from, pith_min_size(spans->near.begin, spans->far.begin)), end = begin;
  while (end < spans->to) {
    look_ahead(spans, end);
    if (spans->near.begin <= end && end < spans->near.end)
      end = spans->near.end;
    else if (spans->far.begin <= end && end < spans->far.end)
      end = spans->far.end;
    else
      break;
  }
  spans->begin = begin;
  spans->end = end;
}

void pith_spans_next(pith_spans *spans) { find_span(spans, spans->end); }

/* How many global positions lie before `position`. */
static size_t globals_before(const pith_mask *mask, size_t position) {
  size_t low = 0, high = mask->global_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (mask->globals[middle] < position)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static bool is_global(const pith_mask *mask, ptrdiff_t position) {
  if (position < 0 || mask->global_count == 0) return false;
  size_t before = globals_before(mask, (size_t)position);
  return before < mask->global_count && mask->globals[before] == (size_t)position;
}

/* max(0, min(position, limit)) */
static size_t clamp_position(ptrdiff_t position, size_t limit) {
  return position <= 0 ? 0 : pith_min_size((size_t)position, limit);
}

pith_spans pith_mask_spans(const pith_mask *mask, size_t query, size_t from, size_t to) {
  ptrdiff_t position = mask->first + (ptrdiff_t)query;
  if (mask->causal) to = clamp_position(position + 1, to);
  pith_spans spans = {.to = to, .near_end = to};
  if (from >= to) {
    spans.begin = spans.end = to;
    return spans;
  }
  bool thinned = mask->window > 0 || mask->blocks;
  if (thinned && !is_global(mask, position)) {
    if (mask->window > 0 && mask->window < (size_t)PTRDIFF_MAX / 4) {
      spans.near_begin = clamp_position(position - (ptrdiff_t)mask->window + 1, to);
      spans.near_end = clamp_position(position + (ptrdiff_t)mask->window, to);
    }
    if (mask->blocks) {
      const pith_block_mask *blocks = mask->blocks;
      ptrdiff_t asked = position - blocks->first;
      size_t row = asked < 0 ? blocks->rows : (size_t)asked / blocks->query_block;
      if (row < blocks->rows) {
        spans.blocks = blocks->seen + row * blocks->columns;
        spans.columns = blocks->columns;
        spans.key_block = blocks->key_block;
      } else {
        spans.near_end = 0;
      }
    }
    if (mask->global_count > 0) {
      size_t before = globals_before(mask, from);
      spans.globals = mask->globals + before;
      spans.global_count = mask->global_count - before;
    }
  }
  find_span(&spans, from);
  return spans;
}

size_t pith_mask_count(const pith_mask *mask, size_t query, size_t rows) {
  size_t count = 0;
  for (pith_spans spans = pith_mask_spans(mask, query, 0, rows); spans.begin < spans.end; pith_spans_next(&spans))
    count += spans.end - spans.begin;
  return count;
}
