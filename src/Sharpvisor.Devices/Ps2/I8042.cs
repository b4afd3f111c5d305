// The keyboard controller of a PC with its two ports.
// Follows: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; Intel 8242
// data sheet. What is sent to a missing keyboard or mouse times out: the answer 0xFE with the timeout bit.
// Leaves out: passwords; parity errors; the A20 gate is a bit without effect, for A20 is always on.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Ps2;

/// <summary>An 8042 at ports 60h (data) and 64h (status and command); command FEh resets the machine.</summary>
public sealed class I8042 : IResettable
{
    // Status register.
    private const byte OutputFull = 1, SystemFlag = 4, CommandData = 8, Unlocked = 0x10, AuxiliaryFull = 0x20, Timeout = 0x40;

    // Configuration byte.
    private const byte KeyboardInterrupt = 1, AuxiliaryInterrupt = 2, ConfigSystemFlag = 4, KeyboardDisabled = 0x10, AuxiliaryDisabled = 0x20, Translate = 0x40;

    // Output port.
    private const byte NotReset = 1, A20 = 2, KeyboardFull = 0x10, AuxiliaryBufferFull = 0x20;

    private const byte Resend = 0xFE;

    // How long a device takes for a byte. Real ones take 0.7 ms and more; what counts is that a second read in one
    // interrupt handler still sees the first byte, and that bytes don't wait for the guest to look.
    private const long ByteNs = 200_000;

    private readonly IInterruptLine _irq1, _irq12;
    private readonly IMachineControl _machine;
    private readonly Ps2Device? _keyboard, _mouse;
    private readonly ClockTimer _transfer;
    private readonly Clock _clock;
    private readonly byte[] _ram = new byte[32];
    private byte _status, _output, _outputPort;
    private byte _pendingCommand;
    private bool _isReleased;
    private (byte Value, byte Status)? _reply;

    /// <param name="irq1">Keyboard data in the output buffer.</param>
    /// <param name="irq12">Auxiliary (mouse) data in the output buffer.</param>
    /// <param name="keyboard">At the first port; null: nothing.</param>
    /// <param name="mouse">At the second port; null: nothing.</param>
    public I8042(IInterruptLine irq1, IInterruptLine irq12, IMachineControl machine, Clock clock, Ps2Device? keyboard = null, Ps2Device? mouse = null)
    {
        _irq1 = irq1;
        _irq12 = irq12;
        _machine = machine;
        _clock = clock;
        _keyboard = keyboard;
        _mouse = mouse;
        _transfer = clock.CreateTimer("i8042", OnByteTransferred);
        if (keyboard is not null)
            keyboard.OutputReady = StartTransfer;
        if (mouse is not null)
            mouse.OutputReady = StartTransfer;
        DataPort = new BytePorts(_ => ReadData(), (_, value) => WriteData(value));
        CommandPort = new BytePorts(_ => _status, (_, value) => WriteCommand(value));
        Reset();
    }

    /// <summary>Port 60h.</summary>
    public IBusDevice DataPort { get; }

    /// <summary>Port 64h.</summary>
    public IBusDevice CommandPort { get; }

    private byte Config
    {
        get => _ram[0];
        set
        {
            _ram[0] = value;
            _status = (byte)((_status & ~SystemFlag) | (value & ConfigSystemFlag));
            UpdateLines();
            StartTransfer();
        }
    }

    public void Reset()
    {
        Array.Clear(_ram);
        _transfer.Cancel();
        _keyboard?.Reset();
        _mouse?.Reset();
        _status = Unlocked;
        _output = 0;
        _reply = null;
        _isReleased = false;
        _pendingCommand = 0;
        _outputPort = NotReset | A20;
        // As firmware leaves it: self-test passed, both interrupts on, scan codes translated to set 1.
        Config = KeyboardInterrupt | AuxiliaryInterrupt | ConfigSystemFlag | Translate;
    }

    private byte ReadData()
    {
        var value = _output;
        _status &= unchecked((byte)~(OutputFull | AuxiliaryFull | Timeout));
        UpdateLines();
        if (_reply is { } reply)
        {
            _reply = null;
            Fill(reply.Value, reply.Status);
        }
        else
        {
            StartTransfer();
        }

        return value;
    }

