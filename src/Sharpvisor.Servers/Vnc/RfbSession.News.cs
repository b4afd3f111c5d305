// One client: what it is told besides pixels, by rectangles of pseudo-encodings.
using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Vnc;

internal sealed partial class RfbSession
{
    /// <summary>What is to be written into the next update, a rectangle each.</summary>
    private readonly List<Action> _news = [];

    private KeyboardLeds? _toldLeds;
    private bool? _toldAbsolute;
    private CursorShape? _toldCursor;

    /// <summary>The client may send the byte of buttons 8 and on.</summary>
    private volatile bool _knowsMouseButtons;

    /// <summary>Finds what the client does not know yet, of what it understands.</summary>
    private void FindNews(UpdateRequests.Work work)
    {
        _news.Clear();
        var settings = work.Settings;
        if (work.Announce && settings.ExtendedKey)
            _news.Add(() => _writer.RectangleHead(default, Encoding.QemuExtendedKey));
        if (work.Announce && settings.MouseButtons)
            _news.Add(AcceptMouseButtons);
        if (settings.LedState && _keyboard.ReadLeds() is { } leds && (work.Announce || leds != _toldLeds))
            _news.Add(() => WriteLeds(leds));
        var (isAbsolute, isListening) = _pointer.Ask();
        if (settings.PointerMotion && isAbsolute != _toldAbsolute)
            _news.Add(() => WritePointerType(isAbsolute));
        var cursor = isListening && !_context.Screen.IsTextMode ? CursorShape.Dot : CursorShape.Arrow;
        if (settings.Cursor && cursor != _toldCursor)
            _news.Add(() => WriteCursor(cursor, work.Converter));
    }

    private void AcceptMouseButtons()
    {
        _writer.RectangleHead(default, Encoding.ExtendedMouseButtons);
        _knowsMouseButtons = true;
    }

    private void WriteLeds(KeyboardLeds leds)
    {
        _writer.RectangleHead(default, Encoding.QemuLedState);
        _writer.U8((int)leds);
        _toldLeds = leds;
    }

    /// <summary>The client's events are positions, or motion.</summary>
    private void WritePointerType(bool isAbsolute)
    {
        _writer.RectangleHead(new Area(isAbsolute ? 1 : 0, 0, 0, 0), Encoding.PointerMotionChange);
        _pointer.IsRelative = !isAbsolute;
        _toldAbsolute = isAbsolute;
    }

    private void WriteCursor(CursorShape cursor, PixelConverter converter)
    {
        _writer.RectangleHead(new Area(cursor.HotX, cursor.HotY, cursor.Width, cursor.Height), Encoding.Cursor);
        converter.Convert(cursor.Pixels, _writer.Take(cursor.Pixels.Length * converter.BytesPerPixel));
        _writer.Bytes(cursor.Mask);
        _toldCursor = cursor;
    }
}
