/* spend.c - lower convex hulls, and bytes spent where they save most. */
#include <stdlib.h>

#include "budget/menu.h"

static int compare_options(const void *left, const void *right) {
  const pith_option *a = left, *b = right;
  if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
  if (a->cost != b->cost) return a->cost < b->cost ? -1 : 1;
  return (a->points > b->points) - (a->points < b->points);
}

/* Cost saved per byte on the way from a to the dearer b. */
static double saving(const pith_option *a, const pith_option *b) {
  return (a->cost - b->cost) / (double)(b->bytes - a->bytes);
}

void pith_menu_hull(pith_menu *menu) {
  pith_option *hull = menu->option;
  size_t count = 0;
  qsort(hull, menu->count, sizeof *hull, compare_options);
  for (size_t i = 0; i < menu->count; i++) {
    pith_option next = menu->option[i];
    if (count > 0 && (next.cost >= hull[count - 1].cost || next.bytes == hull[count - 1].bytes)) continue;
    while (count > 1 && saving(&hull[count - 2], &hull[count - 1]) <= saving(&hull[count - 1], &next)) count--;
    hull[count++] = next;
  }
  menu->count = count;
}

pith_status pith_spend(pith_context *context, const pith_menu *menus, size_t count, size_t bytes, size_t *chosen) {
  size_t least = 0;
  for (size_t i = 0; i < count; i++) {
    chosen[i] = 0;
    least += menus[i].option[0].bytes;
  }
  if (least > bytes)
    return pith_fail(context, PITH_E_BUDGET,
                     "budget: %zu bytes are less than the %zu that the rows kept exactly take in all heads; give more, "
                     "or smaller sinks and window",
                     bytes, least);
  for (size_t left = bytes - least;;) {
    size_t best = count;
    double most = 0;
    for (size_t i = 0; i < count; i++) {
      if (chosen[i] + 1 == menus[i].count) continue;
      const pith_option *now = &menus[i].option[chosen[i]];
      if (now[1].bytes - now->bytes > left) continue;
      double saved = saving(now, now + 1);
      if (best == count || saved > most) best = i, most = saved;
    }
    if (best == count) return PITH_OK;
    const pith_option *now = &menus[best].option[chosen[best]++];
    left -= now[1].bytes - now->bytes;
  }
}
