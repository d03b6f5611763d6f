/* test_tokenizer.c - tokenizers over tiny made-up vocabularies, against slow twins; SmolLM2's where it is at hand. */
#include "io/gguf.h"
#include "lm/tokenizer.h"
#include "lm/tokenizer_split.h"
#include "test.h"

/* ---- A GGUF file of metadata alone ---- */

typedef struct image {
  unsigned char bytes[1 << 16];
  size_t size;
  uint64_t values;
} image;

static void put(image *to, const void *bytes, size_t size) {
  assert_true(to->size + size <= sizeof to->bytes);
  memcpy(to->bytes + to->size, bytes, size);
  to->size += size;
}

static void put_u32(image *to, uint32_t value) { put(to, &value, sizeof value); }
static void put_u64(image *to, uint64_t value) { put(to, &value, sizeof value); }

static void put_text(image *to, const char *text) {
  put_u64(to, strlen(text));
  put(to, text, strlen(text));
}

static void put_key(image *to, const char *key, uint32_t kind) {
  put_text(to, key);
  put_u32(to, kind);
  to->values++;
}

static void put_array(image *to, const char *key, uint32_t kind, size_t count) {
  put_key(to, key, PITH_GGUF_ARRAY);
  put_u32(to, kind);
  put_u64(to, count);
}

static void put_texts(image *to, const char *key, const char *const *texts, size_t count) {
  put_array(to, key, PITH_GGUF_TEXT, count);
  for (size_t i = 0; i < count; i++) put_text(to, texts[i]);
}

static void put_string(image *to, const char *key, const char *value) {
  put_key(to, key, PITH_GGUF_TEXT);
  put_text(to, value);
}

static void put_count(image *to, const char *key, uint32_t value) {
  put_key(to, key, PITH_GGUF_U32);
  put_u32(to, value);
}

static void put_flag(image *to, const char *key, bool value) {
  put_key(to, key, PITH_GGUF_BOOL);
  put(to, &(unsigned char){value}, 1);
}

static void put_types(image *to, const int32_t *types, size_t count) {
  put_array(to, "tokenizer.ggml.token_type", PITH_GGUF_I32, count);
  put(to, types, count * sizeof *types);
}

static void begin(image *to, const char *model, const char *pre) {
  *to = (image){.size = 0};
  put(to, "GGUF", 4);
  put_u32(to, 3);
  put_u64(to, 0);
  put_u64(to, 0); /* values: filled in at the end */
  put_string(to, "tokenizer.ggml.model", model);
  if (pre) put_string(to, "tokenizer.ggml.pre", pre);
}

/* What the vocabulary is taken for; the message stays in the context. */
static pith_status load(pith_context *context, image *from, size_t vocabulary, lm_tokenizer **out) {
  memcpy(from->bytes + 16, &from->values, sizeof from->values);
  pith_file *file = NULL;
  pith_gguf *gguf = NULL;
  assert_ok(context, pith_file_lend(context, from->bytes, from->size, "made-up.gguf", &file));
  assert_ok(context, pith_gguf_parse(context, file, &gguf));
  pith_status status = lm_tokenizer_create(context, gguf, vocabulary, out);
  pith_gguf_close(gguf);
  return status;
}

static lm_tokenizer *loaded(pith_context *context, image *from) {
  lm_tokenizer *tokenizer = NULL;
  assert_ok(context, load(context, from, 0, &tokenizer));
  return tokenizer;
}

/* ---- Tokens as text: "3 17 4" ---- */

static void assert_tokens(pith_context *context, const lm_tokenizer *tokenizer, const char *text, int flags,
                          const char *expected) {
  lm_tokens tokens = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, text, strlen(text), flags, &tokens));
  char got[512] = "";
  size_t length = 0;
  for (size_t i = 0; i < tokens.count; i++)
    length += (size_t)snprintf(got + length, sizeof got - length, "%s%u", i ? " " : "", tokens.id[i]);
  assert_string_equal(got, expected);
  lm_tokens_free(context, &tokens);
}

