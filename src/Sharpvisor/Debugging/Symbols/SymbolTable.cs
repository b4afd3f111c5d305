// Symbols by address and by name, as /proc/kallsyms has them.
using System.Text;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>A symbol of the guest's kernel.</summary>
/// <param name="Address">Linear, where the kernel runs.</param>
/// <param name="Kind">As nm and /proc/kallsyms have it: t and T text, d data, r read-only data, a absolute …</param>
/// <param name="Module">The module that has it; null: the kernel.</param>
public readonly record struct GuestSymbol(ulong Address, char Kind, string Name, string? Module = null)
{
    public bool IsText => IsTextKind(Kind);

    internal static bool IsTextKind(char kind) => kind is 't' or 'T' or 'w' or 'W';
}

/// <summary>
/// Symbols by address and by name. Kept as bytes rather than strings: a kernel has 200,000 of them, of which few are
/// ever asked for.
/// </summary>
public sealed class SymbolTable
{
    private readonly ulong[] _addresses;
    private readonly byte[] _kinds;
    private readonly int[] _starts;
    private readonly byte[] _names;
    private readonly int[] _byAddress, _text;
    private readonly List<(int First, string Name)> _modules;

    private SymbolTable(Builder builder)
    {
        _addresses = [.. builder.Addresses];
        _kinds = [.. builder.Kinds];
        _starts = [.. builder.Starts];
        _names = builder.Names.ToArray();
        _modules = [.. builder.Modules];
        // Stable: of several at an address the first one counts, as in the kernel.
        _byAddress = [.. Enumerable.Range(0, _addresses.Length).OrderBy(i => _addresses[i])];
        _text = [.. _byAddress.Where(i => GuestSymbol.IsTextKind((char)_kinds[i]))];
    }

    public int Count => _addresses.Length;

    /// <summary>In the order of their source.</summary>
    public IEnumerable<GuestSymbol> All => Enumerable.Range(0, Count).Select(At);

    /// <summary>The address of the first symbol of that name.</summary>
    public bool TryGetAddress(string name, out ulong address)
    {
        // Each name has a zero before and behind it.
        var pattern = Encoding.UTF8.GetBytes($"\0{name}\0");
        var place = name.Length == 0 ? -1 : _names.AsSpan().IndexOf(pattern);
        address = 0;
        if (place < 0)
            return false;
        address = _addresses[Array.BinarySearch(_starts, place + 1)];
        return true;
    }

    /// <summary>The function that holds an address, and how far it goes: to the next symbol of text.</summary>
    public bool TryFindText(ulong address, out GuestSymbol symbol, out ulong size)
    {
        var index = LastNotAbove(_text, address);
        symbol = default;
        size = 0;
        if (index < 0)
            return false;
        symbol = At(_text[index]);
        while (++index < _text.Length && _addresses[_text[index]] == symbol.Address)
        {
            // Another name of the same address.
        }

        size = index < _text.Length ? _addresses[_text[index]] - symbol.Address : 0;
        return true;
    }

    /// <summary>The symbol of any kind that holds an address.</summary>
    public bool TryFind(ulong address, out GuestSymbol symbol)
    {
        var index = LastNotAbove(_byAddress, address);
        symbol = index < 0 ? default : At(_byAddress[index]);
        return index >= 0;
    }

    /// <summary>The same symbols elsewhere; absolute ones stay.</summary>
    internal SymbolTable Moved(ulong distance)
    {
        var moved = new Builder();
        foreach (var symbol in All)
            moved.Add(symbol.Address >= KernelImage.MapStart ? symbol.Address + distance : symbol.Address, (byte)symbol.Kind, Encoding.UTF8.GetBytes(symbol.Name));
        return moved.Build();
    }

    /// <summary>The first of those with the highest address that is not above.</summary>
    private int LastNotAbove(int[] order, ulong address)
    {
        int low = 0, high = order.Length;
        while (low < high)
        {
            var middle = (low + high) / 2;
            if (_addresses[order[middle]] <= address)
                low = middle + 1;
            else
                high = middle;
        }

        for (low--; low > 0 && _addresses[order[low - 1]] == _addresses[order[low]];)
            low--;
        return low;
    }

    private GuestSymbol At(int index)
    {
        var name = _names.AsSpan(_starts[index]);
        string? module = null;
        foreach (var (first, moduleName) in _modules)
        {
            if (index >= first)
                module = moduleName;
        }

        return new GuestSymbol(_addresses[index], (char)_kinds[index], Encoding.UTF8.GetString(name[..name.IndexOf((byte)0)]), module);
    }

    /// <summary>Collects symbols, those of the kernel first, then each module's.</summary>
    internal sealed class Builder
    {
        public Builder() => Names.WriteByte(0);

        public List<ulong> Addresses { get; } = [];

        public List<byte> Kinds { get; } = [];

        public List<int> Starts { get; } = [];

        public MemoryStream Names { get; } = new();

        public List<(int First, string Name)> Modules { get; } = [];

        /// <param name="name">Without zeroes.</param>
        public void Add(ulong address, byte kind, ReadOnlySpan<byte> name)
        {
            Addresses.Add(address);
            Kinds.Add(kind);
            Starts.Add((int)Names.Position);
            Names.Write(name);
            Names.WriteByte(0);
        }

        /// <summary>What is added from now on is a module's.</summary>
        public void BeginModule(string name) => Modules.Add((Addresses.Count, name));

        public SymbolTable Build() => new(this);
    }
}
