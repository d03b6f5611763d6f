/* test_llama_state.c - states of llama.cpp: what the engine saved is read as our runner computes it, what is written is
 * what was read, and nothing else is taken. */
#include <unistd.h>

#include "io/llama_rewrite.h"
#include "llama_state_writer.h"
#include "lm/lm.h"

#define MODEL PITH_ROOT "/models/byte-lm-3m-f16.gguf"

/* Made by tools/make-llama-states: what llama.cpp saved after the first bytes of "It was". */
static const struct {
  const char *path;
  pith_llama_kind kind;
  pith_gguf_type type;
  bool transposed;
  size_t tokens;
  double room; /* of keys and values, in parts of their norm */
} saved[] = {
    {PITH_ROOT "/tests/data/llama-f16.state", PITH_LLAMA_SEQUENCE, PITH_GGUF_TENSOR_F16, false, 4, 4e-3},
    {PITH_ROOT "/tests/data/llama-q8.state", PITH_LLAMA_SEQUENCE, PITH_GGUF_TENSOR_Q8_0, false, 4, 2e-2},
    {PITH_ROOT "/tests/data/llama-f32.session", PITH_LLAMA_SESSION, PITH_GGUF_TENSOR_F32, true, 2, 4e-3},
};
enum { SAVED = sizeof saved / sizeof *saved };

typedef struct opened {
  pith_gguf *model;
  pith_llama_heads heads;
  pith_llama_state *state;
  pith_llama_rows rows;
} opened;

static opened open_saved(pith_context *context, size_t i) {
  opened o = {0};
  assert_ok(context, pith_gguf_open(context, MODEL, &o.model));
  assert_ok(context, pith_llama_heads_of(context, o.model, &o.heads));
  assert_ok(context, pith_llama_state_open(context, saved[i].path, &o.state));
  assert_ok(context, pith_llama_state_fits(context, o.state, o.model, &o.heads));
  assert_ok(context, pith_llama_rows_open(context, o.state, &o.heads, &o.rows));
  return o;
}

static void close_saved(pith_context *context, opened *o) {
  pith_llama_rows_close(context, &o->rows);
  pith_llama_state_close(o->state);
  pith_gguf_close(o->model);
}

/* Of all heads, the norm of the difference in parts of the norm. */
static double difference(pith_context *context, const pith_array *a, const pith_array *b) {
  const size_t n = a->shape[2], d = a->shape[3];
  float *left = malloc(n * d * sizeof *left), *right = malloc(n * d * sizeof *right);
  double sum = 0, norm = 0;
  assert_true(left && right);
  for (size_t i = 0; i < a->shape[0] * a->shape[1]; i++) {
    const pith_array one = pith_array_head(a, i / a->shape[1], i % a->shape[1]),
                     other = pith_array_head(b, i / a->shape[1], i % a->shape[1]);
    assert_ok(context, pith_array_to_f32(context, &one, "a", 1, left));
    assert_ok(context, pith_array_to_f32(context, &other, "b", 1, right));
    for (size_t j = 0; j < n * d; j++) {
      sum += (left[j] - right[j]) * (double)(left[j] - right[j]);
      norm += (double)right[j] * right[j];
    }
  }
  free(left);
  free(right);
  return sqrt(sum / norm);
}

/* Also that rows of whole numbers are turned back. */
static void engines_states_are_read(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (size_t i = 0; i < SAVED; i++) {
    opened o = open_saved(context, i);
    assert_int_equal(o.state->kind, saved[i].kind);
    assert_int_equal(o.state->layer[3].key_type, saved[i].type);
    assert_int_equal(o.state->transposed, saved[i].transposed);
    assert_int_equal(o.state->cells, saved[i].tokens);
    assert_int_equal(o.state->token_count, saved[i].tokens);
    assert_int_equal(o.state->positions[saved[i].tokens - 1], saved[i].tokens - 1);
    assert_int_equal(o.rows.length, saved[i].tokens);
    uint32_t tokens[4];
    for (size_t t = 0; t < saved[i].tokens; t++) {
      tokens[t] = (uint32_t)pith_llama_token(o.state, t);
      assert_int_equal(tokens[t], "It w"[t]);
    }
    lm_model *model = NULL;
    lm_session *session = NULL;
    lm_session_options options;
    lm_session_options_init(&options);
    options.capacity = saved[i].tokens;
    options.store = PITH_F32;
    pith_array keys, values;
    assert_ok(context, lm_model_load(context, MODEL, &model));
    assert_ok(context, lm_session_create(context, model, &options, &session));
    assert_ok(context, lm_session_read(context, session, tokens, saved[i].tokens, saved[i].tokens, NULL));
    assert_ok(context, lm_session_arrays(context, session, &keys, &values, NULL));
    assert_true(difference(context, &o.rows.keys, &keys) < saved[i].room);
    assert_true(difference(context, &o.rows.values, &values) < saved[i].room);
    lm_session_free(session);
    lm_model_free(model);
    close_saved(context, &o);
  }
  test_context_free(context);
}

