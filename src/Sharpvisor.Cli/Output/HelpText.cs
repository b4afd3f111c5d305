namespace Sharpvisor.Cli.Output;

/// <summary>What --help prints: 80 columns wide; all but that of run fit 24 lines.</summary>
internal static class HelpText
{
    public const string Overview = """
        sharpvisor: a PC that boots unmodified x86-64 guests inside a .NET process

        sharpvisor run FLAGS     start a machine; the flags are QEMU's
        sharpvisor demo          boot Debian's kernel to a shell
        sharpvisor image VERB    make, copy, check and describe disk images
        sharpvisor list          the machines that run
        sharpvisor monitor NAME COMMAND   what a machine's monitor says
        sharpvisor ctx NAME|CORE          what its processors are doing
        sharpvisor profile NAME           where its time goes
        sharpvisor xenstore VERB [NAME] PATH   the store of a Xen domain
        sharpvisor doctor        check what this host offers
        sharpvisor --version

        Without a command, run is meant. sharpvisor COMMAND --help tells more.

        sharpvisor run -m 512 -kernel vmlinuz -initrd initrd.img \
            -append console=ttyS0 -nographic
        """;

    public const string Run = """
        sharpvisor run FLAGS     (one dash or two; a bare FILE is -hda FILE)

        What it boots
          -kernel FILE  -initrd FILE  -append TEXT
                                 bzImage, ELF vmlinux, ELF with a PVH entry, or
                                 multiboot, with -initrd "FILE args,FILE args"
          -bios FILE             firmware, which starts the kernel, too; SeaBIOS when
                                 there is no kernel, or an old one
          -machine kernel-boot=firmware|direct   kernel by SeaBIOS, or without
          -boot [order=]cdn[,once=d][,menu=on][,strict=on]
                [,splash-time=MS][,reboot-timeout=MS]

        The machine
          -m SIZE  -smp N        memory: 512 (MiB), 2G; processors, 1 to 64
          -cpu MODEL[,+F][,-F]   processor model with features added or removed
          -accel NAME            translator, interpreter, or both in lockstep; -no-kvm
                                 changes nothing
          -machine pc[,max-ram-below-4g=SIZE][,vmport=off]
          -name NAME  -uuid ID  -nodefaults
          -machine xenfv|xenpvh|xenpv   a domain as Xen has them: HVM, PVH, or PV
                [,xen-callback=vcpu-vector|vector|line]   how it is told of events
          -xen-domid N           its number; -device xen-console,chardev=ID: its hvc0
          --xl FILE              a domain by a file of xl's, xl.cfg(5); flags behind it
                                 have the last word
          -global PIIX4_PM.disable_s3=1   no suspend to RAM; disable_s4=1: to disk
          -device isa-debug-exit[,iobase=0x501][,iosize=2] | pc-testdev |
                  pci-testdev

        Disks and CDs
          -hda FILE  -hdb FILE  -hdc FILE  -hdd FILE  -cdrom FILE
          -drive file=FILE[,format=raw|qcow2|vhd][,if=ide|virtio|xen|none]
                 [,index=N][,id=ID][,media=cdrom][,readonly=on][,snapshot=on]
                 [,cache=MODE][,discard=on][,detect-zeroes=on][,werror=stop][,serial=S]
          -blockdev driver=qcow2,node-name=N,file.filename=FILE[,read-only=on]
          -snapshot              disks stay as they are; what is written is lost
          -device ide-hd|ide-cd,drive=ID[,bus=ide.0][,unit=N][,bootindex=N]
          -device virtio-blk-pci,drive=ID[,num-queues=N][,serial=S][,bootindex=N]
                  [,disable-modern=on|disable-legacy=on][,packed=on][,addr=N]
          -device virtio-rng-pci random numbers of the host
          -device virtio-balloon-pci[,free-page-reporting=on][,deflate-on-oom=on]
          virtio-NAME-device instead of -pci: in memory, found by ACPI

        Network
          -nic user[,model=virtio-net-pci|e1000|xen][,mac=M][,hostfwd=RULE][,...]
          -nic none              no network; without a flag it is -nic user
          -netdev user,id=ID[,net=10.0.2.0/24][,host=A][,dns=A][,dhcpstart=A]
                 [,restrict=on][,hostfwd=tcp:[ADDR]:PORT-[ADDR]:PORT]
                 [,guestfwd=tcp:ADDR:PORT-tcp:HOST:PORT][,hostname=N]
                 [,tftp=FOLDER][,bootfile=FILE|URL][,http=FOLDER]
          -netdev stream,id=ID[,server=on],addr.type=inet,addr.host=H,addr.port=P
          -netdev stream,id=ID[,server=on],addr.type=unix,addr.path=F[,reconnect=S]
          -netdev dgram,id=ID,local.type=unix,local.path=F,remote.type=unix,
                  remote.path=F | ...inet,local.host=H,local.port=P,remote...
          -netdev socket,id=ID,listen=[H]:P | connect=H:P | mcast=GROUP:P |
                  udp=H:P,localaddr=[H]:P      to other machines, QEMU's, too
          -netdev tap,id=ID[,ifname=I][,script=F][,downscript=F][,vnet_hdr=off] |
                  fd=N                         to the host's network
          -netdev hubport,id=ID,hubid=N[,netdev=ID]   several on one hub
          -device virtio-net-pci|e1000,netdev=ID[,mac=M][,bootindex=N][,romfile=F]
          -net nic[,model=M] -net user[,...]     the old spelling: all on hub 0
          -bootp FILE|URL        what boot ROMs are told to load; -boot n starts them
          -object filter-dump,netdev=ID,file=PATH   a recording for Wireshark

        Screen and lines
          -vga std|none          a screen; std without a kernel, or when it is shown
          -display none|curses   curses: text modes on this terminal
          -vnc [HOST]:N[,password-secret=ID][,websocket=on][,to=N] | unix:PATH
          -object secret,id=ID,file=PATH
          -serial, -debugcon WHERE   stdio, file:PATH, pty, null, none,
                                 tcp:HOST:PORT[,server=on][,wait=off]
          -serial chardev:ID     what a -chardev says
          -chardev stdio|pty|null|file,path=F|socket,host=H,port=P[,server=on],id=ID
          -device virtio-serial-pci[,id=B][,max_ports=N]
          -device virtconsole,chardev=ID[,bus=B.0] | virtserialport,chardev=ID,name=N
          -global isa-debugcon.iobase=0xe9  -nographic

        Debugging
          -s                     gdb attaches by: target remote :1234
          -gdb tcp:[HOST]:PORT | unix:PATH | pty | stdio | none
          -monitor WHERE         commands by hand: stdio, pty, none,
                                 unix:PATH|tcp:[HOST]:PORT,server=on[,wait=off];
                                 left out: Ctrl-A c on the serial port's terminal
          -qmp WHERE             commands and events as JSON, as -monitor; -qmp-pretty
          -mon chardev=ID[,mode=control][,pretty=on]
          -device pvpanic | pvpanic-pci   a crash of the guest's kernel is told

        How it ends
          -no-reboot  -no-shutdown   end instead of resetting; stay after power-off
          -action reboot=reset|shutdown,shutdown=poweroff|pause,
                  panic=shutdown|pause|exit-failure|none
          -on-poweroff, -on-reboot  destroy|restart|preserve
          -on-crash [coredump-]destroy|restart|preserve[,core=FILE]   pvpanic, or a
                                 triple fault
          Ctrl-A x on a terminal ends the machine; Ctrl-A h shows more.
          Exit code: 0 the guest powered off, or reset under -no-reboot; 2 a wrong
          flag or file; 3 triple fault under -no-reboot; 1 crash by exit-failure or
          -on-crash destroy; (v << 1) | 1 by
          isa-debug-exit; 70 an error of sharpvisor; 128 + N signal N

        What it does
          -d ITEMS  -D FILE      log int,exec,in_asm,cpu_reset,jit,guest_errors,unimp
          -trace EVENT[:FIRST-LAST|:DEVICE][,file=F]   log interrupt, exception,
                                 syscall, port, mmio, virtio, or all
          -perfmap               names of generated code for Linux's perf
          SIGUSR1                prints what the engine did
          -S                     starts paused: before the first instruction
          SIGCONT                goes on after a pause (-S; the host's disk was full)
        """;

