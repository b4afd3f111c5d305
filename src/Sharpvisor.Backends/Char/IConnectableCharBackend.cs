namespace Sharpvisor.Backends.Char;

/// <summary>A backend that may want to wait for its other side before the machine starts.</summary>
public interface IConnectableCharBackend
{
    /// <summary>Completes at once when nothing needs to be waited for. Call it after the backend is attached.</summary>
    Task WaitForPeerAsync(CancellationToken cancellation);
}
