// A 16550A serial port.
// Follows: National Semiconductor PC16550D data sheet (TL/C/8652), sections 8.0 to 8.8. Clock 1.8432 MHz.
// Transmission is immediate: only the character timeout of the receiver takes the time of the line speed.
// Leaves out: parity and framing errors, which a byte stream has not; the interrupt is gated by OUT2, as on a PC.

using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Serial;

/// <summary>
/// A UART of eight ports with 16-byte FIFOs. No byte is lost in either direction while the guest keeps to the
/// protocol: a backend that takes no more holds "transmitter empty" back, and input waits in the backend.
/// </summary>
public sealed class Uart16550 : ByteWideDevice, ICharFrontend, IResettable
{
    private const int FifoSize = 16;
    private const long ClockHz = 1_843_200;

    // Interrupt enable.
    private const byte IerReceived = 1, IerTransmitterEmpty = 2, IerLineStatus = 4, IerModemStatus = 8;

    // Interrupt identification, by falling priority.
    private const byte IirLineStatus = 6, IirReceived = 4, IirTimeout = 0xC, IirTransmitterEmpty = 2, IirModemStatus = 0, IirNone = 1;

    // FIFO control.
    private const byte FcrEnable = 1, FcrClearReceiver = 2;

    private const byte LcrDlab = 0x80;

    // Modem control.
    private const byte McrDtr = 1, McrRts = 2, McrOut1 = 4, McrOut2 = 8, McrLoopback = 0x10;

    // Line status.
    private const byte LsrDataReady = 1, LsrOverrun = 2, LsrBreak = 0x10, LsrTransmitterEmpty = 0x20, LsrTemt = 0x40, LsrFifoError = 0x80;

    // Modem status.
    private const byte MsrCts = 0x10, MsrDsr = 0x20, MsrRi = 0x40, MsrDcd = 0x80, MsrTrailingRi = 4;

    // A received character has this bit if it is a break.
    private const ushort Break = 0x100;

    private static readonly byte[] TriggerLevels = [1, 4, 8, 14];

    private readonly Clock _clock;
    private readonly IInterruptLine _irq;
    private readonly ICharBackend _backend;
    private readonly ClockTimer _timeoutTimer;
    private readonly ushort[] _receive = new ushort[FifoSize];
    private readonly byte[] _transmit = new byte[FifoSize];
    private int _receiveHead, _receiveCount, _transmitCount;
    private byte _ier, _fcr, _lcr, _mcr, _msr, _scratch, _errors;
    private ushort _divisor;
    private bool _transmitterEmptyPending, _timeoutPending;

    /// <param name="irq">The port's interrupt: IRQ 4 for COM1.</param>
    /// <param name="backend">Where the line leads; the UART attaches itself.</param>
    public Uart16550(Clock clock, IInterruptLine irq, ICharBackend backend, MachineGate gate)
    {
        _clock = clock;
        _irq = irq;
        _backend = backend;
        _timeoutTimer = clock.CreateTimer("uart", OnCharacterTimeout);
        Reset();
        backend.Attach(this, gate);
    }

    public int ReceiveCapacity => IsLoopback ? 0 : ReceiveLimit - _receiveCount;

    private bool FifosEnabled => (_fcr & FcrEnable) != 0;

    private bool IsLoopback => (_mcr & McrLoopback) != 0;

    private int ReceiveLimit => FifosEnabled ? FifoSize : 1;

    private int TransmitLimit => FifosEnabled ? FifoSize : 1;

    public void Reset()
    {
        var wasFull = ReceiveCapacity == 0;
        _ier = _fcr = _lcr = _mcr = _scratch = _errors = 0;
        _divisor = 12; // 9600 baud
        _receiveHead = _receiveCount = 0;
        _transmitterEmptyPending = _timeoutPending = false;
        _msr = ModemLines();
        _timeoutTimer.Cancel();
        UpdateInterrupt();
        if (wasFull)
            _backend.OnReceiveReady();
    }

    public void Receive(ReadOnlySpan<byte> data)
    {
        foreach (var value in data)
            Push(value);
        OnReceived();
    }

    public void OnBreak()
    {
        if (ReceiveCapacity > 0)
            Push(Break);
        OnReceived();
    }

