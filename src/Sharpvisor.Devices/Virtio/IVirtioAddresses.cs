namespace Sharpvisor.Devices.Virtio;

/// <summary>
/// Where the addresses lie that a driver writes into rings, on a transport where they are no guest-physical ones. Used with
/// the machine's gate held.
/// </summary>
public interface IVirtioAddresses
{
    /// <summary>Takes memory in use for the device.</summary>
    /// <param name="length">Bytes, 1 or more; afterwards as many as there are in one piece, which may be less.</param>
    /// <param name="guestPhysical">Where it is; not checked to be memory.</param>
    /// <param name="use">To be given to <see cref="Release"/>; 0: there is nothing to release.</param>
    /// <returns>False: the driver has not allowed it.</returns>
    bool TryAcquire(ulong address, bool isWritable, ref int length, out ulong guestPhysical, out ulong use);

    /// <summary>Ends a use. What has ended with a reset of the device is ignored.</summary>
    void Release(ulong use);
}
