// What keyboard and mouse at a PS/2 port have in common: replies before input, the last byte again on request.
// Follows: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" (FAh, AAh, FEh).

namespace Sharpvisor.Devices.Ps2;

/// <summary>A device at a PS/2 port: takes bytes, and has bytes to send that the controller fetches when it can.</summary>
public abstract class Ps2Device
{
    /// <summary>Answers to commands, which have nothing to do with input.</summary>
    protected const byte Acknowledge = 0xFA, SelfTestPassed = 0xAA, ResendRequest = 0xFE;

    private const int ReplyLimit = 16;

    private readonly Queue<byte> _replies = new();
    private byte _last;

    /// <summary>Raised when a person presses a key or a button, whether the guest listens or not: a sleeping machine wakes up.</summary>
    public event Action? Pressed;

    /// <summary>There is a byte to send.</summary>
    public bool HasOutput => _replies.Count > 0 || HasInput;

    /// <summary>Called when there is a byte to send: the controller's.</summary>
    internal Action? OutputReady { get; set; }

    /// <summary>There is a byte of input to send.</summary>
    protected abstract bool HasInput { get; }

    /// <summary>Sends a byte. Call it only with <see cref="HasOutput"/>.</summary>
    internal byte Take()
    {
        _last = _replies.TryDequeue(out var reply) ? reply : TakeInput();
        return _last;
    }

    /// <summary>A byte from the host: a command or its parameter.</summary>
    internal abstract void Receive(byte value);

    /// <summary>Power-on.</summary>
    internal virtual void Reset()
    {
        _replies.Clear();
        _last = 0;
    }

    protected abstract byte TakeInput();

    /// <summary>Answers, before any input. A new command drops what is left of the answer to the one before.</summary>
    protected void Reply(params ReadOnlySpan<byte> bytes)
    {
        foreach (var value in bytes)
        {
            if (_replies.Count < ReplyLimit)
                _replies.Enqueue(value);
        }

        OutputReady?.Invoke();
    }

    protected void NotePress() => Pressed?.Invoke();

    protected void DropReplies() => _replies.Clear();

    /// <summary>The last byte once more.</summary>
    protected void ResendLast() => Reply(_last);
}
