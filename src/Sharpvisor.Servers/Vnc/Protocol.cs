// Numbers of the remote framebuffer protocol: RFC 6143, and for the extensions the registry at rfbproto.
namespace Sharpvisor.Servers.Vnc;

/// <summary>The first byte of a message from a client.</summary>
internal enum ClientMessage : byte
{
    SetPixelFormat = 0,
    SetEncodings = 2,
    FramebufferUpdateRequest = 3,
    KeyEvent = 4,
    PointerEvent = 5,
    ClientCutText = 6,
    SetDesktopSize = 251,
    Qemu = 255,
}

/// <summary>The first byte of a message from the server.</summary>
internal enum ServerMessage : byte
{
    FramebufferUpdate = 0,
    SetColourMapEntries = 1,
}

internal enum SecurityType : byte
{
    None = 1,
    VncAuthentication = 2,
}

/// <summary>How a rectangle is sent, and by negative numbers what else a client understands.</summary>
internal enum Encoding
{
    Raw = 0,
    CopyRect = 1,
    Hextile = 5,
    Zlib = 6,
    Tight = 7,
    Zrle = 16,
    Cursor = -239,
    DesktopSize = -223,
    LastRect = -224,
    CompressionLevel0 = -256,
    CompressionLevel9 = -247,
    PointerMotionChange = -257,
    QemuExtendedKey = -258,
    QemuLedState = -261,
    ExtendedDesktopSize = -308,
    ExtendedMouseButtons = -316,
}

/// <summary>The other side does what the protocol does not allow: the connection ends.</summary>
internal sealed class ProtocolException(string message) : Exception(message);