/* Decodes token by token into out; every part handed out but the last ends with a whole character. */
static size_t decode(pith_context *context, const lm_tokenizer *tokenizer, const lm_tokens *tokens, int flags,
                     char *out) {
  lm_decoder *decoder = NULL;
  assert_ok(context, lm_decoder_create(context, tokenizer, flags, &decoder));
  size_t size = 0;
  const char *part = NULL;
  for (size_t i = 0; i < tokens->count; i++) {
    size_t length = lm_decoder_next(decoder, tokens->id[i], &part);
    memcpy(out + size, part, length);
    size += length;
  }
  size_t length = lm_decoder_end(decoder, &part);
  memcpy(out + size, part, length);
  lm_decoder_free(context, decoder);
  return size + length;
}

static void assert_round_trip(pith_context *context, const lm_tokenizer *tokenizer, const char *text, size_t size,
                              int flags) {
  lm_tokens tokens = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, text, size, flags, &tokens));
  char *back = malloc(8 * size + 8);
  assert_non_null(back);
  assert_int_equal(decode(context, tokenizer, &tokens, flags, back), size);
  assert_memory_equal(back, text, size);
  free(back);
  lm_tokens_free(context, &tokens);
}

/* ---- The 256 bytes in the alphabet of byte-level vocabularies ---- */

static char alphabet[256][3];

static void make_alphabet(void) {
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; byte++) {
    bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    unsigned code = printable ? byte : next++;
    if (code < 128) {
      alphabet[byte][0] = (char)code;
      alphabet[byte][1] = '\0';
    } else {
      alphabet[byte][0] = (char)(0xc0 | code >> 6);
      alphabet[byte][1] = (char)(0x80 | (code & 63));
      alphabet[byte][2] = '\0';
    }
  }
}

/* tokens[0 .. 255] are the bytes. */
static void list_bytes(const char **tokens) {
  for (size_t i = 0; i < 256; i++) tokens[i] = alphabet[i];
}

/* ---- Bytes ---- */

static void test_bytes(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const char *tokens[256];
  list_bytes(tokens);
  static image file;
  begin(&file, "gpt2", "gpt-2");
  put_texts(&file, "tokenizer.ggml.tokens", tokens, 256);
  put_texts(&file, "tokenizer.ggml.merges", tokens, 0);
  lm_tokenizer *tokenizer = loaded(context, &file);
  assert_int_equal(lm_tokenizer_count(tokenizer), 256);

  pith_stream stream = pith_stream_make(1, PITH_STREAM_TEST, 0);
  unsigned char text[4096];
  for (size_t i = 0; i < sizeof text; i++) text[i] = (unsigned char)pith_random_below(&stream, i, 256);
  lm_tokens read = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, (char *)text, sizeof text, LM_ENCODE_BEGIN, &read));
  assert_int_equal(read.count, sizeof text);
  for (size_t i = 0; i < read.count; i++) assert_int_equal(read.id[i], text[i]);
  lm_tokens_free(context, &read);
  assert_round_trip(context, tokenizer, (char *)text, sizeof text, 0);
  lm_tokenizer_free(tokenizer);
  test_context_free(context);
}

/* ---- Pieces ---- */

