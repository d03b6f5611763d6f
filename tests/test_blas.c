/* test_blas.c - what is said of OpenBLAS's kernels: asked of this program started again, since OpenBLAS looks at its
 * environment only once. */
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static char self[4096]; /* this program */

/* The first line of what this program says with that environment; "" for nothing. */
static void ask(const char *isa, const char *core, char line[512]) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    if (setenv("PITH_ISA", isa, 1) || setenv("OPENBLAS_CORETYPE", core, 1) || dup2(ends[1], 1) < 0) _exit(9);
    (void)execl(self, self, "say", (char *)NULL);
    _exit(9);
  }
  (void)close(ends[1]);
  FILE *from = fdopen(ends[0], "r");
  assert_non_null(from);
  *line = '\0';
  (void)!fgets(line, 512, from);
  (void)fclose(from);
  int status = 0;
  assert_true(waitpid(child, &status, 0) == child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_advice(void **state) {
  (void)state;
  const char *isa = pith_isa_name();
  char line[512];
  ask(isa, pith_blas_core(), line);
  assert_string_equal(line, "none\n"); /* what the tool does */
  if (!strcmp(isa, "scalar")) {
    ask(isa, "Prescott", line);
    assert_string_equal(line, "none\n");
    return;
  }
  static const char *const slow[] = {"Prescott", "Nehalem", "Sandybridge"};
  for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
    ask(isa, slow[i], line);
    assert_non_null(strstr(line, "OPENBLAS_CORETYPE="));
    assert_non_null(strstr(line, pith_blas_core()));
  }
  ask("scalar", "Prescott", line);
  assert_string_equal(line, "none\n");
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "say")) {
    const char *advice = pith_blas_advice();
    return puts(advice ? advice : "none") < 0;
  }
  test_skip_unless_isa();
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) return 77;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_advice)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
