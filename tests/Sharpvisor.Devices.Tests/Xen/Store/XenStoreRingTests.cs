using System.Buffers.Binary;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Devices.Tests.Xen.Store;

/// <summary>The wire protocol, by the ring of a domain.</summary>
public sealed class XenStoreRingTests : IDisposable
{
    private const int Guest = 3;
    private const ulong Page = 0x5000;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly GuestErrorLog _errors = new(NullLogger.Instance);
    private readonly XenStore _store = new();
    private readonly XenStoreRing _ring;
    private readonly List<byte> _received = [];
    private int _notified;

    public XenStoreRingTests()
    {
        _store.Write(0, 0, "/local/domain/3", default);
        _store.SetRights(0, 0, "/local/domain/3", [new(Guest, StoreAccess.None)]);
        _ring = new XenStoreRing(_store, Guest, _memory, Page, _errors, () => _notified++);
    }

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void Requests_are_answered_with_their_numbers()
    {
        Assert.Equal("11 7 0 OK\0", Ask(11, "device/vif/0/state\0" + "4", id: 7));
        Assert.Equal("2 8 0 4", Ask(2, "device/vif/0/state\0", id: 8));
        Assert.Equal("1 9 0 vif\0", Ask(1, "/local/domain/3/device\0", id: 9));
        Assert.Equal("10 1 0 /local/domain/12\0", Ask(10, "12\0"));
        Assert.Equal("3 1 0 n3\0", Ask(3, "device\0"));
        Assert.Equal("14 1 0 OK\0", Ask(14, "device\0n3\0r0\0"));
        Assert.Equal("3 1 0 n3\0r0\0", Ask(3, "device\0"));
        Assert.Equal("12 1 0 OK\0", Ask(12, "dir\0"));
        Assert.Equal("13 1 0 OK\0", Ask(13, "dir\0"));
        Assert.True(_notified >= 9);
        Assert.False(_ring.IsBroken);
    }

    [Theory]
    [InlineData(2, "missing\0", "ENOENT")]
    [InlineData(2, "no zero", "EINVAL")]
    [InlineData(2, "", "EINVAL")]
    [InlineData(2, "\0", "EINVAL")]
    [InlineData(2, "a//b\0", "EINVAL")]
    [InlineData(2, "a/\0", "EINVAL")]
    [InlineData(2, "a/../b\0", "EINVAL")]
    [InlineData(2, "a b\0", "EINVAL")]
    [InlineData(2, "a\0b\0", "EINVAL")]
    [InlineData(2, "/local/domain/0\0", "EACCES")]
    [InlineData(11, "/local/domain/0/x\0", "EACCES")]
    [InlineData(11, "x", "EINVAL")]
    [InlineData(14, "device\0", "ENOENT", "EINVAL")]
    [InlineData(14, "device\0x3\0", "EINVAL")]
    [InlineData(14, "device\0n99999\0", "EINVAL")]
    [InlineData(14, "device\0n3", "EINVAL")]
    [InlineData(4, "device\0", "EINVAL")]
    [InlineData(4, "\0t\0", "EINVAL")]
    [InlineData(5, "device\0t\0", "ENOENT")]
    [InlineData(7, "T\0", "ENOENT")]
    [InlineData(7, "X\0", "EINVAL")]
    [InlineData(10, "x\0", "EINVAL")]
    [InlineData(8, "1\0", "ENOSYS")]
    [InlineData(0, "print\0", "EACCES")]
    [InlineData(16, "\0", "ENOSYS")]
    [InlineData(0xFFFFFFFF, "", "ENOSYS")]
    public void Wrong_requests_get_the_right_error(uint type, string payload, params string[] errors) =>
        Assert.Contains(Ask(type, payload), errors.Select(e => $"16 1 0 {e}\0"));

    [Fact]
    public void A_long_path_is_an_error()
    {
        Assert.Equal("16 1 0 EINVAL\0", Ask(2, new string('a', 2049) + "\0"));
        Assert.Equal("16 1 0 ENOENT\0", Ask(2, new string('a', 2048) + "\0"));
        Assert.Equal("16 1 0 EINVAL\0", Ask(2, "/" + new string('a', 3072) + "\0"));
        Assert.Equal("16 1 0 E2BIG\0", Ask(11, "x\0" + new string('v', 2049)));
    }

    [Fact]
    public void Watches_fire_at_once_and_later_with_the_path_as_it_was_named()
    {
        Assert.Equal("15 0 0 device\0tok\0", Ask(4, "device\0tok\0", answers: 2).Split('|')[0]);
        _store.Write(0, 0, "/local/domain/3/device/vbd", default);
        Assert.Equal("15 0 0 device/vbd\0tok\0", Receive());
        Assert.Equal("21 1 0 OK\0", Ask(21, "\0"));
        _store.Write(0, 0, "/local/domain/3/device/vif", default);
        Assert.Equal("", Receive());
        Assert.Contains("15 0 0 @releaseDomain\0t\0", Ask(4, "@releaseDomain\0t\0", answers: 2), StringComparison.Ordinal);
    }

