/* smallest.h - the smallest summary of a given kind that errs at most eps inside a ball (paper 2605.05602). */
#ifndef PITH_CLI_SMALLEST_H
#define PITH_CLI_SMALLEST_H

#include "command.h"

/* Keys and values of norm 1, both of dimension d. */
typedef struct instance {
  size_t n, d;
  float *keys, *values;
} instance;

/* Keys uniform on the sphere; values likewise, or each equal to its key. */
instance instance_sphere(size_t n, size_t d, uint64_t seed, bool values_are_keys);
instance instance_two_points(size_t n, double rho); /* n exp(-2 rho) of n keys at u, the others at -u */
instance instance_hadamard(size_t d);               /* keys e_i and -e_i, values h_i and -h_i; d a power of 2 */
void instance_free(instance *set);

typedef enum kind {
  KIND_SUBSET,   /* true rows of nearly equal weight: engine halving */
  KIND_WEIGHTED, /* true rows, weights fitted */
  KIND_REFITTED, /* true keys, values and weights fitted: engine nystrom */
  KINDS
} kind;
const char *kind_name(kind which);

/* Errors found in the ball, and ball certificates, over a ladder of sizes. */
enum { MOST_SIZES = 40 };
typedef struct sweep {
  size_t count, points[MOST_SIZES];
  double error[MOST_SIZES], bound[MOST_SIZES], trivial;
} sweep;

/* Sizes from 2 up by half an octave, to n/2 or until the error found (refitted: the bound too) is below `least`. */
pith_status sweep_run(cli_session *session, const instance *set, double rho, kind which, double least, sweep *out);
/* One size. */
pith_status measure_size(cli_session *session, const instance *set, double rho, kind which, size_t points,
                         double *error, double *bound, double *trivial);

/* Smallest size with error (or bound) at most eps, interpolated on logarithmic scales; NaN: not reached. */
double smallest_within(const sweep *s, const double *errors, double eps);

#endif
