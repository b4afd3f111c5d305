using Sharpvisor.Core.Char;

namespace Sharpvisor.Backends.Tests.Char;

/// <summary>A device that takes a given number of bytes before its backend has to wait.</summary>
internal sealed class FakeFrontend : ICharFrontend
{
    private readonly Lock _lock = new();
    private readonly List<byte> _received = [];
    private readonly SemaphoreSlim _changed = new(0);

    public int ReceiveCapacity { get; set; } = int.MaxValue;

    public int Writable { get; private set; }

    public byte[] Received
    {
        get
        {
            lock (_lock)
                return [.. _received];
        }
    }

    public void Receive(ReadOnlySpan<byte> data)
    {
        Assert.True(data.Length <= ReceiveCapacity);
        ReceiveCapacity -= data.Length;
        lock (_lock)
            _received.AddRange(data);
        _changed.Release();
    }

    public void OnWritable()
    {
        Writable++;
        _changed.Release();
    }

    public void OnBreak()
    {
    }

    public async Task UntilAsync(Func<bool> condition)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(10));
        while (!condition())
            await _changed.WaitAsync(TimeSpan.FromMilliseconds(20), limit.Token);
    }
}
