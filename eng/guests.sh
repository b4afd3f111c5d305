#!/bin/bash
# Fetches the guests from Debian packages into .cache/guests, without root, once:
#
#   cloud/{vmlinuz,modules,version}  linux-image-cloud-amd64, the kernel of the demo and of most tests
#   generic/{vmlinuz,version}        linux-image-amd64
#   newer/{vmlinuz,version}          linux-image-6.12-cloud-amd64, whose symbols and stacks are laid out in the newer ways
#   headers/                         linux-headers of the cloud kernel and what building a module for it needs, side by side
#   virtio_xenbus/virtio_xenbus.ko   guest/virtio_xenbus, compiled here for the cloud kernel
#   busybox/busybox                  busybox-static
#   busybox32/busybox                busybox-static for i386
#   installer/{linux,initrd.gz}      Debian's network installer
#   seabios/{bios-256k.bin,vgabios-stdvga.bin}  seabios
#   ipxe/{ipxe.lkrn,ipxe.iso}        ipxe
#   ipxe-roms/{pxe-virtio,pxe-e1000}.rom  ipxe-qemu
#   pxelinux/{pxelinux.0,ldlinux.c32}  pxelinux and syslinux-common
#   isolinux/{isolinux.bin,isohdpfx.bin,ldlinux.c32}  isolinux and syslinux-common
#   memtest/memtest86+x64.iso        memtest86+
#   grub/{i386-pc,grub-mkimage,lib}  grub-pc-bin, and of grub-common a program with the libraries it needs
#   grub-xen/grub-{x86_64-xen,i386-xen_pvh}.bin  grub-xen-host: GRUB as the kernel of a PV and of a PVH domain
#   xen-shim/xen-shim                xen-utils: Xen itself as the kernel of a PVH domain, which starts a PV domain inside
#   tcc/                             tcc, libc6, libc6-dev and the kernel headers they need, as they lie in a root
#   demo/initrd.img                  busybox and guest/demo, made here
#   e2fs/{mke2fs,e2fsck,lib}         e2fsprogs with the libraries it needs
#   readers/{libvhdi,libqcow}.so.1   libvhdi1 and libqcow1, which read disk images in another way than we do
#   tcpdump/{tcpdump,lib}            tcpdump with the libraries it needs, which reads our recordings of frames
#   virtio/initrd.img                the demo with drivers of the cloud kernel for virtio devices, and e2fs, made here
#   xen/initrd.img                   the demo with drivers of the cloud kernel for disks and NICs of a Xen domain, virtio_xenbus, and e2fs, made here
#   disk/initrd.img                  the demo with drivers of the cloud kernel for IDE disks, CD-ROMs and pvpanic, made here
#   demo-disk/disk.img               the demo's home directory, an empty file system at first; never made again
#   grub-disk/disk.img               a disk whose GRUB starts the cloud kernel with that RAM disk, made here
#   i386/initrd.img                  the i386 busybox and guest/i386, made here
#   soak/initrd.img                  busybox, tcc and guest/soak, made here
#
# Each directory appears complete, by one rename; a second start goes on where the first one was interrupted.
#
#   eng/guests.sh         all of them
#   eng/guests.sh demo    what the demo needs, and firmware: cloud, busybox, e2fs, demo, demo-disk, seabios, ipxe-roms
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

part=${1:-all}
[[ $part == all || $part == demo ]] || fail "usage: eng/guests.sh [demo]"
images=(disk i386 soak virtio xen) # besides the demo's
# FILE SOURCE...: is newer than this script and all of the sources; a directory's time tells of removed files.
is_current() { [[ -f $1 && -z $(find "${@:2}" "$home/eng/guests.sh" -newer "$1" -print -quit) ]]; }
image_is_current() { # NAME
  [[ $1 != xen ]] || module_is_current || return 1
  is_current "$guests/$1/initrd.img" "$home/guest/$1" "$guests/cloud/version"
}
module_is_current() { is_current "$guests/virtio_xenbus/virtio_xenbus.ko" "$home/guest/virtio_xenbus" "$guests/cloud/version"; }
grub_disk_is_current() { is_current "$guests/grub-disk/disk.img" "$home/guest/grub" "$guests"/disk/initrd.img; }
have() { [[ -e $guests/$1 ]]; }
demo_there() { have cloud && have busybox && have e2fs && image_is_current demo && have demo-disk && have seabios && have ipxe-roms; }
all_there() {
  local name
  demo_there || return 1
  [[ $part == all ]] || return 0
  for name in generic newer busybox32 installer ipxe/ipxe.iso isolinux pxelinux memtest grub grub-xen xen-shim tcc readers tcpdump; do have $name || return 1; done
  for name in "${images[@]}"; do image_is_current "$name" || return 1; done
  grub_disk_is_current
}
! all_there || exit 0

