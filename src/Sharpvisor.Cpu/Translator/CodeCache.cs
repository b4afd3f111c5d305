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

    public CodeCache(ulong size)
    {
        Size = size;
        HostMemory.ReserveCode(size, out _writable, out _executable);
        Hot = new CodeEmitter(_writable, _executable);
        Cold = new CodeEmitter(_writable, _executable);
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

    public void Dispose()
    {
        HostMemory.Release(_writable, Size);
        HostMemory.Release(_executable, Size);
    }
}
