/* tensor.c - the tensor sampler: options, updates, and which engine does the work. */
#include "sampler/tensor.h"

#include <math.h>
#include <string.h>

#include "linalg/linalg.h"

enum { MOST_DIM = 1024, DEFAULT_BUCKETS = 1024, LEAST_BUCKETS = 16, MOST_BUCKETS = 1 << 24 };
static const size_t MOST_ROWS = (size_t)1 << 40;
static const double LARGEST = TENSOR_LARGEST;

static const tensor_engine *const engines[] = {
    [PITH_TENSOR_EXACT] = &tensor_exact, [PITH_TENSOR_PAIRS] = &tensor_pairs, [PITH_TENSOR_SKETCH] = &tensor_rows};

const char *pith_tensor_method_name(pith_tensor_method method) {
  if (method == PITH_TENSOR_AUTO) return "auto";
  return method >= PITH_TENSOR_EXACT && method <= PITH_TENSOR_SKETCH ? engines[method]->name : "unknown";
}

void pith_tensor_options_init(pith_tensor_options *options) {
  *options = (pith_tensor_options){.struct_size = sizeof *options, .draws = 1, .memory = (size_t)1 << 30, .seed = 1};
}

/* ---- Creation ---- */

static pith_status check_options(pith_context *context, const pith_tensor_options *options) {
  if (options->rows1 < 1 || options->rows1 > MOST_ROWS || options->rows2 < 1 || options->rows2 > MOST_ROWS)
    return pith_fail(context, PITH_E_ARGUMENT, "rows1 is %zu and rows2 %zu; they must be 1 to 2^40", options->rows1,
                     options->rows2);
  if (options->dim < 1 || options->dim > MOST_DIM)
    return pith_fail(context, PITH_E_ARGUMENT, "dim is %zu; it must be 1 to %d", options->dim, MOST_DIM);
  if (options->draws < 1) return pith_fail(context, PITH_E_ARGUMENT, "draws is 0; it must be 1 or more");
  size_t buckets = options->buckets;
  if (buckets && (buckets < LEAST_BUCKETS || buckets > MOST_BUCKETS || (buckets & (buckets - 1))))
    return pith_fail(context, PITH_E_ARGUMENT, "buckets is %zu; it must be a power of two from %d to 2^24", buckets,
                     LEAST_BUCKETS);
  if ((int)options->method < PITH_TENSOR_AUTO || options->method > PITH_TENSOR_SKETCH)
    return pith_fail(context, PITH_E_UNKNOWN, "method is %d; there are 0 (auto) to %d", (int)options->method,
                     PITH_TENSOR_SKETCH);
  if (options->method == PITH_TENSOR_PAIRS && options->rows1 > MOST_ROWS / options->rows2)
    return pith_fail(context, PITH_E_ARGUMENT, "rows1 * rows2 is %zu * %zu; sketches over pairs take up to 2^40",
                     options->rows1, options->rows2);
  return PITH_OK;
}

static double bytes(const pith_tensor_options *options, const tensor_engine *engine) {
  return 8 * (engine->words(options) + (double)options->dim * (double)options->dim);
}

/* Chooses the method, and refuses what does not fit. */
static pith_status choose(pith_context *context, pith_tensor_options *options) {
  double allowed = (double)options->memory;
  if (options->method == PITH_TENSOR_AUTO)
    options->method = bytes(options, &tensor_exact) <= allowed ? PITH_TENSOR_EXACT : PITH_TENSOR_SKETCH;
  const tensor_engine *engine = engines[options->method];
  if (options->method == PITH_TENSOR_EXACT)
    options->buckets = 0;
  else if (!options->buckets)
    options->buckets = DEFAULT_BUCKETS;
  double needed = bytes(options, engine);
  if (needed <= allowed) return PITH_OK;
  if (options->method == PITH_TENSOR_EXACT)
    return pith_fail(
        context, PITH_E_BUDGET,
        "Gram trees over %zu and %zu rows of %zu columns take %.0f bytes, and %zu are allowed; allow more, "
        "or take the method sketch",
        options->rows1, options->rows2, options->dim, needed, options->memory);
  pith_tensor_options one = *options;
  one.draws = 1;
  double first = bytes(&one, engine), each = 0;
  one.draws = 1 << 20;
  each = (bytes(&one, engine) - first) / ((1 << 20) - 1);
  double most = first <= allowed ? 1 + floor((allowed - first) / each) : 0;
  return pith_fail(context, PITH_E_BUDGET, "sketches for %zu draws take %.0f bytes, and %zu are allowed: %s%.0f draws",
                   options->draws, needed, options->memory, most > 0 ? "enough for " : "not enough even for one; ",
                   most);
}

