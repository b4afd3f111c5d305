using System.Text;
using Sharpvisor.Cpu.State;
using Sharpvisor.Tests.Debugging.Symbols;

namespace Sharpvisor.Tests.Debugging;

/// <summary>A guest with what the debugger knows a Linux kernel by: symbols, a banner, ORC tables, a stack.</summary>
internal sealed class MadeUpKernel
{
    public const ulong Text = 0xFFFF_FFFF_9240_0000, Stack = 0xFFFF_C900_0000_0000;

    public const string Banner = "Linux version 6.99-made-up (a test)";

    private const int Physical = 2 << 20, StackPhysical = 6 << 20, StackPages = 8;
    private const int BannerAt = 0x10000, AddressesAt = 0x11000, EntriesAt = 0x12000, TablesAt = 0x20000, Pages = 256;

    /// <param name="functions">Offsets from <see cref="Text"/>.</param>
    /// <param name="orc">Offset in the text, and an entry from there on.</param>
    public MadeUpKernel(IReadOnlyList<(ulong Offset, string Name)> functions, IReadOnlyList<(ulong Offset, short Sp, short Bp, int Flags)>? orc = null, KallsymsLayout layout = KallsymsLayout.New, int processors = 1)
    {
        Guest = new MadeUpGuest(processors: processors);
        Guest.Map(Text, Physical, Pages);
        Guest.Map(Stack, StackPhysical, StackPages);
        Encoding.ASCII.GetBytes(Banner + "\n").CopyTo(Guest.Memory[(Physical + BannerAt)..]);
        List<(ulong, char, string)> symbols = [(0, 'A', "fixed_percpu_data"), (Text, 'T', "_stext")];
        symbols.AddRange(functions.Select(f => (Text + f.Offset, 't', f.Name)));
        symbols.AddRange(Enumerable.Range(0, 600).Select(i => (Text + 0x8000 + (ulong)i, 't', $"filler_0123456789_{i}")));
        symbols.AddRange([(Text + 0xF000, 'T', "_etext"), (Text + BannerAt, 'D', "linux_banner")]);
        if (orc is not null)
        {
            symbols.AddRange([
                (Text + AddressesAt, 'r', "__start_orc_unwind_ip"), (Text + AddressesAt + ((ulong)orc.Count * 4), 'r', "__stop_orc_unwind_ip"),
                (Text + EntriesAt, 'r', "__start_orc_unwind")]);
            for (var i = 0; i < orc.Count; i++)
            {
                var place = Physical + AddressesAt + (i * 4);
                BitConverter.TryWriteBytes(Guest.Memory[place..], (int)orc[i].Offset - (AddressesAt + (i * 4)));
                var entry = Guest.Memory[(Physical + EntriesAt + (i * 6))..];
                BitConverter.TryWriteBytes(entry, orc[i].Sp);
                BitConverter.TryWriteBytes(entry[2..], orc[i].Bp);
                BitConverter.TryWriteBytes(entry[4..], (ushort)orc[i].Flags);
            }
        }

        KallsymsImage.Make(symbols, layout, Text, hasAbsolute: true, prefix: 0).CopyTo(Guest.Memory[(Physical + TablesAt)..]);
        for (var i = 0; i < processors; i++)
        {
            ref var state = ref Guest.States[i];
            state.Rip = Text + functions[0].Offset;
            state.Gpr[4] = Stack + 0x1000;
        }
    }

    public MadeUpGuest Guest { get; }

    public ref CpuState State => ref Guest.States[0];

    /// <summary>Puts a word on the stack, by its offset from <see cref="Stack"/>.</summary>
    public void Push(ulong offset, ulong value) => Guest.Put(StackPhysical + (int)offset, value);

    public Span<byte> Image => Guest.Memory.Slice(Physical, Pages * 4096);
}
