namespace Sharpvisor.Servers.Vnc;

/// <summary>How long and how much a client may keep the server busy.</summary>
internal sealed record VncLimits
{
    public static readonly VncLimits Default = new();

    /// <summary>For each answer of a client until it is connected.</summary>
    public TimeSpan Handshake { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>For a person to type the password.</summary>
    public TimeSpan Password { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>Slows down who tries many.</summary>
    public TimeSpan WrongPassword { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>A client that takes nothing for so long is gone.</summary>
    public TimeSpan Write { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>The least time between two looks at the screen.</summary>
    public TimeSpan Frame { get; init; } = TimeSpan.FromMilliseconds(33);

    /// <summary>That time grows to this one while nothing changes and nobody types.</summary>
    public TimeSpan IdleFrame { get; init; } = TimeSpan.FromMilliseconds(200);

    /// <summary>After so much time an update ends where it is, if the client allows (LastRect), so that the rest is sent as it is by then.</summary>
    public TimeSpan Update { get; init; } = TimeSpan.FromMilliseconds(250);

    /// <summary>Between two keys: firmware and old systems lose faster ones. As QEMU's key-delay-ms.</summary>
    public TimeSpan Key { get; init; } = TimeSpan.FromMilliseconds(10);

    /// <summary>A text for the clipboard longer than this, in bytes, is taken as garbage.</summary>
    public int ClipboardText { get; init; } = 1 << 20;
}