void *tensor_zeros(pith_context *context, pith_tensor *sampler, size_t count, size_t size) {
  size_t total = 0;
  void *out = __builtin_mul_overflow(count, size, &total) ? NULL : pith_memory_allocate(sampler->memory, total, 1);
  if (out)
    memset(out, 0, total);
  else
    pith_set_message(context, "no memory for %zu elements of %zu bytes of a tensor sampler", count, size);
  return out;
}

pith_status pith_tensor_resolve(pith_context *context, const pith_tensor_options *options, pith_tensor_options *out) {
  if (options->struct_size != sizeof *options)
    return pith_fail(context, PITH_E_ARGUMENT, "options.struct_size is %zu; call pith_tensor_options_init first",
                     options->struct_size);
  *out = *options;
  PITH_TRY(check_options(context, out));
  return choose(context, out);
}

double pith_tensor_saved_bytes(pith_context *context, const pith_tensor_options *resolved) {
  double rest = engines[resolved->method]->saved(context, resolved);
  return rest < 0 ? rest : 8 * (rest + (double)resolved->dim * (double)resolved->dim);
}

pith_status pith_tensor_create(pith_context *context, const pith_tensor_options *options, pith_tensor **out) {
  pith_tensor_options chosen;
  PITH_TRY(pith_tensor_resolve(context, options, &chosen));
  pith_memory *memory = pith_memory_share(context);
  pith_tensor *sampler = pith_memory_allocate(memory, 1, sizeof *sampler);
  if (!sampler) {
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for a tensor sampler");
  }
  *sampler = (pith_tensor){.memory = memory, .options = chosen, .engine = engines[chosen.method]};
  sampler->x = tensor_zeros(context, sampler, chosen.dim * chosen.dim, sizeof *sampler->x);
  pith_status status = sampler->x ? sampler->engine->create(context, sampler) : PITH_E_MEMORY;
  if (status < 0) {
    pith_tensor_free(sampler);
    return status;
  }
  *out = sampler;
  return PITH_OK;
}

void pith_tensor_free(pith_tensor *sampler) {
  if (!sampler) return;
  pith_memory *memory = sampler->memory;
  sampler->engine->release(sampler);
  pith_memory_release(memory, sampler->x);
  pith_memory_release(memory, sampler);
  pith_memory_unshare(memory);
}

/* ---- Updates ---- */

static pith_status check_update(pith_context *context, const pith_tensor *sampler, const pith_update *update) {
  static const char *const parts[] = {[PITH_TENSOR_A1] = "A1", [PITH_TENSOR_A2] = "A2", [PITH_TENSOR_X] = "X"};
  const pith_tensor_options *options = &sampler->options;
  if (update->kind > PITH_TENSOR_X || !parts[update->kind])
    return pith_fail(context, PITH_E_ARGUMENT, "an update of kind %u; there are 0 (A1), 1 (A2) and 3 (X)",
                     update->kind);
  const size_t rows[] = {
      [PITH_TENSOR_A1] = options->rows1, [PITH_TENSOR_A2] = options->rows2, [PITH_TENSOR_X] = options->dim};
  if (update->row >= rows[update->kind])
    return pith_fail(context, PITH_E_ARGUMENT, "%s has no row %llu: rows go from 0 to %zu", parts[update->kind],
                     (unsigned long long)update->row, rows[update->kind] - 1);
  if (update->column >= options->dim)
    return pith_fail(context, PITH_E_ARGUMENT, "%s has no column %u: columns go from 0 to %zu", parts[update->kind],
                     update->column, options->dim - 1);
  if (!(fabs(update->delta) <= LARGEST))
    return pith_fail(context, PITH_E_VALUE, "the change of %s[%llu, %u] is %g; it must be finite, and at most 1e40",
                     parts[update->kind], (unsigned long long)update->row, update->column, update->delta);
  if (sampler->engine->fixed && sampler->begun && update->kind != PITH_TENSOR_A1)
    return pith_fail(
        context, PITH_E_ARGUMENT,
        "%s changes after A1 has begun: a sketch over pairs holds A2 and X fixed; take the method exact or "
        "sketch, or give all of A2 and X first",
        parts[update->kind]);
  return PITH_OK;
}

