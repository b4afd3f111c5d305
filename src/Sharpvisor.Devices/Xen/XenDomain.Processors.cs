using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Xen;

/// <content>What its processors do with their time.</content>
public sealed partial class XenDomain
{
    public void SetActivity(int processor, ProcessorActivity activity)
    {
        _processors[processor].Runstate.Change(activity);

        // As Xen has it: a domain whose processors have all halted without interrupts is through.
        if (activity == ProcessorActivity.Off && Paravirtual is null && Array.TrueForAll(_processors, p => p.Runstate.IsOff))
            _control.RequestPowerOff("Xen: no processor can go on");
    }

    /// <summary>HYPERVISOR_vm_assist: but for one, its kinds concern domains without page tables of their own.</summary>
    private ulong VmAssist(in Hypercall call)
    {
        const ulong enable = 0, disable = 1;
        const ulong segments = 0, segmentNotes = 1, writableTables = 2, extendedCr3 = 3, runstateUpdateFlag = 5, strictTables = 32;
        if (call.Arg1 is not (enable or disable) || call.Arg2 is not (segments or segmentNotes or writableTables or extendedCr3 or runstateUpdateFlag or strictTables))
            return Result(call.Arg1 > disable ? XenError.ENOSYS : XenError.EINVAL);
        if (call.Arg2 == runstateUpdateFlag)
            MarkRunstateUpdates(call.Arg1 == enable);
        return 0;
    }

    internal void MarkRunstateUpdates(bool isEnabled)
    {
        foreach (var processor in _processors)
            processor.Runstate.MarksUpdates = isEnabled;
    }
}
