/* kernel.c - the kernels of the query models, computed by rows and blocks. */
#include "query/kernel.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "linalg/linalg.h"

enum { COLUMN_PANEL = 512 };

/* How much of a plain radial kernel is added to a samples kernel, in parts of its mean diagonal. */
static const double UNSEEN = 1e-3;
/* Largest exponent on the diagonal of a ball kernel: exp must stay inside f32. */
static const double LARGEST_EXPONENT = 60.0;

static double squared_norm(const float *x, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
  return sum;
}

/* mapped = factor * (keys - centre). */
static void map_centred(const float *keys, const double *centre, double factor, size_t n, size_t d, float *mapped) {
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < d; j++) mapped[i * d + j] = (float)(factor * (keys[i * d + j] - centre[j]));
}

static void find_centre(const float *keys, const float *log_weight, size_t n, size_t d, double *centre) {
  double total = 0;
  for (size_t j = 0; j < d; j++) centre[j] = 0;
  for (size_t i = 0; i < n; i++) {
    double weight = log_weight ? exp(log_weight[i]) : 1;
    total += weight;
    for (size_t j = 0; j < d; j++) centre[j] += weight * keys[i * d + j];
  }
  for (size_t j = 0; j < d; j++) centre[j] /= total > 0 ? total : 1;
}

static double mean_squared_norm(const float *rows, size_t n, size_t d) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += squared_norm(rows + i * d, d);
  return n ? sum / (double)n : 0;
}

/* Adds UNSEEN * mean diagonal * exp(-|k_i - k_j|^2 / (2 spread^2)), so that rank does not run out when
 * there are fewer queries than points. */
static void add_unseen(pith_kernel *kernel, const float *keys, const double *centre) {
  size_t n = kernel->n, d = kernel->d;
  double mean_diagonal =
      pith_kernels_active()->dot(kernel->feature, kernel->feature, n * kernel->features) / (double)pith_max_size(n, 1);
  map_centred(keys, centre, 1, n, d, kernel->mapped);
  double spread = mean_squared_norm(kernel->mapped, n, d), factor = spread > 0 ? 1 / sqrt(spread) : 0;
  for (size_t i = 0; i < n * d; i++) kernel->mapped[i] = (float)(kernel->mapped[i] * factor);
  for (size_t i = 0; i < n; i++)
    kernel->log_scale[i] =
        (float)(0.5 * log(fmax(UNSEEN * mean_diagonal, 1e-30)) - 0.5 * squared_norm(kernel->mapped + i * d, d));
}

static pith_status fill_samples(pith_context *context, const pith_feature_source *source, const double *centre,
                                pith_kernel *kernel) {
  pith_features features;
  PITH_TRY(pith_features_create(context, source, &features));
  kernel->features = features.count;
  kernel->feature = features.feature;
  kernel->all_diagonal = features.diagonal;
  add_unseen(kernel, source->keys, centre);
  return PITH_OK;
}

/* ---- ball and gaussian ---- */

static void fill_ball(const pith_query_model *model, const float *keys, const double *centre, pith_kernel *kernel) {
  size_t n = kernel->n, d = kernel->d;
  map_centred(keys, centre, 1, n, d, kernel->mapped);
  double mean = mean_squared_norm(kernel->mapped, n, d), largest = 0;
  for (size_t i = 0; i < n; i++) largest = fmax(largest, squared_norm(kernel->mapped + i * d, d));
  /* lambda^2 = rho / (2 R), R the root mean square radius: small enough to stay smooth, see docs/theory.md. Keys far
   * outside count at most as they do in the ball itself, exp(2 rho |k|). */
  double lambda2 = mean > 0 ? 0.5 * model->rho / sqrt(mean) : 1;
  if (lambda2 * largest > 2 * model->rho * sqrt(largest)) lambda2 = 2 * model->rho / sqrt(largest);
  if (lambda2 * largest > LARGEST_EXPONENT) lambda2 = LARGEST_EXPONENT / largest;
  for (size_t i = 0; i < n * d; i++) kernel->mapped[i] = (float)(kernel->mapped[i] * sqrt(lambda2));
  kernel->lambda2 = lambda2;
}

