/* lm_perplexity.c - pith lm perplexity: what a compressed cache does to a model's predictions. */
#include <math.h>
#include <stdlib.h>

#include "lm_score.h"

typedef struct perplexity {
  lm_score score;
  size_t cache_bytes, full_cache_bytes; /* of one prefix */
  double predicted_kl, prefill_seconds,
      compress_seconds;  /* summed over pieces; compress: stream: folds, over all threads */
  double stream_seconds; /* stream: of reading prefixes, folding included */
  pith_cache_info cache; /* stream: of the last piece */
} perplexity;

static int score_chunk(lm_run *run, const uint32_t *tokens, size_t context, size_t prefix, perplexity *p) {
  lm_prefix read;
  lm_method method = lm_chosen(run->arguments);
  lm_compressed c;
  pith_status status = lm_prefix_read(run, tokens, prefix, context, &read);
  if (status >= 0) status = lm_compress(run, &read, &method, &c);
  if (status >= 0) {
    pith_summary_info info = pith_summary_describe(c.summary);
    lm_reference full = {.session = read.session};
    p->cache_bytes = info.bytes;
    p->full_cache_bytes = info.full_bytes;
    p->predicted_kl += info.predicted_kl;
    p->prefill_seconds += read.seconds;
    p->compress_seconds += c.seconds;
    status = lm_score_rest(run, &full, c.after, tokens + prefix, context - prefix, &p->score);
    lm_compressed_free(&c);
  }
  lm_prefix_free(&read);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

/* ---- Stream ---- */

/* A block at a time with both, so that the times of reading and of folding stand side by side. */
static pith_status read_both(lm_run *run, const uint32_t *tokens, size_t count, lm_session *full,
                             const lm_stream *stream, perplexity *p) {
  enum { BLOCK = 512 };
  pith_context *context = run->session->context;
  pith_status status = PITH_OK;
  for (size_t at = 0; at < count && status >= 0; at += BLOCK) {
    size_t size = count - at < BLOCK ? count - at : BLOCK;
    if (progress_report(&run->session->progress, "reading", at, count)) return PITH_E_CANCELLED;
    double started = seconds_now();
    status = lm_session_read(context, full, tokens + at, size, size, NULL);
    p->prefill_seconds += seconds_now() - started;
    started = seconds_now();
    if (status >= 0) status = lm_session_read(context, stream->session, tokens + at, size, size, NULL);
    p->stream_seconds += seconds_now() - started;
  }
  if (status >= 0) p->compress_seconds += pith_cache_describe(stream->cache).fold_seconds;
  return status < 0 || !progress_report(&run->session->progress, "reading", count, count) ? status : PITH_E_CANCELLED;
}

static int score_stream(lm_run *run, const uint32_t *tokens, size_t context, size_t prefix, perplexity *p) {
  pith_context *memory = run->session->context;
  const lm_method method = lm_chosen(run->arguments);
  lm_reference full = {.session = NULL};
  lm_stream stream = {NULL, NULL};
  lm_session_options options;
  lm_session_options_init(&options);
  options.capacity = context;
  p->full_cache_bytes = lm_full_bytes(run, context);
  p->predicted_kl = NAN;
  pith_status status = lm_session_create(memory, run->model, &options, &full.session);
  if (status >= 0) status = lm_stream_open(run, &method, method.ratio * (double)p->full_cache_bytes, &stream);
  if (status >= 0) status = read_both(run, tokens, prefix, full.session, &stream, p);
  if (status >= 0) status = lm_score_rest(run, &full, stream.session, tokens + prefix, context - prefix, &p->score);
  if (status >= 0) {
    p->cache = pith_cache_describe(stream.cache);
    p->cache_bytes = p->cache.bytes;
  }
  int code = status < 0 ? session_fail(run->session, status) : EXIT_DONE;
  lm_stream_close(run, &stream);
  lm_session_free(full.session);
  return code;
}

/* What pushing and folding add to reading, as a share of it. */
static double push_cost(const perplexity *p) { return p->stream_seconds / p->prefill_seconds - 1; }

static void report(const lm_run *run, const perplexity *p) {
  const lm_arguments *arguments = run->arguments;
  FILE *out = run->session->out;
  lm_figures figures = lm_score_figures(&p->score);
  bool stream = arguments->mode == MODE_STREAM;
  double chunks = (double)arguments->chunks, ratio = (double)p->cache_bytes / (double)p->full_cache_bytes;
  if (run->session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "engine", json_string(lm_engine(arguments)));
    json_object_set_new(object, "mode", json_string(stream ? "stream" : "oneshot"));
    json_object_set_new(object, "ratio", json_number(ratio));
    json_figures(object, &figures);
    json_object_set_new(object, "predicted_kl", json_number(p->predicted_kl / chunks));
    json_object_set_new(object, "cache_bytes", json_count(p->cache_bytes));
    json_object_set_new(object, "full_cache_bytes", json_count(p->full_cache_bytes));
    json_object_set_new(object, "prefill_seconds", json_number(p->prefill_seconds / chunks));
    json_object_set_new(object, "compress_seconds", json_number(p->compress_seconds / chunks));
    if (stream) {
      json_object_set_new(object, "stream_seconds", json_number(p->stream_seconds / chunks));
      json_object_set_new(object, "push_cost", json_number(push_cost(p)));
      json_stream(object, &p->cache);
    }
    json_object_set_new(object, "tokens", json_count(p->score.rows));
    json_object_set_new(object, "seed", json_count(run->session->common->seed));
    json_print(object, out);
    return;
  }
  if (run->session->common->quiet) return;
  fprintf(out, "cache: %s of %s (%.4f), %s\n", text_bytes(p->cache_bytes).at, text_bytes(p->full_cache_bytes).at, ratio,
          lm_engine(arguments));
  fprintf(out, "loss: %.4f nats a token, %.4f bits a byte, over %zu tokens\n", figures.nll, figures.bits_per_byte,
          p->score.targets);
  fprintf(out, "against the full cache: KL %.3g nats in the mean, %.3g at 99 %%; same most likely token in %s\n",
          figures.kl_mean, figures.kl_p99, text_share(figures.top1_agreement).at);
  if (isfinite(p->predicted_kl)) fprintf(out, "predicted KL: %.3g\n", p->predicted_kl / chunks);
  if (stream)
    fprintf(out,
            "%.2f s to read a prefix on the full cache, %.2f s on this one, %.0f %% more; longest step of a fold %.1f "
            "ms\n%s held in all\n",
            p->prefill_seconds / chunks, p->stream_seconds / chunks, 100 * push_cost(p),
            1e3 * p->cache.max_step_seconds, text_bytes(p->cache.held_bytes).at);
  else
    fprintf(out, "%.2f s to read a prefix, %.2f s to compress it, then %.0f tokens/s\n", p->prefill_seconds / chunks,
            p->compress_seconds / chunks, figures.tokens_per_second);
}

