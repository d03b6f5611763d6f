/* first.c - compress one head with recorded queries, ask it, and read what it promises.
 *
 *   cc first.c $(pkg-config --cflags --libs pith) -lm */
#include <math.h>
#include <pith.h>
#include <stdio.h>
#include <stdlib.h>

enum { KEYS = 2000, QUERIES = 400, ASKED = 100, D = 32 };

/* A reproducible stand-in for real rows: smooth functions of the position. */
static void fill(float *rows, size_t count, double speed, double size) {
  for (size_t i = 0; i < count; i++)
    for (size_t j = 0; j < D; j++)
      rows[i * D + j] = (float)(size * sin(speed * (double)i * (1 + (double)j / 7) + (double)j));
}

int main(void) {
  static float keys[KEYS * D], values[KEYS * D], queries[QUERIES * D], asked[ASKED * D];
  static float exact[ASKED * D], answer[ASKED * D];
  fill(keys, KEYS, 0.013, 1);
  fill(values, KEYS, 0.007, 1);
  fill(queries, QUERIES, 0.031, 1.5);
  fill(asked, ASKED, 0.037, 1.5);
  pith_array k = pith_array_matrix(keys, PITH_F32, KEYS, D), v = pith_array_matrix(values, PITH_F32, KEYS, D);
  pith_array q = pith_array_matrix(queries, PITH_F32, QUERIES, D), a = pith_array_matrix(asked, PITH_F32, ASKED, D);

  const char *advice = pith_blas_advice(); /* of OpenBLAS on processors it does not know */
  if (advice) fprintf(stderr, "%s\n", advice);
  pith_context *context = NULL;
  if (pith_context_create(NULL, &context) != PITH_OK) return 1;
  pith_compress_options options;
  pith_compress_options_init(&options);
  options.ratio = 1.0 / 16;
  pith_summary *summary = NULL;
  pith_status status = pith_compress(context, &k, &v, &q, &options, &summary);
  if (status >= 0) status = pith_summary_attend(context, summary, &a, 0, answer);
  if (status >= 0) status = pith_attention_compute(context, &a, &k, &v, NULL, exact);
  if (status < 0) {
    fprintf(stderr, "%s: %s\n", pith_status_name(status), pith_context_message(context));
    return 1;
  }
  pith_summary_info info = pith_summary_describe(summary);
  pith_error error = pith_error_measure(exact, answer, ASKED, D);
  printf("%zu of %d rows, %zu of %zu bytes\n", info.points, KEYS, info.bytes, info.full_bytes);
  printf("mean error %.4f (relative %.4f)\n", error.mean, error.relative);
  if (info.certificate.certified)
    printf("certified: a query like those seen errs less than %.4f with probability %.2f\n", info.certificate.bound,
           info.certificate.confidence);
  else
    printf("uncertified\n");
  pith_summary_free(summary);
  pith_context_free(context);
  return 0;
}