static void test_split(void **state) {
  (void)state;
  /* Pieces are separated by \x01. Expected by the regular expressions in tokenizer_split.h. */
  static const struct {
    lm_split_rule rule;
    const char *pieces;
  } cases[] = {
      {LM_SPLIT_GPT2, "It\x01's\x01 1775\x01,\x01 they\x01'll\x01 say\x01."},
      {LM_SPLIT_GPT2, "IT\x01'\x01S"},
      {LM_SPLIT_GPT2,
       "a\x01  \x01 b\x01\n\n\x01\n\x01"
       "c\x01  "},
      {LM_SPLIT_GPT2,
       "na\xc3\xafve\x01 \xd0\xb4\xd0\xb0\x01 "
       "\xe6\x97\xa5\xe6\x9c\xac\x01\xe3\x80\x82\x01\xc2\xa0\xc2\xa0\x01\xc2\xa0\x01x"},
      {LM_SPLIT_GPT2, "!\xff\xc3!"},
      {LM_SPLIT_SMOLLM,
       "in\x01 \x01"
       "1\x01"
       "7\x01"
       "7\x01"
       "5\x01,\x01  \x01\xc2\xbd\x01 cups"},
      {LM_SPLIT_SMOLLM,
       "a\x01  \x01"
       "2"},
      {LM_SPLIT_LLAMA_BPE,
       "IT\x01'S\x01 \x01"
       "177\x01"
       "5\x01,\x01 don\x01't\x01 (\x01yes\x01)\n\n\x01Or"},
      {LM_SPLIT_LLAMA_BPE,
       "(a\x01\tb\x01 \n\n\x01  \x01 c\x01!!\r\n\x01 \xe2\x82\xac\x01"
       "5"},
      {LM_SPLIT_LLAMA_BPE, " "},
      {LM_SPLIT_QWEN2,
       "1\x01"
       "7\x01.\x01"
       "5\x01'Ll\x01 \n\x01 \x01 x"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[128], got[256];
    size_t size = 0, written = 0;
    for (const char *c = cases[i].pieces; *c; c++)
      if (*c != 1) text[size++] = *c;
    for (size_t at = 0; at < size;) {
      size_t length = lm_split_next(cases[i].rule, (unsigned char *)text + at, size - at);
      assert_in_range(length, 1, size - at);
      if (at > 0) got[written++] = 1;
      memcpy(got + written, text + at, length);
      written += length;
      at += length;
    }
    got[written] = '\0';
    if (strcmp(got, cases[i].pieces) != 0) fail_msg("case %zu: %s, expected %s", i, got, cases[i].pieces);
  }
}

static void test_characters(void **state) {
  (void)state;
  static const struct {
    uint32_t character;
    lm_character_class class;
  } known[] = {{'z', LM_CHARACTER_LETTER},     {0xaa, LM_CHARACTER_LETTER},    {0x4e00, LM_CHARACTER_LETTER},
               {0x1f600, LM_CHARACTER_OTHER},  {'7', LM_CHARACTER_NUMBER},     {0xbd, LM_CHARACTER_NUMBER},
               {0x2167, LM_CHARACTER_NUMBER},  {' ', LM_CHARACTER_SPACE},      {0x3000, LM_CHARACTER_SPACE},
               {0x200b, LM_CHARACTER_OTHER},   {0x301, LM_CHARACTER_OTHER},    {'_', LM_CHARACTER_OTHER},
               {0x10ffff, LM_CHARACTER_OTHER}, {0x20000, LM_CHARACTER_LETTER}, {0, LM_CHARACTER_OTHER}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    assert_int_equal(lm_character_classify(known[i].character), known[i].class);
  /* Not well formed: cut short, too long a form, a surrogate, past the end of Unicode. */
  static const char *const bad[] = {"\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint32_t character = 0;
    assert_int_equal(lm_character_next((const unsigned char *)bad[i], strlen(bad[i]), &character), 1);
    assert_int_equal(character, 0xfffd);
  }
}

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

static void test_merges(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t tokens_out = 0, letters_in = 0;
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
    static image file;
    begin(&file, "gpt2", "gpt-2");
    put_texts(&file, "tokenizer.ggml.tokens", tokens, 256 + t.count);
    put_texts(&file, "tokenizer.ggml.merges", merges, t.count);
    lm_tokenizer *tokenizer = loaded(context, &file);
    for (uint64_t number = 0; number < 50; number++) {
      char text[TWIN_TEXT + 1];
      random_text(100 * seed + number, text);
      letters_in += strlen(text);
      tokens_out += assert_twin(context, tokenizer, &t, text);
    }
    lm_tokenizer_free(tokenizer);
  }
  assert_true(4 * tokens_out < 3 * letters_in); /* there was something to merge */
  test_context_free(context);
}

static void test_scores(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t tokens_out = 0, letters_in = 0;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    twin t = make_twin(seed);
    const char *tokens[4 + TWIN_MOST] = {"<unk>", "a", "b", "c"};
    float scores[4 + TWIN_MOST] = {0};
    for (size_t i = 0; i < t.count; i++) {
      t.rank[i] = i / 2; /* ties: the leftmost pair wins */
      tokens[4 + i] = t.text[i];
      scores[4 + i] = -(float)t.rank[i];
    }
    static image file;
    begin(&file, "llama", "default");
    put_texts(&file, "tokenizer.ggml.tokens", tokens, 4 + t.count);
    put_array(&file, "tokenizer.ggml.scores", PITH_GGUF_F32, 4 + t.count);
    put(&file, scores, (4 + t.count) * sizeof *scores);
    lm_tokenizer *tokenizer = loaded(context, &file);
    for (uint64_t number = 0; number < 50; number++) {
      char text[TWIN_TEXT + 1];
      random_text(100 * seed + number, text);
      letters_in += strlen(text);
      tokens_out += assert_twin(context, tokenizer, &t, text);
    }
    lm_tokenizer_free(tokenizer);
  }
  assert_true(4 * tokens_out < 3 * letters_in);
  test_context_free(context);
}

