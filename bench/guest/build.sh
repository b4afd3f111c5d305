#!/bin/bash
# Makes what bench/compare runs, from Debian packages, without root, in .cache/bench:
#
#   build.sh guest   guest/{vmlinuz,boot.img,full.img,chroot,disk.img,net.img}: boot.img has busybox and guestbench,
#                    full.img the compilers too; chroot holds the same files for native runs; disk.img is
#                    diskbench alone, net.img netbench and iperf3
#   build.sh qemu    qemu/usr/bin/qemu-system-x86_64, for hosts that have none
#
# The compilers of packages/ make guestbench too, so that it is the same on every host.
#
# Each directory appears complete, by one rename. What exists and is newer than the files here is left as it is.
set -euo pipefail
here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
cache=$(cd -- "$here/../.." && pwd)/.cache/bench
apt=$cache/apt
packages=$cache/packages
lib=usr/lib/x86_64-linux-gnu
log=$cache/build.log

say() { echo "bench: $*" >&2; }
fail() { say "$1"; exit 2; }

# An empty status file: apt answers as on an empty Debian for amd64 and so names every package that is needed.
apt_options=(-q -o "APT::Sandbox::User=" -o "Acquire::Retries=3" -o "Debug::NoLocking=1" -o "APT::Install-Recommends=0"
  -o "Dir::State::status=$apt/status" -o "Dir::Cache::archives=$apt/archives" -o "APT::Architecture=amd64" -o "APT::Architectures=amd64")
