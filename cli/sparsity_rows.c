/* sparsity_rows.c - rows of Gaussian logits: drawn, weighed, cut. */
#include "sparsity_rows.h"

#include <math.h>

#include "base/base.h"

const regime row_regimes[REGIMES] = {{false, 1}, {false, 2}, {false, 3}, {false, 4},
                                     {true, .5}, {true, 1},  {true, 2},  {true, 4}};

size_t row_size(size_t index) { return (size_t)256 << 2 * index; }

double row_sigma(regime r, double n) { return r.grows ? sqrt(r.value * log(n)) : r.value; }

cli_text regime_name(regime r) {
  cli_text out;
  snprintf(out.at, sizeof out.at, r.grows ? "sigma^2 = %g ln n" : "sigma = %g", r.value);
  return out;
}

void row_draw(uint64_t seed, uint32_t object, size_t n, double *z) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_LOGITS, object);
  for (size_t j = 0; j < n; j++) z[j] = -pith_random_gaussian(&stream, j); /* negated: sorting makes them descend */
  pith_sort_f64(z, n);
  for (size_t j = 0; j < n; j++) z[j] = -z[j];
}

void row_weigh(const double *z, size_t n, double sigma, double *weight) {
  double mass = 0;
  for (size_t j = n; j-- > 0;) mass += weight[j] = exp(sigma * (z[j] - z[0]));
  for (size_t j = 0; j < n; j++) weight[j] /= mass;
}

row_ends row_behind(const double *weight, size_t n, size_t k) {
  row_ends sum = {0, 0};
  for (size_t j = n; j-- > k;) {
    sum.mass += weight[j];
    sum.squares += weight[j] * weight[j];
  }
  return sum;
}

double row_rms_error(row_ends all, row_ends tail) {
  const double raised = tail.mass / (1 - tail.mass); /* kept weights grow by this part of themselves */
  return sqrt((all.squares - tail.squares) * raised * raised + tail.squares);
}
