/* sketch_file.c - sketches on disk: one checksummed frame (docs/format.md). */
#include <math.h>
#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state of the checksum on the stack */
#include <xxhash.h>

#include "io/file.h"
#include "sampler/l2.h"

static const char MAGIC[8] = {'P', 'I', 'T', 'H', 'S', 'K', 'C', 'H'};
enum { VERSION = 1, KIND_L2 = 1 };

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

_Static_assert(sizeof(frame_head) == 32 && sizeof(l2_fields) == 120 && sizeof(pith_cell) == 8, "no padding in files");

/* The pieces of a file after its head. */
typedef struct piece {
  const void *bytes;
  size_t size;
} piece;
enum { PIECES = 4 };

static uint64_t checksum_of(const frame_head *head, const piece *pieces, size_t count) {
  XXH64_state_t state;
  XXH64_reset(&state, 0);
  XXH64_update(&state, head, offsetof(frame_head, checksum));
  for (size_t i = 0; i < count; i++)
    if (pieces[i].size > 0) XXH64_update(&state, pieces[i].bytes, pieces[i].size);
  return XXH64_digest(&state);
}

/* ---- Writing ---- */

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
  const piece pieces[PIECES] = {{&fields, sizeof fields},
                                {sampler->start, options->dim * sizeof *sampler->start},
                                {sampler->moved, sampler->moved ? options->dim * sizeof *sampler->moved : 0},
                                {sampler->cells, sampler->cell_count * sizeof *sampler->cells}};
  frame_head head = {.version = VERSION, .kind = KIND_L2, .size = sizeof head};
  memcpy(head.magic, MAGIC, sizeof MAGIC);
  for (size_t i = 0; i < PIECES; i++) head.size += pieces[i].size;
  head.checksum = checksum_of(&head, pieces, PIECES);
  pith_writer writer;
  PITH_TRY(pith_writer_open(context, path, &writer));
  pith_status status = pith_writer_put(&writer, &head, sizeof head);
  for (size_t i = 0; i < PIECES && status >= 0; i++) status = pith_writer_put(&writer, pieces[i].bytes, pieces[i].size);
  return pith_writer_close(&writer, status);
}

/* ---- Reading ---- */

bool pith_sketch_is(const pith_file *file) {
  return file->size >= sizeof MAGIC && memcmp(file->bytes, MAGIC, sizeof MAGIC) == 0;
}

static pith_status read_head(pith_context *context, const pith_file *file, frame_head *head) {
  if (!pith_sketch_is(file)) return pith_fail(context, PITH_E_FORMAT, "%s: not a sketch of pith", file->name);
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

/* Options as the fields say, if a sampler can have them and the file is as long as it must be then. */
static pith_status read_options(pith_context *context, const pith_file *file, const l2_fields *fields,
                                pith_l2_options *out) {
  pith_l2_options options;
  pith_l2_options_init(&options);
  const uint64_t most = (uint64_t)1 << 48; /* keeps sums of sizes below what a size_t holds */
  if (fields->rows > most || fields->dim > most || fields->draws > most || fields->distinct > most ||
      fields->copies > most || fields->depth > most || fields->buckets > most || fields->decode < PITH_DECODE_SCAN ||
      fields->decode > PITH_DECODE_DYADIC || fields->cells > PITH_CELLS_FLOAT || fields->strict > 1 ||
      fields->free_x > 1 || fields->buckets == 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: its fields are not those of a sketch", file->name);
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
  pith_status status = pith_l2_resolve(context, &options, out);
  if (status == PITH_OK) return PITH_OK;
  char message[256];
  (void)snprintf(message, sizeof message, "%s", pith_context_message(context));
  return pith_fail(context, PITH_E_FORMAT, "%s: %s", file->name, message);
}

static pith_status read_numbers(pith_context *context, const pith_file *file, const l2_fields *fields,
                                pith_l2 *sampler) {
  const size_t dim = sampler->options.dim, limit_bits = 62;
  const unsigned char *at = file->bytes + sizeof(frame_head) + sizeof *fields;
  memcpy(sampler->start, at, dim * sizeof *sampler->start);
  at += dim * sizeof *sampler->start;
  if (sampler->moved) {
    memcpy(sampler->moved, at, dim * sizeof *sampler->moved);
    at += dim * sizeof *sampler->moved;
  }
  memcpy(sampler->cells, at, sampler->cell_count * sizeof *sampler->cells);
  const int64_t limit = (int64_t)1 << limit_bits;
  bool sound = fields->spent <= sampler->count && fields->failures <= fields->spent;
  for (size_t j = 0; j < dim; j++) {
    int64_t moved = sampler->moved ? sampler->moved[j] : 0;
    sound = sound && isfinite(sampler->start[j]) && moved < limit && moved > -limit;
    sampler->x[j] = sampler->start[j] + (double)moved * PITH_X_UNIT;
  }
  for (size_t i = 0; i < sampler->cell_count && sound; i++) {
    const pith_cell *cell = &sampler->cells[i];
    sound =
        sampler->options.cells == PITH_CELLS_FLOAT ? isfinite(cell->real) : cell->whole < limit && cell->whole > -limit;
  }
  if (!sound) return pith_fail(context, PITH_E_FORMAT, "%s: a number in it is out of range", file->name);
  sampler->spent = fields->spent;
  sampler->failures = fields->failures;
  return PITH_OK;
}

pith_status pith_l2_parse(pith_context *context, pith_file *file, pith_l2 **out) {
  frame_head head;
  l2_fields fields;
  uint64_t checksum = 0;
  size_t at = 0;
  PITH_TRY(read_head(context, file, &head));
  PITH_TRY(pith_sketch_checksum(context, file, &checksum, &at));
  if (checksum != head.checksum)
    return pith_fail(context, PITH_E_CHECKSUM, "%s: changed after it was written: its checksum does not fit",
                     file->name);
  if (head.kind != KIND_L2)
    return pith_fail(context, PITH_E_FORMAT, "%s: a sketch of kind %u; this is about kind %d, l2", file->name,
                     head.kind, KIND_L2);
  if (file->size < sizeof head + sizeof fields)
    return pith_fail(context, PITH_E_FORMAT, "%s: cut short within its fields", file->name);
  memcpy(&fields, file->bytes + sizeof head, sizeof fields);
  pith_l2_options options;
  PITH_TRY(read_options(context, file, &fields, &options));
  double expected = (double)(sizeof head + sizeof fields) + pith_l2_saved_bytes(&options);
  if (expected != (double)file->size)
    return pith_fail(context, PITH_E_FORMAT, "%s: %zu bytes, its fields ask for %.0f", file->name, file->size,
                     expected);
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

pith_status pith_l2_load(pith_context *context, const char *path, pith_l2 **out) {
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  pith_status status = pith_l2_parse(context, file, out);
  pith_file_close(file);
  return status;
}
