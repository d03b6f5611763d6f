/* q4.h - rounding to q4, written like vector.h, which includes it: LANES blocks together, one in each lane. What a
 * lane does is what the scalar table does with a block, so the bits are the same. */

typedef struct q4_fit {
  float number[PITH_SCALED][LANES];
  size_t count;
  float tree[16], level[16];
} q4_fit;

/* The sums of squared errors at the nearest levels for these scales, and the scales that suit those levels best. */
static void q4_try(const q4_fit *fit, vector scale, double *error, float *next) {
  const vector inverse = v_div(v_set(1), scale);
  const doubles scales[2] = {v_low(scale), v_high(scale)};
  doubles sum[2] = {v_low(v_zero()), v_low(v_zero())}, cross[2] = {sum[0], sum[0]};
  vector square = v_zero(); /* of whole numbers, below 2^24 */
  for (size_t i = 0; i < fit->count; i++) {
    const vector number = v_load(fit->number[i]);
    const vector level = v_look_up(fit->level, v_descend(fit->tree, v_mul(number, inverse)));
    const doubles x[2] = {v_low(number), v_high(number)}, y[2] = {v_low(level), v_high(level)};
    square = v_add(square, v_mul(level, level));
    UNROLL for (int half = 0; half < 2; half++) {
      doubles difference = y[half] * scales[half] - x[half];
      sum[half] += difference * difference;
      cross[half] += y[half] * x[half];
    }
  }
  v_store(next, v_narrow(cross[0] / v_low(square), cross[1] / v_high(square)));
  memcpy(error, sum, sizeof sum);
}

static void q4_choose(const q4_fit *fit, uint16_t *best) {
  float largest[LANES], wanted[LANES], scale[LANES];
  double least[LANES], error[LANES];
  uint16_t half[LANES];
  vector farthest = v_zero();
  for (size_t i = 0; i < fit->count; i++) farthest = v_farther(farthest, v_load(fit->number[i]));
  v_store(largest, farthest);
  for (int l = 0; l < LANES; l++) {
    least[l] = INFINITY;
    best[l] = 0;
  }
  for (int end = 0; end < 16; end += 15) {
    for (int l = 0; l < LANES; l++) wanted[l] = largest[l] / fit->level[end];
    for (int round = 0; round < PITH_Q4_ROUNDS; round++) {
      v_store_f16(half, v_load(wanted));
      v_store(scale, v_load_f16(half));
      q4_try(fit, v_load(scale), error, wanted);
      for (int l = 0; l < LANES; l++) {
        bool nothing = scale[l] == 0;
        error[l] = nothing ? INFINITY : isinf(scale[l]) ? -INFINITY : error[l];
        wanted[l] = nothing ? 0 : wanted[l];
        bool better = error[l] < least[l];
        least[l] = better ? error[l] : least[l];
        best[l] = better ? half[l] : best[l];
      }
    }
  }
}

/* Numbers of `blocks` <= LANES blocks, `stride` apart; the last block fills the lanes behind it. */
static void q4_load(q4_fit *fit, const float *x, size_t blocks, size_t stride) {
  for (size_t l = 0; l < LANES; l++)
    for (size_t i = 0; i < fit->count; i++) fit->number[i][l] = x[pith_min_size(l, blocks - 1) * stride + i];
  if (fit->count % 2) memset(fit->number[fit->count], 0, sizeof *fit->number);
}

static void q4_store(const q4_fit *fit, const uint16_t *half, size_t blocks, uint8_t *out, size_t stride) {
  const vector inverse = v_div(v_set(1), v_load_f16(half));
  uint8_t pair[PITH_SCALED / 2][LANES];
  for (size_t i = 0; i < fit->count; i += 2) {
    int32_t low[LANES], high[LANES];
    i_store(low, v_descend(fit->tree, v_mul(v_load(fit->number[i]), inverse)));
    i_store(high, v_descend(fit->tree, v_mul(v_load(fit->number[i + 1]), inverse)));
    const int32_t there = i + 1 < fit->count ? 15 : 0;
    for (int l = 0; l < LANES; l++) {
      int32_t both = (low[l] & 15) | (high[l] & there) << 4;
      pair[i / 2][l] = (uint8_t)(half[l] & INT16_MAX ? both : 0);
    }
  }
  for (size_t l = 0; l < blocks; l++)
    for (size_t i = 0; i < fit->count; i += 2) out[l * stride + i / 2] = pair[i / 2][l];
}

static void f32_to_q4(const float *x, size_t rows, size_t width, uint8_t *out, uint16_t *scales) {
  q4_fit fit;
  q4_tree(fit.tree);
  for (int k = 0; k < 16; k++) fit.level[k] = pith_q4_levels[k];
  if (width % PITH_SCALED == 0) { /* blocks without gaps are as good as rows */
    rows *= width / PITH_SCALED;
    width = PITH_SCALED;
  }
  const size_t bytes = width / 2 + width % 2;
  for (size_t column = 0; column < width; column += PITH_SCALED) {
    fit.count = pith_min_size(PITH_SCALED, width - column);
    for (size_t row = 0; row < rows; row += LANES) {
      const size_t blocks = pith_min_size(LANES, rows - row);
      uint16_t half[LANES];
      q4_load(&fit, x + row * width + column, blocks, width);
      q4_choose(&fit, half);
      q4_store(&fit, half, blocks, out + row * bytes + column / 2, bytes);
      for (size_t l = 0; l < blocks; l++) scales[(row + l) * pith_scales(width) + column / PITH_SCALED] = half[l];
    }
  }
}
