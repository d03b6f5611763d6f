/* tokenizer.c - a tokenizer out of a model's metadata. */
#define _GNU_SOURCE /* qsort_r */
#include <stdlib.h>
#include <xxhash.h>

#include "lm/tokenizer_inside.h"

/* ---- Tables ---- */

static pith_status table_create(pith_context *context, pith_memory *memory, size_t count, index_table *table) {
  size_t slots = 16;
  while (slots < 2 * count) slots *= 2;
  table->slot = pith_memory_allocate(memory, slots, sizeof *table->slot);
  if (!table->slot) return pith_fail(context, PITH_E_MEMORY, "no memory for the vocabulary");
  memset(table->slot, 0, slots * sizeof *table->slot);
  table->mask = slots - 1;
  return PITH_OK;
}

static size_t text_slot(const lm_tokenizer *tokenizer, const unsigned char *text, size_t size) {
  const index_table *table = &tokenizer->texts;
  size_t at = (size_t)XXH3_64bits(text, size) & table->mask;
  for (; table->slot[at]; at = (at + 1) & table->mask) {
    int32_t token = (int32_t)table->slot[at] - 1;
    if (token_size(tokenizer, token) == size && !memcmp(tokenizer->bytes + tokenizer->begin[token], text, size)) break;
  }
  return at;
}

int32_t tokenizer_find(const lm_tokenizer *tokenizer, const unsigned char *text, size_t size) {
  if (size == 0 || size > tokenizer->longest) return NO_TOKEN;
  return (int32_t)tokenizer->texts.slot[text_slot(tokenizer, text, size)] - 1;
}

static size_t pair_slot(const lm_tokenizer *tokenizer, int32_t left, int32_t right) {
  const index_table *table = &tokenizer->pairs;
  uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u; /* Fibonacci hashing */
  size_t at = (size_t)(key >> 32) & table->mask;
  for (; table->slot[at]; at = (at + 1) & table->mask) {
    const merge *found = &tokenizer->merges[table->slot[at] - 1];
    if (found->left == left && found->right == right) break;
  }
  return at;
}

size_t tokenizer_find_merge(const lm_tokenizer *tokenizer, int32_t left, int32_t right) {
  if (left < 0 || right < 0) return SIZE_MAX;
  return (size_t)tokenizer->pairs.slot[pair_slot(tokenizer, left, right)] - 1; /* an empty slot gives SIZE_MAX */
}

/* ---- What the metadata says ---- */

typedef struct maker {
  pith_context *context;
  const pith_gguf *model;
  lm_tokenizer *made;
  const pith_gguf_value *tokens;
} maker;

static void *hold(maker *m, size_t count, size_t size) {
  void *memory = pith_memory_allocate(m->made->memory, count, size);
  if (!memory) pith_set_message(m->context, "no memory for the vocabulary");
  return memory;
}

static pith_status optional_flag(maker *m, const char *key, bool *flag) {
  return pith_gguf_find(m->model, key) ? pith_gguf_flag(m->context, m->model, key, flag) : PITH_OK;
}

static pith_status optional_token(maker *m, const char *key, int32_t *token) {
  *token = NO_TOKEN;
  if (!pith_gguf_find(m->model, key)) return PITH_OK;
  size_t value = 0;
  PITH_TRY(pith_gguf_size(m->context, m->model, key, &value));
  if (value >= m->made->count)
    return pith_fail(m->context, PITH_E_FORMAT, "%s: %s is %zu, but the vocabulary has %zu tokens",
                     pith_gguf_name(m->model), key, value, m->made->count);
  *token = (int32_t)value;
  return PITH_OK;
}

static pith_status read_types(maker *m) {
  static const char key[] = "tokenizer.ggml.token_type";
  lm_tokenizer *made = m->made;
  made->type = hold(m, made->count, sizeof *made->type);
  if (!made->type) return PITH_E_MEMORY;
  memset(made->type, TOKEN_NORMAL, made->count);
  if (!pith_gguf_find(m->model, key)) return PITH_OK;
  const pith_gguf_value *types = NULL;
  PITH_TRY(pith_gguf_array(m->context, m->model, key, PITH_GGUF_I32, &types));
  if (types->count != made->count)
    return pith_fail(m->context, PITH_E_FORMAT, "%s: %s has %zu entries, but the vocabulary has %zu tokens",
                     pith_gguf_name(m->model), key, types->count, made->count);
  for (size_t i = 0; i < made->count; i++) {
    int32_t type = pith_gguf_i32_at(types, i);
    made->type[i] = type >= TOKEN_NORMAL && type <= TOKEN_BYTE ? (uint8_t)type : TOKEN_UNUSED;
  }
  return PITH_OK;
}

/* ---- The bytes of a token ---- */

