using System.Text;

namespace Sharpvisor.Tests.Debugging.Symbols;

/// <summary>Where a kernel has its tables.</summary>
public enum KallsymsLayout
{
    /// <summary>Up to 6.1: offsets first.</summary>
    Old,

    /// <summary>6.2 and 6.3: the order of names between markers and tokens.</summary>
    WithSequences,

    /// <summary>Since 6.4: offsets behind the tokens.</summary>
    New,
}

/// <summary>Makes the tables that scripts/kallsyms.c makes, for symbols of a test.</summary>
internal static class KallsymsImage
{
    private static readonly string[] LongTokens = ["sys_", "_read", "write", "tvirtio", "Tx64_"];

    /// <param name="symbols">In ascending order of address; those below the kernel's map are absolute (per-CPU).</param>
    /// <param name="prefix">Bytes of something else before the tables.</param>
    public static byte[] Make(IReadOnlyList<(ulong Address, char Kind, string Name)> symbols, KallsymsLayout layout, ulong relativeBase, bool hasAbsolute, int prefix = 4096)
    {
        var tokens = new string[256];
        for (var i = 0; i < 256; i++)
            tokens[i] = i is >= 32 and < 127 ? ((char)i).ToString() : LongTokens[i % LongTokens.Length];
        var image = new MemoryStream();
        image.SetLength(image.Position = prefix);
        if (layout != KallsymsLayout.New)
            Offsets();
        image.Write(BitConverter.GetBytes(symbols.Count));
        Align();
        List<int> markers = [];
        var names = (int)image.Position;
        for (var i = 0; i < symbols.Count; i++)
        {
            if (i % 256 == 0)
                markers.Add((int)image.Position - names);
            var packed = Pack(symbols[i].Kind + symbols[i].Name, tokens);
            if (packed.Length >= 0x80)
                image.WriteByte((byte)(packed.Length | 0x80));
            image.WriteByte((byte)(packed.Length >= 0x80 ? packed.Length >> 7 : packed.Length));
            image.Write(packed);
        }

        Align();
        foreach (var marker in markers)
            image.Write(BitConverter.GetBytes(marker));
        Align();
        if (layout == KallsymsLayout.WithSequences)
        {
            for (var i = 0; i < symbols.Count; i++)
                image.Write([(byte)(i >> 16), (byte)(i >> 8), (byte)i]);
            Align();
        }

        List<int> index = [];
        var table = (int)image.Position;
        foreach (var token in tokens)
        {
            index.Add((int)image.Position - table);
            image.Write(Encoding.ASCII.GetBytes(token + '\0'));
        }

        Align();
        foreach (var at in index)
            image.Write(BitConverter.GetBytes((ushort)at));
        Align();
        if (layout == KallsymsLayout.New)
            Offsets();
        image.Write(new byte[64]);
        return image.ToArray();

        void Offsets()
        {
            foreach (var (address, _, _) in symbols)
            {
                var offset = !hasAbsolute ? (uint)(address - relativeBase) : address < 0xFFFF_FFFF_8000_0000 ? (uint)address : (uint)(relativeBase - address - 1);
                image.Write(BitConverter.GetBytes(offset));
            }

            Align();
            image.Write(BitConverter.GetBytes(relativeBase));
        }

        void Align()
        {
            while (image.Position % 8 != 0)
                image.WriteByte(0);
        }
    }

    private static byte[] Pack(string name, string[] tokens)
    {
        List<byte> packed = [];
        for (var at = 0; at < name.Length;)
        {
            var best = (int)name[at];
            for (var i = 0; i < tokens.Length; i++)
            {
                if (tokens[i].Length > tokens[best].Length && string.CompareOrdinal(name, at, tokens[i], 0, tokens[i].Length) == 0)
                    best = i;
            }

            packed.Add((byte)best);
            at += tokens[best].Length;
        }

        return [.. packed];
    }
}
