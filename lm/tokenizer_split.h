/* tokenizer_split.h - the rules that cut a text into pieces before pairs are merged. */
#ifndef PITH_LM_TOKENIZER_SPLIT_H
#define PITH_LM_TOKENIZER_SPLIT_H

#include <stddef.h>
#include <stdint.h>

/* Named as in GGUF files (tokenizer.ggml.pre). As regular expressions:
 *   gpt-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm     \p{N} alone, and gpt-2 between them
 *   llama-bpe  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 *              \s*[\r\n]+|\s+(?!\S)|\s+
 *   qwen2      the same with \p{N} in place of \p{N}{1,3} */
typedef enum lm_split_rule { LM_SPLIT_GPT2, LM_SPLIT_SMOLLM, LM_SPLIT_LLAMA_BPE, LM_SPLIT_QWEN2 } lm_split_rule;

/* Bytes of the first piece of text[0 .. size-1]; size > 0. Bytes that are not UTF-8 count as characters that are
 * neither letters nor numbers nor spaces, so that nothing is ever lost. */
size_t lm_split_next(lm_split_rule rule, const unsigned char *text, size_t size);

/* Bytes of the first character: those of a well-formed UTF-8 sequence, or 1. */
size_t lm_character_next(const unsigned char *text, size_t size, uint32_t *character);

/* \p{L}, \p{N}, \s, none of them; the numbers stand in the table of tokenizer_unicode.c. */
typedef enum lm_character_class {
  LM_CHARACTER_OTHER = 0,
  LM_CHARACTER_LETTER = 1,
  LM_CHARACTER_NUMBER = 2,
  LM_CHARACTER_SPACE = 3,
  LM_CHARACTER_NONE = 4 /* past the end */
} lm_character_class;

lm_character_class lm_character_classify(uint32_t character);

#endif
