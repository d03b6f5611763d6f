/* tokenizer_encode.c - from text to tokens: special tokens first, then neighbours joined, the best pair first.
 *
 * Byte-pair encoding and SentencePiece differ in what they begin with (bytes or characters) and in what makes a pair
 * the best (its place in the list of merges, or the score of the joined token); the joining is one. */
#include "lm/tokenizer_inside.h"

typedef struct symbol {
  size_t begin, size; /* bytes of the piece; size 0: joined to the one before */
  ptrdiff_t previous, next;
  int32_t token; /* NO_TOKEN: its bytes are no token */
} symbol;

typedef struct candidate {
  double cost; /* least first; then leftmost */
  ptrdiff_t left, right;
  size_t size; /* of both together, when it was found */
  int32_t token;
} candidate;

typedef struct encoder {
  pith_context *context;
  const lm_tokenizer *tokenizer;
  lm_tokens *tokens;
  const unsigned char *piece;
  symbol *symbols;
  candidate *heap; /* joining adds one to it at most: 2 * capacity are enough */
  size_t capacity, heap_count;
} encoder;

static pith_status put(encoder *e, int32_t token) {
  lm_tokens *tokens = e->tokens;
  if (tokens->count == tokens->capacity) {
    size_t capacity = 2 * tokens->capacity + 256;
    uint32_t *grown = pith_allocate(e->context, capacity, sizeof *grown);
    if (!grown) return PITH_E_MEMORY;
    if (tokens->count) memcpy(grown, tokens->id, tokens->count * sizeof *grown);
    pith_release(e->context, tokens->id);
    tokens->id = grown;
    tokens->capacity = capacity;
  }
  tokens->id[tokens->count++] = (uint32_t)token;
  return PITH_OK;
}

void lm_tokens_free(pith_context *context, lm_tokens *tokens) {
  pith_release(context, tokens->id);
  *tokens = (lm_tokens){0};
}

/* ---- A heap of pairs ---- */

static bool before(const candidate *a, const candidate *b) {
  return a->cost < b->cost || (!(b->cost < a->cost) && a->left < b->left);
}

static void heap_push(encoder *e, candidate added) {
  size_t at = e->heap_count++;
  for (; at > 0; at = (at - 1) / 2) {
    candidate *parent = &e->heap[(at - 1) / 2];
    if (!before(&added, parent)) break;
    e->heap[at] = *parent;
  }
  e->heap[at] = added;
}

static candidate heap_pop(encoder *e) {
  candidate top = e->heap[0], last = e->heap[--e->heap_count];
  size_t at = 0;
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= e->heap_count) break;
    if (child + 1 < e->heap_count && before(&e->heap[child + 1], &e->heap[child])) child++;
    if (!before(&e->heap[child], &last)) break;
    e->heap[at] = e->heap[child];
    at = child;
  }
  e->heap[at] = last;
  return top;
}

/* ---- One piece ---- */

static void consider(encoder *e, ptrdiff_t left, ptrdiff_t right) {
  if (left < 0 || right < 0) return;
  const lm_tokenizer *tokenizer = e->tokenizer;
  const symbol *a = &e->symbols[left], *b = &e->symbols[right];
  candidate found = {.left = left, .right = right, .size = a->size + b->size};
  if (tokenizer->sentencepiece) {
    found.token = tokenizer_find(tokenizer, e->piece + a->begin, found.size);
    if (found.token < 0) return;
    found.cost = -(double)tokenizer->score[found.token];
  } else {
    size_t number = tokenizer_find_merge(tokenizer, a->token, b->token);
    if (number == SIZE_MAX) return;
    found.token = tokenizer->merges[number].joined;
    found.cost = (double)number;
  }
  heap_push(e, found);
}

static pith_status make_room(encoder *e, size_t symbols) {
  if (symbols <= e->capacity) return PITH_OK;
  pith_release(e->context, e->symbols);
  pith_release(e->context, e->heap);
  e->capacity = 0;
  e->symbols = pith_allocate(e->context, symbols, sizeof *e->symbols);
  e->heap = pith_allocate(e->context, symbols, 2 * sizeof *e->heap);
  if (!e->symbols || !e->heap) return PITH_E_MEMORY;
  e->capacity = symbols;
  return PITH_OK;
}

/* Bytes without a joined token. */
static pith_status put_bytes(encoder *e, const unsigned char *bytes, size_t size) {
  for (size_t i = 0; i < size; i++) {
    int32_t token = e->tokenizer->byte_token[bytes[i]];
    if (token < 0) token = e->tokenizer->unknown;
    if (token < 0)
      return pith_fail(e->context, PITH_E_VALUE, "text: the vocabulary has no token for the byte 0x%02x", bytes[i]);
    PITH_TRY(put(e, token));
  }
  return PITH_OK;
}

