/* fuzz_sketch.c - any bytes as a sketch file, with the checksum put right, so that what lies behind it is reached. What
 * can be loaded can be updated, drawn from, merged and saved. */
#include "fuzz.h"
#include "sampler/tensor.h"

static void use(pith_context *context, pith_l2 *sampler) {
  const pith_update update = {PITH_UPDATE_A, 0, sampler->options.rows - 1, 1.5};
  (void)!pith_l2_update(context, sampler, &update, 1, NULL); /* may overflow */
  pith_draw draw;
  size_t drawn = 0;
  double norm = 0;
  if (sampler->options.decode != PITH_DECODE_SCAN || sampler->options.rows < 10000)
    (void)!pith_l2_draw(context, sampler, 1, &draw, &drawn); /* all may be spent */
  FUZZ_REQUIRE(drawn == 0 || draw.row < sampler->options.rows);
  FUZZ_REQUIRE(pith_l2_norm(context, sampler, &norm) == PITH_OK);
  FUZZ_REQUIRE(pith_l2_save(context, sampler, "/dev/null") == PITH_OK);
  (void)!pith_l2_merge(context, sampler, sampler);
}

static void use_tensor(pith_context *context, pith_tensor *sampler) {
  const pith_tensor_options *options = &sampler->options;
  const pith_update update[] = {{PITH_TENSOR_A2, 0, options->rows2 - 1, 1.5}, /* refused where that is fixed by now */
                                {PITH_TENSOR_A1, 0, options->rows1 - 1, 1.5}};
  pith_pair pair;
  size_t drawn = 0;
  double norm = 0;
  for (size_t i = 0; i < 2; i++) (void)!pith_tensor_update(context, sampler, &update[i], 1, NULL);
  bool scanned = options->method == PITH_TENSOR_SKETCH; /* all rows are looked up then */
  if (!scanned || (options->rows1 < 10000 && options->rows2 < 10000))
    (void)!pith_tensor_draw(context, sampler, 1, &pair, &drawn);
  FUZZ_REQUIRE(drawn == 0 || (pair.row1 < options->rows1 && pair.row2 < options->rows2));
  FUZZ_REQUIRE(pith_tensor_norm(context, sampler, &norm) == PITH_OK);
  FUZZ_REQUIRE(pith_tensor_save(context, sampler, "/dev/null") == PITH_OK);
  (void)!pith_tensor_merge(context, sampler, sampler);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_copy copy = fuzz_open_sealed(data, size, pith_sketch_checksum);
  pith_context *context = copy.context;
  pith_file *file = copy.file;
  pith_l2 *sampler = NULL;
  pith_tensor *tensor = NULL;
  if (pith_sketch_kind_of(file) == PITH_SKETCH_TENSOR) {
    if (pith_tensor_parse(context, file, &tensor) == PITH_OK)
      use_tensor(context, tensor);
    else
      FUZZ_REQUIRE(*pith_context_message(context));
  } else if (pith_l2_parse(context, file, &sampler) == PITH_OK) {
    use(context, sampler);
  } else {
    FUZZ_REQUIRE(*pith_context_message(context));
  }
  pith_tensor_free(tensor);
  pith_l2_free(sampler);
  fuzz_close(&copy);
  return 0;
}
