/* summary_file.c - summaries as .safetensors (docs/format.md): tensors, and everything else as strings.
 *
 * What is written is checked as strictly as what is read, so that every file that was saved can be loaded. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/summary_text.h"
#include "summary/store.h"
#include "summary/summary.h"

/* The checksum is the first string of the header, so that its place is known before anything is parsed. */
static const char opening[] = "{\"__metadata__\":{\"checksum\":\"";
static const char zeros[] = "0000000000000000";
enum { LENGTH_BYTES = 8, DIGITS_AT = LENGTH_BYTES + sizeof opening - 1 };

/* The tensors of a head; the last two only where the store has scales. */
enum { KEYS, VALUES, LOG_WEIGHT, INDEX, EXACT, PLAIN_PARTS, KEYS_SCALE = PLAIN_PARTS, VALUES_SCALE, PARTS };
static const char *const part_names[PARTS] = {"keys",  "values",     "log_weight",  "index",
                                              "exact", "keys_scale", "values_scale"};

static int parts_of(pith_dtype store) { return pith_store_quantised(store) ? PARTS : PLAIN_PARTS; }

/* ---- Checksum: XXH64 of the whole file with the digits of the checksum itself set to 0 ---- */

static XXH64_state_t *start_hash(pith_context *context, const char *name) {
  XXH64_state_t *state = XXH64_createState();
  if (state)
    XXH64_reset(state, 0);
  else
    (void)pith_fail(context, PITH_E_MEMORY, "%s: no memory for its checksum", name);
  return state;
}

static void end_hash(XXH64_state_t *state, char digits[PITH_CHECKSUM_DIGITS + 1]) {
  (void)snprintf(digits, PITH_CHECKSUM_DIGITS + 1, "%016llx", (unsigned long long)XXH64_digest(state));
  XXH64_freeState(state);
}

pith_status pith_summary_checksum(pith_context *context, const pith_file *file, char digits[PITH_CHECKSUM_DIGITS + 1],
                                  size_t *at) {
  size_t after = DIGITS_AT + PITH_CHECKSUM_DIGITS;
  if (file->size < after || memcmp(file->bytes + LENGTH_BYTES, opening, sizeof opening - 1) != 0)
    return pith_fail(
        context, PITH_E_FORMAT,
        "%s: not a summary that pith wrote: that is a .safetensors file whose header begins with a checksum",
        file->name);
  XXH64_state_t *state = start_hash(context, file->name);
  if (!state) return PITH_E_MEMORY;
  XXH64_update(state, file->bytes, DIGITS_AT);
  XXH64_update(state, zeros, PITH_CHECKSUM_DIGITS);
  XXH64_update(state, file->bytes + after, file->size - after);
  end_hash(state, digits);
  *at = DIGITS_AT;
  return PITH_OK;
}

/* ---- What a summary must be to go through a file ---- */

/* False with the place of the first number that is not finite. */
static bool all_finite(pith_dtype dtype, const void *data, size_t count, size_t *bad) {
  const uint16_t *half = data;
  const float *single = data;
  uint16_t exponent = dtype == PITH_F16 ? 0x7c00u : 0x7f80u;
  for (size_t i = 0; i < count; i++)
    if (dtype == PITH_F32 ? !isfinite(single[i]) : (half[i] & exponent) == exponent) return *bad = i, false;
  return true;
}

/* What rows may hold: finite numbers and scales, q8 no -128, q4 no half byte behind an odd row. */
static bool sound_rows(pith_dtype store, const void *data, const uint16_t *scales, size_t rows, size_t width,
                       size_t *bad) {
  const int8_t *whole = data;
  const uint8_t *pairs = data;
  if (!pith_store_quantised(store)) return all_finite(store, data, rows * width, bad);
  for (size_t i = 0; store == PITH_Q8 && i < rows * width; i++)
    if (whole[i] == INT8_MIN) return *bad = i, false;
  size_t bytes = width / 2 + 1;
  for (size_t row = 0; store == PITH_Q4 && width % 2 && row < rows; row++)
    if (pairs[(row + 1) * bytes - 1] >> 4) return *bad = (row + 1) * width, false;
  if (all_finite(PITH_F16, scales, rows * pith_scales(width), bad)) return true;
  *bad = *bad / pith_scales(width) * width + *bad % pith_scales(width) * PITH_SCALED;
  return false;
}

