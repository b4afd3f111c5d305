using System.Buffers.Binary;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Tests.Debugging;

/// <summary>Processors in long mode and some memory, with page tables that a test fills.</summary>
internal sealed class MadeUpGuest : IGuestView
{
    public const ulong Root = 0x1000;

    private const ulong Present = 1, Writable = 2;

    private readonly byte[] _memory;
    private ulong _nextTable = Root + 0x1000;

    /// <param name="size">Bytes of RAM from 0 on; the page tables take the first 256 KiB.</param>
    public MadeUpGuest(int size = 8 << 20, int processors = 1)
    {
        _memory = new byte[size];
        States = new CpuState[processors];
        for (var i = 0; i < processors; i++)
        {
            ref var state = ref States[i];
            state.Cr0 = 0x8000_0011;
            state.Cr3 = Root;
            state.Cr4 = 0x20;
            state.Efer = 0x500;
            state.Segments[1] = new SegmentRegister { Selector = 0x10, Attributes = 0xA09B, Limit = uint.MaxValue };
        }
    }

    public CpuState[] States { get; }

    public Span<byte> Memory => _memory;

    public IReadOnlyList<GuestRange> Ranges => [new(0, (ulong)_memory.Length)];

    public int ProcessorCount => States.Length;

    public CpuState GetState(int processor) => States[processor];

    public int ReadPhysical(ulong physical, Span<byte> destination)
    {
        if (physical >= (ulong)_memory.Length)
            return 0;
        var source = _memory.AsSpan((int)physical);
        source = source[..Math.Min(source.Length, destination.Length)];
        source.CopyTo(destination);
        return source.Length;
    }

    /// <summary>Maps pages of 4 KiB.</summary>
    public void Map(ulong linear, ulong physical, int pages)
    {
        for (var i = 0; i < pages; i++, linear += 4096, physical += 4096)
        {
            var table = Root;
            for (var shift = 39; shift > 12; shift -= 9)
            {
                var place = (int)(table + (((linear >> shift) & 511) * 8));
                if (U64(place) == 0)
                {
                    Put(place, _nextTable | Present | Writable);
                    _nextTable += 4096;
                }

                table = U64(place) & ~4095UL;
            }

            Put((int)(table + (((linear >> 12) & 511) * 8)), physical | Present | Writable);
        }
    }

    public void Put(int physical, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(_memory.AsSpan(physical), value);

    private ulong U64(int physical) => BinaryPrimitives.ReadUInt64LittleEndian(_memory.AsSpan(physical));
}
