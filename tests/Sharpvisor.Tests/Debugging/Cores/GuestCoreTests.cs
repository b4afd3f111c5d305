using System.Buffers.Binary;
using System.Diagnostics;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;

namespace Sharpvisor.Tests.Debugging.Cores;

public sealed class GuestCoreTests : IDisposable
{
    private const ulong Linear = 0xFFFF_FFFF_8123_4000;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-core-").FullName;

    private string Core => Path.Combine(_directory, "core");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_is_written_is_read(bool paging)
    {
        var guest = Guest();
        List<ulong> progress = [];
        GuestCore.Write(guest, [new GuestRange(0, 0xA0000), new GuestRange(0x100000, 7 << 20)], Core, paging, new Recorder(progress));
        Assert.Equal((7UL << 20) + 0xA0000, progress[^1]);
        if (OperatingSystem.IsLinux())
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Core));
        using var core = GuestCore.Open(Core);
        Assert.Equal(2, core.ProcessorCount);
        Assert.Equal([new GuestRange(0, 0xA0000), new GuestRange(0x100000, 7 << 20)], core.Ranges);
        for (var i = 0; i < 2; i++)
            Assert.True(Bytes(guest.States[i]).SequenceEqual(Bytes(core.GetState(i))));
        Span<byte> expected = stackalloc byte[5000], read = stackalloc byte[5000];
        guest.ReadPhysical(0x1FF800, expected);
        Assert.Equal(5000, core.ReadPhysical(0x1FF800, read));
        Assert.True(expected.SequenceEqual(read));
        Assert.Equal(16, core.ReadPhysical(0xA0000 - 16, read)); // a hole
        Assert.Equal(0, core.ReadPhysical(ulong.MaxValue - 3, read));
        Assert.Equal(8, core.ReadLinear(1, Linear + 0x10, read[..8]));
        Assert.Equal(0x1122334455667788UL, BinaryPrimitives.ReadUInt64LittleEndian(read));
        Assert.Equal(0, core.ReadLinear(1, Linear + 0x10000, read[..8]));
    }

    [Fact]
    public void Zeroes_take_no_room()
    {
        GuestCore.Write(Guest(), [new GuestRange(0, 8 << 20), new GuestRange(1UL << 32, 1UL << 30)], Core);
        Assert.InRange(new FileInfo(Core).Length, 1L << 30, long.MaxValue);
        var start = new ProcessStartInfo("du", ["-k", Core]) { RedirectStandardOutput = true };
        using var du = Process.Start(start)!;
        Assert.InRange(int.Parse(du.StandardOutput.ReadToEnd().Split('\t')[0]), 1, 1024);
    }

    /// <summary>Without our own notes and map a file is as QEMU writes it.</summary>
    [Fact]
    public void A_core_of_QEMU_is_read()
    {
        var guest = Guest();
        GuestCore.Write(guest, guest.Ranges, Core);
        var bytes = File.ReadAllBytes(Core);
        for (int at; (at = bytes.AsSpan().IndexOf("SHARPVISOR"u8)) >= 0;)
            bytes[at] = (byte)'X';
        File.WriteAllBytes(Core, bytes);
        using var core = GuestCore.Open(Core);
        Assert.Equal(guest.Ranges, core.Ranges);
        var (expected, state) = (guest.States[1], core.GetState(1));
        Assert.Equal((expected.Rip, expected.Gpr[4], expected.Gpr[11], expected.Cr3, expected.Efer), (state.Rip, state.Gpr[4], state.Gpr[11], state.Cr3, state.Efer));
        Assert.Equal((expected.Segments[1], expected.Segments[5].Base, expected.KernelGsBase), (state.Segments[1], state.Segments[5].Base, state.KernelGsBase));
        Assert.Equal(expected.Ymm[3].Q1, state.Ymm[3].Q1);
        Span<byte> read = stackalloc byte[8];
        Assert.Equal(8, core.ReadLinear(1, Linear + 0x10, read));
    }

    [Fact]
    public void Many_pieces_are_counted_in_a_section()
    {
        var guest = new MadeUpGuest(512 << 20);
        // Each second page of 512 MiB, so that none are neighbours.
        for (var i = 0; i < 70_000; i++)
            guest.Map(0x1000_0000 + ((ulong)i * 4096), 0x200_0000 + ((ulong)(i % 50_000) * 8192), 1);
        GuestCore.Write(guest, guest.Ranges, Core, paging: true);
        using var file = File.OpenRead(Core);
        var header = new byte[128];
        file.ReadExactly(header);
        Assert.Equal(0xFFFF, BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(56)));
        Assert.Equal(70_001, BinaryPrimitives.ReadInt32LittleEndian(header.AsSpan(64 + 44)));
        using var core = GuestCore.Open(Core);
        Assert.Equal(1, core.ProcessorCount);
    }

    [Fact]
    public void Page_tables_without_an_end_are_refused()
    {
        var guest = new MadeUpGuest(1 << 20);
        for (var i = 0; i < 512; i++)
            guest.Put((int)MadeUpGuest.Root + (i * 8), MadeUpGuest.Root | 3);
        var e = Assert.Throws<ConfigurationException>(() => GuestCore.Write(guest, guest.Ranges, Core, paging: true));
        Assert.Contains("without paging", e.Message, StringComparison.Ordinal);
        Assert.False(File.Exists(Core));
    }

    [Fact]
    public void What_cannot_be_written_is_an_error_and_leaves_nothing()
    {
        var guest = Guest();
        Assert.Contains("cannot be made", Error(Path.Combine(_directory, "no", "such")), StringComparison.Ordinal);
        Assert.Contains("cannot be made", Error(_directory), StringComparison.Ordinal);
        Assert.Contains("/dev/full", Error("/dev/full"), StringComparison.Ordinal);
        Assert.True(File.Exists("/dev/full"));
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        Assert.Throws<OperationCanceledException>(() => GuestCore.Write(guest, guest.Ranges, Core, cancellation: cancelled.Token));
        Assert.False(File.Exists(Core));
        Assert.Contains("no space", Assert.Throws<ConfigurationException>(() => GuestCore.Write(new FullDisk(guest), guest.Ranges, Core)).Message, StringComparison.Ordinal);
        Assert.False(File.Exists(Core));

        string Error(string path) => Assert.Throws<ConfigurationException>(() => GuestCore.Write(guest, guest.Ranges, path)).Message;
    }

    [Fact]
    public void Other_files_are_refused_in_one_line()
    {
        File.WriteAllText(Core, "no core");
        Assert.Contains("not a core file", Error(Core), StringComparison.Ordinal);
        File.WriteAllBytes(Core, []);
        Assert.Contains("not a core file", Error(Core), StringComparison.Ordinal);
        Assert.Contains("cannot be read", Error(Path.Combine(_directory, "none")), StringComparison.Ordinal);
        Assert.Contains("cannot be read", Error(_directory), StringComparison.Ordinal);
        Assert.Contains("no core file of", Error("/bin/sh"), StringComparison.Ordinal);

        static string Error(string path) => Assert.Throws<ConfigurationException>(() => GuestCore.Open(path)).Message;
    }

    [Fact]
    public void Damaged_files_do_no_harm()
    {
        var guest = Guest();
        GuestCore.Write(guest, [new GuestRange(0, 0x40000)], Core, paging: true);
        var good = File.ReadAllBytes(Core);
        var metadata = 64 + 12_000;
        var random = new Random(11);
        var opened = 0;
        var buffer = new byte[10_000];
        for (var i = 0; i < 2000; i++)
        {
            var bytes = good.AsSpan(0, i % 4 == 0 ? random.Next(good.Length) : good.Length).ToArray();
            for (var k = random.Next(8); k >= 0 && bytes.Length > 0; k--)
                bytes[random.Next(Math.Min(bytes.Length, metadata))] = (byte)(random.Next(3) switch { 0 => 0xFF, 1 => 0, _ => random.Next(256) });
            File.WriteAllBytes(Core, bytes);
            try
            {
                using var core = GuestCore.Open(Core);
                opened++;
                foreach (var range in core.Ranges.Take(8))
                {
                    Assert.InRange(core.ReadPhysical(range.Start, buffer), 0, buffer.Length);
                    Assert.InRange(core.ReadPhysical(range.End - 1, buffer), 0, buffer.Length);
                }

                ContextDump.Write(core, null);
            }
            catch (ConfigurationException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }

        Assert.InRange(opened, 100, 1999);
    }

    [Fact]
    public async Task Gdb_opens_it()
    {
        if (!File.Exists("/usr/bin/gdb"))
            return;
        GuestCore.Write(Guest(), Guest().Ranges, Core, paging: true);
        var start = new ProcessStartInfo("/usr/bin/gdb", ["-nx", "-batch", "-c", Core, "-ex", "info threads", "-ex", "thread 2", "-ex", "info registers rip rsp r11 gs_base cs", "-ex", "p $xmm3.v2_int64[1]", "-ex", $"x/gx 0x{Linear + 0x10:x}"])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var gdb = Process.Start(start)!;
        var errors = gdb.StandardError.ReadToEndAsync();
        var output = await gdb.StandardOutput.ReadToEndAsync().WaitAsync(TimeSpan.FromMinutes(1));
        await gdb.WaitForExitAsync();
        Assert.Matches(@"LWP 1\b.*0xffffffff81234000", output);
        Assert.Matches(@"LWP 2\b.*0xffffffff81234001", output);
        Assert.Matches(@"rip +0xffffffff81234001", output);
        Assert.Matches(@"rsp +0x4001\b", output);
        Assert.Matches(@"r11 +0xb001\b", output);
        Assert.Matches(@"gs_base +0x\w*777\b", output);
        Assert.Contains("= 3001", output, StringComparison.Ordinal);
        Assert.Contains("0x1122334455667788", output, StringComparison.Ordinal);
        Assert.DoesNotContain("corrupt", output + await errors, StringComparison.OrdinalIgnoreCase);
    }

    private static MadeUpGuest Guest()
    {
        var guest = new MadeUpGuest(processors: 2);
        guest.Map(Linear, 0x200000, 3);
        guest.Put(0x200010, 0x1122334455667788);
        guest.Put(0x200FF8, 0x55);
        guest.Put(0x100000, 1);
        for (var i = 0; i < 2; i++)
        {
            ref var state = ref guest.States[i];
            for (var r = 0; r < 16; r++)
                state.Gpr[r] = (ulong)((r << 12) + i);
            for (var r = 0; r < 16; r++)
                state.Ymm[r] = new YmmValue { Q0 = (ulong)r, Q1 = (ulong)((r * 1000) + i), Q2 = 5, Q3 = 6 };
            state.Rip = Linear + (ulong)i;
            state.Rflags = 0x202;
            state.Segments[5].Base = 0x777;
            state.KernelGsBase = 0x888;
            state.Activity = ActivityState.Halted;
            state.Mxcsr = 0x1F80;
        }

        return guest;
    }

    private static byte[] Bytes(CpuState state) => System.Runtime.InteropServices.MemoryMarshal.AsBytes(new ReadOnlySpan<CpuState>(in state)).ToArray();

    private sealed class Recorder(List<ulong> values) : IProgress<ulong>
    {
        public void Report(ulong value) => values.Add(value);
    }

    /// <summary>Fails in the middle, as a full disk does.</summary>
    private sealed class FullDisk(IGuestView guest) : IGuestView
    {
        public int ProcessorCount => guest.ProcessorCount;

        public CpuState GetState(int processor) => guest.GetState(processor);

        public int ReadPhysical(ulong physical, Span<byte> destination) =>
            physical < 4 << 20 ? guest.ReadPhysical(physical, destination) : throw new IOException("no space left on device");
    }
}
