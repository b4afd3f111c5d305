// Finds a Linux kernel in memory: kallsyms, ORC tables, BTF and linux_banner of whatever is mapped at ffffffff80000000.
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>
/// What is known of the Linux kernel that a guest runs: symbols, and where its structures have their fields. It stays true
/// while that kernel runs, and is worth keeping: finding it reads the kernel's whole image.
/// </summary>
public sealed class LinuxKernel
{
    private const int BannerLength = 512, Slots = 512;
    private const ulong SlotSize = 2 << 20;
    private const string BannerSymbol = "linux_banner";

    private readonly CpuState _tables;
    private Btf? _types;
    private bool _hasLookedForTypes, _hasLookedForModules;
    private ModuleFields? _modules;

    private LinuxKernel(SymbolTable symbols, in CpuState tables, string source, ulong slide)
    {
        Symbols = symbols;
        _tables = tables;
        Source = source;
        Slide = slide;
    }

    /// <summary>The kernel's symbols, where it runs; those of modules are a <see cref="KernelView"/>'s.</summary>
    public SymbolTable Symbols { get; }

    /// <summary>Where the symbols are from, for a person.</summary>
    public string Source { get; }

    /// <summary>How far the kernel runs from where it was linked to run (KASLR), in bytes; of symbols from memory not known, and 0.</summary>
    public ulong Slide { get; }

    /// <summary>"Linux version …", or empty.</summary>
    public string Banner { get; private set; } = "";

    /// <summary>Finds the kernel in a guest's memory by its own symbol table.</summary>
    /// <returns>Null: there is none (yet), or it has no symbol table of a known form.</returns>
    public static LinuxKernel? Find(IGuestView view)
    {
        if (KernelImage.Find(view) is not { } image)
            return null;
        var symbols = new SymbolTable.Builder();
        if (!Kallsyms.TryRead(image.Read(view), symbols))
            return null;
        var kernel = new LinuxKernel(symbols.Build(), image.Tables, "the kernel's own", 0);
        kernel.Banner = kernel.ReadBanner(view, 0);
        return kernel;
    }

    /// <summary>Uses a file's symbols, moved to where the kernel runs.</summary>
    /// <exception cref="ConfigurationException">It is no such file, or not of the kernel that runs.</exception>
    public static LinuxKernel Find(IGuestView view, string symbolFile)
    {
        var symbols = SymbolFile.Read(symbolFile);
        if (KernelImage.Find(view) is not { } image)
            return new LinuxKernel(symbols, view.GetState(0), $"of {symbolFile}", 0);
        if (!symbols.TryGetAddress(BannerSymbol, out _))
            throw new ConfigurationException($"{symbolFile}: has no symbol {BannerSymbol}, by which the running kernel is found; give another, or none: the kernel's memory has symbols, too");
        var fixedKernel = new LinuxKernel(symbols, image.Tables, "", 0);
        for (var slot = 0; slot < Slots; slot++)
        {
            var slide = (ulong)slot * SlotSize;
            if (fixedKernel.ReadBanner(view, slide) is not { Length: > 0 } banner)
                continue;
            return new LinuxKernel(slide == 0 ? symbols : symbols.Moved(slide), image.Tables, $"of {symbolFile}", slide) { Banner = banner };
        }

        throw new ConfigurationException($"{symbolFile}: is not of the kernel that runs (nowhere is a \"Linux version\" at its {BannerSymbol}); give its own, or none: the kernel's memory has symbols, too");
    }

    /// <summary>False after the guest has started another kernel, or the same one elsewhere.</summary>
    public bool IsStillThere(IGuestView view) => Banner.Length != 0 && new KernelView(this, view).Memory is var memory && ReadBanner(memory, 0) == Banner;

    /// <summary>The kernel's types (BTF), or null where it was built without.</summary>
    internal Btf? TypesOf(LinearMemory memory)
    {
        if (!_hasLookedForTypes && Symbols.TryGetAddress("__start_BTF", out var start) && Symbols.TryGetAddress("__stop_BTF", out var stop))
            _types = Btf.TryRead(memory, start, stop);
        _hasLookedForTypes = true;
        return _types;
    }

    /// <summary>Where modules have what of them is wanted, or null where that is not known.</summary>
    internal ModuleFields? ModuleFieldsOf(LinearMemory memory)
    {
        if (!_hasLookedForModules && TypesOf(memory) is { } types)
            _modules = ModuleFields.Find(types);
        _hasLookedForModules = true;
        return _modules;
    }

    /// <summary>
    /// Page tables of the kernel: those that it started with and that no process takes with it when it ends; where they
    /// are not known, those of a processor.
    /// </summary>
    internal CpuState TablesOf(IGuestView view)
    {
        const string Tables = "init_top_pgt";
        if (FindTables(view) is not { } state)
            return _tables;
        var memory = new LinearMemory(view, in state);
        if (!Symbols.TryGetAddress(Tables, out var root) || !memory.TryTranslate(root, out var physical))
            return state;
        var own = state;
        own.Cr3 = physical;
        return new LinearMemory(view, in own).TryTranslate(root, out var again) && again == physical ? own : state;
    }

    /// <summary>Those of a processor that has the kernel's image in them now.</summary>
    private CpuState? FindTables(IGuestView view)
    {
        if (Symbols.TryGetAddress(BannerSymbol, out var banner))
        {
            Span<byte> first = stackalloc byte[1];
            for (var i = 0; i < view.ProcessorCount; i++)
            {
                var state = view.GetState(i);
                if ((state.Efer & (1 << 10)) != 0 && view.ReadLinear(in state, banner, first) == 1)
                    return state;
            }
        }

        return KernelImage.Find(view)?.Tables;
    }

    private string ReadBanner(IGuestView view, ulong slide) => ReadBanner(new LinearMemory(view, in _tables), slide);

    private string ReadBanner(LinearMemory memory, ulong slide)
    {
        if (!Symbols.TryGetAddress(BannerSymbol, out var address))
            return "";
        Span<byte> start = stackalloc byte[14];
        return memory.Read(address + slide, start) == start.Length && Encoding.ASCII.GetString(start) == "Linux version "
            ? memory.ReadText(address + slide, BannerLength).TrimEnd('.')
            : "";
    }
}
