/* lm_perplexity.c - pith lm perplexity: what a compressed cache does to a model's predictions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lm.h"

typedef struct score {
  double *kl; /* of each row, chunk after chunk */
  size_t rows, agreed;
  double nll; /* of `targets` tokens, in nats */
  size_t targets, target_bytes;
  size_t cache_bytes, full_cache_bytes; /* of one prefix */
  double predicted_kl;
  double prefill_seconds, compress_seconds, read_seconds;
} score;

/* KL of the compressed model's prediction from the full one's. */
static double divergence(const float *full, const float *compressed, size_t count) {
  double full_mass = lm_log_mass(full, count), mass = lm_log_mass(compressed, count), sum = 0;
  for (size_t i = 0; i < count; i++) sum += exp(full[i] - full_mass) * (full[i] - full_mass - (compressed[i] - mass));
  return fmax(0, sum);
}

static void score_row(score *s, const float *full, const float *compressed, size_t vocabulary) {
  s->kl[s->rows++] = divergence(full, compressed, vocabulary);
  s->agreed += lm_largest(full, vocabulary) == lm_largest(compressed, vocabulary);
}

/* Bytes of text that the tokens stand for. */
static pith_status count_bytes(lm_run *run, const uint32_t *tokens, size_t count, size_t *bytes) {
  lm_decoder *decoder = NULL;
  pith_status status = lm_decoder_create(run->session->context, run->tokenizer, LM_ENCODE_CONTROL, &decoder);
  if (status < 0) return status;
  const char *part = NULL;
  for (size_t i = 0; i < count; i++) *bytes += lm_decoder_next(decoder, tokens[i], &part);
  *bytes += lm_decoder_end(decoder, &part);
  lm_decoder_free(run->session->context, decoder);
  return PITH_OK;
}

/* Reads on from the prefix with both caches, a block at a time. Predictions after every token of the rest count for
 * KL; those of tokens of the rest, for the loss. */
static pith_status score_rest(lm_run *run, lm_compressed *c, const uint32_t *rest, size_t count, score *s) {
  enum { BLOCK = 64 };
  const size_t vocabulary = run->info.vocabulary;
  float *logits = allocate_zero(2 * BLOCK * vocabulary, sizeof *logits), *full = logits + BLOCK * vocabulary;
  pith_status status = PITH_OK;
  for (size_t at = 0; at < count && status >= 0; at += BLOCK) {
    size_t rows = count - at < BLOCK ? count - at : BLOCK;
    if (progress_report(&run->session->progress, "scoring", at, count)) status = PITH_E_CANCELLED;
    if (status >= 0) status = lm_session_read(run->session->context, c->full, rest + at, rows, 0, full);
    double started = seconds_now();
    if (status >= 0) status = lm_session_read(run->session->context, c->after, rest + at, rows, 0, logits);
    s->read_seconds += seconds_now() - started;
    for (size_t i = 0; i < rows && status >= 0; i++) {
      const float *row = logits + i * vocabulary;
      score_row(s, full + i * vocabulary, row, vocabulary);
      if (at + i + 1 == count) break;
      s->nll += lm_log_mass(row, vocabulary) - row[rest[at + i + 1]];
      s->targets++;
    }
  }
  free(logits);
  return status;
}

static int score_chunk(lm_run *run, const uint32_t *tokens, size_t context, size_t prefix, score *s) {
  lm_compressed c;
  int code = lm_compress(run, tokens, prefix, context, &c);
  if (code) return code;
  pith_summary_info info = pith_summary_describe(c.summary);
  s->cache_bytes = info.bytes;
  s->full_cache_bytes = info.full_bytes;
  s->predicted_kl += info.predicted_kl;
  s->prefill_seconds += c.prefill_seconds;
  s->compress_seconds += c.compress_seconds;
  pith_status status = score_rest(run, &c, tokens + prefix, context - prefix, s);
  lm_compressed_free(&c);
  if (status >= 0) status = count_bytes(run, tokens + prefix + 1, context - prefix - 1, &s->target_bytes);
  return status < 0 ? session_fail(run->session, status) : EXIT_DONE;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const lm_run *run, score *s) {
  const lm_arguments *arguments = run->arguments;
  FILE *out = run->session->out;
  double kl = 0, chunks = (double)arguments->chunks;
  for (size_t i = 0; i < s->rows; i++) kl += s->kl[i] / (double)s->rows;
  qsort(s->kl, s->rows, sizeof *s->kl, ascending);
  double p99 = s->kl[(size_t)ceil(0.99 * (double)s->rows) - 1], agreement = (double)s->agreed / (double)s->rows;
  double nll = s->targets ? s->nll / (double)s->targets : NAN;
  double bits = s->target_bytes ? s->nll / log(2) / (double)s->target_bytes : NAN;
  double speed = (double)s->rows / s->read_seconds;
  double ratio = (double)s->cache_bytes / (double)s->full_cache_bytes;
  if (run->session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "engine", json_string(lm_engine(arguments)));
    json_object_set_new(object, "mode", json_string("oneshot"));
    json_object_set_new(object, "ratio", json_number(ratio));
    json_object_set_new(object, "bits_per_byte", json_number(bits));
    json_object_set_new(object, "nll", json_number(nll));
    json_object_set_new(object, "kl_mean", json_number(kl));
    json_object_set_new(object, "kl_p99", json_number(p99));
    json_object_set_new(object, "top1_agreement", json_number(agreement));
    json_object_set_new(object, "predicted_kl", json_number(s->predicted_kl / chunks));
    json_object_set_new(object, "cache_bytes", json_count(s->cache_bytes));
    json_object_set_new(object, "full_cache_bytes", json_count(s->full_cache_bytes));
    json_object_set_new(object, "prefill_seconds", json_number(s->prefill_seconds / chunks));
    json_object_set_new(object, "compress_seconds", json_number(s->compress_seconds / chunks));
    json_object_set_new(object, "tokens_per_second", json_number(speed));
    json_object_set_new(object, "tokens", json_count(s->rows));
    json_object_set_new(object, "seed", json_count(run->session->common->seed));
    json_print(object, out);
    return;
  }
  if (run->session->common->quiet) return;
  fprintf(out, "cache: %s of %s (%.4f), %s\n", text_bytes(s->cache_bytes).at, text_bytes(s->full_cache_bytes).at, ratio,
          lm_engine(arguments));
  fprintf(out, "loss: %.4f nats a token, %.4f bits a byte, over %zu tokens\n", nll, bits, s->targets);
  fprintf(out, "against the full cache: KL %.3g nats in the mean, %.3g at 99 %%; same most likely token in %s\n", kl,
          p99, text_share(agreement).at);
  if (isfinite(s->predicted_kl)) fprintf(out, "predicted KL: %.3g\n", s->predicted_kl / chunks);
  fprintf(out, "%.2f s to read a prefix, %.2f s to compress it, then %.0f tokens/s\n", s->prefill_seconds / chunks,
          s->compress_seconds / chunks, speed);
}

int lm_perplexity(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->text) return usage_error(session->command, "--text FILE is missing");
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
  if (!code) {
    score s = {.kl = allocate_zero((context - prefix) * arguments->chunks, sizeof *s.kl)};
    for (size_t i = 0; i < arguments->chunks && !code; i++)
      code = score_chunk(&run, tokens.id + i * context, context, prefix, &s);
    if (!code) report(&run, &s);
    free(s.kl);
  }
  lm_tokens_free(session->context, &tokens);
  lm_close(&run);
  return code;
}
