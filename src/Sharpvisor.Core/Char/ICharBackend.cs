namespace Sharpvisor.Core.Char;

/// <summary>The host end of a character device: a terminal, a file, a socket, a pseudo terminal.</summary>
public interface ICharBackend : IAsyncDisposable
{
    /// <summary>For messages: "stdio", "file:/tmp/x", "pty:/dev/pts/3".</summary>
    string Name { get; }

    /// <summary>Connects the device. Called once, before the machine starts; input is delivered with the gate held.</summary>
    void Attach(ICharFrontend frontend, MachineGate gate);

    /// <summary>
    /// Takes bytes from the guest without blocking and returns how many it took; fewer than given while the host is
    /// slow. <see cref="ICharFrontend.OnWritable"/> follows then. Called with the gate held.
    /// </summary>
    int Write(ReadOnlySpan<byte> data);

    /// <summary>The device has room again after a <see cref="ICharFrontend.ReceiveCapacity"/> of zero. Called with the gate held.</summary>
    void OnReceiveReady();
}

/// <summary>The guest end of a character device: a UART, a console port.</summary>
/// <remarks>The backend holds the machine's gate around each call.</remarks>
public interface ICharFrontend
{
    /// <summary>How many bytes <see cref="Receive"/> may be given now.</summary>
    int ReceiveCapacity { get; }

    void Receive(ReadOnlySpan<byte> data);

    /// <summary>The backend takes bytes again.</summary>
    void OnWritable();

    /// <summary>The line was broken on purpose (a serial break).</summary>
    void OnBreak();

    /// <summary>What is typed on a terminal that several share goes here from now on, or no longer.</summary>
    void OnFocus(bool isHere)
    {
    }

    /// <summary>Who was at the other end has gone, and all that came from there was given; somebody else may come.</summary>
    void OnHangUp()
    {
    }
}
