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
          -kernel FILE           bzImage, ELF vmlinux, or ELF with a PVH entry
          -initrd FILE           initial RAM disk
          -append TEXT           kernel command line, such as console=ttyS0
          -m SIZE                memory: 512 (MiB), 2G; 512 by default
          -smp N                 processors, 1 to 64
          -cpu MODEL[,+F][,-F]   processor model with features added or removed
          -accel NAME            translator, interpreter, or both in lockstep
          -serial WHERE          stdio, file:PATH, pty, null, none,
                                 tcp:HOST:PORT[,server=on][,wait=off]; up to 4
          -debugcon WHERE        what the guest writes to port 0xe9
          -device isa-debug-exit[,iobase=0x501][,iosize=2]
          -machine pc  -display none  -nographic  -nodefaults  -name NAME
          -no-reboot             end instead of resetting
          -perfmap               names of generated code for Linux's perf
          -d ITEMS  -D FILE      log int,exec,in_asm,cpu_reset,jit,guest_errors,unimp
        On a terminal: Ctrl-A x ends the machine, Ctrl-A h shows the other keys.
        SIGUSR1 shows what the engine has done so far, as -d jit does at the end.
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
