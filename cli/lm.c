/* lm.c - pith lm: language models on compressed caches. */
#include "lm.h"

#include <string.h>

#define FIELD(member) .offset = offsetof(lm_arguments, member)

static const cli_option input_options[] = {
    {"model", 0, OPTION_FILE, "M.gguf", "the model (default: $PITH_MODEL, or the byte-level model that pith ships)",
     FIELD(model)},
    {"text", 0, OPTION_FILE, "FILE", "perplexity, judge, dump: the text; generate: the prompt", FIELD(text)},
    {"context", 0, OPTION_COUNT, "N", "tokens of a piece of text (default 2048, or fewer if the model takes fewer)",
     FIELD(context), .least = 2},
    {"prefix", 0, OPTION_COUNT, "P",
     "perplexity, judge: the first tokens of a piece, which are compressed (default 3/4)", FIELD(prefix), .least = 1},
    {"chunks", 0, OPTION_COUNT, "C", "perplexity, judge: pieces, one after another (default 1)", FIELD(chunks),
     .least = 1},
    {"cases", 0, OPTION_FILE, "F.jsonl",
     "recall, judge: a case a line, {\"prefix\": ..., \"query\": ..., \"answer\": ...}", FIELD(cases)},
    {.name = NULL}};

static const cli_option generate_options[] = {
    {"prompt", 0, OPTION_TEXT, "TEXT",
     "generate: what the text begins with; control tokens written in it are recognised; chat: what the model is told "
     "first",
     FIELD(prompt)},
    {"tokens", 0, OPTION_COUNT, "N",
     "tokens at most, chat: of an answer (default 128); 0 with --save-cache: the prompt is only read", FIELD(tokens)},
    {"temperature", 0, OPTION_REAL, "T", "draw tokens at this temperature (default 0: always the most likely one)",
     FIELD(temperature)},
    {"top-k", 0, OPTION_COUNT, "K", "draw among the K most likely tokens only", FIELD(top_k), .least = 1},
    {.name = NULL}};

static bool add_place(const char *text, void *group) {
  lm_arguments *arguments = group;
  if (!*text || arguments->places == MOST_PLACES) return false;
  arguments->from[arguments->places++] = text;
  return true;
}

static const cli_option judge_options[] = {
    {"engines", 0, OPTION_TEXT, "all|LIST",
     "what is judged (default all): ENGINE[:BUDGET][:STORE], with commas between them, such as nystrom:spread,heavy,"
     "exact:q4; what is left out stands for all that suits",
     FIELD(engines)},
    {"ratios", 0, OPTION_TEXT, "LIST", "shares of the prefix's f16 bytes (default 1/4,1/8,1/16)", FIELD(ratios)},
    {"from", 0, OPTION_CUSTOM, "WORDS",
     "pieces begin where these words first stand in the text; given again, at those too", .parse = add_place,
     .allowed = "words of the text, and given 32 times at most"},
    {"marks", 0, OPTION_FILE, "F.json",
     "published figures to draw beside those of the first piece, {\"rows\": [{\"method\", \"bytes_ratio\", "
     "\"kl_mean\"}]}",
     FIELD(marks)},
    {"heat-map", 0, OPTION_TEXT, "ROW",
     "whose errors of heads are drawn, such as nystrom:spread:auto:1/16 (default: the last of nystrom)",
     FIELD(heat_map)},
    {.name = NULL}};

static bool add_pattern(const char *text, void *group) {
  lm_arguments *arguments = group;
  if (!*text || arguments->patterns == MOST_PATTERNS) return false;
  arguments->pattern[arguments->patterns++] = text;
  return true;
}

static const cli_option pattern_options[] = {
    {"pattern", 0, OPTION_CUSTOM, "SPEC",
     "what tokens see: full, or some of window=N, global=I-J, every=N (global too), block=N:LOCAL:STRIDE with commas "
     "between them; one for each layer with semicolons, the last for all that follow; given again, another row",
     .parse = add_pattern, .allowed = "a pattern, and given 16 times at most"},
    {.name = NULL}};

static const cli_choice mode_choices[] = {{"oneshot", MODE_ONESHOT}, {"stream", MODE_STREAM}, {NULL, 0}};
static const cli_choice store_choices[] = {{"f32", PITH_F32}, {"f16", PITH_F16}, {"bf16", PITH_BF16},
                                           {"q8", PITH_Q8},   {"q4", PITH_Q4},   {"auto", PITH_STORE_AUTO},
                                           {NULL, 0}};
static const cli_choice budget_choices[] = {{"even", PITH_BUDGET_EVEN}, {"spread", PITH_BUDGET_SPREAD}, {NULL, 0}};

