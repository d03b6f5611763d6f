# Shares of the heaviest pairs: by the law over all pairs (lines), and among 4000 draws (points), at four moments.
set terminal svg size 720,440 font "sans,12"
set output "interactions.svg"
set logscale x 2
set xlabel "heaviest pairs of 1 000 000"
set ylabel "share"
set yrange [0:1]
set key left top
set format x "%.0f"
plot for [i=0:3] "pairs.txt" index i using 1:2 with lines lc i+1 title sprintf("law, after %d/4 of the text", i+1), \
     for [i=0:3] "pairs.txt" index i using 1:3 with points pt 6 lc i+1 notitle
