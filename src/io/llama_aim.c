/* llama_aim.c - how many cells a loss takes. Cells are common to all heads, so the few heads that make nearly all of
 * the loss say how many; the others get more than they need. */
#include <math.h>
#include <stdlib.h>

#include "base/base.h"
#include "io/llama_rewrite.h"

/* Heads matter that together make this share of the loss that a quick look predicts, at one cell in LOOK. */
static const double MATTERS = 0.9;
enum { LOOK = 8, LOOK_SAMPLES = 1024, TRIALS = 6 };

typedef struct head_loss {
  size_t layer, head;
  double loss;
} head_loss;

typedef struct aiming {
  const pith_llama_rows *rows;
  const pith_array *queries;
  const pith_compress_options *options;
  head_loss *heads; /* (count), the first `matter` of which matter */
  size_t count, matter;
  double rest; /* cells times the loss of the others, as the look found it: fits make it smaller, cells too */
} aiming;

static pith_array one_head(const pith_array *array, size_t layer, size_t head, size_t heads) {
  pith_array one = *array;
  one.data = (const unsigned char *)array->data + (ptrdiff_t)layer * array->stride[0] +
             (ptrdiff_t)(head * heads) * array->stride[1];
  one.shape[0] = 1;
  one.shape[1] = heads;
  return one;
}

/* What the law of theory 4.8 predicts that this head adds to the KL. */
static pith_status predict(pith_context *context, const aiming *a, const head_loss *h, size_t cells, bool quick,
                           double *loss) {
  const size_t group = a->queries->shape[1] / a->rows->keys.shape[1];
  const pith_array keys = one_head(&a->rows->keys, h->layer, h->head, 1),
                   values = one_head(&a->rows->values, h->layer, h->head, 1),
                   queries = one_head(a->queries, h->layer, h->head, group),
                   weight = one_head(a->options->head_weights, h->layer, h->head, 1);
  pith_compress_options o = *a->options;
  o.points = cells;
  o.head_weights = &weight;
  if (quick) {
    o.refine = 0;
    o.fold_weights = 0;
    o.samples = LOOK_SAMPLES;
  }
  pith_summary *summary = NULL;
  PITH_TRY(pith_compress(context, &keys, &values, &queries, &o, &summary));
  *loss = pith_summary_describe(summary).predicted_kl;
  pith_summary_free(summary);
  return PITH_OK;
}

static int larger_first(const void *a, const void *b) {
  const double first = ((const head_loss *)a)->loss, second = ((const head_loss *)b)->loss;
  return (first < second) - (first > second);
}

static pith_status find_heads(pith_context *context, aiming *a) {
  const size_t heads = a->rows->keys.shape[1], n = a->rows->keys.shape[2],
               cells = pith_min_size(n, pith_max_size(n / LOOK, a->options->sinks + a->options->window + 1));
  double all = 0, some = 0;
  for (size_t i = 0; i < a->count; i++) {
    a->heads[i] = (head_loss){i / heads, i % heads, 0};
    PITH_TRY(predict(context, a, &a->heads[i], cells, true, &a->heads[i].loss));
    all += a->heads[i].loss;
  }
  qsort(a->heads, a->count, sizeof *a->heads, larger_first);
  while (a->matter < a->count && (a->matter == 0 || some < MATTERS * all)) some += a->heads[a->matter++].loss;
  a->rest = (double)cells * (all - some);
  return PITH_OK;
}

static pith_status predict_all(pith_context *context, const aiming *a, size_t cells, double *loss) {
  *loss = a->rest / (double)cells;
  for (size_t i = 0; i < a->matter; i++) {
    double one = 0;
    PITH_TRY(predict(context, a, &a->heads[i], cells, false, &one));
    *loss += one;
  }
  return PITH_OK;
}

/* The loss falls about as the number of cells grows: so from guess to guess, between one that failed and one that
 * met the aim. */
static pith_status search(pith_context *context, const aiming *a, double aim, size_t *cells) {
  const double near = 0.8, sure = 0.95; /* the fit that follows draws other numbers */
  aim *= sure;
  const size_t n = a->rows->keys.shape[2], least = pith_min_size(n, a->options->sinks + a->options->window + 1);
  size_t failed = least - 1, good = n, guess = pith_max_size(least, n / LOOK);
  for (int trial = 0; trial < TRIALS && good - failed > 1 + good / 16; trial++) {
    double loss = 0;
    PITH_TRY(predict_all(context, a, guess, &loss));
    if (loss <= aim)
      good = guess;
    else
      failed = guess;
    if (loss <= aim && loss >= near * aim) break;
    const double next = (double)guess * loss / aim, middle = sqrt((double)(failed + 1) * (double)good);
    guess = next > (double)failed && next < (double)good && trial < TRIALS / 2 ? (size_t)next : (size_t)middle;
    guess = pith_max_size(guess, failed + 1);
  }
  *cells = good;
  return PITH_OK;
}

pith_status pith_llama_aim(pith_context *context, const pith_llama_heads *heads, const pith_llama_rows *rows,
                           const pith_array *queries, size_t query_start, const pith_compress_options *options,
                           double aim, size_t *cells, size_t *matter) {
  const pith_compress_options o = pith_llama_options(heads, options, queries, query_start);
  aiming a = {.rows = rows, .queries = queries, .options = &o, .count = heads->layers * heads->kv_heads};
  if (!options->head_weights)
    return pith_fail(context, PITH_E_ARGUMENT, "head-weights: the aim is a predicted KL, which needs them");
  a.heads = pith_allocate(context, a.count, sizeof *a.heads);
  pith_status status = a.heads ? find_heads(context, &a) : PITH_E_MEMORY;
  if (status >= 0) status = search(context, &a, aim, cells);
  if (status >= 0) *matter = a.matter;
  pith_release(context, a.heads);
  return status;
}
