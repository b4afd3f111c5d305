namespace Sharpvisor.Servers.Control;

/// <summary>How the last dump of the guest's memory went. The names are those of QEMU's DumpStatus.</summary>
public enum DumpStatus
{
    /// <summary>There was none.</summary>
    None,
    Active,
    Completed,
    Failed,
}

/// <summary>A dump of the guest's memory, or the last one.</summary>
/// <param name="Completed">Bytes of memory that are done.</param>
/// <param name="Total">Bytes of memory.</param>
/// <param name="Error">Why it failed.</param>
public sealed record DumpProgress(DumpStatus Status, ulong Completed, ulong Total, string? Error = null);
