/* sketch_file.c - sketches on disk: one checksummed frame (docs/format.md). */
#include <math.h>
#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state of the checksum on the stack */
#include <xxhash.h>

#include "io/file.h"
#include "sampler/tensor.h"

static const char MAGIC[8] = {'P', 'I', 'T', 'H', 'S', 'K', 'C', 'H'};
enum { VERSION = 1 };

typedef struct frame_head {
  char magic[8];
  uint32_t version, kind;
  uint64_t size;     /* of the whole file */
  uint64_t checksum; /* XXH64, seed 0, of all other bytes of the file in their order */
} frame_head;

typedef struct l2_fields {
  uint64_t rows, dim, draws, distinct, decode, cells, strict, free_x, copies, depth, buckets, seed, spent, failures;
  double unit;
} l2_fields;

typedef struct tensor_fields {
  uint64_t rows1, rows2, dim, draws, method, buckets, seed, begun, spent, failures;
  uint64_t sketch_spent, sketch_failures; /* of the sketch over pairs, else 0 */
} tensor_fields;

_Static_assert(sizeof(frame_head) == 32 && sizeof(l2_fields) == 120 && sizeof(tensor_fields) == 96 &&
                   sizeof(pith_cell) == 8,
               "no padding in files");

/* The pieces of a file after its head. */
typedef struct piece {
  const void *bytes;
  size_t size;
} piece;
enum { PIECES = 2 + TENSOR_SPANS };

static uint64_t checksum_of(const frame_head *head, const piece *pieces, size_t count) {
  XXH64_state_t state;
  XXH64_reset(&state, 0);
  XXH64_update(&state, head, offsetof(frame_head, checksum));
  for (size_t i = 0; i < count; i++)
    if (pieces[i].size > 0) XXH64_update(&state, pieces[i].bytes, pieces[i].size);
  return XXH64_digest(&state);
}

/* ---- Writing ---- */

static pith_status write_frame(pith_context *context, const char *path, pith_sketch_kind kind, const piece *pieces,
                               size_t count) {
  frame_head head = {.version = VERSION, .kind = kind, .size = sizeof head};
  memcpy(head.magic, MAGIC, sizeof MAGIC);
  for (size_t i = 0; i < count; i++) head.size += pieces[i].size;
  head.checksum = checksum_of(&head, pieces, count);
  pith_writer writer;
  PITH_TRY(pith_writer_open(context, path, &writer));
  pith_status status = pith_writer_put(&writer, &head, sizeof head);
  for (size_t i = 0; i < count && status >= 0; i++) status = pith_writer_put(&writer, pieces[i].bytes, pieces[i].size);
  return pith_writer_close(&writer, status);
}

static piece cells_of(const pith_l2 *sampler) {
  return (piece){sampler->cells, sampler->cell_count * sizeof *sampler->cells};
}

pith_status pith_l2_save(pith_context *context, const pith_l2 *sampler, const char *path) {
  const pith_l2_options *options = &sampler->options;
  if (options->method != PITH_METHOD_SKETCH)
    return pith_fail(context, PITH_E_ARGUMENT, "an exact sampler cannot be saved; make it with the method sketch");
  l2_fields fields = {.rows = options->rows,
                      .dim = options->dim,
                      .draws = options->draws,
                      .distinct = options->distinct,
                      .decode = options->decode,
                      .cells = options->cells,
                      .strict = options->strict != 0,
                      .free_x = options->free_x != 0,
                      .copies = options->copies,
                      .depth = options->depth,
                      .buckets = options->buckets,
                      .seed = options->seed,
                      .spent = sampler->spent,
                      .failures = sampler->failures,
                      .unit = options->unit};
  const piece pieces[] = {{&fields, sizeof fields},
                          {sampler->start, options->dim * sizeof *sampler->start},
                          {sampler->moved, sampler->moved ? options->dim * sizeof *sampler->moved : 0},
                          cells_of(sampler)};
  return write_frame(context, path, PITH_SKETCH_L2, pieces, sizeof pieces / sizeof *pieces);
}

