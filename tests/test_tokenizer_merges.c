/* test_tokenizer_merges.c - merging by rank and by score, against slow twins over random vocabularies. */
#include "vocabulary.h"

/* ---- Merging against its definition: of all neighbours join the best pair, leftmost first, until none is left ---- */

enum { TWIN_MOST = 64, TWIN_TEXT = 40, TWIN_TOKEN = 16 };

typedef struct twin {
  char left[TWIN_MOST][TWIN_TOKEN], right[TWIN_MOST][TWIN_TOKEN], text[TWIN_MOST][TWIN_TOKEN];
  size_t count, rank[TWIN_MOST]; /* the less the better */
  bool by_text;                  /* SentencePiece: any two pieces that make the text; else left and right only */
} twin;

/* Rank of what a and b make together; SIZE_MAX: nothing. */
static size_t twin_rank(const twin *t, const char *a, const char *b) {
  char joined[2 * TWIN_TEXT + 1];
  (void)snprintf(joined, sizeof joined, "%.*s%.*s", TWIN_TEXT, a, TWIN_TEXT, b);
  for (size_t i = 0; i < t->count; i++)
    if (t->by_text ? !strcmp(joined, t->text[i]) : !strcmp(a, t->left[i]) && !strcmp(b, t->right[i])) return t->rank[i];
  return SIZE_MAX;
}

/* Writes the pieces as texts. */
static size_t twin_encode(const twin *t, const char *text, char pieces[][TWIN_TEXT + 1]) {
  size_t count = 0;
  for (; text[count]; count++) {
    pieces[count][0] = text[count];
    pieces[count][1] = '\0';
  }
  for (;;) {
    size_t best = SIZE_MAX, at = 0;
    for (size_t i = 0; i + 1 < count; i++) {
      size_t rank = twin_rank(t, pieces[i], pieces[i + 1]);
      if (rank < best) {
        best = rank;
        at = i;
      }
    }
    if (best == SIZE_MAX) return count;
    memcpy(pieces[at] + strlen(pieces[at]), pieces[at + 1], strlen(pieces[at + 1]) + 1);
    memmove(pieces[at + 1], pieces[at + 2], (count - at - 2) * sizeof *pieces);
    count--;
  }
}

/* Tokens over the letters a, b, c, each made of two before it; no text twice. */
static twin make_twin(uint64_t seed) {
  twin made = {.by_text = true};
  static const char letters[] = "abc";
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 1);
  for (uint64_t draw = 0; made.count < 30 && draw < 2000; draw += 2) {
    char part[2][TWIN_TOKEN] = {"", ""};
    for (size_t side = 0; side < 2; side++) {
      size_t pick = pith_random_below(&stream, draw + side, made.count + 3);
      if (pick < 3)
        part[side][0] = letters[pick];
      else
        memcpy(part[side], made.text[pick - 3], TWIN_TOKEN);
    }
    size_t left = strlen(part[0]), right = strlen(part[1]);
    if (left + right > 8 || twin_rank(&made, part[0], part[1]) != SIZE_MAX) continue;
    memcpy(made.left[made.count], part[0], left);
    memcpy(made.right[made.count], part[1], right);
    memcpy(made.text[made.count], part[0], left);
    memcpy(made.text[made.count] + left, part[1], right);
    made.rank[made.count] = made.count;
    made.count++;
  }
  return made;
}

static void random_text(uint64_t seed, char *text) {
  pith_stream stream = pith_stream_make(seed, PITH_STREAM_TEST, 2);
  size_t size = 1 + pith_random_below(&stream, 0, TWIN_TEXT - 1);
  for (size_t i = 0; i < size; i++) text[i] = "abc"[pith_random_below(&stream, i + 1, 3)];
  text[size] = '\0';
}

/* The pieces that tokens stand for are those of the twin. Yields how many tokens there are. */
static size_t assert_twin(pith_context *context, const lm_tokenizer *tokenizer, const twin *t, const char *text) {
  static char pieces[TWIN_TEXT + 1][TWIN_TEXT + 1];
  size_t count = twin_encode(t, text, pieces);
  lm_tokens tokens = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, text, strlen(text), 0, &tokens));
  assert_int_equal(tokens.count, count);
  for (size_t i = 0; i < count; i++) {
    lm_tokens one = {.id = &tokens.id[i], .count = 1};
    char piece[TWIN_TEXT + 1];
    size_t size = decode(context, tokenizer, &one, 0, piece);
    assert_int_equal(size, strlen(pieces[i]));
    assert_memory_equal(piece, pieces[i], size);
  }
  lm_tokens_free(context, &tokens);
  return count;
}

typedef struct counts {
  size_t letters, tokens;
} counts;

/* A tokenizer against its twin over many random texts, which are counted. */
static void compare(pith_context *context, gguf_writer *file, const twin *t, uint64_t seed, counts *sum) {
  lm_tokenizer *tokenizer = vocabulary_loaded(context, file);
  for (uint64_t number = 0; number < 50; number++) {
    char text[TWIN_TEXT + 1];
    random_text(100 * seed + number, text);
    sum->letters += strlen(text);
    sum->tokens += assert_twin(context, tokenizer, t, text);
  }
  lm_tokenizer_free(tokenizer);
}

static void test_merges(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  counts sum = {0, 0};
  for (uint64_t seed = 1; seed <= 20; seed++) {
    twin t = make_twin(seed);
    t.by_text = false;
    const char *tokens[256 + TWIN_MOST], *merges[TWIN_MOST];
    char text_of[TWIN_MOST][2 * TWIN_TOKEN];
    list_bytes(tokens);
    for (size_t i = 0; i < t.count; i++) {
      tokens[256 + i] = t.text[i];
      (void)snprintf(text_of[i], sizeof text_of[i], "%s %s", t.left[i], t.right[i]);
      merges[i] = text_of[i];
    }
    gguf_writer file = vocabulary_begin("gpt2", "gpt-2");
    vocabulary_tokens(&file, tokens, 256 + t.count);
    vocabulary_merges(&file, merges, t.count);
    compare(context, &file, &t, seed, &sum);
  }
  assert_true(4 * sum.tokens < 3 * sum.letters); /* there was something to merge */
  test_context_free(context);
}

static void test_scores(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  counts sum = {0, 0};
  for (uint64_t seed = 1; seed <= 20; seed++) {
    twin t = make_twin(seed);
    const char *tokens[4 + TWIN_MOST] = {"<unk>", "a", "b", "c"};
    float scores[4 + TWIN_MOST] = {0};
    for (size_t i = 0; i < t.count; i++) {
      t.rank[i] = i / 2; /* ties: the leftmost pair wins */
      tokens[4 + i] = t.text[i];
      scores[4 + i] = -(float)t.rank[i];
    }
    gguf_writer file = vocabulary_begin("llama", "default");
    vocabulary_tokens(&file, tokens, 4 + t.count);
    vocabulary_scores(&file, scores, 4 + t.count);
    compare(context, &file, &t, seed, &sum);
  }
  assert_true(4 * sum.tokens < 3 * sum.letters); /* there was something to merge */
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  make_alphabet();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_merges),
      cmocka_unit_test(test_scores),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
