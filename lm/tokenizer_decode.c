/* tokenizer_decode.c - from tokens to text, whole characters at a time. */
#include "lm/tokenizer_inside.h"

struct lm_decoder {
  const lm_tokenizer *tokenizer;
  bool drop_space, with_control;
  size_t handed, held; /* bytes of `buffer` handed out by the last call, and held back after them */
  char buffer[];       /* longest token + 3 */
};

enum { HELD_MOST = 3 };

pith_status lm_decoder_create(pith_context *context, const lm_tokenizer *tokenizer, int flags, lm_decoder **out) {
  lm_decoder *made = pith_allocate(context, 1, sizeof *made + tokenizer->longest + HELD_MOST);
  if (!made) return PITH_E_MEMORY;
  *made = (lm_decoder){.tokenizer = tokenizer,
                       .drop_space = (flags & LM_ENCODE_BEGIN) && tokenizer->leading_space,
                       .with_control = flags & LM_ENCODE_CONTROL};
  *out = made;
  return PITH_OK;
}

void lm_decoder_free(pith_context *context, lm_decoder *decoder) { pith_release(context, decoder); }

/* Bytes at the end that begin a character whose other bytes may still come. */
static size_t incomplete(const unsigned char *text, size_t size) {
  for (size_t back = 1; back <= HELD_MOST && back <= size; back++) {
    unsigned char byte = text[size - back];
    if (byte >= 0xf5 || byte < 0x80) return 0;
    if (byte >= 0xc2) return back < (byte >= 0xf0 ? 4u : byte >= 0xe0 ? 3u : 2u) ? back : 0;
    if (byte >= 0xc0) return 0;
  }
  return 0;
}

size_t lm_decoder_next(lm_decoder *decoder, uint32_t token, const char **text) {
  const lm_tokenizer *tokenizer = decoder->tokenizer;
  memmove(decoder->buffer, decoder->buffer + decoder->handed, decoder->held);
  size_t size = decoder->held;
  *text = decoder->buffer;
  if (token < tokenizer->count) {
    int type = tokenizer->type[token];
    const unsigned char *bytes = tokenizer->bytes + tokenizer->begin[token];
    size_t length = token_size(tokenizer, (int32_t)token);
    bool silent = (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN) && !decoder->with_control;
    if (silent) length = 0;
    if (decoder->drop_space && length > 0 && type != TOKEN_CONTROL) {
      decoder->drop_space = false;
      if (bytes[0] == ' ') {
        bytes++;
        length--;
      }
    }
    memcpy(decoder->buffer + size, bytes, length);
    size += length;
  }
  decoder->held = incomplete((const unsigned char *)decoder->buffer, size);
  decoder->handed = size - decoder->held;
  return decoder->handed;
}

size_t lm_decoder_end(lm_decoder *decoder, const char **text) {
  *text = decoder->buffer + decoder->handed;
  size_t size = decoder->held;
  decoder->handed += size;
  decoder->held = 0;
  return size;
}
