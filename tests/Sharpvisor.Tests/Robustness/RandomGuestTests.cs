using System.Globalization;
using Sharpvisor.Cpu;

namespace Sharpvisor.Tests.Robustness;

/// <summary>No guest throws into its host, hangs it, or reads outside of its memory, whatever it executes.</summary>
public sealed class RandomGuestTests
{
    private static readonly int s_first = Number("ROBUST_SEED", 1);
    private static readonly int s_count = Number("ROBUST_COUNT", 1500);

    /// <summary>ROBUST_COUNT guests from ROBUST_SEED on, 400 instructions each.</summary>
    [Fact]
    public async Task Random_guests_harm_nobody()
    {
        var seed = 0;
        var escapes = new List<string>();
        var processor = new BareProcessor();
        var start = processor.Vcpu.GetState();
        var thread = new Thread(() =>
        {
            for (seed = s_first; seed < s_first + s_count && escapes.Count < 10; seed++)
            {
                if (Environment.GetEnvironmentVariable("ROBUST_LOG") is { } log)
                    File.WriteAllText(log, seed.ToString(CultureInfo.InvariantCulture)); // for when the process dies
                try
                {
                    var guest = new RandomGuest(seed);
                    guest.Place(processor.Memory);
                    processor.Vcpu.SetState(guest.State(start));
                    if (processor.Vcpu.Run(400) == VcpuExit.Shutdown && seed % 16 == 0)
                        processor.Vcpu.DescribeFault();
                }
                catch (Exception e)
                {
                    escapes.Add($"seed {seed}, {new RandomGuest(seed).Mode}: {e}");
                }
            }
        })
        { IsBackground = true };
        thread.Start();
        var (last, since) = (-1, 0L);
        while (!thread.Join(50))
        {
            if (seed != last)
            {
                (last, since) = (seed, Environment.TickCount64);
                continue;
            }

            // A repeated string instruction may take minutes, but nothing outlives a kick.
            processor.Vcpu.Kick();
            Assert.True(Environment.TickCount64 - since < 10_000, $"seed {seed} does not react to a kick"); // it runs: nothing is disposed
        }

        await processor.DisposeAsync();
        Assert.True(escapes.Count == 0, string.Join("\n\n", escapes));
    }

    private static int Number(string variable, int fallback) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), NumberStyles.None, CultureInfo.InvariantCulture, out var n) ? n : fallback;
}
