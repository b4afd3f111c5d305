// The notes of a guest's core file. NT_PRSTATUS and NT_FPREGSET as Linux's elfcore.h and sys/user.h lay them out for
// x86-64, which gdb knows; "QEMU" with the QEMUCPUState of QEMU's dump-guest-memory (target/i386/arch_dump.c, version 1),
// which crash and others know; and of our own, owner "SHARPVISOR": a whole CpuState for each processor (with its
// size in front), and the map of physical memory to the file, three numbers of 64 bits for each piece.
using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging.Cores;

/// <summary>A piece of physical memory and where in the file its bytes are.</summary>
internal readonly record struct CorePiece(ulong Physical, ulong Offset, ulong Length);

/// <summary>Writes and reads the notes.</summary>
internal static class CoreNotes
{
    public const string CoreOwner = "CORE", QemuOwner = "QEMU", OwnOwner = "SHARPVISOR";
    public const uint StatusType = 1, FloatingPointType = 2, QemuType = 0;

    /// <summary>Not the numbers of any other owner: gdb looks at the type alone.</summary>
    public const uint StateType = 0x5356_0001, MapType = 0x5356_0002;

    private const int StatusSize = 336, StatusRegisters = 112, StatusPid = 32, RegisterCount = 27;
    private const int FxsaveSize = 512, FxsaveMxcsr = 24, FxsaveXmm = 160;
    private const int QemuSize = 440, QemuSegmentSize = 24;
    private const uint QemuVersion = 1;
    private const int PieceSize = 24;
    private const ulong Lma = 1 << 10, Lme = 1 << 8;

    /// <summary>All notes of a machine, of each processor first what gdb makes a thread of.</summary>
    public static byte[] Write(IGuestView view, IReadOnlyList<CorePiece> map)
    {
        var notes = new MemoryStream();
        var states = Enumerable.Range(0, view.ProcessorCount).Select(view.GetState).ToArray();
        for (var i = 0; i < states.Length; i++)
        {
            Append(notes, CoreOwner, StatusType, Status(in states[i], i));
            Append(notes, CoreOwner, FloatingPointType, FloatingPoint(in states[i]));
        }

        foreach (ref readonly var state in states.AsSpan())
            Append(notes, QemuOwner, QemuType, Qemu(in state));
        foreach (ref readonly var state in states.AsSpan())
            Append(notes, OwnOwner, StateType, Own(in state));
        var pieces = new byte[map.Count * PieceSize];
        for (var i = 0; i < map.Count; i++)
        {
            var piece = pieces.AsSpan(i * PieceSize);
            Put(piece, 0, map[i].Physical);
            Put(piece, 8, map[i].Offset);
            Put(piece, 16, map[i].Length);
        }

        Append(notes, OwnOwner, MapType, pieces);
        return notes.ToArray();
    }

    /// <summary>Takes what is needed from the notes of any core file of an x86-64 machine.</summary>
    /// <returns>The processors in order, and our own map of memory, empty where another program wrote the file.</returns>
    public static (List<CpuState> States, List<CorePiece> Map) Read(ReadOnlySpan<byte> notes)
    {
        List<CpuState> statuses = [], qemu = [], own = [];
        List<CorePiece> map = [];
        while (notes.Length >= 12)
        {
            var nameLength = (ulong)BinaryPrimitives.ReadUInt32LittleEndian(notes);
            var length = (ulong)BinaryPrimitives.ReadUInt32LittleEndian(notes[4..]);
            var type = BinaryPrimitives.ReadUInt32LittleEndian(notes[8..]);
            var start = 12 + Align(nameLength);
            if (start + length > (ulong)notes.Length)
                break;
            var owner = Encoding.ASCII.GetString(notes.Slice(12, (int)nameLength)).TrimEnd('\0');
            var data = notes.Slice((int)start, (int)length);
            switch (owner, type)
            {
                case (CoreOwner, StatusType) when data.Length >= StatusRegisters + (RegisterCount * 8):
                    statuses.Add(ParseStatus(data[StatusRegisters..]));
                    break;
                case (CoreOwner, FloatingPointType) when data.Length >= FxsaveSize && statuses.Count > 0:
                    ParseFloatingPoint(data, ref CollectionsMarshal.AsSpan(statuses)[^1]);
                    break;
                case (QemuOwner, QemuType) when data.Length >= QemuSize - 8 && BinaryPrimitives.ReadUInt32LittleEndian(data) == QemuVersion:
                    var state = qemu.Count < statuses.Count ? statuses[qemu.Count] : default;
                    ParseQemu(data, ref state);
                    qemu.Add(state);
                    break;
                case (OwnOwner, StateType) when data.Length == Unsafe.SizeOf<CpuState>() + 8 && BinaryPrimitives.ReadUInt64LittleEndian(data) == (ulong)Unsafe.SizeOf<CpuState>():
                    own.Add(MemoryMarshal.Read<CpuState>(data[8..]));
                    break;
                case (OwnOwner, MapType):
                    for (var i = 0; i + PieceSize <= data.Length; i += PieceSize)
                        map.Add(new CorePiece(Get(data, i), Get(data, i + 8), Get(data, i + 16)));
                    break;
            }

            var end = start + Align(length);
            notes = end >= (ulong)notes.Length ? default : notes[(int)end..];
        }

        return (own.Count > 0 ? own : qemu.Count > 0 ? qemu : statuses, map);
    }

