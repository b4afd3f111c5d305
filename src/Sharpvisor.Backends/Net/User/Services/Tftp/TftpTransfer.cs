// A transfer of TFTP: RFC 1350, 2 and 6, with windows of RFC 7440.
using System.Buffers.Binary;
using System.Net;
using System.Text;

namespace Sharpvisor.Backends.Net.User.Services.Tftp;

/// <summary>
/// One file on its way to one client. Blocks are counted from 1 in 64 bits; on the wire are the low 16, so that the number
/// after 65535 is 0. The blocks of a window are sent at once; after a loss they are sent again from the first that is missing.
/// </summary>
internal sealed class TftpTransfer : IDisposable
{
    private const int DefaultBlockSize = 512, HeaderLength = 4;
    private const int FirstWaitMs = 1000, LongestWaitMs = 8000, Tries = 10;

    private readonly TftpSource _source;
    private readonly byte[] _buffer;
    private readonly byte[]? _options;
    private readonly int _blockSize;
    private readonly int _window;
    private readonly int? _intervalMs;

    private long _acknowledged; // -1: not even the options
    private long _sent;
    private long _last = long.MaxValue; // known when it has been read
    private int _lastLength;
    private int _triesLeft = Tries;
    private int _waitMs;
    private bool _resent; // blocks of this window have been sent before
    private bool _copiesExpected; // of the last acknowledgment, since blocks of the window before were sent twice

    /// <param name="buffer">For one packet; shared with other transfers.</param>
    public TftpTransfer(TftpRequest request, byte[] requestBytes, long length, TftpSource source, IPEndPoint client, IPEndPoint server, byte[] buffer, int largestBlock, int largestWindow)
    {
        (Request, RequestBytes, _source, Client, Server, _buffer) = (request, requestBytes, source, client, server, buffer);
        _blockSize = Math.Min(request.BlockSize ?? DefaultBlockSize, largestBlock);
        _window = Math.Min(request.WindowSize ?? 1, largestWindow);
        _intervalMs = request.TimeoutSeconds * 1000;
        _options = MakeOptions(length);
        _acknowledged = _options is null ? 0 : -1;
    }

    public TftpRequest Request { get; }

    /// <summary>To know a repeated request by.</summary>
    public byte[] RequestBytes { get; }

    public IPEndPoint Client { get; }

    /// <summary>The transfer's own port.</summary>
    public IPEndPoint Server { get; }

    /// <summary>When the last packet is to be sent again.</summary>
    public long DeadlineMs { get; private set; }

    /// <summary>What the client has, in bytes.</summary>
    public long BytesDone { get; private set; }

    public bool IsDone => _acknowledged >= _last;

    /// <summary>Whether nothing has come from the client but its request.</summary>
    public bool IsFresh { get; private set; } = true;

    public void Dispose() => _source.Dispose();

    /// <summary>Sends the options, or all blocks of the window that the client does not have.</summary>
    /// <exception cref="IOException">The host can't read the file.</exception>
    public void Send(long nowMs, IUdpSender sender)
    {
        if (_acknowledged < 0)
        {
            sender.Send(Server, Client, _options);
        }
        else
        {
            _resent |= _sent > _acknowledged;
            var end = Math.Min(_acknowledged + _window, _last);
            for (var number = _acknowledged + 1; number <= end; number++)
            {
                var count = _source.Read(number, _buffer.AsSpan(HeaderLength, _blockSize));
                if (count < _blockSize)
                    end = _last = number;
                BinaryPrimitives.WriteUInt16BigEndian(_buffer, (ushort)TftpOpcode.Data);
                BinaryPrimitives.WriteUInt16BigEndian(_buffer.AsSpan(2), (ushort)number);
                sender.Send(Server, Client, _buffer.AsSpan(0, HeaderLength + count));
                _sent = Math.Max(_sent, number);
                if (number == _last)
                    _lastLength = count;
            }
        }

        _waitMs = _intervalMs ?? (_waitMs == 0 ? FirstWaitMs : Math.Min(2 * _waitMs, LongestWaitMs));
        DeadlineMs = nowMs + _waitMs;
    }

    /// <summary>The client has a block, and all before it.</summary>
    /// <returns>Whether something is to be sent.</returns>
    public bool OnAcknowledged(ushort number)
    {
        var low = Math.Max(_acknowledged, 0);
        var ahead = (ushort)(number - (ushort)low);
        var block = low + ahead;
        IsFresh = false;
        if (_acknowledged < 0)
        {
            if (number != 0)
                return false;
            Progress(0);
            return true;
        }

        if (block > _sent)
            return false; // never sent, or from long ago
        if (ahead == 0)
        {
            // Once more what it had acknowledged: with a window that is the way to say that the next block is missing. But it
            // may be a copy, and answering each would double all packets to the end of the file.
            return _window > 1 && !_resent && !_copiesExpected && _sent > low;
        }

        Progress(block);
        return !IsDone;
    }

    /// <summary>Nothing has come for a while.</summary>
    /// <returns>False: for too long.</returns>
    public bool OnTimeout() => --_triesLeft > 0;

    private void Progress(long block)
    {
        _acknowledged = block;
        _triesLeft = Tries;
        _waitMs = 0;
        (_copiesExpected, _resent) = (_resent, false);
        BytesDone = block >= _last ? ((_last - 1) * _blockSize) + _lastLength : block * _blockSize;
    }

    /// <summary>The packet that says which options were taken and how (RFC 2347); null: there are none.</summary>
    private byte[]? MakeOptions(long length)
    {
        List<byte> packet = [0, (byte)TftpOpcode.OptionAcknowledgment];
        if (Request.BlockSize is not null)
            Add("blksize", _blockSize);
        if (Request.WindowSize is not null)
            Add("windowsize", _window);
        if (Request.TimeoutSeconds is { } seconds)
            Add("timeout", seconds);
        if (Request is { WantsLength: true, IsText: false }) // as text it is known when it has been sent
            Add("tsize", length);
        return packet.Count > 2 ? [.. packet] : null;

        void Add(string name, long value) => packet.AddRange(Encoding.ASCII.GetBytes(FormattableString.Invariant($"{name}\0{value}\0")));
    }
}
