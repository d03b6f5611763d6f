/* sample.h - what the words of `pith sample` share: arguments, and the stream of updates. */
#ifndef PITH_CLI_SAMPLE_H
#define PITH_CLI_SAMPLE_H

#include "pith/sampler.h"
#include "report.h"

typedef struct sample_arguments {
  common_arguments common;
  const char *updates; /* the stream; "-" is standard input */
  size_t rows, dim, draws, memory;
  int method;
  /* l2 */
  const char *x, *save, *load;
  size_t distinct, copies, depth, buckets;
  int free_x, strict, decode, cells;
  double eps, unit;
  /* tensor */
  size_t rows1, rows2;
  /* attention */
  const char *keys, *queries, *values, *output;
  size_t power, features;
  int softmax, registered;
  double scale, confidence;
  /* lower-bound */
  size_t trials;
} sample_arguments;

/* Each reads its options and its stream, and prints its draws. */
int sample_l2(cli_session *session);
int sample_tensor(cli_session *session);
int sample_attention(cli_session *session);
int sample_lower_bound(cli_session *session);

enum {                    /* what --method may be besides a pith_method */
       SAMPLE_PAIRS = 10, /* tensor */
       SAMPLE_SCAN,       /* attention */
       SAMPLE_TREE
};

/* ---- The stream: lines of text, or a .npy file of records; which of the two its first byte tells. ---- */

/* A word that begins a line, followed by `indices` indices and a delta: with one it is the column, with two row and
 * column. In records the kind is a number. A list ends with word NULL. */
typedef struct sample_word {
  const char *word;
  uint32_t kind;
  int indices;
} sample_word;

/* What was read: several updates, or one line `row i v1 ... vd`, or one line `draw T`. */
typedef enum sample_batch { SAMPLE_END, SAMPLE_UPDATES, SAMPLE_ROW, SAMPLE_DRAW } sample_batch;

enum { SAMPLE_BATCH = 4096 }; /* updates at most */

typedef struct sample_stream {
  FILE *in;
  const char *name;
  const sample_word *words;
  size_t width; /* values of a `row` line; 0: there are no such lines */
  bool records;
  size_t number, records_left; /* lines or records read; records to come */
  sample_batch batch;
  pith_update update[SAMPLE_BATCH], held;
  size_t at[SAMPLE_BATCH]; /* the line or record of each update */
  size_t count;
  uint64_t row; /* of `row` */
  double *values;
  size_t wanted; /* of `draw` */
  char *line;
  size_t room;
  bool failed, pending; /* pending: a line, or the record `held`, belongs to the next batch */
  char reason[160];     /* of the failure, told once what was read before it has been used */
} sample_stream;

/* Yield exit codes, after having said why. */
int sample_stream_open(cli_session *session, const char *path, const sample_word *words, size_t width,
                       sample_stream **out);
/* Reads the next batch, SAMPLE_END at the end. A malformed line fails only when what stands before it was handed out.
 */
int sample_stream_next(cli_session *session, sample_stream *stream);
/* Says that the library refused update `index` of the batch (or its row), and where that stands. */
int sample_stream_refused(cli_session *session, const sample_stream *stream, size_t index);
void sample_stream_close(sample_stream *stream); /* NULL is fine */

/* Adds to a report how many updates were taken, and how many a second. */
void sample_set_updates(json_t *object, size_t updates, double seconds);

#endif
