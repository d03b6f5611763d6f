/* forward.c - a block of tokens through the model. This is the whole transformer:
 *
 *   x = embedding of the token
 *   for each layer:
 *     h = norm(x);  q, k, v = W_q h, W_k h, W_v h;  turn q and k by their position
 *     x += W_o Attn(q, all k up to here, all v up to here)
 *     h = norm(x);  x += W_down (silu(W_gate h) * W_up h)
 *   logits = W_out norm(x)
 *
 * The activations of a block are matrices with a row for each token. */
#include <math.h>

#include "lm/session.h"
#include "summary/summary.h"

typedef struct pass {
  pith_context *context;
  lm_session *session;
  const lm_model *model;
  const lm_work *work;
  const uint32_t *tokens;
  size_t count, logits_from;
  float *logits;
  size_t number; /* of the layer */
  const lm_layer *layer;
} pass;

enum { TOKENS_FOR_THREADS = 16 }; /* fewer are dealt with by the calling thread */

/* step(pass, token, thread) for every token. */
static void each_token(pass *p, pith_body step) {
  if (p->count >= TOKENS_FOR_THREADS)
    pith_parallel_for(p->context, p->count, step, p);
  else
    for (size_t t = 0; t < p->count; t++) step(p, t, 0);
}

/* ---- Norms ---- */

/* out = x / root mean square of x, times weight. */
static void normalise(const float *x, const float *weight, size_t size, float epsilon, float *out) {
  const float mean_square = pith_kernels_active()->dot(x, x, size) / (float)size;
  const float factor = 1 / sqrtf(mean_square + epsilon);
  for (size_t i = 0; i < size; i++) out[i] = x[i] * factor * weight[i];
}

static void normalise_residual(const pass *p, size_t token, const float *weight) {
  const size_t width = p->model->info.width;
  normalise(p->work->residual + token * width, weight, width, p->model->epsilon, p->work->normed + token * width);
}

static void normalise_for_attention(void *argument, size_t token, int thread) {
  (void)thread;
  normalise_residual(argument, token, ((const pass *)argument)->layer->attention_norm);
}

static void normalise_for_feed_forward(void *argument, size_t token, int thread) {
  (void)thread;
  normalise_residual(argument, token, ((const pass *)argument)->layer->feed_forward_norm);
}

static void normalise_for_output(void *argument, size_t token, int thread) {
  (void)thread;
  normalise_residual(argument, token, ((const pass *)argument)->model->output_norm);
}

/* ---- Positions ---- */

static void find_angles(const pass *p) {
  const size_t pairs = p->model->info.head_size / 2;
  for (size_t t = 0; t < p->count; t++)
    for (size_t i = 0; i < pairs; i++) {
      const double angle = (double)(p->session->length + t) * p->model->frequency[i];
      p->work->cosine[t * pairs + i] = (float)cos(angle);
      p->work->sine[t * pairs + i] = (float)sin(angle);
    }
}

/* Turns one head of a query or key by the angles of its position. */
static void turn(const lm_model_info *info, const float *cosine, const float *sine, float *x) {
  const size_t pairs = info->head_size / 2;
  const size_t step = info->rope == PITH_ROPE_PAIRS ? 2 : 1, other = info->rope == PITH_ROPE_PAIRS ? 1 : pairs;
  for (size_t i = 0; i < pairs; i++) {
    float *a = x + i * step, *b = a + other, from = *a;
    *a = from * cosine[i] - *b * sine[i];
    *b = from * sine[i] + *b * cosine[i];
  }
}

/* ---- Attention ---- */

static void store_row(const pass *p, const float *from, unsigned char *to) {
  const size_t size = p->model->info.head_size;
  if (p->session->store == PITH_F16)
    pith_kernels_active()->f32_to_f16(from, (uint16_t *)(void *)to, size);
  else
    memcpy(to, from, size * sizeof *from);
}

