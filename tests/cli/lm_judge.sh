# Words written for this test: enough for a model of bytes to read.
export PITH_MODEL="$(dirname "$CHECK")/../../models/byte-lm-3m-f16.gguf"
"$PYTHON" -c '
words = "the boat went down the river and the man on the bank looked at the light in the window of the old house".split()
state, text = 1, []
for i in range(300):
    state = state * 1103515245 + 12345 & 0x7fffffff
    text.append(words[(state >> 16) % len(words)] + (".\n" if i % 11 == 10 else ""))
open("text.txt", "w").write("Begin  here: " + " ".join(text) + " And now\nthe second place: " + " ".join(text[::-1]))'
printf '{"prefix": "the man went down the river and looked at the boat in", "query": " the", "answer": " o"}\n' >cases.jsonl
small="--context 256 --prefix 192 --refine 20"

# Two places, every kind of row; what is measured is what the other words measure.
quietly lm judge --text text.txt --from "Begin here:" --from "now the second" $small --cases cases.jsonl --engines nystrom:spread,heavy,exact --ratios 1/2,1/4 --json
cp .out r.json
check has r.json complete layers kv_heads context prefix texts[].from rows[].engine rows[].budget rows[].store rows[].size rows[].kl_mean rows[].kl_p99 rows[].top1_agreement rows[].attention_error rows[].head_errors rows[].predicted_kl rows[].cache_bytes rows[].full_cache_bytes rows[].held_bytes rows[].compress_seconds rows[].texts[].kl_mean texts[].prefill_seconds
check true r.json '[(e["engine"], e["budget"], e["store"], e["size"]) for e in r["rows"]] == [("nystrom", "spread", "f16", "1/2"), ("nystrom", "spread", "f16", "1/4"), ("nystrom", "spread", "auto", "1/2"), ("nystrom", "spread", "auto", "1/4"), ("heavy", "even", "f16", "1/2"), ("heavy", "even", "f16", "1/4"), ("exact", None, "f16", "all"), ("exact", None, "q8", "all"), ("exact", None, "q4", "all")]'
check true r.json 'r["complete"] and len(r["texts"]) == 2 and all(len(e["texts"]) == 2 for e in r["rows"])'
# Memory: the allocator counts what the summary says it holds.
check true r.json 'all(abs(e["held_bytes"] / (e["cache_bytes"] + e["other_bytes"]) - 1) < .02 for e in r["rows"])'
check true r.json 'all(0 < e["cache_bytes"] <= float(e["size"][0]) / float(e["size"][2]) * e["full_cache_bytes"] for e in r["rows"] if e["size"] != "all")'
# The full cache loses nothing, q8 little, q4 more; errors of heads are where attention errs.
check true r.json 'r["rows"][6]["kl_mean"] < 1e-6 and r["rows"][6]["top1_agreement"] == 1 and r["rows"][6]["kl_mean"] < r["rows"][7]["kl_mean"] < r["rows"][8]["kl_mean"]'
check true r.json 'all(len(e["head_errors"]) == r["layers"] and abs(sum(sum(l) for l in e["head_errors"]) / 8 - e["attention_error"]) < 1e-6 for e in r["rows"])'
check true r.json 'all("recall" not in e and "kept exactly" in e["recall_reason"] for e in r["rows"] if e["size"] == "1/4" and e["engine"] == "heavy")'
check true r.json 'all(e["recall"]["cases"] == 1 for e in r["rows"] if e["size"] == "all")'
# A longer case is run where a shorter one does not fit.
"$PYTHON" -c '
import json
for times in 1, 4:
    print(json.dumps({"prefix": "the man went down the river and looked at the boat in" * times, "query": " the", "answer": " o"}))' >lengths.jsonl
quietly lm judge --cases lengths.jsonl --engines heavy --ratios 1/4 --json
cp .out lengths.json
check true lengths.json '[(e["recall"]["cases"], "kept exactly" in e["recall_reason"]) for e in r["rows"]] == [(1, True)] and r["texts"] == []'
# One judge, one perplexity: the same figures.
cut() { "$PYTHON" -c 'text = open("text.txt").read(); open("second.txt", "w").write(text[text.index("now\nthe second"):])'; }
cut
quietly lm perplexity --text second.txt $small --engine heavy --ratio 1/2 --json
"$PYTHON" -c '
import json
one, row = json.load(open(".out")), json.load(open("r.json"))["rows"][4]["texts"][1]
print(all(abs(one[key] - row[key]) <= 1e-9 * abs(one[key]) for key in ("kl_mean", "kl_p99", "nll", "bits_per_byte", "cache_bytes", "predicted_kl")))'

