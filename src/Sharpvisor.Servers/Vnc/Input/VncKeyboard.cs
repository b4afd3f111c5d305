using System.Threading.Channels;
using Sharpvisor.Core;
using Sharpvisor.Core.Input;

namespace Sharpvisor.Servers.Vnc.Input;

/// <summary>
/// The keyboard of one client: turns its key events into those of physical keys, hands them on at the speed of a fast
/// typist, and lets go of every key when the client has gone.
/// </summary>
internal sealed class VncKeyboard(IKeyboardInput? keyboard, MachineGate gate, TimeSpan delay)
{
    // A longer burst waits in the connection: the reader of the client's messages does.
    private readonly Channel<(Key Key, bool Pressed)> _events = Channel.CreateBounded<(Key, bool)>(1024);

    private readonly HashSet<Key> _held = []; // of the reader's side
    private bool _hasCapsLock;

    /// <summary>A key event with a keysym (RFC 6143, 7.5.4).</summary>
    public async ValueTask OnKeysymAsync(uint keysym, bool pressed, CancellationToken cancellation)
    {
        var meaning = Keysyms.Find(keysym);
        if (meaning.Key == Key.None)
            return;
        // With Caps Lock the client's letters are upper case without shift: the guest has got that key as well.
        _hasCapsLock |= keysym == Keysyms.CapsLock;
        var left = _held.Contains(Key.LeftShift);
        var right = _held.Contains(Key.RightShift);
        if (!pressed || meaning.Shift is not { } shift || shift == (left || right) || (meaning.IsLetter && (!shift || _hasCapsLock)))
        {
            await PutAsync(meaning.Key, pressed, cancellation).ConfigureAwait(false);
            return;
        }

        // A client that sends a sign without the shift that a US keyboard needs for it, or with one too many: another
        // layout, an on-screen keyboard, a script. The sign is what it means.
        if (shift)
            await PutAsync(Key.LeftShift, true, cancellation).ConfigureAwait(false);
        if (left)
            await PutAsync(Key.LeftShift, false, cancellation).ConfigureAwait(false);
        if (right)
            await PutAsync(Key.RightShift, false, cancellation).ConfigureAwait(false);
        await PutAsync(meaning.Key, true, cancellation).ConfigureAwait(false);
        if (shift)
            await PutAsync(Key.LeftShift, false, cancellation).ConfigureAwait(false);
        if (left)
            await PutAsync(Key.LeftShift, true, cancellation).ConfigureAwait(false);
        if (right)
            await PutAsync(Key.RightShift, true, cancellation).ConfigureAwait(false);
    }

    /// <summary>A QEMU extended key event: the physical key, or without a scan code the keysym.</summary>
    public ValueTask OnScanCodeAsync(uint keysym, uint code, bool pressed, CancellationToken cancellation) => XtKeys.ToKey(code) switch
    {
        Key.None when code == 0 => OnKeysymAsync(keysym, pressed, cancellation),
        Key.None => ValueTask.CompletedTask,
        var key => PutAsync(key, pressed, cancellation),
    };

    /// <summary>The lights; null on a machine without a keyboard.</summary>
    public KeyboardLeds? ReadLeds()
    {
        using (gate.Enter())
            return keyboard?.Leds;
    }

    /// <summary>No more will come.</summary>
    public void Complete() => _events.Writer.TryComplete();

    /// <summary>Types until <see cref="Complete"/>, and then what is left.</summary>
    public async Task RunAsync(CancellationToken cancellation)
    {
        var down = new HashSet<Key>();
        try
        {
            await foreach (var (key, pressed) in _events.Reader.ReadAllAsync(cancellation).ConfigureAwait(false))
            {
                if (pressed)
                    down.Add(key);
                else if (!down.Remove(key))
                    continue; // let go of what was never held: nothing
                Press(key, pressed);
                await Task.Delay(delay, cancellation).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            // The server ends; the keys are let go all the same.
        }

        foreach (var key in down)
            Press(key, false);
    }

    private async ValueTask PutAsync(Key key, bool pressed, CancellationToken cancellation)
    {
        if (pressed)
            _held.Add(key);
        else
            _held.Remove(key);
        await _events.Writer.WriteAsync((key, pressed), cancellation).ConfigureAwait(false);
    }

    private void Press(Key key, bool pressed)
    {
        using (gate.Enter())
            keyboard?.OnKey(key, pressed);
    }
}
