/* interactions.c - heavy pairs of a factor model while its factors keep changing.
 *
 *   cc interactions.c $(pkg-config --cflags --libs pith) -lm -o interactions
 *   ./interactions TEXT > pairs.txt          (TEXT: a novel, as plain text)
 *   gnuplot interactions.gp                  (reads pairs.txt, draws interactions.svg)
 *
 * The stream is real: every word of a text "interacts" with the word after it, as a user does with an item. The model
 * is a matrix factorisation that learns online: A1 (words before) X A2^T (words after) is fitted to what a window of
 * the last WINDOW interactions holds. Each interaction that enters the window, and each that leaves it (a delete),
 * edits one row of A1 and one of A2; after the first half the most frequent word withdraws: its rows are deleted. All
 * edits go to a tensor sampler, which draws pairs by Y^2, the square of what the model predicts, at any time. It never
 * looks at all 10^6 pairs; this program does, to show that draws follow the law. */
#include <ctype.h>
#include <math.h>
#include <pith.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  WORDS = 1000,
  DIM = 8,
  WINDOW = 30000,
  DRAWS = 4000,
  LOOKS = 4,
  OTHERS = 4,
  MOST_TEXT = 200000,
  LONGEST = 24,
  MOST_NAMES = 20000
};

static char names[MOST_NAMES][LONGEST];
static size_t name_counts[MOST_NAMES], name_total, text[MOST_TEXT], text_total;
static size_t order[MOST_NAMES], rank_of[MOST_NAMES]; /* by frequency */
static double a1[WORDS][DIM], a2[WORDS][DIM];         /* the model's own copy of its factors */
static unsigned short window_count[WORDS][WORDS];

static void check(pith_status status, pith_context *context) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s\n", pith_status_name(status), pith_context_message(context));
  exit(1);
}

/* ---- The text as numbers: the rank of each word by frequency ---- */

static size_t name_number(const char *word) { /* a plain look-up: the text is read once */
  static size_t table[1 << 16];
  size_t hash = 5381;
  for (const char *c = word; *c; c++) hash = hash * 33 + (unsigned char)*c;
  for (size_t at = hash & 65535;; at = (at + 1) & 65535) {
    if (!table[at]) {
      if (name_total == MOST_NAMES) return MOST_NAMES - 1;
      strcpy(names[name_total++], word);
      table[at] = name_total;
    }
    if (!strcmp(names[table[at] - 1], word)) return table[at] - 1;
  }
}

static int by_count(const void *left, const void *right) {
  size_t a = *(const size_t *)left, b = *(const size_t *)right;
  return name_counts[a] != name_counts[b] ? (name_counts[a] < name_counts[b] ? 1 : -1) : (a > b) - (a < b);
}

static int read_text(const char *path) {
  FILE *in = fopen(path, "r");
  if (!in) return 0;
  char word[LONGEST];
  size_t length = 0;
  for (int c = getc(in); text_total < MOST_TEXT; c = getc(in)) {
    if (c != EOF && isalpha(c)) {
      if (length + 1 < LONGEST) word[length++] = (char)tolower(c);
      continue;
    }
    if (length > 0) {
      word[length] = '\0';
      text[text_total] = name_number(word);
      name_counts[text[text_total++]]++;
    }
    length = 0;
    if (c == EOF) break;
  }
  fclose(in);
  for (size_t i = 0; i < name_total; i++) order[i] = i;
  qsort(order, name_total, sizeof *order, by_count);
  for (size_t i = 0; i < name_total; i++) rank_of[order[i]] = i;
  return text_total > 4 * (size_t)WINDOW;
}

/* ---- The model ---- */

static double predict(size_t before, size_t after) {
  double sum = 0;
  for (size_t j = 0; j < DIM; j++) sum += a1[before][j] * a2[after][j];
  return sum;
}

static size_t edit(pith_update *out, pith_tensor_part part, size_t row, double factors[DIM], const double step[DIM]) {
  for (size_t j = 0; j < DIM; j++) {
    factors[j] += step[j];
    out[j] = (pith_update){.kind = (uint32_t)part, .row = row, .column = (uint32_t)j, .delta = step[j]};
  }
  return DIM;
}

/* One step of gradient descent towards log(1 + count) for one pair, and the edits that it makes. */
static size_t learn(pith_update *out, size_t before, size_t after, double target) {
  double error = target - predict(before, after), step1[DIM], step2[DIM];
  for (size_t j = 0; j < DIM; j++) {
    step1[j] = 0.06 * (error * a2[after][j] - 0.02 * a1[before][j]);
    step2[j] = 0.06 * (error * a1[before][j] - 0.02 * a2[after][j]);
  }
  size_t count = edit(out, PITH_TENSOR_A1, before, a1[before], step1);
  return count + edit(out + count, PITH_TENSOR_A2, after, a2[after], step2);
}

/* The same for pairs that may not have met: the model must not learn that everybody likes everything. */
static size_t learn_others(pith_update *out, size_t before, bool withdrawn) {
  static unsigned random = 1;
  size_t count = 0;
  for (size_t i = 0; i < OTHERS; i++) {
    random = random * 1664525u + 1013904223u;
    size_t after = (size_t)(((unsigned long long)random * WORDS) >> 32);
    if (withdrawn && after == 0) continue;
    count += learn(out + count, before, after, log1p(window_count[before][after]));
  }
  return count;
}