[[ $(uname -m) == x86_64 ]] || say "this is not an x86-64 host: the packages are fetched for amd64 all the same"
for tool in apt-get apt-cache dpkg-deb flock; do
  command -v $tool >/dev/null || fail "$tool is missing: guests are fetched from Debian packages, which this host cannot do"
done
mkdir -p "$work"
exec {lock}>"$guests/lock"
flock "$lock"
: >"$log"

# apt with the system's package lists; after private_lists, with lists of our own. One set of lists for each architecture:
# where a mirror is being written to, apt drops all of an archive's lists for one that does not match.
apt_of_system=(-q -o "APT::Sandbox::User=" -o "Acquire::Retries=3")
apt_options=("${apt_of_system[@]}")
architecture=amd64
use_lists() { # ARCHITECTURE
  local state=$guests/.apt/$1
  architecture=$1
  apt_options=("${apt_of_system[@]}")
  [[ ! -d $state ]] || apt_options+=(-o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache"
    -o "APT::Architecture=$1" -o "APT::Architectures::=$1")
}
private_lists() {
  local state=$guests/.apt/$architecture attempt
  [[ ! -e $state/updated ]] || return 1
  say "updating package lists ($architecture)"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : >"$state/status"
  use_lists "$architecture"
  for attempt in 1 2 3; do
    if apt-get "${apt_options[@]}" -o APT::Update::Error-Mode=any update >>"$log" 2>&1; then
      touch "$state/updated"
      return
    fi
    ((attempt == 3)) || sleep 10
  done
  touch "$state/updated"
  say "some package lists could not be updated, older ones or none are used instead (see $log)"
}
rm -rf "$guests/.apt" # of a start that was interrupted

depends() { # METAPACKAGE: the real package behind it
  apt-cache "${apt_options[@]}" depends "$1" 2>>"$log" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1
}
installer_name() {
  apt-cache "${apt_options[@]}" search --names-only '^debian-installer-[0-9]+-netboot-amd64$' 2>>"$log" |
    cut -d' ' -f1 | sort -V | tail -1
}
xen_utils_name() {
  apt-cache "${apt_options[@]}" search --names-only '^xen-utils-[0-9.]+$' 2>>"$log" | cut -d' ' -f1 | sort -V | tail -1 | sed 's/$/:amd64/'
}
named() { echo "$1"; }

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
  [[ $1 != cloud ]] || mv "$modules" "$work/$1.new/modules" # of the others none are needed
  publish "$1"
}

busybox() { # DIRECTORY PACKAGE
  fetch "$1" named "$2"
  stage "$1"
  mv "$(find "$work/$1.d" -type f -path '*bin/busybox' | head -1)" "$work/$1.new/busybox"
  publish "$1"
}
libraries() { # PACKAGE: those that it names; the C library is everywhere
  apt-cache "${apt_options[@]}" depends "$1" 2>>"$log" | sed -n 's/^ *\(Pre\)\?Depends: \(lib.*\)/\2/p' | grep -v '^libc6'
}
with_libraries() { # DIRECTORY PACKAGE PROGRAM...: programs of a package, and in lib the libraries that it needs
  local directory=$1 package=$2 library program
  stage "$directory"
  mkdir "$work/$directory.new/lib"
  fetch "$package" named "$package:amd64"
  for library in $(libraries "$package"); do
    fetch "$library" named "$library:amd64"
    find "$work/$library.d" -name '*.so.*' -exec cp -a -t "$work/$directory.new/lib" {} +
    rm -rf "${work:?}/$library.d"
  done
  for program in "${@:3}"; do
    mv "$(find "$work/$package.d" -name "$program" -path '*bin/*')" "$work/$directory.new/"
  done
  rm -rf "${work:?}/$package.d"
}
program() { # DIRECTORY PROGRAM ARGUMENT...: runs what with_libraries has fetched
  LD_LIBRARY_PATH=$guests/$1/lib "$guests/$1/$2" "${@:3}" >>"$log" 2>&1 || fail "$2 failed: $(tail -1 "$log")"
}
# Sorted and owned by root, so that the same files make the same image. Not compressed: an interpreted guest reads
# 8 MB faster than it unpacks 3.
pack() { # NAME ROOT
  stage "$1"
  (cd "$2" && find . | LC_ALL=C sort | "$guests/busybox/busybox" cpio -o -H newc -R 0:0 2>>"$log") >"$work/$1.new/initrd.img"
  publish "$1"
}
busybox_root() { # DIRECTORY BUSYBOX: makes the root that a guest needs
  local root=$1
  rm -rf "$root"
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,tmp,run,root}
  cp "$2" "$root/bin/busybox"
  "$guests/busybox/busybox" --list-full | while read -r applet; do
    [[ $applet == bin/busybox || -z $applet ]] && continue
    mkdir -p "$root/$(dirname "$applet")"
    ln -sf /bin/busybox "$root/$applet"
  done
  ln -sf busybox "$root/bin/sh"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  chmod 755 "$root/bin/busybox"
}