# What a reader sees; a method that cannot work at a size says why.
"$PITH" lm judge --text text.txt $small --engines recent,exact:q4 --ratios 1/2,1/16 >table
awk 'NR <= 4 { print $1, $2, $3, $4 }' table
grep -o "budget: .*" table

# Refusals: before anything is run, and nothing written.
try lm judge
try lm judge --from words --cases cases.jsonl
try lm judge --text text.txt --engines nystorm,heavy
try lm judge --text text.txt --engines zzz
try lm judge --text text.txt --engines heavy:q5
try lm judge --text text.txt --engines exact:spread
try lm judge --text text.txt --ratios 1/4,0
try lm judge --text text.txt --ratios 1/4,1.5
try lm judge --text text.txt --ratios half
try lm judge --text text.txt --context 2048 --chunks 9
try lm judge --text text.txt --from "no such words" --context 256
try lm judge --text text.txt --context 256 --heat-map recent:even:f16:1/5 --engines recent -o judged
try lm judge --text text.txt --context 256 --marks none.json
try lm judge --text text.txt --context 256 --marks none.json -o judged
printf '{"rows": [\n{"method": 3}' >bad.json
try lm judge --text text.txt --context 256 --marks bad.json -o judged
printf '{"rows": [{"method": "a", "bytes_ratio": 0.5, "kl_mean": 0.1}, {"method": "b", "bytes_ratio": 0, "kl_mean": 1}]}' >bad.json
try lm judge --text text.txt --context 256 --marks bad.json -o judged
printf '[]' >bad.json
try lm judge --text text.txt --context 256 --marks bad.json -o judged
printf '{"prefix": "a", "query": "b", "answer": "c"}\n{"prefix": "a"}\n' >bad.jsonl
try lm judge --text text.txt --context 256 --cases bad.jsonl -o judged

# Files, and marks beside the lines. Without gnuplot there are none: that is said before anything is run.
PATH=/nonexistent "$PITH" lm judge --text text.txt --context 256 -o judged; echo "exit $?"
echo Pictures
if ! gnuplot --version >/dev/null 2>&1; then
  sed -e '1,/^Pictures/d' "$(dirname "$CHECK")/lm_judge.expected"
  return
fi
try lm judge --text text.txt --context 256 -o text.txt
try lm judge --text text.txt --context 256 -o missing/judged
printf '{"rows": [{"method": "it'"'"'s \\"odd\\"`", "bytes_ratio": 0.25, "kl_mean": 0.02}, {"method": "other", "bytes_ratio": 0.5, "kl_mean": 0.01}]}' >marks.json
quietly lm judge --text text.txt $small --engines recent,heavy --ratios 1/2,1/4 -o judged --marks marks.json --heat-map recent:even:f16:1/2
ls judged
cmp .out judged/judge.txt
"$PYTHON" -c '
import xml.dom.minidom
for name, words in ("kl.svg", ["recent even f16", "published methods", "other"]), ("heads.svg", ["recent:even:f16:1/2"]):
    xml.dom.minidom.parse("judged/" + name)
    print(all(word in open("judged/" + name).read() for word in words))'

# Interrupted: what was finished is reported, and was on disk before that.
"$PYTHON" - <<'END'
import json, os, signal, subprocess, time
process = subprocess.Popen([os.environ["PITH"], "lm", "judge", "--text", "text.txt", "--context", "512", "--chunks", "2",
                            "--engines", "recent,nystrom", "--ratios", "1/2,1/3,1/4", "--refine", "20000", "--json", "-o", "part"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
for i in range(600):
    if os.path.exists("part/judge.json"): break
    time.sleep(0.1)
print(json.load(open("part/judge.json"))["complete"])
process.send_signal(signal.SIGINT)
out, err = process.communicate()
report = json.loads(out)
print("exit", process.returncode, report["complete"], 1 <= len(report["rows"]) < 12, "interrupted at step" in err)
END
ls part
