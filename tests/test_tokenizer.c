/* test_tokenizer.c - tokenizers over tiny made-up vocabularies; SmolLM2's where it is at hand. */
#include "vocabulary.h"

/* ---- Bytes ---- */

static void test_bytes(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  lm_tokenizer *tokenizer = byte_tokenizer(context);
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

static void test_whole_words(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (int whole = 0; whole < 2; whole++) {
    const char *tokens[260];
    list_bytes(tokens);
    tokens[256] = "ab";
    tokens[257] = "abc"; /* no merge makes it */
    static const char *const merges[] = {"a b"};
    gguf_writer file = vocabulary_begin("gpt2", whole ? "llama-bpe" : "qwen2");
    vocabulary_tokens(&file, tokens, 258);
    vocabulary_merges(&file, merges, 1);
    lm_tokenizer *tokenizer = vocabulary_loaded(context, &file);
    assert_tokens(context, tokenizer, "abc", 0, whole ? "257" : "256 99");
    assert_tokens(context, tokenizer, "abcd", 0, "256 99 100");
    lm_tokenizer_free(tokenizer);
  }
  test_context_free(context);
}

/* ---- SentencePiece: spaces, bytes ---- */

enum { PIECE_UNKNOWN, PIECE_OPEN, PIECE_SPACE = 3, PIECE_A, PIECE_SPACE_A, PIECE_BYTES };

static gguf_writer begin_pieces(void) {
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
  gguf_writer w = vocabulary_begin("llama", NULL);
  vocabulary_tokens(&w, tokens, PIECE_BYTES + 256);
  vocabulary_types(&w, types, PIECE_BYTES + 256);
  vocabulary_scores(&w, scores, PIECE_BYTES + 256);
  gguf_u32(&w, "tokenizer.ggml.bos_token_id", PIECE_OPEN);
  gguf_u32(&w, "tokenizer.ggml.eos_token_id", 2);
  return w;
}

static void test_sentencepiece(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  gguf_writer file = begin_pieces();
  lm_tokenizer *tokenizer = vocabulary_loaded(context, &file);
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

  file = begin_pieces();
  vocabulary_flag(&file, "tokenizer.ggml.add_bos_token", false);
  vocabulary_flag(&file, "tokenizer.ggml.add_space_prefix", false);
  tokenizer = vocabulary_loaded(context, &file);
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
  gguf_writer file = vocabulary_begin("gpt2", "smollm");
  vocabulary_tokens(&file, tokens, 260);
  vocabulary_types(&file, types, 260);
  vocabulary_merges(&file, tokens, 0);
  gguf_u32(&file, "tokenizer.ggml.bos_token_id", 256);
  vocabulary_flag(&file, "tokenizer.ggml.add_bos_token", true);
  lm_tokenizer *tokenizer = vocabulary_loaded(context, &file);
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
  lm_tokenizer *tokenizer = byte_tokenizer(context);
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

static void assert_refused(pith_context *context, gguf_writer *file, size_t vocabulary, pith_status expected,
                           const char *names) {
  lm_tokenizer *tokenizer = NULL;
  assert_int_equal(vocabulary_load(context, file, vocabulary, &tokenizer), expected);
  assert_null(tokenizer);
  if (!strstr(pith_context_message(context), names))
    fail_msg("'%s' is not named in: %s", names, pith_context_message(context));
}

static gguf_writer begin_three(const char *model, const char *pre) {
  static const char *const tokens[] = {"a", "b", "ab"};
  gguf_writer w = vocabulary_begin(model, pre);
  vocabulary_tokens(&w, tokens, 3);
  return w;
}

static void test_refusals(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  gguf_writer file = begin_three("bert", "default");
  assert_refused(context, &file, 0, PITH_E_UNKNOWN, "bert");
  file = begin_three("gpt2", "tekken");
  assert_refused(context, &file, 0, PITH_E_UNKNOWN, "tekken");
  file = begin_three("gpt2", NULL);
  assert_refused(context, &file, 0, PITH_E_FORMAT, "tokenizer.ggml.pre");
  file = begin_three("gpt2", "gpt-2");
  assert_refused(context, &file, 4, PITH_E_FORMAT, "4 rows");
  file = begin_three("gpt2", "gpt-2");
  assert_refused(context, &file, 3, PITH_E_FORMAT, "tokenizer.ggml.merges");
  static const char *const merges[] = {"a b", "b a"};
  file = begin_three("gpt2", "gpt-2");
  vocabulary_merges(&file, merges, 2);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "b a");
  file = begin_three("gpt2", "gpt-2");
  vocabulary_types(&file, (const int32_t[]){1, 1}, 2);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "token_type has 2");
  file = begin_three("gpt2", "gpt-2");
  gguf_u32(&file, "tokenizer.ggml.eos_token_id", 3);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "eos_token_id is 3");
  file = begin_three("llama", NULL);
  assert_refused(context, &file, 3, PITH_E_FORMAT, "tokenizer.ggml.scores");

  /* A byte without a token: an error, or the unknown token where there is one. */
  file = begin_three("gpt2", "gpt-2");
  vocabulary_merges(&file, merges, 1);
  lm_tokenizer *tokenizer = vocabulary_loaded(context, &file);
  lm_tokens tokens = {0};
  assert_tokens(context, tokenizer, "abb", 0, "2 1");
  assert_int_equal(lm_tokenizer_encode(context, tokenizer, "abc", 3, 0, &tokens), PITH_E_VALUE);
  assert_int_equal(tokens.count, 0);
  assert_non_null(strstr(pith_context_message(context), "0x63"));
  lm_tokens_free(context, &tokens);
  lm_tokenizer_free(tokenizer);
  file = begin_three("gpt2", "gpt-2");
  vocabulary_merges(&file, merges, 1);
  gguf_u32(&file, "tokenizer.ggml.unknown_token_id", 1);
  tokenizer = vocabulary_loaded(context, &file);
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
      cmocka_unit_test(test_bytes),   cmocka_unit_test(test_whole_words), cmocka_unit_test(test_sentencepiece),
      cmocka_unit_test(test_special), cmocka_unit_test(test_stream),      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_smollm2),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
