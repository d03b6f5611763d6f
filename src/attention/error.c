/* error.c - how far answers are from the exact ones. */
#include <math.h>

#include "pith/attention.h"

pith_error pith_error_measure(const float *exact, const float *approximate, size_t rows, size_t dv) {
  pith_error error = {0};
  double sum = 0, squares = 0, norms = 0;
  for (size_t row = 0; row < rows; row++) {
    double difference = 0, norm = 0;
    for (size_t column = 0; column < dv; column++) {
      double e = exact[row * dv + column], gap = e - approximate[row * dv + column];
      difference += gap * gap;
      norm += e * e;
    }
    sum += sqrt(difference);
    squares += difference;
    norms += sqrt(norm);
    if (sqrt(difference) > error.max) {
      error.max = sqrt(difference);
      error.worst = row;
    }
  }
  if (rows == 0) return error;
  error.mean = sum / (double)rows;
  error.rms = sqrt(squares / (double)rows);
  error.relative = sum == 0 ? 0 : sum / norms; /* infinite where all exact answers are zero */
  return error;
}
