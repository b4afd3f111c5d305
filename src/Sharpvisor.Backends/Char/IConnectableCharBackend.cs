// A serial line whose other side comes later: tcp:…,server=on,wait=on as qemu(1) describes it.
namespace Sharpvisor.Backends.Char;

/// <summary>A backend that may want to wait for its other side before the machine starts.</summary>
public interface IConnectableCharBackend
{
    /// <summary>Completes at once when nothing needs to be waited for. Call it after the backend is attached.</summary>
    Task WaitForPeerAsync(CancellationToken cancellation);
}
