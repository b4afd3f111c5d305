// The TFTP server of the user-mode network: it reads, from a folder or from memory, and never writes.
// Follows: RFC 1350 (TFTP), RFC 1123 4.2.3 (no Sorcerer's Apprentice), RFC 2347 (options), RFC 2348 (blksize), RFC 2349
// (timeout, tsize), RFC 7440 (windowsize).
// A transfer has a port of its own on the server's side, of the dynamic range, for as long as it lasts; the network asks
// HasPort for whom a datagram is. Block numbers go on with 0 after 65535, as all servers do that send large files.
// Leaves out: writing, mode mail, multicast, requests to a broadcast address.
using System.Buffers.Binary;
using System.Net;
using System.Text;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Services.Tftp;

internal sealed class TftpService : IUdpService, IDisposable
{
    public const int Port = 69;

    /// <summary>Transfers at a time.</summary>
    public const int Limit = 64;

    private const int HeadersLength = 32; // of IP, UDP and TFTP
    private const int SmallestBlock = 512, LargestBlock = 65464, LargestWindow = 32; // a window lies well within TftpSource.Reach
    private const int FirstDynamicPort = 49152, PortCount = 65536 - FirstDynamicPort;

    private readonly INamedContent _content;
    private readonly IPAddress _address;
    private readonly RequestLog _log;
    private readonly Func<long> _nowMs;
    private readonly int _largestBlock;
    private readonly byte[] _buffer;
    private readonly Dictionary<int, TftpTransfer> _transfers = []; // by the server's port

    /// <param name="address">The server's.</param>
    /// <param name="mtu">Of the network, in bytes: no block is larger than what fits into a datagram.</param>
    /// <param name="nowMs">The clock; for tests.</param>
    public TftpService(INamedContent content, IPAddress address, int mtu, ILogger logger, Func<long>? nowMs = null)
    {
        (_content, _address) = (content, address);
        _nowMs = nowMs ?? (() => Environment.TickCount64);
        _log = new RequestLog(logger, "tftp", _nowMs);
        _largestBlock = Math.Clamp(mtu - HeadersLength, SmallestBlock, LargestBlock);
        _buffer = new byte[_largestBlock + 4];
    }

    /// <summary>Transfers under way.</summary>
    public int Count => _transfers.Count;

    public long NextDeadlineMs
    {
        get
        {
            var next = long.MaxValue;
            foreach (var transfer in _transfers.Values)
                next = Math.Min(next, transfer.DeadlineMs);
            return next;
        }
    }

    public bool HasPort(int port) => _transfers.ContainsKey(port);

    public void OnDatagram(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, IUdpSender sender)
    {
        if (!to.Address.Equals(_address) || data.Length < 2)
            return;
        var opcode = (TftpOpcode)BinaryPrimitives.ReadUInt16BigEndian(data);
        if (_transfers.TryGetValue(to.Port, out var transfer))
            Continue(transfer, opcode, from, data[2..], sender);
        else if (to.Port == Port)
            Begin(opcode, from, data[2..], sender);
    }

    public void OnTime(long nowMs, IUdpSender sender)
    {
        foreach (var transfer in _transfers.Values.Where(t => t.DeadlineMs <= nowMs).ToArray())
        {
            if (transfer.OnTimeout())
                Send(transfer, sender);
            else
                End(transfer, "the client has gone");
        }
    }

    public void Dispose()
    {
        foreach (var transfer in _transfers.Values)
            transfer.Dispose();
        _transfers.Clear();
    }

    private void Begin(TftpOpcode opcode, IPEndPoint from, ReadOnlySpan<byte> body, IUdpSender sender)
    {
        var server = new IPEndPoint(_address, Port);
        switch (opcode)
        {
            case TftpOpcode.ReadRequest:
                Read(from, body, sender);
                break;
            case TftpOpcode.WriteRequest:
                _log.Write($"{from.Address} wants to write: refused");
                SendError(server, from, TftpError.AccessViolation, "nothing can be written here", sender);
                break;
            case TftpOpcode.Data or TftpOpcode.Acknowledgment or TftpOpcode.Error:
                break; // BSD's client acknowledges errors; an answer would end its next transfer
            default:
                SendError(server, from, TftpError.IllegalOperation, "unknown operation", sender);
                break;
        }
    }