    private void WriteCommand(byte command)
    {
        _status |= CommandData;
        _pendingCommand = 0;
        switch (command)
        {
            case >= 0x20 and <= 0x3F:
                Put(_ram[command & 0x1F]);
                break;
            case (>= 0x60 and <= 0x7F) or 0xD1 or 0xD2 or 0xD3 or 0xD4:
                _pendingCommand = command; // the parameter follows at the data port
                break;
            case 0xA7:
                Config |= AuxiliaryDisabled;
                break;
            case 0xA8:
                Config &= unchecked((byte)~AuxiliaryDisabled);
                break;
            case 0xA9 or 0xAB: // interface tests: clock and data lines are fine
                Put(0x00);
                break;
            case 0xAA:
                Config |= ConfigSystemFlag;
                Put(0x55);
                break;
            case 0xAD:
                Config |= KeyboardDisabled;
                break;
            case 0xAE:
                Config &= unchecked((byte)~KeyboardDisabled);
                break;
            case 0xC0: // input port: keyboard not inhibited, manufacturing jumper not set
                Put(0xA0);
                break;
            case 0xD0:
                Put((byte)(_outputPort | BuffersFull()));
                break;
            case 0xDD or 0xDF:
                _outputPort = (byte)((_outputPort & ~A20) | (command & A20));
                break;
            case >= 0xF0:
                if ((command & NotReset) == 0)
                    _machine.RequestReset("i8042");
                break;
        }
    }

    private void WriteData(byte value)
    {
        _status &= unchecked((byte)~CommandData);
        var command = _pendingCommand;
        _pendingCommand = 0;
        switch (command)
        {
            case 0x60:
                Config = value;
                break;
            case > 0x60 and <= 0x7F:
                _ram[command & 0x1F] = value;
                break;
            case 0xD1:
                _outputPort = (byte)(value & ~(KeyboardFull | AuxiliaryBufferFull));
                if ((value & NotReset) == 0)
                    _machine.RequestReset("i8042");
                break;
            case 0xD2:
                Put(value);
                break;
            case 0xD3:
                Put(value, AuxiliaryFull);
                break;
            case 0xD4:
                Config &= unchecked((byte)~AuxiliaryDisabled); // sending a byte turns the device's clock on
                Send(_mouse, value, AuxiliaryFull);
                break;
            default:
                Config &= unchecked((byte)~KeyboardDisabled);
                Send(_keyboard, value, 0);
                break;
        }
    }

    private int BuffersFull() => (_status & OutputFull) == 0 ? 0 : (_status & AuxiliaryFull) == 0 ? KeyboardFull : AuxiliaryBufferFull;

    private void Send(Ps2Device? device, byte value, byte status)
    {
        if (device is null)
            Put(Resend, (byte)(status | Timeout));
        else
            device.Receive(value);
    }

    /// <summary>Takes the next byte of a device after the time that it takes to send it. While the output buffer is full the devices wait.</summary>
    private void StartTransfer()
    {
        if ((_status & OutputFull) == 0 && !_transfer.IsSet && Sender() is not null)
            _transfer.Set(_clock.NowNs + ByteNs);
    }

    private Ps2Device? Sender()
    {
        if (_keyboard is { HasOutput: true } && (Config & KeyboardDisabled) == 0)
            return _keyboard;
        return _mouse is { HasOutput: true } && (Config & AuxiliaryDisabled) == 0 ? _mouse : null;
    }

    private void OnByteTransferred()
    {
        if ((_status & OutputFull) != 0 || Sender() is not { } sender)
            return;
        var value = sender.Take();
        if (sender == _mouse)
        {
            Fill(value, AuxiliaryFull);
        }
        else if ((Config & Translate) == 0)
        {
            _isReleased = false;
            Fill(value, 0);
        }
        else if (value == ScanCodes.Release)
        {
            _isReleased = true; // becomes bit 7 of the next byte
            StartTransfer();
        }
        else
        {
            var translated = ScanCodes.Translate(value);
            Fill((byte)(_isReleased ? translated | 0x80 : translated), 0);
            _isReleased = false;
        }
    }

    /// <summary>The controller's own answer: it goes before what devices send, but not over a byte that the guest has not read.</summary>
    private void Put(byte value, byte status = 0)
    {
        if ((_status & OutputFull) != 0)
            _reply = (value, status);
        else
            Fill(value, status);
    }

    private void Fill(byte value, byte status)
    {
        _output = value;
        _status = (byte)((_status & ~(AuxiliaryFull | Timeout)) | OutputFull | status);
        UpdateLines();
    }

    private void UpdateLines()
    {
        var full = (_status & OutputFull) != 0;
        var auxiliary = (_status & AuxiliaryFull) != 0;
        _irq1.Set(full && !auxiliary && (Config & KeyboardInterrupt) != 0);
        _irq12.Set(full && auxiliary && (Config & AuxiliaryInterrupt) != 0);
    }
}