    public void OnWritable()
    {
        if (_transmitCount == 0)
            return;
        var taken = Math.Clamp(_backend.Write(_transmit.AsSpan(0, _transmitCount)), 0, _transmitCount);
        _transmit.AsSpan(taken, _transmitCount - taken).CopyTo(_transmit);
        _transmitCount -= taken;
        if (_transmitCount == 0)
        {
            _transmitterEmptyPending = true;
            UpdateInterrupt();
        }
    }

    protected override byte ReadByte(uint offset)
    {
        switch (offset & 7)
        {
            case 0:
                return (_lcr & LcrDlab) != 0 ? (byte)_divisor : ReadReceiver();
            case 1:
                return (_lcr & LcrDlab) != 0 ? (byte)(_divisor >> 8) : _ier;
            case 2:
                return ReadInterruptIdentification();
            case 3:
                return _lcr;
            case 4:
                return _mcr;
            case 5:
                return ReadLineStatus();
            case 6:
                var msr = _msr;
                _msr &= 0xF0;
                UpdateInterrupt();
                return msr;
            default:
                return _scratch;
        }
    }

    protected override void WriteByte(uint offset, byte value)
    {
        switch (offset & 7)
        {
            case 0 when (_lcr & LcrDlab) != 0:
                _divisor = (ushort)((_divisor & 0xFF00) | value);
                break;
            case 0:
                Transmit(value);
                break;
            case 1 when (_lcr & LcrDlab) != 0:
                _divisor = (ushort)((_divisor & 0xFF) | (value << 8));
                break;
            case 1:
                // Enabling the interrupt of an empty transmitter raises it at once.
                if ((value & ~_ier & IerTransmitterEmpty) != 0 && _transmitCount == 0)
                    _transmitterEmptyPending = true;
                _ier = (byte)(value & 0x0F);
                UpdateInterrupt();
                break;
            case 2:
                WriteFifoControl(value);
                break;
            case 3:
                _lcr = value;
                break;
            case 4:
                WriteModemControl((byte)(value & 0x1F));
                break;
            case 7:
                _scratch = value;
                break;
        }
    }

    private void Transmit(byte value)
    {
        // The request must fall in between: interrupt controllers take the next one by its edge.
        if (_transmitterEmptyPending)
        {
            _transmitterEmptyPending = false;
            UpdateInterrupt();
        }

        if (IsLoopback)
        {
            if (_receiveCount >= ReceiveLimit)
                _errors |= LsrOverrun;
            else
                Push(value);
            OnReceived();
        }
        else if (_transmitCount != 0 || _backend.Write(new ReadOnlySpan<byte>(in value)) < 1)
        {
            // A guest that writes without asking for room overruns its own FIFO.
            if (_transmitCount < TransmitLimit)
                _transmit[_transmitCount++] = value;
            return;
        }

        _transmitterEmptyPending = true;
        UpdateInterrupt();
    }

    private void Push(ushort character)
    {
        if (_receiveCount >= FifoSize)
            return;
        _receive[(_receiveHead + _receiveCount) % FifoSize] = character;
        _receiveCount++;
    }

    private void OnReceived()
    {
        NoteHeadOfFifo();
        RestartTimeout();
        UpdateInterrupt();
    }

    private byte ReadReceiver()
    {
        if (_receiveCount == 0)
            return 0;
        var wasFull = _receiveCount >= ReceiveLimit;
        var value = (byte)_receive[_receiveHead];
        _receiveHead = (_receiveHead + 1) % FifoSize;
        _receiveCount--;
        NoteHeadOfFifo();
        RestartTimeout();
        UpdateInterrupt();
        if (wasFull && !IsLoopback)
            _backend.OnReceiveReady();
        return value;
    }

    /// <summary>The line status shows a break when its character has come to the head of the FIFO.</summary>
    private void NoteHeadOfFifo()
    {
        if (_receiveCount == 0 || (_receive[_receiveHead] & Break) == 0)
            return;
        _receive[_receiveHead] &= 0xFF;
        _errors |= LsrBreak;
    }