    public const string Context = """
        sharpvisor ctx NAME|PID|FILE [FLAGS]
          What each processor of a machine, or of a core file that its monitor's
          dump-guest-memory wrote, is doing: registers, code, stack, and the call
          trace of its Linux kernel. Symbols are found in the guest's memory.
          -k FILE       symbols of a System.map, vmlinux or bzImage instead
          --cpu N       one processor only
          --stack N     lines of stack (8); --frames N: of the call trace (64)
        """;

    public const string Profile = """
        sharpvisor profile [-F HZ] [-t SECONDS] [-o FILE] NAME|PID
        sharpvisor profile [-F HZ] [-o FILE] -- FLAGS of run
          Where the guest's processors are, by task and call trace of its Linux
          kernel: "task;outer;inner COUNT" lines, as flamegraph.pl takes them.
          [user] is code of processes, [idle] HLT, [unknown] what has no symbols.
          -F HZ       samples of each processor a second (99)
          -t SECONDS  how long (10); Ctrl-C ends it early
          -o FILE     instead of standard output; behind --: profile.folded
        """;

    public const string XenStore = """
        sharpvisor xenstore VERB [FLAGS] [NAME] PATH...
          The store of a machine of -machine xenfv, xenpvh or xenpv, by its name or process
          id, which may be left out when one machine runs. A path that begins with no
          slash, behind a name, begins at the domain's own: /local/domain/N.
          ls [-f] [-p] [PATH]     all below: whole paths (-f), rights (-p)
          list [-p] PATH          names of what is below
          read [-p] [-R] PATH     a value: with its path (-p), unescaped (-R)
          write [-R] PATH VALUE   with \n, \t, \xHH and \OOO, unless raw (-R)
          rm [-t] PATH            with empty nodes above (-t)
          chmod [-u] [-r] PATH RIGHT...   n, r, w or b and a domain: n0 r5
          watch [-n COUNT] PATH   prints paths as they change, until Ctrl-C
        Exit code: 0; 1 there is no such node, or no xenstore; 2 a wrong flag.
        """;

