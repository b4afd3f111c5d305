#!/bin/sh
# disk.sh SECONDS NUMBER: keeps files on one of the disks: writes, copies, moves and removes them, drops what the kernel
# remembers, and compares what it reads with what it wrote. Prints the number of rounds.
seconds=$1 number=$2
set -- /disk/*
shift $((number % $#))
work=$1/$number copy=/tmp/disk.$number
mkdir -p "$work"
wrong() { echo "SOAK WRONG disk[$number] on $work: $*" >&2; exit 1; }
now() { read -r up rest </proc/uptime; echo "${up%.*}"; }

rounds=0 until=$(($(now) + seconds))
while [ "$(now)" -lt $until ]; do
  slot=$((rounds % 8))
  dd if=/dev/urandom of=$copy bs=4k count=$((1 + rounds * 37 % 1024)) 2>/dev/null || wrong "no source"
  right=$(sha256sum <$copy)
  cp $copy "$work/new" && sync "$work/new" || wrong "no copy in round $rounds"
  mv "$work/new" "$work/$slot" || wrong "no move in round $rounds"
  echo "$right" >"$work/$slot.sum"
  [ $((rounds % 4)) != 3 ] || { sync && echo 3 >/proc/sys/vm/drop_caches; }
  for file in 0 1 2 3 4 5 6 7; do
    [ -f "$work/$file" ] || continue
    is=$(sha256sum <"$work/$file") || wrong "$file can't be read in round $rounds"
    [ "$is" = "$(cat "$work/$file.sum")" ] || wrong "$file is $is in round $rounds, not $(cat "$work/$file.sum")"
  done
  [ $((rounds % 16)) != 15 ] || rm "$work/$slot" "$work/$slot.sum"
  rounds=$((rounds + 1))
done
[ $rounds -gt 0 ] || wrong "not one round was finished"
echo $rounds