/* A piece that is a token stays whole under llama-bpe, and is what merges make of it elsewhere. */
static void test_whole_words(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (int whole = 0; whole < 2; whole++) {
    const char *tokens[260];
    list_bytes(tokens);
    tokens[256] = "ab";
    tokens[257] = "abc"; /* no merge makes it */
    static const char *const merges[] = {"a b"};
    static image file;
    begin(&file, "gpt2", whole ? "llama-bpe" : "qwen2");
    put_texts(&file, "tokenizer.ggml.tokens", tokens, 258);
    put_texts(&file, "tokenizer.ggml.merges", merges, 1);
    lm_tokenizer *tokenizer = loaded(context, &file);
    assert_tokens(context, tokenizer, "abc", 0, whole ? "257" : "256 99");
    assert_tokens(context, tokenizer, "abcd", 0, "256 99 100");
    lm_tokenizer_free(tokenizer);
  }
  test_context_free(context);
}

/* ---- SentencePiece: spaces, bytes ---- */

enum { PIECE_UNKNOWN, PIECE_OPEN, PIECE_SPACE = 3, PIECE_A, PIECE_SPACE_A, PIECE_BYTES };

static void begin_pieces(image *to) {
  static char names[256][7];
  const char *tokens[PIECE_BYTES + 256] = {"<unk>",
                                           "<s>",
                                           "</s>",
                                           "\xe2\x96\x81",
                                           "a",
                                           ("\xe2\x96\x81"
                                            "a")};
  int32_t types[PIECE_BYTES + 256] = {2, 3, 3, 1, 1, 1};
  float scores[PIECE_BYTES + 256] = {0};
  for (size_t i = 0; i < 256; i++) {
    (void)snprintf(names[i], sizeof names[i], "<0x%02X>", (unsigned)i);
    tokens[PIECE_BYTES + i] = names[i];
    types[PIECE_BYTES + i] = 6;
  }
  begin(to, "llama", NULL);
  put_texts(to, "tokenizer.ggml.tokens", tokens, PIECE_BYTES + 256);
  put_types(to, types, PIECE_BYTES + 256);
  put_array(to, "tokenizer.ggml.scores", PITH_GGUF_F32, PIECE_BYTES + 256);
  put(to, scores, sizeof scores);
  put_count(to, "tokenizer.ggml.bos_token_id", PIECE_OPEN);
  put_count(to, "tokenizer.ggml.eos_token_id", 2);
}

