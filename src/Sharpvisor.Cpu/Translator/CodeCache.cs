using Sharpvisor.Core.Host;

namespace Sharpvisor.Cpu.Translator;

/// <summary>
/// Memory for the generated code of one vCPU: bounded, mapped once to be written and once to be executed. Code that
/// runs often grows from the start, exits and other cold code from the middle on. When one half is full everything
/// goes: what is still needed is translated again.
/// </summary>
internal sealed unsafe class CodeCache : IDisposable
{
    private readonly byte* _writable;
    private readonly byte* _executable;

    /// <summary>How far each half has been put into huge pages.</summary>
    private ulong _hotSettled, _coldSettled;

    public CodeCache(ulong size)
    {
        Size = size;
        HostMemory.ReserveCode(size, out _writable, out _executable);
        Hot = new CodeEmitter(_writable, _executable);
        Cold = new CodeEmitter(_writable, _executable);
        _coldSettled = size / 2;
        Clear();
    }

    public ulong Size { get; }

    public CodeEmitter Hot { get; }

    public CodeEmitter Cold { get; }

    public ulong Start => (ulong)_executable;

    /// <summary>Bytes of code made since the last <see cref="Clear"/>.</summary>
    public ulong Used => Hot.Position + (Cold.Position - (Size / 2));

    /// <summary>No room for another block of any length.</summary>
    public bool IsFull => Hot.Position > (Size / 2) - Slack || Cold.Position > Size - Slack;

    private const ulong Slack = 64 << 10;

    public void Clear()
    {
        Hot.Position = 0;
        Cold.Position = Size / 2;
    }

    /// <summary>
    /// What has been filled is put into huge pages: the code of a large program is several times the reach of the
    /// host's instruction TLB.
    /// </summary>
    public void Settle()
    {
        Settle(ref _hotSettled, Hot.Position);
        Settle(ref _coldSettled, Cold.Position);
    }

    private void Settle(ref ulong settled, ulong position)
    {
        if (position - settled < HostMemory.HugePage || position < settled)
            return;
        HostMemory.Collapse(_executable + settled, HostMemory.HugePage);
        HostMemory.Unmap(_writable + settled, HostMemory.HugePage);
        settled += HostMemory.HugePage;
    }

    public void Dispose()
    {
        HostMemory.Release(_writable, Size);
        HostMemory.Release(_executable, Size);
    }
}