demo_root() {
  busybox_root "$1" "$guests/busybox/busybox"
  cp "$home/guest/demo/init" "$1/init"
  cp "$home/guest/demo/profile" "$1/etc/profile"
  cp "$home/guest/demo/dhcp" "$1/etc/dhcp"
  chmod 755 "$1/etc/dhcp"
  modules "$1" virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio-rng failover net_failover virtio_net
}
modules() { # ROOT NAME...: of the cloud kernel
  local name
  mkdir -p "$1/modules"
  for name in "${@:2}"; do
    cp "$(find "$guests/cloud/modules" -name "$name.ko")" "$1/modules/"
  done
  cp "$guests/cloud/version" "$1/modules/"
}
image() { # NAME
  ! image_is_current "$1" || return 0
  say "making $1/initrd.img"
  "${1}_root" "$work/root"
  chmod 755 "$work/root/init"
  pack "$1" "$work/root"
}
finish() {
  rm -rf "$work" "$guests/.apt"
  say "ready in $guests ($(du -sh "$guests" | cut -f1))"
  exit 0
}

have cloud || kernel cloud linux-image-cloud-amd64
have busybox || busybox busybox busybox-static
if ! have e2fs; then
  with_libraries e2fs e2fsprogs mke2fs e2fsck
  publish e2fs
fi

image demo
if ! have demo-disk; then
  say "making demo-disk/disk.img"
  stage demo-disk
  program e2fs mke2fs -q -t ext4 -m 0 -J size=4 -L sharpvisor-home "$work/demo-disk.new/disk.img" 256M
  publish demo-disk
fi

# Firmware, which machines other than the demo look for here.
if ! have seabios; then
  fetch seabios named seabios
  stage seabios
  mv "$work"/seabios.d/usr/share/seabios/{bios-256k.bin,vgabios-stdvga.bin} "$work/seabios.new/"
  publish seabios
fi

if ! have ipxe-roms; then
  fetch ipxe-roms named ipxe-qemu
  stage ipxe-roms
  mv "$work"/ipxe-roms.d/usr/lib/ipxe/qemu/pxe-{virtio,e1000}.rom "$work/ipxe-roms.new/"
  publish ipxe-roms
fi

[[ $part == all ]] || finish

have generic || kernel generic linux-image-amd64
have newer || kernel newer linux-image-6.12-cloud-amd64
if ! have busybox32; then
  use_lists i386
  busybox busybox32 busybox-static:i386
  use_lists amd64
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

if ! have ipxe/ipxe.iso; then
  fetch ipxe named ipxe
  stage ipxe
  mv "$work"/ipxe.d/{boot/ipxe.lkrn,usr/lib/ipxe/ipxe.iso} "$work/ipxe.new/"
  publish ipxe
fi

if ! have isolinux; then
  fetch isolinux named isolinux
  fetch syslinux named syslinux-common
  stage isolinux
  mv "$work"/isolinux.d/usr/lib/ISOLINUX/{isolinux,isohdpfx}.bin "$work/syslinux.d/usr/lib/syslinux/modules/bios/ldlinux.c32" "$work/isolinux.new/"
  publish isolinux
fi
if ! have pxelinux; then
  fetch pxelinux named pxelinux
  fetch syslinux named syslinux-common
  stage pxelinux
  mv "$work/pxelinux.d/usr/lib/PXELINUX/pxelinux.0" "$work/syslinux.d/usr/lib/syslinux/modules/bios/ldlinux.c32" "$work/pxelinux.new/"
  publish pxelinux
fi

if ! have memtest; then
  fetch memtest named memtest86+
  stage memtest
  mv "$work/memtest.d/usr/lib/memtest86+/memtest86+x64.iso" "$work/memtest.new/"
  publish memtest
fi

if ! have grub; then
  with_libraries grub grub-common grub-mkimage
  fetch grub named grub-pc-bin:amd64
  mv "$work/grub.d/usr/lib/grub/i386-pc" "$work/grub.new/"
  publish grub