static void test_sentencepiece(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static image file;
  begin_pieces(&file);
  lm_tokenizer *tokenizer = loaded(context, &file);
  assert_tokens(context, tokenizer, "a a", LM_ENCODE_BEGIN, "1 5 5");
  assert_tokens(context, tokenizer, "a a", 0, "4 5");
  assert_tokens(context, tokenizer, "", LM_ENCODE_BEGIN, "1");
  assert_tokens(context, tokenizer,
                "\xc3\xa9"
                "a",
                0, "201 175 4"); /* 6 + 0xc3, 6 + 0xa9 */
  assert_tokens(context, tokenizer, "a</s>a", LM_ENCODE_CONTROL, "4 2 5");
  assert_tokens(context, tokenizer,
                "\xe2\x96\x81"
                "a",
                0, "5");
  assert_true(lm_tokenizer_ends(tokenizer, 2));
  assert_false(lm_tokenizer_ends(tokenizer, 4));
  static const char text[] = "a  \xe6\x97\xa5 \xff a";
  assert_round_trip(context, tokenizer, text, sizeof text - 1, LM_ENCODE_BEGIN);
  assert_round_trip(context, tokenizer, text, sizeof text - 1, 0);
  lm_tokenizer_free(tokenizer);

  begin_pieces(&file);
  put_flag(&file, "tokenizer.ggml.add_bos_token", false);
  put_flag(&file, "tokenizer.ggml.add_space_prefix", false);
  tokenizer = loaded(context, &file);
  assert_tokens(context, tokenizer, "a a", LM_ENCODE_BEGIN, "4 5");
  lm_tokenizer_free(tokenizer);
  test_context_free(context);
}

/* ---- Special tokens ---- */

static void test_special(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const char *tokens[260];
  int32_t types[260];
  list_bytes(tokens);
  for (size_t i = 0; i < 260; i++) types[i] = 1;
  tokens[256] = "<|a|>";
  tokens[257] = "<|a|>b";
  tokens[258] = "**";
  tokens[259] = "<|im_end|>";
  types[256] = types[257] = types[259] = 3;
  types[258] = 4;
  static image file;
  begin(&file, "gpt2", "smollm");
  put_texts(&file, "tokenizer.ggml.tokens", tokens, 260);
  put_types(&file, types, 260);
  put_texts(&file, "tokenizer.ggml.merges", tokens, 0);
  put_count(&file, "tokenizer.ggml.bos_token_id", 256);
  put_flag(&file, "tokenizer.ggml.add_bos_token", true);
  lm_tokenizer *tokenizer = loaded(context, &file);
  assert_tokens(context, tokenizer, "x<|a|>bc<|a|>", LM_ENCODE_CONTROL, "120 257 99 256");
  assert_tokens(context, tokenizer, "x<|a|>", 0, "120 60 124 97 124 62");
  assert_tokens(context, tokenizer, "x**", 0, "120 258");
  assert_tokens(context, tokenizer, "x", LM_ENCODE_BEGIN, "256 120");
  assert_true(lm_tokenizer_ends(tokenizer, 259)); /* by its name */
  assert_false(lm_tokenizer_ends(tokenizer, 256));

  lm_tokens read = {0};
  static const char text[] = "<|a|>x**";
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, text, sizeof text - 1, LM_ENCODE_CONTROL, &read));
  char back[32];
  assert_int_equal(decode(context, tokenizer, &read, LM_ENCODE_CONTROL, back), sizeof text - 1);
  assert_memory_equal(back, text, sizeof text - 1);
  assert_int_equal(decode(context, tokenizer, &read, 0, back), 3);
  assert_memory_equal(back, "x**", 3);
  lm_tokens_free(context, &read);
  lm_tokenizer_free(tokenizer);
  test_context_free(context);
}

