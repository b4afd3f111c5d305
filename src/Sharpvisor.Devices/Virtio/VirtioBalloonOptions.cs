namespace Sharpvisor.Devices.Virtio;

/// <summary>What a <see cref="VirtioBalloon"/> offers.</summary>
public sealed record VirtioBalloonOptions
{
    /// <summary>The driver takes pages back by itself before its system kills a process for want of memory.</summary>
    public bool DeflatesOnOom { get; init; }

    /// <summary>The driver tells which pages nobody uses, and the host has them until somebody does.</summary>
    public bool ReportsFreePages { get; init; }
}