/* Byte-level vocabularies write a byte that is no printable Latin-1 character as a character from U+0100 on. */
static int alphabet_byte(uint32_t character) {
  if ((character >= 33 && character <= 126) || (character >= 161 && character <= 172) ||
      (character >= 174 && character <= 255))
    return (int)character;
  if (character < 256 || character >= 256 + 68) return -1;
  int rank = (int)character - 256; /* among the others: 0 .. 32, 127 .. 160, 173 */
  return rank <= 32 ? rank : rank <= 66 ? rank + 94 : 173;
}

/* Writes the bytes that a text of the alphabet stands for; SIZE_MAX when another character is in it. */
static size_t alphabet_decode(pith_gguf_text text, unsigned char *out) {
  const unsigned char *at = (const unsigned char *)text.text;
  size_t written = 0;
  for (size_t i = 0; i < text.length;) {
    uint32_t character = 0;
    i += lm_character_next(at + i, text.length - i, &character);
    int byte = alphabet_byte(character);
    if (byte < 0) return SIZE_MAX;
    out[written++] = (unsigned char)byte;
  }
  return written;
}

static size_t copy(pith_gguf_text text, unsigned char *out) {
  memcpy(out, text.text, text.length);
  return text.length;
}

/* SentencePiece writes a space as U+2581. */
static size_t copy_with_spaces(pith_gguf_text text, unsigned char *out) {
  size_t written = 0;
  for (size_t i = 0; i < text.length; written++) {
    bool space = text.length - i >= 3 && !memcmp(text.text + i, "\xe2\x96\x81", 3);
    out[written] = space ? ' ' : (unsigned char)text.text[i];
    i += space ? 3 : 1;
  }
  return written;
}

