using System.Text;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Tests.Host;

/// <summary>Of one text, packed by xz, lzma and zstd.</summary>
public sealed class HostDecompressorsTests
{
    private const string Xz = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4ACLABhdACoaCKIC86hQ9pBpfzUSc0kb3X4HK2WAAAB0f1mhcxXLvwABNIwBAAAAkKsUkLHEZ/sCAAAAAARZWg==";
    private const string Lzma = "XQAAgAD//////////wAqGgiiAvOoUPaQaX81EnNJG91+By/hU////fTAAA==";
    private const string Zstandard = "KLUv/SCM7QAAeFRoZSBrZXJuZWwsIHQuVAQAZBQKgAM6P+xf+QI=";

    private delegate void Unpack(ReadOnlySpan<byte> source, Span<byte> destination);

    private static readonly string Text = string.Concat(Enumerable.Repeat("The kernel, the kernel, the kernel.", 4));

    public static TheoryData<string> Formats => ["xz", "lzma", "zstd"];

    [Theory]
    [MemberData(nameof(Formats))]
    public void What_was_packed_comes_back(string format)
    {
        var (unpack, data) = Of(format);
        var text = new byte[Text.Length];
        unpack(data, text);
        Assert.Equal(Text, Encoding.ASCII.GetString(text));
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Damaged_data_are_refused(string format)
    {
        var (unpack, data) = Of(format);
        if (format != "lzma") // which does not say where it ends
            Assert.Throws<InvalidDataException>(() => unpack(data, new byte[Text.Length - 1]));
        Assert.Throws<InvalidDataException>(() => unpack(data.AsSpan(0, data.Length / 2), new byte[Text.Length]));
        data[^(data.Length / 3)] ^= 0x55;
        try
        {
            var text = new byte[Text.Length];
            unpack(data, text);
            Assert.NotEqual(Text, Encoding.ASCII.GetString(text));
        }
        catch (InvalidDataException)
        {
            // Formats with a check sum see it.
        }
    }

    private static (Unpack Unpack, byte[] Data) Of(string format) => format switch
    {
        "xz" => (HostDecompressors.UnpackXz, Convert.FromBase64String(Xz)),
        "lzma" => (HostDecompressors.UnpackLzma, Convert.FromBase64String(Lzma)),
        _ => (HostDecompressors.UnpackZstandard, Convert.FromBase64String(Zstandard)),
    };
}