/* Queries, keys and values of one token: norms where the model has them, turned, and put where they belong. */
static void place_token(void *argument, size_t token, int thread) {
  (void)thread;
  const pass *p = argument;
  const lm_session *s = p->session;
  const lm_model_info *info = &p->model->info;
  const lm_layer *layer = p->layer;
  const size_t size = info->head_size, row = s->length - s->start + token;
  const float *cosine = p->work->cosine + token * (size / 2), *sine = p->work->sine + token * (size / 2);
  const float scale = 1 / sqrtf((float)size);
  for (size_t head = 0; head < info->query_heads; head++) {
    float *query = p->work->query + (token * info->query_heads + head) * size;
    if (layer->query_norm) normalise(query, layer->query_norm, size, p->model->epsilon, query);
    turn(info, cosine, sine, query);
    if (s->cache) continue; /* it takes rows as they are */
    if (s->queries) store_row(p, query, lm_session_row(s, s->queries, info->query_heads, p->number, head, row));
    float *asked = p->work->asked + (head * p->count + token) * size;
    for (size_t i = 0; i < size; i++) asked[i] = query[i] * scale;
  }
  for (size_t head = 0; head < info->kv_heads; head++) {
    float *key = p->work->key + (token * info->kv_heads + head) * size;
    if (layer->key_norm) normalise(key, layer->key_norm, size, p->model->epsilon, key);
    turn(info, cosine, sine, key);
    if (s->cache) continue;
    store_row(p, key, lm_session_row(s, s->keys, info->kv_heads, p->number, head, row));
    const float *value = p->work->value + (token * info->kv_heads + head) * size;
    store_row(p, value, lm_session_row(s, s->values, info->kv_heads, p->number, head, row));
  }
}

/* The answers of all heads of a token side by side, as the output projection wants them. */
static void gather_answers(void *argument, size_t token, int thread) {
  (void)thread;
  const pass *p = argument;
  const size_t heads = p->model->info.query_heads, size = p->model->info.head_size;
  for (size_t head = 0; head < heads; head++)
    memcpy(p->work->query + (token * heads + head) * size, p->work->answer + (head * p->count + token) * size,
           size * sizeof(float));
}

/* Each token sees the summary, where there is one, and the exact rows up to its own, or those of the pattern. */
static pith_status attend(const pass *p) {
  const lm_session *s = p->session;
  if (s->cache) return lm_cached_attend(p->context, p->session, p->number, p->count);
  const lm_model_info *info = &p->model->info;
  const size_t size = info->head_size, group = info->query_heads / info->kv_heads, read = s->length - s->start;
  pith_block_mask blocks;
  pith_mask causal = {.causal = true, .first = (ptrdiff_t)read};
  if (s->patterns) causal = lm_pattern_mask(&s->patterns[p->number], read, &blocks);
  for (size_t head = 0; head < info->kv_heads; head++) {
    const size_t first = head * group * p->count * size;
    const ptrdiff_t stride = (ptrdiff_t)(size * pith_dtype_size(s->store));
    const pith_rows exact = {.keys = lm_session_row(s, s->keys, info->kv_heads, p->number, head, 0),
                             .values = lm_session_row(s, s->values, info->kv_heads, p->number, head, 0),
                             .key_stride = stride,
                             .value_stride = stride,
                             .dtype = s->store,
                             .count = read + p->count,
                             .d = size,
                             .dv = size};
    pith_attend_job *job = &p->work->job[head];
    *job = (pith_attend_job){
        .heads = group, .queries = p->count, .query = p->work->asked + first, .out = p->work->answer + first};
    if (s->summary) {
      job->rows = pith_summary_rows(s->summary, p->number * info->kv_heads + head);
      job->later = exact;
      job->later_mask = causal;
    } else {
      job->rows = exact;
      job->mask = causal;
    }
  }
  return pith_attend_jobs(p->context, p->work->job, info->kv_heads);
}

/* ---- Layers ---- */

static void embed(void *argument, size_t token, int thread) {
  (void)thread;
  const pass *p = argument;
  const lm_matrix *embedding = &p->model->embedding;
  embedding->type->expand(lm_matrix_row(embedding, p->tokens[token]), p->work->residual + token * embedding->columns,
                          embedding->columns);
}

