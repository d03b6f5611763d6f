/* sample.c - pith sample: draws from streams of updates. */
#include "sample.h"

#include <string.h>

#define FIELD(member) .offset = offsetof(sample_arguments, member)

static const cli_choice method_choices[] = {{"auto", PITH_METHOD_AUTO},
                                            {"sketch", PITH_METHOD_SKETCH},
                                            {"exact", PITH_METHOD_EXACT},
                                            {"pairs", SAMPLE_PAIRS},
                                            {"scan", SAMPLE_SCAN},
                                            {"tree", SAMPLE_TREE},
                                            {NULL, 0}};
static const cli_choice decode_choices[] = {{"auto", PITH_DECODE_AUTO},
                                            {"scan", PITH_DECODE_SCAN},
                                            {"bits", PITH_DECODE_BITS},
                                            {"dyadic", PITH_DECODE_DYADIC},
                                            {NULL, 0}};
static const cli_choice cell_choices[] = {{"fixed", PITH_CELLS_FIXED}, {"float", PITH_CELLS_FLOAT}, {NULL, 0}};

static const cli_option stream_options[] = {
    {"updates", 0, OPTION_FILE, "FILE", "the stream: lines of text, or a .npy file of records (default -)",
     FIELD(updates)},
    {"draws", 0, OPTION_COUNT, "T",
     "draws in all (default 1): lines 'draw N' take N of them, the rest is drawn at the end", FIELD(draws)},
    {"dim", 0, OPTION_COUNT, "D", "columns of A, of A1 and of A2 (default 1)", FIELD(dim), .least = 1},
    {"method", 0, OPTION_CHOICE, "HOW",
     "auto (default): exact where that fits into --memory, else sketch; exact; or sketch, in memory that does not grow "
     "with the rows. tensor: pairs, the paper's sketch. attention: scan or tree (auto: the cheaper)",
     FIELD(method), .choices = method_choices},
    {"save", 0, OPTION_FILE, "F.sketch", "l2, tensor: write the sampler at the end, drawing nothing", FIELD(save)},
    {"load", 0, OPTION_FILE, "F.sketch", "l2, tensor: go on from what was saved", FIELD(load)},
    {"memory", 0, OPTION_SIZE, "SIZE", "most memory of the sampler (default 1GiB)", FIELD(memory), .least = 1},
    {.name = NULL}};

static const cli_option l2_options[] = {
    {"rows", 0, OPTION_COUNT, "N", "rows of A, at most 2^40; lower-bound: size of the instances (default 1024)",
     FIELD(rows), .least = 1},
    {"x", 0, OPTION_FILE, "X.npy", "x, fixed (default: ones for one column, else zeros and free)", FIELD(x)},
    {"free-x", 0, OPTION_FLAG, NULL, "lines 'x j delta' change x, which begins as --x or as zeros", FIELD(free_x)},
    {"distinct", 0, OPTION_COUNT, "T", "draw T different rows at the end, with Horvitz-Thompson weights",
     FIELD(distinct), .least = 1},
    {"eps", 0, OPTION_REAL, "E", "relative error of estimated values, for two draws of three or more", FIELD(eps),
     .most = 1, .open = true},
    {"strict", 0, OPTION_FLAG, NULL, "a sketch whose two largest entries cannot be told apart fails", FIELD(strict)},
    {"decode", 0, OPTION_CHOICE, "HOW",
     "how large entries are found: scan, bits, dyadic or auto (default: scan for few rows, else bits for fixed x, "
     "dyadic for free)",
     FIELD(decode), .choices = decode_choices},
    {"cells", 0, OPTION_CHOICE, "TYPE", "fixed (default): whole multiples of --unit; or float", FIELD(cells),
     .choices = cell_choices},
    {"unit", 0, OPTION_REAL, "U", "of fixed cells, a power of two (default 2^-20)", FIELD(unit), .open = true},
    {"copies", 0, OPTION_COUNT, "K", "draws that one sketch serves (default 3)", FIELD(copies), .least = 1, .most = 8},
    {"depth", 0, OPTION_COUNT, "R", "rows of a sketch, odd (default 5)", FIELD(depth), .least = 1, .most = 15},
    {"buckets", 0, OPTION_COUNT, "W", "buckets of a row, a power of two (default 1024, or as --eps asks); tensor: too",
     FIELD(buckets), .least = 16, .most = 1 << 24},
    {.name = NULL}};

static const cli_option tensor_options[] = {
    {"rows1", 0, OPTION_COUNT, "N1", "rows of A1, at most 2^40", FIELD(rows1), .least = 1},
    {"rows2", 0, OPTION_COUNT, "N2", "rows of A2, at most 2^40", FIELD(rows2), .least = 1},
    {.name = NULL}};

