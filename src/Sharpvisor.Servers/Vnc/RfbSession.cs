// One client: the messages that it sends, RFC 6143, 7.5 (rfbproto for the extensions). The clipboard is read over: a PC has none.
using Sharpvisor.Servers.Vnc.Encodings;
using Sharpvisor.Servers.Vnc.Input;

namespace Sharpvisor.Servers.Vnc;

/// <summary>What a session needs of its server.</summary>
/// <param name="Admit">Asked when a client has proven itself, with whether it shares: false if it may not stay.</param>
internal sealed record SessionContext(
    VncConsole Console, ScreenSource Screen, VncLimits Limits, TimeProvider Time, bool PasswordRequired, Func<VncPassword?> Password, Func<RfbSession, bool, bool> Admit);

internal sealed partial class RfbSession : IDisposable
{
    private readonly SessionContext _context;
    private readonly Stream _stream;
    private readonly RfbReader _reader;
    private readonly RfbWriter _writer;
    private readonly ClientFrame _frame = new();
    private readonly UpdateRequests _requests = new();
    private readonly EncoderSet _encoders = new();
    private readonly VncKeyboard _keyboard;
    private readonly VncPointer _pointer;
    private readonly CancellationTokenSource _end;

    /// <param name="serverEnd">Set when the server ends.</param>
    public RfbSession(Stream stream, SessionContext context, CancellationToken serverEnd)
    {
        _context = context;
        _stream = stream;
        _reader = new RfbReader(stream);
        _writer = new RfbWriter(stream, context.Limits.Write);
        _keyboard = new VncKeyboard(context.Console.Keyboard, context.Console.Gate, context.Limits.Key);
        _pointer = new VncPointer(context.Console.Pointer, context.Console.Gate);
        _end = CancellationTokenSource.CreateLinkedTokenSource(serverEnd);
    }

    /// <summary>Ends the connection soon.</summary>
    public void Close() => _ = _end.CancelAsync();

    /// <summary>Serves the client until it or the server ends.</summary>
    /// <exception cref="ProtocolException">It sent what no client should.</exception>
    /// <exception cref="IOException">The connection broke.</exception>
    /// <exception cref="TimeoutException">It kept the server waiting.</exception>
    public async Task RunAsync()
    {
        var handshake = new RfbHandshake(_reader, _writer, _context.PasswordRequired, _context.Password, _context.Limits);
        await handshake.AuthenticateAsync(_end.Token).ConfigureAwait(false);
        var shared = await handshake.ReadSharedAsync(_end.Token).ConfigureAwait(false);
        if (!_context.Admit(this, shared))
            return;

        _context.Screen.Capture(_frame, resize: true);
        (_toldWidth, _toldHeight) = (_frame.Width, _frame.Height);
        _writer.U16(_frame.Width);
        _writer.U16(_frame.Height);
        PixelFormat.Native.Write(_writer);
        _writer.Text(_context.Console.Name);
        await _writer.FlushAsync(_end.Token).ConfigureAwait(false);

        var updates = AnswerAsync();
        var messages = ReceiveAsync();
        try
        {
            // The first that fails says why; the other then ends as well.
            await (await Task.WhenAny(updates, messages).ConfigureAwait(false)).ConfigureAwait(false);
        }
        finally
        {
            await _end.CancelAsync().ConfigureAwait(false);
            await Task.WhenAll(updates, messages).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            _pointer.Release(); // nobody presses a button any more
            _keyboard.Complete();
        }
    }

    /// <summary>Types what the client has sent, also after it has gone.</summary>
    /// <param name="serverEnd">When nothing more is typed.</param>
    public Task TypeAsync(CancellationToken serverEnd) => _keyboard.RunAsync(serverEnd);

    public void Dispose()
    {
        _keyboard.Complete();
        _encoders.Dispose();
        _requests.Dispose();
        _end.Dispose();
        _stream.Dispose();
    }

