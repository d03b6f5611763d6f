/* test_npy.c - .npy files, good and bad. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "test.h"

static char folder[] = "/tmp/pith-npy-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  return rmdir(folder); /* fails if a test, or a failed write, left a file */
}

static const char *path_of(const char *name) {
  static char path[256];
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

/* A file in memory: header text (padded as NumPy does if `pad`) and elements. */
typedef struct image {
  unsigned char bytes[1024];
  size_t size;
} image;

static image make_image(int version, const char *header, bool pad, const void *data, size_t size) {
  image made = {.bytes = {0x93, 'N', 'U', 'M', 'P', 'Y', (unsigned char)version, 0}};
  size_t start = version == 1 ? 10 : 12, length = strlen(header);
  memcpy(made.bytes + start, header, length);
  while (pad && (start + length) % 64 != 63) made.bytes[start + length++] = ' ';
  made.bytes[start + length++] = '\n';
  made.bytes[8] = (unsigned char)(length & 255);
  made.bytes[9] = (unsigned char)(length >> 8);
  if (size > 0) memcpy(made.bytes + start + length, data, size);
  made.size = start + length + size;
  return made;
}

/* Parses a copy of exactly `size` bytes, so that a sanitiser sees any read beyond them. */
static pith_status parse(pith_context *context, const image *from, size_t size, pith_array *array, double *first,
                         size_t count) {
  unsigned char *exact = malloc(size ? size : 1);
  assert_non_null(exact);
  memcpy(exact, from->bytes, size);
  pith_file *file = NULL;
  assert_ok(context, pith_file_lend(context, exact, size, "lent.npy", &file));
  pith_status status = pith_npy_parse(context, file, array);
  for (size_t i = 0; status == PITH_OK && i < count; i++) {
    const char *at = array->data;
    size_t rest = i;
    for (size_t axis = array->ndim; axis-- > 0; rest /= array->shape[axis])
      at += (ptrdiff_t)(rest % array->shape[axis]) * array->stride[axis];
    switch (array->dtype) {
      case PITH_F32: first[i] = (double)*(const float *)(const void *)at; break;
      case PITH_F64: first[i] = *(const double *)(const void *)at; break;
      case PITH_F16: first[i] = (double)pith_f16_to_f32(*(const uint16_t *)(const void *)at); break;
      case PITH_I64: first[i] = (double)*(const int64_t *)(const void *)at; break;
      case PITH_U8: first[i] = *(const uint8_t *)at; break;
      case PITH_I8: first[i] = *(const int8_t *)at; break;
      default: fail_msg("type %d", (int)array->dtype);
    }
  }
  pith_file_close(file);
  free(exact);
  return status;
}

/* ---- Good ---- */

static void test_versions_and_orders(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const float data[6] = {1, 2, 3, 4, 5, 6};
  static const double fortran[6] = {1, 4, 2, 5, 3, 6};
  for (int version = 1; version <= 3; version++)
    for (int order = 0; order < 2; order++)
      for (int pad = 0; pad < 2; pad++) { /* not padded: elements do not lie at multiples of 4 */
        char header[128];
        (void)snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': %s, 'shape': (3, 2), }",
                       order ? "True" : "False");
        image file = make_image(version, header, pad, data, sizeof data);
        pith_array array;
        double read[6];
        assert_ok(context, parse(context, &file, file.size, &array, read, 6));
        assert_int_equal(array.ndim, 2);
        assert_int_equal(array.shape[0], 3);
        assert_int_equal(array.shape[1], 2);
        for (size_t i = 0; i < 6; i++) assert_true(read[i] == (order ? fortran[i] : (double)data[i]));
      }
  test_context_free(context);
}

