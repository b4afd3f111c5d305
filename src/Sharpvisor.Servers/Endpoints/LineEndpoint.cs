// A pseudo terminal or standard input and output as a server's endpoint: a line without connections. Whoever sends the
// first byte is a client, and goes by hanging up; on a pseudo terminal the next one may come then.
using System.Threading.Channels;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Servers.Endpoints;

internal sealed class LineEndpoint : ServerEndpoint
{
    private const int ChunkSize = 4096, LookEveryMilliseconds = 100;

    private readonly Descriptor _input, _output;
    private readonly bool _isPty;
    private readonly Channel<byte[]> _received = Channel.CreateBounded<byte[]>(4);
    private readonly Thread _reader;
    private volatile bool _stopping;

    /// <param name="output">The same as <paramref name="input"/> on a pseudo terminal.</param>
    public LineEndpoint(string name, Descriptor input, Descriptor output)
    {
        Name = name;
        _input = input;
        _output = output;
        _isPty = ReferenceEquals(input, output);
        _reader = new Thread(ReadLoop) { IsBackground = true, Name = $"server {name}" };
        _reader.Start();
    }

    public override string Name { get; }

    public override bool TakesSeveral => false;

    public static LineEndpoint OpenPty(ServerAddress address)
    {
        try
        {
            var master = Descriptor.OpenPseudoTerminal(out var path);
            // Linux reports a hang-up only after the other end was open once.
            using (new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0))
            {
            }

            return new LineEndpoint(path, master, master);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ConfigurationException($"{address.Text}: {e.Message}; use tcp: or unix: instead", e);
        }
    }

    public override async Task<ServerClient?> AcceptAsync(CancellationToken cancellation)
    {
        while (await _received.Reader.WaitToReadAsync(cancellation).ConfigureAwait(false))
        {
            // An empty chunk is a hang-up, of a client that has left already.
            if (_received.Reader.TryPeek(out var first) && first.Length > 0)
                return new ServerClient(new LineStream(this), Name);
            _received.Reader.TryRead(out _);
        }

        return null;
    }

    protected override void Dispose(bool disposing)
    {
        _stopping = true;
        _input.Stop();
        _output.Stop();
        _received.Writer.TryComplete();
        _reader.Join();
        _input.Dispose();
        if (!_isPty)
            _output.Dispose();
        base.Dispose(disposing);
    }

    private void ReadLoop()
    {
        var buffer = new byte[ChunkSize];
        var wasThere = false;
        while (!_stopping)
        {
            var count = _input.Read(buffer);
            if (count > 0)
            {
                wasThere = true;
                if (!Deliver(buffer[..count]))
                    return;
            }
            else if (_isPty)
            {
                if (wasThere && !Deliver([]))
                    return;
                wasThere = false;
                _input.Pause(LookEveryMilliseconds);
            }
            else
            {
                _received.Writer.TryComplete();
                return;
            }
        }
    }

    private bool Deliver(byte[] chunk)
    {
        while (!_received.Writer.TryWrite(chunk))
        {
            if (_stopping || _received.Reader.Completion.IsCompleted)
                return false;
            _input.Pause(1);
        }

        return true;
    }

    /// <summary>One client's part of what the line carries.</summary>
    private sealed class LineStream(LineEndpoint line) : Stream
    {
        private byte[] _chunk = [];
        private int _at;
        private bool _isOver;

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            if (_at == _chunk.Length && !_isOver)
            {
                _at = 0;
                _chunk = await line._received.Reader.WaitToReadAsync(cancellationToken).ConfigureAwait(false) && line._received.Reader.TryRead(out var chunk) ? chunk : [];
                _isOver = _chunk.Length == 0;
            }

            var count = Math.Min(buffer.Length, _chunk.Length - _at);
            _chunk.AsSpan(_at, count).CopyTo(buffer.Span);
            _at += count;
            return count;
        }

        public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
            ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

        /// <summary>Waits for the other end like any serial line: on a thread of the pool, as long as it takes.</summary>
        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default) =>
            new(Task.Run(() => WriteAll(buffer.Span), cancellationToken));

        public override Task WriteAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) =>
            WriteAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        private void WriteAll(ReadOnlySpan<byte> data)
        {
            while (data.Length > 0)
            {
                if (line._isPty && !line._output.IsConnected())
                    throw new IOException("the other end is closed");
                var count = line._output.Write(data);
                if (count <= 0)
                    throw new IOException("the other end is closed");
                data = data[count..];
            }
        }
    }
}
