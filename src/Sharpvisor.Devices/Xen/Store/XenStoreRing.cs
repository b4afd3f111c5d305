// The store's end of the page that a domain and the store share: two rings of bytes.
// Follows: Xen's public header io/xs_wire.h, struct xenstore_domain_interface.
// Leaves out: the reconnection of a running guest (server_features bit 0).

using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Store;

/// <summary>Serves requests from the ring of one domain. Used with the machine's gate held.</summary>
public sealed class XenStoreRing
{
    private const int RingSize = 1024, Requests = 0, Answers = 1024;
    private const int RequestConsumer = 2048, RequestProducer = 2052, AnswerConsumer = 2056, AnswerProducer = 2060, Error = 2072;
    private const uint ErrorRingIndex = 2, ErrorProtocol = 3;

    /// <summary>Bytes that may wait for a domain that reads nothing; watch events beyond that end the connection.</summary>
    private const int WaitingLimit = 1 << 20;

    private readonly GuestMemory _memory;
    private readonly ulong _page;
    private readonly GuestErrorLog _errors;
    private readonly Action _notify;
    private readonly StoreMessages _messages;
    private readonly Queue<ReadOnlyMemory<byte>> _waiting = new();
    private readonly byte[] _input = new byte[StoreHeader.Size + StoreHeader.PayloadLimit];
    private int _inputLength, _waitingLength;

    /// <summary>Bytes of the first message that are in the ring already.</summary>
    private int _sent;
    private bool _isServing;

    /// <param name="page">Guest-physical address of the shared page.</param>
    /// <param name="notify">Raises the event channel of the ring.</param>
    public XenStoreRing(XenStore store, int domain, GuestMemory memory, ulong page, GuestErrorLog errors, Action notify)
    {
        _memory = memory;
        _page = page;
        _errors = errors;
        _notify = notify;
        _messages = new StoreMessages(store, domain, Send);
    }

    /// <summary>The domain broke the protocol: nothing of it is served any more.</summary>
    public bool IsBroken { get; private set; }

    /// <summary>The domain has raised the event channel: it asked for something, or has read answers.</summary>
    public void Serve()
    {
        if (IsBroken || _isServing)
            return;
        _isServing = true;
        var moved = Flush();
        while (!IsBroken && _waiting.Count == 0 && TryReceive(out var header))
        {
            _messages.Serve(header, _input.AsMemory(StoreHeader.Size, (int)header.Length));
            _inputLength = 0;
            Flush();
            moved = true;
        }

        _isServing = false;
        if (moved)
            _notify();
    }

    private void Send(ReadOnlyMemory<byte> message)
    {
        if (IsBroken)
            return;
        if (_waitingLength + message.Length > WaitingLimit)
        {
            Break(ErrorProtocol, "events that are not read");
            return;
        }

        _waiting.Enqueue(message);
        _waitingLength += message.Length;
        if (!_isServing && Flush())
            _notify(); // a watch event, caused by somebody else
    }

    /// <summary>Takes bytes of requests; true: there is a whole message.</summary>
    private bool TryReceive(out StoreHeader header)
    {
        header = default;
        while (true)
        {
            var wanted = StoreHeader.Size;
            if (_inputLength >= StoreHeader.Size)
            {
                header = StoreHeader.Read(_input);
                if (header.Length > StoreHeader.PayloadLimit)
                {
                    Break(ErrorProtocol, "a message that is too long");
                    return false;
                }

                wanted += (int)header.Length;
                if (_inputLength == wanted)
                    return true;
            }

            if (!TryIndices(RequestConsumer, RequestProducer, out var consumer, out var producer))
                return false;
            var count = (int)Math.Min(producer - consumer, (uint)(wanted - _inputLength));
            if (count == 0)
                return false;
            for (var i = 0; i < count; i++)
            {
                if (!_memory.TryRead(_page + Requests + ((consumer + (uint)i) % RingSize), out _input[_inputLength + i]))
                    return false;
            }

            _inputLength += count;
            _memory.TryWrite(_page + RequestConsumer, consumer + (uint)count);
        }
    }

    /// <summary>Moves what waits into the ring. True: some did, or the domain has made room.</summary>
    private bool Flush()
    {
        var moved = false;
        while (!IsBroken && _waiting.TryPeek(out var message))
        {
            if (!TryIndices(AnswerConsumer, AnswerProducer, out var consumer, out var producer))
                return moved;
            var count = Math.Min(RingSize - (int)(producer - consumer), message.Length - _sent);
            if (count == 0)
                return moved;
            for (var i = 0; i < count; i++)
                _memory.TryWrite(_page + Answers + ((producer + (uint)i) % RingSize), message.Span[_sent + i]);
            Interlocked.MemoryBarrier(); // the bytes come before the index
            _memory.TryWrite(_page + AnswerProducer, producer + (uint)count);
            moved = true;
            _waitingLength -= count;
            _sent += count;
            if (_sent < message.Length)
                continue;
            _waiting.Dequeue();
            _sent = 0;
        }

        return moved;
    }

    private bool TryIndices(int consumerAt, int producerAt, out uint consumer, out uint producer)
    {
        producer = 0;
        if (!_memory.TryRead(_page + (uint)consumerAt, out consumer) || !_memory.TryRead(_page + (uint)producerAt, out producer))
            return false;
        if (producer - consumer <= RingSize)
            return true;
        Break(ErrorRingIndex, "ring indices that can't be");
        return false;
    }

    private void Break(uint error, string kind)
    {
        IsBroken = true;
        _waiting.Clear();
        _waitingLength = _sent = 0;
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, error);
        _memory.TryWrite(_page + Error, bytes);
        _errors.Report("xenstore", kind);
        _notify();
    }
}