    private static void Append(MemoryStream notes, string owner, uint type, ReadOnlySpan<byte> data)
    {
        Span<byte> header = stackalloc byte[12];
        BinaryPrimitives.WriteInt32LittleEndian(header, owner.Length + 1);
        BinaryPrimitives.WriteInt32LittleEndian(header[4..], data.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(header[8..], type);
        notes.Write(header);
        notes.Write(Encoding.ASCII.GetBytes(owner + '\0'));
        Pad(notes);
        notes.Write(data);
        Pad(notes);
    }

    private static void Pad(MemoryStream notes) => notes.SetLength(notes.Position = (long)Align((ulong)notes.Position));

    /// <summary>struct elf_prstatus; the pid, which gdb needs to tell threads apart, is the processor's number and 1.</summary>
    private static byte[] Status(in CpuState state, int processor)
    {
        var status = new byte[StatusSize];
        BinaryPrimitives.WriteInt32LittleEndian(status.AsSpan(StatusPid), processor + 1);
        var r = status.AsSpan(StatusRegisters);
        ReadOnlySpan<int> order = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7];
        for (var i = 0; i < order.Length; i++)
            Put(r, i * 8, state.Gpr[order[i]]);
        var s = state.Segments;
        ReadOnlySpan<ulong> rest =
        [
            ulong.MaxValue, state.Rip, s[1].Selector, state.Rflags, state.Gpr[4], s[2].Selector, s[4].Base, s[5].Base,
            s[3].Selector, s[0].Selector, s[4].Selector, s[5].Selector,
        ];
        for (var i = 0; i < rest.Length; i++)
            Put(r, (order.Length + i) * 8, rest[i]);
        return status;
    }

