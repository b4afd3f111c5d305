using Sharpvisor.Cpu.State;

namespace Conformance.Fuzzing;

/// <summary>
/// Segments that are not flat, for code of 16 and 32 bits: each reaches nothing but the arena. On the host they lie in the
/// process's LDT, in the guest in its segment registers.
/// </summary>
public sealed class SegmentSet
{
    public const int ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5, Count = 6;

    private const int Sets = 4;
    private const ushort Code = 0xFB, Data = 0xF3, ReadOnlyData = 0xF1, ExpandDown = 0xF7;
    private const ushort Big = 0x4000;

    private readonly SegmentRegister[] _registers = new SegmentRegister[Count];

    private SegmentSet(int number)
    {
        Number = number;
    }

    public int Number { get; }

    public ref readonly SegmentRegister this[int segment] => ref _registers[segment];

    public bool HasBigStack => this[SS].Big;

    /// <summary>All sets for an arena: with aligned and unaligned code, small and big stacks, and every kind of data segment.</summary>
    public static SegmentSet[] Make(Arena arena, int bitness)
    {
        var sets = new SegmentSet[Sets];
        var (code, scratch) = (arena.CodeAddress, arena.ScratchAddress);
        for (var n = 0; n < Sets; n++)
        {
            var set = sets[n] = new SegmentSet(n + (bitness == 16 ? 0 : Sets));
            var size = bitness == 16 ? 0 : Big;
            var before = n switch { 0 => 0x1000UL, 1 => 0x234UL, 2 => 0xF000UL, _ => 0x8010UL };
            set.Define(CS, code - before, (uint)before + Arena.PageSize - 1, Code | size);
            set.Define(SS, scratch - (n == 1 ? 0x40UL : 0x2000), n == 2 ? 0x4FFFu : 0xFFFF, Data | (n is 1 or 3 ? Big : 0));
            set.Define(DS, scratch - (n == 2 ? 0xA000UL : 0x100), n == 1 ? 0x2345u : 0xFFFF, Data | size);
            set.Define(ES, scratch + (n == 3 ? 0UL : 0x123), n == 2 ? 0x1FFu : 0xFFFF, n == 3 ? ReadOnlyData : Data);
            set.Define(GS, scratch - 0x1000, n == 0 ? 0x2000u : 0xFFFF, n == 0 ? ExpandDown : Data);
        }

        return sets;
    }

    private void Define(int segment, ulong start, uint limit, int attributes) => _registers[segment] = new SegmentRegister
    {
        Base = start,
        Limit = limit,
        Attributes = (ushort)attributes,
        Selector = (ushort)((((Number * Count) + segment) << 3) | 7), // of the LDT, for privilege level 3
    };
}
