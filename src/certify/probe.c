/* probe.c - what held-out queries promise of the next one, and the trivial bound. */
#include <math.h>
#include <string.h>

#include "certify/certify.h"

pith_status pith_certify_probe(pith_context *context, const double *errors, size_t count, double confidence,
                               pith_certificate *out) {
  if (!(confidence > 0 && confidence < 1))
    return pith_fail(context, PITH_E_ARGUMENT, "confidence is %g; it must lie between 0 and 1", confidence);
  double *sorted = pith_allocate(context, count, sizeof *sorted);
  if (!sorted) return PITH_E_MEMORY;
  if (count > 0) memcpy(sorted, errors, count * sizeof *sorted);
  pith_sort_f64(sorted, count);
  /* A new error exchangeable with these is among the k smallest of all count + 1 with probability
   * k / (count + 1). The small step back keeps 0.9 * 10 from being rounded up to 10. */
  double rank = ceil(confidence * (double)(count + 1) - 1e-9);
  size_t k = (size_t)fmax(rank, 1);
  *out = (pith_certificate){.kind = PITH_CERTIFICATE_PROBE, .confidence = confidence};
  out->bound = k <= count ? sorted[k - 1] : INFINITY;
  pith_release(context, sorted);
  return PITH_OK;
}

double pith_value_diameter(const float *values, size_t n, size_t dv) {
  enum { COLUMNS = 1024 };
  double mean[COLUMNS], low[COLUMNS], high[COLUMNS], diagonal = 0, radius = INFINITY;
  for (size_t first = 0; first < dv && n > 0; first += COLUMNS) {
    size_t count = pith_min_size(COLUMNS, dv - first);
    for (size_t j = 0; j < count; j++) mean[j] = 0, low[j] = high[j] = values[first + j];
    for (size_t i = 0; i < n; i++)
      for (size_t j = 0; j < count; j++) {
        double value = values[i * dv + first + j];
        mean[j] += value / (double)n;
        low[j] = fmin(low[j], value);
        high[j] = fmax(high[j], value);
      }
    for (size_t j = 0; j < count; j++) diagonal += (high[j] - low[j]) * (high[j] - low[j]);
  }
  if (dv <= COLUMNS) { /* wider values are bounded by their box alone */
    radius = 0;
    for (size_t i = 0; i < n; i++) {
      double square = 0;
      for (size_t j = 0; j < dv; j++) square += (values[i * dv + j] - mean[j]) * (values[i * dv + j] - mean[j]);
      radius = fmax(radius, square);
    }
  }
  return fmin(2 * sqrt(radius), sqrt(diagonal));
}
