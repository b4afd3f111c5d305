using Sharpvisor.Core;
using Sharpvisor.Core.Input;
using Sharpvisor.Devices.Ps2;

namespace Sharpvisor.Input;

/// <summary>A machine's keyboard, for the program that made it: types as fast as the guest reads. Any thread may use it.</summary>
public sealed class GuestKeyboard
{
    /// <summary>How long a combination is held, as QEMU's sendkey does it.</summary>
    public static readonly TimeSpan HoldTime = TimeSpan.FromMilliseconds(100);

    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(2);

    private readonly Ps2Keyboard _keyboard;
    private readonly MachineGate _gate;
    private readonly Task<MachineExit> _exit;

    internal GuestKeyboard(Ps2Keyboard keyboard, MachineGate gate, Task<MachineExit> exit)
    {
        _keyboard = keyboard;
        _gate = gate;
        _exit = exit;
    }

    /// <summary>The keyboard itself, used under the machine's gate.</summary>
    public IKeyboardInput Device => _keyboard;

    /// <summary>Types text on a US keyboard; '\n' is Enter.</summary>
    /// <exception cref="ArgumentException">A character is not on it.</exception>
    /// <exception cref="InvalidOperationException">The machine has ended.</exception>
    public async Task TypeAsync(string text, CancellationToken cancellation = default)
    {
        foreach (var character in text)
        {
            if (!UsLayout.TryGetKey(character, out _, out _))
                throw new ArgumentException($"U+{(int)character:X4} is not on a US keyboard", nameof(text));
        }

        foreach (var character in text)
        {
            UsLayout.TryGetKey(character, out var key, out var shift);
            await PressAsync(shift ? [Key.LeftShift, key] : [key], TimeSpan.Zero, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Presses keys together and releases them, by the names of QEMU's sendkey: ctrl-alt-delete.</summary>
    /// <exception cref="Core.Guests.ConfigurationException">There is no such key.</exception>
    /// <exception cref="InvalidOperationException">The machine has ended.</exception>
    public Task SendKeysAsync(string names, CancellationToken cancellation = default) =>
        PressAsync(KeyNames.ParseCombination(names), HoldTime, cancellation);

    /// <summary>Presses keys one after the other, holds them, and releases the last one first, also when it is cancelled.</summary>
    /// <exception cref="InvalidOperationException">The machine has ended.</exception>
    public async Task PressAsync(IReadOnlyList<Key> keys, TimeSpan hold, CancellationToken cancellation = default)
    {
        var held = new Stack<Key>();
        try
        {
            foreach (var key in keys)
            {
                await SendAsync(key, true, cancellation).ConfigureAwait(false);
                held.Push(key);
            }

            if (hold > TimeSpan.Zero)
                await Task.Delay(hold, cancellation).ConfigureAwait(false);
            while (held.TryPeek(out var key))
            {
                await SendAsync(key, false, cancellation).ConfigureAwait(false);
                held.Pop();
            }
        }
        catch (OperationCanceledException)
        {
            // A key that stays down would change all that is typed after it.
            using (_gate.Enter())
            {
                foreach (var key in held)
                    _keyboard.OnKey(key, false);
            }

            throw;
        }
    }

    /// <summary>Waits until the guest has fetched what was typed before, so that nothing overruns the keyboard's buffer.</summary>
    private async Task SendAsync(Key key, bool pressed, CancellationToken cancellation)
    {
        while (!TrySend(key, pressed))
        {
            if (_exit.IsCompleted)
                throw new InvalidOperationException("the machine has ended");
            await Task.Delay(PollInterval, cancellation).ConfigureAwait(false);
        }
    }

    private bool TrySend(Key key, bool pressed)
    {
        using (_gate.Enter())
        {
            if (!_keyboard.IsIdle)
                return false;
            _keyboard.OnKey(key, pressed);
            return true;
        }
    }
}
