#!/bin/sh
# compile.sh SECONDS NUMBER: makes programs, compiles each twice, compares the objects, links and runs them, runs them from
# the compiler's memory too, and compares what they print with what they must. Prints the number of rounds.
seconds=$1 number=$2
work=/tmp/compile.$number
mkdir -p "$work"
cd "$work" || exit 1
wrong() { echo "SOAK WRONG compile[$number]: $*" >&2; exit 1; }
now() { read -r up rest </proc/uptime; echo "${up%.*}"; }

rounds=0 until=$(($(now) + seconds))
while [ "$(now)" -lt $until ]; do
  if [ $((rounds % 4)) = 0 ]; then
    awk -v seed=$((number * 1000 + rounds)) -v functions=150 -f /soak/program.awk >program.c || wrong "awk: $?"
    read -r comment right <program.c
    tcc -c program.c -o first.o || wrong "tcc -c: $?"
  fi
  tcc -c program.c -o again.o || wrong "tcc -c: $?"
  cmp -s first.o again.o || wrong "the same source gave another object in round $rounds"
  tcc again.o -o program || wrong "tcc as linker: $?"
  is=$(./program) || wrong "the program: $?"
  [ "$is" = "$right" ] || wrong "the program printed $is instead of $right"
  is=$(tcc -run program.c) || wrong "tcc -run: $?"
  [ "$is" = "$right" ] || wrong "tcc -run printed $is instead of $right"
  rounds=$((rounds + 1))
done
[ $rounds -gt 0 ] || wrong "not one round was finished"
echo $rounds
