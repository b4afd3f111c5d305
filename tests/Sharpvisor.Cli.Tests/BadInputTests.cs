using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Cli.Tests;

/// <summary>Every mistake on the command line: one line on standard error, exit code 2, no stack trace.</summary>
public sealed class BadInputTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-cli-").FullName;

    public BadInputTests()
    {
        File.WriteAllBytes(Path.Combine(_directory, "vmlinuz"), SyntheticKernel.BzImage());
        File.WriteAllBytes(Path.Combine(_directory, "cut"), SyntheticKernel.BzImage()[..3000]);
        File.WriteAllBytes(Path.Combine(_directory, "elf32"), SyntheticKernel.Elf(is64: false));
        File.WriteAllBytes(Path.Combine(_directory, "empty"), []);
        File.WriteAllBytes(Path.Combine(_directory, "bios"), new byte[64 << 10]);
        File.WriteAllBytes(Path.Combine(_directory, "multiboot"), MultibootKernel.Elf());
        File.WriteAllText(Path.Combine(_directory, "text"), "not a kernel\n");
        var arm = new byte[128];
        SyntheticKernel.U32(arm, 0x38, 0x644D5241);
        File.WriteAllBytes(Path.Combine(_directory, "arm64"), arm);
        File.WriteAllBytes(Path.Combine(_directory, "disk"), new byte[512]);
        File.WriteAllBytes(Path.Combine(_directory, "empty"), []);
        File.WriteAllBytes(Path.Combine(_directory, "qcow"), [.. "QFI"u8, 0xFB, .. new byte[600]]);
        var bios = new byte[64 << 10];
        (bios[^16], bios[^15], bios[^14]) = (0xEA, 0x5B, 0xE0);
        File.WriteAllBytes(Path.Combine(_directory, "bios"), bios);
        using var initrd = File.Create(Path.Combine(_directory, "initrd"));
        initrd.SetLength(600 << 20); // sparse
    }

    [Theory]
    // memory and processors
    [InlineData("-m 1 -kernel DIR/vmlinuz -serial null", "DIR/vmlinuz: the kernel needs memory at 0x200000 to 0x31fffff; the guest has 1 MiB there: give it at least 50M with -m")]
    [InlineData("-m 0", "-m 0: out of range; give 1M to 64G")]
    [InlineData("-m 1T", "-m 1T: out of range; give 1M to 64G")]
    [InlineData("-m 99999999999999999999T", "-m 99999999999999999999T: out of range; give 1M to 64G")]
    [InlineData("-m abc", "-m abc: not a size; give a number of MiB, or one with K, M or G: 512, 2G")]
    [InlineData("-m -5", "-m -5: not a size; give a number of MiB, or one with K, M or G: 512, 2G")]
    [InlineData("-m 1G,slots=2", "-m 1G,slots=2: \"slots=2\" is not supported, memory cannot be plugged in; give the size only")]
    [InlineData("-m", "-m needs a value: -m SIZE")]
    [InlineData("-trace ports", "trace \"ports\": no such event; there are interrupt, exception, syscall, port, mmio, virtio, hypercall and all")]
    [InlineData("-trace syscall:open", "trace \"syscall:open\": \"open\" is no number")]
    [InlineData("-d trace:port:9-1", "trace \"port:9-1\": give a number, or the first and the last one: port:1-3")]
    [InlineData("-smp 0", "-smp 0: out of range; give 1 to 64 processors")]
    [InlineData("-smp 1000", "-smp 1000: out of range; give 1 to 64 processors")]
    [InlineData("-smp two", "-smp two: \"two\" is not a number; give 1 to 64")]
    [InlineData("-smp 4,cores=2", "-smp 4,cores=2: \"cores\" is not supported, there is no topology to choose; give the number of processors only")]
    // what to boot
    [InlineData("-bios DIR/missing", "DIR/missing: no such file; check the path")]
    [InlineData("-bios no-such-bios", "no-such-bios: no such file; check the path")]
    [InlineData("-bios DIR", "DIR: is a directory; give a file")]
    [InlineData("-serial null -bios DIR/empty", "DIR/empty: is empty; give a BIOS image, such as bios-256k.bin of the package seabios")]
    [InlineData("-serial null -bios DIR/text", "DIR/text: has 13 bytes, a BIOS image has a multiple of 64 KiB up to 8 MiB; give one, such as bios-256k.bin of the package seabios")]
    [InlineData("-serial null -bios DIR/initrd", "DIR/initrd: has 629145600 bytes, a BIOS image has a multiple of 64 KiB up to 8 MiB; give one, such as bios-256k.bin of the package seabios")]
    [InlineData("-serial null -bios DIR/bios -machine kernel-boot=direct -kernel DIR/vmlinuz", "a kernel is to be started directly, but there is firmware: leave -bios or kernel-boot=direct out")]
    [InlineData("-serial null -bios DIR/bios -machine kernel-boot=firmware", "kernel-boot is for a kernel: give one with -kernel")]
    [InlineData("-serial null -bios DIR/bios -m 64 -kernel DIR/vmlinuz", "DIR/vmlinuz: the kernel needs memory at 0x1000000 to 0x3ffffff; the guest has 63 MiB there: give it at least 65M with -m")]
    [InlineData("-machine kernel-boot=bios", "-machine kernel-boot=bios: a kernel boots by kernel-boot=firmware or kernel-boot=direct")]
    [InlineData("-serial null -kernel DIR/multiboot -initrd DIR/text,DIR/missing", "DIR/missing: no such file; check the path")]
    [InlineData("-serial null -kernel DIR/multiboot -initrd DIR/text,,x", "DIR/text,x: no such file; check the path")]
    [InlineData("-serial null -kernel DIR/multiboot -initrd DIR/initrd,DIR/text", "DIR/initrd: the module has 600 MiB, the guest has room for 509 MiB behind the kernel: give it at least 603M with -m")]
    [InlineData("-boot e", "-boot e: there is no boot device 'e'; give a (floppy), c (disk), d (CD-ROM), n (network)")]
    [InlineData("-boot order=cc", "-boot order=cc: a boot device is named twice; name each once")]
    [InlineData("-boot cdna", "-boot cdna: give 1 to 3 boot devices, such as cad")]
    [InlineData("-boot menu=yes", "-boot menu=yes: menu=yes; give on or off")]
    [InlineData("-boot splash=x.jpg", "-boot splash=x.jpg: splash pictures are not in this version; leave splash= out")]
    [InlineData("-boot splash-time=x", "-boot splash-time=x: splash-time=x; give milliseconds from 0 to 65535")]
    [InlineData("-boot color=red", "-boot color=red: unknown option \"color\"; there are order, once, menu, splash-time, reboot-timeout and strict")]
    [InlineData("-uuid 12", "-uuid 12: not a UUID; give one such as 12345678-1234-1234-1234-123456789abc")]
    [InlineData("-action reboot=maybe", "-action reboot=maybe: \"reboot=maybe\" is unknown; there are reboot=reset|shutdown, shutdown=poweroff|pause, panic=none|pause|shutdown|exit-failure, watchdog=ACTION")]
    [InlineData("-machine pc,max-ram-below-4g=5G", "-machine pc,max-ram-below-4g=5G: max-ram-below-4g is out of range; give 1M to 4G")]
    [InlineData("-machine max-ram-below-4g=x", "-machine max-ram-below-4g=x: not a size; give a number, or one with K, M or G: 512, 2G")]
    [InlineData("-vnc :1 -vga none", "-vnc :1 and -vga none: there is no screen to show; leave one of them out")]
    [InlineData("-object rng-random,id=r", "-object rng-random: not in this version; there is secret")]
    [InlineData("-device pc-testdev,iobase=1", "-device pc-testdev,iobase=1: unknown option \"iobase=1\"; pc-testdev has none")]
    [InlineData("-initrd DIR/initrd", "-initrd needs a kernel: give one with -kernel")]
    [InlineData("-append quiet", "-append needs a kernel: give one with -kernel")]
    [InlineData("-kernel DIR/missing", "DIR/missing: no such file; check the path")]
    [InlineData("-kernel DIR", "DIR: is a directory; give a file")]
    [InlineData("-serial null -kernel DIR/text", "DIR/text: is a text file, not a kernel; give an x86-64 Linux bzImage (vmlinuz), an ELF vmlinux, an ELF image with a PVH entry, or a multiboot kernel")]
    [InlineData("-serial null -kernel DIR/cut", "DIR/cut: truncated bzImage: 6641 bytes expected, 3000 there; copy it again")]
    [InlineData("-serial null -kernel DIR/elf32", "DIR/elf32: is a 32-bit ELF file without a PVH entry (Xen note 18); give a 64-bit vmlinux, a bzImage, or a kernel built with CONFIG_PVH")]
    [InlineData("-serial null -kernel DIR/arm64", "DIR/arm64: is an ARM64 kernel; give an x86-64 Linux bzImage (vmlinuz), an ELF vmlinux, an ELF image with a PVH entry, or a multiboot kernel")]
    [InlineData("-serial null -kernel DIR/vmlinuz -initrd DIR/initrd", "DIR/initrd: the initrd has 600 MiB, the guest has room for 448 MiB next to the kernel: give it at least 665M with -m")]
    [InlineData("-kernel DIR/vmlinuz -initrd DIR/missing", "DIR/missing: no such file; check the path")]
    [InlineData("-serial null -kernel DIR/vmlinuz -append LONG", "the kernel command line has 2048 bytes, DIR/vmlinuz takes 2047 at most: shorten -append")]
    // where serial lines lead
    [InlineData("-kernel DIR/vmlinuz -serial file:DIR/no/x", "file:DIR/no/x: cannot be written: no such directory; give another path")]
    [InlineData("-serial stdio -serial stdio", "two devices on one stdio: -serial stdio and -serial stdio; give one of them file:PATH, pty, tcp: or null")]
    [InlineData("-serial stdio -debugcon stdio", "two devices on one stdio: -serial stdio and -debugcon stdio; give one of them file:PATH, pty, tcp: or null")]
    [InlineData("-serial null -serial null -serial null -serial null -serial null", "5 times -serial: a PC has 4 serial ports at most")]
    [InlineData("-serial vc", "-serial vc: unknown; give one of stdio, null, none, file:PATH, pty, tcp:HOST:PORT[,server=on][,wait=off], unix:PATH[,server=on][,wait=off], chardev:ID")]
    [InlineData("-debugcon vc", "-debugcon vc: unknown; give one of stdio, null, none, file:PATH, pty, tcp:HOST:PORT[,server=on][,wait=off], unix:PATH[,server=on][,wait=off], chardev:ID")]
    [InlineData("-kernel DIR/vmlinuz -serial null -d int -D DIR/no/x", "-D DIR/no/x: cannot be written: Could not find a part of the path 'DIR/no/x'.; give another path")]
    // the rest
    [InlineData("-kernle x", "unknown flag -kernle; the nearest is -kernel; see sharpvisor run --help")]
    [InlineData("--no-reboto", "unknown flag --no-reboto; the nearest is -no-reboot; see sharpvisor run --help")]
    [InlineData("-K", "unknown flag -K; the nearest is -m; see sharpvisor run --help")]
    [InlineData("-nographic=yes", "-nographic takes no value: leave \"=yes\" out")]
    [InlineData("-m 1G vmlinuz", "vmlinuz: no such file or directory; check the path")]
    // disks
    [InlineData("-hda DIR/missing", "DIR/missing: no such file or directory; check the path")]
    [InlineData("-hda DIR", "DIR: is a directory; check the path")]
    [InlineData("-hda DIR/empty", "DIR/empty: is empty; a disk has one sector at least: make it longer, as with truncate -s 1G DIR/empty")]
    [InlineData("-hda DIR/qcow", "DIR/qcow: is a qcow image of version 0; there are 2 and 3: convert it with qemu-img convert -O qcow2")]
    [InlineData("-drive file=DIR/disk,format=raw -drive file=DIR/disk,format=raw", "DIR/disk: another process or drive has it open for writing; end that one, give this drive another image, or readonly=on to all of them")]
    [InlineData("-cdrom DIR/missing", "DIR/missing: no such file or directory; check the path")]
    [InlineData("-hda DIR/disk -drive file=DIR/disk,index=0", "-drive file=DIR/disk,index=0: -hda DIR/disk has that place (bus ide.0, unit 0); give another index=, or bus= and unit=")]
    [InlineData("-hda a -hdb b -hdc c -hdd d -drive file=e", "-drive file=e: no place is left for it; an IDE controller has room for 4 drives, two on a bus")]
    [InlineData("-drive file=DIR/disk,fromat=raw", "-drive file=DIR/disk,fromat=raw: unknown option \"fromat\"; the nearest is format")]
    [InlineData("-drive file=DIR/disk,format=qcow2", "DIR/disk: is not a qcow2 image: its first bytes are not QFI\\xfb; leave format=qcow2 out")]
    [InlineData("-drive file=DIR/disk,format=vdi", "-drive file=DIR/disk,format=vdi: format=vdi is not in this version; there is raw, qcow2, vhd, vpc")]
    [InlineData("-drive file=DIR/disk,format=vpc", "DIR/disk: has no VHD footer with a right checksum, neither in its last sector nor in its first; copy it again, or leave format= out")]
    [InlineData("-blockdev driver=qcow2,node-name=a,file=b", "-blockdev driver=qcow2,node-name=a,file=b: there is no node \"b\" before it; give -blockdev driver=file,node-name=b,filename=FILE")]
    [InlineData("-blockdev driver=nbd,node-name=a", "-blockdev driver=nbd,node-name=a: driver=nbd is not in this version; there is file, raw, qcow2, vhd, vpc")]
    [InlineData("-blockdev driver=raw,node-name=a,file.filename=x", "-blockdev node-name=a: no device uses it; give -device ide-hd,drive=a or -device virtio-blk-pci,drive=a, or leave if=none out")]
    [InlineData("-blockdev driver=raw", "-blockdev driver=raw: node-name= is missing: a -device names the node by it")]
    [InlineData("image", "image: what shall be done? There are info, create, convert, check, map, resize; see sharpvisor image --help")]
    [InlineData("image inof x", "image inof: there is no such thing; the nearest is info of info, create, convert, check, map, resize")]
    [InlineData("image info", "image info: FILE is missing; give FILE; see sharpvisor image --help")]
    [InlineData("image info DIR/missing", "DIR/missing: no such file or directory; check the path")]
    [InlineData("image create -f qcow2 DIR/new", "DIR/new: has no size; give one, such as 10G")]
    [InlineData("image create -f qcow2 DIR/new 1Z", "image create: 1Z is not a size; give bytes, or a number with K, M, G or T: 10G; see sharpvisor image --help")]
    [InlineData("image create -f qcow2 -o cluster_size=3 DIR/new 1G", "DIR/new: cluster_size=3: give a power of two from 512 to 2M")]
    [InlineData("image create -f raw -b DIR/disk DIR/new", "DIR/new: a raw image has no backing image; give -f qcow2")]
    [InlineData("image create -f qcow2 -b DIR/missing DIR/new", "DIR/new: its backing image cannot be opened: DIR/missing: no such file or directory; check the path")]
    [InlineData("image create -f qcow2 -o subformat=fixed DIR/new 1G", "-o subformat=fixed: subformat says nothing for format qcow2; leave it out")]
    [InlineData("image check -r most DIR/qcow", "image check: -r most: give leaks or all; see sharpvisor image --help")]
    [InlineData("image resize -f raw DIR/disk 0", "image resize: DIR/disk would have 0 bytes; a disk has one sector at least; see sharpvisor image --help")]
    [InlineData("image resize -f raw DIR/disk -100", "image resize: DIR/disk would lose its last 100 bytes; give --shrink if the guest uses less; see sharpvisor image --help")]
    [InlineData("-drive file=DIR/disk,if=vritio", "-drive file=DIR/disk,if=vritio: if=vritio: there is no such value; the nearest is virtio")]
    [InlineData("-drive media=cdrom,if=virtio", "-drive media=cdrom,if=virtio: a virtio disk is no CD-ROM drive; give readonly=on, or if=ide")]
    [InlineData("-drive file=DIR/missing,if=virtio", "DIR/missing: no such file or directory; check the path")]
    [InlineData("-device virtio-blk-pci", "-device virtio-blk-pci: drive= is missing; give the id of a -drive if=none")]
    [InlineData("-device virtio-blk-pci,drive=x", "-device virtio-blk-pci,drive=x: there is no drive \"x\" that is free; give -drive if=none,id=x,file=FILE")]
    [InlineData("-device virtio-blk,drive=x,disable-modern=on,disable-legacy=on", "-device virtio-blk,drive=x,disable-modern=on,disable-legacy=on: a device that is neither modern nor legacy; leave disable-modern=on or disable-legacy=on out")]
    [InlineData("-device virtio-rng-pci,packed=on,disable-modern=on", "-device virtio-rng-pci,packed=on,disable-modern=on: packed rings are for modern drivers; leave packed=on or disable-modern=on out")]
    [InlineData("-device virtio-rng-pci,addr=20", "-device virtio-rng-pci,addr=20: addr=20: give a device number from 0 to 1f")]
    [InlineData("-device virtio-rng-pci,bus=pci.1", "-device virtio-rng-pci,bus=pci.1: bus=pci.1: there is pci.0")]
    [InlineData("-device virtio-rng-pci,adr=4", "-device virtio-rng-pci,adr=4: unknown option \"adr\"; the nearest is addr")]
    [InlineData("-device virtio-blk-pci,drive=x,queue-size=100", "-device virtio-blk-pci,drive=x,queue-size=100: queue-size=100: give a power of two from 4 to 1024")]
    [InlineData("-device virtio-blk-pci,drive=x,num-queues=0", "-device virtio-blk-pci,drive=x,num-queues=0: num-queues=0: give a number from 1 to 1024")]
    [InlineData("-device virtio-blk-pci,drive=x,logical_block_size=4096,physical_block_size=512", "-device virtio-blk-pci,drive=x,logical_block_size=4096,physical_block_size=512: logical_block_size=4096: larger than physical_block_size=512; give a smaller one")]
    [InlineData("-serial null -bios DIR/bios -device virtio-rng-pci,addr=1", "virtio-rng-pci: PCI address 01.0 is taken by piix3; give it another place by addr=")]
    [InlineData("-device virtio-rng-device,addr=4", "-device virtio-rng-device,addr=4: unknown option \"addr\"; the nearest is id")]
    [InlineData("-serial null -bios DIR/bios -drive file=DIR/disk,format=raw,if=none,id=d -device virtio-blk-device,drive=d,bootindex=1", "virtio-blk-device: firmware starts nothing from virtio-mmio; leave bootindex= out, or have it on PCI")]
    [InlineData("-serial null -bios DIR/bios MMIO9", "virtio-rng-device: no interrupt is left for one more virtio-mmio device; have at most 8, and the others on PCI")]
    [InlineData("-device virtio-balloon-pci,free-page-reporting=maybe", "-device virtio-balloon-pci,free-page-reporting=maybe: free-page-reporting=maybe: give on or off")]
    [InlineData("-serial null -bios DIR/bios -device virtio-balloon -device virtio-balloon", "two memory balloons: a machine has one; leave the others out")]
    [InlineData("-device virtio-serial-pci,max_ports=512", "-device virtio-serial-pci,max_ports=512: max_ports=512: give a number from 1 to 511")]
    [InlineData("-device virtconsole", "-device virtconsole: there is no virtio-serial that it could be on; give -device virtio-serial-pci")]
    [InlineData("-device virtio-serial -device virtconsole,bus=vs.0", "-device virtconsole,bus=vs.0: there is no virtio-serial vs; give -device virtio-serial-pci,id=vs, or leave bus= out")]
    [InlineData("-device virtio-serial -device virtserialport,name=x", "-device virtserialport,name=x: chardev= is missing; give the id of a -chardev")]
    [InlineData("-device virtio-serial -device virtserialport,chardev=c,nr=0", "-device virtserialport,chardev=c,nr=0: nr=0: give a number from 1 to 510")]
    [InlineData("-device virtio-serial -device virtconsole,chardev=c", "-device virtconsole,chardev=c: there is no chardev \"c\"; give -chardev stdio,id=c, or one of null, stdio, file, pty, socket")]
    [InlineData("-chardev null,id=c -device virtio-serial -device virtconsole,chardev=c -serial chardev:c", "-device virtconsole,chardev=c: chardev c has another device already; give each its own")]
    [InlineData("-serial null -bios DIR/bios -device virtio-serial -device virtconsole,nr=2 -device virtconsole,nr=2", "virtio-serial-pci: two ports have number 2; give one another nr=")]
    [InlineData("-serial null -bios DIR/bios -device virtio-serial,max_ports=1 -device virtconsole -device virtconsole", "virtio-serial-pci: no number is left for one more port; give it more by max_ports=")]
    [InlineData("-serial null -bios DIR/bios -device virtio-serial,max_ports=2 -device virtconsole,nr=2", "virtio-serial-pci: a port number 2; give 0 to 1")]
    [InlineData("-serial null -bios DIR/bios -device virtio-serial -device virtconsole,name=x -device virtconsole,name=x", "virtio-serial-pci: two ports have the name x; give each its own")]
    [InlineData("-chardev null,id=c", "-chardev null,id=c: no device uses it; give -serial chardev:c or -device virtconsole,chardev=c, or leave it out")]
    [InlineData("-chardev null", "-chardev null: id= is missing; give one by which a -device names it")]
    [InlineData("-chardev null,id=c -chardev pty,id=c", "-chardev pty,id=c: id=c is there twice; give each its own")]
    [InlineData("-chardev vc,id=c", "-chardev vc,id=c: \"vc\" is not in this version; there are null, stdio, file, pty, socket")]
    [InlineData("-chardev file,id=c", "-chardev file,id=c: path= is missing")]
    [InlineData("-chardev file,id=c,path=x,append=on", "-chardev file,id=c,path=x,append=on: append=on is not in this version; leave it out and give a new file")]
    [InlineData("-chardev socket,id=c", "-chardev socket,id=c: port= is missing")]
    [InlineData("-chardev socket,id=c,path=/x,port=1", "-chardev socket,id=c,path=/x,port=1: path= and host= or port=: give one of them")]
    [InlineData("-chardev socket,id=c,port=1,wait=off", "-chardev socket,id=c,port=1,wait=off: wait= is for servers; add server=on or leave it out")]
    [InlineData("-chardev socket,id=c,port=0", "-chardev socket,id=c,port=0: port=0: give a number from 1 to 65535")]
    [InlineData("-chardev stdio,id=c,signal=on", "-chardev stdio,id=c,signal=on: signal=on is not in this version: Ctrl-C goes to the guest, Ctrl-A x ends the machine; leave it out")]
    [InlineData("-serial stdio -chardev stdio,id=c -device virtio-serial -device virtconsole,chardev=c", "two devices on one stdio: -serial stdio and -device virtconsole,chardev=c; give one of them file:PATH, pty, tcp: or null")]
    [InlineData("-device virtio-gpu-pci", "-device virtio-gpu-pci: not in this version; the nearest is virtio-blk-pci of ide-hd, ide-cd, virtio-blk-pci, virtio-rng-pci, virtio-balloon-pci, virtio-serial-pci, virtio-net-pci, e1000, virtconsole, virtserialport, isa-debug-exit, pc-testdev, pci-testdev, pvpanic, pvpanic-pci")]
    [InlineData("-drive file=DIR/disk,cache=writebak", "-drive file=DIR/disk,cache=writebak: cache=writebak: there is no such value; the nearest is writeback")]
    [InlineData("-drive file=DIR/disk,media=cd", "-drive file=DIR/disk,media=cd: media=cd: there is no such value; the nearest is cdrom")]
    [InlineData("-drive file=DIR/disk,werror=halt", "-drive file=DIR/disk,werror=halt: werror=halt: there is no such value; the nearest is stop")]
    [InlineData("-drive file=DIR/disk,index=4", "-drive file=DIR/disk,index=4: index=4: give a number from 0 to 3")]
    [InlineData("-drive file=DIR/disk,index=1,unit=1", "-drive file=DIR/disk,index=1,unit=1: index= and bus= or unit= say the same; give one of them")]
    [InlineData("-drive file=DIR/disk,readonly=maybe", "-drive file=DIR/disk,readonly=maybe: readonly=maybe: give on or off")]
    [InlineData("-drive file=DIR/disk,snapshot=on,readonly=on", "-drive file=DIR/disk,snapshot=on,readonly=on: snapshot=on and readonly=on: a disk that is only read needs no temporary one; leave one of them out")]
    [InlineData("-drive file=a,file=b", "-drive file=a,file=b: file is there twice; give it once")]
    [InlineData("-drive format=raw", "-drive format=raw: file= is missing; only media=cdrom can be empty")]
    [InlineData("-drive file=DIR/disk,if=none", "-drive file=DIR/disk,if=none: if=none needs an id= by which a -device names it")]
    [InlineData("-drive file=DIR/disk,if=none,id=d0", "-drive file=DIR/disk,if=none,id=d0: no device uses it; give -device ide-hd,drive=d0 or -device virtio-blk-pci,drive=d0, or leave if=none out")]
    [InlineData("-drive file=DIR/disk,serial=123456789012345678901", "-drive file=DIR/disk,serial=123456789012345678901: serial=123456789012345678901: give at most 20 plain characters")]
    [InlineData("-device ide-hd,drive=d1 -drive file=DIR/disk,if=none,id=d0", "-device ide-hd,drive=d1: there is no drive \"d1\" that is free; the nearest is d0")]
    [InlineData("-device ide-hd,drive=d1", "-device ide-hd,drive=d1: there is no drive \"d1\" that is free; give -drive if=none,id=d1,file=FILE")]
    [InlineData("-device ide-hd", "-device ide-hd: drive= is missing; give the id of a -drive if=none")]
    [InlineData("-device ide-cd,bus=ide.2", "-device ide-cd,bus=ide.2: bus=ide.2: there is no such value; the nearest is ide.0")]
    [InlineData("-device ide-cd,bootindx=1", "-device ide-cd,bootindx=1: unknown option \"bootindx\"; the nearest is bootindex")]
    [InlineData("-device ide-cd,bootindex=1 -device ide-cd,bootindex=1 -serial null -bios DIR/bios", "two devices have bootindex=1: give each its own")]
    [InlineData("-accel kvm", "-accel kvm: not in this version; give translator, interpreter or lockstep")]
    [InlineData("-machine q35", "-machine q35: \"q35\" is not in this version; give pc, xenfv, xenpvh or xenpv")]
    [InlineData("-display gtk", "-display gtk: not in this version; give curses or none, and -vnc :0 for a VNC viewer")]
    [InlineData("-display curses", "-display curses: standard input and output must be a terminal; run it in one, or give -display none")]
    [InlineData("-display curses -serial stdio", "two devices on one stdio: -serial stdio and -display curses; give one of them file:PATH, pty, tcp: or null")]
    [InlineData("-display curses -vga none", "-display curses and -vga none: there is no screen to show; leave one of them out")]
    [InlineData("-vga qxl", "-vga qxl: not in this version; give std or none")]
    [InlineData("-vga vga", "-vga vga: unknown; give std or none")]
    [InlineData("-device rtl8139", "-device rtl8139: not in this version; the nearest is ide-hd of ide-hd, ide-cd, virtio-blk-pci, virtio-rng-pci, virtio-balloon-pci, virtio-serial-pci, virtio-net-pci, e1000, virtconsole, virtserialport, isa-debug-exit, pc-testdev, pci-testdev, pvpanic, pvpanic-pci")]
    [InlineData("-device isa-debug-exit,iobase=zz", "-device isa-debug-exit,iobase=zz: \"zz\" is not a number from 1 to 0xffff")]
    [InlineData("-device isa-debug-exit,port=1", "-device isa-debug-exit,port=1: unknown option \"port=1\"; isa-debug-exit has iobase= and iosize=")]
    [InlineData("-serial null -kernel DIR/vmlinuz -device isa-debug-exit,iobase=0xfffe,iosize=4", "isa-debug-exit: io range 0xfffe+0x4 does not fit in 0x10000; give another iobase")]
    [InlineData("-global VGA.x=1", "-global VGA.x=1: not in this version; there are isa-debugcon.iobase=PORT, PIIX4_PM.disable_s3=1 and PIIX4_PM.disable_s4=1")]
    [InlineData("-d int,foo", "-d int,foo: unknown item \"foo\"; there are int, exec, in_asm, cpu_reset, jit, guest_errors, unimp, trace:EVENT")]
    [InlineData("doctor --yaml", "unknown flag --yaml; doctor has --json")]
    [InlineData("rum", "unknown command \"rum\"; the nearest is run; see sharpvisor --help")]
    public async Task Is_one_line_and_exit_code_2(string commandLine, string message)
    {
        commandLine = commandLine.Replace("MMIO9", string.Join(' ', Enumerable.Repeat("-device virtio-rng-device", 9)), StringComparison.Ordinal);
        string[] args = [.. commandLine.Split(' ').Select(a => a.Replace("DIR", _directory, StringComparison.Ordinal).Replace("LONG", new string('x', 2048), StringComparison.Ordinal))];
        foreach (var variant in args[0].StartsWith('-') ? new string[][] { args, ["run", .. args] } : [args])
        {
            using StringWriter output = new(), errors = new();
            var code = await CommandLineTool.RunAsync(variant, output, errors);
            Assert.Equal($"sharpvisor: {message.Replace("DIR", _directory, StringComparison.Ordinal)}{Environment.NewLine}", errors.ToString());
            Assert.Equal(2, code);
            Assert.Equal("", output.ToString());
        }
    }

    [Fact]
    public async Task A_file_without_permission_is_named()
    {
        var path = Path.Combine(_directory, "secret");
        await File.WriteAllTextAsync(path, "x");
        if (OperatingSystem.IsWindows() || Environment.IsPrivilegedProcess)
            return; // root reads everything
        File.SetUnixFileMode(path, UnixFileMode.None);
        using StringWriter output = new(), errors = new();
        Assert.Equal(2, await CommandLineTool.RunAsync(["-kernel", path], output, errors));
        Assert.Equal($"sharpvisor: {path}: may not be read by this user; check its permissions (chmod +r, or copy it){Environment.NewLine}", errors.ToString());
    }

    [Fact]
    public async Task The_demo_without_a_cache_says_which_flags_to_give()
    {
        var before = Environment.GetEnvironmentVariable("SHARPVISOR_HOME");
        Environment.SetEnvironmentVariable("SHARPVISOR_HOME", _directory);
        try
        {
            using StringWriter output = new(), errors = new();
            Assert.Equal(2, await CommandLineTool.RunAsync(["demo"], output, errors));
            Assert.Equal(
                $"sharpvisor: the demo's kernel is not in the guest cache ({_directory}/.cache/guests/cloud/vmlinuz): run ./sharpvisor demo on Debian to fetch it, or give your own with -kernel VMLINUZ -initrd INITRD{Environment.NewLine}",
                errors.ToString());
        }
        finally
        {
            Environment.SetEnvironmentVariable("SHARPVISOR_HOME", before);
        }
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);
}
