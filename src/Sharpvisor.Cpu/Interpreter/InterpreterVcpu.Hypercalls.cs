using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>VMCALL and VMMCALL (SDM vol. 3, chapter 31; AMD64 APM vol. 3): calls of the machine's hypervisor, or of one that knows no number.</summary>
public unsafe partial class InterpreterVcpu : ILinearMemory
{
    /// <summary>What VMCALL answers to an unknown number: Linux' KVM_ENOSYS.</summary>
    private const long KvmEnosys = -1000;

    private const long KvmEperm = -1;

    bool ILinearMemory.TryRead(ulong linear, Span<byte> destination)
    {
        for (var done = 0; done < destination.Length;)
        {
            var at = linear + (ulong)done;
            var part = Math.Min(destination.Length - done, 4096 - (int)(at & 0xFFF));
            if (!TryTranslateForHypercall(at, AccessKind.Read, out var physical) || !_memory.TryRead(physical, destination.Slice(done, part)))
                return false;
            done += part;
        }

        return true;
    }

    bool ILinearMemory.TryWrite(ulong linear, ReadOnlySpan<byte> source)
    {
        for (var done = 0; done < source.Length;)
        {
            var at = linear + (ulong)done;
            var part = Math.Min(source.Length - done, 4096 - (int)(at & 0xFFF));
            if (!TryTranslateForHypercall(at, AccessKind.Write, out var physical) || !_memory.TryWrite(physical, source.Slice(done, part)))
                return false;
            done += part;
        }

        return true;
    }

    bool ILinearMemory.TryTranslate(ulong linear, out ulong physical) => TryTranslateForHypercall(linear, AccessKind.Write, out physical);

    /// <returns>False: the instruction is to be executed again.</returns>
    private bool ExecuteHypercall()
    {
        const long restNs = 200_000;
        var c = _c;
        if (_environment.Hypervisor is not { } hypervisor)
        {
            c->Arch.Gpr[0] = (ulong)(c->Cpl != 0 ? KvmEperm : KvmEnosys);
            return true;
        }

        ref var gpr = ref c->Arch.Gpr;
        var call = c->Is64 != 0
            ? new Hypercall(Index, _isParavirtualKernel ? 0 : c->Cpl, true, gpr[0], gpr[7], gpr[6], gpr[2], gpr[10], gpr[8])
            : new Hypercall(Index, c->Cpl, false, (uint)gpr[0], (uint)gpr[3], (uint)gpr[1], (uint)gpr[2], (uint)gpr[6], (uint)gpr[7]);
        HypercallResult result;
        using (_environment.Gate.Enter())
        {
            result = hypervisor.Call(call, this);
            if (result.Rest is not null)
                hypervisor.SetActivity(Index, ProcessorActivity.Halted);
        }

        if (result.Rest is { } rest)
        {
            rest.Sleep(restNs);
            TellRunning();
        }

        if (result.IsAgain)
            return false;
        if (_environment.Points is { } points && points.Wants(TraceKind.Hypercall))
            points.Write(new TraceEvent(TraceKind.Hypercall, Index, call.Number, call.Arg1, call.Arg2, result.Value));
        gpr[0] = c->Is64 != 0 ? result.Value : (uint)result.Value;
        if (result.After != AfterHypercall.GoOn)
            c->Arch.Activity = result.After == AfterHypercall.Halt ? ActivityState.Halted : ActivityState.WaitForSipi;
        return true;
    }

    /// <summary>What the hypervisor is not told by whoever waits for it: the processor has been started, or goes on.</summary>
    private void TellRunning()
    {
        if (_environment.Hypervisor is not { } hypervisor)
            return;
        using (_environment.Gate.Enter())
            hypervisor.SetActivity(Index, ProcessorActivity.Running);
    }

    /// <summary>A pointer that leads nowhere is the hypervisor's error to report: no fault, and CR2 stays.</summary>
    private bool TryTranslateForHypercall(ulong linear, AccessKind access, out ulong physical)
    {
        physical = 0;
        if (!IsCanonical(linear))
            return false;
        var cr2 = _c->Arch.Cr2;
        if (TryTranslate(linear, access, CurrentKind, out physical, out _))
            return true;
        _c->Arch.Cr2 = cr2;
        return false;
    }
}
