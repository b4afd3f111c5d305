// The symbol table that Linux keeps in its read-only data for itself (kernel/kallsyms.c, made by scripts/kallsyms.c),
// found by its shape alone. On x86-64:
//
//   num_syms       a number of 32 bits
//   names          for each symbol its length (one byte, or from 6.1 on two if bit 7 of the first is set) and as many
//                  bytes, each a token; expanded, the first character is the kind
//   markers        where in names each 256th symbol begins, 32 bits each
//   token_table    256 strings, each with a zero behind it
//   token_index    where in the table each begins, 16 bits each
//   offsets        32 bits for each symbol: from relative_base, or, with absolute addresses of per-CPU variables, those
//                  as they are and all others as relative_base - 1 - address
//   relative_base  64 bits
//
// Offsets and base are before num_syms up to 6.3, behind token_index since 6.4; 6.2 and 6.3 have 3 bytes for each symbol
// (seqs_of_names) between markers and token_table. Each begins at a multiple of 8. Leaves out tables of 64-bit addresses
// (KALLSYMS_BASE_RELATIVE off, which x86 never had) and kernels before 4.20, whose markers have 64 bits.
using System.Buffers.Binary;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>Finds and reads the kernel's own symbols.</summary>
internal sealed class Kallsyms
{
    public const int MaximumSymbols = 2_000_000, MinimumSymbols = 500;

    private const int Tokens = 256, SymbolsPerMarker = 256, MaximumNameLength = 2048;

    /// <summary>Bytes before the tokens in which the names are looked for: those of the largest kernel, and what lies between.</summary>
    private const int NamesReach = 24 << 20;

    /// <summary>Symbols that are stepped over in all while looking for the start of the names: garbage ends sooner.</summary>
    private const long StepLimit = 20_000_000;

    /// <summary>Places of the digits that are looked at: a kernel has one or two.</summary>
    private const int PlaceLimit = 1000;

    private readonly byte[] _image;
    private readonly int[] _markers = new int[(MaximumSymbols / SymbolsPerMarker) + 1];
    private readonly int[] _tokenStarts = new int[Tokens], _tokenLengths = new int[Tokens];
    private int _tokenTable, _indexEnd, _countPlace, _namesStart, _count;

    private Kallsyms(byte[] image)
    {
        _image = image;
    }

    /// <summary>'0' to '9' are in every kernel's names, and so tokens that stand for themselves, one behind the other.</summary>
    private static ReadOnlySpan<byte> Digits => "0\01\02\03\04\05\06\07\08\09\0"u8;

    /// <summary>Finds the table in a kernel's image.</summary>
    /// <param name="image">The kernel from a page's start on; what is not mapped is zeroes.</param>
    /// <param name="slide">Added to each address that is not absolute.</param>
    /// <returns>False: there is none.</returns>
    public static bool TryRead(byte[] image, SymbolTable.Builder symbols, ulong slide = 0)
    {
        var table = new Kallsyms(image);
        var steps = StepLimit;
        for (int from = 0, places = 0; places < PlaceLimit; places++)
        {
            var place = image.AsSpan(from).IndexOf(Digits);
            if (place < 0)
                return false;
            if (table.FindTokens(from + place) && table.FindNames(ref steps) && table.FindOffsets(out var offsets, out var relativeBase))
            {
                table.Decode(symbols, offsets, relativeBase, slide);
                return true;
            }

            from += place + 1;
        }

        return false;
    }

    /// <summary>From the place of the digits, finds the end of the strings, then the index, which tells where they begin.</summary>
    private bool FindTokens(int digits)
    {
        const int DigitToken = '0', MaximumTokenLength = 64;
        var end = digits;
        for (var token = DigitToken; token < Tokens; token++)
        {
            var length = _image.AsSpan(end, Math.Min(MaximumTokenLength, _image.Length - end)).IndexOf((byte)0);
            if (length < 0)
                return false;
            end += length + 1;
        }

        var index = Align(end);
        if (index + (Tokens * 2) > _image.Length || U16(index) != 0)
            return false;
        _tokenTable = digits - U16(index + (DigitToken * 2));
        if (_tokenTable < 0)
            return false;
        for (int token = 0, at = _tokenTable; token < Tokens; token++)
        {
            if (at != _tokenTable + U16(index + (token * 2)) || at >= end)
                return false;
            _tokenStarts[token] = at;
            _tokenLengths[token] = _image.AsSpan(at, end - at).IndexOf((byte)0);
            at += _tokenLengths[token] + 1;
        }

        _indexEnd = index + (Tokens * 2);
        return true;
    }

