/* pairing.c - the rounds: blocks, their joint kernels, who is left. */
#include "summary/pairing.h"

#include <math.h>
#include <string.h>

#include "linalg/linalg.h"

enum {
  PANEL = 128, /* rows of a joint kernel that are computed at once */
  BATCH = 4,   /* blocks whose kernels are held together, so that threads can share them */
  TILE = 16    /* of a transposition */
};

typedef struct pairing {
  const pith_pairing_rule *rule;
  pith_kernel *kernel; /* of all rows of the problem */
  size_t *rows;        /* candidates */
  size_t width;        /* dv + 1 */
  float *joint;        /* (candidates, width): w_i [v_i - v; b], w_i relative to the mean weight */
} pairing;

/* ---- Preparation --------------------------------------------------------------------------- */

/* Fills joint rows. Weights are divided by their mean: the kernel must stay inside f32. */
static pith_status fill_joint(pith_context *context, const pith_problem *problem, pairing *p) {
  size_t dv = problem->dv, count = problem->candidates;
  double *mean = pith_allocate_zero(context, dv, sizeof *mean), total = 0, square = 0;
  if (!mean) return PITH_E_MEMORY;
  for (size_t c = 0; c < count; c++) {
    double weight = exp(pith_problem_log_weight(problem, p->rows[c]));
    total += weight;
    for (size_t j = 0; j < dv; j++) mean[j] += weight * problem->values[p->rows[c] * dv + j];
  }
  for (size_t j = 0; j < dv; j++) mean[j] = p->rule->centred ? mean[j] / total : 0;
  for (size_t c = 0; c < count; c++) {
    float *joint = p->joint + c * p->width;
    double weight = exp(pith_problem_log_weight(problem, p->rows[c])), norm = 0;
    for (size_t j = 0; j < dv; j++) {
      double x = problem->values[p->rows[c] * dv + j] - mean[j];
      joint[j] = (float)x;
      norm += x * x;
    }
    square += weight / total * norm;
  }
  double b = square > 0 ? sqrt(p->rule->floor * square) : 1;
  for (size_t c = 0; c < count; c++) {
    float *joint = p->joint + c * p->width;
    double weight = exp(pith_problem_log_weight(problem, p->rows[c])) * (double)count / total;
    joint[dv] = (float)b;
    for (size_t j = 0; j <= dv; j++) joint[j] = (float)(joint[j] * weight);
  }
  pith_release(context, mean);
  return PITH_OK;
}

pith_status pith_pairing_prepare(pith_context *context, const pith_problem *problem, const pith_pairing_rule *rule,
                                 void **state) {
  pairing *p = pith_allocate_zero(context, 1, sizeof *p);
  if (!p) return PITH_E_MEMORY;
  p->rule = rule;
  p->width = problem->dv + 1;
  p->rows = pith_problem_candidates(context, problem);
  p->joint = pith_allocate(context, problem->candidates, p->width * sizeof *p->joint);
  pith_status status = p->rows && p->joint ? fill_joint(context, problem, p) : PITH_E_MEMORY;
  if (status >= 0)
    status = pith_kernel_create(context, problem->model, problem->keys, problem->log_weight, problem->n, &p->kernel);
  if (status < 0)
    pith_pairing_release(context, p);
  else
    *state = p;
  return status;
}

void pith_pairing_release(pith_context *context, void *state) {
  pairing *p = state;
  if (!p) return;
  pith_kernel_free(context, p->kernel);
  pith_release(context, p->rows);
  pith_release(context, p->joint);
  pith_release(context, p);
}

/* ---- One round ----------------------------------------------------------------------------- */

/* Points that are left, and the memory of a round. */
typedef struct pool {
  size_t count, largest, batch; /* points left; largest block; blocks held together */
  size_t *point;                /* index into the candidates */
  size_t *row;                  /* the same as rows of the problem */
  float *factor;                /* 2 to the number of rounds that the point was kept in */
  float *sign, *sum, *gain, *diagonal;
  float *kernel;         /* (batch, largest, largest) */
  float *radial, *cross; /* (PANEL, largest) */
  float *joint;          /* (largest, width) */
} pool;

typedef struct batch {
  const pith_pairing_rule *rule;
  pith_pairing_block block[BATCH];
} batch;

/* Upper triangle of a block's joint kernel, by panels of rows. */
static pith_status fill_upper(pith_context *context, const pairing *p, const pool *left, size_t begin, size_t count,
                              float *kernel) {
  size_t width = p->width;
  for (size_t i = 0; i < count; i++)
    for (size_t j = 0; j < width; j++)
      left->joint[i * width + j] = left->factor[begin + i] * p->joint[left->point[begin + i] * width + j];
  for (size_t at = 0; at < count; at += PANEL) {
    size_t height = pith_min_size(PANEL, count - at), length = count - at;
    const size_t *rows = left->row + begin + at;
    const float *joint = left->joint + at * width;
    PITH_TRY(pith_kernel_block(context, p->kernel, rows, height, rows, length, left->radial));
    pith_gemm_f32(context, PITH_PLAIN, PITH_TRANSPOSED, height, length, width, 1, joint, width, joint, width, 0,
                  left->cross, length);
    for (size_t i = 0; i < height; i++) {
      float *out = kernel + (at + i) * count + at;
      const float *radial = left->radial + i * length, *cross = left->cross + i * length;
      for (size_t j = 0; j < length; j++) out[j] = radial[j] * cross[j];
    }
  }
  return PITH_OK;
}