    private void RestartTimeout()
    {
        _timeoutPending = false;
        if (!FifosEnabled || _receiveCount == 0 || _receiveCount >= TriggerLevel)
        {
            _timeoutTimer.Cancel();
            return;
        }

        // Four characters of start, data, parity and stop bits at sixteen clocks a bit.
        var bits = 1 + 5 + (_lcr & 3) + ((_lcr >> 3) & 1) + 1 + ((_lcr >> 2) & 1);
        var clocks = 4L * bits * 16 * Math.Max((ushort)1, _divisor);
        _timeoutTimer.Set(_clock.NowNs + (clocks * 1_000_000_000 / ClockHz));
    }

    private void OnCharacterTimeout()
    {
        _timeoutPending = _receiveCount != 0;
        UpdateInterrupt();
    }

    private int TriggerLevel => FifosEnabled ? TriggerLevels[_fcr >> 6] : 1;

    private byte ReadLineStatus()
    {
        var status = _errors;
        if (_receiveCount != 0)
            status |= LsrDataReady;
        if (_transmitCount == 0)
            status |= LsrTransmitterEmpty | LsrTemt;
        if (FifosEnabled && HasBreakInFifo())
            status |= LsrFifoError;
        _errors = 0;
        UpdateInterrupt();
        return status;
    }

    private bool HasBreakInFifo()
    {
        if ((_errors & LsrBreak) != 0)
            return true;
        for (var i = 0; i < _receiveCount; i++)
        {
            if ((_receive[(_receiveHead + i) % FifoSize] & Break) != 0)
                return true;
        }

        return false;
    }

    private byte ReadInterruptIdentification()
    {
        var source = PendingInterrupt();
        if (source == IirTransmitterEmpty)
        {
            _transmitterEmptyPending = false;
            UpdateInterrupt();
        }

        return (byte)(source | (FifosEnabled ? 0xC0 : 0));
    }

    private void WriteFifoControl(byte value)
    {
        // Clearing the transmitter drops nothing: what waits for the host has left the UART as the guest sees it.
        var wasFull = ReceiveCapacity == 0;
        if (((value ^ _fcr) & FcrEnable) != 0 || ((value & FcrEnable) != 0 && (value & FcrClearReceiver) != 0))
            _receiveHead = _receiveCount = 0;
        _fcr = (value & FcrEnable) != 0 ? (byte)(value & 0xC9) : (byte)0;
        RestartTimeout();
        UpdateInterrupt();
        if (wasFull && ReceiveCapacity > 0)
            _backend.OnReceiveReady();
    }

    private void WriteModemControl(byte value)
    {
        var leavesLoopback = IsLoopback && (value & McrLoopback) == 0;
        _mcr = value;
        var lines = ModemLines();
        var changed = (lines ^ _msr) & 0xF0;
        var deltas = changed >> 4;
        if ((changed & MsrRi) != 0 && (lines & MsrRi) != 0)
            deltas &= ~MsrTrailingRi; // only the end of a ring is told
        _msr = (byte)(lines | (_msr & 0x0F) | deltas);
        UpdateInterrupt();
        if (leavesLoopback && ReceiveCapacity > 0)
            _backend.OnReceiveReady();
    }

    /// <summary>The modem's lines: the other end is always ready; in loopback the port's own outputs.</summary>
    private byte ModemLines()
    {
        if (!IsLoopback)
            return MsrCts | MsrDsr | MsrDcd;
        return (byte)(((_mcr & McrRts) != 0 ? MsrCts : 0) | ((_mcr & McrDtr) != 0 ? MsrDsr : 0)
            | ((_mcr & McrOut1) != 0 ? MsrRi : 0) | ((_mcr & McrOut2) != 0 ? MsrDcd : 0));
    }

    private byte PendingInterrupt()
    {
        if ((_ier & IerLineStatus) != 0 && _errors != 0)
            return IirLineStatus;
        if ((_ier & IerReceived) != 0 && _receiveCount >= TriggerLevel)
            return IirReceived;
        if ((_ier & IerReceived) != 0 && _timeoutPending)
            return IirTimeout;
        if ((_ier & IerTransmitterEmpty) != 0 && _transmitterEmptyPending)
            return IirTransmitterEmpty;
        if ((_ier & IerModemStatus) != 0 && (_msr & 0x0F) != 0)
            return IirModemStatus;
        return IirNone;
    }

    private void UpdateInterrupt() => _irq.Set((_mcr & McrOut2) != 0 && PendingInterrupt() != IirNone);
}
