namespace Sharpvisor.Servers.Tests.Vnc;

/// <summary>
/// A connection whose client stops reading for good while its last message is under way: a write fails, and when the
/// server then gives up reading, that message is what it gets.
/// </summary>
/// <param name="first">What the client sends first.</param>
/// <param name="last">What it sends last.</param>
/// <param name="writes">How many writes succeed.</param>
internal sealed class LateStream(byte[] first, byte[] last, int writes) : Stream
{
    private readonly Queue<byte[]> _messages = new([first]);
    private int _writes = writes;
    private bool _isOver;

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        if (!_messages.TryDequeue(out var message))
        {
            if (_isOver)
                throw new OperationCanceledException(cancellationToken);
            _isOver = true;
            await Task.Delay(Timeout.Infinite, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            message = last;
        }

        message.CopyTo(buffer);
        return message.Length;
    }

    public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default) =>
        _writes-- > 0 ? ValueTask.CompletedTask : ValueTask.FromException(new IOException("the connection is broken"));

    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    public override void Flush()
    {
    }
}
