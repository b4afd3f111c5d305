using Sharpvisor.Core.Tracing;

namespace Sharpvisor.Tests.Guests;

/// <summary>Trace points of a machine that runs Linux, turned on and off meanwhile.</summary>
[Trait("Category", "Guest")]
public sealed class TraceTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData]
    public async Task System_calls_are_seen_while_they_are_wanted(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=ttyS0 quiet")
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        List<string> lines = [];
        machine.TracePoints.Set([TraceFilter.Parse("syscall:83"), TraceFilter.Parse("exception:14"), TraceFilter.Parse("port:0x3f8")], lines.Add);
        await RunAsync("for i in 1 2 3 4 5; do mkdir /tmp/traced-$i; done; rmdir /tmp/traced-*");
        machine.TracePoints.Set([]);
        await machine.PauseAsync(limit.Token);
        Assert.Equal(5, lines.Count(l => l.StartsWith("syscall cpu 0 nr 83 ", StringComparison.Ordinal))); // mkdir
        Assert.Contains(lines, l => l.StartsWith("exception cpu 0 vector 0x0e error 0x", StringComparison.Ordinal));
        Assert.Contains(lines, l => l.StartsWith("port write 0x3f8 size 1 value 0x", StringComparison.Ordinal));
        Assert.DoesNotContain(lines, l => !l.StartsWith("syscall cpu 0 nr 83 ", StringComparison.Ordinal) && !l.StartsWith("exception cpu 0 vector 0x0e", StringComparison.Ordinal) && !l.StartsWith("port ", StringComparison.Ordinal));
        await machine.ResumeAsync(limit.Token);
        var count = lines.Count;
        await RunAsync("mkdir /tmp/a; rmdir /tmp/a");
        Assert.Equal(count, lines.Count);

        async Task RunAsync(string command)
        {
            await machine.Serial.WriteLineAsync(command, limit.Token);
            await machine.Serial.ExpectAsync(":~# ", limit.Token);
        }
    }
}
