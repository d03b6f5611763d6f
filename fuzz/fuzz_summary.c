/* fuzz_summary.c - any bytes as a summary file, with the checksum put right, so that what lies behind it is
 * reached. What can be loaded can be looked at, merged and saved. */
#include "fuzz.h"

static void use(pith_context *context, const pith_summary *summary) {
  pith_summary_info info = pith_summary_describe(summary);
  for (size_t i = 0; i < info.layers * info.heads; i++) {
    pith_head_view view;
    FUZZ_REQUIRE(pith_summary_head(context, summary, i / info.heads, i % info.heads, &view) == PITH_OK);
    float *rows = malloc((view.points * (view.d + view.dv) + 1) * sizeof *rows);
    FUZZ_REQUIRE(rows);
    pith_head_to_f32(&view, rows, rows + view.points * view.d);
    pith_array keys = pith_array_matrix(rows, PITH_F32, view.points, view.d);
    pith_array values = pith_array_matrix(rows + view.points * view.d, PITH_F32, view.points, view.dv);
    pith_array weights = pith_array_matrix(view.log_weight, PITH_F32, view.points, 1);
    fuzz_touch(&keys);
    fuzz_touch(&values);
    fuzz_touch(&weights);
    free(rows);
  }
  FUZZ_REQUIRE(pith_summary_save(context, summary, "/dev/null") == PITH_OK);
  const pith_summary *twice[2] = {summary, summary};
  pith_summary *merged = NULL;
  pith_status status = pith_summary_merge(context, twice, 2, &merged);
  FUZZ_REQUIRE(status == (info.folded ? PITH_E_ARGUMENT : PITH_OK));
  pith_summary_free(merged);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_copy copy = fuzz_open(data, size);
  pith_context *context = copy.context;
  pith_file *file = copy.file;
  char digits[PITH_CHECKSUM_DIGITS + 1];
  size_t at = 0;
  if (pith_summary_checksum(context, file, digits, &at) == PITH_OK)
    memcpy(copy.bytes + at, digits, PITH_CHECKSUM_DIGITS);
  pith_summary *summary = NULL;
  if (pith_summary_parse(context, file, &summary) == PITH_OK)
    use(context, summary);
  else
    FUZZ_REQUIRE(*pith_context_message(context));
  pith_summary_free(summary);
  fuzz_close(&copy);
  return 0;
}
