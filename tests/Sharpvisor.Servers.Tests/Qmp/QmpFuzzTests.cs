using System.Text;
using Sharpvisor.Servers.Tests.Control;

namespace Sharpvisor.Servers.Tests.Qmp;

/// <summary>Input that no client sends. SHARPVISOR_FUZZ_COUNT and SHARPVISOR_FUZZ_SEED make it longer, or once more the same.</summary>
public sealed class QmpFuzzTests
{
    private static readonly string[] Seeds =
    [
        "{\"execute\":\"query-status\"}", "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"x/4xw $rip\",\"cpu-index\":0}}",
        "{\"execute\":\"send-key\",\"arguments\":{\"keys\":[{\"type\":\"qcode\",\"data\":\"ctrl\"}],\"hold-time\":1}}",
        "{\"execute\":\"input-send-event\",\"arguments\":{\"events\":[{\"type\":\"abs\",\"data\":{\"axis\":\"x\",\"value\":70000}}]}}",
        "{\"execute\":\"set-action\",\"arguments\":{\"panic\":\"pause\"},\"id\":{\"a\":[1,2,3]}}", "{\"execute\":\"eject\",\"arguments\":{\"device\":\"ide1-cd0\"}}",
        "{\"execute\":\"balloon\",\"arguments\":{\"value\":18446744073709551615}}", "{\"execute\":\"stop\"}{\"execute\":\"cont\"}", "\"\\ud800\"", "[[[[]]]]", "\xFF\xFE",
    ];

    [Fact]
    public async Task Mutated_commands_are_answered_or_refused()
    {
        var count = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var given) ? given : 3000;
        var seed = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_SEED"), out var number) ? number : 4711;
        var folder = Directory.GetCurrentDirectory();
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithCdrom(null));
        using var client = await RawClient.ConnectAsync(machine);
        for (var i = 0; i < count; i++)
        {
            var random = new Random(seed + i);
            var input = Mutate(random);
            if (Encoding.Latin1.GetString(input).Contains("filename", StringComparison.Ordinal))
                continue;
            await client.Stream.WriteAsync(input);
            // A line that is broken within a string ends with it; what follows is a command again.
            try
            {
                var marker = $"\"marker{i}\"";
                string answer;
                await client.WriteAsync($"\n\n{{\"execute\":\"query-status\",\"id\":{marker}}}\n\"\n{{\"execute\":\"query-status\",\"id\":{marker}}}\n");
                do
                    answer = await client.ReadLineAsync();
                while (!answer.Contains(marker, StringComparison.Ordinal));
            }
            catch (TimeoutException e)
            {
                throw new TimeoutException($"seed {seed + i}: {Convert.ToHexString(input)}", e);
            }
        }

        Assert.Equal(folder, Directory.GetCurrentDirectory());
        Assert.False(machine.Machine.Exit.IsCompleted);
    }

    private static byte[] Mutate(Random random)
    {
        var text = Encoding.Latin1.GetBytes(Seeds[random.Next(Seeds.Length)]).ToList();
        for (var i = random.Next(6); i >= 0 && text.Count > 0; i--)
        {
            var at = random.Next(text.Count);
            switch (random.Next(5))
            {
                case 0:
                    text[at] = (byte)random.Next(256);
                    break;
                case 1:
                    text.RemoveRange(at, Math.Min(random.Next(10), text.Count - at));
                    break;
                case 2:
                    text.InsertRange(at, Encoding.Latin1.GetBytes(Seeds[random.Next(Seeds.Length)]));
                    break;
                case 3:
                    text.InsertRange(at, Enumerable.Repeat((byte)"[{\"9"[random.Next(4)], random.Next(100)));
                    break;
                default:
                    text.Insert(at, (byte)"\\\"{}[]:,"[random.Next(8)]);
                    break;
            }
        }

        return [.. text];
    }
}
