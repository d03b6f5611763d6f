/* budget.h - spending a budget, slow and obvious. */
#ifndef PITH_REFERENCE_BUDGET_H
#define PITH_REFERENCE_BUDGET_H

#include <stddef.h>

/* The least total cost of any choice of one option per menu that takes at most `budget` bytes: every choice is
 * tried. bytes, cost: (menus, options), C-ordered. Infinity when nothing fits. */
double reference_spend(size_t menus, size_t options, const size_t *bytes, const double *cost, size_t budget);

/* Whether option i lies on the lower convex hull: it costs less than every cheaper option, and no mixture of two
 * others with no more bytes in the mean costs as little. */
int reference_on_hull(size_t options, const size_t *bytes, const double *cost, size_t i);

#endif