/* What a certificate may say; `wanted` none: any kind that a summary can have. */
static bool sound_certificate(const pith_certificate *c, pith_certificate_kind wanted) {
  if (c->kind == PITH_CERTIFICATE_NONE) return true;
  return (wanted == PITH_CERTIFICATE_NONE ? c->kind != PITH_CERTIFICATE_TAIL : c->kind == wanted) && c->bound >= 0 &&
         c->confidence >= 0 && c->confidence <= 1 && c->trivial >= 0 && c->rho >= 0;
}

static pith_status check_promises(pith_context *context, const char *name, const pith_head_view *view, size_t layer,
                                  size_t head) {
  const char *what = !sound_certificate(&view->binding, PITH_CERTIFICATE_NONE)        ? "certificate"
                     : !sound_certificate(&view->ball, PITH_CERTIFICATE_BALL)         ? "certificate.ball"
                     : !sound_certificate(&view->gaussian, PITH_CERTIFICATE_GAUSSIAN) ? "certificate.gaussian"
                     : !sound_certificate(&view->probe, PITH_CERTIFICATE_PROBE)       ? "certificate.probe"
                     : view->probe_error < 0                                          ? "probe_error"
                                                                                      : NULL;
  if (!what) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT, "%s: layer %zu, head %zu: %s: of the wrong kind, negative, or not a number",
                   name, layer, head, what);
}

static pith_status check_head(pith_context *context, const char *name, const pith_summary *summary, size_t i) {
  enum { MOST_NUMBERS = 1 << 20 };
  const pith_head_view *view = &summary->slot[i].view, *first = &summary->slot[0].view;
  size_t layer = i / summary->info.heads, head = i % summary->info.heads, bad = 0;
  if (view->d == 0 || view->dv == 0 || view->d > MOST_NUMBERS || view->dv > MOST_NUMBERS || view->d != first->d ||
      view->dv != first->dv)
    return pith_fail(context, PITH_E_SHAPE,
                     "%s: layer %zu, head %zu: keys of %zu and values of %zu numbers; all heads must agree, and have 1 "
                     "to %d",
                     name, layer, head, view->d, view->dv, MOST_NUMBERS);
  if (view->source_rows > (size_t)1 << 40)
    return pith_fail(context, PITH_E_FORMAT, "%s: layer %zu, head %zu: source_rows: %zu is more than 2^40", name, layer,
                     head, view->source_rows);
  PITH_TRY(pith_store_check(context, view->store, view->d, view->dv));
  const char *what = !sound_rows(view->store, view->keys, view->key_scales, view->points, view->d, &bad) ? "keys"
                     : !sound_rows(view->store, view->values, view->value_scales, view->points, view->dv, &bad)
                         ? "values"
                     : !all_finite(PITH_F32, view->log_weight, view->points, &bad) ? "log_weight"
                                                                                   : NULL;
  if (what)
    return pith_fail(context, PITH_E_VALUE, "%s: layer %zu, head %zu: %s: number %zu is not finite", name, layer, head,
                     what, bad);
  PITH_TRY(check_promises(context, name, view, layer, head));
  for (size_t row = 0; row < view->points; row++) {
    int64_t index = view->index[row];
    if (index < -1 || (index >= 0 && (uint64_t)index >= view->source_rows))
      return pith_fail(context, PITH_E_FORMAT,
                       "%s: layer %zu, head %zu: index: row %zu is %lld, not -1 nor one of the %zu rows of the input",
                       name, layer, head, row, (long long)index, view->source_rows);
    if (view->exact[row] > 1)
      return pith_fail(context, PITH_E_FORMAT, "%s: layer %zu, head %zu: exact: row %zu is %d, neither 0 nor 1", name,
                       layer, head, row, view->exact[row]);
  }
  return PITH_OK;
}