static const cli_option cache_options[] = {
    {"engine", 0, OPTION_NAME, "NAME", "how points are chosen (default nystrom); names below", FIELD(options.engine),
     .list = pith_engine_name, .list_help = pith_engine_help},
    {"ratio", 0, OPTION_REAL, "R",
     "share of the prefix's f16 bytes that is kept, with --mode stream of all tokens': 0.25 or 1/4",
     FIELD(options.ratio), .open = true},
    {"budget", 0, OPTION_CHOICE, "HOW",
     "how bytes are spent over heads: spread, where a byte saves most (default for nystrom), or even", FIELD(budget),
     .choices = budget_choices},
    {"store", 0, OPTION_CHOICE, "TYPE",
     "type of stored keys and values: f32, f16, bf16, q8, q4, or auto, what is best for each head (default: auto for "
     "nystrom, else f16)",
     FIELD(store), .choices = store_choices},
    {"mode", 0, OPTION_CHOICE, "MODE",
     "perplexity, recall, judge: oneshot (default), the whole prefix is compressed at once; or stream, the model runs "
     "on "
     "a bounded cache from the first token on, and ratios are of all tokens",
     FIELD(mode), .choices = mode_choices},
    {"cache-bytes", 0, OPTION_SIZE, "SIZE",
     "generate, chat: what attention reads at most, however many tokens there are", FIELD(cache_bytes), .least = 1},
    {"save-cache", 0, OPTION_FILE, "F",
     "generate: where the cache is saved when the prompt is read; chat: when the last turn is", FIELD(save_cache)},
    {"load-cache", 0, OPTION_FILE, "F", "generate, chat: go on from a saved cache of the same model",
     FIELD(load_cache)},
    {"sinks", 0, OPTION_COUNT, "N", "first tokens kept exactly (default 4)", FIELD(options.sinks)},
    {"window", 0, OPTION_COUNT, "N", "last tokens kept exactly (default 16)", FIELD(options.window)},
    {"horizon", 0, OPTION_COUNT, "N",
     "queries will be asked from the next N positions that the model can read (default 1024)", FIELD(options.horizon),
     .least = 1},
    {"samples", 0, OPTION_COUNT, "N",
     "recorded queries that the fit uses per head, 0 for all (default 0; stream: 1024, three quarters of them recent)",
     FIELD(options.samples)},
    {"refine", 0, OPTION_COUNT, "N",
     "nystrom: gradient steps on keys, values and weights, 0 for none (default 300; stream: 0)", FIELD(options.refine)},
    {.name = NULL}};

static const cli_option output_options[] = {
    {"output", 'o', OPTION_FILE, "DIR",
     "dump: the folder for q.npy, k.npy, v.npy and head_weights.npy; judge: for judge.json, judge.txt, kl.svg and "
     "heads.svg",
     FIELD(output)},
    {.name = NULL}};

static const cli_group groups[] = {{"Model and text", input_options, 0}, {"Cache", cache_options, 0},
                                   {"Judge", judge_options, 0},          {"Patterns", pattern_options, 0},
                                   {"Generate", generate_options, 0},    {"Output", output_options, 0},
                                   {"Common", common_options, 0},        {.title = NULL}};

static void defaults(void *arguments) {
  lm_arguments *chosen = arguments;
  chosen->chunks = 1;
  chosen->tokens = 128;
  chosen->budget = chosen->store = UNSET_CHOICE;
  pith_compress_options_init(&chosen->options);
  chosen->options.refine = PITH_UNSET;
}

static int run(cli_session *session) {
  static const struct {
    const char *word;
    int (*run)(cli_session *session);
  } words[] = {{"perplexity", lm_perplexity},
               {"recall", lm_recall},
               {"generate", lm_generate},
               {"chat", lm_chat},
               {"dump", lm_dump},
               {"judge", lm_judge},
               {"patterns", lm_patterns}};
  ((lm_arguments *)session->arguments)->options.seed = session->common->seed;
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (!strcmp(session->operands[0], words[i].word)) return words[i].run(session);
  return usage_error(session->command,
                     "unknown word '%s'; there are: perplexity, recall, generate, chat, dump, judge, patterns",
                     session->operands[0]);
}

const cli_command command_lm = {
    .name = "lm",
    .summary = "run language models on compressed caches",
    .usage =
        "perplexity --text~FILE (--ratio~R~| --engine~exact) [OPTION]...\n"
        "recall --cases~F.jsonl (--ratio~R~| --engine~exact) [OPTION]...\n"
        "generate (--prompt~TEXT~| --text~FILE) [--ratio~R~| --cache-bytes~SIZE] [OPTION]...\n"
        "chat [--cache-bytes~SIZE] [OPTION]...\n"
        "dump --text~FILE [OPTION]... -o~DIR\n"
        "judge (--text~FILE~| --cases~F.jsonl) [--engines~LIST] [OPTION]... [-o~DIR]\n"
        "patterns --text~FILE [--pattern~SPEC]... [OPTION]...",
    .description =
        "Reads text with a model of the llama, qwen2 or qwen3 kind from a GGUF file, compresses the cache\n"
        "of keys and values that it leaves, and goes on from that. perplexity says how much the model's\n"
        "predictions change, against the full cache; recall whether facts of the prefix are still found;\n"
        "generate writes on; chat answers lines, a turn each; dump saves queries, keys, values and head weights\n"
        "for the other commands; judge holds every engine at every size against the others and against whole\n"
        "caches; patterns lets tokens see only some earlier ones and says what that costs.",
    .examples =
        "  The shipped model on a novel, the cache of 1536 tokens at a quarter of its bytes:\n"
        "    pith lm perplexity --text novel.txt --context 2048 --prefix 1536 --ratio 1/4\n"
        "  A full cache in 8 bits:\n"
        "    pith lm perplexity --text novel.txt --engine exact --store q8\n"
        "  Every engine beside the others:\n"
        "    pith lm judge --text novel.txt -o judged\n"
        "  The model on a cache that does not grow, and a chat in one:\n"
        "    pith lm perplexity --text novel.txt --mode stream --ratio 1/8\n"
        "    pith lm chat --cache-bytes 1M\n"
        "  Text that goes on from a prompt:\n"
        "    pith lm generate --prompt 'It was the best of times' --temperature 0.8 --top-k 40\n",
    .groups = groups,
    .arguments_size = sizeof(lm_arguments),
    .defaults = defaults,
    .least_operands = 1,
    .most_operands = 1,
    .operand = "word (perplexity, recall, generate, chat, dump, judge or patterns)",
    .run = run};
