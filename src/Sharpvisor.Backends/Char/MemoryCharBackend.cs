// A serial line whose other end is the program that made the machine: it waits for text and types answers.
using System.Text;
using Sharpvisor.Core;
using Sharpvisor.Core.Char;

namespace Sharpvisor.Backends.Char;

/// <summary>An expect-like end of a character device. All members may be used from any thread.</summary>
public sealed class MemoryCharBackend : ICharBackend
{
    private const int Kept = 4 << 20;
    private const int ShownInErrors = 600;

    private readonly Lock _lock = new();
    private readonly Queue<byte> _input = new(); // guarded by the machine's gate once attached
    private byte[] _output = new byte[4096];
    private int _length, _position;
    private Waiter? _waiter;
    private string? _ended;
    private ICharFrontend? _frontend;
    private MachineGate? _gate;

    public string Name => "memory";

    /// <summary>What the guest has sent, as UTF-8: the last 2 to 4 MiB of it.</summary>
    public string Output
    {
        get
        {
            lock (_lock)
                return Encoding.UTF8.GetString(_output, 0, _length);
        }
    }

    /// <summary>Waits until <paramref name="text"/> appears behind the last match.</summary>
    /// <returns>The output since the last match, including this one.</returns>
    /// <exception cref="OperationCanceledException">Cancelled; the message shows the last output.</exception>
    /// <exception cref="EndOfStreamException">The machine ended first; the message shows the last output.</exception>
    public async Task<string> ExpectAsync(string text, CancellationToken cancellation = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(text);
        var waiter = new Waiter(Encoding.UTF8.GetBytes(text));
        lock (_lock)
        {
            if (_waiter is not null)
                throw new InvalidOperationException("another ExpectAsync is waiting on this line");
            _waiter = waiter;
            waiter.Searched = _position;
            TryMatch();
            if (_waiter is not null && _ended is not null)
                EndWaiter();
        }

        try
        {
            return await waiter.Done.Task.WaitAsync(cancellation).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            throw new OperationCanceledException($"waited for \"{text}\" in vain; {Tail()}", cancellation);
        }
        finally
        {
            lock (_lock)
            {
                if (ReferenceEquals(_waiter, waiter))
                    _waiter = null;
            }
        }
    }

    /// <summary>Types text; it is given to the guest as the device has room.</summary>
    public Task WriteAsync(string text, CancellationToken cancellation = default) => WriteAsync(Encoding.UTF8.GetBytes(text), cancellation);

    /// <summary>Types text and the Enter key (a carriage return).</summary>
    public Task WriteLineAsync(string text, CancellationToken cancellation = default) => WriteAsync(text + "\r", cancellation);

    public Task WriteAsync(byte[] bytes, CancellationToken cancellation = default)
    {
        cancellation.ThrowIfCancellationRequested();
        var gate = _gate ?? throw new InvalidOperationException("the line is not attached to a device yet");
        using (gate.Enter())
        {
            foreach (var b in bytes)
                _input.Enqueue(b);
            GiveInput();
        }

        return Task.CompletedTask;
    }

    /// <summary>No output will follow: whoever waits is told so.</summary>
    /// <param name="reason">For the message: "the guest powered off".</param>
    public void End(string reason)
    {
        lock (_lock)
        {
            _ended ??= reason;
            EndWaiter();
        }
    }

    public void Attach(ICharFrontend frontend, MachineGate gate)
    {
        _frontend = frontend;
        _gate = gate;
    }

    public int Write(ReadOnlySpan<byte> data)
    {
        lock (_lock)
        {
            if (_length + data.Length > _output.Length)
                MakeRoom(data.Length);
            data.CopyTo(_output.AsSpan(_length));
            _length += data.Length;
            TryMatch();
        }

        return data.Length;
    }

    public void OnReceiveReady() => GiveInput();

    public ValueTask DisposeAsync()
    {
        End("the machine was disposed");
        return ValueTask.CompletedTask;
    }

    private void GiveInput()
    {
        while (_input.Count > 0)
        {
            var count = Math.Min(_frontend!.ReceiveCapacity, _input.Count);
            if (count <= 0)
                return;
            var bytes = new byte[count];
            for (var i = 0; i < count; i++)
                bytes[i] = _input.Dequeue();
            _frontend.Receive(bytes);
        }
    }

    private void MakeRoom(int more)
    {
        if (_length + more > Kept)
        {
            var drop = Math.Min(_length, Math.Max(Kept / 2, more));
            _output.AsSpan(drop, _length - drop).CopyTo(_output);
            _length -= drop;
            _position = Math.Max(0, _position - drop);
            if (_waiter is not null)
                _waiter.Searched = Math.Max(0, _waiter.Searched - drop);
        }

        if (_length + more > _output.Length)
            Array.Resize(ref _output, Math.Max(_length + more, Math.Min(Kept, _output.Length * 2)));
    }

    private void TryMatch()
    {
        if (_waiter is not { } waiter)
            return;
        var found = _output.AsSpan(waiter.Searched, _length - waiter.Searched).IndexOf(waiter.Text);
        if (found < 0)
        {
            waiter.Searched = Math.Max(waiter.Searched, _length - waiter.Text.Length + 1);
            return;
        }

        var end = waiter.Searched + found + waiter.Text.Length;
        waiter.Done.TrySetResult(Encoding.UTF8.GetString(_output, _position, end - _position));
        _position = end;
        _waiter = null;
    }

    private void EndWaiter()
    {
        if (_waiter is not { } waiter)
            return;
        _waiter = null;
        waiter.Done.TrySetException(new EndOfStreamException($"{_ended} before \"{Encoding.UTF8.GetString(waiter.Text)}\" appeared; {Tail()}"));
    }

    private string Tail()
    {
        var output = Output;
        return output.Length == 0 ? "the guest has sent nothing" : "last output: " + output[^Math.Min(ShownInErrors, output.Length)..];
    }

    private sealed class Waiter(byte[] text)
    {
        public byte[] Text { get; } = text;

        public TaskCompletionSource<string> Done { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        /// <summary>No match begins before this offset.</summary>
        public int Searched { get; set; }
    }
}
