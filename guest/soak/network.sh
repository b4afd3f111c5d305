#!/bin/sh
# network.sh SECONDS NUMBER: by one of the NICs fetches a file from its gateway's web server and compares it, and sends it
# to the echo behind port 7 of its network's .100 and compares what comes back. Prints the number of rounds.
seconds=$1 number=$2
set -- $(ip -4 -o addr show | awk '$2 ~ /^eth/ { sub("[.][0-9]*/.*", "", $4); print $4 }')
[ $# -gt 0 ] || { echo "SOAK WRONG network[$number]: no address" >&2; exit 1; }
shift $((number % $#))
network=$1 copy=/tmp/network.$number
wrong() { echo "SOAK WRONG network[$number] in $network.0: $*" >&2; exit 1; }
now() { read -r up rest </proc/uptime; echo "${up%.*}"; }

rounds=0 until=$(($(now) + seconds))
right=$(wget -q -O - http://$network.2/soak.sum) || wrong "no sum"
while [ "$(now)" -lt $until ]; do
  wget -q -O $copy http://$network.2/soak.bin || wrong "no download in round $rounds"
  is=$(sha256sum <$copy)
  [ "$is" = "$right" ] || wrong "the download is $is in round $rounds, not $right"
  is=$(nc $network.100 7 <$copy | sha256sum)
  [ "$is" = "$right" ] || wrong "the echo is $is in round $rounds, not $right"
  rounds=$((rounds + 1))
done
[ $rounds -gt 0 ] || wrong "not one round was finished"
echo $rounds