    private static CpuState ParseStatus(ReadOnlySpan<byte> r)
    {
        var state = new CpuState();
        ReadOnlySpan<int> order = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7];
        for (var i = 0; i < order.Length; i++)
            state.Gpr[order[i]] = Get(r, i * 8);
        state.Rip = Get(r, 16 * 8);
        state.Segments[1].Selector = (ushort)Get(r, 17 * 8);
        state.Rflags = Get(r, 18 * 8);
        state.Gpr[4] = Get(r, 19 * 8);
        state.Segments[2].Selector = (ushort)Get(r, 20 * 8);
        state.Segments[4].Base = Get(r, 21 * 8);
        state.Segments[5].Base = Get(r, 22 * 8);
        state.Segments[3].Selector = (ushort)Get(r, 23 * 8);
        state.Segments[0].Selector = (ushort)Get(r, 24 * 8);
        state.Segments[4].Selector = (ushort)Get(r, 25 * 8);
        state.Segments[5].Selector = (ushort)Get(r, 26 * 8);
        return state;
    }

    /// <summary>The FXSAVE image of x87 and XMM registers.</summary>
    private static byte[] FloatingPoint(in CpuState state)
    {
        var area = new byte[FxsaveSize];
        ((ReadOnlySpan<byte>)state.X87).CopyTo(area);
        BinaryPrimitives.WriteUInt32LittleEndian(area.AsSpan(FxsaveMxcsr), state.Mxcsr);
        for (var i = 0; i < 16; i++)
        {
            Put(area, FxsaveXmm + (i * 16), state.Ymm[i].Q0);
            Put(area, FxsaveXmm + (i * 16) + 8, state.Ymm[i].Q1);
        }

        return area;
    }

    private static void ParseFloatingPoint(ReadOnlySpan<byte> area, ref CpuState state)
    {
        area[..FxsaveXmm].CopyTo(state.X87);
        state.Mxcsr = BinaryPrimitives.ReadUInt32LittleEndian(area[FxsaveMxcsr..]);
        for (var i = 0; i < 16; i++)
            state.Ymm[i] = new YmmValue { Q0 = Get(area, FxsaveXmm + (i * 16)), Q1 = Get(area, FxsaveXmm + (i * 16) + 8) };
    }

    /// <summary>struct QEMUCPUState: registers; cs ds es fs gs ss ldt tr gdt idt; cr0 to cr4; kernel_gs_base.</summary>
    private static byte[] Qemu(in CpuState state)
    {
        var note = new byte[QemuSize];
        BinaryPrimitives.WriteUInt32LittleEndian(note, QemuVersion);
        BinaryPrimitives.WriteInt32LittleEndian(note.AsSpan(4), QemuSize);
        ReadOnlySpan<int> order = [0, 3, 1, 2, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
        for (var i = 0; i < order.Length; i++)
            Put(note, 8 + (i * 8), state.Gpr[order[i]]);
        Put(note, 136, state.Rip);
        Put(note, 144, state.Rflags);
        var s = state.Segments;
        ReadOnlySpan<SegmentRegister> segments =
        [
            s[1], s[3], s[0], s[4], s[5], s[2], state.Ldtr, state.Tr,
            new() { Base = state.Gdtr.Base, Limit = state.Gdtr.Limit }, new() { Base = state.Idtr.Base, Limit = state.Idtr.Limit },
        ];
        for (var i = 0; i < segments.Length; i++)
        {
            var place = note.AsSpan(152 + (i * QemuSegmentSize));
            BinaryPrimitives.WriteUInt32LittleEndian(place, segments[i].Selector);
            BinaryPrimitives.WriteUInt32LittleEndian(place[4..], segments[i].Limit);
            BinaryPrimitives.WriteUInt32LittleEndian(place[8..], (uint)segments[i].Attributes << 8);
            Put(place, 16, segments[i].Base);
        }

        ReadOnlySpan<ulong> controls = [state.Cr0, 0, state.Cr2, state.Cr3, state.Cr4];
        for (var i = 0; i < controls.Length; i++)
            Put(note, 392 + (i * 8), controls[i]);
        Put(note, 432, state.KernelGsBase);
        return note;
    }

    private static void ParseQemu(ReadOnlySpan<byte> note, ref CpuState state)
    {
        ReadOnlySpan<int> order = [0, 3, 1, 2, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
        for (var i = 0; i < order.Length; i++)
            state.Gpr[order[i]] = Get(note, 8 + (i * 8));
        state.Rip = Get(note, 136);
        state.Rflags = Get(note, 144);
        ReadOnlySpan<int> segments = [1, 3, 0, 4, 5, 2];
        for (var i = 0; i < segments.Length; i++)
            state.Segments[segments[i]] = Segment(note, i);
        state.Ldtr = Segment(note, 6);
        state.Tr = Segment(note, 7);
        state.Gdtr = new TableRegister { Base = Segment(note, 8).Base, Limit = Segment(note, 8).Limit };
        state.Idtr = new TableRegister { Base = Segment(note, 9).Base, Limit = Segment(note, 9).Limit };
        state.Cr0 = Get(note, 392);
        state.Cr2 = Get(note, 408);
        state.Cr3 = Get(note, 416);
        state.Cr4 = Get(note, 424);
        if (note.Length >= QemuSize)
            state.KernelGsBase = Get(note, 432);
        // EFER is not among it. Long mode shows by 64-bit code, or by tables above 4 GiB while it runs 32-bit code.
        if (state.Segments[1].Long || state.Gdtr.Base > uint.MaxValue || state.Idtr.Base > uint.MaxValue)
            state.Efer = Lma | Lme;

        static SegmentRegister Segment(ReadOnlySpan<byte> note, int index)
        {
            var place = note[(152 + (index * QemuSegmentSize))..];
            return new SegmentRegister
            {
                Selector = (ushort)BinaryPrimitives.ReadUInt32LittleEndian(place),
                Limit = BinaryPrimitives.ReadUInt32LittleEndian(place[4..]),
                Attributes = (ushort)((BinaryPrimitives.ReadUInt32LittleEndian(place[8..]) >> 8) & 0xF0FF),
                Base = Get(place, 16),
            };
        }
    }

    private static byte[] Own(in CpuState state)
    {
        var note = new byte[Unsafe.SizeOf<CpuState>() + 8];
        Put(note, 0, (ulong)Unsafe.SizeOf<CpuState>());
        MemoryMarshal.Write(note.AsSpan(8), in state);
        return note;
    }

    private static ulong Align(ulong value) => (value + 3) & ~3UL;

    private static void Put(Span<byte> bytes, int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(bytes[offset..], value);

    private static ulong Get(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