static size_t forget(pith_update *out, size_t word) {
  double gone[2][DIM];
  for (size_t j = 0; j < DIM; j++) {
    gone[0][j] = -a1[word][j];
    gone[1][j] = -a2[word][j];
  }
  size_t count = edit(out, PITH_TENSOR_A1, word, a1[word], gone[0]);
  return count + edit(out + count, PITH_TENSOR_A2, word, a2[word], gone[1]);
}

/* ---- What is drawn, against all pairs ---- */

static double weights[WORDS * WORDS];
static int by_weight(const void *left, const void *right) {
  double a = weights[*(const unsigned *)left], b = weights[*(const unsigned *)right];
  return (a < b) - (a > b);
}

static void look(pith_context *context, pith_tensor *sampler, size_t number, size_t updates) {
  static unsigned sorted[WORDS * WORDS], counts[WORDS * WORDS];
  static pith_pair pairs[DRAWS];
  size_t drawn = 0;
  double norm = 0, total = 0;
  check(pith_tensor_draw(context, sampler, DRAWS, pairs, &drawn), context);
  check(pith_tensor_norm(context, sampler, &norm), context);
  memset(counts, 0, sizeof counts);
  for (size_t i = 0; i < drawn; i++) counts[pairs[i].row1 * WORDS + pairs[i].row2]++;
  for (unsigned i = 0; i < WORDS * WORDS; i++) {
    double y = predict(i / WORDS, i % WORDS);
    weights[i] = y * y;
    total += y * y;
    sorted[i] = i;
  }
  qsort(sorted, (size_t)WORDS * WORDS, sizeof *sorted, by_weight);
  fprintf(stderr,
          "look %zu, after %zu updates: norm %.9g, over all pairs %.9g; heaviest pairs, with their share and how "
          "often they were drawn in %zu:\n",
          number, updates, norm, sqrt(total), drawn);
  for (size_t i = 0; i < 6; i++)
    fprintf(stderr, "  %-10s %-10s %.4f  %u\n", names[order[sorted[i] / WORDS]], names[order[sorted[i] % WORDS]],
            weights[sorted[i]] / total, counts[sorted[i]]);
  /* Shares of the heaviest 1, 2, 4, ... pairs: by the law, and drawn. */
  double law = 0, seen = 0;
  size_t at = 0;
  for (size_t end = 1; end <= (size_t)WORDS * WORDS; end *= 2) {
    for (; at < end; at++) {
      law += weights[sorted[at]] / total;
      seen += counts[sorted[at]] / (double)drawn;
    }
    printf("%zu %.6f %.6f\n", end, law, seen);
  }
  printf("\n\n");
}

int main(int argc, char **argv) {
  if (argc != 2 || !read_text(argv[1])) {
    fprintf(stderr, "usage: interactions TEXT (of at least %d words)\n", 4 * WINDOW);
    return 1;
  }
  pith_context *context = NULL;
  if (pith_context_create(NULL, &context) < 0) return 1;
  pith_tensor_options options;
  pith_tensor_options_init(&options);
  options.rows1 = options.rows2 = WORDS;
  options.dim = DIM;
  pith_tensor *sampler = NULL;
  check(pith_tensor_create(context, &options, &sampler), context);

  pith_update updates[(OTHERS + 3) * 2 * DIM];
  size_t done = 0, taught = 0;
  for (size_t j = 0; j < DIM; j++) { /* X is the identity */
    updates[0] = (pith_update){.kind = PITH_TENSOR_X, .row = j, .column = (uint32_t)j, .delta = 1};
    check(pith_tensor_update(context, sampler, updates, 1, &done), context);
  }
  for (size_t i = 0; i < WORDS; i++) /* small factors to begin with */
    for (size_t j = 0; j < DIM; j++) {
      double start[2] = {0.1 * sin(1.0 + 7.1 * (double)i + 3.3 * (double)j),
                         0.1 * cos(2.0 + 5.3 * (double)i + 9.7 * (double)j)};
      a1[i][j] = start[0];
      a2[i][j] = start[1];
      updates[0] = (pith_update){PITH_TENSOR_A1, (uint32_t)j, i, start[0]};
      updates[1] = (pith_update){PITH_TENSOR_A2, (uint32_t)j, i, start[1]};
      check(pith_tensor_update(context, sampler, updates, 2, &done), context);
    }
  for (size_t t = 1; t < text_total; t++) {
    size_t count = 0, before = rank_of[text[t - 1]], after = rank_of[text[t]];
    bool withdrawn = t > text_total / 2;
    if (before < WORDS && after < WORDS && !(withdrawn && (before == 0 || after == 0))) {
      count += learn(updates, before, after, log1p(++window_count[before][after]));
      count += learn_others(updates + count, before, withdrawn);
    }
    if (t > WINDOW) { /* an old interaction leaves */
      before = rank_of[text[t - WINDOW - 1]];
      after = rank_of[text[t - WINDOW]];
      if (before < WORDS && after < WORDS && window_count[before][after] > 0 &&
          !(withdrawn && (before == 0 || after == 0)))
        count += learn(updates + count, before, after, log1p(--window_count[before][after]));
    }
    if (t == text_total / 2 + 1) count += forget(updates + count, 0);
    check(pith_tensor_update(context, sampler, updates, count, &done), context);
    taught += count;
    for (size_t i = 1; i <= LOOKS; i++)
      if (t == i * (text_total - 1) / LOOKS) look(context, sampler, i, taught);
  }
  pith_tensor_info info = pith_tensor_describe(sampler);
  fprintf(stderr, "%zu words for %d x %d pairs, %zu updates\n", info.words, WORDS, WORDS, taught);
  pith_tensor_free(sampler);
  pith_context_free(context);
  return 0;
}
