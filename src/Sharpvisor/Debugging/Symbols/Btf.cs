// BTF, the types of a Linux kernel in its own read-only data (Documentation/bpf/btf.rst): a header of 24 bytes, then for
// each type 12 bytes and what its kind adds, then the names. Read here: structures and unions, for the offsets of fields;
// the other kinds are stepped over.
using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>Offsets of fields in the kernel's structures.</summary>
internal sealed class Btf
{
    private const int MaximumSize = 64 << 20, HeaderSize = 24, TypeSize = 12, MemberSize = 12, MaximumDepth = 8, StepLimit = 100_000;
    private const ushort Magic = 0xEB9F;
    private const int KindInt = 1, KindArray = 3, KindStruct = 4, KindUnion = 5, KindEnum = 6, KindFunctionType = 13, KindVariable = 14, KindSection = 15, KindTag = 17, KindEnum64 = 19;

    private readonly byte[] _bytes;
    private readonly int _strings, _stringsEnd;

    /// <summary>Fields that are still looked at: what a guest wrote may have no end.</summary>
    private int _stepsLeft;

    /// <summary>Where each type is; type 0 is void.</summary>
    private readonly List<int> _types = [0];

    private Btf(byte[] bytes, int types, int typesEnd, int strings, int stringsEnd)
    {
        _bytes = bytes;
        _strings = strings;
        _stringsEnd = stringsEnd;
        for (var at = types; at + TypeSize <= typesEnd;)
        {
            var (kind, count) = KindOf(at);
            _types.Add(at);
            at += TypeSize + (kind switch
            {
                KindInt or KindVariable or KindTag => 4,
                KindArray => 12,
                KindStruct or KindUnion or KindSection or KindEnum64 => count * MemberSize,
                KindEnum or KindFunctionType => count * 8,
                _ => 0,
            });
        }

        if (_types[^1] is var last && last != 0 && KindOf(last) is (KindStruct or KindUnion, var members) && last + TypeSize + (members * MemberSize) > typesEnd)
            _types.RemoveAt(_types.Count - 1);
    }

    /// <returns>Null: that is no BTF.</returns>
    public static Btf? TryRead(LinearMemory memory, ulong start, ulong stop)
    {
        if (stop <= start + HeaderSize || stop - start > MaximumSize || memory.TryReadAll(start, (int)(stop - start)) is not { } bytes)
            return null;
        return Parse(bytes);
    }

    /// <returns>Null: that is no BTF.</returns>
    public static Btf? Parse(byte[] bytes)
    {
        if (bytes.Length < HeaderSize || BinaryPrimitives.ReadUInt16LittleEndian(bytes) != Magic)
            return null;
        long header = U32(bytes, 4);
        var types = header + U32(bytes, 8);
        var typesEnd = types + U32(bytes, 12);
        var strings = header + U32(bytes, 16);
        var stringsEnd = strings + U32(bytes, 20);
        return typesEnd <= bytes.Length && stringsEnd <= bytes.Length
            ? new Btf(bytes, (int)types, (int)typesEnd, (int)strings, (int)stringsEnd)
            : null;
    }

    /// <summary>The offset of a field in bytes, by its path: "arch.num_orcs". Fields of unnamed structures are their parent's.</summary>
    public bool TryGetOffset(string structure, string path, out int offset)
    {
        offset = 0;
        if (FindStructure(structure) is not { } type)
            return false;
        _stepsLeft = StepLimit;
        foreach (var name in path.Split('.'))
        {
            if (!FindMember(type, name, MaximumDepth, out var part, out var member))
                return false;
            offset += part;
            type = Resolve(member);
        }

        return true;
    }

    private int? FindStructure(string name)
    {
        // Names are kept once, so that each is known by its place.
        var pattern = Encoding.ASCII.GetBytes($"\0{name}\0");
        var place = _bytes.AsSpan(_strings, _stringsEnd - _strings).IndexOf(pattern);
        if (place < 0)
            return null;
        for (var i = 1; i < _types.Count; i++)
        {
            if (U32(_bytes, _types[i]) == place + 1 && KindOf(_types[i]).Kind == KindStruct)
                return _types[i];
        }

        return null;
    }

    private bool FindMember(int type, string name, int depth, out int offset, out uint memberType)
    {
        offset = 0;
        memberType = 0;
        if (type == 0 || depth == 0 || KindOf(type) is not (KindStruct or KindUnion, var count))
            return false;
        var hasBitFields = (U32(_bytes, type + 4) & 0x8000_0000) != 0;
        for (var i = 0; i < count && _stepsLeft-- > 0 && type + TypeSize + ((i + 1) * MemberSize) <= _bytes.Length; i++)
        {
            var member = type + TypeSize + (i * MemberSize);
            var bits = U32(_bytes, member + 8);
            var at = (int)((hasBitFields ? bits & 0xFF_FFFF : bits) / 8);
            if (IsName(U32(_bytes, member), name))
            {
                offset = at;
                memberType = U32(_bytes, member + 4);
                return true;
            }

            if (U32(_bytes, member) != 0 || !FindMember(Resolve(U32(_bytes, member + 4)), name, depth - 1, out var inside, out memberType))
                continue;
            offset = at + inside;
            return true;
        }

        return false;
    }

    /// <summary>What a type is without its other names and qualifiers; of an array, its elements.</summary>
    private int Resolve(uint type)
    {
        const int KindTypedef = 8, KindVolatile = 9, KindConst = 10, KindRestrict = 11, KindTypeTag = 18;
        for (var i = 0; i < MaximumDepth && type < _types.Count; i++)
        {
            var at = _types[(int)type];
            if (at == 0)
                return 0;
            switch (KindOf(at).Kind)
            {
                case KindTypedef or KindVolatile or KindConst or KindRestrict or KindTypeTag:
                    type = U32(_bytes, at + 8);
                    break;
                case KindArray when at + TypeSize + 4 <= _bytes.Length:
                    type = U32(_bytes, at + TypeSize);
                    break;
                default:
                    return at;
            }
        }

        return 0;
    }

    private bool IsName(uint offset, string name)
    {
        if (offset >= _stringsEnd - _strings)
            return false;
        var text = _bytes.AsSpan(_strings + (int)offset, _stringsEnd - _strings - (int)offset);
        return text.Length > name.Length && text[name.Length] == 0 && Encoding.ASCII.GetString(text[..name.Length]) == name;
    }

    private (int Kind, int Count) KindOf(int type)
    {
        var info = U32(_bytes, type + 4);
        return ((int)(info >> 24) & 31, (int)(info & 0xFFFF));
    }

    private static uint U32(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));
}
