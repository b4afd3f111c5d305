namespace Sharpvisor.Cpu.State;

/// <summary>An 8-byte segment or gate descriptor (SDM vol. 3, 3.4.5 and 6.11).</summary>
internal readonly record struct Descriptor(ulong Raw)
{
    public int Type => (int)(Raw >> 40) & 15;

    public bool IsCodeOrData => (Raw & (1UL << 44)) != 0;

    public int Dpl => (int)(Raw >> 45) & 3;

    public bool Present => (Raw & (1UL << 47)) != 0;

    public bool IsCode => IsCodeOrData && (Type & 8) != 0;

    public bool IsConforming => (Type & 4) != 0;

    /// <summary>Readable, of a code segment.</summary>
    public bool IsReadable => (Type & 2) != 0;

    /// <summary>Writable, of a data segment.</summary>
    public bool IsWritable => IsCodeOrData && (Type & 8) == 0 && (Type & 2) != 0;

    public bool Long => (Raw & (1UL << 53)) != 0;

    public bool Big => (Raw & (1UL << 54)) != 0;

    public uint Base => (uint)((Raw >> 16) & 0xFFFFFF) | ((uint)(Raw >> 56) << 24);

    public uint Limit
    {
        get
        {
            var limit = (uint)(Raw & 0xFFFF) | (uint)((Raw >> 32) & 0xF0000);
            return (Raw & (1UL << 55)) != 0 ? (limit << 12) | 0xFFF : limit;
        }
    }

    public ushort Attributes => (ushort)((Raw >> 40) & 0xF0FF);

    // Gates.
    public ushort GateSelector => (ushort)(Raw >> 16);

    public uint GateOffset => (uint)(Raw & 0xFFFF) | (uint)((Raw >> 32) & 0xFFFF0000);

    public int GateParameterCount => (int)(Raw >> 32) & 31;

    public int GateIst => (int)(Raw >> 32) & 7;

    /// <summary>As a segment register; <paramref name="highBase"/> are the upper 32 bits of a 16-byte descriptor's base.</summary>
    public SegmentRegister ToRegister(ushort selector, uint highBase = 0) =>
        new() { Selector = selector, Base = Base | ((ulong)highBase << 32), Limit = Limit, Attributes = Attributes };
}
