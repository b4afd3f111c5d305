#!/bin/bash
# Fetches the guests from Debian packages into .cache/guests, without root, once:
#
#   cloud/{vmlinuz,modules,version}  linux-image-cloud-amd64, the kernel of the demo and of most tests
#   generic/{vmlinuz,version}        linux-image-amd64
#   busybox/busybox                  busybox-static
#   installer/{linux,initrd.gz}      Debian's network installer
#   demo/initrd.img                  busybox and guest/demo/init, made here
#
# Each directory appears complete, by one rename; a second start goes on where the first one was interrupted.
set -euo pipefail
home=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
guests=$home/.cache/guests
work=$guests/.work
log=$guests/fetch.log

fail() {
  echo "guests: $1" >&2
  echo "guests: to use guests of your own: sharpvisor run -kernel FILE -initrd FILE (a Linux bzImage and its initramfs)" >&2
  exit 2
}
say() { echo "guests: $*" >&2; }

initrd_is_current() {
  [[ -f $guests/demo/initrd.img && ! $home/guest/demo/init -nt $guests/demo/initrd.img &&
    ! $home/guest/demo/profile -nt $guests/demo/initrd.img && ! $home/eng/guests.sh -nt $guests/demo/initrd.img ]]
}
have() { [[ -d $guests/$1 ]]; }
if have cloud && have generic && have busybox && have installer && initrd_is_current; then
  exit 0
fi

[[ $(uname -m) == x86_64 ]] || say "this is not an x86-64 host: the packages are fetched for amd64 all the same"
for tool in apt-get apt-cache dpkg-deb flock; do
  command -v $tool >/dev/null || fail "$tool is missing: guests are fetched from Debian packages, which this host cannot do"
done
mkdir -p "$work"
exec {lock}>"$guests/lock"
flock "$lock"
: >"$log"

# apt with the system's package lists; after private_lists, with lists of our own.
apt_options=(-q -o "APT::Sandbox::User=" -o "Acquire::Retries=3")
private_lists() {
  local state=$guests/.apt
  [[ ${private:-} != done ]] || return 1
  private=done
  say "updating package lists"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : >"$state/status"
  apt_options+=(-o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache"
    -o "APT::Architecture=amd64" -o "APT::Architectures=amd64")
  apt-get "${apt_options[@]}" update >>"$log" 2>&1 || say "some package lists could not be updated (see $log)"
}

depends() { # METAPACKAGE: the real package behind it
  apt-cache "${apt_options[@]}" depends "$1" 2>>"$log" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1
}
installer_name() {
  apt-cache "${apt_options[@]}" search --names-only '^debian-installer-[0-9]+-netboot-amd64$' 2>>"$log" |
    cut -d' ' -f1 | sort -V | tail -1
}
busybox_name() { echo busybox-static; }

fetch() { # DIRECTORY FUNCTION [ARGUMENT]: unpacks the package that the function names into $work/DIRECTORY.d
  local directory=$1 package
  shift
  package=$("$@" || true)
  if [[ -z $package ]] || ! download "$directory" "$package"; then
    private_lists || fail "the package for '$directory' could not be downloaded: $(tail -1 "$log")"
    package=$("$@" || true)
    [[ -n $package ]] || fail "no package for '$directory' ($*) in apt's lists: is this Debian, with deb.debian.org in its sources?"
    download "$directory" "$package" || fail "$package could not be downloaded: $(tail -1 "$log")"
  fi
  rm -rf "${work:?}/$directory.d"
  dpkg-deb -x "$work/$directory"/*.deb "$work/$directory.d" >>"$log" 2>&1 || fail "$package could not be unpacked: $(tail -1 "$log")"
  rm -rf "${work:?}/$directory"
}
download() {
  mkdir -p "$work/$1"
  say "downloading $2"
  rm -f "$work/$1"/*.deb
  (cd "$work/$1" && apt-get "${apt_options[@]}" download "$2") >>"$log" 2>&1
}
publish() { # DIRECTORY: makes $work/DIRECTORY.new the guest's
  rm -rf "${guests:?}/$1" "${work:?}/$1.d"
  mv "$work/$1.new" "$guests/$1"
}
stage() { rm -rf "${work:?}/$1.new" && mkdir -p "$work/$1.new"; }

kernel() { # DIRECTORY METAPACKAGE
  fetch "$1" depends "$2"
  stage "$1"
  mv "$work/$1.d"/boot/vmlinuz-* "$work/$1.new/vmlinuz"
  local modules
  modules=$(find "$work/$1.d" -type d -path '*lib/modules/*' -prune | head -1)
  [[ -n $modules ]] || fail "no modules in $2"
  basename "$modules" >"$work/$1.new/version"
  [[ $1 == generic ]] || mv "$modules" "$work/$1.new/modules" # of the large kernel none are needed
  publish "$1"
}

have cloud || kernel cloud linux-image-cloud-amd64
have generic || kernel generic linux-image-amd64
if ! have busybox; then
  fetch busybox busybox_name
  stage busybox
  mv "$(find "$work/busybox.d" -type f -path '*bin/busybox' | head -1)" "$work/busybox.new/busybox"
  publish busybox
fi
if ! have installer; then
  fetch installer installer_name
  stage installer
  netboot=$(find "$work/installer.d" -type f -name linux -path '*/text/*' | head -1)
  [[ -n $netboot ]] || netboot=$(find "$work/installer.d" -type f -name linux ! -path '*gtk*' | head -1)
  [[ -n $netboot ]] || fail "no kernel in the installer's package"
  mv "$netboot" "${netboot%/linux}/initrd.gz" "$work/installer.new/"
  publish installer
fi

if ! initrd_is_current; then
  say "making demo/initrd.img"
  busybox=$guests/busybox/busybox
  root=$work/root
  rm -rf "$root"
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,tmp,run,root}
  cp "$busybox" "$root/bin/busybox"
  "$busybox" --list-full | while read -r applet; do
    [[ $applet == bin/busybox || -z $applet ]] && continue
    mkdir -p "$root/$(dirname "$applet")"
    ln -sf /bin/busybox "$root/$applet"
  done
  ln -sf busybox "$root/bin/sh"
  cp "$home/guest/demo/init" "$root/init"
  cp "$home/guest/demo/profile" "$root/etc/profile"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  chmod 755 "$root/init" "$root/bin/busybox"
  stage demo
  (cd "$root" && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc -R 0:0 2>>"$log") | "$busybox" gzip -c >"$work/demo.new/initrd.img"
  publish demo
fi
rm -rf "$work" "$guests/.apt"
say "ready in $guests ($(du -sh "$guests" | cut -f1))"
