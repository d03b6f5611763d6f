/* multiply.c - products with stored matrices: a few tokens row by row, many by expanding panels of rows.
 *
 * Each row of a matrix is one task's alone, so the numbers do not depend on who computes it. */
#include "kernels/kernels.h"
#include "linalg/linalg.h"
#include "lm/weights.h"

enum {
  FEW = 3,           /* tokens up to which rows are multiplied as they are stored */
  ROWS = 64,         /* rows of one task */
  PANEL = 96,        /* rows that are expanded at a time */
  LEAST_WORK = 50000 /* multiplications below which threads cost more than they bring */
};

typedef struct work_plan {
  const lm_product *products;
  size_t count, tokens, task_rows;
  float *expanded; /* one panel for each thread */
  size_t panel_size;
} work_plan;

static const lm_products *products_active(void) {
#if defined(__x86_64__)
  if (pith_kernels_active() == &pith_kernels_avx512) return &lm_products_avx512;
  if (pith_kernels_active() == &pith_kernels_avx2) return &lm_products_avx2;
#endif
  static const lm_products none = {NULL, NULL, NULL, NULL, NULL};
  return &none;
}

static lm_rows_times stored_product(pith_gguf_type type) {
  const lm_products *table = products_active();
  switch (type) {
    case PITH_GGUF_TENSOR_F32: return table->f32;
    case PITH_GGUF_TENSOR_F16: return table->f16;
    case PITH_GGUF_TENSOR_Q8_0: return table->q8_0;
    case PITH_GGUF_TENSOR_Q4_0: return table->q4_0;
    case PITH_GGUF_TENSOR_Q4_1: return table->q4_1;
    default: return NULL;
  }
}

static void multiply_few(const work_plan *plan, const lm_product *product, size_t first, size_t count,
                         float *expanded) {
  const lm_matrix *matrix = product->matrix;
  const lm_rows_times times = stored_product(matrix->type->number);
  for (size_t t = 0; times && t < plan->tokens; t++)
    times(lm_matrix_row(matrix, first), matrix->row_bytes, count, product->x + t * matrix->columns, matrix->columns,
          product->out + t * matrix->rows + first);
  for (size_t r = first; !times && r < first + count; r++) {
    matrix->type->expand(lm_matrix_row(matrix, r), expanded, matrix->columns);
    for (size_t t = 0; t < plan->tokens; t++)
      product->out[t * matrix->rows + r] =
          pith_kernels_active()->dot(expanded, product->x + t * matrix->columns, matrix->columns);
  }
}

static void multiply_many(const work_plan *plan, const lm_product *product, size_t first, size_t count,
                          float *expanded) {
  const lm_matrix *matrix = product->matrix;
  for (size_t r = 0; r < count; r++)
    matrix->type->expand(lm_matrix_row(matrix, first + r), expanded + r * matrix->columns, matrix->columns);
  pith_gemm_f32_alone(PITH_PLAIN, PITH_TRANSPOSED, plan->tokens, count, matrix->columns, 1, product->x, matrix->columns,
                      expanded, matrix->columns, 0, product->out + first, matrix->rows);
}

static size_t tasks_of(const work_plan *plan, const lm_product *product) {
  return (product->matrix->rows + plan->task_rows - 1) / plan->task_rows;
}

static void run_task(void *argument, size_t index, int thread) {
  const work_plan *plan = argument;
  const lm_product *product = plan->products;
  for (; index >= tasks_of(plan, product); product++) index -= tasks_of(plan, product);
  const size_t first = index * plan->task_rows, rows = product->matrix->rows;
  const size_t count = pith_min_size(plan->task_rows, rows - first);
  float *expanded = plan->expanded + (size_t)thread * plan->panel_size;
  if (plan->tokens <= FEW)
    multiply_few(plan, product, first, count, expanded);
  else
    multiply_many(plan, product, first, count, expanded);
  for (size_t t = 0; product->bias && t < plan->tokens; t++)
    for (size_t r = first; r < first + count; r++) product->out[t * rows + r] += product->bias[r];
}

pith_status lm_multiply(pith_context *context, const lm_product *products, size_t count, size_t tokens) {
  work_plan plan = {.products = products, .count = count, .tokens = tokens, .task_rows = tokens <= FEW ? ROWS : PANEL};
  size_t tasks = 0, columns = 0, work = 0;
  for (size_t i = 0; i < count; i++) {
    tasks += tasks_of(&plan, &products[i]);
    columns = pith_max_size(columns, products[i].matrix->columns);
    work += tokens * products[i].matrix->rows * products[i].matrix->columns;
  }
  plan.panel_size = (tokens <= FEW ? 1 : PANEL) * columns;
  plan.expanded = pith_scratch(context, 0, (size_t)pith_threads(context) * plan.panel_size * sizeof(float));
  if (!plan.expanded) return PITH_E_MEMORY;
  if (work < LEAST_WORK)
    for (size_t i = 0; i < tasks; i++) run_task(&plan, i, 0);
  else
    pith_parallel_for(context, tasks, run_task, &plan);
  return PITH_OK;
}
