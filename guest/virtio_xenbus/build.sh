#!/bin/bash
# Makes virtio_xenbus.ko for the kernel whose headers lie in HEADERS, the root of Debian's packages linux-headers-V,
# linux-headers-V-common, linux-kbuild and linux-compiler-gcc, unpacked side by side (eng/guests.sh fetches them).
#
#   build.sh HEADERS FILE    writes the module to FILE
#
# Which compiler it is does not matter to the kernel: versions of symbols are Module.symvers', and the vermagic names none.
# It has to know the options that the kernel was made with, so it is the packages' gcc-12, or a newer one.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
(($# == 2)) || { echo "usage: build.sh HEADERS FILE" >&2; exit 2; }
headers=$(cd -- "$1" && pwd) output=$2
fail() { echo "virtio_xenbus: $1" >&2; exit 1; }

tree=$(find "$headers/usr/src" -maxdepth 1 -name 'linux-headers-*-amd64' | head -1)
[[ -n $tree ]] || fail "no kernel headers in $headers"
for tool in make gcc ld strip; do command -v $tool >/dev/null || fail "$tool is missing: install gcc, make and binutils"; done
compiler=gcc-12
command -v $compiler >/dev/null || compiler=gcc
version=$($compiler -dumpversion)
((${version%%.*} >= 12)) || fail "gcc $version is too old for the kernel's options: install gcc-12"

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cp "$here"/virtio_xenbus.c "$here"/Kbuild "$build/"
# The packages' Makefile names the place where they are installed by root, which is not here.
cat >"$build/Makefile.headers" <<END
override ARCH = x86
override KERNELRELEASE = ${tree##*/linux-headers-}
include $headers/usr/src/$(basename "$tree" | sed 's/-[a-z]*-\?amd64$//')-common/Makefile
END
# What the kernel's tools need of libraries lies there, too.
export LD_LIBRARY_PATH=$headers/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
make -s -C "$tree" -f "$build/Makefile.headers" M="$build" CC=$compiler modules
strip --strip-debug -o "$output" "$build/virtio_xenbus.ko"