/* mapped = S^(1/2) (k - c), log_scale = <mu, k - c> + (k - c)^T S (k - c) / 2. */
static pith_status fill_gaussian(pith_context *context, const pith_query_model *model, const float *keys,
                                 const double *centre, pith_kernel *kernel) {
  size_t n = kernel->n, d = kernel->d;
  double *values = pith_allocate(context, d + d * d, sizeof *values);
  float *root = pith_allocate(context, d * d, sizeof *root), *centred = pith_allocate(context, n * d, sizeof *centred);
  pith_status status = !values || !root || !centred ? PITH_E_MEMORY : PITH_OK;
  if (status == PITH_OK) status = pith_eigen_symmetric_f64(context, model->covariance, d, values, values + d);
  if (status == PITH_OK) {
    for (size_t e = 0; e < d; e++)
      for (size_t j = 0; j < d; j++) root[e * d + j] = (float)(sqrt(fmax(values[e], 0)) * values[d + e * d + j]);
    map_centred(keys, centre, 1, n, d, centred);
    pith_gemm_f32(context, PITH_PLAIN, PITH_TRANSPOSED, n, d, d, 1, centred, d, root, d, 0, kernel->mapped, d);
    double largest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
      double shift = 0.5 * squared_norm(kernel->mapped + i * d, d);
      for (size_t j = 0; j < d; j++) shift += model->mean[j] * centred[i * d + j];
      kernel->log_scale[i] = (float)shift;
      largest = fmax(largest, shift + 0.5 * squared_norm(kernel->mapped + i * d, d));
    }
    /* The largest diagonal entry becomes 1. */
    for (size_t i = 0; i < n; i++) kernel->log_scale[i] = (float)(kernel->log_scale[i] - largest);
    kernel->log_factor = 2 * largest;
  }
  pith_release(context, values);
  pith_release(context, root);
  pith_release(context, centred);
  return status;
}

/* ---- all ---- */

static pith_status fill(pith_context *context, const pith_feature_source *source, pith_kernel *kernel) {
  const pith_query_model *model = source->model;
  const float *keys = source->keys;
  size_t n = kernel->n, d = kernel->d = model->d;
  kernel->mapped = pith_allocate(context, n * d, sizeof(float));
  kernel->log_scale = pith_allocate_zero(context, n, sizeof(float));
  kernel->diagonal = pith_allocate(context, n, sizeof(float));
  double *centre = pith_allocate(context, d, sizeof *centre);
  pith_status status = PITH_OK;
  if (!kernel->mapped || !kernel->log_scale || !kernel->diagonal || !centre) {
    status = PITH_E_MEMORY;
  } else {
    find_centre(keys, source->log_weight, n, d, centre);
    if (model->kind == PITH_QUERIES_SAMPLES)
      status = fill_samples(context, source, centre, kernel);
    else if (model->kind == PITH_QUERIES_GAUSSIAN)
      status = fill_gaussian(context, model, keys, centre, kernel);
    else
      fill_ball(model, keys, centre, kernel);
  }
  pith_release(context, centre);
  for (size_t i = 0; status == PITH_OK && i < n; i++) {
    double x = exp(squared_norm(kernel->mapped + i * d, d) + 2.0 * kernel->log_scale[i]);
    const float *feature = kernel->feature + i * kernel->features;
    if (kernel->features) x += pith_kernels_active()->dot(feature, feature, kernel->features);
    kernel->diagonal[i] = (float)x;
  }
  return status;
}

pith_status pith_kernel_draw(pith_context *context, const pith_feature_source *source, pith_kernel **out) {
  pith_kernel *kernel = pith_allocate_zero(context, 1, sizeof *kernel);
  if (!kernel) return PITH_E_MEMORY;
  kernel->n = source->n;
  pith_status status = fill(context, source, kernel);
  if (status < 0)
    pith_kernel_free(context, kernel);
  else
    *out = kernel;
  return status;
}

pith_status pith_kernel_create(pith_context *context, const pith_query_model *model, const float *keys,
                               const float *log_weight, size_t n, pith_kernel **out) {
  pith_feature_source all = {.model = model, .keys = keys, .log_weight = log_weight, .n = n, .most = SIZE_MAX};
  return pith_kernel_draw(context, &all, out);
}

void pith_kernel_free(pith_context *context, pith_kernel *kernel) {
  if (!kernel) return;
  pith_release(context, kernel->feature);
  pith_release(context, kernel->mapped);
  pith_release(context, kernel->log_scale);
  pith_release(context, kernel->diagonal);
  pith_release(context, kernel->all_diagonal);
  pith_release(context, kernel);
}