pith_status pith_tensor_save(pith_context *context, const pith_tensor *sampler, const char *path) {
  const pith_tensor_options *options = &sampler->options;
  const pith_l2 *sketch = sampler->engine->sketch ? sampler->engine->sketch(sampler) : NULL;
  const tensor_fields fields = {.rows1 = options->rows1,
                                .rows2 = options->rows2,
                                .dim = options->dim,
                                .draws = options->draws,
                                .method = options->method,
                                .buckets = options->buckets,
                                .seed = options->seed,
                                .begun = sampler->begun,
                                .spent = sampler->spent,
                                .failures = sampler->failures,
                                .sketch_spent = sketch ? sketch->spent : 0,
                                .sketch_failures = sketch ? sketch->failures : 0};
  tensor_span spans[TENSOR_SPANS];
  piece pieces[PIECES] = {{&fields, sizeof fields}};
  size_t count = pith_tensor_spans(sampler, spans);
  for (size_t s = 0; s < count; s++) pieces[1 + s] = (piece){spans[s].values, spans[s].count * sizeof(double)};
  if (sketch) pieces[++count] = cells_of(sketch);
  return write_frame(context, path, PITH_SKETCH_TENSOR, pieces, 1 + count);
}

/* ---- Reading ---- */

static bool begins_as_sketch(const pith_file *file) {
  return file->size >= sizeof MAGIC && memcmp(file->bytes, MAGIC, sizeof MAGIC) == 0;
}

static pith_status read_head(pith_context *context, const pith_file *file, frame_head *head) {
  if (!begins_as_sketch(file)) return pith_fail(context, PITH_E_FORMAT, "%s: not a sketch of pith", file->name);
  if (file->size < sizeof *head)
    return pith_fail(context, PITH_E_FORMAT, "%s: cut short: %zu bytes, its head has %zu", file->name, file->size,
                     sizeof *head);
  memcpy(head, file->bytes, sizeof *head);
  if (head->version != VERSION)
    return pith_fail(context, PITH_E_VERSION, "%s: format version %u; this pith reads %d", file->name, head->version,
                     VERSION);
  if (head->size != file->size)
    return pith_fail(context, PITH_E_FORMAT, "%s: %s: %zu bytes, its head says %llu", file->name,
                     file->size < head->size ? "cut short" : "too long", file->size, (unsigned long long)head->size);
  return PITH_OK;
}

pith_status pith_sketch_checksum(pith_context *context, const pith_file *file, uint64_t *checksum, size_t *at) {
  frame_head head;
  PITH_TRY(read_head(context, file, &head));
  piece rest = {file->bytes + sizeof head, file->size - sizeof head};
  *checksum = checksum_of(&head, &rest, 1);
  *at = offsetof(frame_head, checksum);
  return PITH_OK;
}

pith_sketch_kind pith_sketch_kind_of(const pith_file *file) {
  frame_head head;
  if (!begins_as_sketch(file)) return PITH_SKETCH_NONE;
  if (file->size < sizeof head) return PITH_SKETCH_L2; /* whose reader says that it is cut short */
  memcpy(&head, file->bytes, sizeof head);
  return head.kind == PITH_SKETCH_TENSOR ? PITH_SKETCH_TENSOR : PITH_SKETCH_L2;
}

/* Checks all of a frame but what its fields say, and takes those. */
static pith_status read_fields(pith_context *context, const pith_file *file, pith_sketch_kind kind, void *fields,
                               size_t size) {
  frame_head head;
  uint64_t checksum = 0;
  size_t at = 0;
  PITH_TRY(read_head(context, file, &head));
  PITH_TRY(pith_sketch_checksum(context, file, &checksum, &at));
  if (checksum != head.checksum)
    return pith_fail(context, PITH_E_CHECKSUM, "%s: changed after it was written: its checksum does not fit",
                     file->name);
  if (head.kind != kind)
    return pith_fail(context, PITH_E_FORMAT, "%s: %s, and %s is wanted", file->name,
                     head.kind == PITH_SKETCH_L2       ? "an l2 sampler"
                     : head.kind == PITH_SKETCH_TENSOR ? "a tensor sampler"
                                                       : "a sketch of a kind that this pith does not know",
                     kind == PITH_SKETCH_L2 ? "an l2 sampler" : "a tensor sampler");
  if (file->size < sizeof head + size)
    return pith_fail(context, PITH_E_FORMAT, "%s: cut short within its fields", file->name);
  memcpy(fields, file->bytes + sizeof head, size);
  return PITH_OK;
}

static pith_status not_a_sketch(pith_context *context, const pith_file *file) {
  return pith_fail(context, PITH_E_FORMAT, "%s: its fields are not those of a sketch", file->name);
}