static pith_status update_x(pith_context *context, pith_tensor *sampler, const pith_update *update) {
  double *entry = &sampler->x[update->row * sampler->options.dim + update->column];
  if (!(fabs(*entry + update->delta) <= LARGEST))
    return pith_fail(context, PITH_E_VALUE, "X[%llu, %u] would become %g; entries may reach 1e40",
                     (unsigned long long)update->row, update->column, *entry + update->delta);
  *entry += update->delta;
  return PITH_OK;
}

/* Engines take updates in runs of one kind: what is good at the head of `updates`, at least one. */
static pith_status run_length(pith_context *context, const pith_tensor *sampler, const pith_update *updates,
                              size_t count, size_t *length) {
  PITH_TRY(check_update(context, sampler, updates));
  size_t i = 1;
  while (i < count && updates[i].kind == updates->kind && check_update(context, sampler, &updates[i]) >= 0) i++;
  *length = updates->kind == PITH_TENSOR_X ? 1 : i;
  return PITH_OK;
}

pith_status pith_tensor_update(pith_context *context, pith_tensor *sampler, const pith_update *updates, size_t count,
                               size_t *done) {
  pith_status status = PITH_OK;
  size_t i = 0;
  while (i < count && status >= 0) {
    size_t length = 0, stand = 0;
    status = run_length(context, sampler, &updates[i], count - i, &length);
    if (status < 0) break;
    if (updates[i].kind == PITH_TENSOR_X) {
      status = update_x(context, sampler, &updates[i]);
      stand = status >= 0;
    } else {
      status = sampler->engine->update(context, sampler, &updates[i], length, &stand);
      sampler->begun = sampler->begun || updates[i].kind == PITH_TENSOR_A1;
    }
    i += stand;
  }
  if (done) *done = i;
  return status;
}

/* ---- Draws ---- */

pith_status pith_tensor_draw(pith_context *context, pith_tensor *sampler, size_t count, pith_pair *pairs,
                             size_t *drawn) {
  const size_t left = sampler->engine->left(sampler);
  if (count > left)
    return pith_fail(context, PITH_E_BUDGET,
                     "%zu draws are asked for and sketches for %zu are left, of %zu; create the sampler for more draws",
                     count, left, sampler->options.draws);
  size_t out = 0;
  PITH_TRY(sampler->engine->draw(context, sampler, count, pairs, &out));
  sampler->spent += count;
  sampler->failures += count - out;
  *drawn = out;
  return PITH_OK;
}

pith_status pith_tensor_norm(pith_context *context, const pith_tensor *sampler, double *norm) {
  return sampler->engine->norm(context, sampler, norm);
}

pith_tensor_info pith_tensor_describe(const pith_tensor *sampler) {
  const pith_tensor_options *options = &sampler->options;
  return (pith_tensor_info){.rows1 = options->rows1,
                            .rows2 = options->rows2,
                            .dim = options->dim,
                            .method = options->method,
                            .buckets = options->buckets,
                            .draws = options->draws,
                            .spent = sampler->spent,
                            .left = sampler->engine->left(sampler),
                            .failures = sampler->failures,
                            .words = options->dim * options->dim + sampler->engine->kept(sampler),
                            .seed = options->seed};
}

/* ---- What engines share ---- */

void tensor_sandwich(pith_context *context, const double *x, const double *g, size_t d, double *work, double *out) {
  pith_gemm_f64(context, PITH_PLAIN, PITH_PLAIN, d, d, d, 1, x, d, g, d, 0, work, d);
  pith_gemm_f64(context, PITH_PLAIN, PITH_TRANSPOSED, d, d, d, 1, work, d, x, d, 0, out, d);
}

void tensor_turn(const double *x, const double *a, size_t d, double *out) {
  memset(out, 0, d * sizeof *out);
  for (size_t i = 0; i < d; i++)
    for (size_t j = 0; j < d; j++) out[j] += a[i] * x[i * d + j];
}
