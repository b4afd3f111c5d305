using System.Globalization;
using System.Text;
using Microsoft.Extensions.Logging;
using Sharpvisor.Debugging;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>Packets that nobody would send. SHARPVISOR_FUZZ_COUNT conversations, SHARPVISOR_FUZZ_SEED.</summary>
public sealed class FuzzTests
{
    private static readonly string[] Seeds =
    [
        "vMustReplyEmpty", "Hg0", "Hc-1", "qXfer:features:read:target.xml:0,ffb", "qTStatus", "?", "qfThreadInfo",
        "qsThreadInfo", "qAttached", "g", "p10", "P10=0010000000000000", "m1000,40", "x1000,40", "M1000,4:01020304", "X1000,4:abcd", "Z0,1000,1", "z0,1000,1",
        "Z0,1000,1;X8,2600002327101327", "Z0,1000,1;X7,23100017220513;X3,220127", "Z2,2000,8", "z2,2000,8", "Z4,2ff8,10", "vCont;c", "vCont;s:1;c", "vCont;r1000,1010:1;c:-1",
        "c", "s", "c1000", "S05;1000", "vCont?", "T1", "qThreadExtraInfo,2", "qRcmd,68656c70", "qRcmd,7669657720693830383620", "qRcmd,766965772069333836", "qRcmd,696e666f20726567697374657273",
        "Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0", "qqemu.PhyMemMode", "Qqemu.sstep=0x7", "qC", "qOffsets", "qSymbol::", "P12=00f00000", "P1a=23000000", "QStartNoAckMode", "vFile:setfs:0", "",
    ];

    [Fact]
    public async Task Whatever_comes_in_the_server_goes_on()
    {
        var count = int.Parse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT") ?? "300", CultureInfo.InvariantCulture);
        var seed = int.Parse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_SEED") ?? "1", CultureInfo.InvariantCulture);
        var target = new FakeTarget { OnResumed = t => _ = Task.Run(() => t.Halt(new DebugStop((DebugStopKind)(t.ResumeCount % 4), t.ResumeCount % 2, 0x1000, WatchKind.Write))) };
        var log = new ErrorLog();
        await using var server = new GdbServer(target, ServerAddress.Loopback("-gdb", 0), null, GdbClient.Limits with { Takeover = TimeSpan.FromSeconds(30) }, log);
        for (var i = 0; i < count; i++)
        {
            var random = new Random(seed + i);
            var bytes = Conversation(random, target);
            await using (var client = await GdbClient.ConnectAsync(server))
            {
                var reading = client.IsClosedAsync();
                try
                {
                    await client.SendRawAsync(bytes);
                    client.EndSending();
                }
                catch (IOException)
                {
                    // It has detached in between.
                }

                Assert.True(await reading, $"SHARPVISOR_FUZZ_SEED={seed + i}");
            }

            Assert.True(log.Last is null, $"SHARPVISOR_FUZZ_SEED={seed + i} SHARPVISOR_FUZZ_COUNT=1: {log.Last}");
        }

        await FakeWait.UntilAsync(() => !server.IsAttached);
        await using var good = await GdbClient.ConnectAsync(server);
        Assert.Equal("1", await good.AskAsync("qAttached"));
    }

    private static byte[] Conversation(Random random, FakeTarget target)
    {
        random.NextBytes(target.Memory.AsSpan(0, 0x5000));
        using var bytes = new MemoryStream();
        bytes.Write(GdbClient.Frame("qSupported:swbreak+;hwbreak+"u8.ToArray()));
        for (var packets = random.Next(1, 60); packets > 0; packets--)
        {
            var data = Encoding.Latin1.GetBytes(Seeds[random.Next(Seeds.Length)]);
            for (var changes = random.Next(4); changes > 0 && data.Length > 0; changes--)
            {
                switch (random.Next(5))
                {
                    case 0:
                        data[random.Next(data.Length)] = (byte)random.Next(256);
                        break;
                    case 1:
                        data[random.Next(data.Length)] = (byte)"0123456789abcdef,;:=-#$}"[random.Next(24)];
                        break;
                    case 2:
                        data = data[..random.Next(data.Length)];
                        break;
                    case 3:
                        data = [.. data, .. data[random.Next(data.Length)..]];
                        break;
                    default:
                        var at = random.Next(data.Length);
                        data = [.. data[..at], (byte)"0f,;:"[random.Next(5)], .. data[at..]];
                        break;
                }
            }

            // Not the end of the machine, which is asked for too easily.
            if (data.AsSpan().IndexOfAny((byte)'k', (byte)'K') >= 0)
                continue;
            var packet = GdbClient.Frame(data);
            bytes.Write(packet.AsSpan(0, random.Next(20) == 0 ? random.Next(packet.Length) : packet.Length));
            if (random.Next(10) == 0)
                bytes.Write([(byte)"+-\u0003$#}"[random.Next(6)]]);
        }

        return bytes.ToArray();
    }

    /// <summary>What the server calls an internal error.</summary>
    private sealed class ErrorLog : ILogger
    {
        public string? Last { get; private set; }

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Error;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            if (IsEnabled(logLevel))
                Last = $"{formatter(state, exception)}: {exception}";
        }
    }
}
