/* gram.c - Gram tree: see gram.h. */
#include "sampler/gram.h"

#include <math.h>
#include <string.h>

static const double LARGEST = PITH_GRAM_LARGEST;
/* A leaf whose mass has fallen by this factor holds rounding errors of what it was: it is summed anew. */
static const double FALL = 0x1p-10;

enum { LEAST_LEAF = 16, LEAF_NUMBER = 63 /* of the 64 random numbers of a draw, that of the scan of the leaf */ };

typedef struct leaf_state {
  double peak; /* largest trace since it was summed anew */
  uint64_t updates;
} leaf_state;

struct pith_gram {
  pith_memory *memory;
  size_t rows, d, packed, leaf_rows, leaves;
  double *row;  /* (rows, d) */
  double *gram; /* node k at k * packed: root 1, children 2k and 2k+1, leaf i at leaves + i; node 0 is workspace */
  leaf_state *leaf;
};

size_t pith_gram_packed(size_t d) { return d * (d + 1) / 2; }
size_t pith_gram_rows(const pith_gram *tree) { return tree->rows; }
size_t pith_gram_columns(const pith_gram *tree) { return tree->d; }
const double *pith_gram_row(const pith_gram *tree, size_t row) { return tree->row + row * tree->d; }

size_t pith_gram_words(const pith_gram *tree) {
  size_t state = tree->leaves * sizeof(leaf_state) + sizeof *tree;
  return tree->rows * tree->d + 2 * tree->leaves * tree->packed + state / sizeof(double);
}

static double *zeros(pith_memory *memory, size_t count) {
  double *out = pith_memory_allocate(memory, count, sizeof *out);
  if (out) memset(out, 0, count * sizeof *out);
  return out;
}

