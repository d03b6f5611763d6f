/* test_models.h - the random models of tests/llama_models.h with weights in f32, written where the engine finds them.
 * (A file of its own: names there are also names of the engine.) */
#ifndef PITH_LLAMA_TEST_MODELS_H
#define PITH_LLAMA_TEST_MODELS_H

#include <stddef.h>

enum { TEST_MODELS = 5 };
const char *test_model_name(size_t index);
size_t test_model_vocabulary(void);
void test_model_write(size_t index, const char *path);

#endif