    public const string Image = """
        sharpvisor image VERB    raw, qcow2, vhd (vpc); the arguments are qemu-img's
          info [-f FMT] [-U] [--backing-chain] FILE
          create [-f FMT] [-b FILE [-F FMT]] [-o OPTIONS] FILE [SIZE]
          convert [-f FMT] [-O FMT] [-l SNAPSHOT] [-c] [-o OPTIONS] [-p] SRC DST
                                 holes stay holes; -c compresses (qcow2)
          check [-f FMT] [-r leaks|all] FILE
                                 exit code 0 clean, 2 damaged, 3 leaks only
          map [-f FMT] FILE
          resize [-f FMT] [--shrink] FILE [+|-]SIZE

          -f FMT    by its content if left out (new ones: raw)
          -U        even when a machine has it open
          -q        no progress and no results; -p: progress in a pipe, too
          --json    for info, check and map; or --output=json
          OPTIONS   size, backing_file, backing_fmt, preallocation=off|metadata|
                    falloc|full; qcow2: cluster_size, compat=0.10|1.1,
                    lazy_refcounts, refcount_bits, compression_type=zlib|
                    zstd; vhd: subformat=dynamic|fixed, batmap=on (tdbatmap)
          SIZE      bytes, or with K, M, G, T
        """;

    public const string Control = """
        sharpvisor list
          Process id, state and name of each machine that this user runs.
        sharpvisor monitor NAME COMMAND
          Gives a command to the monitor of a machine, by its name or process id:
          sharpvisor monitor vm1 info registers
          sharpvisor monitor 4711 change ide1-cd0 second.iso
        Each machine has a QMP socket NAME-PID.qmp in $XDG_RUNTIME_DIR/sharpvisor,
        or in /tmp/sharpvisor-USER; nobody else can reach it.
        """;

    public const string Demo = """
        sharpvisor demo [FLAGS]
          Boots Debian's cloud kernel with a busybox shell on this terminal.
          The kernel and the RAM disk come from the guest cache, which
          ./sharpvisor demo fills from Debian packages the first time.
          FLAGS are those of run: -smp 4, -m 1G, -kernel FILE -initrd FILE.
        In the guest, poweroff ends the machine; on the keyboard, Ctrl-A x.
        """;

    public const string Doctor = """
        sharpvisor doctor [--json]
          Checks processor, memory, terminal, the tools that fetch guests, and
          the guest cache. Exit code 0: a machine can run; 1: it can't.
          --json                 for machines: name, status, detail, advice
        """;
}
