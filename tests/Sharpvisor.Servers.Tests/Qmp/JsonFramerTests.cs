using System.Text;
using Sharpvisor.Servers.Qmp;

namespace Sharpvisor.Servers.Tests.Qmp;

public sealed class JsonFramerTests
{
    [Theory]
    [InlineData("{}", "{}")]
    [InlineData(" {\"a\":1}{\"b\":[2]} \r\n[3]", "{\"a\":1}|{\"b\":[2]}|[3]")]
    [InlineData("{\"}\":\"{[\\\"\"}", "{\"}\":\"{[\\\"\"}")]
    [InlineData("{\"a\":\"\\\\\"}{}", "{\"a\":\"\\\\\"}|{}")]
    [InlineData("hello\n{}", "hello|{}")]
    [InlineData("hello{}", "hello|{}")]
    [InlineData("}}{}", "}|}|{}")]
    [InlineData("{\n \"a\":\n1}", "{\n \"a\":\n1}")]
    [InlineData("\"a{b\"\n{}", "\"a{b\"|{}")]
    [InlineData("{\"a\":\"b\nc\"}\n{}", "Broken|Broken|{}")] // what is left of the line is looked at anew, and opens a string
    [InlineData("{\"a\"", "")]
    public void Values_end_where_their_brackets_do(string text, string frames)
    {
        Assert.Equal(frames, Cut(text, text.Length));
        Assert.Equal(frames, Cut(text, 1)); // whatever pieces it comes in
        Assert.Equal(frames, Cut(text, 3));
    }

    [Fact]
    public void What_is_too_deep_or_too_long_is_dropped_up_to_the_end_of_the_line()
    {
        var framer = new JsonFramer();
        Assert.Equal("TooDeep|{}", Cut(new string('[', 1_000_000) + "\n{}", 4096, framer));
        Assert.Equal("TooLong|{}", Cut("{\"a\":\"" + new string('x', 16 << 20) + "\n{}", 4096, framer));
        Assert.Equal("TooLong|{}", Cut(new string('x', 2 << 20) + "\n{}", 4096, framer));
        var deepest = new string('[', JsonFramer.MaximumDepth) + new string(']', JsonFramer.MaximumDepth);
        Assert.Equal(deepest, Cut(deepest, 4096, framer));
    }

    private static string Cut(string text, int piece, JsonFramer? framer = null)
    {
        framer ??= new JsonFramer();
        List<string> frames = [];
        var bytes = Encoding.UTF8.GetBytes(text);
        for (var at = 0; at < bytes.Length; at += piece)
        {
            ReadOnlySpan<byte> rest = bytes.AsSpan(at, Math.Min(piece, bytes.Length - at));
            while (framer.TryRead(ref rest, out var frame, out var value))
                frames.Add(frame == JsonFrame.Value ? Encoding.UTF8.GetString(value.Span) : frame.ToString());
        }

        return string.Join('|', frames);
    }
}