static void temporary(char path[40]) {
  (void)strcpy(path, "/tmp/pith-test-XXXXXX");
  const int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  assert_int_equal(close(descriptor), 0);
}

static pith_summary *compress(pith_context *context, const opened *o, const char *engine, size_t points,
                              const pith_array *queries) {
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.engine = engine;
  if (points) options.points = points;
  options.store = PITH_F32;
  options.budget = PITH_BUDGET_EVEN;
  options.fold_weights = queries != NULL;
  options.sinks = 1;
  options.window = 1;
  options.probes = 4;
  if (queries) {
    options.rope = o->heads.rope;
    options.rope_base = o->heads.rope_base;
    options.query_start = 0;
  }
  pith_summary *summary = NULL;
  assert_ok(context, pith_compress(context, &o->rows.keys, &o->rows.values, queries, &options, &summary));
  return summary;
}

static void whole_states_come_back_to_the_byte(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  for (size_t i = 0; i < SAVED; i++) {
    char path[40];
    temporary(path);
    opened o = open_saved(context, i);
    pith_summary *summary = compress(context, &o, "exact", 0, NULL);
    size_t filled = 1;
    assert_ok(context, pith_llama_rewrite(context, path, o.state, &o.heads, &o.rows, summary, NULL, 0, 1, 1, &filled));
    assert_int_equal(filled, 0);
    pith_file *file = NULL;
    assert_ok(context, pith_file_open(context, path, &file));
    assert_int_equal(file->size, o.state->file->size);
    assert_int_equal(file->size, pith_llama_state_bytes(o.state, o.state->cells));
    assert_memory_equal(file->bytes, o.state->file->bytes, file->size);
    pith_file_close(file);
    pith_summary_free(summary);
    close_saved(context, &o);
    assert_int_equal(unlink(path), 0);
  }
  test_context_free(context);
}

/* Any shape: what is parsed is what was written, and writing the numbers again gives the same file but for the order of
 * cells, which the writer is told. */
static void round_trip(pith_context *context, const state_shape *shape) {
  const gguf_bytes bytes = state_make(shape);
  void *room = NULL;
  pith_llama_state *s = NULL;
  assert_ok(context, state_read(context, bytes.bytes, bytes.size, &room, &s));
  assert_int_equal(s->cells, shape->cells);
  assert_int_equal(s->layers, shape->layers);
  assert_int_equal(s->stream, shape->stream);
  assert_int_equal(s->sequence, shape->sequence);
  assert_int_equal(s->layer[0].key_width, shape->key_width);
  assert_int_equal(s->layer[0].value_width, shape->value_width);
  float **numbers = calloc(2 * shape->layers, sizeof *numbers);
  assert_non_null(numbers);
  for (size_t i = 0; i < shape->layers; i++) {
    numbers[i] = malloc(shape->cells * shape->key_width * sizeof(float));
    numbers[shape->layers + i] = malloc(shape->cells * shape->value_width * sizeof(float));
    assert_ok(context, pith_llama_state_read(context, s, i, numbers[i], numbers[shape->layers + i]));
  }
  const pith_llama_cells cells = {shape->cells, s->positions, (const float *const *)numbers,
                                  (const float *const *)(numbers + shape->layers)};
  char path[40];
  temporary(path);
  assert_ok(context, pith_llama_state_write(context, path, s, &cells));
  pith_file *file = NULL;
  assert_ok(context, pith_file_open(context, path, &file));
  assert_int_equal(file->size, bytes.size);
  assert_memory_equal(file->bytes, bytes.bytes, bytes.size);
  pith_file_close(file);
  assert_int_equal(unlink(path), 0);
  for (size_t i = 0; i < 2 * shape->layers; i++) free(numbers[i]);
  free(numbers);
  pith_llama_state_close(s);
  free(room);
  free(bytes.bytes);
}

