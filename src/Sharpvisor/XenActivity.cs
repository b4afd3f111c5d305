using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor;

/// <summary>Tells a Xen domain what its processors do, and what the host's scheduler did to them.</summary>
internal sealed class XenActivity(XenDomain xen, MachineGate gate)
{
    /// <summary>A vCPU does something else from now on. On its thread, without the gate.</summary>
    public void Tell(int processor, ProcessorActivity activity)
    {
        using (gate.Enter())
        {
            var runstate = xen.Processors[processor].Runstate;
            if (runstate.HostDelay is null)
            {
                // The file goes with the domain.
                var delay = RunDelay.OfThisThread();
                runstate.HostDelay = delay is null ? () => 0 : delay.ReadNs;
            }

            xen.SetActivity(processor, activity);
        }
    }
}