static void mirror(float *kernel, size_t n) {
  for (size_t r = 0; r < n; r += TILE)
    for (size_t c = 0; c <= r; c += TILE)
      for (size_t i = r; i < pith_min_size(n, r + TILE); i++)
        for (size_t j = c; j < pith_min_size(i, c + TILE); j++) kernel[i * n + j] = kernel[j * n + i];
}

static void split_block(void *argument, size_t index, int thread) {
  (void)thread;
  batch *b = argument;
  pith_pairing_block *block = &b->block[index];
  mirror(block->kernel, block->count);
  for (size_t i = 0; i < block->count; i++) {
    block->diagonal[i] = block->kernel[i * block->count + i];
    block->sign[i] = block->sum[i] = 0;
  }
  b->rule->split(block);
}

static void keep(const pairing *p, pool *left) {
  size_t kept = 0;
  for (size_t i = 0; i < left->count; i++) {
    if (left->sign[i] < 0) continue;
    left->point[kept] = left->point[i];
    left->row[kept] = p->rows[left->point[i]];
    left->factor[kept++] = left->factor[i] * (left->sign[i] > 0 ? 2 : 1);
  }
  left->count = kept;
}

static size_t block_count(const pith_pairing_rule *rule, size_t count) {
  return count <= rule->whole ? 1 : (count + rule->block - 1) / rule->block;
}

/* Blocks are runs of neighbouring points, cut between pairs; pairs are spread evenly over them. */
static pith_status halve(pith_context *context, const pairing *p, pool *left, size_t pairs, pith_stream coins,
                         uint64_t draw) {
  size_t blocks = block_count(p->rule, left->count), half = left->count / 2;
  batch b = {.rule = p->rule};
  for (size_t first = 0; first < blocks; first += left->batch) {
    size_t held = pith_min_size(left->batch, blocks - first);
    for (size_t h = 0; h < held; h++) {
      size_t from = half * (first + h) / blocks, to = half * (first + h + 1) / blocks, begin = 2 * from;
      size_t count = (first + h + 1 == blocks ? left->count : 2 * to) - begin;
      float *kernel = left->kernel + h * left->largest * left->largest;
      b.block[h] = (pith_pairing_block){.count = count,
                                        .pairs = pairs * to / half - pairs * from / half,
                                        .kernel = kernel,
                                        .diagonal = left->diagonal + begin,
                                        .sign = left->sign + begin,
                                        .sum = left->sum + begin,
                                        .gain = left->gain + begin,
                                        .coins = coins,
                                        .draw = draw + begin};
      PITH_TRY(fill_upper(context, p, left, begin, count, kernel));
    }
    pith_parallel_for(context, held, split_block, &b);
  }
  keep(p, left);
  return PITH_OK;
}

/* ---- All rounds ---------------------------------------------------------------------------- */

static pith_status pool_create(pith_context *context, const pairing *p, size_t count, pool *left) {
  size_t blocks = block_count(p->rule, count);
  *left = (pool){.count = count, .batch = pith_min_size(blocks, BATCH)};
  /* Later rounds may be one block although the first is many. */
  left->largest = blocks == 1 ? count : pith_min_size(count, p->rule->block + 2);
  size_t later = pith_min_size(p->rule->whole, count), squares = left->batch * left->largest * left->largest;
  if (blocks > 1) squares = pith_max_size(squares, later * later);
  size_t longest = pith_max_size(left->largest, later);
  left->point = pith_allocate(context, count, 2 * sizeof *left->point);
  left->factor = pith_allocate(context, count, 5 * sizeof *left->factor);
  left->kernel = pith_allocate(context, squares, sizeof *left->kernel);
  left->radial = pith_allocate(context, longest, (2 * PANEL + p->width) * sizeof *left->radial);
  if (!left->point || !left->factor || !left->kernel || !left->radial) return PITH_E_MEMORY;
  left->row = left->point + count;
  left->sign = left->factor + count;
  left->sum = left->sign + count;
  left->gain = left->sum + count;
  left->diagonal = left->gain + count;
  left->cross = left->radial + PANEL * longest;
  left->joint = left->cross + PANEL * longest;
  for (size_t i = 0; i < count; i++) {
    left->point[i] = i;
    left->row[i] = p->rows[i];
    left->factor[i] = 1;
  }
  return PITH_OK;
}

pith_status pith_pairing_take(pith_context *context, const pith_problem *problem, void *state, size_t count,
                              pith_points *points) {
  const pairing *p = state;
  if (count == 0 || problem->candidates == 0) return PITH_OK;
  pith_stream coins = pith_stream_make(problem->seed, PITH_STREAM_COINS, problem->object);
  pool left;
  pith_status status = pool_create(context, p, problem->candidates, &left);
  for (uint64_t draw = 0; status >= 0 && left.count > count; draw += problem->candidates) {
    size_t pairs = pith_min_size(left.count / 2, left.count - count);
    status = pith_report(context, "halving", problem->candidates - left.count, problem->candidates - count);
    if (status >= 0) status = halve(context, p, &left, pairs, coins, draw);
  }
  for (size_t i = 0; status >= 0 && i < left.count; i++)
    pith_points_append(points, problem, left.row[i],
                       pith_problem_log_weight(problem, left.row[i]) + log(left.factor[i]));
  pith_release(context, left.point);
  pith_release(context, left.factor);
  pith_release(context, left.kernel);
  pith_release(context, left.radial);
  return status;
}