static void any_shape_round_trips(void **state) {
  (void)state;
  static const uint32_t types[] = {PITH_GGUF_TENSOR_F32, PITH_GGUF_TENSOR_F16, PITH_GGUF_TENSOR_Q8_0};
  pith_context *context = test_context(1);
  const pith_stream stream = pith_stream_make(1, PITH_STREAM_TEST, 8);
  for (uint64_t i = 0; i < 60; i++) {
    state_shape s = {.sequences = 1, .key_type = types[i % 3], .value_type = types[i / 3 % 3]};
    s.session = i % 2;
    s.transposed = s.value_type != PITH_GGUF_TENSOR_Q8_0 && i / 9 % 2;
    s.cells = 1 + (uint32_t)pith_random_below(&stream, 10 * i, 20);
    s.layers = 1 + (uint32_t)pith_random_below(&stream, 10 * i + 1, 3);
    s.key_width = 32 * (1 + pith_random_below(&stream, 10 * i + 2, 3));
    s.value_width = 32 * (1 + pith_random_below(&stream, 10 * i + 3, 3));
    s.streams = 1 + (uint32_t)pith_random_below(&stream, 10 * i + 4, 3);
    s.stream = (uint32_t)pith_random_below(&stream, 10 * i + 5, s.streams);
    s.tokens = (uint32_t)pith_random_below(&stream, 10 * i + 6, 30);
    s.sequence = (int32_t)pith_random_below(&stream, 10 * i + 7, 200);
    round_trip(context, &s);
  }
  test_context_free(context);
}

static const state_shape sound = {.tokens = 3,
                                  .streams = 1,
                                  .cells = 3,
                                  .layers = 2,
                                  .sequences = 1,
                                  .key_type = PITH_GGUF_TENSOR_F16,
                                  .value_type = PITH_GGUF_TENSOR_F16,
                                  .key_width = 4,
                                  .value_width = 4};

static void refuse(state_shape shape, pith_status wanted, const char *word) {
  pith_context *context = test_context(1);
  const gguf_bytes bytes = state_make(&shape);
  void *room = NULL;
  pith_llama_state *s = NULL;
  assert_int_equal(state_read(context, bytes.bytes, bytes.size, &room, &s), wanted);
  assert_null(s);
  assert_non_null(strstr(pith_context_message(context), "test.state"));
  if (!strstr(pith_context_message(context), word)) fail_msg("%s: not '%s'", pith_context_message(context), word);
  free(room);
  free(bytes.bytes);
  test_context_free(context);
}

static void what_is_not_supported_is_said(void **state) {
  (void)state;
  state_shape s = sound;
  s.version = 2;
  refuse(s, PITH_E_VERSION, "version 2; this pith reads version 3");
  s.session = true;
  s.version = 9;
  refuse(s, PITH_E_VERSION, "session version 9");
  s = sound;
  s.key_type = PITH_GGUF_TENSOR_Q4_0; /* the writer takes what is no other for Q8_0 */
  s.key_width = 32;
  refuse(s, PITH_E_TYPE, "the type of keys of layer 0 is number 2");
  s = sound;
  s.extra = 4;
  refuse(s, PITH_E_FORMAT, "second memory");
  s = sound;
  s.valueless = true;
  refuse(s, PITH_E_FORMAT, "MLA");
  s = sound;
  s.cells = s.tokens = 0;
  refuse(s, PITH_E_FORMAT, "no cells");
  s = sound;
  s.streams = 300;
  refuse(s, PITH_E_FORMAT, "300 streams");
  s = sound;
  s.sequence = 999;
  refuse(s, PITH_E_FORMAT, "sequence 999");
}

static void several_sequences_are_not_rewritten(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  state_shape s = sound;
  s.sequences = 2;
  const gguf_bytes bytes = state_make(&s);
  void *room = NULL;
  pith_llama_state *two = NULL;
  pith_llama_rows rows;
  const pith_llama_heads heads = {.layers = 2, .query_heads = 1, .kv_heads = 1, .key_size = 4, .value_size = 4};
  assert_ok(context, state_read(context, bytes.bytes, bytes.size, &room, &two));
  assert_int_equal(two->sequences, 2);
  assert_int_equal(pith_llama_rows_open(context, two, &heads, &rows), PITH_E_FORMAT);
  assert_non_null(strstr(pith_context_message(context), "2 sequences"));
  pith_llama_state_close(two);
  free(room);
  free(bytes.bytes);
  test_context_free(context);
}

