/* pith_llama.c - queries of a live llama.cpp context, and its cache with fewer cells. */
#include "pith_llama.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/llama_rewrite.h"

struct pith_llama {
  pith_gguf *model;
  pith_llama_heads heads;
  size_t rows;
  uint16_t *queries;  /* (layers, query heads, rows, key size) in f16: position p in row p % rows */
  int64_t *positions; /* (layers, rows): whose queries a row holds; -1: none */
  float *seen;        /* (seen_size): the last tensor */
  int32_t *seen_positions;
  size_t seen_size, seen_count;
  bool failed; /* no memory, or a tensor of another shape */
};

pith_status pith_llama_open(pith_context *context, const char *model, size_t rows, pith_llama **out) {
  if (rows == 0) return pith_fail(context, PITH_E_ARGUMENT, "rows: 0; give as many as the context has cells");
  pith_llama *r = pith_allocate_zero(context, 1, sizeof *r);
  if (!r) return PITH_E_MEMORY;
  r->rows = rows;
  pith_status status = pith_gguf_open(context, model, &r->model);
  if (status >= 0) status = pith_llama_heads_of(context, r->model, &r->heads);
  if (status >= 0) {
    const pith_llama_heads *h = &r->heads;
    r->queries = pith_allocate_zero(context, h->layers * h->query_heads * h->key_size, rows * sizeof *r->queries);
    r->positions = pith_allocate(context, h->layers, rows * sizeof *r->positions);
    if (!r->queries || !r->positions) status = PITH_E_MEMORY;
    for (size_t i = 0; r->positions && i < h->layers * rows; i++) r->positions[i] = -1;
  }
  if (status < 0)
    pith_llama_close(context, r);
  else
    *out = r;
  return status;
}

void pith_llama_close(pith_context *context, pith_llama *recorder) {
  if (!recorder) return;
  pith_gguf_close(recorder->model);
  pith_release(context, recorder->queries);
  pith_release(context, recorder->positions);
  free(recorder->seen);
  free(recorder->seen_positions);
  pith_release(context, recorder);
}

/* ---- Recording ---- */

static bool is_query(const struct ggml_tensor *tensor, size_t *layer) {
  static const char prefix[] = "Qcur-";
  const size_t length = sizeof prefix - 1;
  if (tensor->op != GGML_OP_ROPE || strncmp(tensor->name, prefix, length) != 0) return false;
  *layer = strtoul(tensor->name + length, NULL, 10);
  return true;
}

/* The engine runs in threads of its own, where no pith context may be used: hence the memory of the C library. */
static bool fetch(pith_llama *r, const struct ggml_tensor *tensor) {
  const size_t size = ggml_nbytes(tensor), count = (size_t)tensor->ne[2];
  if (size > r->seen_size || count > r->seen_count) {
    free(r->seen);
    free(r->seen_positions);
    r->seen = malloc(size);
    r->seen_positions = malloc(count * sizeof *r->seen_positions);
    r->seen_size = r->seen ? size : 0;
    r->seen_count = r->seen_positions ? count : 0;
    if (!r->seen || !r->seen_positions) return false;
  }
  ggml_backend_tensor_get(tensor, r->seen, 0, size);
  ggml_backend_tensor_get(tensor->src[1], r->seen_positions, 0, count * sizeof *r->seen_positions);
  return true;
}

static void keep(pith_llama *r, size_t layer, size_t token) {
  const size_t d = r->heads.key_size, heads = r->heads.query_heads;
  const int64_t position = r->seen_positions[token];
  if (position < 0) return;
  const size_t row = (size_t)position % r->rows;
  r->positions[layer * r->rows + row] = position;
  for (size_t h = 0; h < heads; h++) {
    const float *query = r->seen + (token * heads + h) * d;
    uint16_t *kept = r->queries + ((layer * heads + h) * r->rows + row) * d;
    for (size_t j = 0; j < d; j++) kept[j] = pith_f32_to_f16(query[j]);
  }
}

bool pith_llama_observe(struct ggml_tensor *tensor, bool ask, void *recorder) {
  pith_llama *r = recorder;
  size_t layer = 0;
  if (!is_query(tensor, &layer)) return !ask;
  if (ask) return true;
  const bool fits = tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor) && layer < r->heads.layers &&
                    (size_t)tensor->ne[0] == r->heads.key_size && (size_t)tensor->ne[1] == r->heads.query_heads &&
                    tensor->src[1] && tensor->src[1]->type == GGML_TYPE_I32;
  if (!fits || !fetch(r, tensor)) {
    r->failed = true;
    return true;
  }
  for (size_t token = 0; token < (size_t)tensor->ne[2]; token++) keep(r, layer, token);
  return true;
}

/* ---- What was recorded ---- */