    /// <summary>A number, as many names, and behind them the markers that agree with them: that is no accident.</summary>
    private bool FindNames(ref long steps)
    {
        for (var place = (_tokenTable & ~7) - 8; place >= 0 && place > _tokenTable - NamesReach && steps > 0; place -= 8)
        {
            var count = BinaryPrimitives.ReadInt64LittleEndian(_image.AsSpan(place));
            if (count is < MinimumSymbols or > MaximumSymbols || place + 8 + (count * 2) > _tokenTable)
                continue;
            if (!IsNames(place + 8, (int)count, ref steps))
                continue;
            _countPlace = place;
            _namesStart = place + 8;
            _count = (int)count;
            return true;
        }

        return false;
    }

    private bool IsNames(int start, int count, ref long steps)
    {
        var markers = _markers.AsSpan(0, (count + SymbolsPerMarker - 1) / SymbolsPerMarker);
        var at = start;
        for (var i = 0; i < count; i++)
        {
            if (i % SymbolsPerMarker == 0)
                markers[i / SymbolsPerMarker] = at - start;
            if (steps-- <= 0 || !TryLength(ref at, out var length) || length == 0 || at + length > _tokenTable)
                return false;
            var first = _image[at];
            if (_tokenLengths[first] == 0 || !char.IsAsciiLetter((char)_image[_tokenStarts[first]]))
                return false;
            at += length;
        }

        at = Align(at);
        if (at + (markers.Length * 4) > _tokenTable)
            return false;
        for (var i = 0; i < markers.Length; i++)
        {
            if (BinaryPrimitives.ReadInt32LittleEndian(_image.AsSpan(at + (i * 4))) != markers[i])
                return false;
        }

        return true;
    }

    private bool FindOffsets(out int offsets, out ulong relativeBase)
    {
        var length = Align(_count * 4);
        // Before the names …
        offsets = _countPlace - 8 - length;
        if (offsets >= 0 && IsKernel(relativeBase = U64(_countPlace - 8)) && AreOffsets(offsets))
            return true;
        // … or behind the tokens.
        offsets = Align(_indexEnd);
        relativeBase = offsets + length + 8 <= _image.Length ? U64(offsets + length) : 0;
        return IsKernel(relativeBase) && AreOffsets(offsets);
    }

    /// <summary>The addresses of symbols ascend.</summary>
    private bool AreOffsets(int offsets)
    {
        var absolute = HasAbsolute(offsets);
        ulong last = 0;
        for (var i = 0; i < _count; i++)
        {
            var address = Address(offsets, i, 0x8000_0000_0000_0000, absolute);
            if (address < last)
                return false;
            last = address;
        }

        return true;
    }

    /// <summary>With per-CPU variables as they are, the others are negative; else all count from the base on, in ascending order.</summary>
    private bool HasAbsolute(int offsets) => BinaryPrimitives.ReadInt32LittleEndian(_image.AsSpan(offsets + ((_count - 1) * 4))) < 0;

    private ulong Address(int offsets, int symbol, ulong relativeBase, bool absolute)
    {
        var offset = BinaryPrimitives.ReadInt32LittleEndian(_image.AsSpan(offsets + (symbol * 4)));
        if (!absolute)
            return relativeBase + (uint)offset;
        return offset >= 0 ? (ulong)offset : relativeBase - 1 - (ulong)(long)offset;
    }

    private void Decode(SymbolTable.Builder symbols, int offsets, ulong relativeBase, ulong slide)
    {
        var absolute = HasAbsolute(offsets);
        var name = new byte[MaximumNameLength];
        var at = _namesStart;
        for (var i = 0; i < _count; i++)
        {
            if (!TryLength(ref at, out var length))
                return;
            var used = 0;
            foreach (var token in _image.AsSpan(at, length))
            {
                var text = _image.AsSpan(_tokenStarts[token], _tokenLengths[token]);
                text = text[..Math.Min(text.Length, name.Length - used)];
                text.CopyTo(name.AsSpan(used));
                used += text.Length;
            }

            at += length;
            var address = Address(offsets, i, relativeBase, absolute);
            symbols.Add(IsKernel(address) ? address + slide : address, name[0], name.AsSpan(1, used - 1));
        }
    }

    private bool TryLength(ref int at, out int length)
    {
        length = 0;
        if (at + 2 > _tokenTable)
            return false;
        length = _image[at++];
        if ((length & 0x80) != 0)
            length = (length & 0x7F) | (_image[at++] << 7);
        return true;
    }

    private static bool IsKernel(ulong address) => address >= 0xFFFF_FFFF_8000_0000;

    private static int Align(int value) => (value + 7) & ~7;

    private ushort U16(int at) => BinaryPrimitives.ReadUInt16LittleEndian(_image.AsSpan(at));

    private ulong U64(int at) => BinaryPrimitives.ReadUInt64LittleEndian(_image.AsSpan(at));
}
