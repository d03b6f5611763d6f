/* conclude.c - answers from what was read and what was left, and their bounds.
 *
 * Let T be the unread keys, w their weights exp(z), ^w what the codes say, v_p the mean of block p, u = v - v_p, O the
 * answer, a the anchor. With the error identity (docs/sparsity.md)
 *     Attn - O = (sum_T w u + sum_T (w - ^w)(v_p - O)) / Z.
 * The first sum is U' w for the matrix U of all u_i: at most spread * |w|, where spread^2 is the largest eigenvalue
 * of U'U, kept by the index; in blocks of which nothing is read, w may be replaced by w - its mean, since there
 * sum u = 0. It is also at most sum_T w |u|.
 * Of the second, w - ^w = ^w (<q, r> + <e, x> + rest), r = key - code, e = query - its code, x = code - mean of keys.
 * With R_p the matrix of the r of block p, what is linear in r is sum_p (v_p - O) <q, R_p' ^w_p>, at most |q| |^w|
 * (max_p |R_p| |[v_p - a]_p| + |O - a| sqrt(sum_p |R_p|^2)) in spectral norms; the same holds of e and x. The rest, or
 * if that is less all of it, is bounded term by term. */
#include <math.h>
#include <string.h>

#include "linalg/linalg.h"
#include "sparsity/choice.h"
#include "sparsity/lengths.h"

double pith_sparse_tail_error(const pith_sparse_choice *c, const pith_sparse_tail *tail, size_t q, double offset) {
  const pith_sparse_head *head = c->head;
  double spread = sqrt(head->values.spread) * (sqrt(tail->square[q]) + sqrt(tail->doubt_square[q]));
  const double means = sqrt(head->means.spread);
  const double of_keys = (double)head->most_residual * means + offset * sqrt(head->residual_squares);
  const double of_query = (double)head->most_code * means + offset * sqrt(head->code_squares);
  double together = sqrt(tail->codes[q]) * (c->norm[q] * of_keys + c->lost[q] * of_query) + tail->rest_offset[q] +
                    tail->rest[q] * offset;
  double apart = tail->doubt_offset[q] + tail->doubt[q] * offset;
  return fmin(spread, tail->radius[q]) + fmin(together, apart);
}

/* ---- Rounding ---- */

/* Relative error of the kernels' sums of weights over `count` keys: a chain over the keys of a tile, then two steps for
 * each tile (kernels/vector.h; scalar.c has shorter ones). */
static double chain(size_t count, size_t width) { return (512 / (double)width + (double)count / 32 + 32) * PITH_UNIT; }

/* Error of the kernels' logits: eight or more sums side by side, the scaling of the query, and what the store adds. */
static double logit_rounding(const pith_sparse_job *job, double query_norm) {
  const double d = (double)job->rows.d;
  double steps = d / 8 + 12 + (pith_turned(job->rows.dtype, job->rows.d) ? log2(d) + 2 : 0);
  return query_norm * (double)job->head->most_key * steps * PITH_UNIT;
}

double pith_sparse_rounding(const pith_sparse_job *job, const float *query, const float *answer, size_t count) {
  double length = pith_norm(answer, job->rows.dv), most = (double)job->head->most_value;
  double wrong = expm1(logit_rounding(job, pith_norm(query, job->rows.d)) + chain(count, 1) + 64 * PITH_UNIT);
  return wrong * (most + length) * (1 + 1e-6) + 16 * PITH_UNIT * length;
}

double pith_sparse_expected_rounding(const pith_sparse_choice *c, size_t q) {
  return logit_rounding(c->job, c->norm[q]) + chain(c->visible / 8, c->width);
}

/* ---- Putting together ---- */

void pith_sparse_add_means(const pith_sparse_choice *c) {
  const size_t dv = c->head->dv;
  memset(c->space.tail, 0, c->group * dv * sizeof(float));
  if (c->blocks > 0)
    pith_gemm_f32_alone(PITH_TRANSPOSED, PITH_PLAIN, c->group, dv, c->blocks, 1, c->space.weight, c->width,
                        c->head->value_mean, dv, 0, c->space.tail, dv);
}

pith_sparse_sums pith_sparse_conclude(const pith_sparse_choice *c, size_t q, const pith_sparse_tail *tail,
                                      float largest, float sum, size_t place) {
  const pith_sparse_head *head = c->head;
  const pith_sparse_space *s = &c->space;
  const size_t dv = head->dv;
  float *out = c->job->out + place * dv;
  pith_sparse_account *account = &c->job->account[place];
  *account = (pith_sparse_account){.read = c->chosen, .seen = c->visible};
  const double threshold = (double)c->threshold[q], shift = fmax(threshold, (double)largest);
  const double near = exp((double)largest - shift), far = exp(threshold - shift);
  double mass = 0, far_mass = 0;
  for (size_t p = 0; p < c->blocks; p++) far_mass += (double)s->weight[p * c->width + q];
  mass = near * (double)sum + far * far_mass;
  for (size_t j = 0; j < dv; j++) {
    double value = near * (double)s->output[q * dv + j] + far * (double)s->tail[q * dv + j];
    out[j] = mass > 0 ? (float)(value / mass) : 0;
  }
  double offset = 0;
  for (size_t j = 0; j < dv; j++) offset += pow((double)out[j] - (double)head->anchor[j], 2);
  const double length = pith_norm(out, dv), most = (double)head->most_value, each = logit_rounding(c->job, c->norm[q]);
  const double read_mass = near * (double)sum, wrong = expm1(each + chain(c->chosen, c->width));
  const double least = read_mass / (1 + wrong) + far * tail->low[q];
  const double left = far * pith_sparse_tail_error(c, tail, q, sqrt(offset) * (1 + 1e-9));
  const double rounding = (wrong * read_mass + far * far_mass * (double)(c->blocks + 64) * PITH_UNIT) * (most + length);
  double rounded = rounding / least * (1 + 1e-6) + 8 * PITH_UNIT * length;
  if (pith_turned(head->dtype, dv)) {
    pith_turn(out, 1, dv);
    rounded += (log2((double)dv) + 2) * PITH_UNIT * length;
  }
  account->bound = left / least * (1 + 1e-6) + rounded;
  account->tail = fmin(1, far * tail->high[q] / (far * tail->high[q] + read_mass / (1 + wrong)));
  if (!(account->bound >= 0)) account->bound = (double)INFINITY;
  if (c->job->marks) {
    unsigned char *marks = c->job->marks + place * c->job->rows.count;
    memset(marks, 0, c->job->rows.count);
    for (size_t i = 0; i < c->chosen; i++) marks[s->chosen[i]] = 1;
  }
  return (pith_sparse_sums){
      .mass = mass / far, .least = least / far, .doubt = tail->doubt[q] + wrong * read_mass / far, .rounding = rounded};
}
