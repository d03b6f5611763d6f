/* quantise.h - turning rows and rounding them to q8: the same plain C for every table, which compilers turn into
 * vectors, and which yields the same bits in every table, since no product is contracted (-ffp-contract=off). */
#include <math.h>
#include <string.h>

/* ---- Turning ---- */

enum { TURN_PIECE = 256 };

/* Neighbours to sums and differences, the sums in front. Every number has moved by one bit of its index, so that
 * after a stage for each bit all are back in their places (Pease), and no stage has small steps. */
static void turn_stage(const float *restrict x, size_t width, float *restrict out) {
  for (size_t i = 0; i < width / 2; i++) {
    out[i] = x[2 * i] + x[2 * i + 1];
    out[i + width / 2] = x[2 * i] - x[2 * i + 1];
  }
}

static void turn_piece(float *x, size_t width) {
  float other[TURN_PIECE];
  size_t left = width;
  for (; left > 2; left /= 4) {
    turn_stage(x, width, other);
    turn_stage(other, width, x);
  }
  if (left < 2) return;
  turn_stage(x, width, other);
  memcpy(x, other, width * sizeof *x);
}

static void turn(float *x, size_t rows, size_t width) {
  const float factor = (float)(1 / sqrt((double)width));
  const size_t piece = pith_min_size(width, TURN_PIECE);
  for (size_t row = 0; row < rows; row++, x += width) {
    for (size_t i = 0; i < width; i++) x[i] *= factor;
    for (size_t first = 0; first < width; first += piece) turn_piece(x + first, piece);
    for (size_t half = piece; half < width; half *= 2)
      for (size_t first = 0; first < width; first += 2 * half) {
        float *restrict low = x + first, *restrict high = x + first + half;
        for (size_t i = 0; i < half; i++) {
          float a = low[i], b = high[i];
          low[i] = a + b;
          high[i] = a - b;
        }
      }
  }
}

/* ---- Rounding ---- */

/* The scale is the smallest that leaves the largest number less than half a step behind 127. */
static uint16_t q8_scale(const float *x, size_t count) {
  int32_t top = 0; /* the bits of sizes are in their order */
  for (size_t i = 0; i < count; i++) {
    int32_t bits;
    memcpy(&bits, &x[i], sizeof bits);
    bits &= INT32_MAX;
    top = bits > top ? bits : top;
  }
  float largest;
  memcpy(&largest, &top, sizeof largest);
  uint16_t scale = pith_f32_to_f16(largest / 127);
  if (largest > 0 && 127.5F * pith_f16_to_f32(scale) <= largest) scale++; /* rounded down */
  return scale;
}

static void f32_to_q8(const float *restrict x, size_t rows, size_t width, int8_t *restrict out,
                      uint16_t *restrict scales) {
  for (size_t row = 0; row < rows; row++)
    for (size_t column = 0; column < width; column += PITH_SCALED) {
      const size_t count = pith_min_size(PITH_SCALED, width - column);
      *scales = q8_scale(x, count);
      const float step = pith_f16_to_f32(*scales++);
      for (size_t i = 0; i < count; i++) {
        float level = x[i] / step + 0x1.8p23F; /* rounds: its low bits are the whole number */
        int32_t bits;
        memcpy(&bits, &level, sizeof bits);
        out[i] = (int8_t)(step > 0 ? bits : 0);
      }
      x += count;
      out += count;
    }
}

/* The middles of neighbouring levels of q4 as a search tree, node 1 its root: a number goes to node 2k + 1 where it is
 * above tree[k], to 2k elsewhere, and its level is at its fifth node, less 16. */
static void q4_tree(float tree[16]) {
  static const int before[16] = {0, 7, 3, 11, 1, 5, 9, 13, 0, 2, 4, 6, 8, 10, 12, 14};
  for (int k = 0; k < 16; k++) tree[k] = 0.5F * (float)(pith_q4_levels[before[k]] + pith_q4_levels[before[k] + 1]);
}