static void add_to_residual(void *argument, size_t token, int thread) {
  (void)thread;
  const pass *p = argument;
  const size_t width = p->model->info.width;
  float *x = p->work->residual + token * width;
  const float *added = p->work->normed + token * width;
  for (size_t i = 0; i < width; i++) x[i] += added[i];
}

/* gate = silu(gate) * up, where silu(x) = x / (1 + exp(-x)). */
static void open_gates(void *argument, size_t token, int thread) {
  (void)thread;
  const pass *p = argument;
  enum { PIECE = 256 };
  const size_t inner = p->model->info.feed_forward;
  float *gate = p->work->gate + token * inner, power[PIECE];
  const float *up = p->work->up + token * inner;
  for (size_t first = 0; first < inner; first += PIECE) {
    const size_t count = pith_min_size(PIECE, inner - first);
    for (size_t i = 0; i < count; i++) power[i] = -gate[first + i];
    pith_kernels_active()->exp_sum(power, count, 0);
    for (size_t i = 0; i < count; i++) gate[first + i] = gate[first + i] / (1 + power[i]) * up[first + i];
  }
}

/* The squared norms of what enters the feed-forward network, summed over tokens. */
static void measure_residual(const pass *p) {
  const size_t width = p->model->info.width, layers = p->model->info.layers;
  double *sum = &p->session->residual_sum[layers + p->number];
  for (size_t t = 0; t < p->count; t++) {
    const float *x = p->work->residual + t * width;
    if (p->session->length + t >= LM_RESIDUAL_FIRST) *sum += (double)pith_kernels_active()->dot(x, x, width);
  }
}

static pith_status run_layer(pass *p) {
  const lm_work *w = p->work;
  const lm_layer *layer = p->layer;
  each_token(p, normalise_for_attention);
  const lm_product projections[] = {{&layer->query, layer->query_bias, w->normed, w->query},
                                    {&layer->key, layer->key_bias, w->normed, w->key},
                                    {&layer->value, layer->value_bias, w->normed, w->value}};
  PITH_TRY(lm_multiply(p->context, projections, 3, p->count));
  each_token(p, place_token);
  PITH_TRY(attend(p));
  each_token(p, gather_answers);
  const lm_product output = {&layer->output, NULL, w->query, w->normed};
  PITH_TRY(lm_multiply(p->context, &output, 1, p->count));
  each_token(p, add_to_residual);
  measure_residual(p);

  each_token(p, normalise_for_feed_forward);
  const lm_product inner[] = {{&layer->gate, NULL, w->normed, w->gate}, {&layer->up, NULL, w->normed, w->up}};
  PITH_TRY(lm_multiply(p->context, inner, 2, p->count));
  each_token(p, open_gates);
  const lm_product down = {&layer->down, NULL, w->gate, w->normed};
  PITH_TRY(lm_multiply(p->context, &down, 1, p->count));
  each_token(p, add_to_residual);
  return PITH_OK;
}

static pith_status run(void *argument) {
  pass *p = argument;
  find_angles(p);
  each_token(p, embed);
  for (p->number = 0; p->number < p->model->info.layers; p->number++) {
    p->layer = &p->model->layer[p->number];
    PITH_TRY(run_layer(p));
  }
  if (!p->logits || p->logits_from >= p->count) return PITH_OK;
  each_token(p, normalise_for_output);
  const float *normed = p->work->normed + p->logits_from * p->model->info.width;
  const lm_product out = {&p->model->unembedding, NULL, normed, p->logits};
  return lm_multiply(p->context, &out, 1, p->count - p->logits_from);
}

pith_status lm_forward(pith_context *context, lm_session *session, const uint32_t *tokens, size_t count,
                       size_t logits_from, float *logits) {
  pass p = {.context = context,
            .session = session,
            .model = session->model,
            .work = &session->work,
            .tokens = tokens,
            .count = count,
            .logits_from = logits_from,
            .logits = logits};
  return pith_parallel_awake(context, run, &p);
}
