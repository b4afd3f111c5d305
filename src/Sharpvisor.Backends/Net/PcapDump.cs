// A recording of what goes over a network cable, for tcpdump and Wireshark.
// Follows: the pcap file format (draft-ietf-opsawg-pcap): version 2.4, link type 1 (Ethernet), microseconds; as QEMU's
// filter-dump, frames are recorded as they cross the cable: segments that the NIC would cut are whole, and their
// checksums unfinished.
// Leaves out: pcapng, rotation of files.

using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net;

/// <summary>Another backend, whose frames are recorded.</summary>
public sealed class PcapDump : INetworkBackend
{
    public const int DefaultFrameLimit = 65536;

    private const uint Magic = 0xA1B2C3D4, Ethernet = 1;
    private const int FileHeaderLength = 24, RecordHeaderLength = 16;

    private readonly INetworkBackend _inner;
    private readonly ILogger _logger;
    private readonly int _frameLimit;
    private readonly string _path;
    private FileStream? _file;

    /// <param name="frameLimit">Bytes of a frame that are kept.</param>
    /// <exception cref="ConfigurationException">The file can't be made.</exception>
    public PcapDump(INetworkBackend inner, string path, ILogger logger, int frameLimit = DefaultFrameLimit)
    {
        _inner = inner;
        _logger = logger;
        _frameLimit = frameLimit;
        _path = path;
        try
        {
            _file = new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.Read, 1 << 16);
            WriteFileHeader(_file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new ConfigurationException($"{path}: can't record frames there: {e.Message}; give another file", e);
        }
    }

    public string Name => _inner.Name;

    /// <summary>What it records.</summary>
    public INetworkBackend Inner => _inner;

    public bool TakesOffloads => _inner.TakesOffloads;

    public void Attach(INetworkDevice device) => _inner.Attach(new Wire(this, device));

    public void OnTransmitReady() => _inner.OnTransmitReady();

    public void OnReceiveReady() => _inner.OnReceiveReady();

    public async ValueTask DisposeAsync()
    {
        await _inner.DisposeAsync().ConfigureAwait(false); // nobody writes any more
        Try(file =>
        {
            file.Dispose();
            _file = null;
        });
    }

    private void WriteFileHeader(FileStream file)
    {
        Span<byte> header = stackalloc byte[FileHeaderLength];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(header[4..], 2);
        BinaryPrimitives.WriteUInt16LittleEndian(header[6..], 4);
        BinaryPrimitives.WriteInt32LittleEndian(header[16..], _frameLimit);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], Ethernet);
        file.Write(header);
        file.Flush();
    }

    private void Record(in EthernetFrame frame)
    {
        if (_file is null)
            return;
        Span<byte> header = stackalloc byte[RecordHeaderLength];
        var now = DateTime.UtcNow - DateTime.UnixEpoch;
        var length = Math.Min(frame.Length, _frameLimit);
        BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)(now.Ticks / TimeSpan.TicksPerSecond));
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], (uint)(now.Ticks % TimeSpan.TicksPerSecond / TimeSpan.TicksPerMicrosecond));
        BinaryPrimitives.WriteInt32LittleEndian(header[8..], length);
        BinaryPrimitives.WriteInt32LittleEndian(header[12..], frame.Length);
        try
        {
            _file.Write(header);
            foreach (var i in (ReadOnlySpan<int>)[0, 1, 2])
            {
                var piece = i == 0 ? frame.First : i == 1 ? frame.Second : frame.Third;
                piece = piece[..Math.Min(piece.Length, length)];
                _file.Write(piece);
                length -= piece.Length;
            }
        }
        catch (IOException e)
        {
            GiveUp(e);
        }
    }

    private void Try(Action<FileStream> action)
    {
        try
        {
            if (_file is { } file)
                action(file);
        }
        catch (IOException e)
        {
            GiveUp(e);
        }
    }

    private void GiveUp(IOException e)
    {
        _logger.LogError("{Path}: {Error}: no more frames are recorded", _path, e.Message);
        _file = null;
    }

    private sealed class Wire(PcapDump dump, INetworkDevice device) : INetworkDevice
    {
        public MacAddress Address => device.Address;

        public ReceiveOffloads ReceiveOffloads => device.ReceiveOffloads;

        public bool TryTransmit(PacketBuffer packet)
        {
            if (!device.TryTransmit(packet))
            {
                dump.Try(file => file.Flush()); // there is time now
                return false;
            }

            dump.Record(new EthernetFrame(packet.Frame));
            return true;
        }

        public bool TryReceive(in EthernetFrame frame)
        {
            if (!device.TryReceive(frame))
                return false;
            dump.Record(frame);
            return true;
        }
    }
}
