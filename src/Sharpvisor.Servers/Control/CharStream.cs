using System.Threading.Channels;
using Sharpvisor.Core;
using Sharpvisor.Core.Char;

namespace Sharpvisor.Servers.Control;

/// <summary>A character backend as a stream. It has a gate of its own: no monitor waits for the machine's.</summary>
internal sealed class CharStream : Stream, ICharFrontend
{
    private const int InputSize = 4096;

    private readonly ICharBackend _backend;
    private readonly MachineGate _gate = new();
    private readonly Channel<byte> _input = Channel.CreateBounded<byte>(InputSize);
    private readonly SemaphoreSlim _writable = new(0);
    private readonly TaskCompletionSource _firstFocus = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _waiting;

    public CharStream(ICharBackend backend)
    {
        _backend = backend;
        backend.Attach(this, _gate);
    }

    public int ReceiveCapacity => InputSize - _input.Reader.Count;

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    public void Receive(ReadOnlySpan<byte> data)
    {
        foreach (var value in data)
            _input.Writer.TryWrite(value);
    }

    public void OnWritable()
    {
        if (Interlocked.Exchange(ref _waiting, 0) != 0)
            _writable.Release();
    }

    public void OnBreak()
    {
    }

    /// <summary>Completes when what is typed on a shared terminal comes here for the first time.</summary>
    public Task FirstFocus => _firstFocus.Task;

    public void OnFocus(bool isHere)
    {
        const byte reprint = 'R' & 0x1F; // Ctrl-R: what was typed before is shown again
        if (isHere && !_firstFocus.TrySetResult())
            _input.Writer.TryWrite(reprint);
    }

    public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        if (!await _input.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false))
            return 0;
        var count = 0;
        while (count < buffer.Length && _input.Reader.TryRead(out var value))
            buffer.Span[count++] = value;
        using (_gate.Enter())
            _backend.OnReceiveReady();
        return count;
    }

    public override async ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        while (buffer.Length > 0)
        {
            int taken;
            using (_gate.Enter())
            {
                taken = _backend.Write(buffer.Span);
                if (taken < buffer.Length)
                    Volatile.Write(ref _waiting, 1);
            }

            buffer = buffer[taken..];
            if (buffer.Length > 0)
                await _writable.WaitAsync(cancellationToken).ConfigureAwait(false);
        }
    }

    public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
        ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

    public override Task WriteAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
        WriteAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

    public override int Read(byte[] buffer, int offset, int count) => ReadAsync(buffer.AsMemory(offset, count)).AsTask().GetAwaiter().GetResult();

    public override void Write(byte[] buffer, int offset, int count) => WriteAsync(buffer.AsMemory(offset, count)).AsTask().GetAwaiter().GetResult();

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        _input.Writer.TryComplete();
        if (disposing)
            _writable.Dispose();
        base.Dispose(disposing);
    }
}
