// The feature name table of qcow2: names of the bits in a header, so that a program that does not know one can name it.
// Follows: QEMU's docs/interop/qcow2.txt, "Feature name table".
using System.Text;

namespace Sharpvisor.Backends.Block.Qcow2;

internal static class Qcow2Features
{
    public const int Incompatible = 0, Compatible = 1, Autoclear = 2;

    private const int EntrySize = 48;

    /// <summary>Names by kind and bit.</summary>
    public static IReadOnlyDictionary<(int Kind, int Bit), string> Known { get; } = new Dictionary<(int, int), string>
    {
        [(Incompatible, 0)] = "dirty bit",
        [(Incompatible, 1)] = "corrupt bit",
        [(Incompatible, 2)] = "external data file",
        [(Incompatible, 3)] = "compression type",
        [(Incompatible, 4)] = "extended L2 entries",
        [(Compatible, 0)] = "lazy refcounts",
        [(Autoclear, 0)] = "bitmaps",
        [(Autoclear, 1)] = "raw external data",
    };

    public static IReadOnlyDictionary<(int Kind, int Bit), string> Parse(ReadOnlySpan<byte> table)
    {
        var names = new Dictionary<(int, int), string>();
        for (; table.Length >= EntrySize; table = table[EntrySize..])
        {
            // A name is the image's own: keep what can be printed.
            var name = new string([.. Encoding.Latin1.GetString(table[2..EntrySize]).TakeWhile(c => c != '\0').Select(c => char.IsAsciiLetterOrDigit(c) || c is ' ' or '-' or '_' ? c : '?')]);
            names[(table[0], table[1])] = name;
        }

        foreach (var (bit, name) in Known)
            names[bit] = name;
        return names;
    }

    public static byte[] ToTable()
    {
        var table = new byte[Known.Count * EntrySize];
        var at = 0;
        foreach (var ((kind, bit), name) in Known)
        {
            (table[at], table[at + 1]) = ((byte)kind, (byte)bit);
            Encoding.ASCII.GetBytes(name, table.AsSpan(at + 2));
            at += EntrySize;
        }

        return table;
    }
}
