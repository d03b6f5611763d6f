/* panel.c - many queries at once over plain rows, in matrix products. */
#include <cblas.h>
#include <math.h>

#include "attention/attention.h"

void pith_attend_panel(const pith_rows *rows, const float *queries, size_t count, float *weight, float *log_mass,
                       float *answer) {
  const pith_kernels *kernels = pith_kernels_active();
  size_t d = rows->d, dv = rows->dv, n = rows->count;
  if (n == 0) return;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)n, (int)d, 1, queries, (int)d, rows->keys,
              (int)d, 0, weight, (int)n);
  for (size_t r = 0; r < count; r++) {
    float *row = weight + r * n;
    if (rows->log_weight) kernels->axpy(1, rows->log_weight, row, n);
    float largest = fmaxf(kernels->max(row, n), log_mass[r]);
    float sum = kernels->exp_sum(row, n, -largest), before = expf(log_mass[r] - largest);
    float factor = 1 / (sum + before);
    for (size_t i = 0; i < n; i++) row[i] *= factor;
    for (size_t j = 0; j < dv; j++) answer[r * dv + j] *= before * factor;
    log_mass[r] = largest + logf(sum + before);
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)count, (int)dv, (int)n, 1, weight, (int)n, rows->values,
              (int)dv, 1, answer, (int)dv);
}
