#include "budget.h"

#include <math.h>

double reference_spend(size_t menus, size_t options, const size_t *bytes, const double *cost, size_t budget) {
  if (menus == 0) return 0;
  double best = INFINITY;
  for (size_t i = 0; i < options; i++)
    if (bytes[i] <= budget)
      best =
          fmin(best, cost[i] + reference_spend(menus - 1, options, bytes + options, cost + options, budget - bytes[i]));
  return best;
}

int reference_on_hull(size_t options, const size_t *bytes, const double *cost, size_t i) {
  for (size_t a = 0; a < options; a++) {
    if (a == i) continue;
    if (bytes[a] <= bytes[i] && cost[a] <= cost[i]) return 0;
    for (size_t b = 0; b < options; b++) {
      if (b == i || bytes[a] >= bytes[i] || bytes[b] <= bytes[i]) continue;
      double part = (double)(bytes[i] - bytes[a]) / (double)(bytes[b] - bytes[a]);
      if (cost[a] + part * (cost[b] - cost[a]) <= cost[i]) return 0;
    }
  }
  return 1;
}
