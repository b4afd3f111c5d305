using System.Net;
using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Char;
using Sharpvisor.Core;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Char;

public sealed class BackendTests
{
    private readonly MachineGate _gate = new();
    private readonly FakeFrontend _device = new();

    [Fact]
    public async Task A_file_holds_everything_when_its_backend_is_gone()
    {
        var path = Path.GetTempFileName();
        var backend = new FileCharBackend(path, NullLogger.Instance);
        backend.Attach(_device, _gate);
        var sent = new byte[300_000];
        new Random(1).NextBytes(sent);
        await WriteAllAsync(backend, sent);
        await backend.DisposeAsync();
        Assert.Equal(sent, await File.ReadAllBytesAsync(path));
        File.Delete(path);
    }

    [Theory]
    [InlineData("/nonexistent/x", "file:/nonexistent/x: cannot be written: no such directory; give another path")]
    [InlineData("/tmp", "file:/tmp: cannot be written: is a directory; give another path")]
    public void A_file_that_cannot_be_written_is_refused(string path, string message) =>
        Assert.Equal(message, Assert.Throws<ConfigurationException>(() => new FileCharBackend(path, NullLogger.Instance)).Message);

    [Fact]
    public async Task A_full_disk_is_reported_and_the_guest_goes_on()
    {
        if (!File.Exists("/dev/full"))
            return;
        var log = new ListLogger();
        var backend = new FileCharBackend("/dev/full", log);
        backend.Attach(_device, _gate);
        await WriteAllAsync(backend, new byte[200_000]);
        await backend.DisposeAsync();
        Assert.Contains("the guest's output is lost until there is room", Assert.Single(log.Lines), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_slow_host_makes_the_device_wait_and_wakes_it_up_again()
    {
        var backend = new BlockedBackend();
        backend.Attach(_device, _gate);
        var taken = 0;
        using (_gate.Enter())
        {
            for (var i = 0; i < 100; i++)
                taken += backend.Write(new byte[4096]);
        }

        Assert.InRange(taken, 4096, 99 * 4096);
        Assert.Equal(0, _device.Writable);
        backend.Open.Set();
        await _device.UntilAsync(() => _device.Writable > 0);
        await backend.DisposeAsync();
        Assert.Equal(taken, backend.Written);
    }

    [Fact]
    public async Task Input_waits_for_room_in_the_device()
    {
        await using var server = SocketCharBackend.Tcp("127.0.0.1", 0, server: true, wait: true, NullLogger.Instance);
        _device.ReceiveCapacity = 3;
        server.Attach(_device, _gate);
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, server.LocalPort);
        await client.GetStream().WriteAsync("hello"u8.ToArray());
        await _device.UntilAsync(() => _device.Received.Length == 3);
        using (_gate.Enter())
        {
            _device.ReceiveCapacity = 10;
            server.OnReceiveReady();
        }

        await _device.UntilAsync(() => _device.Received.Length == 5);
        Assert.Equal("hello"u8.ToArray(), _device.Received);
    }

    [Fact]
    public async Task A_tcp_server_waits_for_its_client_and_takes_the_next_one()
    {
        var log = new ListLogger();
        await using var server = SocketCharBackend.Tcp("127.0.0.1", 0, server: true, wait: true, log);
        server.Attach(_device, _gate);
        var waiting = server.WaitForPeerAsync(CancellationToken.None);
        Assert.False(waiting.IsCompleted);
        for (var i = 0; i < 2; i++)
        {
            using var client = new TcpClient();
            await client.ConnectAsync(IPAddress.Loopback, server.LocalPort);
            await client.GetStream().WriteAsync(new byte[] { (byte)i });
            await _device.UntilAsync(() => _device.Received.Length == i + 1); // the server has this client now
            await waiting;
            server.Write("out"u8);
            var answer = new byte[3];
            await client.GetStream().ReadExactlyAsync(answer);
            Assert.Equal("out"u8.ToArray(), answer);
        }
    }

    [Fact]
    public void A_tcp_client_needs_a_listener()
    {
        using var taken = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        taken.Bind(new IPEndPoint(IPAddress.Loopback, 0)); // bound, not listening
        var port = ((IPEndPoint)taken.LocalEndPoint!).Port;
        var error = Assert.Throws<ConfigurationException>(() => SocketCharBackend.Tcp("127.0.0.1", port, server: false, wait: false, NullLogger.Instance));
        Assert.EndsWith("; start the listener first, or add ,server=on", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_pty_may_be_opened_twice_and_drops_output_in_between()
    {
        await using var pty = new PtyCharBackend(NullLogger.Instance);
        pty.Attach(_device, _gate);
        await WriteAllAsync(pty, new byte[200_000]); // more than any buffer: nobody is there
        for (var i = 0; i < 2; i++)
        {
            using var terminal = new FileStream(pty.Path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
            terminal.Write([(byte)'k']);
            await _device.UntilAsync(() => _device.Received.Length == i + 1);
            pty.Write("hi"u8);
            var answer = new byte[2];
            await Task.Run(() => terminal.ReadExactly(answer)).WaitAsync(TimeSpan.FromSeconds(10));
            Assert.Equal("hi"u8.ToArray(), answer);
        }
    }

    [Fact]
    public async Task A_pty_that_nobody_reads_does_not_keep_the_machine_from_ending()
    {
        var pty = new PtyCharBackend(NullLogger.Instance);
        pty.Attach(_device, _gate);
        using var terminal = new FileStream(pty.Path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
        for (var i = 0; i < 50; i++)
            pty.Write(new byte[4096]);
        await pty.DisposeAsync().AsTask().WaitAsync(TimeSpan.FromSeconds(10));
    }

    [Fact]
    public async Task Expect_finds_text_once_and_across_writes()
    {
        await using var line = new MemoryCharBackend();
        line.Attach(_device, _gate);
        var first = line.ExpectAsync("login:");
        line.Write("Debian 12\nlog"u8);
        Assert.False(first.IsCompleted);
        line.Write("in: login: rest"u8);
        Assert.Equal("Debian 12\nlogin:", await first);
        Assert.Equal(" login:", await line.ExpectAsync("login:"));
        var third = line.ExpectAsync("login:");
        Assert.False(third.IsCompleted);
        line.End("the guest powered off");
        var error = await Assert.ThrowsAsync<EndOfStreamException>(() => third);
        Assert.Equal("the guest powered off before \"login:\" appeared; last output: Debian 12\nlogin: login: rest", error.Message);
    }

    [Fact]
    public async Task Expect_can_be_cancelled_and_used_again()
    {
        await using var line = new MemoryCharBackend();
        using var cancel = new CancellationTokenSource();
        var waiting = line.ExpectAsync("x", cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
        line.Write("abcx"u8);
        Assert.Equal("abcx", await line.ExpectAsync("x"));
    }

    [Fact]
    public async Task Typed_lines_reach_the_device_as_it_has_room()
    {
        await using var line = new MemoryCharBackend();
        line.Attach(_device, _gate);
        _device.ReceiveCapacity = 2;
        await line.WriteLineAsync("root");
        Assert.Equal("ro"u8.ToArray(), _device.Received);
        _device.ReceiveCapacity = 100;
        line.OnReceiveReady();
        Assert.Equal("root\r"u8.ToArray(), _device.Received);
    }

    [Fact]
    public async Task A_line_remembers_megabytes_and_no_more()
    {
        await using var line = new MemoryCharBackend();
        for (var i = 0; i < 3000; i++)
            line.Write(Encoding.ASCII.GetBytes(new string('x', 4096)));
        line.Write("end"u8);
        Assert.InRange(line.Output.Length, 1 << 20, 4 << 20);
        Assert.EndsWith("end", await line.ExpectAsync("end"), StringComparison.Ordinal);
    }

    private async Task WriteAllAsync(ICharBackend backend, byte[] data)
    {
        for (var done = 0; done < data.Length;)
        {
            int taken;
            var before = _device.Writable;
            using (_gate.Enter())
                taken = backend.Write(data.AsSpan(done));
            done += taken;
            if (done < data.Length)
                await _device.UntilAsync(() => _device.Writable > before);
        }
    }

    private sealed class BlockedBackend() : ThreadedCharBackend("blocked", NullLogger.Instance)
    {
        public ManualResetEventSlim Open { get; } = new(false);

        public int Written { get; private set; }

        protected override bool HasInput => false;

        protected override void WriteToHost(ReadOnlySpan<byte> data)
        {
            Open.Wait();
            Written += data.Length;
        }

        protected override void StopHost() => Open.Set();

        protected override void CloseHost() => Open.Dispose();
    }
}
