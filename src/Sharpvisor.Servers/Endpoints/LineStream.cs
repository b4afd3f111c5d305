// A character backend (a terminal, a pseudo terminal) as the stream of a server's clients, one after the other.
using System.Threading.Channels;
using Sharpvisor.Core;
using Sharpvisor.Core.Char;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>A character backend as a stream. It has a gate of its own: no server waits for the machine's.</summary>
/// <param name="endsWithHangUp">What is read ends where the other end hung up; <see cref="RenewAsync"/> then reads what the next one says.</param>
internal sealed class LineStream(ICharBackend backend, bool endsWithHangUp) : Stream, ICharFrontend
{
    private const int InputSize = 4096;

    private readonly MachineGate _gate = new();

    /// <summary>In the order of arrival; an empty one is a hang-up.</summary>
    private readonly Channel<byte[]> _input = Channel.CreateUnbounded<byte[]>(new UnboundedChannelOptions { SingleReader = true });
    private readonly SemaphoreSlim _writable = new(0);
    private readonly TaskCompletionSource _firstFocus = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private byte[] _chunk = [];
    private int _at, _queued, _waiting;
    private bool _isOver;

    public int ReceiveCapacity => Math.Max(0, InputSize - Volatile.Read(ref _queued));

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    /// <summary>Completes when what is typed on a shared terminal comes here for the first time.</summary>
    public Task FirstFocus => _firstFocus.Task;

    /// <summary>Begins to take what comes in. Once.</summary>
    public void Attach() => backend.Attach(this, _gate);

    public void Receive(ReadOnlySpan<byte> data)
    {
        Interlocked.Add(ref _queued, data.Length);
        _input.Writer.TryWrite(data.ToArray());
    }

    public void OnWritable()
    {
        if (Interlocked.Exchange(ref _waiting, 0) != 0)
            _writable.Release();
    }

    public void OnBreak()
    {
    }

    public void OnFocus(bool isHere)
    {
        const byte reprint = 'R' & 0x1F; // Ctrl-R: what was typed before is shown again
        if (isHere && !_firstFocus.TrySetResult())
            Receive([reprint]);
    }

    public void OnHangUp()
    {
        if (endsWithHangUp)
            _input.Writer.TryWrite([]);
    }

    /// <summary>Waits for the first byte of whoever comes next.</summary>
    /// <returns>False: the line is closed.</returns>
    public async ValueTask<bool> RenewAsync(CancellationToken cancellation)
    {
        Interlocked.Add(ref _queued, _at - _chunk.Length); // what the last one left
        _at = _chunk.Length;
        while (_at == _chunk.Length)
        {
            if (!await _input.Reader.WaitToReadAsync(cancellation).ConfigureAwait(false))
                return false;
            if (_input.Reader.TryRead(out var chunk))
                (_chunk, _at) = (chunk, 0); // an empty one: the hang-up of somebody who has left already
        }

        _isOver = false;
        return true;
    }

    public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        if (_at == _chunk.Length && !_isOver)
        {
            _at = 0;
            _chunk = await _input.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false) && _input.Reader.TryRead(out var chunk) ? chunk : [];
            _isOver = _chunk.Length == 0;
        }

        var count = Math.Min(buffer.Length, _chunk.Length - _at);
        _chunk.AsSpan(_at, count).CopyTo(buffer.Span);
        _at += count;
        if (count > 0)
        {
            Interlocked.Add(ref _queued, -count);
            using (_gate.Enter())
                backend.OnReceiveReady();
        }

        return count;
    }

    public override async ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
    {
        while (buffer.Length > 0)
        {
            int taken;
            using (_gate.Enter())
            {
                taken = backend.Write(buffer.Span);
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

    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    /// <summary>The end of the line itself: closing the stream is the end of one client.</summary>
    public void End()
    {
        _input.Writer.TryComplete();
        _writable.Dispose();
    }
}
