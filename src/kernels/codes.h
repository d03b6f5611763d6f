/* codes.h - logits of keys in small integers, and their parting; written like vector.h, which includes it. */

/* Every lane is a key: the columns of a step are multiplied and added in it, and no sum crosses lanes. */
ALWAYS_INLINE void code_sums(const pith_code_block *block, const int8_t *queries, const int32_t *starts, size_t row,
                             int width, bool fused, integers *sum) {
  const uint8_t *codes =
      block->codes + row / PITH_CODED * PITH_CODED * block->d + PITH_CODE_COLUMNS * (row % PITH_CODED);
  const int8_t *query[PITH_MAX_GROUP];
  UNROLL for (int q = 0; q < width; q++) {
    size_t number = (size_t)q < block->group ? (size_t)q : 0;
    query[q] = queries + number * block->d;
    sum[q] = i_set(starts[number]);
  }
  for (size_t column = 0; column < block->d; column += PITH_CODE_COLUMNS, codes += PITH_CODE_COLUMNS * PITH_CODED) {
    integers code = i_load(codes);
    UNROLL for (int q = 0; q < width; q++) {
      int32_t four;
      memcpy(&four, query[q] + column, sizeof four);
      sum[q] = fused ? i_add_products_fused(sum[q], code, i_set(four)) : i_add_products(sum[q], code, i_set(four));
    }
  }
}

ALWAYS_INLINE void code_tile(const pith_code_block *block, size_t row, int width, bool fused) {
  integers sum[PITH_MAX_GROUP];
  vector product[PITH_MAX_GROUP];
  code_sums(block, block->queries, block->starts, row, width, fused, sum);
  UNROLL for (int q = 0; q < width; q++) product[q] = i_to_f32(sum[q]);
  if (block->remainders) {
    code_sums(block, block->remainders, block->starts + block->group, row, width, fused, sum);
    UNROLL for (int q = 0; q < width; q++) product[q] = v_fma(i_to_f32(sum[q]), v_set(1 / 256.0F), product[q]);
  }
  vector scale = v_load(block->scales + row), more = v_zero();
  if (block->log_weights) more = v_load(block->log_weights + row);
  UNROLL for (int q = 0; q < width; q++) {
    if ((size_t)q >= block->group) break;
    vector offset = block->offsets ? v_set(block->offsets[q]) : v_zero();
    vector logit = v_fma(v_mul(product[q], scale), v_set(block->query_scale[q]), offset);
    v_store(block->logits + (size_t)q * block->rows + row, v_add(logit, more));
  }
}

#define CODE_LOGITS(fused)                                                                         \
  for (size_t row = 0; row < block->rows; row += LANES) {                                          \
    if (block->ahead)                                                                              \
      for (size_t i = 0; i < LANES * block->d; i += 64)                                            \
        __builtin_prefetch(block->ahead + row * block->d + i, 0, 2); /* harmless beyond the end */ \
    if (block->group > 4)                                                                          \
      code_tile(block, row, 8, fused);                                                             \
    else if (block->group > 2)                                                                     \
      code_tile(block, row, 4, fused);                                                             \
    else if (block->group == 2)                                                                    \
      code_tile(block, row, 2, fused);                                                             \
    else                                                                                           \
      code_tile(block, row, 1, fused);                                                             \
  }

CODE_LOGITS_FUSED /* where the instruction set has it */
    static void
    code_logits_plain(const pith_code_block *block) {
  CODE_LOGITS(false)
}

static void code_logits(const pith_code_block *block) {
  if (i_fused())
    code_logits_fused(block);
  else
    code_logits_plain(block);
}

static void scores(size_t group, size_t d, const float *queries, const float *keys, size_t rows, float *logits) {
  const ptrdiff_t stride = (ptrdiff_t)(d * sizeof *keys);
  const float *query[PITH_MAX_GROUP];
  for (size_t q = 0; q < PITH_MAX_GROUP; q++) query[q] = queries + (q < group ? q : 0) * d;
  if (rows == 0) return;
  float tile[LOGITS]; /* whole vectors are written */
  const size_t width = pith_padded_group(group), most = LOGITS / width;
  for (size_t row = 0; row < rows; row += most) {
    const size_t count = pith_min_size(most, rows - row);
    const char *at = (const char *)(keys + row * d);
    if (width == 8)
      tile_logits(F32, 8, query, d, at, stride, NULL, count, NULL, tile);
    else if (width == 4)
      tile_logits(F32, 4, query, d, at, stride, NULL, count, NULL, tile);
    else if (width == 2)
      tile_logits(F32, 2, query, d, at, stride, NULL, count, NULL, tile);
    else
      tile_logits(F32, 1, query, d, at, stride, NULL, count, NULL, tile);
    memcpy(logits + row * width, tile, count * width * sizeof *tile);
  }
}

/* 2^x */
ALWAYS_INLINE vector v_exp2_rough(vector x) {
  vector t = v_max(v_set(ROUGH_LOWEST), x), k = v_round(t), f = v_sub(t, k);
  vector p = v_fma(v_set(ROUGH_C3), f, v_set(ROUGH_C2));
  p = v_fma(p, f, v_set(ROUGH_C1));
  return v_scale(v_fma(p, f, v_set(ROUGH_C0)), k);
}

static uint64_t split(const float *logits, size_t group, const float *threshold, const float *least, float *sum,
                      float *square) {
  enum { VECTORS = PITH_SPLIT / LANES };
  unsigned reached[VECTORS] = {0};
  uint64_t chosen = 0;
  for (size_t q = 0; q < group; q++)
    UNROLL for (int i = 0; i < VECTORS; i++) reached[i] |=
        v_reaches(v_load(logits + q * PITH_SPLIT + i * LANES), v_set(threshold[q]));
  UNROLL for (int i = 0; i < VECTORS; i++) chosen |= (uint64_t)reached[i] << (i * LANES);
  for (size_t q = 0; q < group; q++) {
    const float *logit = logits + q * PITH_SPLIT;
    unsigned counts = 0;
    UNROLL for (int i = 0; i < VECTORS; i++) counts |= v_reaches(v_load(logit + i * LANES), v_set(least[q]));
    vector total = v_zero(), squares = v_zero(), shift = v_set(threshold[q] * -EXP_LOG2E);
    if (counts) UNROLL for (int i = 0; i < VECTORS; i++) {
        vector weight = v_exp2_rough(v_fma(v_load(logit + i * LANES), v_set(EXP_LOG2E), shift));
        weight = v_clear(weight, reached[i]);
        total = v_add(total, weight);
        squares = v_fma(weight, weight, squares);
      }
    sum[q] = counts ? v_sum(total) : 0;
    square[q] = counts ? v_sum(squares) : 0;
  }
  return chosen;
}
