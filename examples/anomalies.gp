# What was drawn by squared residual: hours of the drawn readings and their residuals.
set terminal svg size 720,400 font "sans,12"
set output "anomalies.svg"
set xlabel "hour"
set ylabel "|residual|, in usual changes"
set yrange [0:70]
set key outside top center horizontal
plot "residuals.txt" index 0 using 1:(int($3) ? NaN : $2) with points pt 7 ps 0.4 lc rgb "#888888" title "exact: other readings", \
     "" index 0 using 1:(int($3) ? $2 : NaN) with points pt 7 ps 0.8 lc rgb "#c00000" title "exact: at a fault", \
     "" index 1 using 1:2 with points pt 6 ps 1.2 lc rgb "#0050c0" title "sketch"
