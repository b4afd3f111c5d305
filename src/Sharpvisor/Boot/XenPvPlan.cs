// A paravirtual domain of Xen's at its start: where everything lies in its memory, and struct start_info
// (xen/include/public/xen.h). The hypercall page is that of 64-bit paravirtual domains.
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Boot;

/// <summary>What the domain is told that the machine decides.</summary>
/// <param name="SharedInfo">Machine address of the shared_info page.</param>
/// <param name="StorePort">Event channel.</param>
/// <param name="ConsolePort">Event channel; 0: there is no console.</param>
public readonly record struct XenPvStart(ulong SharedInfo, uint StorePort, uint ConsolePort);

/// <summary>Made by <see cref="Create"/> without a machine; written at power-on and again at each reset.</summary>
public sealed class XenPvPlan
{
    private const ulong Page = GuestMemory.PageSize;
    private const int Chunk = 1 << 20;


    private readonly XenPvPlaces _places;

    internal XenPvPlan(XenPvPlaces places) => _places = places;

    /// <summary>Which machine frames the domain has.</summary>
    public PvLayout Layout => _places.Layout;

    /// <summary>RIP.</summary>
    public ulong Entry => _places.Notes.Entry;

    /// <summary>RSP: the end of the first stack.</summary>
    public ulong StackPointer => Linear(_places.StackFrame + 1);

    /// <summary>RSI: linear address of start_info.</summary>
    public ulong StartInfo => Linear(_places.StartInfoFrame);

    /// <summary>Machine address of the kernel's top page table, which is to be pinned.</summary>
    public ulong Root => Layout.ToMachine(_places.Tables.Root) * Page;

    /// <summary>Machine address of the store's ring.</summary>
    public ulong StorePage => Layout.ToMachine(_places.StoreFrame) * Page;

    /// <summary>Machine address of the console's ring.</summary>
    public ulong ConsolePage => Layout.ToMachine(_places.ConsoleFrame) * Page;

    /// <summary>Places all of a domain; nothing is written yet.</summary>
    /// <param name="request">A bzImage or a 64-bit ELF kernel with Xen's notes.</param>
    /// <exception cref="ConfigurationException">It can't be started so, is damaged, or does not fit.</exception>
    public static XenPvPlan Create(BootRequest request) => XenPvLoader.Plan(request);

    /// <summary>Loads everything into RAM, which is zero elsewhere (<see cref="GuestMemory.Clear"/>): a new domain.</summary>
    /// <exception cref="ConfigurationException">A file can't be read any more.</exception>
    public void WriteTo(GuestMemory memory, in XenPvStart start)
    {
        var buffer = new byte[Chunk];
        foreach (var segment in _places.Segments)
        {
            Copy(memory, segment.Address, segment.Source, segment.Offset, segment.FileLength, buffer);
            Clear(memory, segment.Address + segment.FileLength, segment.MemoryLength - segment.FileLength, buffer);
        }

        if (_places.Notes.HypercallPage is { } hypercalls)
            Write(memory, hypercalls - _places.Notes.VirtualBase, HypercallPage());
        if (_places.Initrd is { } initrd)
            Copy(memory, _places.InitrdFrame * Page, initrd, 0, (ulong)initrd.Length, buffer);
        WriteFrameList(memory, MemoryMarshal.Cast<byte, ulong>(buffer.AsSpan()));
        _places.Tables.WriteTo(memory, Layout);
        foreach (var frame in (ReadOnlySpan<ulong>)[_places.StoreFrame, _places.ConsoleFrame, _places.StackFrame])
            Clear(memory, frame * Page, Page, buffer);
        Write(memory, _places.StartInfoFrame * Page, BuildStartInfo(start));
    }

    private void WriteFrameList(GuestMemory memory, Span<ulong> buffer)
    {
        for (ulong done = 0; done < Layout.PageCount;)
        {
            var part = (int)Math.Min((ulong)buffer.Length, Layout.PageCount - done);
            for (var i = 0; i < part; i++)
                buffer[i] = Layout.ToMachine(done + (ulong)i);
            Write(memory, (_places.ListFrame * Page) + (done * 8), MemoryMarshal.AsBytes(buffer[..part]));
            done += (ulong)part;
        }
    }

