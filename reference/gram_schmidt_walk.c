/* gram_schmidt_walk.c - fractional signs walk from 0 to the corners of the cube, one coordinate stopping a step. */
#include "gram_schmidt_walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Solves a x = b by elimination with pivots; x replaces b. A pivot of (nearly) zero leaves its x at 0: the vectors
 * are dependent and the others do the work. */
static void solve(double *a, double *b, size_t n) {
  double scale = 0;
  for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(a[i * n + i]));
  for (size_t k = 0; k < n; k++) {
    size_t best = k;
    for (size_t i = k; i < n; i++)
      if (fabs(a[i * n + k]) > fabs(a[best * n + k])) best = i;
    for (size_t j = 0; j < n && best != k; j++) {
      double keep = a[k * n + j];
      a[k * n + j] = a[best * n + j];
      a[best * n + j] = keep;
    }
    double keep = b[k];
    b[k] = b[best];
    b[best] = keep;
    if (fabs(a[k * n + k]) <= 1e-12 * scale) continue;
    for (size_t i = k + 1; i < n; i++) {
      double factor = a[i * n + k] / a[k * n + k];
      for (size_t j = k; j < n && factor != 0; j++) a[i * n + j] -= factor * a[k * n + j];
      b[i] -= factor * b[k];
    }
  }
  for (size_t k = n; k-- > 0;) {
    for (size_t j = k + 1; j < n; j++) b[k] -= a[k * n + j] * b[j];
    b[k] = fabs(a[k * n + k]) <= 1e-12 * scale ? 0 : b[k] / a[k * n + k];
  }
}

/* Direction that moves the pivot by 1 and the other alive rows so that the sum moves least. */
static void direction(const double *gram, size_t n, const size_t *alive, size_t count, size_t pivot, double *u) {
  double *a = calloc(count * count + count, sizeof *a), *b = a + count * count;
  if (!a) abort();
  memset(u, 0, n * sizeof *u);
  for (size_t i = 0; i < count; i++) {
    for (size_t j = 0; j < count; j++) a[i * count + j] = gram[alive[i] * n + alive[j]];
    b[i] = -gram[alive[i] * n + pivot];
  }
  solve(a, b, count);
  for (size_t i = 0; i < count; i++) u[alive[i]] = b[i];
  u[pivot] = 1;
  free(a);
}

void reference_gram_schmidt_walk(const double *gram, size_t n, const double *uniform, double *sign) {
  size_t *alive = calloc(n + 1, sizeof *alive), pivot = n;
  double *u = calloc(n + 1, sizeof *u);
  if (!alive || !u) abort();
  for (size_t i = 0; i < n; i++) sign[i] = 0;
  for (size_t step = 0; step < n; step++) {
    if (pivot == n || fabs(sign[pivot]) >= 1) /* a new pivot: the last row that is free */
      for (pivot = n; pivot-- > 0;)
        if (fabs(sign[pivot]) < 1) break;
    if (pivot >= n) break;
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
      if (i != pivot && fabs(sign[i]) < 1) alive[count++] = i;
    direction(gram, n, alive, count, pivot, u);
    double up = INFINITY, down = INFINITY; /* longest steps that stay inside the cube */
    for (size_t i = 0; i < n; i++) {
      if (u[i] == 0) continue;
      up = fmin(up, ((u[i] > 0 ? 1 : -1) - sign[i]) / u[i]);
      down = fmin(down, (sign[i] - (u[i] > 0 ? -1 : 1)) / u[i]);
    }
    double move = uniform[step] < down / (up + down) ? up : -down;
    for (size_t i = 0; i < n; i++) {
      sign[i] += move * u[i];
      if (fabs(sign[i]) > 1 - 1e-9) sign[i] = sign[i] > 0 ? 1 : -1;
    }
  }
  free(alive);
  free(u);
}
