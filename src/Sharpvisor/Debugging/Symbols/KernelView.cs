// current, its comm and pid, the list of modules: read by the offsets of the kernel's BTF.
using System.Globalization;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging.Stacks;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>A guest's kernel while the guest stands still: its memory, its modules, names of addresses.</summary>
public sealed class KernelView
{
    private const int CommLength = 16;

    private readonly List<(ulong Start, ulong End)> _text = [];
    private List<KernelModule>? _modules;
    private OrcTable? _orc;

    public KernelView(LinuxKernel kernel, IGuestView view)
    {
        Kernel = kernel;
        var tables = kernel.TablesOf(view);
        Memory = new LinearMemory(view, in tables);
        AddText("_stext", "_etext");
        AddText("_sinittext", "_einittext");
    }

    public LinuxKernel Kernel { get; }

    /// <summary>By the kernel's page tables.</summary>
    public LinearMemory Memory { get; }

    internal List<KernelModule> Modules => _modules ??= KernelModule.ReadAll(Kernel, Memory);

    /// <summary>An address of code of the kernel or one of its modules.</summary>
    public bool IsText(ulong address) =>
        _text.Exists(t => address >= t.Start && address < t.End) || (address >= KernelImage.MapStart && Modules.Exists(m => m.Contains(address)));

    /// <summary>The function that holds an address of code.</summary>
    /// <param name="size">In bytes, 0 where it is not known.</param>
    public bool TryFindFunction(ulong address, out GuestSymbol symbol, out ulong size)
    {
        if (_text.Exists(t => address >= t.Start && address < t.End))
            return Kernel.Symbols.TryFindText(address, out symbol, out size);
        symbol = default;
        size = 0;
        return address >= KernelImage.MapStart && Modules.Find(m => m.Contains(address)) is { } module && module.Symbols.TryFindText(address, out symbol, out size);
    }

    /// <summary>"function+0x12/0x34", with the module's name behind it as Linux prints it; null where it is no code.</summary>
    public string? Describe(ulong address)
    {
        if (!TryFindFunction(address, out var symbol, out var size))
            return null;
        var module = symbol.Module is null ? "" : $" [{symbol.Module}]";
        return string.Create(CultureInfo.InvariantCulture, $"{symbol.Name}+0x{address - symbol.Address:x}/0x{size:x}{module}");
    }

    /// <summary>The address of a symbol of the kernel or of a module.</summary>
    public bool TryGetAddress(string name, out ulong address)
    {
        if (Kernel.Symbols.TryGetAddress(name, out address))
            return true;
        foreach (var module in Modules)
        {
            if (module.Symbols.TryGetAddress(name, out address))
                return true;
        }

        return false;
    }

    /// <summary>How to find the frame that called an address; null: nothing is known of it.</summary>
    internal OrcEntry? FindOrc(ulong address)
    {
        _orc ??= OrcTable.OfKernel(Kernel.Symbols);
        if (_orc.Find(Memory, address, _orc) is { } entry && _text.Exists(t => address >= t.Start && address < t.End))
            return entry;
        return address >= KernelImage.MapStart ? Modules.Find(m => m.Contains(address))?.Orc.Find(Memory, address, _orc) : null;
    }

    /// <summary>The name and the number of the task that a processor runs, where the kernel has types to find them by.</summary>
    public (string Name, int Pid)? TaskOf(in CpuState state)
    {
        // The kernel's per-CPU area is at GS, after SWAPGS in the other register: it is the one in the upper half.
        var area = (long)state.Segments[5].Base < 0 ? state.Segments[5].Base : state.KernelGsBase;
        var symbols = Kernel.Symbols;
        var isKnown = symbols.TryGetAddress("current_task", out var current);
        if (!isKnown && (!symbols.TryGetAddress("pcpu_hot", out current) || Kernel.TypesOf(Memory)?.TryGetOffset("pcpu_hot", "current_task", out var inHot) is not true || (current += (ulong)inHot) == 0))
            return null;
        if (Kernel.TypesOf(Memory) is not { } types || !types.TryGetOffset("task_struct", "comm", out var comm) || !types.TryGetOffset("task_struct", "pid", out var pid))
            return null;
        if (!Memory.TryRead(area + current, out ulong task) || !Memory.TryRead(task + (ulong)pid, out int number))
            return null;
        return (Memory.ReadText(task + (ulong)comm, CommLength), number);
    }

    private void AddText(string from, string to)
    {
        if (Kernel.Symbols.TryGetAddress(from, out var start) && Kernel.Symbols.TryGetAddress(to, out var end))
            _text.Add((start, end));
    }
}