/* The queries of positions first .. first+count-1 in order, (layers, query heads, count, d), to be released. */
static pith_status gather(pith_context *context, const pith_llama *r, size_t first, size_t count, uint16_t **out) {
  const size_t d = r->heads.key_size, heads = r->heads.layers * r->heads.query_heads;
  for (size_t i = 0; i < r->heads.layers * count; i++) {
    const size_t position = first + i % count;
    if (r->failed || r->positions[i / count * r->rows + position % r->rows] != (int64_t)position)
      return pith_fail(context, PITH_E_ARGUMENT,
                       "recorder: no queries of the token at position %zu in layer %zu; hand pith_llama_observe to the "
                       "context as cb_eval before anything is read, and give the recorder as many rows as there are "
                       "cells (it has %zu)",
                       position, i / count, r->rows);
  }
  *out = pith_allocate(context, heads * count, d * sizeof **out);
  if (!*out) return PITH_E_MEMORY;
  for (size_t h = 0; h < heads; h++)
    for (size_t i = 0; i < count; i++)
      memcpy(*out + (h * count + i) * d, r->queries + (h * r->rows + (first + i) % r->rows) * d, d * sizeof **out);
  return PITH_OK;
}

static pith_array array_of(const pith_llama_heads *h, const uint16_t *queries, size_t count) {
  const ptrdiff_t number = (ptrdiff_t)sizeof *queries, row = number * (ptrdiff_t)h->key_size,
                  head = row * (ptrdiff_t)count;
  return (pith_array){.data = queries,
                      .dtype = PITH_F16,
                      .ndim = 4,
                      .shape = {h->layers, h->query_heads, count, h->key_size},
                      .stride = {head * (ptrdiff_t)h->query_heads, head, row, number}};
}

pith_status pith_llama_save_queries(pith_context *context, const pith_llama *recorder, size_t count, const char *path) {
  uint16_t *queries = NULL;
  if (count == 0) return pith_fail(context, PITH_E_ARGUMENT, "count: 0; give as many tokens as were read");
  PITH_TRY(gather(context, recorder, 0, count, &queries));
  const pith_array array = array_of(&recorder->heads, queries, count);
  const pith_status status = pith_npy_write(context, path, &array);
  pith_release(context, queries);
  return status;
}

/* ---- Shrinking ---- */

static pith_status rewrite(pith_context *context, const pith_llama *r, const char *from, const char *to, size_t cells,
                           const pith_compress_options *options) {
  const pith_llama_heads *h = &r->heads;
  pith_llama_state *state = NULL;
  pith_llama_rows rows = {0};
  pith_summary *summary = NULL;
  uint16_t *queries = NULL;
  pith_status status = pith_llama_state_open(context, from, &state);
  if (status >= 0) status = pith_llama_state_fits(context, state, r->model, h);
  if (status >= 0 && (cells == 0 || cells > state->cells))
    status = pith_fail(context, PITH_E_BUDGET, "cells: %zu; the sequence has %zu", cells, state->cells);
  if (status >= 0) status = pith_llama_rows_open(context, state, h, &rows);
  if (status >= 0) status = gather(context, r, rows.length - state->cells, state->cells, &queries);
  if (status >= 0) {
    const pith_array asked = array_of(h, queries, state->cells);
    status = pith_llama_compress(context, to, state, h, &rows, cells, &asked, 0, options, &summary, NULL);
  }
  pith_summary_free(summary);
  pith_release(context, queries);
  pith_llama_rows_close(context, &rows);
  pith_llama_state_close(state);
  return status;
}

static bool temporary(char path[64]) {
  const char *folder = getenv("TMPDIR");
  if (!folder || strlen(folder) > 40) folder = "/tmp";
  (void)snprintf(path, 64, "%s/pith-llama-XXXXXX", folder);
  const int descriptor = mkstemp(path);
  if (descriptor >= 0) (void)close(descriptor);
  return descriptor >= 0;
}

static pith_status through_files(pith_context *context, const pith_llama *recorder, struct llama_context *llama,
                                 int sequence, size_t cells, const pith_compress_options *options, const char *from,
                                 const char *to) {
  const llama_token none = 0;
  llama_token token = 0;
  size_t count = 0;
  if (llama_state_seq_save_file(llama, from, sequence, &none, 0) == 0)
    return pith_fail(context, PITH_E_IO, "%s: llama_state_seq_save_file failed", from);
  PITH_TRY(rewrite(context, recorder, from, to, cells, options));
  if (llama_state_seq_load_file(llama, to, sequence, &token, 1, &count) > 0) return PITH_OK;
  if (llama_state_seq_load_file(llama, from, sequence, &token, 1, &count) > 0)
    return pith_fail(context, PITH_E_IO, "%s: llama_state_seq_load_file failed; the cache is as it was", to);
  return pith_fail(context, PITH_E_IO, "%s: llama_state_seq_load_file failed; the cache is lost", to);
}

pith_status pith_llama_shrink(pith_context *context, pith_llama *recorder, struct llama_context *llama, int sequence,
                              size_t cells, const pith_compress_options *options) {
  pith_compress_options chosen;
  pith_compress_options_init(&chosen);
  if (options) memcpy(&chosen, options, options->struct_size < sizeof chosen ? options->struct_size : sizeof chosen);
  /* Nobody asks from beyond what the context has room for. */
  const size_t all = llama_n_ctx(llama), room = all > cells ? all - cells : 1;
  if (chosen.horizon > room) chosen.horizon = room;
  char from[64] = "", to[64] = "";
  if (!temporary(from)) return pith_fail(context, PITH_E_IO, "%s: cannot be made", from);
  pith_status status = temporary(to) ? PITH_OK : pith_fail(context, PITH_E_IO, "%s: cannot be made", to);
  if (status >= 0) status = through_files(context, recorder, llama, sequence, cells, &chosen, from, to);
  (void)unlink(from);
  (void)unlink(to);
  return status;
}
