// Native execution of guest instructions on an x86-64 host: a thunk is a few host instructions that load the guest
// registers an instruction uses, execute it with its memory operand at a host address, and store what it wrote.
// Specification: Intel SDM vol. 1 chapters 8 to 14, vol. 2; System V AMD64 ABI.
// Left out: EVEX, XOP and 3DNow! encodings, and what the host processor doesn't have (the guest gets #UD).
using Iced.Intel;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>Makes and keeps the thunks of this process. Thread safe.</summary>
public static unsafe class HostThunks
{
    /// <summary>A guest can think of endless instructions; past this many the cache starts anew.</summary>
    private const int MaximumThunks = 1 << 15;

    private static readonly Lock s_lock = new();
    private static readonly ThunkCompiler s_compiler = new();
    private static readonly Dictionary<(ThunkKey Key, bool Is64), HostThunk?> s_thunks = [];
    private static readonly HashSet<CodeSegment> s_forever = [];
    private static CodeSegment? s_segment;

    /// <summary>Whether instructions can be executed natively here: Linux on x86-64 with executable memory and .NET's signal handlers.</summary>
    public static bool IsSupported { get; } = Probe();

    /// <summary>The thunk of an instruction decoded in 16-, 32- or 64-bit code; null when it isn't one to run natively.</summary>
    public static HostThunk? TryCreate(in Instruction instruction, int bitness)
    {
        if (!IsSupported)
            return null;
        var traits = InstructionTraits.Of(instruction.Code);
        if (traits.Form == ThunkForm.None || instruction.HasRepPrefix && traits.Isa == HostIsa.Gpr)
            return null;
        lock (s_lock)
        {
            if (s_compiler.KeyOf(instruction) is not { } bytes)
                return null;
            var key = (bytes, bitness == 64);
            if (s_thunks.TryGetValue(key, out var known))
                return known;
            if (s_thunks.Count >= MaximumThunks)
            {
                s_thunks.Clear();
                s_segment = null;
            }

            var thunk = Create(instruction, traits, bitness);
            s_thunks.Add(key, thunk);
            return thunk;
        }
    }

    /// <summary>Puts hand-written code into executable memory for the life of the process.</summary>
    internal static byte* AddForever(ReadOnlySpan<byte> code)
    {
        lock (s_lock)
        {
            var added = Place(code, out var segment);
            s_forever.Add(segment);
            return added;
        }
    }

    private static HostThunk? Create(in Instruction instruction, InstructionTraits traits, int bitness)
    {
        if (s_compiler.Compile(instruction, traits, bitness) is not var (code, description))
            return null;
        CodeSegment? segment = null;
        var start = code.Length == 0 ? null : Place(code, out segment);
        return new HostThunk(start, segment)
        {
            MemorySize = description.MemorySize,
            ReadsMemory = description.ReadsMemory,
            WritesMemory = description.WritesMemory,
            Alignment = description.Alignment,
            ReadsFlags = description.ReadsFlags,
            FlagsWritten = description.FlagsWritten,
            Isa = traits.Isa,
            NeedsX87 = description.NeedsX87,
            UsesMxcsr = traits.UsesMxcsr,
            IsVex = traits.IsVex,
        };
    }

    private static byte* Place(ReadOnlySpan<byte> code, out CodeSegment segment)
    {
        segment = s_segment ??= new CodeSegment();
        var added = segment.TryAdd(code);
        if (added != null)
            return added;
        segment = s_segment = new CodeSegment();
        return segment.TryAdd(code);
    }

    private static bool Probe()
    {
        if (!OperatingSystem.IsLinux() || !System.Runtime.Intrinsics.X86.X86Base.X64.IsSupported)
            return false;
        try
        {
            s_segment = new CodeSegment();
            s_forever.Add(s_segment);
            return SimdTrap.TryInstall(s_segment);
        }
        catch (ConfigurationException)
        {
            return false;
        }
    }
}
