// Loaded modules of a Linux kernel: the list "modules" of struct module (include/linux/module.h), whose fields are where
// BTF says. Of each its name, the memory of its code, its symbols (struct mod_kallsyms) and its ORC tables.
using System.Text;
using Sharpvisor.Debugging.Stacks;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>A module that the guest's kernel has loaded.</summary>
internal sealed record KernelModule(string Name, ulong Start, ulong Size, OrcTable Orc)
{
    private const int MaximumModules = 1024, MaximumNameLength = 56, MaximumSymbols = 200_000, MaximumStrings = 8 << 20, SymbolSize = 24;

    private LinearMemory? _memory;
    private ulong _kallsyms;
    private ModuleFields? _fields;
    private SymbolTable? _symbols;

    public SymbolTable Symbols => _symbols ??= ReadSymbols();

    public bool Contains(ulong address) => address - Start < Size;

    public static List<KernelModule> ReadAll(LinuxKernel kernel, LinearMemory memory)
    {
        List<KernelModule> modules = [];
        if (!kernel.Symbols.TryGetAddress("modules", out var head) || kernel.ModuleFieldsOf(memory) is not { } fields)
            return modules;
        for (var at = head; modules.Count < MaximumModules && memory.TryRead(at, out ulong next) && next != head; at = next)
        {
            var module = next - (ulong)fields.List;
            if (!memory.TryRead(module + (ulong)fields.Base, out ulong start) || !memory.TryRead(module + (ulong)fields.Size, out uint size))
                break;
            memory.TryRead(module + (ulong)fields.OrcCount, out uint orcs);
            memory.TryRead(module + (ulong)fields.OrcAddresses, out ulong addresses);
            memory.TryRead(module + (ulong)fields.OrcEntries, out ulong entries);
            memory.TryRead(module + (ulong)fields.Kallsyms, out ulong kallsyms);
            modules.Add(new KernelModule(memory.ReadText(module + (ulong)fields.Name, MaximumNameLength), start, size, new OrcTable(addresses, entries, (int)Math.Min(orcs, int.MaxValue)))
            {
                _memory = memory,
                _kallsyms = kallsyms,
                _fields = fields,
            });
        }

        return modules;
    }

    private SymbolTable ReadSymbols()
    {
        var symbols = new SymbolTable.Builder();
        symbols.BeginModule(Name);
        if (_memory is not { } memory || _fields is not { } fields ||
            !memory.TryRead(_kallsyms + (ulong)fields.Symbols, out ulong table) ||
            !memory.TryRead(_kallsyms + (ulong)fields.SymbolCount, out uint count) ||
            !memory.TryRead(_kallsyms + (ulong)fields.Strings, out ulong strings) ||
            !memory.TryRead(_kallsyms + (ulong)fields.Kinds, out ulong kinds) ||
            count > MaximumSymbols ||
            memory.TryReadAll(table, (int)count * SymbolSize) is not { } entries ||
            memory.TryReadAll(kinds, (int)count) is not { } letters)
            return symbols.Build();
        for (var i = 1; i < count; i++)
        {
            var entry = entries.AsSpan(i * SymbolSize);
            var name = BitConverter.ToUInt32(entry);
            var address = BitConverter.ToUInt64(entry[8..]);
            if (name < MaximumStrings && memory.ReadText(strings + name, 256) is { Length: > 0 } text && BitConverter.ToUInt16(entry[6..]) != 0)
                symbols.Add(address, letters[i], Encoding.ASCII.GetBytes(text));
        }

        return symbols.Build();
    }
}

/// <summary>Offsets in struct module and struct mod_kallsyms.</summary>
internal sealed record ModuleFields(int List, int Name, int Base, int Size, int Kallsyms, int OrcCount, int OrcAddresses, int OrcEntries, int Symbols, int SymbolCount, int Strings, int Kinds)
{
    public static ModuleFields? Find(Btf types)
    {
        // Since 6.4 code is the first of several pieces of memory, before it has a layout with the data behind it.
        if (types.TryGetOffset("module", "mem", out var memory) && types.TryGetOffset("module_memory", "base", out var start) && types.TryGetOffset("module_memory", "size", out var size))
            (start, size) = (memory + start, memory + size);
        else if (!types.TryGetOffset("module", "core_layout.base", out start) || !types.TryGetOffset("module", "core_layout.text_size", out size))
            return null;
        return Get("list", out var list) && Get("name", out var name) && Get("kallsyms", out var kallsyms) &&
            Get("arch.num_orcs", out var count) && Get("arch.orc_unwind_ip", out var addresses) && Get("arch.orc_unwind", out var entries) &&
            types.TryGetOffset("mod_kallsyms", "symtab", out var symbols) && types.TryGetOffset("mod_kallsyms", "num_symtab", out var symbolCount) &&
            types.TryGetOffset("mod_kallsyms", "strtab", out var strings) && types.TryGetOffset("mod_kallsyms", "typetab", out var kinds)
            ? new ModuleFields(list, name, start, size, kallsyms, count, addresses, entries, symbols, symbolCount, strings, kinds)
            : null;

        bool Get(string path, out int offset) => types.TryGetOffset("module", path, out offset);
    }
}
