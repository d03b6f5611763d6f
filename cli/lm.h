/* lm.h - what the words of `pith lm` share: arguments, model and tokens, a compressed cache. */
#ifndef PITH_CLI_LM_H
#define PITH_CLI_LM_H

#include "lm/lm.h"
#include "lm/tokenizer.h"
#include "report.h"

enum { MODE_ONESHOT, MODE_STREAM };
enum { UNSET_CHOICE = -1, MOST_PLACES = 32, MOST_PATTERNS = 16 };

typedef struct lm_arguments {
  common_arguments common;
  const char *model, *text, *cases, *prompt, *output;
  size_t context, prefix, chunks, tokens, top_k;
  double temperature;
  int mode, budget, store; /* budget and store: UNSET_CHOICE for what suits the engine */
  size_t cache_bytes;
  const char *save_cache, *load_cache;
  pith_compress_options options;                   /* refine: PITH_UNSET for what suits the mode */
  const char *engines, *ratios, *marks, *heat_map; /* judge */
  const char *from[MOST_PLACES];                   /* judge: words that pieces of the text begin with */
  size_t places;
  const char *pattern[MOST_PATTERNS]; /* patterns */
  size_t patterns;
} lm_arguments;

/* A model with its tokenizer, for the time of a command. */
typedef struct lm_run {
  cli_session *session;
  const lm_arguments *arguments;
  lm_model *model;
  lm_model_info info;
  lm_tokenizer *tokenizer;
  bool warned; /* of scaled rotary frequencies */
} lm_run;

/* Yield exit codes, after having said why. */
int lm_open(cli_session *session, lm_run *run);
void lm_close(lm_run *run);
/* Once for each run: where the model scales its rotary frequencies. */
void lm_warn_of_rope(lm_run *run);
/* The whole file, "-" for standard input, ended by a zero that is not counted. To be freed. */
int lm_read_file(cli_session *session, const char *option, const char *path, char **text, size_t *size);
int lm_encode(lm_run *run, const char *text, size_t size, int flags, lm_tokens *tokens);
/* Tokens of --text, at least `least` of them; tokens to be freed with lm_tokens_free. */
int lm_encode_text(lm_run *run, size_t least, lm_tokens *tokens);
/* --context and --prefix, or what they are by default. */
int lm_lengths(const lm_run *run, size_t *context, size_t *prefix);

/* A prefix, read once, that any number of compressed caches can be made of. */
typedef struct lm_prefix {
  lm_session *session; /* has read it, its queries recorded */
  size_t capacity;     /* tokens, those to come included */
  float *weights;      /* (layers, kv heads): what an error costs; NULL: too short to say */
  double seconds;      /* of reading */
} lm_prefix;

/* Freeing what a failure left is fine. */
pith_status lm_prefix_read(lm_run *run, const uint32_t *tokens, size_t count, size_t capacity, lm_prefix *out);
void lm_prefix_free(lm_prefix *prefix);

/* How a cache is compressed: an engine with what it spends bytes on, at a ratio. */
typedef struct lm_method {
  const char *engine;
  int budget, store; /* UNSET_CHOICE: what suits the engine */
  double ratio;      /* 0: exact */
} lm_method;

/* Where nothing else was asked for, nystrom spends bytes over heads and stores, and the others do neither. */
lm_method lm_method_complete(const lm_method *method);
/* The method that the command line names. */
lm_method lm_chosen(const lm_arguments *arguments);

/* The summary of a prefix, and a session that goes on from that. The prefix must outlive it. */
typedef struct lm_compressed {
  lm_run *run;
  pith_summary *summary;
  lm_session *after; /* of the prefix's capacity */
  double seconds;    /* of compressing */
} lm_compressed;

/* A ratio was given, or the engine is exact. */
bool lm_is_compressed(const lm_arguments *arguments);
pith_status lm_compress(lm_run *run, const lm_prefix *prefix, const lm_method *method, lm_compressed *out);
/* Yields the bytes that the summary held, by the count of the context. */
size_t lm_compressed_free(lm_compressed *compressed);
/* The name of the engine in use. */
const char *lm_engine(const lm_arguments *arguments);

/* Index of the largest logit. */
uint32_t lm_largest(const float *logits, size_t count);
/* log sum of exp */
double lm_log_mass(const float *logits, size_t count);

int lm_perplexity(cli_session *session);
int lm_recall(cli_session *session);
int lm_generate(cli_session *session);
int lm_chat(cli_session *session);
int lm_dump(cli_session *session);
int lm_judge(cli_session *session);
int lm_patterns(cli_session *session);

#endif
