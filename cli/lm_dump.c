/* lm_dump.c - pith lm dump: queries, keys, values and head weights of a text, as arrays for the other commands. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lm.h"

static pith_status write_array(cli_session *session, const char *name, const pith_array *array) {
  const lm_arguments *arguments = session->arguments;
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", arguments->output, name);
  return pith_npy_write(session->context, path, array);
}

static pith_status write_all(lm_run *run, const lm_session *read) {
  pith_context *context = run->session->context;
  size_t layers = run->info.layers, heads = run->info.kv_heads;
  pith_array keys, values, queries;
  pith_status status = lm_session_arrays(context, read, &keys, &values, &queries);
  if (status < 0) return status;
  float *weights = allocate_zero(layers * heads, sizeof *weights);
  pith_array weight = pith_array_matrix(weights, PITH_F32, layers, heads);
  status = lm_head_weights(context, read, weights);
  if (status >= 0) status = write_array(run->session, "q.npy", &queries);
  if (status >= 0) status = write_array(run->session, "k.npy", &keys);
  if (status >= 0) status = write_array(run->session, "v.npy", &values);
  if (status >= 0) status = write_array(run->session, "head_weights.npy", &weight);
  free(weights);
  return status;
}

static void report(const lm_run *run, size_t tokens) {
  cli_session *session = run->session;
  const lm_model_info *info = &run->info;
  if (session->common->json) {
    json_t *object = json_report();
    json_object_set_new(object, "tokens", json_count(tokens));
    json_object_set_new(object, "layers", json_count(info->layers));
    json_object_set_new(object, "query_heads", json_count(info->query_heads));
    json_object_set_new(object, "kv_heads", json_count(info->kv_heads));
    json_object_set_new(object, "head_size", json_count(info->head_size));
    json_object_set_new(object, "rope_base", json_number(info->rope_base));
    json_object_set_new(object, "rope", json_string(info->rope == PITH_ROPE_HALVES ? "halves" : "pairs"));
    json_object_set_new(object, "seconds", json_number(session_seconds(session)));
    json_print(object, session->out);
  } else if (!session->common->quiet) {
    fprintf(session->out, "%s: %zu tokens, %zu layers, %zu query and %zu kv heads of %zu; use --rope %g%s\n",
            run->arguments->output, tokens, info->layers, info->query_heads, info->kv_heads, info->head_size,
            info->rope_base, info->rope == PITH_ROPE_HALVES ? ":halves" : "");
  }
}

int lm_dump(cli_session *session) {
  const lm_arguments *arguments = session->arguments;
  if (!arguments->text) return usage_error(session->command, "--text FILE is missing");
  if (!arguments->output) return usage_error(session->command, "-o DIR is missing");
  lm_run run;
  int code = lm_open(session, &run);
  if (code) return code;
  size_t context = 0, prefix = 0;
  lm_tokens tokens = {0};
  lm_session *read = NULL;
  code = lm_lengths(&run, &context, &prefix);
  if (!code) code = lm_encode_text(&run, context, &tokens);
  if (!code && mkdir(arguments->output, 0777) != 0 && errno != EEXIST)
    code = session_error(session, EXIT_IO, "-o %s: %s", arguments->output, strerror(errno));
  if (!code) {
    lm_session_options options;
    lm_session_options_init(&options);
    options.capacity = context;
    options.record_queries = true;
    pith_status status = lm_session_create(session->context, run.model, &options, &read);
    if (status >= 0) status = lm_session_read(session->context, read, tokens.id, context, context, NULL);
    if (status >= 0) status = write_all(&run, read);
    if (status < 0) code = session_fail(session, status);
  }
  if (!code) report(&run, context);
  lm_session_free(read);
  lm_tokens_free(session->context, &tokens);
  lm_close(&run);
  return code;
}
