/* menu.h - what each head can be made into, and how a total of bytes is spent over heads. */
#ifndef PITH_SRC_MENU_H
#define PITH_SRC_MENU_H

#include "base/base.h"

/* One way to keep a head: points (all rows: the whole cache; the exact rows alone: window only) in a store. */
typedef struct pith_option {
  size_t points;
  pith_dtype store;
  size_t bytes;
  double cost;  /* head weight * mean squared error, summed over the query heads of the group */
  double drift; /* that error, over what probes foretold */
} pith_option;

typedef struct pith_menu {
  size_t count;
  pith_option *option;
} pith_menu;

/* Leaves the lower convex hull: bytes rise, costs fall, and every further byte buys less than the one before.
 * Options of equal bytes and cost: the earlier one stays. Costs must be numbers. */
void pith_menu_hull(pith_menu *menu);

/* Spends `bytes` over menus that are hulls: all start at their cheapest option, then always that step is taken
 * which saves most cost per byte among those that still fit. chosen (count) receives an option of each menu. What
 * was bought before the first step that did not fit is the best that any choice can do for its bytes.
 * PITH_E_BUDGET when the cheapest options alone take more. Time count * steps. */
pith_status pith_spend(pith_context *context, const pith_menu *menus, size_t count, size_t bytes, size_t *chosen);

#endif