/* Cut anywhere, a file is refused; with any byte changed it is refused, or read without harm. */
static void damaged_files_do_no_harm(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  state_shape shape = sound;
  for (int kind = 0; kind < 4; kind++) {
    shape.session = kind % 2;
    shape.transposed = kind / 2;
    const gguf_bytes bytes = state_make(&shape);
    void *room = NULL;
    pith_llama_state *s = NULL;
    for (size_t size = 0; size < bytes.size; size++) {
      const pith_status status = state_read(context, bytes.bytes, size, &room, &s);
      assert_true(status == PITH_E_FORMAT);
      free(room);
    }
    for (size_t at = 0; at < 8 * bytes.size; at++) {
      bytes.bytes[at / 8] ^= (unsigned char)(1 << at % 8);
      if (state_read(context, bytes.bytes, bytes.size, &room, &s) >= 0) pith_llama_state_close(s);
      free(room);
      bytes.bytes[at / 8] ^= (unsigned char)(1 << at % 8);
    }
    free(bytes.bytes);
  }
  test_context_free(context);
}

static void other_models_are_refused(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  opened o = open_saved(context, 2);
  pith_llama_heads other = o.heads;
  other.layers = 5;
  assert_int_equal(pith_llama_state_fits(context, o.state, o.model, &other), PITH_E_SHAPE);
  assert_non_null(strstr(pith_context_message(context), "4 layers"));
  other = o.heads;
  other.kv_heads = 1;
  assert_int_equal(pith_llama_state_fits(context, o.state, o.model, &other), PITH_E_SHAPE);
  assert_non_null(strstr(pith_context_message(context), "128"));
  other = o.heads;
  other.architecture = (pith_gguf_text){"qwen2", 5};
  assert_int_equal(pith_llama_state_fits(context, o.state, o.model, &other), PITH_E_SHAPE);
  assert_non_null(strstr(pith_context_message(context), "architecture llama"));
  close_saved(context, &o);
  test_context_free(context);
}

/* Models that keep something else, by what their files say. */
static void refuse_model(const char *architecture, const char *key, const char *word) {
  pith_context *context = test_context(1);
  gguf_writer w = {0};
  char full[80];
  static const char *const sizes[] = {"block_count", "embedding_length", "attention.head_count"};
  gguf_text(&w, "general.architecture", architecture);
  for (size_t i = 0; i < 3; i++) {
    (void)snprintf(full, sizeof full, "%s.%s", architecture, sizes[i]);
    gguf_u32(&w, full, 8);
  }
  if (key) {
    (void)snprintf(full, sizeof full, "%s.%s", architecture, key);
    gguf_u32(&w, full, 6);
  }
  const gguf_bytes bytes = gguf_finish(&w);
  void *room = NULL;
  pith_gguf *model = NULL;
  pith_llama_heads heads;
  assert_ok(context, gguf_read(context, bytes.bytes, bytes.size, &room, &model));
  assert_true(pith_llama_heads_of(context, model, &heads) < 0);
  if (!strstr(pith_context_message(context), word)) fail_msg("%s: not '%s'", pith_context_message(context), word);
  pith_gguf_close(model);
  free(room);
  free(bytes.bytes);
  test_context_free(context);
}

static void other_kinds_of_attention_are_refused(void **state) {
  (void)state;
  refuse_model("phi3", "attention.sliding_window", "sliding window");
  refuse_model("llama", "attention.kv_lora_rank", "MLA");
  refuse_model("granite", "ssm.state_size", "recurrent");
  refuse_model("qwen2", "rope.dimension_sections", "M-RoPE");
  refuse_model("gemma", "attn_logit_softcapping", "capped");
  refuse_model("llama", "rope.dimension_count", "whole keys");
  refuse_model("mamba", NULL, "mamba cannot be rewritten");
}

/* ---- What rewritten states answer ---- */

enum { TOKENS = 160, POINTS = 36 };

/* A state of F32 numbers that the runner computes, and its queries. */
typedef struct prose {
  lm_model *model;
  lm_session *session;
  pith_array keys, values, queries;
  gguf_bytes bytes;
  void *room;
} prose;