pith_status pith_gram_create(pith_context *context, size_t rows, size_t d, pith_gram **out) {
  pith_gram shape = {.rows = rows, .d = d, .leaf_rows = pith_max_size(d, LEAST_LEAF)};
  size_t values = 0, twice_packed = 0, nodes = 0;
  shape.leaves = (rows - 1) / shape.leaf_rows + 1;
  bool fits = !__builtin_mul_overflow(rows, d, &values) && !__builtin_mul_overflow(d, d + 1, &twice_packed);
  shape.packed = twice_packed / 2;
  fits = fits && !__builtin_mul_overflow(2 * shape.leaves, shape.packed, &nodes);
  pith_gram *tree = NULL;
  shape.memory = fits ? pith_memory_share(context) : NULL;
  if (shape.memory) tree = pith_memory_allocate(shape.memory, 1, sizeof *tree);
  if (!tree) {
    pith_memory_unshare(shape.memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for a Gram tree over %zu rows of %zu columns", rows, d);
  }
  *tree = shape;
  tree->row = zeros(tree->memory, values);
  tree->gram = zeros(tree->memory, nodes);
  tree->leaf = pith_memory_allocate(tree->memory, tree->leaves, sizeof *tree->leaf);
  if (!tree->row || !tree->gram || !tree->leaf) {
    pith_gram_free(tree);
    return pith_fail(context, PITH_E_MEMORY, "no memory for a Gram tree over %zu rows of %zu columns", rows, d);
  }
  memset(tree->leaf, 0, tree->leaves * sizeof *tree->leaf);
  *out = tree;
  return PITH_OK;
}

void pith_gram_free(pith_gram *tree) {
  if (!tree) return;
  pith_memory *memory = tree->memory;
  pith_memory_release(memory, tree->leaf);
  pith_memory_release(memory, tree->gram);
  pith_memory_release(memory, tree->row);
  pith_memory_release(memory, tree);
  pith_memory_unshare(memory);
}

/* ---- Updates ---- */

static double *node_gram(const pith_gram *tree, size_t node) { return tree->gram + node * tree->packed; }

static double trace(const pith_gram *tree, size_t node) {
  const double *gram = node_gram(tree, node);
  double sum = 0;
  for (size_t i = 0, at = 0; i < tree->d; at += ++i + 1) sum += gram[at];
  return sum;
}

static void add_outer(double *gram, const double *a, size_t d, double factor) {
  for (size_t i = 0; i < d; i++, gram += i) {
    double left = factor * a[i];
    for (size_t j = 0; j <= i; j++) gram[j] += left * a[j];
  }
}

static void sum_leaf(pith_gram *tree, size_t leaf) {
  double *gram = node_gram(tree, tree->leaves + leaf);
  size_t begin = leaf * tree->leaf_rows, end = pith_min_size(begin + tree->leaf_rows, tree->rows);
  memset(gram, 0, tree->packed * sizeof *gram);
  for (size_t row = begin; row < end; row++) add_outer(gram, pith_gram_row(tree, row), tree->d, 1);
  tree->leaf[leaf] = (leaf_state){.peak = trace(tree, tree->leaves + leaf)};
}

static void sum_children(pith_gram *tree, size_t node) {
  double *gram = node_gram(tree, node);
  const double *left = node_gram(tree, 2 * node), *right = node_gram(tree, 2 * node + 1);
  for (size_t i = 0; i < tree->packed; i++) gram[i] = left[i] + right[i];
}

/* After `weight` updates of a leaf: sums it anew when that is due. */
static void mend(pith_gram *tree, size_t leaf, size_t weight) {
  leaf_state *state = &tree->leaf[leaf];
  double mass = trace(tree, tree->leaves + leaf);
  state->peak = fmax(state->peak, mass);
  state->updates += weight;
  if (state->updates < tree->d * tree->leaf_rows && mass >= FALL * state->peak) return;
  sum_leaf(tree, leaf);
  for (size_t node = (tree->leaves + leaf) / 2; node > 0; node /= 2) sum_children(tree, node);
}

bool pith_gram_add(pith_gram *tree, size_t row, size_t column, double delta) {
  size_t d = tree->d, leaf = row / tree->leaf_rows;
  double *a = tree->row + row * d, old = a[column];
  if (!(fabs(old + delta) <= LARGEST)) return false;
  double change = (old + delta) - old; /* what the entry really changes by */
  double *step = node_gram(tree, 0);   /* of row `column` of every Gram above */
  for (size_t k = 0; k < d; k++) step[k] = change * a[k];
  step[column] = change * (2 * old + change);
  for (size_t node = tree->leaves + leaf; node > 0; node /= 2) {
    double *gram = node_gram(tree, node) + pith_gram_packed(column);
    for (size_t k = 0; k <= column; k++) gram[k] += step[k];
    for (size_t k = column + 1, at = 2 * column + 1; k < d; at += ++k) gram[at] += step[k];
  }
  a[column] = old + delta;
  mend(tree, leaf, 1);
  return true;
}

static bool all_small(const double *values, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (!(fabs(values[i]) <= LARGEST)) return false;
  return true;
}

bool pith_gram_set_row(pith_gram *tree, size_t row, const double *values) {
  size_t d = tree->d, leaf = row / tree->leaf_rows;
  if (!all_small(values, d)) return false;
  double *a = tree->row + row * d, *step = node_gram(tree, 0);
  memset(step, 0, tree->packed * sizeof *step);
  add_outer(step, values, d, 1);
  add_outer(step, a, d, -1);
  for (size_t node = tree->leaves + leaf; node > 0; node /= 2) {
    double *gram = node_gram(tree, node);
    for (size_t i = 0; i < tree->packed; i++) gram[i] += step[i];
  }
  memcpy(a, values, d * sizeof *a);
  mend(tree, leaf, d);
  return true;
}

bool pith_gram_set(pith_gram *tree, const double *values) {
  if (!all_small(values, tree->rows * tree->d)) return false;
  memcpy(tree->row, values, tree->rows * tree->d * sizeof *values);
  pith_gram_sum(tree);
  return true;
}

double *pith_gram_values(pith_gram *tree) { return tree->row; }

void pith_gram_sum(pith_gram *tree) {
  for (size_t leaf = 0; leaf < tree->leaves; leaf++) sum_leaf(tree, leaf);
  for (size_t node = tree->leaves; node-- > 1;) sum_children(tree, node);
}

void pith_gram_total(const pith_gram *tree, double *out) {
  const double *gram = node_gram(tree, 1);
  for (size_t i = 0; i < tree->d; i++)
    for (size_t j = 0; j <= i; j++) out[i * tree->d + j] = out[j * tree->d + i] = *gram++;
}

/* ---- Questions ---- */

/* Packed with entries off the diagonal doubled: tr(G M) is then one product. */
pith_gram_form pith_gram_form_vector(const double *x, size_t d, double *packed) {
  double *at = packed;
  for (size_t i = 0; i < d; i++)
    for (size_t j = 0; j <= i; j++) *at++ = (i == j ? 1 : 2) * x[i] * x[j];
  return (pith_gram_form){.matrix = packed, .x = x};
}

pith_gram_form pith_gram_form_matrix(const double *m, size_t d, double *packed) {
  double *at = packed;
  for (size_t i = 0; i < d; i++)
    for (size_t j = 0; j <= i; j++) *at++ = i == j ? m[i * d + j] : m[i * d + j] + m[j * d + i];
  return (pith_gram_form){.matrix = packed};
}

/* Eight sums in a fixed order: the same bytes however it is compiled. */
static double product(const double *a, const double *b, size_t count) {
  double sum[8] = {0};
  size_t whole = count / 8 * 8;
  for (size_t i = 0; i < whole; i += 8)
    for (size_t k = 0; k < 8; k++) sum[k] += a[i + k] * b[i + k];
  for (size_t i = whole; i < count; i++) sum[i - whole] += a[i] * b[i];
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static double node_mass(const pith_gram *tree, size_t node, const pith_gram_form *form) {
  return fmax(product(node_gram(tree, node), form->matrix, tree->packed), 0);
}

double pith_gram_mass(const pith_gram *tree, const pith_gram_form *form) { return node_mass(tree, 1, form); }

static double row_mass(const pith_gram *tree, size_t row, const pith_gram_form *form) {
  const double *a = pith_gram_row(tree, row);
  if (form->x) {
    double y = product(a, form->x, tree->d);
    return y * y;
  }
  double sum = 0;
  const double *matrix = form->matrix;
  for (size_t i = 0; i < tree->d; i++, matrix += i) sum += a[i] * product(matrix, a, i + 1);
  return fmax(sum, 0);
}

/* A row of begin .. end-1 by its own mass; SIZE_MAX where there is none. */
static size_t scan(const pith_gram *tree, const pith_gram_form *form, size_t begin, size_t end, double uniform) {
  double total = 0, sum = 0;
  for (size_t row = begin; row < end; row++) total += row_mass(tree, row, form);
  for (size_t row = begin; row < end; row++) {
    sum += row_mass(tree, row, form);
    if (uniform * total < sum) return row;
  }
  return SIZE_MAX;
}

size_t pith_gram_draw(const pith_gram *tree, const pith_gram_form *form, const pith_stream *stream, uint64_t index) {
  size_t node = 1;
  for (uint64_t level = 0; node < tree->leaves; level++) {
    double left = node_mass(tree, 2 * node, form), right = node_mass(tree, 2 * node + 1, form);
    node = 2 * node + (pith_random_uniform(stream, index * 64 + level) * (left + right) >= left);
  }
  double uniform = pith_random_uniform(stream, index * 64 + LEAF_NUMBER);
  size_t begin = (node - tree->leaves) * tree->leaf_rows;
  size_t row = scan(tree, form, begin, pith_min_size(begin + tree->leaf_rows, tree->rows), uniform);
  /* Mass that was rounding alone led to rows that have none: seldom, and then all rows are looked at. */
  return row != SIZE_MAX ? row : scan(tree, form, 0, tree->rows, uniform);
}