    private void Read(IPEndPoint from, ReadOnlySpan<byte> body, IUdpSender sender)
    {
        foreach (var old in _transfers.Values.Where(t => t.Client.Equals(from)).ToArray())
        {
            if (old.IsFresh && body.SequenceEqual(old.RequestBytes))
            {
                Send(old, sender); // the answer was lost
                return;
            }

            End(old, "the client began anew");
        }

        var server = new IPEndPoint(_address, Port);
        if (!TftpRequest.TryRead(body, out var request, out var mistake))
        {
            SendError(server, from, TftpError.IllegalOperation, mistake, sender);
            return;
        }

        if (_transfers.Count >= Limit)
        {
            _log.Write($"{from.Address} read {RequestLog.Clean(request.Name)}: too many transfers");
            SendError(server, from, TftpError.Other, "too many transfers, try again later", sender);
            return;
        }

        var result = _content.TryOpen(request.Name, out var file);
        if (file is null)
        {
            var (error, text) = result switch
            {
                OpenResult.NotFound => (TftpError.FileNotFound, "file not found"),
                OpenResult.Refused => (TftpError.AccessViolation, "access violation"),
                _ => (TftpError.Other, "the file can't be opened"),
            };
            _log.Write($"{from.Address} read {RequestLog.Clean(request.Name)}: {text}");
            SendError(server, from, error, text, sender);
            return;
        }

        TftpSource source = request.IsText ? new NetasciiSource(file) : new OctetSource(file);
        var transfer = new TftpTransfer(request, body.ToArray(), file.Length, source, from, new IPEndPoint(_address, FreePort()), _buffer, _largestBlock, LargestWindow);
        _transfers.Add(transfer.Server.Port, transfer);
        Send(transfer, sender);
    }

    private void Continue(TftpTransfer transfer, TftpOpcode opcode, IPEndPoint from, ReadOnlySpan<byte> body, IUdpSender sender)
    {
        if (!from.Equals(transfer.Client))
        {
            if (opcode != TftpOpcode.Error)
                SendError(transfer.Server, from, TftpError.UnknownTransfer, "unknown transfer", sender);
            return;
        }

        switch (opcode)
        {
            case TftpOpcode.Acknowledgment when body.Length >= 2:
                if (transfer.OnAcknowledged(BinaryPrimitives.ReadUInt16BigEndian(body)))
                    Send(transfer, sender);
                else if (transfer.IsDone)
                    End(transfer, null);
                break;
            case TftpOpcode.Error:
                var text = body.Length > 2 ? Encoding.Latin1.GetString(body[2..]).TrimEnd('\0') : "";
                End(transfer, $"ended by the client: {RequestLog.Clean(text)}");
                break;
            case TftpOpcode.Acknowledgment:
                break;
            default:
                SendError(transfer.Server, from, TftpError.IllegalOperation, "not in a transfer", sender);
                End(transfer, "the client sent something else than acknowledgments");
                break;
        }
    }

    private void Send(TftpTransfer transfer, IUdpSender sender)
    {
        try
        {
            transfer.Send(_nowMs(), sender);
        }
        catch (IOException e)
        {
            SendError(transfer.Server, transfer.Client, TftpError.Other, "the file can't be read any more", sender);
            End(transfer, e.Message);
        }
    }

    /// <param name="trouble">Null: the client has all of it.</param>
    private void End(TftpTransfer transfer, string? trouble)
    {
        _log.Write($"{transfer.Client.Address} read {RequestLog.Clean(transfer.Request.Name)}: {transfer.BytesDone} bytes{(trouble is null ? "" : ", " + trouble)}");
        _transfers.Remove(transfer.Server.Port);
        transfer.Dispose();
    }

    private int FreePort()
    {
        int port;
        do
            port = FirstDynamicPort + Random.Shared.Next(PortCount);
        while (_transfers.ContainsKey(port));
        return port;
    }

    private static void SendError(IPEndPoint from, IPEndPoint to, TftpError error, string text, IUdpSender sender)
    {
        Span<byte> packet = stackalloc byte[128];
        BinaryPrimitives.WriteUInt16BigEndian(packet, (ushort)TftpOpcode.Error);
        BinaryPrimitives.WriteUInt16BigEndian(packet[2..], (ushort)error);
        var length = 4 + Encoding.ASCII.GetBytes(text, packet[4..^1]);
        packet[length] = 0;
        sender.Send(from, to, packet[..(length + 1)]);
    }
}
