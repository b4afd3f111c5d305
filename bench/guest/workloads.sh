#!/bin/sh
# The measured workloads, the same in a guest and natively in a chroot: workloads.sh [--only NAME,NAME..]
only=
[ "$1" = --only ] && only=,$2,
wanted() { case $only in "" | *,"$1",*) ;; *) return 1 ;; esac }
program() { if wanted "$1"; then /guestbench --time "$@"; fi; } # NAME RESULT COMMAND..

uname -rm
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
/guestbench --mark "$@"

program sh_loop - sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $i'
if wanted gzip_8m || wanted sha256sum_8m; then
  { head -c 5242880 /cc1; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat /big.c; done; } | head -c 8388608 >/tmp/mix
fi
program gzip_8m - gzip -c /tmp/mix
program sha256sum_8m - sha256sum /tmp/mix
program tcc_10x /tmp/big.o sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do tcc -c /big.c -o /tmp/big.o; done'
program cc1_O0 /tmp/O0.s /cc1 -quiet -nostdinc -O0 /big.c -o /tmp/O0.s
program cc1_O2 /tmp/O2.s /cc1 -quiet -nostdinc -O2 /big.c -o /tmp/O2.s
echo DONE
