/* sample_lower_bound.c - pith sample lower-bound: what no small memory can do, run.
 *
 * Three games between Alice, who makes a stream, and Bob, who goes on from Alice's memory alone. Whoever samples well
 * wins them, and winning takes as many bits as theory says; so samplers of little memory must lose. Two kinds of memory
 * play: some of the entries (or one word for the bit of a row), kept exactly, and a linear sketch (CountSketch, five
 * rows; its cells are whole rows in the game of rows). Losing half of the time is
 * what no memory at all does. (Theorems: Song, Xie, Zhou, arXiv 2510.03678.) */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "sample.h"

enum { DEPTH = 5, GAMES = 3, MEMORIES = 10 };
static const double STRENGTH = 4; /* C: weights are up to n^C and n^2C */
static const double shares[MEMORIES] = {1.0 / 64, 1.0 / 16, 1.0 / 4, 1.0 / 2, 3.0 / 4, 1, 4, 16, 64, 256};

static const struct {
  const char *name, *what, *unit;
} games[GAMES] = {
    {"disjointness",
     "softmax draws from a stream of updates need memory as n: two sets of n/4 meet in one element or none", "entries"},
    {"index", "rows come once, the query afterwards: softmax draws need all n rows (registered queries do not)",
     "rows"},
    {"columns", "A and x both change: even an l2 sampler needs all d columns", "columns"}};

/* One game: y is what Bob's question makes of the stream, `answer` what is right. */
typedef struct bound_game {
  size_t n;
  double *y;
  size_t special; /* the coordinate that the answer hangs on */
  bool answer;
} bound_game;

typedef struct bound_player {
  size_t n;
  double *seen;  /* (n): what its memory says of y */
  double *cells; /* of a sketch */
  size_t *order; /* a permutation: the first of it are kept */
} bound_player;

/* ---- Memories ---- */

static void remember_some(bound_player *player, const bound_game *game, size_t words, const pith_stream *stream) {
  pith_random_permutation(stream, player->order, game->n);
  memset(player->seen, 0, game->n * sizeof *player->seen);
  for (size_t i = 0; i < game->n && i < words; i++) player->seen[player->order[i]] = game->y[player->order[i]];
}

static double median(double values[DEPTH]) {
  for (size_t i = 1; i < DEPTH; i++)
    for (size_t j = i; j > 0 && values[j - 1] > values[j]; j--) {
      double swap = values[j];
      values[j] = values[j - 1];
      values[j - 1] = swap;
    }
  return values[DEPTH / 2];
}

static void remember_sketch(bound_player *player, const bound_game *game, size_t words, const pith_stream *stream) {
  size_t buckets = words / DEPTH ? words / DEPTH : 1;
  memset(player->cells, 0, DEPTH * buckets * sizeof *player->cells);
  for (size_t pass = 0; pass < 2; pass++)
    for (size_t i = 0; i < game->n; i++) {
      double estimates[DEPTH];
      if (pass == 0 && game->y[i] == 0) continue;
      for (size_t r = 0; r < DEPTH; r++) {
        uint64_t bits = pith_random_u64(stream, i * DEPTH + r);
        double *cell = &player->cells[r * buckets + (bits >> 1) % buckets], sign = bits & 1 ? 1 : -1;
        if (pass == 0)
          *cell += sign * game->y[i];
        else
          estimates[r] = sign * *cell;
      }
      if (pass == 1) player->seen[i] = median(estimates);
    }
}

/* ---- Games ---- */

static void two_sets(bound_game *game, const pith_stream *stream) {
  size_t n = game->n, quarter = n / 4, *order = allocate_zero(n, sizeof *order);
  double logit = STRENGTH * log((double)n);
  pith_random_permutation(stream, order, n);
  game->answer = pith_random_u64(stream, n + 1) >> 63;
  memset(game->y, 0, n * sizeof *game->y);
  for (size_t i = 0; i < 2 * quarter; i++) game->y[order[i]] = logit; /* S, then T */
  game->special = order[0];
  if (game->answer) { /* the last of T is moved onto the first of S */
    game->y[order[2 * quarter - 1]] = 0;
    game->y[order[0]] = 2 * logit;
  }
  free(order);
}

static size_t code_length(size_t n) { return (size_t)(12 * log2((double)n)); }

/* Row i is b_i times a code of random signs; the query is the code of one row, scaled: y_i = b_i C ln n <u_i, u> / d.
 */
static void codes(bound_game *game, const pith_stream *stream) {
  size_t n = game->n, d = code_length(n);
  double logit = STRENGTH * log((double)n);
  game->special = pith_random_below(stream, 0, n);
  for (size_t i = 0; i < n; i++) {
    bool bit = pith_random_u64(stream, 1 + i) >> 63;
    double product = 0;
    for (size_t j = 0; j < d && bit; j += 64) {
      uint64_t differs =
          pith_random_u64(stream, 1 + n + i * d + j) ^ pith_random_u64(stream, 1 + n + game->special * d + j);
      size_t width = d - j < 64 ? d - j : 64;
      if (width < 64) differs &= ((uint64_t)1 << width) - 1;
      product += (double)width - 2 * (double)__builtin_popcountll(differs);
    }
    game->y[i] = bit ? logit * product / (double)d : 0;
    if (i == game->special) game->answer = bit;
  }
}

/* Row 1 of A is M times bits, row 2 is ones; x = e_j. `y` holds row 1 over its columns. */
static void columns(bound_game *game, const pith_stream *stream) {
  for (size_t j = 0; j < game->n; j++) game->y[j] = pith_random_u64(stream, j) >> 63 ? 1e3 : 0;
  game->special = pith_random_below(stream, game->n, game->n);
  game->answer = game->y[game->special] != 0;
}

