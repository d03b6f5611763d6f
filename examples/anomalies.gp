# What was drawn by squared residual: hours (steps of the series) and their residuals.
set terminal svg size 720,400 font "sans,12"
set output "anomalies.svg"
set xlabel "hour"
set ylabel "|residual| of the drawn hour, degrees"
set yrange [0:*]
set key left top
plot "residuals.txt" index 0 using 1:(int($3) ? NaN : $2) with points pt 7 ps 0.5 lc rgb "#888888" title "exact: other hours", \
     "" index 0 using 1:(int($3) ? $2 : NaN) with points pt 7 ps 0.9 lc rgb "#c00000" title "exact: at a fault", \
     "" index 1 using 1:2 with points pt 6 ps 1.2 lc rgb "#0050c0" title "sketch"