int lm_perplexity(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->text) return usage_error(session->command, "--text FILE is missing");
  const bool stream = arguments->mode == MODE_STREAM;
  if (stream && !(arguments->options.ratio > 0))
    return usage_error(session->command, "no size; give --ratio R, the share of the bytes of all tokens");
  if (!lm_is_compressed(arguments))
    return usage_error(session->command, "no size; give --ratio R, or --engine exact for the whole cache");
  lm_run run;
  int code = lm_open(session, &run);
  if (code) return code;
  size_t context = 0, prefix = 0, all = 0;
  lm_tokens tokens = {0};
  code = lm_lengths(&run, &context, &prefix);
  if (!code && __builtin_mul_overflow(context, arguments->chunks, &all))
    code = session_error(session, EXIT_USAGE, "--chunks %zu: too many", arguments->chunks);
  if (!code) code = lm_encode_text(&run, all, &tokens);
  perplexity p = {.cache_bytes = 0};
  for (size_t i = 0; i < arguments->chunks && !code; i++)
    code = (stream ? score_stream : score_chunk)(&run, tokens.id + i * context, context, prefix, &p);
  if (!code) report(&run, &p);
  lm_score_free(&p.score);
  lm_tokens_free(session->context, &tokens);
  lm_close(&run);
  return code;
}
