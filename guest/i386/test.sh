# What busybox does all day, each with an answer known from elsewhere (RFC 1321, FIPS 180, arithmetic) or by doing it there
# and back. Ends with 1 at the first wrong answer.
cd /tmp || exit 1
is() { # WHAT IS SHOULD
  [ "$2" = "$3" ] && return
  echo "i386: $1: '$2' instead of '$3'"
  exit 1
}
sum() { "$@" | cut -d' ' -f1; }

is "class of the ELF file" "$(dd if=/bin/busybox bs=1 skip=4 count=1 2>/dev/null | od -An -tu1 | tr -d ' ')" 1
is "the kernel's machine" "$(uname -m)" x86_64

# The shell
n=0 i=0
while [ $i -lt 3000 ]; do i=$((i + 1)) n=$((n + i * i)); done
is "sum of squares" $n 9004500500
f() { [ $1 -lt 2 ] && echo $1 && return; echo $(($(f $(($1 - 1))) + $(f $(($1 - 2))))); }
is "Fibonacci by subshells" "$(f 9)" 34
is "64-bit arithmetic" "$((0x7fffffffffffffff / 12345 % 1000007)) $((-7 / 2)) $((-7 % 2)) $((1 << 40 >> 3))" "$((747134227367742 % 1000007)) -3 -1 137438953472"
v=one.two.three
is "substitution" "${v%%.*} ${v##*.} ${#v} ${v/two/2}" "one three 13 one.2.three"
is "a long pipe" "$(seq 1 2000 | grep -v 7 | sed 's/1/x/g' | tr x y | wc -c | tr -d ' ')" "$(seq 1 2000 | grep -v 7 | wc -c | tr -d ' ')"

# Sums
is "MD5 of abc" "$(printf abc | sum md5sum)" 900150983cd24fb0d6963f7d28e17f72
is "SHA-1 of abc" "$(printf abc | sum sha1sum)" a9993e364706816aba3e25717850c26c9cd0d89d
is "SHA-256 of abc" "$(printf abc | sum sha256sum)" ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
is "SHA-512 of abc" "$(printf abc | sum sha512sum)" ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f
dd if=/dev/zero bs=1000 count=1000 2>/dev/null | tr '\0' a >million
is "MD5 of a million a" "$(sum md5sum million)" 7707d6ae4e027c70eea2a935c2296f21
is "SHA-1 of a million a" "$(sum sha1sum million)" 34aa973cd4c4daa4f61eeb2bdbad27316534016f
is "SHA-256 of a million a" "$(sum sha256sum million)" cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0
is "CRC-32 of 123456789" "$(printf 123456789 | crc32)" cbf43926

# Sorting
seq 1 3000 >sorted
awk 'BEGIN { for (i = 1; i <= 3000; i++) print i * 1861 % 3001 }' | sort -n >resorted # 3001 is prime: a permutation
cmp sorted resorted || exit 1
is "sort, uniq" "$(awk 'BEGIN { for (i = 0; i < 1000; i++) print i % 37 }' | sort | uniq -c | sort -rn | awk '{ n += $1 } END { print NR, n }')" "37 1000"

# awk's doubles go through the x87 here: i386 code of Debian needs no SSE2
is "awk's integers" "$(awk 'BEGIN { for (i = 1; i <= 20; i++) s += i * i * i; print s }')" 44100
is "awk's doubles" "$(awk 'BEGIN { x = 1; for (i = 0; i < 8; i++) x = (x + 2 / x) / 2; printf "%.15f %.3e %d", x, x * 1e300, -x * 1e9 }')" "1.414213562373095 1.414e+300 -1414213562"
is "a series" "$(awk 'BEGIN { for (i = 1; i <= 5000; i++) s += 1 / (i * i); printf "%.9f", s }')" 1.644734087
is "bc" "$(echo '2^200 % 1000000007; scale=20; 1/7' | bc | tr '\n' ' ')" "499445072 .14285714285714285714 "
is "factor" "$(factor 1000036000099)" "1000036000099: 1000003 1000033"

# There and back
for i in $(seq 1 300); do echo "line $i of many, $((i * i % 97))"; done >text
(cat text million sorted; head -c 600000 /bin/busybox) >mixed
before=$(sum sha256sum mixed)
gzip -c mixed | gunzip -c | sha256sum >after
is "gzip and back" "$(cut -d' ' -f1 after)" "$before"
bzip2 -c text | bunzip2 -c | cmp - text || exit 1
base64 mixed | base64 -d | cmp - mixed || exit 1
xxd -p text | xxd -r -p | cmp - text || exit 1
mkdir -p tree/a/b/c
for i in 1 2 3 4 5 6 7 8; do cp text tree/a/b/$i; seq 1 $((i * 100)) >tree/a/b/c/$i; done
ln -s b/1 tree/a/link
tar czf tree.tar.gz tree
mkdir other
tar xzf tree.tar.gz -C other
diff -r tree other/tree || exit 1
is "a link in a tar file" "$(readlink other/tree/a/link)" b/1
(cd tree && find . | cpio -o -H newc 2>/dev/null) >tree.cpio
mkdir third
(cd third && cpio -id 2>/dev/null) <tree.cpio
diff -r tree third || exit 1
is "find" "$(find tree -type f | wc -l | tr -d ' ')" 16

# Processes on all processors at once
for i in 1 2 3 4; do (sum sha256sum mixed >sum.$i) & done
wait
is "sums side by side" "$(sort -u sum.1 sum.2 sum.3 sum.4)" "$before"
sleep 0.1 & wait $!
(exit 42) && exit 1
is "exit code" $? 42
sh -c 'kill -TERM $$'
is "a signal" $? 143
exit 0
