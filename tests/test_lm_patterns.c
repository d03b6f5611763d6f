/* test_lm_patterns.c - models whose layers see only some tokens, against the double reference under dense masks. */
#include "lm/lm.h"
#include "patterns.h"
#include "tiny_model.h"

enum { TOKENS = 60, BLOCK = 8, BLOCKS = 8 };

static void random_tokens(uint32_t tokens[TOKENS]) {
  pith_stream stream = pith_stream_make(9, PITH_STREAM_TEST, 3);
  for (size_t i = 0; i < TOKENS; i++) tokens[i] = (uint32_t)pith_random_below(&stream, i, TINY_VOCABULARY);
}

/* The first layer: a window and sinks. The second: blocks and one global token. */
static const size_t sinks[] = {0, 1}, global[] = {17};
static unsigned char blocks[BLOCKS][BLOCKS];

static void make_patterns(lm_pattern patterns[TINY_LAYERS], reference_pattern dense[TINY_LAYERS]) {
  for (size_t i = 0; i < BLOCKS; i++)
    for (size_t j = 0; j <= i; j++) blocks[i][j] = i - j < 2 || j % 3 == 0;
  patterns[0] = (lm_pattern){.window = 7, .globals = sinks, .global_count = 2};
  patterns[1] =
      (lm_pattern){.globals = global, .global_count = 1, .seen = &blocks[0][0], .block = BLOCK, .block_count = BLOCKS};
  dense[0] = (reference_pattern){.causal = true, .window = 7, .globals = sinks, .global_count = 2};
  dense[1] = (reference_pattern){.causal = true,
                                 .globals = global,
                                 .global_count = 1,
                                 .blocks = &blocks[0][0],
                                 .block_columns = BLOCKS,
                                 .query_block = BLOCK,
                                 .key_block = BLOCK};
}

typedef struct fixture {
  tiny_model model;
  pith_context *context;
  lm_model *loaded;
  uint32_t tokens[TOKENS];
  lm_pattern patterns[TINY_LAYERS];
  unsigned char seen[TINY_LAYERS][TOKENS * TOKENS];
  double wanted[TOKENS * TINY_VOCABULARY], full[TOKENS * TINY_VOCABULARY];
} fixture;

static void open_fixture(fixture *f) {
  f->model = (tiny_model){.architecture = "llama", .query_heads = 4, .kv_heads = 2, .head_size = 6, .tied = true};
  gguf_bytes file = tiny_model_make(&f->model);
  char path[32];
  tiny_model_save(&file, path);
  f->context = test_context(2);
  assert_ok(f->context, lm_model_load(f->context, path, &f->loaded));
  assert_int_equal(unlink(path), 0);
  free(file.bytes);
  random_tokens(f->tokens);
  reference_pattern dense[TINY_LAYERS];
  make_patterns(f->patterns, dense);
  reference_lm_run(&f->model.reference, f->tokens, TOKENS, &(reference_lm_result){.logits = f->full});
  for (int i = 0; i < TINY_LAYERS; i++) {
    reference_pattern_mask(&dense[i], TOKENS, TOKENS, f->seen[i]);
    f->model.layer[i].seen = f->seen[i];
  }
  reference_lm_run(&f->model.reference, f->tokens, TOKENS, &(reference_lm_result){.logits = f->wanted});
}

static void close_fixture(fixture *f) {
  lm_model_free(f->loaded);
  tiny_model_free(&f->model);
  test_context_free(f->context);
}

static lm_session *open_session(fixture *f, const lm_pattern *patterns) {
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = TOKENS;
  options.store = PITH_F32;
  options.patterns = patterns;
  lm_session *session = NULL;
  assert_ok(f->context, lm_session_create(f->context, f->loaded, &options, &session));
  return session;
}

static double farthest(const float *found, const double *wanted, size_t count) {
  double worst = 0;
  for (size_t i = 0; i < count; i++) worst = fmax(worst, fabs((double)found[i] - wanted[i]));
  return worst;
}

static void test_layers_see_their_patterns(void **state) {
  (void)state;
  static fixture f;
  static float out[TOKENS * TINY_VOCABULARY];
  open_fixture(&f);
  lm_session *session = open_session(&f, f.patterns);
  assert_ok(f.context, lm_session_read(f.context, session, f.tokens, TOKENS, 0, out));
  assert_true(farthest(out, f.wanted, TOKENS * TINY_VOCABULARY) < 1e-4);
  assert_true(farthest(out, f.full, TOKENS * TINY_VOCABULARY) > 1e-2); /* the pattern matters */

  /* In pieces, across blocks and windows. */
  assert_ok(f.context, lm_session_truncate(f.context, session, 0));
  for (size_t t = 0, piece = 1; t < TOKENS; t += piece, piece = pith_min_size(piece + 3, TOKENS - t))
    assert_ok(f.context, lm_session_read(f.context, session, f.tokens + t, piece, 0, out + t * TINY_VOCABULARY));
  assert_true(farthest(out, f.wanted, TOKENS * TINY_VOCABULARY) < 1e-4);
  lm_session_free(session);

  /* A pattern that lets all through is none. */
  const lm_pattern all[TINY_LAYERS] = {{.window = 0}, {.window = TOKENS}};
  session = open_session(&f, all);
  assert_ok(f.context, lm_session_read(f.context, session, f.tokens, TOKENS, 0, out));
  assert_true(farthest(out, f.full, TOKENS * TINY_VOCABULARY) < 1e-4);
  lm_session_free(session);

  for (int i = 0; i < TINY_LAYERS; i++) {
    double seen = 0;
    for (size_t j = 20 * TOKENS; j < TOKENS * TOKENS; j++) seen += f.seen[i][j];
    assert_true(fabs(lm_pattern_seen(&f.patterns[i], 20, TOKENS) - seen / (TOKENS - 20)) < 1e-9);
  }
  close_fixture(&f);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_layers_see_their_patterns)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
