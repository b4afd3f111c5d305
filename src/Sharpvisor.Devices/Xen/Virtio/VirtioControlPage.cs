// The control page of virtio over xenbus: what the front end asks for, and what the back end says.
// Follows: docs/virtio-xenbus.md, "The control page".

using System.Buffers.Binary;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Virtio;

/// <summary>What a front end can ask for.</summary>
internal enum VirtioCommand : uint
{
    SetStatus = 1,
    SetFeatures = 2,
    SetupQueue = 3,
    WriteConfiguration = 4,
}

/// <summary>A request as it stood in the page when it was read.</summary>
internal readonly struct VirtioRequest(byte[] bytes)
{
    public const int Length = 0x30;

    public uint Number => Word(0);

    public VirtioCommand Command => (VirtioCommand)Word(4);

    public uint Argument(int index) => Word(8 + (4 * index));

    public ulong Value(int index) => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(0x10 + (8 * index)));

    private uint Word(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(offset));
}

/// <summary>A page that a front end has granted for it.</summary>
internal sealed class VirtioControlPage(GuestMemory memory, GrantedPage page)
{
    /// <summary>Bytes of configuration that there is room for.</summary>
    public const int ConfigurationRoom = GuestMemory.PageSize - Configuration;

    private const ulong ResponseNumber = 0x40, Result = 0x44, Status = 0x48, Generation = 0x4C, ConfigurationEvents = 0x50;
    private const int Configuration = 0x100;

    private readonly byte[] _request = new byte[VirtioRequest.Length];
    private byte[] _published = [];
    private uint _answered, _generation, _events;

    public GrantedPage Page => page;

    /// <summary>A request that has not been answered. What the domain writes there afterwards is not looked at.</summary>
    public bool TryRead(out VirtioRequest request)
    {
        request = new VirtioRequest(_request);
        if (!memory.TryRead(page.Page, out uint number) || number == _answered)
            return false;
        Interlocked.MemoryBarrier(); // the number comes last
        if (!memory.TryRead(page.Page, _request))
            return false;
        _answered = number;
        return true;
    }

    /// <summary>Says that a request is done, after all that was published.</summary>
    /// <param name="error">0, or an error number of Xen's.</param>
    public void Answer(uint error)
    {
        memory.TryWrite(page.Page + Result, error);
        Interlocked.MemoryBarrier();
        memory.TryWrite(page.Page + ResponseNumber, _answered);
    }

    /// <summary>Shows status and configuration as they are now.</summary>
    public void Publish(byte status, ReadOnlySpan<byte> configuration)
    {
        memory.TryWrite(page.Page + Status, (uint)status);
        if (configuration.SequenceEqual(_published))
            return;
        _published = configuration.ToArray();
        memory.TryWrite(page.Page + Generation, ++_generation); // odd: somebody who reads now reads again
        Interlocked.MemoryBarrier();
        memory.TryWrite(page.Page + Configuration, configuration);
        Interlocked.MemoryBarrier();
        memory.TryWrite(page.Page + Generation, ++_generation);
    }

    /// <summary>The driver is to look at status and configuration again.</summary>
    public void CountEvent() => memory.TryWrite(page.Page + ConfigurationEvents, ++_events);
}
