/* lm_write.h - a model that writes: tokens are drawn, read, and their text handed out. */
#ifndef PITH_CLI_LM_WRITE_H
#define PITH_CLI_LM_WRITE_H

#include "lm.h"

typedef struct lm_writer {
  lm_run *run;
  lm_session *session; /* the one that writes, its caller's */
  lm_decoder *decoder;
  float *logits; /* after the last token read */
  float *sorted; /* scratch of the size of the vocabulary */
  char *text;    /* what was written, for JSON */
  size_t text_size, text_capacity;
  size_t written;        /* tokens, in all */
  bool ended;            /* the model ended its text itself */
  double seconds, pause; /* of writing; the longest between two tokens */
} lm_writer;

/* Yield exit codes, after having said why. Closing what a failure left is fine. */
int lm_writer_open(lm_run *run, lm_session *session, lm_writer *out);
void lm_writer_close(lm_writer *writer);
/* Reads what is to be answered: at least one token. */
int lm_writer_read(lm_writer *writer, const uint32_t *tokens, size_t count);
/* Writes until the model ends its text, `most` tokens at most. Text goes to the session's output as it comes, and with
 * --json to `text` instead. */
int lm_writer_write(lm_writer *writer, size_t most);

#endif