static int hex_digit(char digit) {
  return digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

/* "<0x0A>"; -1: not of that form. */
static int named_byte(pith_gguf_text text) {
  if (text.length != 6 || memcmp(text.text, "<0x", 3) != 0 || text.text[5] != '>') return -1;
  int high = hex_digit(text.text[3]), low = hex_digit(text.text[4]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* Writes the bytes of one token; true when merging may arrive at it. */
static bool token_bytes(maker *m, size_t token, unsigned char *out, size_t *written) {
  lm_tokenizer *made = m->made;
  pith_gguf_text text = m->tokens->texts[token];
  bool plain = made->type[token] == TOKEN_NORMAL;
  if (made->sentencepiece) {
    int byte = made->type[token] == TOKEN_BYTE ? named_byte(text) : -1;
    if (byte >= 0) {
      made->byte_token[byte] = (int32_t)token;
      out[0] = (unsigned char)byte;
      *written = 1;
      return false;
    }
    *written = plain ? copy_with_spaces(text, out) : copy(text, out);
    return plain;
  }
  *written = plain ? alphabet_decode(text, out) : SIZE_MAX;
  if (*written == SIZE_MAX) {
    *written = copy(text, out);
    return false;
  }
  if (*written == 1) made->byte_token[out[0]] = (int32_t)token;
  return true;
}

static pith_status read_tokens(maker *m) {
  lm_tokenizer *made = m->made;
  size_t total = 0;
  for (size_t i = 0; i < made->count; i++) total += m->tokens->texts[i].length;
  made->bytes = hold(m, total + 1, 1);
  made->begin = hold(m, made->count + 1, sizeof *made->begin);
  if (!made->bytes || !made->begin) return PITH_E_MEMORY;
  PITH_TRY(table_create(m->context, made->memory, made->count, &made->texts));
  for (size_t i = 0; i < 256; i++) made->byte_token[i] = NO_TOKEN;
  made->begin[0] = 0;
  for (size_t i = 0; i < made->count; i++) {
    size_t size = 0;
    unsigned char *bytes = made->bytes + made->begin[i];
    bool reachable = token_bytes(m, i, bytes, &size);
    made->begin[i + 1] = made->begin[i] + size;
    made->longest = pith_max_size(made->longest, size);
    if (!reachable || size == 0) continue;
    uint32_t *slot = &made->texts.slot[text_slot(made, bytes, size)];
    if (!*slot) *slot = (uint32_t)i + 1;
  }
  return PITH_OK;
}

/* ---- Special tokens ---- */

static int longer_first(const void *a, const void *b, void *tokenizer) {
  int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
  size_t left_size = token_size(tokenizer, left), right_size = token_size(tokenizer, right);
  if (left_size != right_size) return left_size > right_size ? -1 : 1;
  return (left > right) - (left < right);
}

static bool is_special(const lm_tokenizer *made, size_t token) {
  int type = made->type[token];
  return (type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN) &&
         token_size(made, (int32_t)token) > 0;
}

static pith_status list_special(maker *m) {
  lm_tokenizer *made = m->made;
  for (size_t i = 0; i < made->count; i++) made->special_count += is_special(made, i);
  made->special = hold(m, made->special_count, sizeof *made->special);
  if (!made->special) return PITH_E_MEMORY;
  size_t written = 0;
  for (size_t i = 0; i < made->count; i++)
    if (is_special(made, i)) made->special[written++] = (int32_t)i;
  qsort_r(made->special, made->special_count, sizeof *made->special, longer_first, made);
  PITH_TRY(optional_token(m, "tokenizer.ggml.bos_token_id", &made->opening));
  PITH_TRY(optional_token(m, "tokenizer.ggml.eos_token_id", &made->ending));
  PITH_TRY(optional_token(m, "tokenizer.ggml.eot_token_id", &made->turn_ending));
  PITH_TRY(optional_token(m, "tokenizer.ggml.unknown_token_id", &made->unknown));
  PITH_TRY(optional_flag(m, "tokenizer.ggml.add_bos_token", &made->opens));
  if (made->opening == NO_TOKEN) made->opens = false;
  return PITH_OK;
}

/* ---- gpt2 ---- */

static pith_status read_rule(maker *m) {
  static const struct {
    const char *name;
    lm_split_rule rule;
    bool whole_words, opens;
  } rules[] = {{"gpt-2", LM_SPLIT_GPT2, false, false},
               {"smollm", LM_SPLIT_SMOLLM, false, false},
               {"llama-bpe", LM_SPLIT_LLAMA_BPE, true, true},
               {"qwen2", LM_SPLIT_QWEN2, false, false}};
  pith_gguf_text name = {0};
  PITH_TRY(pith_gguf_string(m->context, m->model, "tokenizer.ggml.pre", &name));
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
    if (!pith_gguf_text_is(name, rules[i].name)) continue;
    m->made->rule = rules[i].rule;
    m->made->whole_words = rules[i].whole_words;
    m->made->opens = rules[i].opens;
    return PITH_OK;
  }
  return pith_fail(m->context, PITH_E_UNKNOWN,
                   "%s: the pre-tokeniser '%s' is not known; known are gpt-2, smollm, llama-bpe and qwen2",
                   pith_gguf_name(m->model), pith_quote(name.text, name.length).text);
}

/* One side of a merge, or both together: its token. */
static int32_t merge_token(const lm_tokenizer *made, const char *text, size_t size, unsigned char *scratch) {
  size_t decoded = alphabet_decode((pith_gguf_text){text, size}, scratch);
  return decoded == SIZE_MAX ? NO_TOKEN : tokenizer_find(made, scratch, decoded);
}

static pith_status read_merge(maker *m, pith_gguf_text text, size_t number, unsigned char *scratch) {
  lm_tokenizer *made = m->made;
  const char *space = text.length > 1 ? memchr(text.text + 1, ' ', text.length - 1) : NULL;
  merge read = {NO_TOKEN, NO_TOKEN, NO_TOKEN};
  if (space) {
    size_t left = (size_t)(space - text.text), right = text.length - left - 1;
    read.left = merge_token(made, text.text, left, scratch);
    read.right = merge_token(made, space + 1, right, scratch);
    if (read.left >= 0 && read.right >= 0) {
      size_t left_size = token_size(made, read.left), right_size = token_size(made, read.right);
      memcpy(scratch, made->bytes + made->begin[read.left], left_size);
      memcpy(scratch + left_size, made->bytes + made->begin[read.right], right_size);
      read.joined = tokenizer_find(made, scratch, left_size + right_size);
    }
  }
  if (read.joined < 0)
    return pith_fail(m->context, PITH_E_FORMAT, "%s: merge %zu, '%s', does not join two tokens into a third",
                     pith_gguf_name(m->model), number, pith_quote(text.text, text.length).text);
  made->merges[number] = read;
  uint32_t *slot = &made->pairs.slot[pair_slot(made, read.left, read.right)];
  if (!*slot) *slot = (uint32_t)number + 1;
  return PITH_OK;
}

static pith_status read_merges(maker *m) {
  lm_tokenizer *made = m->made;
  const pith_gguf_value *texts = NULL;
  PITH_TRY(pith_gguf_array(m->context, m->model, "tokenizer.ggml.merges", PITH_GGUF_TEXT, &texts));
  if (texts->count > INT32_MAX / 4)
    return pith_fail(m->context, PITH_E_FORMAT, "%s: %zu merges are too many", pith_gguf_name(m->model), texts->count);
  made->merge_count = texts->count;
  made->merges = hold(m, texts->count, sizeof *made->merges);
  if (!made->merges) return PITH_E_MEMORY;
  PITH_TRY(table_create(m->context, made->memory, texts->count, &made->pairs));
  size_t longest = 2 * made->longest;
  for (size_t i = 0; i < texts->count; i++) longest = pith_max_size(longest, texts->texts[i].length);
  unsigned char *scratch = pith_allocate(m->context, longest + 1, 1);
  if (!scratch) return PITH_E_MEMORY;
  pith_status status = PITH_OK;
  for (size_t i = 0; i < texts->count && status == PITH_OK; i++) status = read_merge(m, texts->texts[i], i, scratch);
  pith_release(m->context, scratch);
  return status;
}

/* ---- llama ---- */

static pith_status read_scores(maker *m) {
  static const char key[] = "tokenizer.ggml.scores";
  lm_tokenizer *made = m->made;
  const pith_gguf_value *scores = NULL;
  PITH_TRY(pith_gguf_array(m->context, m->model, key, PITH_GGUF_F32, &scores));
  if (scores->count != made->count)
    return pith_fail(m->context, PITH_E_FORMAT, "%s: %s has %zu entries, but the vocabulary has %zu tokens",
                     pith_gguf_name(m->model), key, scores->count, made->count);
  made->score = hold(m, made->count, sizeof *made->score);
  if (!made->score) return PITH_E_MEMORY;
  for (size_t i = 0; i < made->count; i++) made->score[i] = pith_gguf_f32_at(scores, i);
  return optional_flag(m, "tokenizer.ggml.add_space_prefix", &made->leading_space);
}

/* ---- Both ---- */

static pith_status read_model(maker *m, size_t vocabulary) {
  lm_tokenizer *made = m->made;
  const char *file = pith_gguf_name(m->model);
  pith_gguf_text name = {0};
  PITH_TRY(pith_gguf_string(m->context, m->model, "tokenizer.ggml.model", &name));
  made->sentencepiece = pith_gguf_text_is(name, "llama");
  made->leading_space = made->opens = made->sentencepiece;
  if (!made->sentencepiece && !pith_gguf_text_is(name, "gpt2"))
    return pith_fail(m->context, PITH_E_UNKNOWN, "%s: the tokenizer '%s' is not known; known are gpt2 and llama", file,
                     pith_quote(name.text, name.length).text);
  if (!made->sentencepiece) PITH_TRY(read_rule(m));
  PITH_TRY(pith_gguf_array(m->context, m->model, "tokenizer.ggml.tokens", PITH_GGUF_TEXT, &m->tokens));
  made->count = m->tokens->count;
  if (made->count == 0 || made->count > INT32_MAX / 4)
    return pith_fail(m->context, PITH_E_FORMAT, "%s: a vocabulary of %zu tokens", file, made->count);
  if (vocabulary && made->count != vocabulary)
    return pith_fail(m->context, PITH_E_FORMAT,
                     "%s: the tokenizer has %zu tokens, but the model's embedding has %zu rows", file, made->count,
                     vocabulary);
  PITH_TRY(read_types(m));
  PITH_TRY(read_tokens(m));
  PITH_TRY(list_special(m));
  return made->sentencepiece ? read_scores(m) : read_merges(m);
}

pith_status lm_tokenizer_create(pith_context *context, const pith_gguf *model, size_t vocabulary, lm_tokenizer **out) {
  pith_memory *memory = pith_memory_share(context);
  lm_tokenizer *made = pith_memory_allocate(memory, 1, sizeof *made);
  if (!made) {
    pith_memory_unshare(memory);
    return pith_fail(context, PITH_E_MEMORY, "no memory for a tokenizer");
  }
  *made = (lm_tokenizer){.memory = memory};
  maker m = {.context = context, .model = model, .made = made};
  pith_status status = read_model(&m, vocabulary);
  if (status < 0)
    lm_tokenizer_free(made);
  else
    *out = made;
  return status;
}

void lm_tokenizer_free(lm_tokenizer *tokenizer) {
  if (!tokenizer) return;
  pith_memory *memory = tokenizer->memory;
  void *const held[] = {tokenizer->bytes,   tokenizer->begin,  tokenizer->type,       tokenizer->texts.slot,
                        tokenizer->special, tokenizer->merges, tokenizer->pairs.slot, tokenizer->score};
  for (size_t i = 0; i < sizeof held / sizeof *held; i++) pith_memory_release(memory, held[i]);
  pith_memory_release(memory, tokenizer);
  pith_memory_unshare(memory);
}

size_t lm_tokenizer_count(const lm_tokenizer *tokenizer) { return tokenizer->count; }

bool lm_tokenizer_ends(const lm_tokenizer *tokenizer, uint32_t token) {
  static const char *const names[] = {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>"};
  if (token >= tokenizer->count) return false;
  if ((int32_t)token == tokenizer->ending || (int32_t)token == tokenizer->turn_ending) return true;
  if (tokenizer->type[token] != TOKEN_CONTROL) return false;
  size_t size = token_size(tokenizer, (int32_t)token);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == size && !memcmp(names[i], tokenizer->bytes + tokenizer->begin[token], size)) return true;
  return false;
}
