/* lm_patterns.c - pith lm patterns: what a model loses when its tokens see only some of the earlier ones. */
#include <stdlib.h>
#include <string.h>

#include "lm_score.h"

/* Full attention; Longformer: a window and every 64th token for all; sinks and a window; blocks of 64: the own one, the
 * two before it, and every fourth. */
static const char *const usual[] = {"full", "window=128,every=64", "window=256,global=0-3", "block=64:3:4"};
enum { USUAL = sizeof usual / sizeof *usual };

/* ---- Patterns from words ---- */

/* Reads a number behind `name`, which is left behind. */
static bool take_number(const char **at, const char *name, size_t *out) {
  size_t length = strlen(name), count = 0, beyond = 0;
  char digits[24];
  if (strncmp(*at, name, length) != 0) return false;
  size_t width = strspn(*at + length, "0123456789");
  if (width == 0 || width >= sizeof digits) return false;
  memcpy(digits, *at + length, width);
  digits[width] = '\0';
  if (!positions_parse(digits, SIZE_MAX, out, &count, &beyond)) return false;
  *at += length + width;
  return true;
}

static int ascending(const void *a, const void *b) {
  size_t x = *(const size_t *)a, y = *(const size_t *)b;
  return (x > y) - (x < y);
}

/* Makes positions first .. last of `context` global, `step` apart. */
static void add_globals(lm_pattern *pattern, size_t first, size_t last, size_t step, size_t context) {
  size_t *all = allocate_zero(pattern->global_count + context, sizeof *all), count = pattern->global_count;
  if (count) memcpy(all, pattern->globals, count * sizeof *all);
  for (size_t i = first; i < context && i <= last; i += step) all[count++] = i;
  qsort(all, count, sizeof *all, ascending);
  free((void *)(uintptr_t)pattern->globals);
  pattern->globals = all;
  pattern->global_count = count;
}

/* Blocks see themselves and the local-1 before, and every stride-th. */
static void add_blocks(lm_pattern *pattern, size_t block, size_t local, size_t stride, size_t context) {
  const size_t count = (context + block - 1) / block;
  unsigned char *seen = allocate_zero(count * count, 1);
  for (size_t i = 0; i < count; i++)
    for (size_t j = 0; j <= i; j++) seen[i * count + j] = i - j < local || (stride > 0 && j % stride == 0);
  free((void *)(uintptr_t)pattern->seen);
  pattern->seen = seen;
  pattern->block = block;
  pattern->block_count = count;
}

/* One layer's pattern, up to ';' or the end; *at is left there. */
static bool parse_layer(const char **at, size_t context, lm_pattern *out) {
  size_t first = 0, last = 0, step = 0;
  if (!strncmp(*at, "full", 4)) {
    *at += 4;
    return !**at || **at == ';';
  }
  for (;;) {
    if (take_number(at, "window=", &first) && first > 0) {
      out->window = first;
    } else if (take_number(at, "every=", &step) && step > 0) {
      add_globals(out, 0, context, step, context);
    } else if (take_number(at, "global=", &first)) {
      last = first;
      if (**at == '-' && (!take_number(at, "-", &last) || last < first)) return false;
      add_globals(out, first, last, 1, context);
    } else if (take_number(at, "block=", &first) && take_number(at, ":", &last) && take_number(at, ":", &step) &&
               first > 0) {
      add_blocks(out, first, last, step, context);
    } else {
      return false;
    }
    if (!**at || **at == ';') return true;
    if (*(*at)++ != ',') return false;
  }
}

static void patterns_free(lm_pattern *patterns, size_t layers) {
  for (size_t i = layers; i-- > 1;) { /* neighbours may share */
    if (patterns[i].globals == patterns[i - 1].globals) patterns[i].globals = NULL;
    if (patterns[i].seen == patterns[i - 1].seen) patterns[i].seen = NULL;
  }
  for (size_t i = 0; i < layers; i++) {
    free((void *)(uintptr_t)patterns[i].globals);
    free((void *)(uintptr_t)patterns[i].seen);
  }
  free(patterns);
}

/* All layers' patterns; NULL after having said why. */
static lm_pattern *parse_patterns(cli_session *session, const char *text, size_t layers, size_t context) {
  lm_pattern *out = allocate_zero(layers, sizeof *out);
  const char *at = text;
  size_t given = 0;
  bool good = true;
  while (good && given < layers) {
    good = parse_layer(&at, context, &out[given++]);
    if (*at != ';') break;
    at++;
  }
  if (good && !*at) {
    for (size_t i = given; i < layers; i++) out[i] = out[given - 1]; /* shared */
    return out;
  }
  patterns_free(out, layers);
  usage_error(session->command,
              "--pattern '%s': give full, or window=N, global=I-J, every=N, block=N:LOCAL:STRIDE with commas between "
              "them, and semicolons between at most %zu layers",
              text, layers);
  return NULL;
}

