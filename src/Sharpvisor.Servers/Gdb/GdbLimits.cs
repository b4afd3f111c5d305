namespace Sharpvisor.Servers.Gdb;

/// <summary>How long and how much a client may keep the server busy.</summary>
internal sealed record GdbLimits
{
    public static readonly GdbLimits Default = new();

    /// <summary>The longest packet, in bytes, both ways: what PacketSize announces.</summary>
    public int Packet { get; init; } = 128 << 10;

    /// <summary>A client that takes nothing for so long is gone.</summary>
    public TimeSpan Write { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>For the last word to a client when the machine ends.</summary>
    public TimeSpan Farewell { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>A client that comes while another one is there waits so long for that one to go: it may be on its way.</summary>
    public TimeSpan Takeover { get; init; } = TimeSpan.FromMilliseconds(500);
}