static void put_rows(pith_context *context, gguf_bytes *to, const pith_array *array, size_t layer) {
  const size_t heads = array->shape[1], n = array->shape[2], d = array->shape[3];
  float *rows = malloc(n * heads * d * sizeof *rows), *one = malloc(n * d * sizeof *one);
  assert_true(rows && one);
  for (size_t h = 0; h < heads; h++) {
    const pith_array head = pith_array_head(array, layer, h);
    assert_ok(context, pith_array_to_f32(context, &head, "rows", 1, one));
    for (size_t i = 0; i < n; i++) memcpy(rows + (i * heads + h) * d, one + i * d, d * sizeof *one);
  }
  gguf_put(to, rows, n * heads * d * sizeof *rows);
  free(rows);
  free(one);
}

static opened open_prose(pith_context *context, prose *p) {
  opened o = {0};
  uint32_t tokens[TOKENS];
  static const char text[] = "It was the season of Light, it was the season of Darkness. ";
  for (size_t i = 0; i < TOKENS; i++) tokens[i] = (unsigned char)text[i * i % (sizeof text - 1)];
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = TOKENS;
  options.store = PITH_F32;
  options.record_queries = true;
  assert_ok(context, lm_model_load(context, MODEL, &p->model));
  assert_ok(context, lm_session_create(context, p->model, &options, &p->session));
  assert_ok(context, lm_session_read(context, p->session, tokens, TOKENS, TOKENS, NULL));
  assert_ok(context, lm_session_arrays(context, p->session, &p->keys, &p->values, &p->queries));
  const size_t layers = p->keys.shape[0], width = p->keys.shape[1] * p->keys.shape[3];
  const uint32_t head[] = {0x67677371, 3, 0, 1, TOKENS};
  gguf_put(&p->bytes, head, sizeof head);
  for (uint32_t i = 0; i < TOKENS; i++) gguf_put(&p->bytes, (uint32_t[]){i, 1, 0}, 12);
  gguf_put(&p->bytes, (uint32_t[]){0, (uint32_t)layers}, 8);
  for (size_t part = 0; part < 2; part++)
    for (size_t i = 0; i < layers; i++) {
      gguf_put_u32(&p->bytes, PITH_GGUF_TENSOR_F32);
      gguf_put_u64(&p->bytes, width * sizeof(float));
      put_rows(context, &p->bytes, part ? &p->values : &p->keys, i);
    }
  assert_ok(context, pith_gguf_open(context, MODEL, &o.model));
  assert_ok(context, pith_llama_heads_of(context, o.model, &o.heads));
  assert_ok(context, state_read(context, p->bytes.bytes, p->bytes.size, &p->room, &o.state));
  assert_ok(context, pith_llama_rows_open(context, o.state, &o.heads, &o.rows));
  return o;
}

static void close_prose(pith_context *context, prose *p, opened *o) {
  close_saved(context, o);
  lm_session_free(p->session);
  lm_model_free(p->model);
  free(p->room);
  free(p->bytes.bytes);
}

/* Largest difference between what the cells of the file answer, all of weight one, and what the summary does. */
static double worst_answer(pith_context *context, const char *path, const opened *o, const pith_summary *summary,
                           const pith_array *queries) {
  pith_llama_state *written = NULL;
  pith_llama_rows rows;
  assert_ok(context, pith_llama_state_open(context, path, &written));
  assert_ok(context, pith_llama_rows_open(context, written, &o->heads, &rows));
  assert_int_equal(rows.length, TOKENS);
  opened again = {.heads = o->heads, .rows = rows};
  pith_summary *cells = compress(context, &again, "exact", 0, NULL);
  const pith_array late = pith_array_rows(queries, TOKENS / 2, TOKENS / 2);
  const size_t count = late.shape[0] * late.shape[1] * late.shape[2] * late.shape[3];
  float *found = malloc(count * sizeof *found), *wanted = malloc(count * sizeof *wanted);
  assert_ok(context, pith_summary_attend(context, cells, &late, 0, found));
  assert_ok(context, pith_summary_attend(context, summary, &late, 0, wanted));
  double worst = 0;
  for (size_t i = 0; i < count; i++) worst = fmax(worst, fabs(found[i] - wanted[i]));
  free(found);
  free(wanted);
  pith_summary_free(cells);
  pith_llama_rows_close(context, &rows);
  pith_llama_state_close(written);
  return worst;
}