static void test_types_and_byte_orders(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const struct {
    const char *descr;
    pith_dtype dtype;
    size_t size;
    unsigned char bytes[16];
    double values[2];
  } cases[] = {
      {"<f2", PITH_F16, 4, {0x00, 0x3c, 0x00, 0xc0}, {1, -2}},
      {">f2", PITH_F16, 4, {0x3c, 0x00, 0xc0, 0x00}, {1, -2}},
      {"<f4", PITH_F32, 8, {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}, {1, -2}},
      {">f4", PITH_F32, 8, {0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0}, {1, -2}},
      {"<f8", PITH_F64, 16, {0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0}, {1, -2}},
      {">f8", PITH_F64, 16, {0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0xc0}, {1, -2}},
      {"<i8", PITH_I64, 16, {7, 1, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}, {263, -1}},
      {">i8", PITH_I64, 16, {0, 0, 0, 0, 0, 0, 1, 7, 255, 255, 255, 255, 255, 255, 255, 255}, {263, -1}},
      {"|u1", PITH_U8, 2, {200, 3}, {200, 3}},
      {"<u1", PITH_U8, 2, {200, 3}, {200, 3}},
      {"|i1", PITH_I8, 2, {200, 3}, {-56, 3}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char header[128];
    (void)snprintf(header, sizeof header, "{\"shape\":(2,),'descr':'%s','fortran_order':False}", cases[i].descr);
    image file = make_image(1, header, true, cases[i].bytes, cases[i].size);
    pith_array array;
    double read[2];
    assert_ok(context, parse(context, &file, file.size, &array, read, 2));
    assert_int_equal(array.dtype, cases[i].dtype);
    assert_true(read[0] == cases[i].values[0] && read[1] == cases[i].values[1]);
  }
  test_context_free(context);
}

static void test_round_trip(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  float *data = test_gaussian(1, 2 * 3 * 50 * 70, 1);
  pith_array whole = {.data = data,
                      .dtype = PITH_F32,
                      .ndim = 4,
                      .shape = {2, 3, 50, 70},
                      .stride = {3 * 50 * 70 * 4, 50 * 70 * 4, 70 * 4, 4}};
  /* Strided: every second row, backwards, and columns with a gap. */
  pith_array strided = whole;
  strided.data = data + 49 * 70;
  strided.shape[2] = 25;
  strided.stride[2] = -2 * 70 * 4;
  strided.shape[3] = 35;
  strided.stride[3] = 8;
  const pith_array *cases[] = {&whole, &strided};
  for (size_t i = 0; i < 2; i++)
    for (int again = 0; again < 2; again++) { /* the second write replaces the file */
      const char *path = path_of("round.npy");
      pith_file *file = NULL;
      pith_array read;
      assert_ok(context, pith_npy_write(context, path, cases[i]));
      assert_ok(context, pith_npy_open(context, path, &file, &read));
      assert_int_equal(read.ndim, 4);
      for (size_t axis = 0; axis < 4; axis++) assert_int_equal(read.shape[axis], cases[i]->shape[axis]);
      const float *at = read.data;
      for (size_t a = 0; a < 2; a++)
        for (size_t b = 0; b < 3; b++)
          for (size_t c = 0; c < read.shape[2]; c++)
            for (size_t d = 0; d < read.shape[3]; d++, at++) {
              const char *from = (const char *)cases[i]->data + (ptrdiff_t)a * cases[i]->stride[0] +
                                 (ptrdiff_t)b * cases[i]->stride[1] + (ptrdiff_t)c * cases[i]->stride[2] +
                                 (ptrdiff_t)d * cases[i]->stride[3];
              assert_memory_equal(at, from, sizeof *at);
            }
      pith_file_close(file);
    }
  assert_int_equal(unlink(path_of("round.npy")), 0);
  assert_int_equal(pith_context_bytes(context), held);
  free(data);
  test_context_free(context);
}

static void test_zero_rows(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  pith_array none = pith_array_matrix(NULL, PITH_F16, 0, 64), read;
  pith_file *file = NULL;
  assert_ok(context, pith_npy_write(context, path_of("none.npy"), &none));
  assert_ok(context, pith_npy_open(context, path_of("none.npy"), &file, &read));
  assert_int_equal(read.shape[0], 0);
  assert_int_equal(read.shape[1], 64);
  pith_file_close(file);
  assert_int_equal(unlink(path_of("none.npy")), 0);
  test_context_free(context);
}

static void test_pipe(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float data[4] = {1, 2, 3, 4};
  pith_array array = pith_array_matrix(data, PITH_F32, 2, 2), read;
  char path[256];
  (void)snprintf(path, sizeof path, "%s", path_of("pipe"));
  assert_int_equal(mkfifo(path, 0600), 0);
  int both = open(path, O_RDWR); /* so that neither end waits for the other */
  assert_true(both >= 0);
  assert_ok(context, pith_npy_write(context, path, &array));
  int end = open(path, O_RDONLY);
  assert_true(end >= 0);
  close(both); /* no writer is left: the reader sees the end */
  int standard = dup(STDIN_FILENO);
  assert_true(standard >= 0);
  assert_int_equal(dup2(end, STDIN_FILENO), STDIN_FILENO);
  close(end);
  pith_file *file = NULL;
  pith_status status = pith_npy_open(context, "-", &file, &read);
  assert_int_equal(dup2(standard, STDIN_FILENO), STDIN_FILENO);
  close(standard);
  assert_ok(context, status);
  assert_memory_equal(read.data, data, sizeof data);
  pith_file_close(file);
  struct stat now;
  assert_int_equal(stat(path, &now), 0);
  assert_true(S_ISFIFO(now.st_mode)); /* written into, not replaced */
  assert_int_equal(unlink(path), 0);
  test_context_free(context);
}

static void test_standard_output(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  float data[4] = {1, 2, 3, 4};
  pith_array array = pith_array_matrix(data, PITH_F32, 2, 2), read;
  (void)fflush(stdout);
  int target = open(path_of("out.npy"), O_WRONLY | O_CREAT, 0600), standard = dup(STDOUT_FILENO);
  assert_true(target >= 0 && standard >= 0);
  assert_int_equal(dup2(target, STDOUT_FILENO), STDOUT_FILENO);
  close(target);
  pith_status status = pith_npy_write(context, "-", &array);
  bool open_still = fcntl(STDOUT_FILENO, F_GETFD) >= 0;
  assert_int_equal(dup2(standard, STDOUT_FILENO), STDOUT_FILENO);
  close(standard);
  assert_ok(context, status);
  assert_true(open_still);
  pith_file *file = NULL;
  assert_ok(context, pith_npy_open(context, path_of("out.npy"), &file, &read));
  assert_memory_equal(read.data, data, sizeof data);
  pith_file_close(file);
  assert_int_equal(unlink(path_of("out.npy")), 0);
  test_context_free(context);
}

/* ---- Bad ---- */

static void test_bad_headers(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const float data[6] = {1, 2, 3, 4, 5, 6};
  static const struct {
    const char *header;
    pith_status status;
    const char *says;
  } cases[] = {
      {"{'descr': '|V1', 'fortran_order': False, 'shape': (24,), }", PITH_E_TYPE, "|V1"},
      {"{'descr': '<i4', 'fortran_order': False, 'shape': (6,), }", PITH_E_TYPE, "<i4"},
      {"{'descr': '=f4', 'fortran_order': False, 'shape': (6,), }", PITH_E_TYPE, "=f4"},
      {"{'descr': '|f4', 'fortran_order': False, 'shape': (6,), }", PITH_E_TYPE, "|f4"},
      {"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }", PITH_E_TYPE, "|O"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", PITH_E_TYPE, "records"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (), }", PITH_E_SHAPE, "0 dimensions"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 2, 3), }", PITH_E_SHAPE, "5 dimensions"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6), }", PITH_E_FORMAT, "comma"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", PITH_E_FORMAT, "')'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", PITH_E_FORMAT, "count"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }", PITH_E_FORMAT, "count"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (06,), }", PITH_E_FORMAT, "count"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6L,), }", PITH_E_FORMAT, "')'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", PITH_E_SHAPE, "too large"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387905, 4), }", PITH_E_SHAPE, "larger"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", PITH_E_SHAPE, "larger"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296), }", PITH_E_SHAPE, "larger"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }", PITH_E_FORMAT, "28 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }", PITH_E_FORMAT, "20 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }", PITH_E_FORMAT, "0 bytes"},
      {"{'descr': '<f4', 'fortran_order': 0, 'shape': (6,), }", PITH_E_FORMAT, "fortran_order"},
      {"{'descr': '<f4', 'fortran_order': False, }", PITH_E_FORMAT, "shape is missing"},
      {"{'descr': '<f4', 'shape': (6,), }", PITH_E_FORMAT, "fortran_order is missing"},
      {"{'fortran_order': False, 'shape': (6,), }", PITH_E_FORMAT, "descr is missing"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", PITH_E_FORMAT, "twice"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}", PITH_E_FORMAT, "more"},
      {"{'descr': '<f4' 'fortran_order': False, 'shape': (6,)}", PITH_E_FORMAT, "'}'"},
      {"{'descr': '<f4, fortran_order: False, shape: (6,)}", PITH_E_FORMAT, "quoted word"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } x", PITH_E_FORMAT, "more follows"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), ", PITH_E_FORMAT, "quoted word"},
      {"{'descr': '\x1b[2J', 'fortran_order': False, 'shape': (6,), }", PITH_E_TYPE, "?[2J"},
      {"", PITH_E_FORMAT, "'{'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    image file = make_image(1, cases[i].header, true, data, sizeof data);
    pith_array array = {.ndim = 77};
    pith_status status = parse(context, &file, file.size, &array, NULL, 0);
    if (status != cases[i].status || !strstr(pith_context_message(context), cases[i].says))
      fail_msg("%s: %s: %s", cases[i].header, pith_status_name(status), pith_context_message(context));
    assert_non_null(strstr(pith_context_message(context), "lent.npy"));
    assert_int_equal(array.ndim, 77); /* outputs are untouched */
  }
  test_context_free(context);
}

