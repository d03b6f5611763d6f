/* tokenizer_split.c - pieces of a text, by rules that are regular expressions elsewhere and plain code here. */
#include "lm/tokenizer_split.h"

#include <stdbool.h>

enum { NOT_UTF8 = 0xfffd };

size_t lm_character_next(const unsigned char *text, size_t size, uint32_t *character) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000}; /* shorter forms exist for what is below */
  unsigned char first = text[0];
  *character = first;
  if (first < 0x80) return 1;
  size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  uint32_t code = first & (0x7fu >> length);
  bool sound = first >= 0xc2 && first <= 0xf4 && length <= size;
  for (size_t i = 1; sound && i < length; i++) {
    sound = (text[i] & 0xc0) == 0x80;
    code = code << 6 | (text[i] & 0x3f);
  }
  sound = sound && code >= least[length] && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  *character = sound ? code : NOT_UTF8;
  return sound ? length : 1;
}

/* The character at a position: its class, code and length. */
typedef struct place {
  lm_character_class class;
  uint32_t code;
  size_t length;
} place;

typedef struct span {
  const unsigned char *text;
  size_t size;
  bool numbers_apart; /* a number ends the text: what follows is another piece whatever the rule */
} span;

static place look(const span *s, size_t at) {
  place p = {.class = LM_CHARACTER_NONE};
  if (at >= s->size) return p;
  p.length = lm_character_next(s->text + at, s->size - at, &p.code);
  p.class = lm_character_classify(p.code);
  if (s->numbers_apart && p.class == LM_CHARACTER_NUMBER) p = (place){.class = LM_CHARACTER_NONE};
  return p;
}

/* End of the run of one class that begins at `at`, at most `most` characters. */
static size_t run_end(const span *s, size_t at, lm_character_class class, size_t most) {
  for (place p = look(s, at); p.class == class && most > 0; p = look(s, at), most--) at += p.length;
  return at;
}

/* Length of 's 't 're 've 'm 'll 'd at the beginning; 0: none. */
static size_t contraction(const span *s, bool any_case) {
  static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
  if (s->text[0] != '\'') return 0;
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t length = 1;
    for (const char *letter = endings[i]; *letter; letter++, length++) {
      unsigned char typed = length < s->size ? s->text[length] : '\0';
      if (any_case && typed >= 'A' && typed <= 'Z') typed |= 0x20;
      if (typed != (unsigned char)*letter) break;
    }
    if (!endings[i][length - 1]) return length;
  }
  return 0;
}

/* Spaces before a word leave their last one to it: \s+(?!\S)|\s+ */
static size_t spaces(const span *s) {
  size_t end = 0, last = 0;
  for (place p = look(s, 0); p.class == LM_CHARACTER_SPACE; p = look(s, end)) {
    last = end;
    end += p.length;
  }
  return last > 0 && look(s, end).class != LM_CHARACTER_NONE ? last : end;
}

static size_t gpt2_piece(const span *s) {
  size_t length = contraction(s, false);
  if (length > 0) return length;
  size_t begin = s->text[0] == ' ';
  lm_character_class class = look(s, begin).class;
  if (class == LM_CHARACTER_SPACE || class == LM_CHARACTER_NONE) return spaces(s);
  return run_end(s, begin, class, SIZE_MAX);
}

/* Runs of spaces that hold line ends go up to the last of these: \s*[\r\n]+. 0: there is none. */
static size_t line_ends(const span *s) {
  size_t end = 0, after_last = 0;
  for (place p = look(s, 0); p.class == LM_CHARACTER_SPACE; p = look(s, end)) {
    end += p.length;
    if (p.code == '\r' || p.code == '\n') after_last = end;
  }
  return after_last;
}

static size_t llama_piece(const span *s, size_t most_digits) {
  size_t length = contraction(s, true);
  if (length > 0) return length;
  place first = look(s, 0);
  if (first.class == LM_CHARACTER_NUMBER) return run_end(s, 0, LM_CHARACTER_NUMBER, most_digits);
  if (first.class == LM_CHARACTER_LETTER) return run_end(s, 0, LM_CHARACTER_LETTER, SIZE_MAX);
  if (first.code != '\r' && first.code != '\n' && look(s, first.length).class == LM_CHARACTER_LETTER)
    return run_end(s, first.length, LM_CHARACTER_LETTER, SIZE_MAX);
  size_t begin = first.code == ' ';
  if (look(s, begin).class == LM_CHARACTER_OTHER) {
    size_t end = run_end(s, begin, LM_CHARACTER_OTHER, SIZE_MAX);
    while (end < s->size && (s->text[end] == '\r' || s->text[end] == '\n')) end++;
    return end;
  }
  length = line_ends(s);
  return length > 0 ? length : spaces(s);
}

size_t lm_split_next(lm_split_rule rule, const unsigned char *text, size_t size) {
  span s = {.text = text, .size = size};
  switch (rule) {
    case LM_SPLIT_LLAMA_BPE: return llama_piece(&s, 3);
    case LM_SPLIT_QWEN2: return llama_piece(&s, 1);
    case LM_SPLIT_SMOLLM: {
      place first = look(&s, 0);
      if (first.class == LM_CHARACTER_NUMBER) return first.length;
      s.numbers_apart = true;
      return gpt2_piece(&s);
    }
    case LM_SPLIT_GPT2: break;
  }
  return gpt2_piece(&s);
}