    private byte[] BuildStartInfo(in XenPvStart start)
    {
        const uint moduleFrame = 1 << 3; // SIF_MOD_START_PFN
        const int commandLine = 128;
        var info = new byte[Page];
        "xen-3.0-x86_64"u8.CopyTo(info);
        U64(32, Layout.PageCount);
        U64(40, start.SharedInfo);
        if (_places.Initrd is not null && _places.Notes.TakesModuleFrame)
            U32(48, moduleFrame);
        U64(56, Layout.ToMachine(_places.StoreFrame));
        U32(64, start.StorePort);
        if (start.ConsolePort != 0)
        {
            U64(72, Layout.ToMachine(_places.ConsoleFrame));
            U32(80, start.ConsolePort);
        }

        U64(88, Linear(_places.Tables.Root));
        U64(96, _places.TableCount);
        U64(104, _places.Notes.FrameList ?? Linear(_places.ListFrame));
        if (_places.Initrd is not null)
        {
            U64(112, _places.Notes.TakesModuleFrame ? _places.InitrdFrame : Linear(_places.InitrdFrame));
            U64(120, (ulong)_places.Initrd.Length);
        }

        Encoding.UTF8.GetBytes(_places.CommandLine, info.AsSpan(commandLine));
        if (_places.Notes.FrameList is not null)
        {
            U64(1152, _places.ListTables);
            U64(1160, _places.ListFrame + ((Layout.PageCount * 8) + Page - 1) / Page - _places.ListTables);
        }

        return info;

        void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(info.AsSpan(offset), value);
        void U64(int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(offset), value);
    }

    /// <summary>32 bytes a call; SYSCALL destroys RCX and R11, which a caller does not expect.</summary>
    private static byte[] HypercallPage()
    {
        const int stub = 32, iret = 23;
        var page = new byte[Page];
        for (var i = 0; i < page.Length / stub; i++)
        {
            ReadOnlySpan<byte> before = i == iret ? [0x51, 0x41, 0x53, 0x50] : [0x51, 0x41, 0x53]; // push rcx; push r11; iret: push rax
            ReadOnlySpan<byte> after = i == iret ? [0x0F, 0x05] : [0x0F, 0x05, 0x41, 0x5B, 0x59, 0xC3]; // syscall; else: pop r11; pop rcx; ret
            var code = page.AsSpan(i * stub);
            before.CopyTo(code);
            code = code[before.Length..];
            code[0] = 0xB8; // mov eax, i
            BinaryPrimitives.WriteInt32LittleEndian(code[1..], i);
            after.CopyTo(code[5..]);
        }

        return page;
    }

    private ulong Linear(ulong frame) => _places.Notes.VirtualBase + (frame * Page);

    private void Copy(GuestMemory memory, ulong address, BootSource source, long offset, ulong length, byte[] buffer)
    {
        for (ulong done = 0; done < length;)
        {
            var part = (int)Math.Min((ulong)buffer.Length, length - done);
            source.Read(offset + (long)done, buffer.AsSpan(0, part));
            Write(memory, address + done, buffer.AsSpan(0, part));
            done += (ulong)part;
        }
    }

    private void Clear(GuestMemory memory, ulong address, ulong length, byte[] buffer)
    {
        buffer.AsSpan().Clear();
        for (ulong done = 0; done < length;)
        {
            var part = (int)Math.Min((ulong)buffer.Length, length - done);
            Write(memory, address + done, buffer.AsSpan(0, part));
            done += (ulong)part;
        }
    }

    /// <summary>Writes at an address of the domain's own, which may be in two parts of RAM.</summary>
    private void Write(GuestMemory memory, ulong address, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            var frame = address / Page;
            var room = (Layout.Contiguous(frame) * Page) - (address % Page);
            var part = (int)Math.Min(room, (ulong)bytes.Length);
            memory.TryWrite((Layout.ToMachine(frame) * Page) + (address % Page), bytes[..part]);
            bytes = bytes[part..];
            address += (ulong)part;
        }
    }
}

/// <summary>What a plan is made of; frames are the domain's own.</summary>
internal sealed record XenPvPlaces
{
    public required PvLayout Layout { get; init; }

    public required XenElfNotes Notes { get; init; }

    /// <summary>By addresses of the domain's own.</summary>
    public required IReadOnlyList<BootSegment> Segments { get; init; }

    public required BootSource? Initrd { get; init; }

    public required string CommandLine { get; init; }

    public required PvPageTables Tables { get; init; }

    /// <summary>Tables that map the kernel, from <see cref="PvPageTables.Root"/> on.</summary>
    public required ulong TableCount { get; init; }

    public required ulong InitrdFrame { get; init; }

    /// <summary>Where the list of frames begins.</summary>
    public required ulong ListFrame { get; init; }

    /// <summary>Where the tables that map the list begin, if it has an address of its own.</summary>
    public required ulong ListTables { get; init; }

    public required ulong StartInfoFrame { get; init; }

    public required ulong StoreFrame { get; init; }

    public required ulong ConsoleFrame { get; init; }

    public required ulong StackFrame { get; init; }
}
