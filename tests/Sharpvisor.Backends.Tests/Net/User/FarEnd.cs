using System.Net;
using System.Net.Sockets;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>A listener on the host's loopback.</summary>
internal sealed class FarEnd : IDisposable
{
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);

    public FarEnd()
    {
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(2000);
    }

    /// <summary>Where a guest finds it.</summary>
    public IPEndPoint FromGuest => new(GuestStack.Gateway, ((IPEndPoint)_listener.LocalEndPoint!).Port);

    public static byte[] Bytes(int count, int seed)
    {
        var bytes = new byte[count];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    public static async Task<byte[]> ReadToEndAsync(Socket socket)
    {
        using var stream = new MemoryStream();
        var buffer = new byte[65536];
        for (int count; (count = await socket.ReceiveAsync(buffer)) > 0;)
            stream.Write(buffer, 0, count);
        return stream.ToArray();
    }

    /// <summary>Reads while the guest lives.</summary>
    public static byte[] Read(GuestStack guest, Socket socket, int count)
    {
        var data = new byte[count];
        var task = Task.Run(() =>
        {
            for (var done = 0; done < count;)
            {
                var read = socket.Receive(data, done, count - done, SocketFlags.None);
                Assert.NotEqual(0, read);
                done += read;
            }
        });
        guest.Run(() => task.IsCompleted);
        task.GetAwaiter().GetResult();
        return data;
    }

    public static bool IsAtEnd(GuestStack guest, Socket socket)
    {
        var task = Task.Run(() => socket.Receive(new byte[1]));
        guest.Run(() => task.IsCompleted);
        return task.Result == 0;
    }

    public Socket Accept() => _listener.Accept();

    /// <summary>Sends back all that comes, on so many connections.</summary>
    public async Task EchoAllAsync(int count)
    {
        var echoes = new List<Task>();
        for (var i = 0; i < count; i++)
        {
            var socket = await _listener.AcceptAsync();
            echoes.Add(Task.Run(async () =>
            {
                using (socket)
                {
                    var buffer = new byte[16384];
                    for (int read; (read = await socket.ReceiveAsync(buffer)) > 0;)
                        await socket.SendAsync(buffer.AsMemory(0, read));
                }
            }));
        }

        await Task.WhenAll(echoes);
    }

    public void Dispose() => _listener.Dispose();
}
