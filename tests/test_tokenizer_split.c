/* test_tokenizer_split.c - where text is cut before tokens are merged, and the classes of characters. */
#include "lm/tokenizer_split.h"
#include "test.h"

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

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_split),
      cmocka_unit_test(test_characters),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
