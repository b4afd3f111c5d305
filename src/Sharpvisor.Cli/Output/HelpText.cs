namespace Sharpvisor.Cli.Output;

/// <summary>What --help prints: each text fits a terminal of 80 by 24.</summary>
internal static class HelpText
{
    public const string Overview = """
        sharpvisor: a PC that boots unmodified x86-64 guests inside a .NET process

        sharpvisor run FLAGS     start a machine; the flags are QEMU's
        sharpvisor demo          boot Debian's kernel to a shell
        sharpvisor doctor        check what this host offers
        sharpvisor --version

        Without a command, run is meant. sharpvisor COMMAND --help tells more.

        sharpvisor run -m 512 -kernel vmlinuz -initrd initrd.img \
            -append console=ttyS0 -nographic
        """;

    public const string Run = """
        sharpvisor run FLAGS     (one dash or two)
          -kernel FILE  -initrd FILE  -append TEXT
                                 bzImage, ELF vmlinux, or ELF with a PVH entry
          -bios FILE             firmware; SeaBIOS when there is no kernel
          -boot [order=]cdn[,once=d][,menu=on][,strict=on]
                [,splash-time=MS][,reboot-timeout=MS]
          -m SIZE  -smp N        memory: 512 (MiB), 2G; processors, 1 to 64
          -cpu MODEL[,+F][,-F]   processor model with features added or removed
          -accel NAME            translator, interpreter, or both in lockstep
          -serial, -debugcon WHERE   stdio, file:PATH, pty, null, none,
                                 tcp:HOST:PORT[,server=on][,wait=off]
          -device isa-debug-exit[,iobase=0x501][,iosize=2], pc-testdev
          -machine pc[,max-ram-below-4g=SIZE]  -global isa-debugcon.iobase=0xe9
          -vga std|none          a screen; std without a kernel or with curses
          -display none|curses   curses: text modes on this terminal
          -vnc none  -nographic  -nodefaults  -name NAME  -uuid ID
          -no-reboot  -no-shutdown   end instead of resetting; stay after power-off
          -action reboot=reset|shutdown,shutdown=poweroff|pause
          -d ITEMS  -D FILE      log int,exec,in_asm,cpu_reset,jit,guest_errors,unimp
          -perfmap               names of generated code for Linux's perf
        Ctrl-A x on a terminal ends the machine; SIGUSR1 shows what the engine did.
        Exit code: 0 the guest powered off, or reset under -no-reboot; 2 a wrong
        flag or file; 3 triple fault under -no-reboot; (v << 1) | 1 by
        isa-debug-exit; 70 an error of sharpvisor; 128 + N signal N
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