static pith_status check_summary(pith_context *context, const char *name, const pith_summary *summary) {
  const pith_summary_info *info = &summary->info;
  size_t length = strspn(info->engine, "abcdefghijklmnopqrstuvwxyz0123456789_-");
  if (length == 0 || length >= sizeof info->engine || info->engine[length])
    return pith_fail(context, PITH_E_FORMAT, "%s: engine: \"%s\" is not a name of small letters", name,
                     pith_quote(info->engine, strnlen(info->engine, sizeof info->engine)).text);
  if (!isfinite(info->scale) || info->scale <= 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: scale: %g is not positive and finite", name, info->scale);
  if (!isfinite(summary->rho) || summary->rho < 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: rho: %g is negative or not finite", name, summary->rho);
  if (info->predicted_kl < 0)
    return pith_fail(context, PITH_E_FORMAT, "%s: predicted_kl: %g is negative", name, info->predicted_kl);
  for (size_t i = 0; i < info->layers * info->heads; i++) PITH_TRY(check_head(context, name, summary, i));
  return PITH_OK;
}

/* ---- Writing ---- */

typedef struct item { /* one tensor of the file */
  char name[64];
  pith_array array;
  size_t bytes;
} item;

/* Rows of keys or values as they lie: integers where the store is quantised. */
static pith_array rows_of(pith_dtype store, const void *data, size_t rows, size_t width) {
  if (store == PITH_Q8) return pith_array_matrix(data, PITH_I8, rows, width);
  if (store == PITH_Q4) return pith_array_matrix(data, PITH_U8, rows, pith_store_row_bytes(store, width));
  return pith_array_matrix(data, store, rows, width);
}

static pith_array part_of(const pith_head_view *view, int part) {
  size_t points = view->points;
  switch (part) {
    case KEYS: return rows_of(view->store, view->keys, points, view->d);
    case VALUES: return rows_of(view->store, view->values, points, view->dv);
    case LOG_WEIGHT: return pith_array_matrix(view->log_weight, PITH_F32, points, 1);
    case INDEX: return pith_array_matrix(view->index, PITH_I64, points, 1);
    case EXACT: return pith_array_matrix(view->exact, PITH_U8, points, 1);
    case KEYS_SCALE: return pith_array_matrix(view->key_scales, PITH_F16, points, pith_scales(view->d));
    default: return pith_array_matrix(view->value_scales, PITH_F16, points, pith_scales(view->dv));
  }
}

static bool one_column(int part) { return part == LOG_WEIGHT || part == INDEX || part == EXACT; }

/* "" for a single head, else "L.H." */
static void write_prefix(const pith_summary *summary, size_t i, char prefix[48]) {
  prefix[0] = 0;
  if (summary->info.layers * summary->info.heads > 1)
    (void)snprintf(prefix, 48, "%zu.%zu.", i / summary->info.heads, i % summary->info.heads);
}

/* All tensors in the order of the file: larger elements first, so that each lies at a multiple of its own. */
static size_t list_items(const pith_summary *summary, item *items) {
  size_t count = 0;
  for (size_t size = 8; size > 0; size /= 2)
    for (size_t i = 0; i < summary->info.layers * summary->info.heads; i++)
      for (int part = 0; part < parts_of(summary->slot[i].view.store); part++) {
        pith_array array = part_of(&summary->slot[i].view, part);
        if (pith_dtype_size(array.dtype) != size) continue;
        char prefix[48];
        write_prefix(summary, i, prefix);
        items[count].array = array;
        items[count].bytes = array.shape[0] * array.shape[1] * size;
        (void)snprintf(items[count].name, sizeof items->name, "%s%s", prefix, part_names[part]);
        if (one_column(part)) items[count].array.ndim = 1;
        count++;
      }
  return count;
}

static bool describe_items(json_t *header, const item *items, size_t count) {
  json_int_t at = 0;
  bool done = true;
  for (size_t i = 0; i < count; i++) {
    const pith_array *array = &items[i].array;
    char dtype[8] = {0};
    const char *small = pith_dtype_name(array->dtype);
    for (size_t j = 0; small[j]; j++) dtype[j] = (char)(small[j] >= 'a' ? small[j] - 'a' + 'A' : small[j]);
    json_t *shape = array->ndim == 2 ? json_pack("[I,I]", (json_int_t)array->shape[0], (json_int_t)array->shape[1])
                                     : json_pack("[I]", (json_int_t)array->shape[0]);
    json_t *entry = json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype, "shape", shape, "data_offsets", at,
                              at + (json_int_t)items[i].bytes);
    done &= json_object_set_new(header, items[i].name, entry) == 0;
    at += (json_int_t)items[i].bytes;
  }
  return done;
}

/* Two numbers to a byte: whether the last half counts has to be said. */
static bool any_q4(const pith_summary *summary) {
  for (size_t i = 0; i < summary->info.layers * summary->info.heads; i++)
    if (summary->slot[i].view.store == PITH_Q4) return true;
  return false;
}

static bool describe_summary(json_t *metadata, const pith_summary *summary) {
  const pith_summary_info *info = &summary->info;
  bool done = pith_text_set(metadata, "", "checksum", zeros) && pith_text_set(metadata, "", "pith_format", "1") &&
              pith_text_set(metadata, "", "engine", info->engine) &&
              pith_text_set(metadata, "", "query_model", pith_query_kind_name(info->query_model)) &&
              pith_text_set_count(metadata, "", "seed", info->seed) &&
              pith_text_set_number(metadata, "", "scale", info->scale) &&
              pith_text_set_number(metadata, "", "rho", summary->rho) &&
              pith_text_set_count(metadata, "", "folded", info->folded != 0) &&
              pith_text_set_count(metadata, "", "layers", info->layers) &&
              pith_text_set_count(metadata, "", "heads", info->heads) &&
              pith_text_set_count(metadata, "", "other_bytes", info->other_bytes) &&
              (isnan(info->predicted_kl) || pith_text_set_number(metadata, "", "predicted_kl", info->predicted_kl));
  if (any_q4(summary))
    done = done && pith_text_set_count(metadata, "", "d", summary->slot[0].view.d) &&
           pith_text_set_count(metadata, "", "dv", summary->slot[0].view.dv);
  for (size_t i = 0; done && i < info->layers * info->heads; i++) {
    char prefix[48];
    write_prefix(summary, i, prefix);
    done = pith_text_set_head(metadata, prefix, &summary->slot[i].view);
  }
  return done;
}

/* The header's text with the checksum still 0; NULL without memory. Free with free(). */
static char *make_header(const pith_summary *summary, const item *items, size_t count) {
  json_t *header = json_object(), *metadata = json_object();
  bool done = describe_summary(metadata, summary) && json_object_set(header, "__metadata__", metadata) == 0 &&
              describe_items(header, items, count);
  char *text = done ? json_dumps(header, JSON_COMPACT) : NULL;
  json_decref(metadata);
  json_decref(header);
  return text;
}

static pith_status write_file(pith_context *context, const char *path, char *header, const item *items, size_t count) {
  size_t length = strlen(header), padding = (8 - length % 8) % 8;
  uint64_t stated = length + padding;
  XXH64_state_t *state = start_hash(context, path);
  if (!state) return PITH_E_MEMORY;
  XXH64_update(state, &stated, sizeof stated);
  XXH64_update(state, header, length);
  XXH64_update(state, "       ", padding);
  for (size_t i = 0; i < count; i++) XXH64_update(state, items[i].array.data, items[i].bytes);
  char digits[PITH_CHECKSUM_DIGITS + 1];
  end_hash(state, digits);
  memcpy(header + sizeof opening - 1, digits, PITH_CHECKSUM_DIGITS);

  pith_writer writer;
  PITH_TRY(pith_writer_open(context, path, &writer));
  pith_status status = pith_writer_put(&writer, &stated, sizeof stated);
  if (status >= 0) status = pith_writer_put(&writer, header, length);
  if (status >= 0) status = pith_writer_put(&writer, "       ", padding);
  for (size_t i = 0; status >= 0 && i < count; i++)
    status = pith_writer_put(&writer, items[i].array.data, items[i].bytes);
  return pith_writer_close(&writer, status);
}

pith_status pith_summary_save(pith_context *context, const pith_summary *summary, const char *path) {
  PITH_TRY(check_summary(context, path, summary));
  item *items = pith_allocate(context, summary->info.layers * summary->info.heads, PARTS * sizeof *items);
  if (!items) return PITH_E_MEMORY;
  size_t count = list_items(summary, items);
  char *header = make_header(summary, items, count);
  pith_status status = header ? write_file(context, path, header, items, count)
                              : pith_fail(context, PITH_E_MEMORY, "%s: no memory for its header", path);
  free(header);
  pith_release(context, items);
  return status;
}

/* ---- Reading ---- */

static pith_status read_part(pith_context *context, const pith_file *file, const char *prefix, int part,
                             pith_array *array) {
  char name[64];
  size_t ndim = one_column(part) ? 1 : 2;
  (void)snprintf(name, sizeof name, "%s%s", prefix, part_names[part]);
  PITH_TRY(pith_safetensors_tensor(context, file, name, array));
  if (array->ndim != ndim)
    return pith_fail(context, PITH_E_FORMAT, "%s: tensor \"%s\": %zu dimensions instead of %zu", file->name, name,
                     array->ndim, ndim);
  return PITH_OK;
}

static pith_dtype store_of(pith_dtype dtype) { return dtype == PITH_I8 ? PITH_Q8 : dtype == PITH_U8 ? PITH_Q4 : dtype; }

/* Shapes and types of all parts follow from the keys and values; those of `wanted` are right. */
static pith_status check_part(pith_context *context, const pith_file *file, const char *prefix, int part,
                              const pith_array *found, const pith_array *wanted) {
  bool same = found->dtype == wanted->dtype && found->shape[0] == wanted->shape[0] &&
              (one_column(part) || found->shape[1] == wanted->shape[1]);
  if (same) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT,
                   "%s: tensor \"%s%s\": %zu rows of %zu numbers of type %s; the keys ask for %zu of %zu of type %s",
                   file->name, prefix, part_names[part], found->shape[0], one_column(part) ? 1 : found->shape[1],
                   pith_dtype_name(found->dtype), wanted->shape[0], wanted->shape[1], pith_dtype_name(wanted->dtype));
}

