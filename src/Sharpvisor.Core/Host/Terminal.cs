// A terminal in raw mode by termios(3), as a serial console needs it: every key goes to the guest, nothing is echoed.
// Output processing stays on, so that messages of the host end their lines properly.
using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Sharpvisor.Core.Host;

/// <summary>
/// Raw mode of the terminal on standard input, from construction until <see cref="Restore"/>. It is also restored when
/// the process exits, takes an unhandled exception, or dies without running any more code: for that a small shell
/// waits at the end of a pipe.
/// </summary>
public sealed partial class Terminal : IDisposable
{
    // struct termios has 60 bytes on Linux (glibc and musl, x86-64 and arm64): four flag words, c_line, c_cc[32], speeds.
    private const int TermiosSize = 128;
    private const int InputFlags = 0, ControlFlags = 8, LocalFlags = 12, ControlCharacters = 17;
    private const int VTime = 5, VMin = 6;
    private const uint IgnBrk = 1, BrkInt = 2, ParMrk = 8, IStrip = 0x20, INlCr = 0x40, IgnCr = 0x80, ICrNl = 0x100, IXOn = 0x400;
    private const uint ISig = 1, ICanon = 2, Echo = 8, EchoNl = 0x40, IExten = 0x8000;
    private const uint CSize = 0x30, Cs8 = 0x30, ParEnb = 0x100;
    private const int StandardInput = 0;
    private const int Now = 0; // TCSANOW

    private readonly byte[] _saved;
    private readonly Process? _guard;
    private readonly PosixSignalRegistration? _continued;
    private int _restored;

    private Terminal(byte[] saved)
    {
        _saved = saved;
        _guard = StartGuard();
        AppDomain.CurrentDomain.ProcessExit += OnProcessEnds;
        AppDomain.CurrentDomain.UnhandledException += OnProcessEnds;
        // A shell gives a process that was stopped the terminal back in the shell's own mode.
        if (!OperatingSystem.IsWindows())
            _continued = PosixSignalRegistration.Create(PosixSignal.SIGCONT, _ => SetRaw());
        SetRaw();
    }

    /// <summary>True when the descriptor is a terminal.</summary>
    public static bool IsTerminal(int descriptor) => OperatingSystem.IsLinux() && IsATty(descriptor) == 1;

    /// <summary>Puts the terminal on standard input in raw mode; null when there is none.</summary>
    public static Terminal? TryMakeRaw()
    {
        if (!IsTerminal(StandardInput))
            return null;
        var saved = new byte[TermiosSize];
        return TcGetAttr(StandardInput, saved) == 0 ? new Terminal(saved) : null;
    }

    /// <summary>Columns and rows of the terminal; 80 by 25 when it does not say.</summary>
    public (int Columns, int Rows) Size
    {
        get
        {
            const nuint getWindowSize = 0x5413; // TIOCGWINSZ: struct winsize has rows, columns, and two more
            Span<ushort> size = stackalloc ushort[4];
            return Ioctl(StandardInput, getWindowSize, size) == 0 && size[0] > 0 && size[1] > 0 ? (size[1], size[0]) : (80, 25);
        }
    }

    /// <summary>Brings back the mode from before. Any thread, any number of times.</summary>
    public void Restore()
    {
        if (Interlocked.Exchange(ref _restored, 1) != 0)
            return;
        _ = TcSetAttr(StandardInput, Now, _saved);
        try
        {
            // A line tells the guard that all is well; a pipe that just ends does not.
            _guard?.StandardInput.WriteLine();
            _guard?.StandardInput.Close();
        }
        catch (IOException)
        {
            // Someone ended the guard; the terminal is restored already.
        }
    }

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnProcessEnds;
        AppDomain.CurrentDomain.UnhandledException -= OnProcessEnds;
        _continued?.Dispose();
        Restore();
        _guard?.Dispose();
    }

    private static Process? StartGuard()
    {
        const string script = "trap '' INT TERM HUP TTOU; s=$(stty -g <&3) || exit 0; echo; read -r x || stty \"$s\" <&3";
        try
        {
            var guard = Process.Start(new ProcessStartInfo("/bin/sh")
            {
                ArgumentList = { "-c", "exec 3</dev/tty || exit 0; " + script },
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            });
            guard?.StandardOutput.ReadLine(); // it has read the mode
            return guard;
        }
        catch (Exception e) when (e is System.ComponentModel.Win32Exception or IOException)
        {
            return null; // no shell: only a crash of the process itself leaves the terminal raw
        }
    }

    private void OnProcessEnds(object? sender, EventArgs e) => Restore();

    private void SetRaw()
    {
        if (Volatile.Read(ref _restored) != 0)
            return;
        var raw = (byte[])_saved.Clone();
        Change(raw, InputFlags, clear: IgnBrk | BrkInt | ParMrk | IStrip | INlCr | IgnCr | ICrNl | IXOn, set: 0);
        Change(raw, ControlFlags, clear: CSize | ParEnb, set: Cs8);
        Change(raw, LocalFlags, clear: ISig | ICanon | Echo | EchoNl | IExten, set: 0);
        raw[ControlCharacters + VMin] = 1;
        raw[ControlCharacters + VTime] = 0;
        _ = TcSetAttr(StandardInput, Now, raw);
    }

    private static void Change(byte[] termios, int offset, uint clear, uint set)
    {
        var flags = BitConverter.ToUInt32(termios, offset);
        BitConverter.TryWriteBytes(termios.AsSpan(offset), (flags & ~clear) | set);
    }

    [LibraryImport("libc", EntryPoint = "isatty")]
    private static partial int IsATty(int descriptor);

    [LibraryImport("libc", EntryPoint = "ioctl")]
    private static partial int Ioctl(int descriptor, nuint request, Span<ushort> argument);

    [LibraryImport("libc", EntryPoint = "tcgetattr")]
    private static partial int TcGetAttr(int descriptor, [In, Out] byte[] termios);

    [LibraryImport("libc", EntryPoint = "tcsetattr")]
    private static partial int TcSetAttr(int descriptor, int when, byte[] termios);
}