static pith_status encode_piece(encoder *e, const unsigned char *piece, size_t size) {
  const lm_tokenizer *tokenizer = e->tokenizer;
  if (size == 0) return PITH_OK;
  if (tokenizer->whole_words) {
    int32_t token = tokenizer_find(tokenizer, piece, size);
    if (token >= 0) return put(e, token);
  }
  PITH_TRY(make_room(e, size));
  e->piece = piece;
  e->heap_count = 0;
  ptrdiff_t count = 0;
  for (size_t at = 0; at < size; count++) {
    uint32_t character = 0;
    size_t length = tokenizer->sentencepiece ? lm_character_next(piece + at, size - at, &character) : 1;
    int32_t token =
        tokenizer->sentencepiece ? tokenizer_find(tokenizer, piece + at, length) : tokenizer->byte_token[piece[at]];
    e->symbols[count] = (symbol){at, length, count - 1, at + length < size ? count + 1 : -1, token};
    at += length;
  }
  for (ptrdiff_t i = 1; i < count; i++) consider(e, i - 1, i);
  while (e->heap_count > 0) {
    candidate best = heap_pop(e);
    symbol *left = &e->symbols[best.left], *right = &e->symbols[best.right];
    if (left->size == 0 || right->size == 0 || left->size + right->size != best.size) continue; /* out of date */
    left->size = best.size;
    left->token = best.token;
    left->next = right->next;
    right->size = 0;
    if (left->next >= 0) e->symbols[left->next].previous = best.left;
    consider(e, left->previous, best.left);
    consider(e, best.left, left->next);
  }
  for (ptrdiff_t i = 0; i >= 0; i = e->symbols[i].next) {
    const symbol *s = &e->symbols[i];
    PITH_TRY(s->token >= 0 ? put(e, s->token) : put_bytes(e, piece + s->begin, s->size));
  }
  return PITH_OK;
}

/* ---- A stretch of text between special tokens ---- */

static pith_status encode_sentencepiece(encoder *e, const unsigned char *text, size_t size, bool leading_space) {
  unsigned char *copy = pith_allocate(e->context, size + 1, 1);
  if (!copy) return PITH_E_MEMORY;
  size_t written = 0;
  if (leading_space) copy[written++] = ' ';
  for (size_t i = 0; i < size;) { /* the sign for a space counts as one */
    bool space = size - i >= 3 && !memcmp(text + i, "\xe2\x96\x81", 3);
    copy[written++] = space ? ' ' : text[i];
    i += space ? 3 : 1;
  }
  pith_status status = encode_piece(e, copy, written);
  pith_release(e->context, copy);
  return status;
}

static pith_status encode_stretch(encoder *e, const unsigned char *text, size_t size, bool after_special) {
  if (size == 0) return PITH_OK;
  const lm_tokenizer *tokenizer = e->tokenizer;
  if (tokenizer->sentencepiece) return encode_sentencepiece(e, text, size, after_special && tokenizer->leading_space);
  while (size > 0) {
    size_t length = lm_split_next(tokenizer->rule, text, size);
    PITH_TRY(encode_piece(e, text, length));
    text += length;
    size -= length;
  }
  return PITH_OK;
}

/* The special token that the text begins with, the longest if several do. */
static int32_t special_at(const lm_tokenizer *tokenizer, const unsigned char *text, size_t size, int flags) {
  for (size_t i = 0; i < tokenizer->special_count; i++) {
    int32_t token = tokenizer->special[i];
    size_t length = token_size(tokenizer, token);
    if (length > size || text[0] != tokenizer->bytes[tokenizer->begin[token]]) continue;
    if (tokenizer->type[token] != TOKEN_USER_DEFINED && !(flags & LM_ENCODE_CONTROL)) continue;
    if (!memcmp(tokenizer->bytes + tokenizer->begin[token], text, length)) return token;
  }
  return NO_TOKEN;
}

static pith_status encode(encoder *e, const unsigned char *text, size_t size, int flags) {
  const lm_tokenizer *tokenizer = e->tokenizer;
  bool may_begin[256] = {false}, after_special = flags & LM_ENCODE_BEGIN;
  for (size_t i = 0; i < tokenizer->special_count; i++)
    may_begin[tokenizer->bytes[tokenizer->begin[tokenizer->special[i]]]] = true;
  if ((flags & LM_ENCODE_BEGIN) && tokenizer->opens) PITH_TRY(put(e, tokenizer->opening));
  size_t begin = 0;
  for (size_t at = 0; at < size;) {
    int32_t token = may_begin[text[at]] ? special_at(tokenizer, text + at, size - at, flags) : NO_TOKEN;
    if (token < 0) {
      at++;
      continue;
    }
    PITH_TRY(encode_stretch(e, text + begin, at - begin, after_special));
    PITH_TRY(put(e, token));
    after_special = true;
    begin = at += token_size(tokenizer, token);
  }
  return encode_stretch(e, text + begin, size - begin, after_special);
}

pith_status lm_tokenizer_encode(pith_context *context, const lm_tokenizer *tokenizer, const char *text, size_t size,
                                int flags, lm_tokens *tokens) {
  encoder e = {.context = context, .tokenizer = tokenizer, .tokens = tokens};
  size_t count = tokens->count;
  pith_status status = encode(&e, (const unsigned char *)text, size, flags);
  if (status < 0) tokens->count = count;
  pith_release(context, e.heap);
  pith_release(context, e.symbols);
  return status;
}
