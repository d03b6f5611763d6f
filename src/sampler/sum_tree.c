/* sum_tree.c - y, and sums of its squares in a tree of eight children a node (l2.h). */
#include <math.h>
#include <string.h>

#include "sampler/l2.h"

enum { FANOUT = 8, MOST_HEIGHT = 14 };

struct pith_sum_tree {
  pith_memory *memory;
  size_t rows, height;
  double *value;             /* (rows), padded with zeros to a multiple of FANOUT */
  double *sums[MOST_HEIGHT]; /* sums[h]: of 8^(h+1) rows; the last has one node, all padded likewise */
};

static size_t padded(size_t count) { return (count + FANOUT - 1) / FANOUT * FANOUT; }

size_t pith_sum_tree_words(size_t rows) {
  size_t words = padded(rows);
  for (size_t nodes = rows; nodes > 1;) {
    nodes = (nodes - 1) / FANOUT + 1;
    words += padded(nodes);
  }
  return rows == 1 ? words + FANOUT : words;
}

pith_status pith_sum_tree_create(pith_context *context, size_t rows, pith_sum_tree **out) {
  size_t words = pith_sum_tree_words(rows);
  pith_memory *memory = pith_memory_share(context);
  pith_sum_tree *tree = pith_memory_allocate(memory, 1, sizeof *tree);
  double *values = tree ? pith_memory_allocate(memory, words, sizeof *values) : NULL;
  if (!values) {
    pith_memory_release(memory, tree);
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for a tree of sums over %zu rows", rows);
  }
  memset(values, 0, words * sizeof *values);
  *tree = (pith_sum_tree){.memory = memory, .rows = rows, .value = values};
  double *next = values + padded(rows);
  size_t nodes = rows;
  do {
    nodes = (nodes - 1) / FANOUT + 1;
    tree->sums[tree->height++] = next;
    next += padded(nodes);
  } while (nodes > 1);
  *out = tree;
  return PITH_OK;
}

void pith_sum_tree_free(pith_sum_tree *tree) {
  if (!tree) return;
  pith_memory *memory = tree->memory;
  pith_memory_release(memory, tree->value);
  pith_memory_release(memory, tree);
  pith_memory_unshare(memory);
}

static double sum_of(const double a[FANOUT]) {
  return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
}

static void refresh(pith_sum_tree *tree, size_t row) {
  double square[FANOUT];
  size_t node = row / FANOUT;
  for (size_t i = 0; i < FANOUT; i++) {
    double y = tree->value[node * FANOUT + i];
    square[i] = y * y;
  }
  tree->sums[0][node] = sum_of(square);
  for (size_t h = 1; h < tree->height; h++) {
    node /= FANOUT;
    tree->sums[h][node] = sum_of(tree->sums[h - 1] + node * FANOUT);
  }
}

bool pith_sum_tree_add(pith_sum_tree *tree, size_t row, double delta) {
  double before = tree->value[row];
  tree->value[row] = before + delta;
  refresh(tree, row);
  if (isfinite(pith_sum_tree_total(tree))) return true;
  tree->value[row] = before;
  refresh(tree, row);
  return false;
}

double pith_sum_tree_value(const pith_sum_tree *tree, size_t row) { return tree->value[row]; }
double pith_sum_tree_total(const pith_sum_tree *tree) { return tree->sums[tree->height - 1][0]; }

/* The child in which the running sum passes *mass, less the children before it; the last one that is not empty
 * where rounding carries beyond the end. */
static size_t pick(const double *mass_of, double *mass) {
  size_t last = 0;
  double rest = *mass;
  for (size_t i = 0; i < FANOUT; i++) {
    if (!(mass_of[i] > 0)) continue;
    last = i;
    if (rest < mass_of[i]) break;
    rest -= mass_of[i];
  }
  *mass = rest < mass_of[last] ? rest : 0;
  return last;
}

size_t pith_sum_tree_find(const pith_sum_tree *tree, double uniform) {
  double mass = uniform * pith_sum_tree_total(tree), square[FANOUT];
  if (!(pith_sum_tree_total(tree) > 0)) return SIZE_MAX;
  size_t node = 0;
  for (size_t h = tree->height - 1; h > 0; h--) node = node * FANOUT + pick(tree->sums[h - 1] + node * FANOUT, &mass);
  for (size_t i = 0; i < FANOUT; i++) {
    double y = tree->value[node * FANOUT + i];
    square[i] = y * y;
  }
  return node * FANOUT + pick(square, &mass);
}