fi
if ! have grub-xen; then
  fetch grub-xen named grub-xen-host:amd64
  stage grub-xen
  mv "$work"/grub-xen.d/usr/lib/grub-xen/grub-{x86_64-xen,i386-xen_pvh}.bin "$work/grub-xen.new/"
  publish grub-xen
fi
if ! have xen-shim; then
  fetch xen-shim xen_utils_name
  stage xen-shim
  mv "$(find "$work/xen-shim.d" -type f -name xen-shim | head -1)" "$work/xen-shim.new/"
  publish xen-shim
fi
if ! have readers; then
  stage readers
  for package in libvhdi1 libqcow1; do
    fetch $package named $package:amd64
    find "$work/$package.d" -name '*.so.*' -exec cp -a -t "$work/readers.new" {} +
    rm -rf "${work:?}/$package.d"
  done
  publish readers
fi

if ! have tcpdump; then
  with_libraries tcpdump tcpdump tcpdump
  for library in $(libraries libpcap0.8); do # of the library's libraries what not every host has
    fetch "$library" named "$library:amd64"
    find "$work/$library.d" -name '*.so.*' -exec cp -a -t "$work/tcpdump.new/lib" {} +
    rm -rf "${work:?}/$library.d"
  done
  publish tcpdump
fi

if ! have tcc; then
  stage tcc
  for package in tcc libc6 libc6-dev linux-libc-dev; do
    fetch $package named $package:amd64
    cp -a "$work/$package.d/." "$work/tcc.new/"
    rm -rf "${work:?}/$package.d"
  done
  rm -rf "$work"/tcc.new/{etc,sbin} "$work"/tcc.new/usr/{sbin,share,lib32,libx32,lib/x86_64-linux-gnu/gconv}
  publish tcc
fi

disk_root() {
  demo_root "$1"
  mv "$1/init" "$1/init.demo"
  cp "$home/guest/disk/init" "$1/init"
  modules "$1" scsi_common scsi_mod libata ata_piix sd_mod cdrom sr_mod isofs pvpanic pvpanic-mmio pvpanic-pci
}
# The kernel's own headers, whatever newer ones there are: a module fits one build of a kernel only.
headers() {
  local version package
  read -r version <"$guests/cloud/version"
  known "linux-headers-$version" || private_lists || true
  known "linux-headers-$version" || fail "there are no headers of $version any more: remove $guests/cloud, for a newer kernel"
  stage headers
  for package in "linux-headers-$version" $(headers_need "linux-headers-$version") libelf1; do
    fetch headers-part named "$package"
    cp -a "$work/headers-part.d/." "$work/headers.new/"
    rm -rf "${work:?}/headers-part.d"
  done
  rm -rf "$work/headers.new/usr/share"
  publish headers
}
known() { apt-cache "${apt_options[@]}" show "$1" >>"$log" 2>&1; }
headers_need() { apt-cache "${apt_options[@]}" depends "$1" 2>>"$log" | sed -n 's/^ *Depends: \(linux-.*\)/\1/p'; }
module() {
  ! module_is_current || return 0
  [[ -d $guests/headers/usr/src/linux-headers-$(cat "$guests/cloud/version") ]] || headers
  say "compiling virtio_xenbus.ko"
  stage virtio_xenbus
  "$home/guest/virtio_xenbus/build.sh" "$guests/headers" "$work/virtio_xenbus.new/virtio_xenbus.ko" >>"$log" 2>&1 ||
    fail "virtio_xenbus could not be compiled: $(tail -1 "$log")"
  publish virtio_xenbus
}

