using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>
/// Executes each translation three times: by the interpreter, to learn which pages are written; translated; and, from
/// the same state and memory, by the interpreter again up to where the translation ended. Registers, flags and written
/// pages must be the same. One processor only; instructions that can't be executed twice are left to the interpreter, and
/// all are while a debugger watches memory.
/// </summary>
internal sealed unsafe class LockstepVcpu : TranslatorVcpu
{
    private const int MaximumSteps = 4 * BlockTranslator.MaxInstructions;

    private readonly Rehearsal _rehearsal = new();
    private readonly Dictionary<nint, byte[]> _results = [];

    internal LockstepVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs, CodeCoherence coherence, int threshold, ulong codeCacheSize)
        : base(index, environment, apic, msrs, coherence, threshold, codeCacheSize)
    {
    }

    /// <summary>Translations compared so far.</summary>
    public long Compared { get; private set; }

    public override string DescribeEngine() =>
        string.Create(CultureInfo.InvariantCulture, $"lockstep: {Compared} translations did what the interpreter does\n") + base.DescribeEngine();

    private protected override void Execute(long limit)
    {
        var c = _c;
        _counted = true;
        while (c->InstructionCount < limit)
        {
            if (c->HasEvents && CanServePending())
                return;
            if (c->Slow != 0)
                SlowStep();
            else if (IsTranslatable && !HasWatchpoints && FindCode(c->Arch.Rip, RegisterMap.Canonical) is { IsRepeatable: true } translation)
                Compare(translation);
            else
                ExecuteBlock(FindBlock(c->Arch.Rip, c->Mode | (uint)BlockMode.Single));
            if (c->Arch.Activity != ActivityState.Active)
                return;
        }
    }

    private void Compare(Translation translation)
    {
        var c = _c;
        SaveX87();
        var start = StateNow();
        var count = c->InstructionCount;

        // 1: what would be written.
        _rehearsal.Clear();
        Rehearsal = _rehearsal;
        for (var i = 0; i < translation.Instructions && !_rehearsal.Outside; i++)
            Step();
        Rehearsal = null;
        _rehearsal.Undo();
        var outside = _rehearsal.Outside;
        Restore(start);
        c->InstructionCount = count;
        if (outside || translation.Stale)
        {
            ExecuteBlock(FindBlock(c->Arch.Rip, c->Mode | (uint)BlockMode.Single));
            return;
        }

        // 2: the translation alone.
        RunTranslated(translation, count + translation.Instructions);
        if (_t->Remaining == translation.Instructions)
            return; // it was left at its head
        var stopped = c->Arch.Activity == ActivityState.Active;
        SaveX87();
        var translated = StateNow();
        foreach (var page in _rehearsal.Pages)
        {
            ref var copy = ref CollectionsMarshal.GetValueRefOrAddDefault(_results, page, out _);
            copy ??= new byte[4096];
            new ReadOnlySpan<byte>((void*)page, 4096).CopyTo(copy);
        }

        // 3: the interpreter, for good.
        _rehearsal.Undo();
        Restore(start);
        c->InstructionCount = count;
        string? difference = null;
        for (var steps = 1; steps <= MaximumSteps; steps++)
        {
            Step();
            if (stopped && c->Arch.Rip != translated.Rip)
                continue;

            // A block may pass the place where it ends: then the first time is not the right one.
            SaveX87();
            var now = Describe(translation, start, StateNow(), translated);
            difference = now is null ? null : difference ?? now;
            if (now is null || steps >= translation.Instructions || !stopped)
                break;
        }

        Compared++;
        if (difference is not null)
            throw new InvalidOperationException(difference);
        _results.Clear();
    }

    private CpuState StateNow()
    {
        Synchronize();
        var state = _c->Arch;
        state.Rflags = Flags.Get(_c);
        return state;
    }

    private void Restore(in CpuState state)
    {
        _c->Arch = state;
        Flags.SetArithmetic(_c, state.Rflags);
        _c->Arch.Rflags = (state.Rflags & ~Rflags.Arithmetic) | Rflags.Reserved1;
        _c->X87Live = 0;
        _c->Cpl = (byte)state.Segments[2].Dpl;
        UpdateMode();
    }

    private void Step()
    {
        try
        {
            // Slow paths only: those tell the rehearsal what is written.
            _c->Tlb = _tlb.Kind(Paging.Tlb.EmptyKind);
            ExecuteBlock(FindBlock(_c->Arch.Rip, _c->Mode | (uint)BlockMode.Single));
        }
        catch (GuestFaultException)
        {
            HandleFault();
        }

        UpdateTlbKind();
    }

    private string? Describe(Translation translation, in CpuState start, in CpuState interpreted, in CpuState translated)
    {
        var text = new StringBuilder();
        for (var i = 0; i < 16; i++)
            Differ(((Iced.Intel.Register)((int)Iced.Intel.Register.RAX + i)).ToString(), interpreted.Gpr[i], translated.Gpr[i]);
        Differ("RIP", interpreted.Rip, translated.Rip);
        Differ("RFLAGS", interpreted.Rflags & ~translation.UndefinedFlags, translated.Rflags & ~translation.UndefinedFlags);
        Differ("MXCSR", interpreted.Mxcsr, translated.Mxcsr);
        Differ("CR2", interpreted.Cr2, translated.Cr2);
        for (var i = 0; i < 6; i++)
        {
            var (one, other) = (interpreted.Segments[i], translated.Segments[i]);
            var name = (Iced.Intel.Register.ES + i).ToString();
            Differ(name, one.Selector, other.Selector);
            Differ(name + " base", one.Base, other.Base);
            Differ(name + " limit", one.Limit, other.Limit);
            Differ(name + " attributes", one.Attributes, other.Attributes);
        }

        for (var i = 0; i < 16; i++)
        {
            Differ($"YMM{i}.0", interpreted.Ymm[i].Q0, translated.Ymm[i].Q0);
            Differ($"YMM{i}.1", interpreted.Ymm[i].Q1, translated.Ymm[i].Q1);
            Differ($"YMM{i}.2", interpreted.Ymm[i].Q2, translated.Ymm[i].Q2);
            Differ($"YMM{i}.3", interpreted.Ymm[i].Q3, translated.Ymm[i].Q3);
        }

        for (var i = 0; i < 160; i++)
            Differ($"x87 image [{i}]", interpreted.X87[i], translated.X87[i]);
        foreach (var (page, copy) in _results)
        {
            for (var i = 0; i < 4096; i++)
            {
                if (copy[i] == ((byte*)page)[i])
                    continue;
                Differ($"memory at host page {page:x}, offset {i:x}", ((byte*)page)[i], copy[i]);
                break;
            }
        }

        if (text.Length == 0)
            return null;
        var block = new StringBuilder();
        block.AppendLine(CultureInfo.InvariantCulture, $"interpreter and translator differ after {Compared} equal blocks, in the one at {start.Rip:x} ({translation.Instructions} instructions):");
        foreach (var line in Disassemble(start.Rip, translation.Length))
            block.AppendLine("  " + line);
        block.Append(text);
        block.AppendLine("before:");
        for (var i = 0; i < 16; i++)
            block.Append(CultureInfo.InvariantCulture, $"  {(Iced.Intel.Register)((int)Iced.Intel.Register.RAX + i),-4}{start.Gpr[i]:x16}{(i % 4 == 3 ? "\n" : "")}");
        block.AppendLine(CultureInfo.InvariantCulture, $"  RFLAGS {start.Rflags:x}");
        return block.ToString();

        void Differ(string what, ulong one, ulong other)
        {
            if (one != other)
                text.AppendLine(CultureInfo.InvariantCulture, $"  {what}: interpreter {one:x}, translator {other:x}");
        }
    }

    private IEnumerable<string> Disassemble(ulong rip, int length)
    {
        var bytes = new byte[length];
        for (var i = 0; i < length; i++)
            bytes[i] = *HostPointer(TranslateFetch(_c->Is64 != 0 ? rip + (ulong)i : (uint)(_c->Arch.Segments[1].Base + rip + (ulong)i)));
        return Disassembly.Lines(bytes, rip, 16 << (int)(_c->Mode & (uint)BlockMode.CodeMask));
    }
}