static pith_status read_head(pith_context *context, const pith_file *file, pith_summary *summary, size_t i) {
  enum { MOST = 1 << 20 };
  char prefix[48];
  pith_array part[PARTS];
  write_prefix(summary, i, prefix);
  PITH_TRY(read_part(context, file, prefix, KEYS, &part[KEYS]));
  pith_dtype store = store_of(part[KEYS].dtype);
  for (int p = VALUES; p < parts_of(store); p++) PITH_TRY(read_part(context, file, prefix, p, &part[p]));
  size_t points = part[KEYS].shape[0], d = part[KEYS].shape[1], dv = part[VALUES].shape[1];
  if (store == PITH_Q4) {
    PITH_TRY(pith_text_count(context, file, "", "d", MOST, &d));
    PITH_TRY(pith_text_count(context, file, "", "dv", MOST, &dv));
  }
  pith_head_view wanted = {.points = points, .d = d, .dv = dv, .store = store};
  for (int p = KEYS; p < parts_of(store); p++) {
    pith_array right = part_of(&wanted, p);
    PITH_TRY(check_part(context, file, prefix, p, &part[p], &right));
  }
  pith_head_memory memory;
  size_t heads = summary->info.heads;
  PITH_TRY(pith_summary_place_head(context, summary, i / heads, i % heads, points, d, dv, store, &memory));
  void *to[PARTS] = {memory.keys,  memory.values,     memory.log_weight,  memory.index,
                     memory.exact, memory.key_scales, memory.value_scales};
  for (int p = KEYS; points > 0 && p < parts_of(store); p++) {
    pith_array right = part_of(&wanted, p);
    memcpy(to[p], part[p].data, points * right.shape[1] * pith_dtype_size(right.dtype));
  }
  return pith_text_head(context, file, prefix, &summary->slot[i].view);
}

