using Sharpvisor.Servers.Vnc.Encodings;

namespace Sharpvisor.Servers.Vnc;

/// <summary>What a client said in SetEncodings (RFC 6143, 7.5.2): the first encoding that is known here, and what else it understands.</summary>
internal sealed class ClientSettings
{
    private bool _hasEncoding;

    public Encoding Encoding { get; private set; } = Encoding.Raw;

    /// <summary>Of compression, 0 to 9.</summary>
    public int Level { get; private set; } = EncoderSet.DefaultLevel;

    public bool CopyRect { get; private set; }

    public bool DesktopSize { get; private set; }

    public bool ExtendedDesktopSize { get; private set; }

    public bool LastRect { get; private set; }

    public bool ExtendedKey { get; private set; }

    public bool LedState { get; private set; }

    public bool PointerMotion { get; private set; }

    public bool Cursor { get; private set; }

    public bool MouseButtons { get; private set; }

    public bool CanResize => DesktopSize || ExtendedDesktopSize;

    /// <summary>The next number of the client's list.</summary>
    public void Add(int number)
    {
        var encoding = (Encoding)number;
        switch (encoding)
        {
            case Encoding.CopyRect:
                CopyRect = true;
                break;
            case Encoding.DesktopSize:
                DesktopSize = true;
                break;
            case Encoding.ExtendedDesktopSize:
                ExtendedDesktopSize = true;
                break;
            case Encoding.LastRect:
                LastRect = true;
                break;
            case Encoding.QemuExtendedKey:
                ExtendedKey = true;
                break;
            case Encoding.QemuLedState:
                LedState = true;
                break;
            case Encoding.PointerMotionChange:
                PointerMotion = true;
                break;
            case Encoding.Cursor:
                Cursor = true;
                break;
            case Encoding.ExtendedMouseButtons:
                MouseButtons = true;
                break;
            case >= Encoding.CompressionLevel0 and <= Encoding.CompressionLevel9:
                Level = encoding - Encoding.CompressionLevel0;
                break;
            default:
                if (_hasEncoding || !EncoderSet.Has(encoding))
                    break;
                _hasEncoding = true;
                Encoding = encoding;
                break;
        }
    }
}