/* ---- Measurement ---- */

typedef struct row {
  const char *name;
  double seen; /* tokens that a scored token sees, mean over layers */
  lm_figures figures;
} row;

/* Scores one piece of text under patterns against the same text without. */
static pith_status score_piece(lm_run *run, const lm_pattern *patterns, const uint32_t *tokens, size_t prefix,
                               size_t context, lm_score *score) {
  lm_session *session[2] = {NULL, NULL};
  pith_status status = PITH_OK;
  for (int i = 0; i < 2 && status >= 0; i++) {
    lm_session_options options;
    lm_session_options_init(&options);
    options.capacity = context;
    options.patterns = i ? patterns : NULL;
    status = lm_session_create(run->session->context, run->model, &options, &session[i]);
    if (status >= 0) status = lm_session_read(run->session->context, session[i], tokens, prefix, prefix, NULL);
  }
  const lm_reference full = {.session = session[0]};
  if (status >= 0) status = lm_score_rest(run, &full, session[1], tokens + prefix, context - prefix, score);
  lm_session_free(session[0]);
  lm_session_free(session[1]);
  return status;
}

static int measure(lm_run *run, const lm_tokens *tokens, size_t prefix, size_t context, row *out) {
  lm_pattern *patterns = parse_patterns(run->session, out->name, run->info.layers, context);
  if (!patterns) return EXIT_USAGE;
  lm_score score = {.kl = NULL};
  pith_status status = PITH_OK;
  for (size_t i = 0; i < run->arguments->chunks && status >= 0; i++)
    status = score_piece(run, patterns, tokens->id + i * context, prefix, context, &score);
  for (size_t i = 0; i < run->info.layers; i++)
    out->seen += lm_pattern_seen(&patterns[i], prefix, context) / (double)run->info.layers;
  out->figures = lm_score_figures(&score);
  lm_score_free(&score);
  patterns_free(patterns, run->info.layers);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

static void report(const lm_run *run, const row *rows, size_t count, size_t prefix, size_t context) {
  cli_session *session = run->session;
  const double all = (double)(prefix + context + 1) / 2;
  static const char *const headings[] = {"<pattern",   "keys read", "share",      "KL",
                                         "KL at 99 %", "same top",  "bits a byte"};
  cli_table *table = table_create(headings, 7);
  json_t *list = json_array();
  for (size_t i = 0; i < count; i++) {
    table_add(table, "%s", rows[i].name);
    table_add(table, "%.1f", rows[i].seen);
    table_add(table, "%s", text_share(rows[i].seen / all).at);
    table_add(table, "%s", text_error(rows[i].figures.kl_mean).at);
    table_add(table, "%s", text_error(rows[i].figures.kl_p99).at);
    table_add(table, "%s", text_share(rows[i].figures.top1_agreement).at);
    table_add(table, "%.4f", rows[i].figures.bits_per_byte);
    json_t *object = json_object();
    json_object_set_new(object, "pattern", json_string(rows[i].name));
    json_object_set_new(object, "keys_read", json_number(rows[i].seen));
    json_object_set_new(object, "share", json_number(rows[i].seen / all));
    json_figures(object, &rows[i].figures);
    json_array_append_new(list, object);
  }
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "prefix", json_count(prefix));
    json_object_set_new(object, "context", json_count(context));
    json_object_set_new(object, "patterns", list);
    json_print(object, session->out);
  } else {
    json_decref(list);
    if (!session->common->quiet) table_print(table, session->out);
  }
  table_free(table);
}

int lm_patterns(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->text) return usage_error(session->command, "--text FILE is missing");
  lm_run run;
  int code = lm_open(session, &run);
  if (code) return code;
  size_t context = 0, prefix = 0, all = 0, count = arguments->patterns ? arguments->patterns : USUAL;
  lm_tokens tokens = {0};
  row rows[MOST_PATTERNS] = {0};
  code = lm_lengths(&run, &context, &prefix);
  if (!code && __builtin_mul_overflow(context, arguments->chunks, &all))
    code = session_error(session, EXIT_USAGE, "--chunks %zu: too many", arguments->chunks);
  if (!code) code = lm_encode_text(&run, all, &tokens);
  for (size_t i = 0; i < count && !code; i++) {
    rows[i].name = arguments->patterns ? arguments->pattern[i] : usual[i];
    code = measure(&run, &tokens, prefix, context, &rows[i]);
  }
  if (!code) report(&run, rows, count, prefix, context);
  lm_tokens_free(session->context, &tokens);
  lm_close(&run);
  return code;
}
