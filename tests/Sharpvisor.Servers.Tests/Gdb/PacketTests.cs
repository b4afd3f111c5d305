using System.Text;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>Frames, checksums, acknowledgments (GDB manual, E.1).</summary>
public sealed class PacketTests
{
    [Fact]
    public async Task Packets_are_acknowledged_until_both_agree_not_to()
    {
        await using var client = await GdbClient.AttachAsync();
        Assert.Equal("1", await client.AskAsync("qAttached"));
        await client.QuietAsync();
        Assert.Equal("1", await client.AskAsync("qAttached"));
        // Nobody looks at a checksum now.
        await client.SendRawAsync("$qAttached#00"u8.ToArray());
        Assert.Equal("1", await client.ReplyAsync());
    }

    [Fact]
    public async Task A_wrong_checksum_is_answered_with_a_minus_and_the_packet_may_come_again()
    {
        await using var client = await GdbClient.AttachAsync();
        foreach (var wrong in new[] { "$qAttached#00", "$qAttached#zz", "$}#}#", "$#01" })
        {
            await client.SendRawAsync(Encoding.ASCII.GetBytes(wrong));
            Assert.Equal((byte)'-', await client.ByteAsync());
        }

        Assert.Equal("1", await client.AskAsync("qAttached"));
    }

    [Fact]
    public async Task The_last_reply_comes_again_when_it_was_not_understood()
    {
        await using var client = await GdbClient.AttachAsync();
        Assert.Equal("QC1", await client.AskAsync("qC"));
        await client.SendRawAsync("-"u8.ToArray());
        Assert.Equal("QC1", await client.ReplyAsync());
        await client.SendRawAsync("---"u8.ToArray());
        for (var i = 0; i < 3; i++)
            Assert.Equal("QC1", await client.ReplyAsync());
    }

    [Fact]
    public async Task A_packet_may_come_byte_by_byte_and_several_at_once()
    {
        await using var client = await GdbClient.AttachAsync();
        await client.QuietAsync();
        foreach (var value in GdbClient.Frame("m10,4"u8.ToArray()))
            await client.SendRawAsync([value]);
        Assert.Equal("00000000", await client.ReplyAsync());
        await client.SendRawAsync([.. GdbClient.Frame("qC"u8.ToArray()), .. "+garbage"u8, .. GdbClient.Frame("m10,1"u8.ToArray()), .. "$cut off"u8, .. GdbClient.Frame("qAttached"u8.ToArray())]);
        Assert.Equal("QC1", await client.ReplyAsync());
        Assert.Equal("00", await client.ReplyAsync());
        Assert.Equal("1", await client.ReplyAsync());
    }

    [Theory]
    [InlineData(4097)]
    [InlineData(16 << 20)]
    public async Task A_packet_longer_than_announced_is_an_error_and_no_more(int length)
    {
        await using var client = await GdbClient.AttachAsync();
        Assert.Contains("PacketSize=1000;", await client.AskAsync("qSupported:swbreak+"), StringComparison.Ordinal);
        Assert.Equal("E22", await client.AskAsync(new string('m', length)));
        Assert.Equal("1", await client.AskAsync("qAttached"));
    }

    [Fact]
    public async Task A_packet_of_the_announced_length_is_none_too_long()
    {
        var target = new FakeTarget();
        await using var client = await GdbClient.AttachAsync(target);
        var head = "M100,7f8:";
        Assert.Equal(4096, head.Length + 4080 + 7);
        Assert.Equal("OK", await client.AskAsync(head + string.Concat(Enumerable.Repeat("ab", 0x7F8))));
        Assert.All(target.Memory.Skip(0x100).Take(0x7F8), b => Assert.Equal(0xAB, b));
        Assert.Equal(0, target.Memory[0x100 + 0x7F8]);
    }

    [Fact]
    public void Escapes_come_out_as_they_went_in()
    {
        var data = Enumerable.Range(0, 256).Select(i => (byte)i).ToArray();
        var writer = new PacketWriter(1024).Begin(acknowledges: false);
        Assert.Equal(256, writer.Binary(data));
        writer.End();
        var reader = new PacketReader(1024);
        ReadOnlySpan<byte> bytes = writer.Complete.Span;
        Assert.Equal(Incoming.Packet, reader.Next(ref bytes));
        Assert.Equal(data, reader.Packet.ToArray());
        Assert.True(bytes.IsEmpty);
    }

    [Fact]
    public async Task What_is_unknown_gets_an_empty_reply()
    {
        await using var client = await GdbClient.AttachAsync();
        foreach (var request in new[] { "", "vMustReplyEmpty", "qTStatus", "!", "R00", "bs", "QNonStop:1", "vFile:open:00,0,0", "\u0080\u00ff" })
            Assert.Equal("", await client.AskAsync(request));
    }
}
