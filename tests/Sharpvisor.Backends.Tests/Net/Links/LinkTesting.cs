using System.Diagnostics;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Tests.Net.User;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.Links;

/// <summary>A link with a NIC whose guest is the test.</summary>
internal sealed class LinkedNic : IAsyncDisposable
{
    private readonly LinkBackend _link;
    private Exception? _fault;

    public LinkedNic(LinkBackend link)
    {
        _link = link;
        link.Faulted += e => _fault = e;
        Nic = new FakeNic { Network = link };
        link.Attach(Nic);
    }

    public FakeNic Nic { get; }

    public static byte[] Frame(int length, int seed)
    {
        var frame = new byte[length];
        new Random(seed).NextBytes(frame);
        return frame;
    }

    /// <summary>Waits for something; the limit is for a hang only.</summary>
    public static void Until(Func<bool> condition, Func<string>? state = null)
    {
        var watch = Stopwatch.StartNew();
        while (!condition())
        {
            Assert.True(watch.Elapsed.TotalSeconds < 60, $"hangs: {state?.Invoke()}");
            Thread.Sleep(1);
        }
    }

    public void Send(byte[] frame) => Nic.Send(frame);

    public byte[] Take()
    {
        Assert.True(Nic.TryTake(out var frame, out var offload, 60_000), $"nothing comes: {_fault} {_link.Figures}");
        Assert.Equal(default, offload);
        return frame!;
    }

    public bool IsQuiet() => !Nic.TryTake(out _, out _, 0);

    public async ValueTask DisposeAsync()
    {
        await _link.DisposeAsync();
        Assert.True(_fault is null, _fault?.ToString());
    }
}