/* ---- Decoding in a stream ---- */

static void test_stream(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  const char *tokens[256];
  list_bytes(tokens);
  static image file;
  begin(&file, "gpt2", "gpt-2");
  put_texts(&file, "tokenizer.ggml.tokens", tokens, 256);
  put_texts(&file, "tokenizer.ggml.merges", tokens, 0);
  lm_tokenizer *tokenizer = loaded(context, &file);
  static const struct {
    const char *text;
    const char *handed; /* after each byte: how many bytes come out */
  } cases[] = {{"a\xc3\xa9z", "1021"},
               {"\xf0\x9f\x98\x80.", "00041"},
               {"\xe2\x96z", "003"}, /* cannot be completed: out it goes */
               {"\xe2\xe2\x96\x81", "0103"},
               {"\x80\xff", "11"},
               {"\xf0\x9f", "00"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    lm_decoder *decoder = NULL;
    assert_ok(context, lm_decoder_create(context, tokenizer, 0, &decoder));
    const char *part = NULL;
    char whole[16];
    size_t size = 0;
    for (size_t at = 0; cases[i].text[at]; at++) {
      size_t length = lm_decoder_next(decoder, (unsigned char)cases[i].text[at], &part);
      assert_int_equal(length, cases[i].handed[at] - '0');
      memcpy(whole + size, part, length);
      size += length;
    }
    size_t length = lm_decoder_end(decoder, &part);
    memcpy(whole + size, part, length);
    assert_int_equal(size + length, strlen(cases[i].text));
    assert_memory_equal(whole, cases[i].text, size + length);
    assert_int_equal(lm_decoder_next(decoder, 999, &part), 0);
    lm_decoder_free(context, decoder);
  }
  lm_tokenizer_free(tokenizer);
  test_context_free(context);
}

/* ---- Refusals ---- */

static void assert_refused(pith_context *context, image *file, size_t vocabulary, pith_status expected,
                           const char *names) {
  lm_tokenizer *tokenizer = NULL;
  assert_int_equal(load(context, file, vocabulary, &tokenizer), expected);
  assert_null(tokenizer);
  if (!strstr(pith_context_message(context), names))
    fail_msg("'%s' is not named in: %s", names, pith_context_message(context));
}

static void begin_three(image *to, const char *model, const char *pre) {
  static const char *const tokens[] = {"a", "b", "ab"};
  begin(to, model, pre);
  put_texts(to, "tokenizer.ggml.tokens", tokens, 3);
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  static image file;
  begin_three(&file, "bert", "default");
  assert_refused(context, &file, 0, PITH_E_UNKNOWN, "bert");
  begin_three(&file, "gpt2", "tekken");
  assert_refused(context, &file, 0, PITH_E_UNKNOWN, "tekken");
  begin_three(&file, "gpt2", NULL);
  assert_refused(context, &file, 0, PITH_E_FORMAT, "tokenizer.ggml.pre");
  begin_three(&file, "gpt2", "gpt-2");
  assert_refused(context, &file, 4, PITH_E_FORMAT, "4 rows");
  begin_three(&file, "gpt2", "gpt-2");
  assert_refused(context, &file, 3, PITH_E_FORMAT, "tokenizer.ggml.merges");
  static const char *const merges[] = {"a b", "b a"};
  begin_three(&file, "gpt2", "gpt-2");
  put_texts(&file, "tokenizer.ggml.merges", merges, 2);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "b a");
  begin_three(&file, "gpt2", "gpt-2");
  put_types(&file, (const int32_t[]){1, 1}, 2);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "token_type has 2");
  begin_three(&file, "gpt2", "gpt-2");
  put_count(&file, "tokenizer.ggml.eos_token_id", 3);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "eos_token_id is 3");
  begin_three(&file, "llama", NULL);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "tokenizer.ggml.scores");

  /* A byte without a token: an error, or the unknown token where there is one. */
  begin_three(&file, "gpt2", "gpt-2");
  put_texts(&file, "tokenizer.ggml.merges", merges, 1);
  lm_tokenizer *tokenizer = loaded(context, &file);
  lm_tokens tokens = {0};
  assert_tokens(context, tokenizer, "abb", 0, "2 1");
  assert_int_equal(lm_tokenizer_encode(context, tokenizer, "abc", 3, 0, &tokens), PITH_E_VALUE);
  assert_int_equal(tokens.count, 0);
  assert_non_null(strstr(pith_context_message(context), "0x63"));
  lm_tokens_free(context, &tokens);
  lm_tokenizer_free(tokenizer);
  put_count(&file, "tokenizer.ggml.unknown_token_id", 1);
  tokenizer = loaded(context, &file);
  assert_tokens(context, tokenizer, "abc", 0, "2 1");
  lm_tokenizer_free(tokenizer);
  lm_tokenizer_free(NULL);
  assert_int_equal(pith_context_bytes(context), held);
  test_context_free(context);
}

