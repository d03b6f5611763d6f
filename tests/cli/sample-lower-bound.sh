# No small memory wins: errors fall only where memory is as large as the stream.
quietly sample lower-bound --rows 128 --trials 200 --json
cp .out report.json
check true report.json '[g["name"] for g in r["games"]] == ["disjointness", "index", "columns"]'
check true report.json 'all(l["error_kept"] > 0.35 for g in r["games"] for l in g["lines"] if l["memory"] < 16)'
check true report.json 'all(l["error_sketch"] > 0.35 for g in r["games"] for l in g["lines"] if l["memory"] < 16)'
check true report.json 'all(abs(l["error_kept"] - max(0, 1 - l["memory"] / 128) / 2) < 0.12 for g in r["games"] for l in g["lines"])'
check true report.json 'all(g["lines"][-1]["error_sketch"] < 0.05 for g in r["games"])'
try sample lower-bound --rows 64 --trials 20 -q | sed -n 1,6p
try sample lower-bound --rows 3
try sample lower --rows 3