    [Fact]
    public void Transactions_have_numbers()
    {
        var number = uint.Parse(Ask(6, "\0").Split(' ')[3].TrimEnd('\0'), System.Globalization.CultureInfo.InvariantCulture);
        Assert.NotEqual(0u, number);
        Assert.Equal($"11 1 {number} OK\0", Ask(11, "a\0" + "1", transaction: number));
        Assert.Equal("16 1 0 ENOENT\0", Ask(2, "a\0"));
        Assert.Equal($"7 1 {number} OK\0", Ask(7, "T\0", transaction: number));
        Assert.Equal("2 1 0 1", Ask(2, "a\0"));
        Assert.Equal("16 1 5 EBUSY\0", Ask(6, "\0", transaction: 5));
    }

    [Fact]
    public void A_long_list_comes_in_parts()
    {
        for (var i = 0; i < 900; i++)
            _store.Write(Guest, 0, $"/local/domain/3/many/{i:D6}", default);
        Assert.Equal("16 1 0 E2BIG\0", Ask(1, "many\0"));
        var names = new List<string>();
        for (var offset = 0; ;)
        {
            var part = Ask(22, $"many\0{offset}\0").Split(' ', 4)[3].Split('\0');
            var got = part[1..].TakeWhile(n => n.Length > 0).ToList();
            names.AddRange(got);
            offset += got.Sum(n => n.Length + 1);
            if (part is [.., "", ""])
                break;
        }

        Assert.Equal(Enumerable.Range(0, 900).Select(i => $"{i:D6}"), names);
    }

    [Fact]
    public void Who_does_not_read_is_not_served_and_then_cut_off()
    {
        Ask(4, "w\0t\0", answers: 2);
        for (var i = 0; i < 100_000 && !_ring.IsBroken; i++)
            _store.Write(0, 0, "/local/domain/3/w", default);
        Assert.True(_ring.IsBroken);
        Assert.Equal(3u, Read(2072));
        Assert.NotEmpty(_errors.Counts);
    }

    [Fact]
    public void Indices_that_can_not_be_break_the_ring()
    {
        _memory.TryWrite(Page + 2052, 2000u);
        _ring.Serve();
        Assert.True(_ring.IsBroken);
        Assert.Equal(2u, Read(2072));
        _ring.Serve();
    }

    [Fact]
    public void A_message_that_is_too_long_breaks_the_ring()
    {
        Put(Header(2, 1, 0, 4097));
        _ring.Serve();
        Assert.True(_ring.IsBroken);
    }

    [Fact]
    public void Random_requests_harm_nobody()
    {
        var count = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var n) ? n : 20_000;
        var random = new Random(4711);
        string[] paths = ["a", "a/b", "/local/domain/3/a", "/", "/local", "device/x", "@releaseDomain", "a/../b", "", "/local/domain/0/x"];
        string[] tails = ["", "\0", "\0t\0", "\0n3\0", "\0b9\0r3\0", "\0" + "0\0", "\0value", "T\0", "F\0"];
        for (var i = 0; i < count && !_ring.IsBroken; i++)
        {
            var payload = Encoding.Latin1.GetBytes(paths[random.Next(paths.Length)] + tails[random.Next(tails.Length)]);
            if (random.Next(4) == 0)
                random.NextBytes(payload);
            Put(Header((uint)random.Next(24), (uint)i, random.Next(3) == 0 ? (uint)random.Next(20) : 0, (uint)payload.Length));
            Put(payload);
            _ring.Serve();
            while (Receive().Length > 0)
            {
            }
        }

        Assert.False(_ring.IsBroken);
        Assert.True(_store.WatchCount <= 128 && _store.TransactionCount <= 10);
    }

    private static byte[] Header(uint type, uint id, uint transaction, uint length)
    {
        var bytes = new byte[16];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, type);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), id);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), transaction);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(12), length);
        return bytes;
    }

    private uint Read(uint offset) => _memory.TryRead(Page + offset, out uint value) ? value : throw new InvalidOperationException();

    /// <summary>What the driver does: bytes into the ring, as many as it has room for.</summary>
    private void Put(byte[] bytes)
    {
        foreach (var b in bytes)
        {
            var producer = Read(2052);
            if (producer - Read(2048) == 1024)
                _ring.Serve();
            _memory.TryWrite(Page + (producer % 1024), b);
            _memory.TryWrite(Page + 2052, producer + 1);
        }
    }

    /// <summary>The next message as "type id transaction payload", or nothing.</summary>
    private string Receive()
    {
        while (true)
        {
            var consumer = Read(2056);
            for (; consumer != Read(2060); consumer++)
            {
                _memory.TryRead(Page + 1024 + (consumer % 1024), out byte b);
                _received.Add(b);
            }

            var moved = consumer != Read(2056);
            _memory.TryWrite(Page + 2056, consumer);
            if (_received.Count >= 16 && _received.Count >= 16 + BitConverter.ToInt32([.. _received], 12))
                break;
            if (!moved)
                return "";
            _ring.Serve();
        }

        var all = _received.ToArray();
        var length = BitConverter.ToInt32(all, 12);
        _received.RemoveRange(0, 16 + length);
        return $"{BitConverter.ToUInt32(all, 0)} {BitConverter.ToUInt32(all, 4)} {BitConverter.ToUInt32(all, 8)} {Encoding.Latin1.GetString(all, 16, length)}";
    }

    private string Ask(uint type, string payload, uint id = 1, uint transaction = 0, int answers = 1)
    {
        Put(Header(type, id, transaction, (uint)payload.Length));
        Put(Encoding.Latin1.GetBytes(payload));
        _ring.Serve();
        return string.Join('|', Enumerable.Range(0, answers).Select(_ => Receive()));
    }
}