/* ---- SmolLM2 ---- */

static char *read_whole(const char *folder, const char *name, size_t *size) {
  char path[1024];
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) fail_msg("%s cannot be opened", path);
  assert_int_equal(fseek(file, 0, SEEK_END), 0);
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*size + 1);
  assert_non_null(bytes);
  assert_int_equal(fread(bytes, 1, *size, file), *size);
  bytes[*size] = '\0';
  (void)fclose(file);
  return bytes;
}

static void test_smollm2(void **state) {
  (void)state;
  const char *model = getenv("PITH_SMOLLM2"), *data = getenv("PITH_DATA");
  if (!model || !data) {
    print_message("skipped: PITH_SMOLLM2 (SmolLM2-135M-Instruct.Q4_1.gguf) and PITH_DATA are not both set\n");
    skip();
    return;
  }
  pith_context *context = test_context(1);
  size_t size = 0, known_size = 0;
  char *text = read_whole(data, "text/a-tale-of-two-cities.txt", &size);
  char *known = read_whole(data, "model/smollm2_book_ids.npy", &known_size);
  const char *book = strstr(text, "It was the best of times");
  assert_non_null(book);
  assert_non_null(strstr(known + 10, "'<i4'"));
  size_t header = 10 + (size_t)(unsigned char)known[8] + 256 * (size_t)(unsigned char)known[9];
  size_t count = (known_size - header) / sizeof(int32_t);
  assert_int_equal(count, 4096);

  pith_gguf *gguf = NULL;
  lm_tokenizer *tokenizer = NULL;
  assert_ok(context, pith_gguf_open(context, model, &gguf));
  assert_ok(context, lm_tokenizer_create(context, gguf, 49152, &tokenizer));
  size_t book_size = size - (size_t)(book - text);
  lm_tokens tokens = {0};
  assert_ok(context, lm_tokenizer_encode(context, tokenizer, book, book_size, LM_ENCODE_BEGIN, &tokens));
  assert_true(tokens.count > count);
  assert_memory_equal(tokens.id, known + header, count * sizeof *tokens.id);
  lm_tokens_free(context, &tokens);
  assert_round_trip(context, tokenizer, book, book_size, LM_ENCODE_BEGIN);
  lm_tokenizer_free(tokenizer);
  pith_gguf_close(gguf);
  free(known);
  free(text);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  make_alphabet();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes),         cmocka_unit_test(test_split),   cmocka_unit_test(test_characters),
      cmocka_unit_test(test_merges),        cmocka_unit_test(test_scores),  cmocka_unit_test(test_whole_words),
      cmocka_unit_test(test_sentencepiece), cmocka_unit_test(test_special), cmocka_unit_test(test_stream),
      cmocka_unit_test(test_refusals),      cmocka_unit_test(test_smollm2),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