prepare_apt() {
  local tool
  for tool in apt-get apt-cache dpkg-deb flock; do
    command -v $tool >/dev/null || fail "$tool is missing: the packages come from Debian, which this host cannot fetch"
  done
  mkdir -p "$apt"/{archives,lists}/partial
  : >"$apt/status"
}
with_own_lists() { # COMMAND..: once more with package lists of our own, when the system's are not there or too old
  "$@" >>"$log" 2>&1 && return
  say "updating package lists"
  apt_options+=(-o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::State::lists=$apt/lists")
  apt-get "${apt_options[@]}" update >>"$log" 2>&1 || say "some package lists could not be updated (see $log)"
  "$@" >>"$log" 2>&1 || fail "the packages could not be downloaded: $(tail -1 "$log") (see $log)"
}
unpack() { # ROOT PACKAGE..: the packages and all that they depend on
  local root=$1 file
  shift
  say "fetching $*"
  rm -f "$apt"/archives/*.deb
  with_own_lists apt_install "$@"
  rm -rf "$root"
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  ln -s usr/{bin,sbin,lib,lib64} "$root/"
  for file in "$apt"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$file" |
      tar -x -C "$root" --keep-directory-symlink --exclude './usr/share/doc/*' --exclude './usr/share/man/*' --exclude './usr/share/locale/*'
  done
  rm -f "$apt"/archives/*.deb
}
apt_install() { apt-get "${apt_options[@]}" install -y --download-only "$@"; }
# Every library of the packages but those of glibc itself: these have to fit the host's ld.so.
collect_libraries() { # ROOT
  mkdir -p "$1/libraries"
  find "$1/usr/lib/x86_64-linux-gnu" -maxdepth 2 -name '*.so*' ! -type d |
    grep -vE '/(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|nsl|mvec|thread_db|nss_.*|BrokenLocale|c_malloc_debug|memusage|pcprofile))\.so' |
    xargs -r ln -srf -t "$1/libraries"
}

build_qemu() {
  local new=$cache/qemu.new
  unpack "$new" qemu-system-x86
  collect_libraries "$new"
  mv "$new" "$cache/qemu"
}

fetch_packages() {
  local new=$packages.new
  unpack "$new" gcc libc6-dev tcc busybox-static iperf3
  collect_libraries "$new"
  say "fetching linux-image-cloud-amd64"
  with_own_lists download_kernel
  dpkg-deb --fsys-tarfile "$apt"/archives/linux-image-*.deb | tar -x -C "$new" --wildcards './boot/vmlinuz-*'
  mv "$new" "$packages"
}
download_kernel() { # without what an installed one needs
  local name
  name=$(apt-cache "${apt_options[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  [[ -n $name ]] && (cd "$apt/archives" && apt-get "${apt_options[@]}" download "$name")
}

build_guest() {
  local new=$cache/guest.new applet name
  local boot=$new/boot full=$new/full
  say "building the guest"
  rm -rf "$new"
  mkdir -p "$boot/bin" "$full"/{bin,lib64,"$lib"} "$new/chroot"/{proc,sys,dev,tmp}
  cp "$packages"/boot/vmlinuz-* "$new/vmlinuz"

  in_packages gcc --sysroot="$packages" -O2 -static -Wall -Wno-misleading-indentation "$here/guestbench.c" -o "$boot/guestbench" -lm
  for name in disk net; do
    mkdir "$new/$name"
    in_packages gcc --sysroot="$packages" -O2 -static -Wall "$here/${name}bench.c" -o "$new/$name/${name}bench"
  done
  mkdir -p "$new/net"/{lib64,usr/bin,"$lib"}
  cp "$packages/usr/bin/iperf3" "$new/net/usr/bin/"
  copy_libraries "$new/net" "$packages/usr/bin/iperf3"
  cp "$packages/usr/bin/busybox" "$boot/bin/"
  cp "$here/init" "$here/workloads.sh" "$boot/"
  chmod 755 "$boot/init" "$boot/workloads.sh"
  "$boot/bin/busybox" --list | while read -r applet; do
    [[ $applet == busybox ]] || ln -s busybox "$boot/bin/$applet"
  done

  cp "$(find "$packages"/usr/{lib,libexec}/gcc -name cc1 2>/dev/null | head -1)" "$full/cc1"
  cp "$packages/usr/bin/tcc" "$full/bin/"
  cp -a "$packages/$lib/tcc" "$full/$lib/"
  copy_libraries "$full" "$full/cc1" "$full/bin/tcc"
  python3 "$here/gen-c.py" >"$full/big.c"

  cp -a "$boot/." "$full/." "$new/chroot/"
  pack "$boot" >"$new/boot.img"
  { cat "$new/boot.img"; pack "$full"; } >"$new/full.img"
  pack "$new/disk" >"$new/disk.img"
  pack "$new/net" >"$new/net.img"
  rm -rf "$boot" "$full" "$new/disk" "$new/net" "$cache/guest"
  mv "$new" "$cache/guest"
  say "ready: $cache/guest ($(du -sh "$cache/guest" | cut -f1))"
}
in_packages() { # COMMAND..: a program of the packages
  PATH=$packages/usr/bin:$PATH LD_LIBRARY_PATH=$packages/libraries "$packages/usr/bin/$@"
}
copy_libraries() { # ROOT FILE..: what these programs are loaded with
  local root=$1 library
  shift
  cp -L "$packages/usr/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
  needed "$@" | while read -r library; do
    cp -L "$packages/$lib/$library" "$root/$lib/"
  done
}
needed() { # FILE..: the names of the libraries that these need, with theirs
  local -A seen=()
  local queue=("$@") file library
  while ((${#queue[@]} > 0)); do
    file=${queue[0]}
    queue=("${queue[@]:1}")
    for library in $(in_packages objdump -p "$file" | sed -n 's/^ *NEEDED *//p'); do
      [[ -z ${seen[$library]:-} && $library != ld-linux* ]] || continue
      seen[$library]=1
      echo "$library"
      queue+=("$packages/$lib/$library")
    done
  done
}
pack() { (cd "$1" && find . | LC_ALL=C sort | "$packages/usr/bin/busybox" cpio -o -H newc -R 0:0 2>>"$log" | gzip -6 -n); }

case ${1:-} in guest | qemu) ;; *) fail "usage: build.sh guest|qemu" ;; esac
[[ $(uname -m) == x86_64 ]] || fail "this is not an x86-64 host: there is nothing to compare"
mkdir -p "$cache"
prepare_apt
exec {lock}>"$cache/lock"
flock "$lock"
: >"$log"
case $1 in
  qemu) [[ -d $cache/qemu ]] || build_qemu ;;
  guest)
    [[ -x $packages/usr/bin/iperf3 ]] || { rm -rf "$packages" && fetch_packages; }
    [[ -d $cache/guest && -z $(find "$here" -newer "$cache/guest" -type f) ]] || build_guest
    ;;
esac
rm -rf "$apt"
