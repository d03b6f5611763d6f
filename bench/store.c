/* store.c - rounding to q8 and q4, reading back, and turning: nanoseconds a number, every table of kernels in turn. */
#include "bench.h"
#include "kernels/kernels.h"

enum { ROWS = 2048, WIDEST = 128, PASSES = 40, TABLES = 3, WORKS = 5 };
static const char *const names[TABLES] = {"scalar", "avx2", "avx512"};
static const char *const works[WORKS] = {"to q8", "to q4", "from q8", "from q4", "turn"};

typedef struct memory {
  float rows[ROWS * WIDEST], out[ROWS * WIDEST];
  int8_t q8[ROWS * WIDEST];
  uint8_t q4[ROWS * WIDEST];
  uint16_t q8_scales[ROWS * WIDEST / PITH_SCALED], q4_scales[ROWS * WIDEST / PITH_SCALED];
} memory;

static double time_of(const pith_kernels *table, int work, size_t width, memory *m) {
  double start = seconds(CLOCK_MONOTONIC);
  switch (work) {
    case 0: table->f32_to_q8(m->rows, ROWS, width, m->q8, m->q8_scales); break;
    case 1: table->f32_to_q4(m->rows, ROWS, width, m->q4, m->q4_scales); break;
    case 2: table->q8_to_f32(m->q8, m->q8_scales, ROWS, width, m->out); break;
    case 3: table->q4_to_f32(m->q4, m->q4_scales, ROWS, width, m->out); break;
    default: table->turn(m->out, ROWS, width);
  }
  return seconds(CLOCK_MONOTONIC) - start;
}

int main(void) {
  static memory m;
  static const size_t widths[] = {64, 80, 128};
  const pith_stream stream = pith_stream_make(1, PITH_STREAM_TEST, 0);
  for (size_t i = 0; i < ROWS * WIDEST; i++) m.rows[i] = (float)pith_random_gaussian(&stream, i);
  printf("ns a number, best of %d; every table rounds to the same bits\n", PASSES);
  for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
    double best[TABLES][WORKS];
    for (int pass = 0; pass < PASSES; pass++)
      for (int t = 0; t < TABLES; t++)
        for (int work = 0; work < WORKS; work++) {
          const pith_kernels *table = pith_kernels_named(names[t]);
          double time =
              table && (work < WORKS - 1 || pith_turned(PITH_Q4, widths[w])) ? time_of(table, work, widths[w], &m) : 0;
          if (pass == 0 || time < best[t][work]) best[t][work] = time;
        }
    for (int t = 0; t < TABLES; t++) {
      printf("width %3zu  %-6s", widths[w], names[t]);
      for (int work = 0; work < WORKS; work++)
        printf("  %s %6.2f", works[work], 1e9 * best[t][work] / (double)(ROWS * widths[w]));
      putchar('\n');
    }
  }
  return 0;
}