static pith_status read_info(pith_context *context, const pith_file *file, pith_summary *summary) {
  pith_summary_info *info = &summary->info;
  const char *engine = NULL, *model = NULL;
  size_t seed = 0, folded = 0;
  PITH_TRY(pith_text_get(context, file, "", "engine", &engine));
  PITH_TRY(pith_text_get(context, file, "", "query_model", &model));
  PITH_TRY(pith_text_count(context, file, "", "seed", SIZE_MAX, &seed));
  PITH_TRY(pith_text_count(context, file, "", "folded", 1, &folded));
  PITH_TRY(pith_text_count(context, file, "", "other_bytes", SIZE_MAX, &info->other_bytes));
  PITH_TRY(pith_text_number(context, file, "", "scale", &info->scale));
  PITH_TRY(pith_text_number(context, file, "", "rho", &summary->rho));
  PITH_TRY(pith_text_error(context, file, "", "predicted_kl", &info->predicted_kl));
  info->seed = seed;
  info->folded = (int)folded;
  (void)snprintf(info->engine, sizeof info->engine, "%s", engine);
  int kind = PITH_QUERIES_AUTO;
  while (kind <= PITH_QUERIES_SAMPLES && strcmp(pith_query_kind_name((pith_query_kind)kind), model) != 0) kind++;
  if (strlen(engine) >= sizeof info->engine || kind > PITH_QUERIES_SAMPLES)
    return pith_fail(context, PITH_E_FORMAT, "%s: metadata: engine \"%s\" or query_model \"%s\" is not known",
                     file->name, pith_quote(engine, strlen(engine)).text, pith_quote(model, strlen(model)).text);
  info->query_model = (pith_query_kind)kind;
  return PITH_OK;
}