/* The failure that stands, as one of the file. */
static pith_status blame(pith_context *context, const pith_file *file) {
  char message[256];
  (void)snprintf(message, sizeof message, "%s", pith_context_message(context));
  return pith_fail(context, PITH_E_FORMAT, "%s: %s", file->name, message);
}

/* Whether the file is as long as its fields ask for: `bytes` after them. */
static pith_status check_length(pith_context *context, const pith_file *file, size_t fields, double bytes) {
  double expected = (double)(sizeof(frame_head) + fields) + bytes;
  if (expected == (double)file->size) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT, "%s: %zu bytes, its fields ask for %.0f", file->name, file->size, expected);
}

static const uint64_t MOST = (uint64_t)1 << 48; /* keeps sums of sizes below what a size_t holds */

/* Cells of a sampler from `at`; false where one is out of range. */
static bool read_cells(pith_l2 *sampler, const unsigned char *at) {
  const int64_t limit = (int64_t)1 << 62;
  memcpy(sampler->cells, at, sampler->cell_count * sizeof *sampler->cells);
  for (size_t i = 0; i < sampler->cell_count; i++) {
    const pith_cell *cell = &sampler->cells[i];
    if (sampler->options.cells == PITH_CELLS_FLOAT ? !isfinite(cell->real)
                                                   : !(cell->whole < limit && cell->whole > -limit))
      return false;
  }
  return true;
}

/* ---- l2 ---- */

/* Options as the fields say, if a sampler can have them and the file is as long as it must be then. */
static pith_status read_options(pith_context *context, const pith_file *file, const l2_fields *fields,
                                pith_l2_options *out) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  if (fields->rows > MOST || fields->dim > MOST || fields->draws > MOST || fields->distinct > MOST ||
      fields->copies > MOST || fields->depth > MOST || fields->buckets > MOST || fields->decode < PITH_DECODE_SCAN ||
      fields->decode > PITH_DECODE_DYADIC || fields->cells > PITH_CELLS_FLOAT || fields->strict > 1 ||
      fields->free_x > 1 || fields->buckets == 0)
    return not_a_sketch(context, file);
  options.rows = fields->rows;
  options.dim = fields->dim;
  options.draws = fields->draws;
  options.distinct = fields->distinct;
  options.decode = (pith_decode)fields->decode;
  options.cells = (pith_cells)fields->cells;
  options.strict = (int)fields->strict;
  options.free_x = (int)fields->free_x;
  options.copies = fields->copies;
  options.depth = fields->depth;
  options.buckets = fields->buckets;
  options.seed = fields->seed;
  options.unit = fields->unit;
  options.method = PITH_METHOD_SKETCH;
  options.memory = SIZE_MAX;
  return pith_l2_resolve(context, &options, out) < 0 ? blame(context, file) : PITH_OK;
}

static pith_status read_numbers(pith_context *context, const pith_file *file, const l2_fields *fields,
                                pith_l2 *sampler) {
  const size_t dim = sampler->options.dim;
  const unsigned char *at = file->bytes + sizeof(frame_head) + sizeof *fields;
  memcpy(sampler->start, at, dim * sizeof *sampler->start);
  at += dim * sizeof *sampler->start;
  if (sampler->moved) {
    memcpy(sampler->moved, at, dim * sizeof *sampler->moved);
    at += dim * sizeof *sampler->moved;
  }
  const int64_t limit = (int64_t)1 << 62;
  bool sound = read_cells(sampler, at) && fields->spent <= sampler->count && fields->failures <= fields->spent;
  for (size_t j = 0; j < dim; j++) {
    int64_t moved = sampler->moved ? sampler->moved[j] : 0;
    sound = sound && isfinite(sampler->start[j]) && moved < limit && moved > -limit;
    sampler->x[j] = sampler->start[j] + (double)moved * PITH_X_UNIT;
  }
  if (!sound) return pith_fail(context, PITH_E_FORMAT, "%s: a number in it is out of range", file->name);
  sampler->spent = fields->spent;
  sampler->failures = fields->failures;
  return PITH_OK;
}

pith_status pith_l2_parse(pith_context *context, const pith_file *file, pith_l2 **out) {
  l2_fields fields;
  pith_l2_options options;
  PITH_TRY(read_fields(context, file, PITH_SKETCH_L2, &fields, sizeof fields));
  PITH_TRY(read_options(context, file, &fields, &options));
  PITH_TRY(check_length(context, file, sizeof fields, pith_l2_saved_bytes(&options)));
  pith_l2 *sampler = NULL;
  PITH_TRY(pith_l2_make(context, &options, &sampler));
  pith_status status = read_numbers(context, file, &fields, sampler);
  if (status < 0) {
    pith_l2_free(sampler);
    return status;
  }
  *out = sampler;
  return PITH_OK;
}

