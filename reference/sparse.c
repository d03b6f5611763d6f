/* sparse.c - the sums as they are written down. */
#include "sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double distance(const double *a, const double *b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sqrt(sum);
}

/* Largest eigenvalue of U'U by the power method from every unit vector. */
static double largest_eigenvalue(const double *u, size_t rows, size_t width) {
  double *gram = calloc(width * width, sizeof *gram), *x = calloc(2 * width, sizeof *x), *y = x + width, most = 0;
  if (!gram || !x) abort();
  for (size_t r = 0; r < rows; r++)
    for (size_t i = 0; i < width; i++)
      for (size_t j = 0; j < width; j++) gram[i * width + j] += u[r * width + i] * u[r * width + j];
  for (size_t start = 0; start < width; start++) {
    for (size_t i = 0; i < width; i++) x[i] = i == start;
    for (int round = 0; round < 200; round++) {
      double size = 0;
      for (size_t i = 0; i < width; i++) {
        y[i] = 0;
        for (size_t j = 0; j < width; j++) y[i] += gram[i * width + j] * x[j];
        size += y[i] * y[i];
      }
      if (!(size > 0)) break;
      for (size_t i = 0; i < width; i++) x[i] = y[i] / sqrt(size);
      most = fmax(most, sqrt(size));
    }
  }
  free(x);
  free(gram);
  return most;
}

reference_sparse reference_sparse_attend(const double *query, const double *keys, const double *values,
                                         const double *log_weight, const unsigned char *read, size_t n, size_t d,
                                         size_t dv, size_t block, double *answer) {
  double *w = calloc(n, sizeof *w), *u = calloc(n * dv, sizeof *u), *sums = calloc(4 * dv, sizeof *sums);
  if (!w || !u || !sums) abort();
  double *near = sums, *far = sums + dv, *all = sums + 2 * dv, *mixed = sums + 3 * dv;
  double top = -INFINITY, near_mass = 0, far_mass = 0, squares = 0;
  for (size_t i = 0; i < n; i++) {
    for (size_t j = 0; j < d; j++) w[i] += query[j] * keys[i * d + j];
    if (log_weight) w[i] += log_weight[i];
    top = fmax(top, w[i]);
  }
  for (size_t i = 0; i < n; i++) {
    w[i] = exp(w[i] - top);
    *(read[i] ? &near_mass : &far_mass) += w[i];
    for (size_t j = 0; j < dv; j++) (read[i] ? near : far)[j] += w[i] * values[i * dv + j];
  }
  memcpy(mixed, near, dv * sizeof *mixed);
  for (size_t first = 0; first < n; first += block) {
    size_t end = first + block < n ? first + block : n, unread = 0;
    double weight = 0;
    for (size_t i = first; i < end; i++)
      if (!read[i]) {
        weight += w[i];
        unread++;
      }
    for (size_t j = 0; j < dv; j++) {
      double mean = 0;
      for (size_t i = first; i < end; i++) mean += values[i * dv + j] / (double)(end - first);
      for (size_t i = first; i < end; i++) u[i * dv + j] = values[i * dv + j] - mean;
      mixed[j] += weight * mean;
    }
    double about =
        unread == end - first ? weight / (double)unread : 0; /* sum u = 0 over a block of which none is read */
    for (size_t i = first; i < end; i++)
      if (!read[i]) squares += (w[i] - about) * (w[i] - about);
  }
  const double mass = near_mass + far_mass;
  reference_sparse out = {.tail = far_mass / mass};
  for (size_t j = 0; j < dv; j++) {
    all[j] = (near[j] + far[j]) / mass;
    mixed[j] /= mass;
    if (near_mass > 0) near[j] /= near_mass;
    if (far_mass > 0) far[j] /= far_mass;
  }
  if (near_mass > 0) out.dropped = distance(all, near, dv);
  if (near_mass > 0 && far_mass > 0) out.identity = out.tail * distance(far, near, dv);
  out.error = distance(all, mixed, dv);
  out.bound = sqrt(largest_eigenvalue(u, n, dv) * squares) / mass;
  if (answer) memcpy(answer, mixed, dv * sizeof *answer);
  free(sums);
  free(u);
  free(w);
  return out;
}
