/* lm_write.c - drawing tokens, and putting out their text. */
#include "lm_write.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum { STREAM_TOKENS = 300 }; /* purpose of the random numbers here */

int lm_writer_open(lm_run *run, lm_session *session, lm_writer *out) {
  *out = (lm_writer){.run = run, .session = session};
  pith_status status = lm_decoder_create(run->session->context, run->tokenizer, 0, &out->decoder);
  if (status < 0) return session_fail(run->session, status);
  out->logits = allocate_zero(run->info.vocabulary, sizeof *out->logits);
  out->sorted = allocate_zero(run->info.vocabulary, sizeof *out->sorted);
  return EXIT_DONE;
}

void lm_writer_close(lm_writer *writer) {
  if (writer->run) lm_decoder_free(writer->run->session->context, writer->decoder);
  free(writer->logits);
  free(writer->sorted);
  free(writer->text);
  *writer = (lm_writer){.written = 0};
}

int lm_writer_read(lm_writer *writer, const uint32_t *tokens, size_t count) {
  cli_session *session = writer->run->session;
  pith_status status = lm_session_read(session->context, writer->session, tokens, count, count - 1, writer->logits);
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}

/* ---- Drawing ---- */

static int descending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

static uint32_t draw(const lm_writer *w) {
  const lm_arguments *arguments = w->run->arguments;
  size_t vocabulary = w->run->info.vocabulary;
  if (arguments->temperature <= 0) return lm_largest(w->logits, vocabulary);
  float least = -INFINITY;
  if (arguments->top_k && arguments->top_k < vocabulary) {
    memcpy(w->sorted, w->logits, vocabulary * sizeof *w->sorted);
    qsort(w->sorted, vocabulary, sizeof *w->sorted, descending);
    least = w->sorted[arguments->top_k - 1];
  }
  double largest = w->logits[lm_largest(w->logits, vocabulary)], mass = 0;
  for (int pass = 0; pass < 2; pass++) {
    pith_stream stream = pith_stream_make(w->run->session->common->seed, STREAM_TOKENS, 0);
    double left = pass ? mass * pith_random_uniform(&stream, w->written) : 0;
    for (size_t i = 0; i < vocabulary; i++) {
      if (w->logits[i] < least) continue;
      double weight = exp((w->logits[i] - largest) / arguments->temperature);
      if (!pass)
        mass += weight;
      else if ((left -= weight) <= 0)
        return (uint32_t)i;
    }
  }
  return lm_largest(w->logits, vocabulary); /* rounding left a rest */
}

/* ---- Writing ---- */

static void put_out(lm_writer *w, const char *part, size_t size) {
  if (!w->run->session->common->json) {
    fwrite(part, 1, size, w->run->session->out);
    fflush(w->run->session->out);
    return;
  }
  while (w->text_size + size > w->text_capacity) {
    w->text_capacity = 2 * w->text_capacity + 1024;
    char *grown = allocate_zero(w->text_capacity, 1);
    if (w->text_size) memcpy(grown, w->text, w->text_size);
    free(w->text);
    w->text = grown;
  }
  memcpy(w->text + w->text_size, part, size);
  w->text_size += size;
}

int lm_writer_write(lm_writer *w, size_t most) {
  cli_session *session = w->run->session;
  const char *part = NULL;
  pith_status status = PITH_OK;
  w->ended = false;
  double started = seconds_now(), before = started;
  for (size_t i = 0; i < most && status >= 0; i++) {
    uint32_t token = draw(w);
    w->written++;
    w->ended = lm_tokenizer_ends(w->run->tokenizer, token);
    if (w->ended) break;
    size_t size = lm_decoder_next(w->decoder, token, &part);
    put_out(w, part, size);
    if (interrupted()) status = PITH_E_CANCELLED;
    if (status >= 0) status = lm_session_read(session->context, w->session, &token, 1, 0, w->logits);
    double now = seconds_now();
    w->pause = fmax(w->pause, now - before);
    before = now;
  }
  size_t size = lm_decoder_end(w->decoder, &part);
  put_out(w, part, size);
  w->seconds += seconds_now() - started;
  if (status == PITH_E_CANCELLED) return session_error(session, EXIT_INTERRUPTED, "interrupted");
  return status < 0 ? session_fail(session, status) : EXIT_DONE;
}
