using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Virtio;

namespace Sharpvisor;

/// <summary>
/// A machine's memory balloon, for the program that made it: how much memory the guest is to keep, and how it uses it.
/// Any thread may use it. Without a driver in the guest nothing happens.
/// </summary>
public sealed class GuestBalloon
{
    private readonly VirtioBalloon _device;
    private readonly ulong _memorySize;
    private readonly MachineGate _gate;
    private readonly Task<MachineExit> _exit;

    internal GuestBalloon(VirtioBalloon device, ulong memorySize, MachineGate gate, Task<MachineExit> exit)
    {
        (_device, _memorySize, _gate, _exit) = (device, memorySize, gate, exit);
        device.ActualChanged += () => Changed?.Invoke();
    }

    /// <summary><see cref="Actual"/> is about to be another. Raised with the machine's gate held; it must not block.</summary>
    public event Action? Changed;

    /// <summary>Bytes that the guest is to keep, as QEMU's monitor command balloon counts it: all of them at first.</summary>
    public ulong Target => _memorySize - Bytes(d => d.TargetPages);

    /// <summary>Bytes that the guest has left, as its driver says.</summary>
    public ulong Actual => _memorySize - Math.Min(_memorySize, Bytes(d => d.ActualPages));

    /// <summary>Bytes that went back to the host because the guest reported that nobody uses them, each time counted.</summary>
    public ulong Reported => Bytes(d => d.ReportedPages);

    /// <summary>Says how much memory the guest is to keep; it gives the rest to the host, or takes it back, bit by bit.</summary>
    /// <param name="bytes">Up to the size of its RAM; a page of 4 KiB is the unit.</param>
    /// <exception cref="ConfigurationException">More than the machine has.</exception>
    public void SetTarget(ulong bytes)
    {
        if (bytes > _memorySize)
            throw new ConfigurationException($"a balloon can't leave {bytes} bytes: the machine has {_memorySize}; give that or less");
        using (_gate.Enter())
            _device.TargetPages = (uint)((_memorySize - bytes) / VirtioBalloon.PageSize);
    }

    /// <summary>Asks the guest how it uses its memory.</summary>
    /// <exception cref="InvalidOperationException">There is no driver that tells, or it has gone meanwhile, or the machine has ended.</exception>
    public async Task<BalloonStatistics> ReadStatisticsAsync(CancellationToken cancellation = default)
    {
        var answer = new TaskCompletionSource<BalloonStatistics?>(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_gate.Enter())
            _device.RequestStatistics(s => answer.TrySetResult(s));
        await Task.WhenAny(answer.Task, _exit).WaitAsync(cancellation).ConfigureAwait(false);
        if (!answer.Task.IsCompleted)
            throw new InvalidOperationException("the machine has ended");
        return await answer.Task.ConfigureAwait(false)
            ?? throw new InvalidOperationException("no driver of the balloon in the guest tells how memory is used");
    }

    private ulong Bytes(Func<VirtioBalloon, ulong> pages)
    {
        using (_gate.Enter())
            return pages(_device) * VirtioBalloon.PageSize;
    }
}