/* A draw by softmax of what is remembered. */
static size_t draw_softmax(const bound_player *player, double uniform) {
  double largest = -INFINITY, total = 0, sum = 0;
  for (size_t i = 0; i < player->n; i++) largest = fmax(largest, player->seen[i]);
  for (size_t i = 0; i < player->n; i++) total += exp(player->seen[i] - largest);
  for (size_t i = 0; i < player->n; i++) {
    sum += exp(player->seen[i] - largest);
    if (uniform * total < sum) return i;
  }
  return player->n - 1;
}

/* Bob's answer, from one draw. */
static bool answer(size_t kind, const bound_game *game, const bound_player *player, double uniform) {
  if (kind == 2) { /* of the two rows, (seen, 1): the first says yes */
    double y = player->seen[game->special];
    return uniform * (y * y + 1) < y * y;
  }
  size_t drawn = draw_softmax(player, uniform);
  /* disjointness: one question about the drawn element tells whether it is in both sets */
  return kind == 0 ? game->answer && drawn == game->special : drawn == game->special;
}

static size_t words_of(size_t n, double share) { return (size_t)ceil((double)n * share); }

/* Shares of games lost, [0] with some entries and [1] with a sketch. */
static void play(const sample_arguments *arguments, size_t kind, double share, bound_game *game, bound_player *player,
                 double lost[2]) {
  lost[0] = lost[1] = 0;
  for (size_t trial = 0; trial < arguments->trials; trial++) {
    uint32_t object = (uint32_t)(kind * arguments->trials + trial) * 4;
    pith_stream streams[4];
    for (uint32_t i = 0; i < 4; i++)
      streams[i] = pith_stream_make(arguments->common.seed, PITH_STREAM_PROPOSALS, object + i);
    if (kind == 0)
      two_sets(game, &streams[0]);
    else if (kind == 1)
      codes(game, &streams[0]);
    else
      columns(game, &streams[0]);
    size_t words = words_of(game->n, share), cell = kind == 1 ? code_length(game->n) : 1; /* words of a cell */
    for (size_t memory = 0; memory < 2; memory++) {
      if (memory == 0)
        remember_some(player, game, words, &streams[1]);
      else
        remember_sketch(player, game, words / cell, &streams[2]);
      bool said = answer(kind, game, player, pith_random_uniform(&streams[3], 0));
      lost[memory] += (double)(said != game->answer) / (double)arguments->trials;
    }
  }
}

/* ---- Report ---- */

static void print_table(cli_session *session, size_t kind, double lost[MEMORIES][2], size_t n) {
  static const char *const headings[] = {"memory / n", "words", "lost, some kept", "(1 - memory / n) / 2",
                                         "lost, linear sketch"};
  fprintf(session->out, "%s%s, n = %zu\n%s\n\n", kind ? "\n" : "", games[kind].name, n, games[kind].what);
  cli_table *table = table_create(headings, sizeof headings / sizeof *headings);
  for (size_t i = 0; i < MEMORIES; i++) {
    table_add(table, "%g", shares[i]);
    table_add(table, "%zu", words_of(n, shares[i]));
    table_add(table, "%.3f", lost[i][0]);
    table_add(table, "%.3f", shares[i] < 1 ? (1 - shares[i]) / 2 : 0);
    table_add(table, "%.3f", lost[i][1]);
  }
  table_print(table, session->out);
  table_free(table);
}

static json_t *json_game(size_t kind, double lost[MEMORIES][2], size_t n) {
  json_t *lines = json_array();
  for (size_t i = 0; i < MEMORIES; i++) {
    json_t *line = json_object();
    json_object_set_new(line, "memory", json_count(words_of(n, shares[i])));
    json_object_set_new(line, "error_kept", json_number(lost[i][0]));
    json_object_set_new(line, "error_sketch", json_number(lost[i][1]));
    json_array_append_new(lines, line);
  }
  return json_pack("{ssssso}", "name", games[kind].name, "unit", games[kind].unit, "lines", lines);
}

int sample_lower_bound(cli_session *session) {
  const sample_arguments *arguments = session->arguments;
  size_t n = arguments->rows ? arguments->rows : 1024;
  if (n < 16 || n > 1 << 16)
    return usage_error(session->command, "--rows is %zu; instances may have 16 to 65536 rows", n);
  bound_game game = {.n = n, .y = allocate_zero(n, sizeof *game.y)};
  bound_player player = {.n = n,
                         .seen = allocate_zero(n, sizeof *player.seen),
                         .cells = allocate_zero(words_of(n, shares[MEMORIES - 1]) + DEPTH, sizeof *player.cells),
                         .order = allocate_zero(n, sizeof *player.order)};
  json_t *list = json_array();
  int code = EXIT_DONE;
  for (size_t kind = 0; kind < GAMES && !code; kind++) {
    double lost[MEMORIES][2];
    for (size_t i = 0; i < MEMORIES && !code; i++) {
      play(arguments, kind, shares[i], &game, &player, lost[i]);
      if (progress_report(&session->progress, games[kind].name, i + 1, MEMORIES))
        code = session_fail(session, PITH_E_CANCELLED);
    }
    if (code) break;
    progress_clear(&session->progress);
    if (session->common->json)
      json_array_append_new(list, json_game(kind, lost, n));
    else
      print_table(session, kind, lost, n);
  }
  if (!code && session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "rows", json_count(n));
    json_object_set_new(object, "trials", json_count(arguments->trials));
    json_object_set_new(object, "games", json_incref(list));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
  }
  json_decref(list);
  free(player.order);
  free(player.cells);
  free(player.seen);
  free(game.y);
  return code;
}