/* Whether the first and the last rows of all heads are at their positions as they were. */
static void ends_are_exact(pith_context *context, const char *path, const opened *o, size_t sinks, size_t window) {
  pith_llama_state *written = NULL;
  pith_llama_rows rows;
  assert_ok(context, pith_llama_state_open(context, path, &written));
  assert_ok(context, pith_llama_rows_open(context, written, &o->heads, &rows));
  const size_t cells = written->cells;
  for (size_t i = 0; i < sinks + window; i++) {
    const size_t old = i < sinks ? i : TOKENS - window + i - sinks, new = i < sinks ? i : cells - window + i - sinks;
    const pith_array was[2] = {pith_array_rows(&o->rows.keys, old, 1), pith_array_rows(&o->rows.values, old, 1)},
                     is[2] = {pith_array_rows(&rows.keys, new, 1), pith_array_rows(&rows.values, new, 1)};
    assert_true(difference(context, &is[0], &was[0]) == 0);
    assert_true(difference(context, &is[1], &was[1]) == 0);
    assert_int_equal(written->positions[new], old);
  }
  pith_llama_rows_close(context, &rows);
  pith_llama_state_close(written);
}

static void cells_answer_as_the_summary(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  prose p = {0};
  opened o = open_prose(context, &p);
  char path[40];
  temporary(path);
  pith_summary *summary = compress(context, &o, "nystrom", POINTS, &p.queries);
  size_t filled = 0;
  assert_ok(context,
            pith_llama_rewrite(context, path, o.state, &o.heads, &o.rows, summary, &p.queries, 0, 1024, 1, &filled));
  assert_int_equal(filled, 0);
  ends_are_exact(context, path, &o, 1, 1);
  assert_true(worst_answer(context, path, &o, summary, &p.queries) < 1e-3);
  pith_summary_free(summary);
  assert_int_equal(unlink(path), 0);
  close_prose(context, &p, &o);
  test_context_free(context);
}

/* Where heads have fewer points than the largest, what fills them up takes its weight from one of them, so that answers
 * stay what they were but for the spread of <q, u>. */
static void fuller_heads_answer_nearly_so(void **state) {
  (void)state;
  pith_context *context = test_context(2);
  prose p = {0};
  opened o = open_prose(context, &p);
  char path[40];
  temporary(path);
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.sinks = options.window = 1;
  options.budget = PITH_BUDGET_SPREAD;
  options.store = PITH_F32;
  options.ratio = 0.5;
  options.fold_weights = 1;
  options.refine = 0;
  options.rope = o.heads.rope;
  options.rope_base = o.heads.rope_base;
  options.query_start = 0;
  pith_summary *summary = NULL;
  size_t filled = 0;
  assert_ok(context, pith_compress(context, &o.rows.keys, &o.rows.values, &p.queries, &options, &summary));
  assert_ok(context,
            pith_llama_rewrite(context, path, o.state, &o.heads, &o.rows, summary, &p.queries, 0, 1024, 1, &filled));
  assert_true(filled > 0);
  ends_are_exact(context, path, &o, 1, 1);
  const double worst = worst_answer(context, path, &o, summary, &p.queries);
  print_message("%zu cells fill heads up: answers differ by %.2g at most\n", filled, worst);
  assert_true(worst < 2.5); /* copies of one point only, which share its weight: 22 */
  pith_summary_free(summary);
  assert_int_equal(unlink(path), 0);
  close_prose(context, &p, &o);
  test_context_free(context);
}

static void weights_must_be_folded(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  prose p = {0};
  opened o = open_prose(context, &p);
  char path[40];
  temporary(path);
  assert_int_equal(unlink(path), 0);
  pith_summary *summary = compress(context, &o, "uniform", POINTS, NULL);
  assert_int_equal(pith_llama_rewrite(context, path, o.state, &o.heads, &o.rows, summary, NULL, 0, 1024, 4, NULL),
                   PITH_E_ARGUMENT);
  assert_non_null(strstr(pith_context_message(context), "fold"));
  assert_true(access(path, F_OK) != 0);
  pith_summary_free(summary);
  close_prose(context, &p, &o);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(engines_states_are_read),
      cmocka_unit_test(whole_states_come_back_to_the_byte),
      cmocka_unit_test(any_shape_round_trips),
      cmocka_unit_test(what_is_not_supported_is_said),
      cmocka_unit_test(several_sequences_are_not_rewritten),
      cmocka_unit_test(damaged_files_do_no_harm),
      cmocka_unit_test(other_models_are_refused),
      cmocka_unit_test(other_kinds_of_attention_are_refused),
      cmocka_unit_test(cells_answer_as_the_summary),
      cmocka_unit_test(fuller_heads_answer_nearly_so),
      cmocka_unit_test(weights_must_be_folded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