static const cli_option attention_options[] = {
    {"keys", 0, OPTION_FILE, "K.npy", "keys (n, d)", FIELD(keys)},
    {"queries", 0, OPTION_FILE, "Q.npy", "queries (m, d), T draws for each", FIELD(queries)},
    {"power", 0, OPTION_COUNT, "P", "key i with probability as (<q, k_i>^P)^2; with --softmax: degree of the proposals",
     FIELD(power), .least = 1, .most = 8},
    {"softmax", 0, OPTION_FLAG, NULL, "key i with probability as exp(scale <q, k_i>)", FIELD(softmax)},
    {"registered", 0, OPTION_FLAG, NULL, "softmax: queries come first, keys pass once by reservoirs",
     FIELD(registered)},
    {"scale", 0, OPTION_REAL, "S", "softmax scale (default 1/sqrt(d))", FIELD(scale), .open = true},
    {"features", 0, OPTION_COUNT, "F", "length of the TensorSketch for --power 3 and more with --method tree",
     FIELD(features), .least = 16, .most = 4096},
    {"values", 0, OPTION_FILE, "V.npy", "values (n, dv): estimate attention outputs from the draws", FIELD(values)},
    {"output", 'o', OPTION_FILE, "O.npy", "write these estimates, f64 (m, dv)", FIELD(output)},
    {"confidence", 0, OPTION_REAL, "C", "of their intervals (default 0.9)", FIELD(confidence), .most = 1, .open = true},
    {.name = NULL}};

static const cli_option bound_options[] = {
    {"trials", 0, OPTION_COUNT, "N", "random instances for each line (default 400)", FIELD(trials), .least = 1,
     .most = 1e6},
    {.name = NULL}};

static const cli_group groups[] = {{"Stream", stream_options, 0},
                                   {"l2", l2_options, 0},
                                   {"tensor", tensor_options, 0},
                                   {"attention", attention_options, 0},
                                   {"lower-bound", bound_options, 0},
                                   {"Common", common_options, 0},
                                   {.title = NULL}};

static void defaults(void *arguments) {
  sample_arguments *chosen = arguments;
  pith_l2_options options;
  pith_l2_options_init(&options);
  chosen->updates = "-";
  chosen->dim = options.dim;
  chosen->draws = options.draws;
  chosen->memory = options.memory;
  chosen->copies = options.copies;
  chosen->depth = options.depth;
  chosen->unit = options.unit;
  chosen->features = 1024;
  chosen->confidence = 0.9;
  chosen->trials = 400;
}

static const struct {
  const char *word;
  int (*run)(cli_session *session);
} words[] = {
    {"l2", sample_l2}, {"tensor", sample_tensor}, {"attention", sample_attention}, {"lower-bound", sample_lower_bound}};
enum { WORDS = sizeof words / sizeof *words };

/* Options that mean nothing to the other words, and must not be passed over in silence. */
static bool asks_l2(const sample_arguments *arguments) {
  return arguments->x || arguments->free_x || arguments->distinct || arguments->eps > 0 || arguments->strict ||
         arguments->decode || arguments->cells;
}

static int run(cli_session *session) {
  for (size_t i = 0; i < WORDS; i++) {
    if (strcmp(session->operands[0], words[i].word) != 0) continue;
    if (words[i].run != sample_l2 && asks_l2(session->arguments))
      return usage_error(session->command,
                         "--x, --free-x, --distinct, --eps, --strict, --decode and --cells are for sample l2");
    return words[i].run(session);
  }
  char there[96] = "";
  for (size_t i = 0, at = 0; i < WORDS && at < sizeof there; i++)
    at += (size_t)snprintf(there + at, sizeof there - at, "%s%s", i ? ", " : "", words[i].word);
  return usage_error(session->command, "unknown word '%s'; there are: %s", session->operands[0], there);
}

const cli_command command_sample = {
    .name = "sample",
    .summary = "draw rows by their weight while a matrix is edited",
    .usage =
        "l2 --rows~N [--dim~D] [--x~X.npy] [--draws~T] [OPTION]... <~UPDATES\n"
        "tensor --rows1~N1 --rows2~N2 --dim~D [--draws~T] [OPTION]... <~UPDATES\n"
        "attention --keys~K.npy --queries~Q.npy (--power~P~| --softmax~[--registered]) [--draws~T] [OPTION]...\n"
        "lower-bound [OPTION]...",
    .description =
        "Reads updates of a matrix A and a vector x, and draws row i with probability y_i^2 / |y|^2,\n"
        "y = A x, at the end or wherever a line asks for it. Updates may be negative: inserts, edits\n"
        "and deletes. Lines: 'A i j delta' (A[i,j] += delta), 'row i v1 ... vd' (the same for a whole\n"
        "row), 'x j delta', 'draw T'; '#' begins a remark. A draw is printed as index and value of y.\n"
        "A sketch takes the same memory for a thousand rows and for a trillion.\n"
        "tensor draws pairs (i1, i2) by the square of A1 X A2^T, from lines 'A1 i j delta', 'A2 i j\n"
        "delta' and 'X i j delta'. attention draws keys of an array by the laws of attention.\n"
        "lower-bound shows what no small memory can do.",
    .examples =
        "  Draw ten rows:\n"
        "    pith sample l2 --rows 1000000 --draws 10 < updates.txt\n"
        "  Two halves of a stream, sketched apart:\n"
        "    pith sample l2 --rows 1000000 --draws 10 --save A.sketch < first.txt\n"
        "    pith sample l2 --rows 1000000 --draws 10 --save B.sketch < second.txt\n"
        "    pith merge A.sketch B.sketch -o C.sketch\n"
        "    pith sample l2 --load C.sketch --draws 10 < /dev/null\n",
    .groups = groups,
    .arguments_size = sizeof(sample_arguments),
    .defaults = defaults,
    .least_operands = 1,
    .most_operands = 1,
    .operand = "word (l2, tensor, attention or lower-bound)",
    .run = run};