/* One product of a few left rows by a panel of right rows. Right rows are the kernel's own, or gathered. */
typedef struct block_product {
  size_t count, columns, features, d;
  const float *left_feature, *left_mapped, *left_scale;
  const float *right_feature, *right_mapped, *right_scale;
  float *out, *scratch; /* scratch: (threads, count, COLUMN_PANEL) when there are two parts */
} block_product;

static void multiply_block(void *argument, size_t index, int thread) {
  const block_product *p = argument;
  const pith_kernels *kernels = pith_kernels_active();
  size_t begin = index * COLUMN_PANEL, width = pith_min_size(COLUMN_PANEL, p->columns - begin);
  float *out = p->out + begin, *radial = out;
  size_t stride = p->columns;
  if (p->features) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->count, (int)width, (int)p->features, 1,
                p->left_feature, (int)p->features, p->right_feature + begin * p->features, (int)p->features, 0, out,
                (int)p->columns);
    radial = p->scratch + (size_t)thread * p->count * COLUMN_PANEL;
    stride = COLUMN_PANEL;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->count, (int)width, (int)p->d, 1, p->left_mapped,
              (int)p->d, p->right_mapped + begin * p->d, (int)p->d, 0, radial, (int)stride);
  for (size_t i = 0; i < p->count; i++) {
    float *row = radial + i * stride;
    for (size_t j = 0; j < width; j++) row[j] += p->right_scale[begin + j];
    (void)kernels->exp_sum(row, width, p->left_scale[i]);
    if (p->features) kernels->axpy(1, row, out + i * p->columns, width);
  }
}

static void gather(const float *from, size_t width, const size_t *rows, size_t count, float *to) {
  for (size_t i = 0; i < count; i++) memcpy(to + i * width, from + rows[i] * width, width * sizeof *to);
}

/* Copies of the named rows: count * (features + d + 1) floats in one allocation. */
static float *gather_rows(pith_context *context, const pith_kernel *kernel, const size_t *rows, size_t count) {
  float *copy = pith_allocate(context, count * (kernel->features + kernel->d + 1), sizeof *copy);
  if (!copy) return NULL;
  if (kernel->features) gather(kernel->feature, kernel->features, rows, count, copy);
  gather(kernel->mapped, kernel->d, rows, count, copy + count * kernel->features);
  gather(kernel->log_scale, 1, rows, count, copy + count * (kernel->features + kernel->d));
  return copy;
}

pith_status pith_kernel_block(pith_context *context, const pith_kernel *kernel, const size_t *rows, size_t count,
                              const size_t *columns, size_t column_count, float *out) {
  size_t features = kernel->features, d = kernel->d;
  if (count == 0 || column_count == 0) return PITH_OK;
  block_product product = {.count = count,
                           .columns = column_count,
                           .features = features,
                           .d = d,
                           .right_feature = kernel->feature,
                           .right_mapped = kernel->mapped,
                           .right_scale = kernel->log_scale,
                           .out = out};
  size_t scratch = features ? (size_t)pith_threads(context) * count * COLUMN_PANEL : 0;
  float *left = gather_rows(context, kernel, rows, count);
  float *right = columns ? gather_rows(context, kernel, columns, column_count) : NULL;
  product.scratch = pith_allocate(context, scratch, sizeof(float));
  pith_status status = !left || (columns && !right) || !product.scratch ? PITH_E_MEMORY : PITH_OK;
  if (status == PITH_OK) {
    product.left_feature = left;
    product.left_mapped = left + count * features;
    product.left_scale = left + count * (features + d);
    if (right) {
      product.right_feature = right;
      product.right_mapped = right + column_count * features;
      product.right_scale = right + column_count * (features + d);
    }
    pith_parallel_for(context, (column_count + COLUMN_PANEL - 1) / COLUMN_PANEL, multiply_block, &product);
  }
  pith_release(context, left);
  pith_release(context, right);
  pith_release(context, product.scratch);
  return status;
}

pith_status pith_kernel_rows(pith_context *context, const pith_kernel *kernel, const size_t *rows, size_t count,
                             float *out) {
  return pith_kernel_block(context, kernel, rows, count, NULL, kernel->n, out);
}
