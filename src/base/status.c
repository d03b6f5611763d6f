/* status.c - a name and a sentence for every status code. */
#include "base/base.h"

static const struct {
  pith_status status;
  const char *name, *sentence;
} table[] = {
    {PITH_OK, "PITH_OK", "done"},
    {PITH_NOT_CERTIFIED, "PITH_NOT_CERTIFIED", "done, but the certificate asked for was not reached"},
    {PITH_E_ARGUMENT, "PITH_E_ARGUMENT", "an argument is out of range or contradicts another"},
    {PITH_E_SHAPE, "PITH_E_SHAPE", "the shapes do not fit together"},
    {PITH_E_TYPE, "PITH_E_TYPE", "this element type is not supported here"},
    {PITH_E_VALUE, "PITH_E_VALUE", "a value is not a number, or infinite"},
    {PITH_E_BUDGET, "PITH_E_BUDGET", "the budget is too small, or larger than what there is"},
    {PITH_E_UNKNOWN, "PITH_E_UNKNOWN", "nothing of that name is known"},
    {PITH_E_FORMAT, "PITH_E_FORMAT", "the file is not what it says, or is cut short"},
    {PITH_E_VERSION, "PITH_E_VERSION", "the file is of a version that this library does not know"},
    {PITH_E_CHECKSUM, "PITH_E_CHECKSUM", "the file was changed after it was written"},
    {PITH_E_MEMORY, "PITH_E_MEMORY", "there is not enough memory"},
    {PITH_E_IO, "PITH_E_IO", "the system could not read or write"},
    {PITH_E_NUMERIC, "PITH_E_NUMERIC", "a factorisation failed although the input looked sound"},
    {PITH_E_CANCELLED, "PITH_E_CANCELLED", "stopped on request"},
};

const char *pith_status_name(pith_status status) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (table[i].status == status) return table[i].name;
  return "PITH_UNKNOWN_STATUS";
}

const char *pith_status_sentence(pith_status status) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (table[i].status == status) return table[i].sentence;
  return "a status code that this library does not know";
}

const char *pith_version(void) { return PITH_VERSION_STRING; }