virtio_root() {
  demo_root "$1"
  mv "$1/init" "$1/init.demo"
  cp "$home/guest/virtio/init" "$1/init"
  modules "$1" virtio_mmio virtio_balloon virtio_console
  e2fs_programs "$1"
}
xen_root() {
  demo_root "$1"
  mv "$1/init" "$1/init.demo"
  cp "$home/guest/xen/init" "$1/init"
  modules "$1" xen-blkfront xen-netfront virtio_balloon virtio_console
  cp "$guests/virtio_xenbus/virtio_xenbus.ko" "$1/modules/"
  e2fs_programs "$1"
}
e2fs_programs() {
  mkdir -p "$1"/{lib64,lib/x86_64-linux-gnu}
  # With these names and places each finds what it needs, and what it is.
  cp "$guests/e2fs/mke2fs" "$1/sbin/mkfs.ext4"
  cp "$guests/e2fs/e2fsck" "$1/sbin/e2fsck"
  cp -L "$guests"/e2fs/lib/*.so.? "$guests"/tcc/lib/x86_64-linux-gnu/{libc.so.6,libpthread.so.0,ld-linux-x86-64.so.2} "$1/lib/x86_64-linux-gnu/"
  ln -s /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$1/lib64/"
}
i386_root() {
  busybox_root "$1" "$guests/busybox32/busybox"
  cp "$home/guest/i386/init" "$home"/guest/i386/*.sh "$1/"
}
soak_root() {
  busybox_root "$1" "$guests/busybox/busybox"
  mkdir -p "$1"/{lib64,soak} "$1"/usr/{include/linux/sched,lib/x86_64-linux-gnu/tcc} "$1/lib/x86_64-linux-gnu"
  local tcc=$guests/tcc file
  cp "$tcc/usr/bin/tcc" "$1/usr/bin/"
  cp -r "$tcc"/usr/lib/x86_64-linux-gnu/tcc/{include,libtcc1.a} "$1/usr/lib/x86_64-linux-gnu/tcc/"
  cp "$tcc"/usr/lib/x86_64-linux-gnu/{crt1,crti,crtn}.o "$tcc"/usr/lib/x86_64-linux-gnu/{libc.so,libc_nonshared.a,libpthread.a} \
    "$1/usr/lib/x86_64-linux-gnu/"
  cp -L "$tcc"/lib/x86_64-linux-gnu/{libc.so.6,libm.so.6,libpthread.so.0,libdl.so.2,ld-linux-x86-64.so.2} "$1/lib/x86_64-linux-gnu/"
  ln -s /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$1/lib64/"
  # Of the kernel's headers those that libc's include; the others are three times the rest.
  for file in errno limits types posix_types stddef falloc stat close_range sched/types; do
    cp "$tcc/usr/include/linux/$file.h" "$1/usr/include/linux/$file.h"
  done
  cp -rL "$tcc"/usr/include/asm-generic "$1/usr/include/"
  for file in "$tcc"/usr/include/*; do
    case ${file##*/} in linux | asm-generic | drm | misc | mtd | rdma | scsi | sound | video | xen) ;; *) cp -r "$file" "$1/usr/include/" ;; esac
  done
  rm -rf "$1"/usr/include/{rpc,rpcsvc,finclude}
  cp "$home"/guest/soak/* "$1/soak/"
  mv "$1/soak/init" "$1/init.soak" # by this name a domain's /init finds it
  ln -s init.soak "$1/init"
}
module
for image in "${images[@]}"; do image "$image"; done

# A PC's disk: GRUB's boot.img in the master boot record, its core in the sectors behind, a partition with GRUB's modules
# and configuration, a kernel and a RAM disk. Both images look for what follows them in the next sector by themselves.
if ! grub_disk_is_current; then
  say "making grub-disk/disk.img"
  stage grub-disk
  first=2048 sectors=129024 disk=$work/grub-disk.new/disk.img modules=$guests/grub/i386-pc
  rm -rf "$work/root"
  mkdir -p "$work/root/boot/grub/i386-pc"
  cp "$modules"/*.{mod,lst} "$work/root/boot/grub/i386-pc/"
  cp "$home/guest/grub/grub.cfg" "$work/root/boot/grub/"
  cp "$guests/cloud/vmlinuz" "$guests/disk/initrd.img" "$work/root/boot/"
  program grub grub-mkimage -O i386-pc -d "$modules" -p '(hd0,msdos1)/boot/grub' -o "$work/core.img" biosdisk part_msdos ext2
  (($(stat -c %s "$work/core.img") <= (first - 1) * 512)) || fail "GRUB's core does not fit before the first partition"
  program e2fs mke2fs -q -t ext2 -d "$work/root" -L debian "$work/partition.img" $((sectors / 2))k
  head -c 440 "$modules/boot.img" >"$disk"
  # Disk signature; one active partition of type 83h, with the CHS addresses that say: use the other ones.
  little() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24)); }
  printf "SHRP\0\0\x80\xfe\xff\xff\x83\xfe\xff\xff$(little $first)$(little $sectors)" >>"$disk"
  head -c 48 /dev/zero >>"$disk"
  printf '\x55\xaa' >>"$disk"
  cat "$work/core.img" >>"$disk"
  truncate -s $((first * 512)) "$disk"
  dd if="$work/partition.img" of="$disk" bs=1M seek=$((first / 2048)) conv=sparse,notrunc status=none
  truncate -s $(((first + sectors) * 512)) "$disk"
  publish grub-disk
fi
finish
