/* fuzz_llama_state.c - any bytes as a saved state of llama.cpp. */
#include "fuzz.h"
#include "io/llama_rewrite.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pith_context *context = NULL;
  pith_file *file = fuzz_lend(&context, data, size);
  pith_llama_state *state = NULL;
  if (pith_llama_state_parse(context, file, &state) != PITH_OK) FUZZ_REQUIRE(*pith_context_message(context));
  for (size_t i = 0; state && i < state->layers; i++) {
    const pith_llama_layer *layer = &state->layer[i];
    const size_t keys = state->cells * pith_llama_row_bytes(layer->key_type, layer->key_width),
                 values = state->cells * pith_llama_row_bytes(layer->value_type, layer->value_width);
    FUZZ_REQUIRE(layer->keys >= data && keys <= (size_t)(data + size - layer->keys));
    FUZZ_REQUIRE(layer->values >= data && values <= (size_t)(data + size - layer->values));
  }
  if (state && !state->shared && state->sequences == 1)
    FUZZ_REQUIRE(pith_llama_state_bytes(state, state->cells) == size);
  const size_t width = state ? state->layer[0].key_width : 0;
  const pith_llama_heads heads = {.layers = 1, .query_heads = 1, .kv_heads = 1, .key_size = width, .value_size = width};
  bool same = state != NULL;
  for (size_t i = 0; state && i < state->layers; i++)
    same = same && state->layer[i].key_width == width && state->layer[i].value_width == width;
  pith_llama_rows rows = {0};
  if (same && pith_llama_rows_open(context, state, &heads, &rows) == PITH_OK) FUZZ_REQUIRE(rows.length >= state->cells);
  pith_llama_rows_close(context, &rows);
  pith_llama_state_close(state);
  pith_context_free(context);
  return 0;
}