static void test_truncation_and_excess(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  static const float data[6] = {1, 2, 3, 4, 5, 6};
  for (int version = 1; version <= 3; version++) {
    image file = make_image(version, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", true, data, 24);
    pith_array array;
    for (size_t size = 0; size < file.size; size++)
      assert_int_equal(parse(context, &file, size, &array, NULL, 0), PITH_E_FORMAT);
    assert_int_equal(parse(context, &file, file.size + 1, &array, NULL, 0), PITH_E_FORMAT);
    assert_ok(context, parse(context, &file, file.size, &array, NULL, 0));
    file.bytes[8] = file.bytes[9] = 255; /* a header beyond the file */
    assert_int_equal(parse(context, &file, file.size, &array, NULL, 0), PITH_E_FORMAT);
    file.bytes[6] = 4;
    assert_int_equal(parse(context, &file, file.size, &array, NULL, 0), PITH_E_VERSION);
    file.bytes[1] = 'n';
    assert_int_equal(parse(context, &file, file.size, &array, NULL, 0), PITH_E_FORMAT);
  }
  test_context_free(context);
}

static void test_bad_paths(void **state) {
  (void)state;
  pith_context *context = test_context(1);
  size_t held = pith_context_bytes(context);
  float data[2] = {1, 2};
  pith_array array = pith_array_matrix(data, PITH_F32, 1, 2);
  pith_file *file = NULL;
  char path[256];
  assert_int_equal(pith_npy_open(context, path_of("absent.npy"), &file, &array), PITH_E_IO);
  assert_non_null(strstr(pith_context_message(context), "absent.npy"));
  assert_int_equal(pith_npy_open(context, folder, &file, &array), PITH_E_IO);
  assert_null(file);
  assert_int_equal(pith_npy_write(context, path_of("absent/out.npy"), &array), PITH_E_IO);
  assert_non_null(strstr(pith_context_message(context), "absent/out.npy"));
  assert_int_equal(pith_npy_write(context, folder, &array), PITH_E_IO);
  assert_ok(context, pith_npy_write(context, "/dev/null", &array)); /* a device stays a device */
  struct stat now;
  assert_int_equal(stat("/dev/null", &now), 0);
  assert_true(S_ISCHR(now.st_mode));
  /* A write that fails half-way leaves the old file as it was, and nothing beside it. */
  if (access("/dev/full", W_OK) == 0) assert_int_equal(pith_npy_write(context, "/dev/full", &array), PITH_E_IO);
  (void)snprintf(path, sizeof path, "%s", path_of("kept.npy"));
  assert_ok(context, pith_npy_write(context, path, &array));
  pith_writer writer;
  assert_ok(context, pith_writer_open(context, path, &writer));
  assert_ok(context, pith_writer_put(&writer, "half", 4));
  assert_int_equal(pith_writer_close(&writer, PITH_E_CANCELLED), PITH_E_CANCELLED);
  pith_array read;
  assert_ok(context, pith_npy_open(context, path, &file, &read));
  assert_memory_equal(read.data, data, sizeof data);
  pith_file_close(file);
  assert_int_equal(unlink(path), 0);
  /* What .npy cannot hold. */
  array.dtype = PITH_BF16;
  assert_int_equal(pith_npy_write(context, path, &array), PITH_E_TYPE);
  array.dtype = PITH_F32;
  array.ndim = 5;
  assert_int_equal(pith_npy_write(context, path, &array), PITH_E_SHAPE);
  assert_int_equal(pith_context_bytes(context), held);
  test_context_free(context);
}

/* ---- NumPy itself as judge, where there is one ---- */

static void test_numpy(void **state) {
  (void)state;
  if (system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0) {
    printf("skipped: no NumPy on this machine\n");
    skip();
  }
  pith_context *context = test_context(1);
  static const char script[] =
      "import sys, numpy as np\n"
      "a = np.load(sys.argv[1] + '/from-pith.npy')\n"
      "assert a.shape == (3, 5) and a.dtype == np.float32 and (a == np.arange(15).reshape(3, 5) / 4).all()\n"
      "for name in 'f2 f4 f8 i8 u1 i1 >f2 >f4 >f8 >i8'.split():\n"
      "  for order in 'CF':\n"
      "    np.save(sys.argv[1] + '/np.%s.%s.npy' % (name.strip('>') + ('b' if '>' in name else ''), order),\n"
      "            np.asarray(np.arange(15).reshape(3, 5), dtype=name, order=order))\n";
  float data[15];
  for (size_t i = 0; i < 15; i++) data[i] = (float)i / 4;
  pith_array array = pith_array_matrix(data, PITH_F32, 3, 5);
  assert_ok(context, pith_npy_write(context, path_of("from-pith.npy"), &array));
  char command[2048];
  (void)snprintf(command, sizeof command, "/usr/bin/python3 -c \"%s\" %s", script, folder);
  assert_int_equal(system(command), 0);
  static const char *const names[] = {"f2", "f4", "f8", "i8", "u1", "i1", "f2b", "f4b", "f8b", "i8b"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    for (int fortran = 0; fortran < 2; fortran++) {
      char name[64];
      (void)snprintf(name, sizeof name, "np.%s.%c.npy", names[i], fortran ? 'F' : 'C');
      pith_file *file = NULL;
      assert_ok(context, pith_npy_open(context, path_of(name), &file, &array));
      image bytes = {.size = file->size};
      assert_true(file->size <= sizeof bytes.bytes);
      memcpy(bytes.bytes, file->bytes, file->size);
      pith_file_close(file);
      double read[15];
      assert_ok(context, parse(context, &bytes, bytes.size, &array, read, 15));
      for (size_t j = 0; j < 15; j++) assert_true(read[j] == (double)j);
      assert_int_equal(unlink(path_of(name)), 0);
    }
  assert_int_equal(unlink(path_of("from-pith.npy")), 0);
  test_context_free(context);
}

int main(void) {
  test_skip_unless_isa();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_versions_and_orders),
      cmocka_unit_test(test_types_and_byte_orders),
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_zero_rows),
      cmocka_unit_test(test_pipe),
      cmocka_unit_test(test_standard_output),
      cmocka_unit_test(test_bad_headers),
      cmocka_unit_test(test_truncation_and_excess),
      cmocka_unit_test(test_bad_paths),
      cmocka_unit_test(test_numpy),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