    private async Task ReceiveAsync()
    {
        var cancellation = _end.Token;
        while (true)
        {
            var type = (ClientMessage)await _reader.ReadByteAsync(cancellation).ConfigureAwait(false);
            switch (type)
            {
                case ClientMessage.SetPixelFormat:
                    var format = await _reader.ReadAsync(3 + PixelFormat.Size, cancellation).ConfigureAwait(false);
                    _requests.SetFormat(PixelFormat.Read(format.Span[3..]));
                    break;
                case ClientMessage.SetEncodings:
                    await ReceiveEncodingsAsync(cancellation).ConfigureAwait(false);
                    break;
                case ClientMessage.FramebufferUpdateRequest:
                    var request = await _reader.ReadAsync(9, cancellation).ConfigureAwait(false);
                    _requests.Add(new Area(request.U16(1), request.U16(3), request.U16(5), request.U16(7)), request.U8(0) != 0);
                    break;
                case ClientMessage.KeyEvent:
                    var key = await _reader.ReadAsync(7, cancellation).ConfigureAwait(false);
                    _requests.NoteInput();
                    await _keyboard.OnKeysymAsync(key.U32(3), key.U8(0) != 0, cancellation).ConfigureAwait(false);
                    break;
                case ClientMessage.PointerEvent:
                    await ReceivePointerAsync(cancellation).ConfigureAwait(false);
                    break;
                case ClientMessage.ClientCutText:
                    var length = (await _reader.ReadAsync(7, cancellation).ConfigureAwait(false)).U32(3);
                    if (length > _context.Limits.ClipboardText)
                        throw new ProtocolException($"{length} bytes for the clipboard");
                    await _reader.SkipAsync(length, cancellation).ConfigureAwait(false);
                    break;
                case ClientMessage.SetDesktopSize:
                    var screens = (await _reader.ReadAsync(7, cancellation).ConfigureAwait(false)).U8(5);
                    await _reader.SkipAsync(screens * 16, cancellation).ConfigureAwait(false);
                    _requests.RefuseSize();
                    break;
                case ClientMessage.Qemu:
                    await ReceiveQemuAsync(cancellation).ConfigureAwait(false);
                    break;
                default:
                    throw new ProtocolException($"message {(byte)type}, which is not known");
            }
        }
    }

    private async Task ReceiveEncodingsAsync(CancellationToken cancellation)
    {
        var settings = new ClientSettings();
        var count = (await _reader.ReadAsync(3, cancellation).ConfigureAwait(false)).U16(1);
        for (var i = 0; i < count; i++)
            settings.Add((int)(await _reader.ReadAsync(4, cancellation).ConfigureAwait(false)).U32(0));
        _requests.SetEncodings(settings);
    }

    private async Task ReceivePointerAsync(CancellationToken cancellation)
    {
        var pointer = await _reader.ReadAsync(5, cancellation).ConfigureAwait(false);
        var (mask, x, y) = ((int)pointer.U8(0), pointer.U16(1), pointer.U16(3));
        if (_knowsMouseButtons && (mask & VncPointer.ExtendedMark) != 0)
            mask = (mask & ~VncPointer.ExtendedMark) | (await _reader.ReadByteAsync(cancellation).ConfigureAwait(false) << 7);
        _requests.NoteInput();
        _pointer.OnEvent(mask, x, y, Volatile.Read(ref _toldWidth), Volatile.Read(ref _toldHeight));
    }

    private async Task ReceiveQemuAsync(CancellationToken cancellation)
    {
        var kind = await _reader.ReadByteAsync(cancellation).ConfigureAwait(false);
        if (kind != 0)
            throw new ProtocolException($"QEMU message {kind}, which was not offered");
        var key = await _reader.ReadAsync(10, cancellation).ConfigureAwait(false);
        _requests.NoteInput();
        await _keyboard.OnScanCodeAsync(key.U32(2), key.U32(6), key.U16(0) != 0, cancellation).ConfigureAwait(false);
    }
}
