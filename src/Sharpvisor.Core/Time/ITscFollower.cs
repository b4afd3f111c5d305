namespace Sharpvisor.Core.Time;

/// <summary>
/// A device of one processor that computes with the guest's TSC: its local APIC (TSC deadline) and its kvmclock. The
/// processor tells each one, with the machine's gate held, whenever its guest changes TSC or TSC_ADJUST.
/// </summary>
public interface ITscFollower
{
    /// <summary>Guest TSC = machine time in ns + this.</summary>
    long TscOffset { get; set; }
}