/* ---- Tensor ---- */

static pith_status read_tensor_options(pith_context *context, const pith_file *file, const tensor_fields *fields,
                                       pith_tensor_options *out) {
  pith_tensor_options options;
  pith_tensor_options_init(&options);
  if (fields->rows1 > MOST || fields->rows2 > MOST || fields->dim > MOST || fields->draws > MOST ||
      fields->buckets > MOST || fields->method < PITH_TENSOR_EXACT || fields->method > PITH_TENSOR_SKETCH ||
      (fields->buckets == 0) != (fields->method == PITH_TENSOR_EXACT) || fields->begun > 1 || fields->spent > MOST)
    return not_a_sketch(context, file);
  options.rows1 = fields->rows1;
  options.rows2 = fields->rows2;
  options.dim = fields->dim;
  options.draws = fields->draws;
  options.method = (pith_tensor_method)fields->method;
  options.buckets = fields->buckets;
  options.seed = fields->seed;
  options.memory = SIZE_MAX;
  return pith_tensor_resolve(context, &options, out) < 0 ? blame(context, file) : PITH_OK;
}

static pith_status read_tensor_numbers(pith_context *context, const pith_file *file, const tensor_fields *fields,
                                       pith_tensor *sampler) {
  const unsigned char *at = file->bytes + sizeof(frame_head) + sizeof *fields;
  pith_l2 *sketch = sampler->engine->sketch ? sampler->engine->sketch(sampler) : NULL;
  bool sound = fields->failures <= fields->spent && (sketch || !(fields->sketch_spent || fields->sketch_failures)) &&
               (sampler->options.method != PITH_TENSOR_SKETCH || fields->spent <= sampler->options.draws);
  tensor_span spans[TENSOR_SPANS];
  size_t count = pith_tensor_spans(sampler, spans);
  for (size_t s = 0; s < count && sound; s++) {
    memcpy(spans[s].values, at, spans[s].count * sizeof *spans[s].values);
    at += spans[s].count * sizeof *spans[s].values;
    for (size_t i = 0; i < spans[s].count; i++) sound = sound && fabs(spans[s].values[i]) <= spans[s].largest;
  }
  if (sketch) {
    sound = sound && fields->sketch_spent <= sketch->count && fields->sketch_failures <= fields->sketch_spent &&
            read_cells(sketch, at);
    sketch->spent = fields->sketch_spent;
    sketch->failures = fields->sketch_failures;
  }
  if (!sound) return pith_fail(context, PITH_E_FORMAT, "%s: a number in it is out of range", file->name);
  sampler->begun = fields->begun;
  sampler->spent = fields->spent;
  sampler->failures = fields->failures;
  if (sampler->engine->settle) sampler->engine->settle(sampler);
  return PITH_OK;
}

pith_status pith_tensor_parse(pith_context *context, const pith_file *file, pith_tensor **out) {
  tensor_fields fields;
  pith_tensor_options options;
  PITH_TRY(read_fields(context, file, PITH_SKETCH_TENSOR, &fields, sizeof fields));
  PITH_TRY(read_tensor_options(context, file, &fields, &options));
  double bytes = pith_tensor_saved_bytes(context, &options);
  if (bytes < 0) return blame(context, file);
  PITH_TRY(check_length(context, file, sizeof fields, bytes));
  pith_tensor *sampler = NULL;
  PITH_TRY(pith_tensor_create(context, &options, &sampler));
  pith_status status = read_tensor_numbers(context, file, &fields, sampler);
  if (status < 0) {
    pith_tensor_free(sampler);
    return status;
  }
  *out = sampler;
  return PITH_OK;
}

/* ---- Files ---- */

pith_status pith_l2_load(pith_context *context, const char *path, pith_l2 **out) {
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  pith_status status = pith_l2_parse(context, file, out);
  pith_file_close(file);
  return status;
}

pith_status pith_tensor_load(pith_context *context, const char *path, pith_tensor **out) {
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  pith_status status = pith_tensor_parse(context, file, out);
  pith_file_close(file);
  return status;
}
