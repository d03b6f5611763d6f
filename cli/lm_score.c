/* lm_score.c - how far predictions move: KL against the full cache, and the loss. */
#include "lm_score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void make_room(lm_score *score, size_t more) {
  if (score->rows + more <= score->capacity) return;
  score->capacity = score->rows + more;
  double *grown = allocate_zero(score->capacity, sizeof *grown);
  if (score->rows) memcpy(grown, score->kl, score->rows * sizeof *grown);
  free(score->kl);
  score->kl = grown;
}

/* KL of the compressed model's prediction from the full one's. */
static double divergence(const float *full, const float *compressed, size_t count) {
  double full_mass = lm_log_mass(full, count), mass = lm_log_mass(compressed, count), sum = 0;
  for (size_t i = 0; i < count; i++) sum += exp(full[i] - full_mass) * (full[i] - full_mass - (compressed[i] - mass));
  return fmax(0, sum);
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

static void score_row(lm_score *score, const float *full, const float *row, size_t vocabulary, const uint32_t *next) {
  score->kl[score->rows++] = divergence(full, row, vocabulary);
  score->agreed += lm_largest(full, vocabulary) == lm_largest(row, vocabulary);
  if (!next) return;
  score->nll += lm_log_mass(row, vocabulary) - row[*next];
  score->targets++;
}

/* A block at a time with both caches, so that not all logits are held. */
static pith_status read_rest(lm_run *run, const lm_reference *full, lm_session *after, const uint32_t *rest,
                             size_t count, lm_score *score) {
  enum { BLOCK = 64 };
  pith_context *context = run->session->context;
  const size_t vocabulary = run->info.vocabulary;
  float *logits = allocate_zero(2 * BLOCK * vocabulary, sizeof *logits), *along = logits + BLOCK * vocabulary;
  pith_status status = PITH_OK;
  for (size_t at = 0; at < count && status >= 0; at += BLOCK) {
    size_t rows = count - at < BLOCK ? count - at : BLOCK;
    const float *expected = full->kept ? full->kept + at * vocabulary : along;
    if (progress_report(&run->session->progress, "scoring", at, count)) status = PITH_E_CANCELLED;
    if (status >= 0 && !full->kept) status = lm_session_read(context, full->session, rest + at, rows, 0, along);
    double started = seconds_now();
    if (status >= 0) status = lm_session_read(context, after, rest + at, rows, 0, logits);
    score->read_seconds += seconds_now() - started;
    for (size_t i = 0; i < rows && status >= 0; i++)
      score_row(score, expected + i * vocabulary, logits + i * vocabulary, vocabulary,
                at + i + 1 < count ? &rest[at + i + 1] : NULL);
  }
  free(logits);
  return status;
}

pith_status lm_score_rest(lm_run *run, const lm_reference *full, lm_session *after, const uint32_t *rest, size_t count,
                          lm_score *score) {
  make_room(score, count);
  pith_status status = read_rest(run, full, after, rest, count, score);
  if (status >= 0)
    status = progress_report(&run->session->progress, "scoring", count, count) ? PITH_E_CANCELLED : PITH_OK;
  return status < 0 ? status : count_bytes(run, rest + 1, count - 1, &score->target_bytes);
}

void lm_score_add(lm_score *score, const lm_score *part) {
  make_room(score, part->rows);
  if (part->rows) memcpy(score->kl + score->rows, part->kl, part->rows * sizeof *score->kl);
  score->rows += part->rows;
  score->agreed += part->agreed;
  score->nll += part->nll;
  score->targets += part->targets;
  score->target_bytes += part->target_bytes;
  score->read_seconds += part->read_seconds;
}

void lm_score_free(lm_score *score) {
  free(score->kl);
  *score = (lm_score){.kl = NULL};
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

lm_figures lm_score_figures(const lm_score *score) {
  double rows = (double)score->rows, sum = 0;
  lm_figures out = {NAN, NAN, NAN, NAN, NAN, NAN};
  if (score->targets) out.nll = score->nll / (double)score->targets;
  if (score->target_bytes) out.bits_per_byte = score->nll / log(2) / (double)score->target_bytes;
  if (!score->rows) return out;
  double *sorted = allocate_zero(score->rows, sizeof *sorted);
  memcpy(sorted, score->kl, score->rows * sizeof *sorted);
  qsort(sorted, score->rows, sizeof *sorted, ascending);
  for (size_t i = 0; i < score->rows; i++) sum += sorted[i];
  out.kl_mean = sum / rows;
  out.kl_p99 = sorted[(size_t)ceil(0.99 * rows) - 1];
  out.top1_agreement = (double)score->agreed / rows;
  out.tokens_per_second = rows / score->read_seconds;
  free(sorted);
  return out;
}

void json_figures(json_t *object, const lm_figures *figures) {
  json_object_set_new(object, "bits_per_byte", json_number(figures->bits_per_byte));
  json_object_set_new(object, "nll", json_number(figures->nll));
  json_object_set_new(object, "kl_mean", json_number(figures->kl_mean));
  json_object_set_new(object, "kl_p99", json_number(figures->kl_p99));
  json_object_set_new(object, "top1_agreement", json_number(figures->top1_agreement));
  json_object_set_new(object, "tokens_per_second", json_number(figures->tokens_per_second));
}