/* There are no tensors that nobody asked for. */
static pith_status check_count(pith_context *context, const pith_file *file, const pith_summary *summary) {
  size_t count = 0;
  for (size_t i = 0; i < summary->info.layers * summary->info.heads; i++)
    count += (size_t)parts_of(summary->slot[i].view.store);
  if (count == file->tensor_count) return PITH_OK;
  return pith_fail(context, PITH_E_FORMAT, "%s: %zu tensors; its heads have %zu", file->name, file->tensor_count,
                   count);
}

pith_status pith_summary_parse(pith_context *context, pith_file *file, pith_summary **out) {
  char digits[PITH_CHECKSUM_DIGITS + 1];
  size_t at = 0, layers = 0, heads = 0, tensors = 0;
  PITH_TRY(pith_summary_checksum(context, file, digits, &at));
  if (memcmp(file->bytes + at, digits, PITH_CHECKSUM_DIGITS) != 0)
    return pith_fail(context, PITH_E_CHECKSUM,
                     "%s: checksum: \"%s\" is not that of the file (%s): it was changed or cut short after it was "
                     "written",
                     file->name, pith_quote((const char *)file->bytes + at, PITH_CHECKSUM_DIGITS).text, digits);
  PITH_TRY(pith_safetensors_parse(context, file));
  const char *version = NULL;
  PITH_TRY(pith_text_get(context, file, "", "pith_format", &version));
  if (strcmp(version, "1") != 0)
    return pith_fail(context, PITH_E_VERSION, "%s: pith_format: \"%s\"; this library reads 1", file->name,
                     pith_quote(version, strlen(version)).text);
  PITH_TRY(pith_text_count(context, file, "", "layers", file->tensor_count, &layers));
  PITH_TRY(pith_text_count(context, file, "", "heads", file->tensor_count, &heads));
  if (__builtin_mul_overflow(layers, heads, &tensors) ||
      __builtin_mul_overflow(tensors, (size_t)PLAIN_PARTS, &tensors) || tensors == 0 || tensors > file->tensor_count)
    return pith_fail(context, PITH_E_FORMAT, "%s: %zu tensors; %zu layers of %zu heads have at least %d each",
                     file->name, file->tensor_count, layers, heads, PLAIN_PARTS);
  pith_summary *summary = NULL;
  PITH_TRY(pith_summary_create(context, layers, heads, &summary));
  pith_status status = read_info(context, file, summary);
  for (size_t i = 0; status >= 0 && i < layers * heads; i++) status = read_head(context, file, summary, i);
  if (status >= 0) status = check_count(context, file, summary);
  if (status >= 0) status = check_summary(context, file->name, summary);
  if (status < 0) {
    pith_summary_free(summary);
    return status;
  }
  *out = summary;
  return PITH_OK;
}

pith_status pith_summary_load(pith_context *context, const char *path, pith_summary **out) {
  pith_file *file = NULL;
  PITH_TRY(pith_file_open(context, path, &file));
  pith_status status = pith_summary_parse(context, file, out);
  pith_file_close(file);
  return status;
}
