/* shapes.c - do queries, keys and values fit together? */
#include "attention/attention.h"

static pith_status check_array(pith_context *context, const pith_array *array, const char *what) {
  if (!array) return pith_fail(context, PITH_E_ARGUMENT, "%s: no array was given", what);
  if (array->ndim < 2 || array->ndim > 4)
    return pith_fail(context, PITH_E_SHAPE,
                     "%s: %zu dimensions; (rows, columns), (heads, rows, columns) or (layers, heads, rows, columns) "
                     "are understood",
                     what, array->ndim);
  if (array->dtype != PITH_F32 && array->dtype != PITH_F16 && array->dtype != PITH_BF16 && array->dtype != PITH_F64)
    return pith_fail(context, PITH_E_TYPE, "%s: elements are %s; f16, bf16, f32 and f64 are supported", what,
                     pith_dtype_name(array->dtype));
  if (pith_array_layers(array) == 0 || pith_array_heads(array) == 0 || array->shape[array->ndim - 1] == 0)
    return pith_fail(context, PITH_E_SHAPE, "%s: %zu layers, %zu heads and %zu columns; each must be at least 1", what,
                     pith_array_layers(array), pith_array_heads(array), array->shape[array->ndim - 1]);
  if (!array->data && array->shape[array->ndim - 2] > 0)
    return pith_fail(context, PITH_E_ARGUMENT, "%s: the data pointer is NULL for %zu rows", what,
                     array->shape[array->ndim - 2]);
  return PITH_OK;
}

static size_t rows_of(const pith_array *array) { return array->shape[array->ndim - 2]; }
static size_t columns_of(const pith_array *array) { return array->shape[array->ndim - 1]; }

pith_status pith_check_shapes(pith_context *context, const pith_array *queries, const pith_array *keys,
                              const pith_array *values) {
  PITH_TRY(check_array(context, keys, "keys"));
  PITH_TRY(check_array(context, values, "values"));
  if (pith_array_layers(keys) != pith_array_layers(values))
    return pith_fail(context, PITH_E_SHAPE, "values: %zu layers, but keys have %zu; they must agree",
                     pith_array_layers(values), pith_array_layers(keys));
  if (pith_array_heads(keys) != pith_array_heads(values))
    return pith_fail(context, PITH_E_SHAPE, "values: %zu heads, but keys have %zu; they must agree",
                     pith_array_heads(values), pith_array_heads(keys));
  if (rows_of(keys) != rows_of(values))
    return pith_fail(context, PITH_E_SHAPE, "values: %zu rows, but keys have %zu; every key needs its value",
                     rows_of(values), rows_of(keys));
  if (!queries) return PITH_OK;
  PITH_TRY(check_array(context, queries, "queries"));
  if (columns_of(queries) != columns_of(keys))
    return pith_fail(context, PITH_E_SHAPE, "queries: %zu columns, but keys have %zu; they must agree",
                     columns_of(queries), columns_of(keys));
  if (pith_array_layers(queries) != pith_array_layers(keys))
    return pith_fail(context, PITH_E_SHAPE, "queries: %zu layers, but keys have %zu; they must agree",
                     pith_array_layers(queries), pith_array_layers(keys));
  if (pith_array_heads(queries) % pith_array_heads(keys) != 0)
    return pith_fail(context, PITH_E_SHAPE,
                     "queries: %zu heads, but keys have %zu; query heads must be a multiple of kv heads",
                     pith_array_heads(queries), pith_array_heads(keys));
  return PITH_OK;
}
