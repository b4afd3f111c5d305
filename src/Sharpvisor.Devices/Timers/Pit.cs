// The programmable interval timer of a PC, three channels of an 8254, and the port 61h that gates the third.
// Follows: Intel 8254 data sheet (231164); port 61h of Intel 82371AB (PIIX4) 4.2.6 "NMI Status and Control".
// Leaves out: the sound of the speaker, the NMI sources of port 61h (their status bits read 0). A count that is written
// while mode 3 runs takes effect at the end of the whole cycle instead of the half.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Timers;

/// <summary>The 8254 at ports 40h to 43h and port 61h. Channel 0 interrupts, channel 2 is gated by software.</summary>
public sealed class Pit : ByteWideDevice, IResettable
{
    /// <summary>The input clock, in Hz: a third of the NTSC colour carrier.</summary>
    public const long Hz = 1_193_182;

    private const int RefreshTicks = 18;

    private readonly Clock _clock;
    private readonly IInterruptLine _irq0;
    private readonly ClockTimer _timer;
    private readonly PitChannel[] _channels = [new(), new(), new()];
    private byte _port61;
    private long _notBeforeNs;

    /// <param name="irq0">Driven by the output of channel 0.</param>
    public Pit(Clock clock, IInterruptLine irq0)
    {
        _clock = clock;
        _irq0 = irq0;
        _timer = clock.CreateTimer("pit", OnExpired);
        Port61 = new BytePorts(_ => ReadPort61(), (_, value) => WritePort61(value));
        Reset();
    }

    /// <summary>Port 61h.</summary>
    public IBusDevice Port61 { get; }

    public void Reset()
    {
        foreach (var channel in _channels)
            channel.Reset();
        _channels[2].SetGate(0, false);
        _port61 = 0;
        _timer.Cancel();
        _irq0.Set(false);
    }

    protected override byte ReadByte(uint offset)
    {
        offset &= 3;
        return offset == 3 ? (byte)0xFF : _channels[offset].Read(Now());
    }

    protected override void WriteByte(uint offset, byte value)
    {
        var now = Now();
        offset &= 3;
        if (offset != 3)
        {
            FireIfDue();
            if (_channels[offset].WriteCount(now, value) && offset == 0)
                UpdateChannel0(now);
            return;
        }

        if (value >> 6 == 3)
        {
            ReadBack(now, value);
            return;
        }

        var channel = _channels[value >> 6];
        if ((value & 0x30) == 0)
        {
            channel.LatchCount(now);
            return;
        }

        FireIfDue();
        channel.WriteControl(value);
        if (value >> 6 == 0)
            UpdateChannel0(now);
    }

    private void ReadBack(long now, byte command)
    {
        for (var i = 0; i < _channels.Length; i++)
        {
            if ((command & (2 << i)) == 0)
                continue;
            if ((command & 0x20) == 0)
                _channels[i].LatchCount(now);
            if ((command & 0x10) == 0)
                _channels[i].LatchStatus(now);
        }
    }

    private byte ReadPort61()
    {
        var now = Now();
        var refresh = (now / RefreshTicks & 1) != 0 ? 0x10 : 0;
        var output = _channels[2].Output(now) ? 0x20 : 0;
        return (byte)(_port61 | refresh | output);
    }

    private void WritePort61(byte value)
    {
        _port61 = (byte)(value & 0x0F);
        _channels[2].SetGate(Now(), (value & 1) != 0);
    }

    private long Now() => Frequency.ToTicks(_clock.NowNs, Hz);

    /// <summary>An expiry that the clock has not told yet must not be lost when the channel is set anew.</summary>
    private void FireIfDue()
    {
        if (_timer.DeadlineNs <= _clock.NowNs)
        {
            _timer.Cancel();
            OnExpired();
        }
    }

    private void UpdateChannel0(long now)
    {
        // Programming sets the output; from then on the line shows the rising edges and is high between them.
        _irq0.Set(_channels[0].OutputAfterWrite(now));
        Schedule(now);
    }

    private void Schedule(long now)
    {
        var rise = _channels[0].NextRise(now);
        if (rise < 0)
            _timer.Cancel();
        else
            _timer.Set(Math.Max(Frequency.ToNs(rise, Hz), _notBeforeNs));
    }

    private void OnExpired()
    {
        _irq0.Set(false);
        _irq0.Set(true);
        _notBeforeNs = _clock.NowNs + Frequency.ShortestPeriodNs;
        Schedule(Now());
    }
}
